"""Uploads to a local Hugging Face Hub by its real client: what arrives, and which failures a retry can help."""

import json
import socket

import numpy as np
import pytest
import yaml

from tests.helpers import fake_hub
from tests.helpers.commands import answer, refusal
from trainer import export
from trainer.core.errors import RequestError, StorageDown
from trainer.reports import hub_card, model_card
from trainer.training.exports import hub
from trainer.training.exports.export_request import ExportFlags

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra hub")
NAME = "team/faces"
META = {
    "class_names": ["Fake", "Real"], "positive_class": "Fake", "image_size": 64, "step": 12, "threshold": 0.5,
    "temperature": 1.0, "config": {"model": "cnn", "data_dir": "/data/my faces/"}, "validation": {"auc": 0.9},
}  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0.3")
    with fake_hub.serve(monkeypatch) as running:
        yield running


def card_with_figures():
    labels = np.arange(20) % 2
    probabilities = np.full([20, 2], 0.5, np.float32) + np.outer(np.linspace(-0.3, 0.3, 20), [1, -1]).astype(np.float32)
    names = [f"Validation/{label}/{number}.jpg" for number, label in enumerate(labels)]
    figures = model_card.measure(labels, probabilities, names, META)
    return model_card.render(META, model_card.CardFacts(figures=figures)), figures


def block(card):
    _, text, rest = card.split("---\n", 2)
    return yaml.safe_load(text), rest


@pytest.fixture
def exported(tmp_path):
    """Return the request of an export that is finished, beside which another file lies."""
    (tmp_path / "savedmodel" / "12" / "variables").mkdir(parents=True)
    (tmp_path / "savedmodel" / "12" / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "savedmodel" / "12" / "variables" / "data").write_bytes(bytes(5000))
    (tmp_path / "model.keras").write_bytes(b"keras")
    (tmp_path / "deepdetect.json").write_text(json.dumps(META))
    (tmp_path / "comparison.json").write_text("{}")
    (tmp_path / "model_card.md").write_text(card_with_figures()[0])
    (tmp_path / "private.txt").write_text("not of the export")
    return ExportFlags(out=str(tmp_path), formats="savedmodel,keras", push_to_hub=NAME, hub_license="apache-2.0")


def test_the_card_has_measured_results_and_evaluations_replace_their_own(tmp_path):
    card, figures = card_with_figures()
    data, rest = block(card)
    assert rest.startswith("\n# Model card: Fake, Real")
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == (
        "unknown",
        "tensorflow",
        "image-classification",
    )
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {"name": "my faces", "type": "imagefolder", "split": "Validation"}
    by_type = {metric["type"]: metric for metric in result["metrics"]}
    assert by_type["roc_auc"]["value"] == pytest.approx(figures["auc"], abs=1e-6)
    assert by_type["roc_auc"]["args"]["ci95"] == pytest.approx(figures["ci95"]["auc"], abs=1e-6)
    edited = card.replace("license: unknown", "license: mit\nlanguage: de")
    for auc in (0.25, 0.75):
        edited = hub_card.with_results(edited, META, "Test", {**figures, "auc": auc})
    data, again = block(edited)
    assert (data["license"], data["language"], again) == ("mit", "de", rest)
    splits = [each["dataset"]["split"] for each in data["model-index"][0]["results"]]
    assert splits == ["Validation", "Test"]
    test = {metric["type"]: metric["value"] for metric in data["model-index"][0]["results"][1]["metrics"]}
    assert test["roc_auc"] == 0.75


def test_a_block_that_cannot_be_read_stays(package_log):
    card = "---\nlicense: [\n---\n# Mine\n"
    assert hub_card.with_results(card, META, "Test", None) == card
    assert "cannot be read" in package_log.text


def test_without_the_package_cards_stay_and_pushes_are_refused(monkeypatch, exported):
    monkeypatch.setattr(hub_card, "is_installed", lambda: False)
    assert card_with_figures()[0].startswith("# Model card")
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install -e '\.\[hub\]'"):
        hub.opened(exported)


def test_an_export_arrives_with_its_card(server, exported, tmp_path):
    hub.opened(exported).push(exported, 12)
    repository = server.repositories[NAME]
    assert repository["private"]
    assert repository["files"].keys() == {
        "README.md", "deepdetect.json", "comparison.json", "model.keras", "savedmodel/12/saved_model.pb",
        "savedmodel/12/variables/data",
    }  # fmt: skip
    assert repository["files"]["savedmodel/12/variables/data"] == bytes(5000)
    assert len(server.blobs) >= 1
    data, rest = block(repository["files"]["README.md"].decode())
    assert (data["license"], data["library_name"]) == ("apache-2.0", "keras")
    assert set(data["tags"]) >= {"deepfake-detection", "savedmodel", "keras"}
    assert rest == block((tmp_path / "model_card.md").read_text())[1]
    (tmp_path / "model.keras").write_bytes(b"newer")
    hub.opened(exported).push(exported, 12)  # The repository is there already.
    assert repository["files"]["model.keras"] == b"newer"


def test_a_hub_that_is_away_for_a_moment_costs_a_retry(server, exported):
    server.refusals = [503]
    hub.opened(exported)
    assert server.requests == ["POST /api/repos/create"] * 2


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_stays_away_is_tried_later(server, exported, status):
    server.refusals = [status] * 1000
    with pytest.raises(StorageDown, match=r"did not answer for 0 s .*rerun the same command later"):
        hub.opened(exported)


def test_no_hub_at_all_is_tried_later(server, exported, monkeypatch, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        code, out, err = answer(capsys, export.main, "--job_dir=j", f"--out={exported.out}", f"--push_to_hub={NAME}")
    assert (code, out) == (75, "")
    assert "did not answer" in err


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_say_what_to_do_before_anything_is_exported(server, status, capsys):
    server.refusals = [status] * 2  # Of the second, the client asks whether the repository exists.
    line = refusal(capsys, export.main, "--job_dir=j", "--out=o", f"--push_to_hub={NAME}")
    assert f"received a refusal of {server.url}/{NAME}" in line
    assert hub._REMEDIES[status] in line


def test_a_wrong_token_no_token_or_name_is_refused(server, monkeypatch, capsys):
    words = ["--job_dir=j", "--out=o"]
    assert "expected OWNER/NAME, received 'faces'" in refusal(capsys, export.main, *words, "--push_to_hub=faces")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "set HF_TOKEN to a token" in refusal(capsys, export.main, *words, f"--push_to_hub={NAME}")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)  # Whatever this machine has stored.
    assert "received none; set HF_TOKEN" in refusal(capsys, export.main, *words, f"--push_to_hub={NAME}")
