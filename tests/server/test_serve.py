"""The server as a process: answers, refusals, limits, and its end."""

import base64
import contextlib
import io
import json
import re
import signal
import socket
import struct
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers import browser, rest, served
from tests.helpers.commands import answer, refusal
from tests.helpers.tiny_export import write_export, write_image
from trainer import predict, serve
from trainer.core import page_style

PREDICT = "/v1/models/deepdetect:predict"
MAX_PIXELS, MAX_BODY, MAX_QUEUED = 1_000_000, 2_000_000, 5_000_000


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    write_export(folder / "7", ["Fake", "Real"], threshold=0.5, explains=True, max_image_pixels=MAX_PIXELS)
    return folder


@pytest.fixture(scope="module")
def server(model_dir):
    flags = (f"--max_body_bytes={MAX_BODY}", f"--max_queue_bytes={MAX_QUEUED}", "--max_queue=64")
    with served.serve(f"--model_dir={model_dir}", *flags) as server:
        yield server


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return files of several formats, among them those that only Pillow reads."""
    folder = tmp_path_factory.mktemp("photos")
    for number, ending in enumerate(["png", "jpg", "webp", "bmp", "gif", "tiff"] * 3):
        image = np.full([20 + number, 30, 3], (13 * number, 90, 120), np.uint8)
        Image.fromarray(image).save(folder / f"{number:02}.{ending}")
    return sorted(folder.iterdir())


def encoded(content):
    return {"b64": base64.b64encode(content).decode()}


def picture(colour=(250, 90, 120), size=16, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.full([size, size, 3], colour, np.uint8)).save(file, kind)
    return file.getvalue()


def noise_png():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, [64, 64, 3], np.uint8)).save(file, "PNG")
    return file.getvalue()


def huge_png():
    """Return a small file that claims 900 million pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + picture()[33:]


@pytest.mark.slow
def test_answers_are_those_of_predict(server, model_dir, photos, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    assert answer(capsys, predict.main, f"--model_dir={model_dir}", f"--out={out}", *photos)[0] == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]

    def score(number):
        content = photos[number].read_bytes()
        if number % 2:
            return server.post("/predict", content)
        body, kind = served.multipart(content)
        return server.post("/predict", body, Content_Type=kind)

    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(score, range(len(photos))))
    assert [status for status, _ in answers] == [200] * len(rows)
    assert [(one["p_fake"], one["label"]) for _, one in answers] == [(row["p_fake"], row["label"]) for row in rows]
    assert {row["label"] for row in rows} == {"Fake", "Real"}
    assert answers[0][1]["threshold"] == 0.5
    assert sum(answers[0][1]["probabilities"].values()) == pytest.approx(1.0)


@pytest.mark.slow
def test_rest_answers_are_those_of_the_signatures(server, model_dir, tmp_path):
    model = tf.saved_model.load(str(model_dir / "7"))
    write_image(tmp_path / "photo.png", (250, 90, 120))
    images = [encoded(picture((red, 90, 120))) for red in (250, 40)]
    bodies = [
        rest.documented_body(tmp_path / "photo.png"),
        json.dumps({"instances": images}),
        json.dumps({"inputs": {"image_bytes": images}}),
        json.dumps({"inputs": images}),
        json.dumps({"signature_name": "explain", "instances": [{"image_bytes": images[1]}]}),
        json.dumps({"signature_name": "serve_images", "instances": np.full([2, 5, 4, 3], 100, int).tolist()}),
    ]
    for body in bodies:
        status, given = server.post(PREDICT, body)
        assert status == 200
        assert_close(given, rest.predict(model, body))
    assert server.post("/v1/models/deepdetect/versions/7:predict", bodies[1])[0] == 200


def assert_close(given, expected):
    """Compare JSON; numbers to within a float32's rounding."""
    if isinstance(expected, dict):
        assert given.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(given[name], value)
    elif isinstance(expected, list) and not isinstance(expected[0], int | float):
        assert len(given) == len(expected)
        for one, other in zip(given, expected, strict=True):
            assert_close(one, other)
    else:
        assert given == (expected if isinstance(expected, str) else pytest.approx(expected, abs=1e-6))


@pytest.mark.slow
def test_status_and_metadata(server):
    status = json.loads(server.get("/v1/models/deepdetect")[1])
    assert status["model_version_status"][0] == {
        "version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""},
    }  # fmt: skip
    metadata = json.loads(server.get("/v1/models/deepdetect/metadata")[1])
    assert metadata["model_spec"] == {"name": "deepdetect", "signature_name": "", "version": "7"}
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() == {"serving_default", "serve_images", "explain"}
    size = signatures["serving_default"]["inputs"]["image_bytes"]["tensor_shape"]["dim"][0]["size"]
    assert (size, signatures["serving_default"]["method_name"]) == ("-1", "tensorflow/serving/predict")


