"""TensorFlow Serving's REST predict API, as a model sees it: JSON body -> signature -> JSON answer.

After https://www.tensorflow.org/tfx/serving/api_rest: ``instances`` (row format, a list) or ``inputs`` (columns); an
object whose only key is ``b64`` stands for bytes; names may be omitted if a signature has one input; output names
that end in ``_bytes`` are base64.
"""

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

PAGE = Path(__file__).resolve().parents[2] / "docs/serving.md"


def documented_section() -> str:
    """Return the documentation's section about serving."""
    return re.search(r"\n### Serve\n(.*?)\n### ", PAGE.read_text(), re.DOTALL)[1]


def documented_body(image: Path) -> str:
    """Return the body that the documentation's shell line makes from an image."""
    line = re.search(r"^(echo '.*) \|$", documented_section(), re.MULTILINE)[1]
    assert "photo.jpg" in line
    command = ["bash", "-c", line.replace("photo.jpg", '"$1"'), "bash", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def predict(model: Any, body: str) -> dict[str, Any]:
    """Answer a body of ``POST /v1/models/NAME:predict`` with a loaded SavedModel."""
    request = json.loads(body)
    signature = model.signatures[request.pop("signature_name", "serving_default")]
    specs = signature.structured_input_signature[1]
    (form,) = request  # Either instances or inputs, and nothing else.
    columns = _columns(request[form]) if form == "instances" else request["inputs"]
    if not isinstance(columns, dict) or _is_binary(columns):
        (name,) = specs
        columns = {name: columns}
    assert columns.keys() == specs.keys(), "the server refuses other names"
    arguments = {name: tf.constant(_decode(value), specs[name].dtype) for name, value in columns.items()}
    outputs = {name: _encode(name, value.numpy()) for name, value in signature(**arguments).items()}
    answer: Any = outputs if len(outputs) > 1 else next(iter(outputs.values()))
    if form == "instances":
        rows = zip(*outputs.values(), strict=True)
        predictions = [dict(zip(outputs, row, strict=True)) for row in rows] if len(outputs) > 1 else answer
        return json.loads(json.dumps({"predictions": predictions}))
    return json.loads(json.dumps({"outputs": answer}))


def _columns(instances: list[Any]) -> Any:
    """Return rows as columns: by name if each row is an object of inputs."""
    if all(isinstance(row, dict) and not _is_binary(row) for row in instances):
        return {name: [row[name] for row in instances] for name in instances[0]}
    return instances


def _is_binary(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _decode(value: Any) -> Any:
    if _is_binary(value):
        return base64.b64decode(value["b64"], validate=True)
    return [_decode(entry) for entry in value] if isinstance(value, list) else value


def _encode(name: str, value: np.ndarray) -> Any:
    def plain(entry: Any) -> Any:
        if isinstance(entry, list):
            return [plain(item) for item in entry]
        if isinstance(entry, bytes):
            return {"b64": base64.b64encode(entry).decode()} if name.endswith("_bytes") else entry.decode()
        return entry

    return plain(value.tolist())
