"""A model of face crops behind the server: POST /predict scores the faces of a picture, as trainer.predict does."""

import contextlib
import json
import socket
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import uvicorn
from PIL import Image

from tests.helpers import talking_heads
from tests.helpers.commands import answer
from tests.helpers.tiny_export import write_export
from trainer import predict
from trainer.data.faces import detector
from trainer.server.app import Server
from trainer.server.batcher import Batcher
from trainer.server.metrics import Metrics
from trainer.server.request import ServeFlags
from trainer.server.scorer import Scorer
from trainer.serving import exported_model

RULE = {"detector": detector.NAME, "detector_version": "0.6.0", "margin": 0.3, "size": 0, "align": False,
        "encode": "png", "jpeg_quality": 95}  # fmt: skip


@contextlib.contextmanager
def serve(model_dir):
    """Serve in a thread of this process, which has TensorFlow already; yield the address."""
    model = Scorer(exported_model.find_export(model_dir))
    batcher = Batcher(model.run, max_size=8, max_wait=0.0, max_queue=8, max_pixels=10**8)
    app = Server(ServeFlags(model_dir=model_dir), model, batcher, Metrics()).app()
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            batcher.close()


def post(url, content):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, content), timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_faces_are_scored_as_predict_scores_them(tmp_path, capsys):
    model = write_export(tmp_path / "model" / "1", ["Fake", "Real"], faces=RULE, explain={"method": "Grad-CAM"})
    one, other = talking_heads.frame(0, "Real", 20, 15), talking_heads.frame(1, "Real", 60, 15)
    other[..., 1:] //= 2
    for name, picture in (("one", one), ("two", np.concatenate([one, other], axis=1)), ("zero", one[:60, :60])):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    out = tmp_path / "rows.jsonl"
    files = [tmp_path / f"{name}.png" for name in ("one", "two", "zero")]
    assert answer(capsys, predict.main, f"--model_dir={model}", f"--out={out}", *files)[0] == 1
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    with serve(model) as address:
        answers = [post(f"{address}/predict?explain=1", file.read_bytes()) for file in files]
        broken = post(f"{address}/predict", b"\x89PNG\r\n\x1a\n")
    names = ("label", "p_fake", "x0", "y0", "x1", "y1", "face_score", "faces")
    for row, (status, given) in zip(rows[:2], answers[:2], strict=True):
        assert status == 200
        assert {name: given[name] for name in names} == {name: row[name] for name in names}
        assert given["heatmap"] is None
        assert "crops of faces" in given["heatmap_error"]
    assert [row["faces"] for row in rows] == [1, 2, 0]
    assert answers[2] == (400, {"error": "no face was found"})
    assert broken[0] == 400