@pytest.mark.slow
def test_hostile_requests_get_one_line_and_change_nothing(server):
    cut, noise, kind = picture(size=64, kind="JPEG"), noise_png(), {"Content_Type": served.multipart(b"")[1]}
    cases = [
        ("/predict", huge_png(), 413, "at most 1000000 pixels, received 900000000 in a PNG; shrink the image", {}),
        ("/predict", picture(size=1001), 413, "received 1002001 in a PNG", {}),
        ("/predict", cut[: len(cut) // 2], 400, "JPEG", {}),
        ("/predict", noise[: len(noise) // 2], 400, "PNG", {}),
        ("/predict", b"GIF89a", 400, "GIF", {}),
        ("/predict", b"%PDF-1.7", 415, "PDF cannot be read", {}),
        ("/predict", b"<script>alert(1)</script>", 415, "Unknown image file format", {}),
        ("/predict", b"", 400, "empty", {}),
        ("/predict", picture(), 415, "Content-Encoding", {"Content_Encoding": "gzip"}),
        ("/predict", served.multipart(picture(), times=2)[0], 400, "Too many files", kind),
        ("/predict", b"--x--\r\n", 400, "one file", kind),
        ("/predict", b"nonsense", 400, "one file", kind),
        (PREDICT, b"{", 400, "expected JSON", {}),
        (PREDICT, b"[" * 100_000, 400, "expected JSON", {}),
        (PREDICT, b"[]", 400, '"instances" or "inputs"', {}),
        (PREDICT, b'{"instances": []}', 400, 'a list of "instances"', {}),
        (PREDICT, b'{"instances": [{"b64": "?"}]}', 400, "base64", {}),
        (PREDICT, b'{"instances": [7]}', 400, "base64", {}),
        (PREDICT, b'{"instances": [{"image": "a"}]}', 400, "'image_bytes' as the one input", {}),
        (PREDICT, b'{"signature_name": "train", "instances": [1]}', 400, "signature_name of", {}),
        (PREDICT, b'{"signature_name": "serve_images", "instances": [[[[1, 2, 256]]]]}', 400, "0..255", {}),
        (PREDICT, b'{"signature_name": "serve_images", "instances": [[[[1, 2]]]]}', 400, "0..255", {}),
        (PREDICT, json.dumps({"instances": [encoded(picture())] * 65}).encode(), 413, "at most 64 images", {}),
        (PREDICT, json.dumps({"instances": [encoded(picture()), encoded(cut[:300])]}).encode(), 400, "image 1:", {}),
        ("/v1/models/other:predict", b"{}", 404, "model 'deepdetect'", {}),
        ("/v1/models/deepdetect/versions/8:predict", b"{}", 404, "version 7", {}),
        ("/nowhere", b"", 404, "path and method", {}),
    ]  # fmt: skip
    for path, body, expected, words, headers in cases:
        status, given = server.post(path, body, **headers)
        error = given.get("error", "")
        assert (status, words in error, len(error.splitlines())) == (expected, True, 1), (words, status, given)
    assert server.post("/predict", picture())[1]["label"] == "Fake"
    assert server.get("/healthz") == server.get("/readyz") == (200, "ok\n")


@pytest.mark.slow
@pytest.mark.parametrize("claim", [f"Content-Length: {10**12}", "Transfer-Encoding: chunked"])
def test_a_body_that_is_too_large_is_not_read_to_its_end(server, claim):
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        chunk = f"{MAX_BODY + 1:x}\r\n".encode() + bytes(MAX_BODY + 1) if "chunked" in claim else b""
        client.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{claim}\r\n\r\n".encode() + chunk)
        head, _, body = client.recv(10_000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert f"at most {MAX_BODY} bytes" in json.loads(body or client.recv(10_000))["error"]
    server.wait_for("deepdetect_queue_bytes", 0)


@pytest.mark.slow
def test_bodies_that_fill_the_memory_are_answered_with_503_until_it_is_free(server):
    host, port = server.address.split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(socket.create_connection((host, int(port))))
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY}\r\n\r\n"
            client.sendall(head.encode() + bytes(MAX_QUEUED // 4))
        server.wait_for("deepdetect_queue_bytes", MAX_QUEUED)
        status, headers, body = server.send("POST", "/predict", picture())
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "--max_queue_bytes" in json.loads(body)["error"]
        assert server.get("/healthz")[0] == 200
    server.wait_for("deepdetect_queue_bytes", 0)
    assert server.post("/predict", picture())[0] == 200


@pytest.mark.slow
def test_metrics_count_requests_and_batches(server):
    def counts():
        return [server.metric(name) for name in (
            'deepdetect_requests_total{route="predict",status="200"}',
            'deepdetect_requests_total{route="predict",status="415"}',
            'deepdetect_request_seconds_count{route="predict"}', "deepdetect_batch_images_sum",
            'deepdetect_batch_images_bucket{le="+Inf"}',
        )]  # fmt: skip

    before = counts()
    assert server.post("/predict", picture())[0] == 200
    assert server.post("/predict", b"text")[0] == 415
    after = counts()
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 2, 1, 1]
    assert server.metric("process_resident_memory_bytes") > 1e8
    kind = server.send("GET", "/metrics")[1]["Content-Type"]
    assert kind.startswith("text/plain; version=")


@pytest.mark.slow
def test_a_full_queue_and_the_end_while_requests_wait(model_dir):
    flags = (f"--model_dir={model_dir}", "--max_queue=3", "--max_wait_ms=10000")
    with served.serve(*flags) as server, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(server.post, "/predict", picture((red, 0, 0))) for red in (51, 102, 204)]
        server.wait_for("deepdetect_queue_images", 3)
        status, headers, body = server.send("POST", "/predict", picture())
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "3 images wait" in json.loads(body)["error"]
        assert server.get("/readyz")[0] == 503
        assert server.get("/healthz")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        answers = [future.result(120) for future in waiting]
        assert [status for status, _ in answers] == [200] * 3
        assert [given["p_fake"] for _, given in answers] == pytest.approx([0.2, 0.4, 0.8], abs=1e-5)
        assert server.process.wait(120) == 0
        assert server.process.stdout.read().splitlines() == ["ended"]


class Proxy(BaseHTTPRequestHandler):
    """Puts a script into the page that gives it a picture, and passes everything else on."""

    def do_GET(self):
        status, _, body = self.server.to.send("GET", self.path)
        self._answer(status, body.replace(b"</body>", self.server.script.encode() + b"</body>"), "text/html")

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        status, _, body = self.server.to.send("POST", self.path, content)
        self._answer(status, body, "application/json")

    def _answer(self, status, body, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def page_with(server, content, scratch):
    """Return the page's elements after somebody has given it a picture."""
    bits = base64.b64encode(content).decode()
    script = f"""<script>addEventListener("load", async () => {{
      const bytes = Uint8Array.from(atob("{bits}"), c => c.charCodeAt(0));
      await score(new File([bytes], "<b>photo.png"));
    }});</script>"""
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.to, proxy.script = server, script
    threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
    try:
        return open_page(f"http://127.0.0.1:{proxy.server_port}/", scratch)
    finally:
        proxy.shutdown()
        proxy.server_close()


def open_page(url, scratch):
    command = [
        browser.CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
        f"--user-data-dir={scratch / 'profile'}", "--virtual-time-budget=5000", "--enable-logging=stderr",
        "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(not browser.CHROMIUM, reason="needs Chromium")
def test_the_page_in_a_browser(server, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(server.get("/")[1])
    assert page_style.base() in page.read_text()  # As every report has it.
    papers = set()
    for dark in (False, True):
        seen = browser.look(page, tmp_path, width=390, dark=dark)
        assert (seen["page"], seen["wide"], seen["loaded"], seen["errors"]) == (390, [], [], [])
        assert seen["skip"]
        papers.add(seen["paper"])
    assert len(papers) == 2
    dom, errors = open_page(f"http://{server.address}/", tmp_path)  # With the server's own policy.
    assert "Model deepdetect, version 7; it knows Fake, Real." in dom
    assert errors == []
    dom, _ = page_with(server, picture(), tmp_path)
    assert re.search(r'<h2 id="label">Label: Fake</h2>\s*<p class="score" id="score">Fake: 98.0%</p>', dom)
    assert re.search(r'<figure id="map"><img id="heat" alt="Heat map: what spoke for Fake" src="data:image/png', dom)
    assert "&lt;b&gt;photo.png" in dom
    dom, _ = page_with(server, b"text", tmp_path)
    assert re.search(r'<p id="error" role="alert">Unknown image file format', dom)


def test_wrong_flags_are_refused_before_tensorflow_is_needed(tmp_path, capsys):
    assert "expected --model_dir" in refusal(capsys, serve.main)
    for words, expected in (
        (["--port=65536"], "--port: expected"),
        (["--max_batch_size=0"], "--max_batch_size: expected"),
        (["--name=a/b"], "--name: expected letters"),
        (["--max_queue_bytes=5"], "--max_queue_bytes: expected at least --max_body_bytes"),
        ([], "expected an exported model"),
    ):
        assert expected in refusal(capsys, serve.main, f"--model_dir={tmp_path}", *words)


@pytest.mark.slow
def test_a_taken_port_may_become_free(model_dir, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        flag = f"--port={other.getsockname()[1]}"
        code, _, err = answer(capsys, serve.main, f"--model_dir={model_dir}", flag)
    assert code == 75
    assert "is taken; end the other server, or use --port=0" in err
    assert "--host: expected this machine's name" in refusal(
        capsys, serve.main, f"--model_dir={model_dir}", "--host=no host"
    )
