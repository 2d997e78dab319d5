"""TensorFlow Serving's REST API: bodies of requests in, the model's signatures and answers out.

After https://www.tensorflow.org/tfx/serving/api_rest: ``instances`` (rows) or ``inputs`` (columns); an object whose
only key is ``b64`` stands for bytes; the name may be omitted where a signature has one input.
Knows no web framework.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.core.job_dir import MODEL_FILE
from trainer.core.storage import files
from trainer.server.refusal import Refusal
from trainer.server.scorer import EXPLAINED, PIXELS, PLAIN, Answer
from trainer.serving.exported_model import ExportedModel

# Each signature's input, and the kind of its batches.
_SIGNATURES = {
    "serving_default": ("image_bytes", PLAIN),
    "explain": ("image_bytes", EXPLAINED),
    "serve_images": ("images", PIXELS),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A parsed body.

    Attributes:
        kind: of its batches (``scorer.py``); of pixels with their shape, as only equal shapes form a batch.
        images: encoded images, or ``[H, W, 3]`` uint8.
        in_rows: whether the answer is in rows (predictions) or columns (outputs).
    """

    kind: str
    images: Sequence[Any]
    in_rows: bool


def parse(body: bytes, signatures: Mapping[str, Any]) -> Request:
    """Return what a body of ``:predict`` asks for.

    Raises:
        Refusal: if it is not of the API's form, or the model lacks the signature.
    """
    try:
        form = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"expected JSON, received {str(error)[:100]}") from error
    if not isinstance(form, dict) or len(form.keys() & {"instances", "inputs"}) != 1:
        raise Refusal(400, 'expected an object with either "instances" or "inputs"')
    if unknown := form.keys() - {"instances", "inputs", "signature_name"}:
        raise Refusal(400, f"expected instances, inputs and signature_name alone, received {sorted(unknown)[0][:50]!r}")
    name = form.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in signatures or name not in _SIGNATURES:
        raise Refusal(400, f"expected a signature_name of {', '.join(sorted(signatures))}, received {str(name)[:50]!r}")
    column, kind = _SIGNATURES[name]
    in_rows = "instances" in form
    values = _rows(form["instances"], column) if in_rows else _column(form["inputs"], column)
    if kind != PIXELS:
        return Request(kind, [_bytes(value) for value in values], in_rows)
    images = _pixels(values)
    return Request(f"{PIXELS} {images[0].shape}", images, in_rows)


def _rows(instances: Any, column: str) -> list[Any]:
    if not isinstance(instances, list) or not instances:
        raise Refusal(400, 'expected a list of "instances", received none')
    return [_named(row, column) if _is_object(row) else row for row in instances]


def _column(inputs: Any, column: str) -> list[Any]:
    values = _named(inputs, column) if _is_object(inputs) else inputs
    if not isinstance(values, list) or not values:
        raise Refusal(400, 'expected a list of "inputs", received none')
    return values


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() != {"b64"}


def _named(row: dict[str, Any], column: str) -> Any:
    if row.keys() != {column}:
        raise Refusal(400, f"expected {column!r} as the one input, received {', '.join(row)[:100] or 'none'}")
    return row[column]


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (TypeError, KeyError, binascii.Error, ValueError) as error:
        raise Refusal(400, 'expected an image as {"b64": "..."} with its file in base64') from error


def _pixels(values: list[Any]) -> list[Any]:
    """Return ``[H, W, 3]`` uint8 arrays of one shape."""
    try:
        numbers = np.array(values)
    except ValueError as error:
        raise Refusal(400, "expected images of one height and width, with 3 numbers a pixel") from error
    is_right = numbers.ndim == 4 and numbers.shape[3] == 3 and numbers.size and numbers.dtype.kind == "i"
    if not is_right or numbers.min() < 0 or numbers.max() > 255:
        raise Refusal(400, "expected images [H, W, 3] of whole numbers in 0..255, all of one height and width")
    return list(numbers.astype(np.uint8))


def answer(request: Request, answers: Sequence[Answer], positive: int) -> dict[str, Any]:
    """Return the body of the answer."""
    rows = [_outputs(one, positive) for one in answers]
    if request.in_rows:
        return {"predictions": rows}
    return {"outputs": {name: [row[name] for row in rows] for name in rows[0]}}


def _outputs(one: Answer, positive: int) -> dict[str, Any]:
    probabilities = numbers(one.probabilities)
    outputs = {"probabilities": probabilities, "label": one.label, "p_fake": probabilities[positive]}
    return outputs if one.heat is None else {**outputs, "heatmap": [numbers(row) for row in one.heat]}


def numbers(values: Any) -> list[float]:
    """Return float32 numbers with the nine digits that give each back exactly."""
    return [float(f"{value:.9g}") for value in values]


def status(version: str) -> dict[str, Any]:
    """Return the body of ``GET /v1/models/NAME``."""
    good = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": version, "state": "AVAILABLE", "status": good}]}


def metadata(name: str, version: str, signatures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of ``GET /v1/models/NAME/metadata``."""
    spec = {"name": name, "signature_name": "", "version": version}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": dict(signatures)}}}


def signatures_of(export: ExportedModel) -> dict[str, Any]:
    """Return the SignatureDefs of an export by name, as JSON writes them."""
    from google.protobuf import json_format

    from trainer.distributed import tf_private

    content = files.read_bytes(files.join(export.path, MODEL_FILE))
    return {
        name: json_format.MessageToDict(
            definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for name, definition in tf_private.signature_definitions(content).items()
        if not name.startswith("__")
    }
