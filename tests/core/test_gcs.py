"""gs:// through the real fake-gcs-server: whole objects, retries, and what a user is told when it does not work."""

import concurrent.futures
import glob
import json
import logging
import os

import pytest
import tensorflow as tf

from tests.helpers.fake_gcs import FORBIDDEN, NO_BUCKET, objects, upload
from trainer import predict, train
from trainer.core import cli, globs
from trainer.core.config import flags
from trainer.core.errors import RequestError, StoppedEarly, StorageDown
from trainer.core.storage import files, gcs_client, gcs_objects
from trainer.core.storage.lines import BufferedLines
from trainer.data import manifest

ODD = ("a b.jpg", "ä#?%20+&.jpg", "new\nline.jpg", "-dash.jpg", "deep/er/x.jpg", "[1].jpg", "100%.jpg")


@pytest.fixture
def impatient(monkeypatch):
    """Try again for a second only."""
    monkeypatch.setenv("DEEPDETECT_GCS_RETRY_SECONDS", "1")


@pytest.fixture
def fast(monkeypatch):
    """Wait little between attempts."""
    monkeypatch.setattr(gcs_client, "_FIRST_DELAY", 0.02)


def test_write_read_and_ranges(bucket):
    path, content = f"{bucket}/a/b.bin", bytes(range(256)) * 50_000  # Above 8 MB an upload is a resumable one.
    files.write_bytes(path, content)
    assert files.read_bytes(path) == content
    assert files.read_range(path, 1000, 10) == content[1000:1010]
    assert files.read_range(path, len(content) - 5, 10) == content[-5:]
    assert files.read_range(path, len(content), 10) == b""
    assert files.read_range(path, 3, 0) == b""
    files.write_text(path, "ä\n")
    assert files.read_text(path) == "ä\n"
    assert objects(bucket) == ["a/b.bin"]


def test_reads_from_many_threads_meet_one_client(bucket, monkeypatch):
    made, real = [], gcs_client._new_client
    monkeypatch.setattr(gcs_client, "_clients", {})
    monkeypatch.setattr(gcs_client, "_new_client", lambda: made.append(real()) or made[-1])
    for number in range(40):
        files.write_bytes(f"{bucket}/{number}", bytes([number]) * 1000)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        contents = list(pool.map(lambda number: files.read_range(f"{bucket}/{number}", 10, 5), range(40)))
    assert contents == [bytes([number]) * 5 for number in range(40)]
    assert len(made) == 1


def test_without_credentials_google_is_asked_anonymously(monkeypatch, tmp_path):
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    asked = gcs_client.client()._connection.build_api_url("/b/a-public-bucket")  # Every request begins with it.
    assert asked.startswith("https://storage.googleapis.com/storage/v1/b/a-public-bucket")


def test_what_is_there(bucket):
    for name in ("a/b", "a/c/d", "a-", "a/.h"):
        files.write_text(f"{bucket}/{name}", "")
    assert files.exists(f"{bucket}/a")
    assert files.exists(f"{bucket}/a/b")
    assert not files.exists(f"{bucket}/a/x")
    assert files.exists(f"{bucket}/a/c/")
    assert files.is_dir(f"{bucket}/a/c/")
    assert files.is_dir(f"{bucket}/a")
    assert files.is_dir(bucket)
    assert not files.is_dir(f"{bucket}/a/b")
    assert files.list_names(f"{bucket}/a/") == [".h", "b", "c"]
    assert files.list_names(bucket) == ["a", "a-"]
    assert files.list_names(f"{bucket}/none") == []
    assert sorted(files.list_below(f"{bucket}/a")) == ["b", "c/d"]


def test_appending_costs_the_same_however_large_the_object_is(bucket, gcs_server):
    path = f"{bucket}/m.jsonl"
    for number in range(5):
        files.append_text(path, f"{number}\n")
    assert files.read_text(path) == "0\n1\n2\n3\n4\n"
    files.write_bytes(path, b"x" * 9_000_000)
    before = len(gcs_server.requests)
    files.append_text(path, "y")
    assert len(gcs_server.requests) - before <= 4
    assert not any("alt=media" in request for request in gcs_server.requests[before:])
    assert files.read_range(path, 8_999_999, 5) == b"xy"
    assert objects(bucket) == ["m.jsonl"]  # No part is left.


def test_an_append_by_another_process_is_noticed(bucket, monkeypatch):
    path = f"{bucket}/m"
    files.write_text(path, "a")
    real = gcs_objects.write

    def write(name, content):
        real(name, content)
        if ".part-" in name:
            real(path, b"other")

    monkeypatch.setattr(gcs_objects, "write", write)
    with pytest.raises(StoppedEarly, match="only writer"):
        files.append_text(path, "b")
    assert files.read_text(path) == "other"


def test_create_if_absent_and_replace_have_one_winner(bucket):
    path = f"{bucket}/x"
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for generation in (0, None, None):
            seen = gcs_objects.read_with_generation(path)[1] if generation is None else 0
            made = list(pool.map(lambda n, seen=seen: gcs_objects.write_if(path, b"%d" % n, seen), range(12)))
            winners = [n for n, generation in enumerate(made) if generation is not None]
            assert len(winners) == 1
            assert gcs_objects.read_with_generation(path) == (b"%d" % winners[0], made[winners[0]])


def test_rename_and_remove(bucket):
    for name in ("j/a", "j/d/b", "j2/c"):
        files.write_text(f"{bucket}/{name}", name)
    files.rename(f"{bucket}/j", f"{bucket}/old/j")
    assert objects(bucket) == ["j2/c", "old/j/a", "old/j/d/b"]
    files.rename(f"{bucket}/j2/c", f"{bucket}/c")
    assert files.read_text(f"{bucket}/c") == "j2/c"
    files.remove_tree(f"{bucket}/old")
    files.remove_tree(f"{bucket}/old")
    files.remove(f"{bucket}/none")
    assert objects(bucket) == ["c"]


def test_a_folder_is_published_with_its_mark_last(bucket, tmp_path, gcs_server):
    for name in ("saved_model.pb", "variables/v", "z"):
        files.write_text(str(tmp_path / name), name)
    for _ in range(2):  # The second replaces the first.
        before = len(gcs_server.requests)
        files.publish(str(tmp_path), f"{bucket}/e/1", "saved_model.pb")
        assert objects(bucket) == ["e/1/saved_model.pb", "e/1/variables/v", "e/1/z"]
    changes = [each for each in gcs_server.requests[before:] if not each.startswith("GET")]
    assert changes[0].startswith("DELETE")
    assert "saved_model.pb" in changes[0]
    assert changes[-1].startswith("POST")
    with files.local_copy(f"{bucket}/e/1") as folder:
        assert sorted(files.list_below(folder)) == ["saved_model.pb", "variables/v", "z"]
        assert files.read_text(f"{folder}/z") == "z"
    assert not os.path.exists(folder)


@pytest.mark.parametrize(
    "fault",
    [{"status": 503}, {"status": 429}, {"reset": True}, {"reset": True, "after": True}, {"status": 503, "after": True}],
    ids=str,
)
def test_what_passes_is_tried_again_and_done_once(bucket, gcs_server, fast, fault):
    path = f"{bucket}/m"
    with gcs_server.fault(match="POST|GET|DELETE", every=2, **fault) as hit:
        for text in ("a", "b", "c"):
            files.append_text(path, text)
        assert files.read_text(path) == "abc"
        assert gcs_objects.write_if(f"{bucket}/lock", b"me", 0) is not None or files.read_text(f"{bucket}/lock") == "me"
        assert objects(bucket) == ["lock", "m"]
        files.remove_tree(path)
        assert not files.exists(path)
    assert hit.hits >= 5


def test_slow_answers_are_waited_for_and_silent_ones_asked_again(bucket, gcs_server, fast, monkeypatch):
    files.write_text(f"{bucket}/a", "x")
    with gcs_server.fault(seconds=0.3, times=1):
        assert files.read_text(f"{bucket}/a") == "x"
    monkeypatch.setattr(gcs_client, "_REQUEST_SECONDS", 0.2)
    with gcs_server.fault(seconds=2.0, times=1) as hit:
        assert files.read_text(f"{bucket}/a") == "x"
    assert hit.hits == 1


def test_an_outage_ends_in_one_error_that_a_later_start_can_mend(bucket, gcs_server, fast, impatient):
    with (
        gcs_server.fault(status=503) as hit,
        pytest.raises(StorageDown, match=r"did not answer for 1 s \(503: Service Un"),
    ):
        files.write_text(f"{bucket}/a", "x")
    assert hit.hits > 3
    with gcs_server.fault(reset=True), pytest.raises(StorageDown):
        list(files.list_below(bucket))
    assert objects(bucket) == []


def test_a_missing_bucket_is_named_by_every_function(bucket, gcs_server):
    for action in (files.read_bytes, files.exists, files.is_dir, files.list_names, objects, files.remove_tree,
                   lambda path: files.write_text(path, ""), lambda path: files.append_text(path, "a"),
                   lambda path: files.read_range(path, 0, 1)):  # fmt: skip
        with pytest.raises(RequestError, match="expected the bucket 'no-such-bucket' to exist"):
            action("gs://no-such-bucket/a")
    with pytest.raises(FileNotFoundError):
        files.read_bytes(f"{bucket}/a")


def test_a_refusal_names_permission_bucket_and_account_and_is_not_tried_again(bucket, gcs_server):
    with gcs_server.fault(match="POST", status=403, message=FORBIDDEN) as hit, pytest.raises(RequestError) as caught:
        files.require_writable(f"{bucket}/job", "job_dir")
    message = str(caught.value)
    assert message.startswith(
        "--job_dir: expected robot@project.iam.gserviceaccount.com to have storage.objects.create"
    )
    assert bucket.removeprefix("gs://") in message
    assert hit.hits == 1
    says = "Anonymous caller does not have storage.objects.get access."
    with (
        gcs_server.fault(match="GET", status=401, message=says),
        pytest.raises(RequestError, match=r"Anonymous caller to have storage\.objects\.get"),
    ):
        files.read_bytes(f"{bucket}/a")


def test_require_writable_leaves_nothing(bucket):
    files.require_writable(f"{bucket}/job", "job_dir")
    assert objects(bucket) == []


@pytest.mark.parametrize(
    "path",
    ["gs:/b/x", "gs://", "gs:///x", "gcs://b/x", "ftp://b/x", "gs://Upper/x", "gs://a/x", "file:///x"],
)
def test_wrong_forms_are_refused_at_once(path, tmp_path, capsys):
    assert cli.run_command(train.main, [f"--data_dir={path}", f"--job_dir={tmp_path}"]) == 2
    assert cli.run_command(train.main, [f"--data_dir={tmp_path}", f"--job_dir={path}"]) == 2
    assert cli.run_command(train.main, [f"--config={path}"]) == 2
    assert cli.run_command(predict.main, [f"--model_dir={path}", "x.jpg"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["--data_dir", "--job_dir", "--config", "--model_dir"]
    assert all(f"expected a local path or gs://BUCKET/PATH (bucket names are lower case), received {path!r}" in line
               for line in lines)  # fmt: skip


def test_a_job_is_refused_before_its_data_are_listed(bucket, gcs_server, capsys):
    command = ["--image_size=64", f"--data_dir={bucket}/data"]
    assert cli.run_command(train.main, [*command, "--job_dir=gs://no-such-bucket/j"]) == 2
    assert cli.run_command(train.main, [*command, f"--job_dir={bucket}/j"]) == 2
    with gcs_server.fault(status=404, message=NO_BUCKET):
        assert cli.run_command(train.main, [*command, f"--job_dir={bucket}/j"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("error: --job_dir: expected the bucket 'no-such-bucket' to exist")
    assert errors[1].startswith(f"error: --data_dir: expected '{bucket}/data' to hold Train/<class>/* images")
    assert errors[2].startswith("error: --job_dir: expected the bucket 'bucket-")
    assert objects(bucket) == []


def test_settings_can_come_from_a_bucket(bucket, capsys):
    files.write_text(f"{bucket}/c.json", json.dumps({"epochs": 7, "data_dir": "d", "job_dir": "j"}))
    assert flags.train_config([f"--config={bucket}/c.json"]).loop.epochs == 7
    with pytest.raises(RequestError, match="--config: expected a readable JSON or YAML file"):
        flags.train_config([f"--config={bucket}/none.json"])
    files.write_text(f"{bucket}/c.yaml", "epochs: 7\ndata_dir: d\njob_dir: j\n")
    assert flags.train_config([f"--config={bucket}/c.yaml"]).loop.epochs == 7


def write_tree(root, put):
    for name in ("Fake/a.jpg", "Real/b.jpg", "Fake/deep/er/c.jpg", "Fake/.hidden.jpg", ".git/x", "Real/.d/e.jpg",
                 "note.txt", "Fake/-dash ä.jpg"):  # fmt: skip
        put(files.join(root, "Train", name), b"x")


def test_a_bucket_is_listed_like_a_folder_in_one_pass(bucket, gcs_server, tmp_path):
    write_tree(str(tmp_path), files.write_bytes)
    write_tree(f"{bucket}/data", files.write_bytes)
    files.write_bytes(f"{bucket}/data/Train/Fake/deep/", b"")  # As consoles mark folders.
    local = manifest.read_split(str(tmp_path), "Train")
    before = len(gcs_server.requests)
    remote = manifest.read_split(f"{bucket}/data/", "Train")
    asked = [request for request in gcs_server.requests[before:] if f"/b/{bucket.removeprefix('gs://')}/" in request]
    # What lies in data_dir and in Train is looked at first.
    assert len([request for request in asked if "prefix=data" in request and "delimiter" not in request]) == 1
    assert len(asked) < 6  # The others ask for the manifest of a packed set.
    assert remote.names == local.names
    assert remote.fingerprint == local.fingerprint
    assert remote.path(0) == f"{bucket}/data/Train/Fake/-dash ä.jpg"
    files.write_bytes(f"{bucket}/data/Train/Third/", b"")
    with pytest.raises(RequestError, match="empty class"):
        manifest.read_split(f"{bucket}/data", "Train")


@pytest.mark.slow
def test_more_than_a_page_is_listed_whole(bucket, gcs_server):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: files.write_bytes(f"{bucket}/p/{n:05d}", b""), range(1100)))
    before = len(gcs_server.requests)
    assert len(list(files.list_below(f"{bucket}/p"))) == 1100
    assert len(gcs_server.requests) - before <= 2


def test_words_of_predict_name_objects(bucket):
    for name in ("p/a.png", "p/q/b.png", "p/q/c.jpg", "p/.h/d.png"):
        files.write_bytes(f"{bucket}/{name}", b"")
    below = {word: [path.removeprefix(f"{bucket}/p/") for path in globs.expand([f"{bucket}/{word}"], ())]
             for word in ("p", "p/", "p/a.png", "p/**/*.png", "p/*.png", "p/q*")}  # fmt: skip
    everything = ["a.png", "q/b.png", "q/c.jpg"]
    assert below == {"p": everything, "p/": everything, "p/a.png": ["a.png"], "p/**/*.png": ["a.png", "q/b.png"],
                     "p/*.png": ["a.png"], "p/q*": ["q/b.png", "q/c.jpg"]}  # fmt: skip
    with pytest.raises(RequestError, match="no file there"):
        globs.expand([f"{bucket}/none"], ())


def test_names_that_are_no_paths_are_left_out_and_counted(bucket, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("trainer"), "propagate", True)
    names = (
        "Fake/a.png",
        "Fake//b.png",
        "Fake/./c.png",
        "Fake/../d.png",
        "/Fake/e.png",
        "..",
        "Real/f..png",
        "Real/.g/h",
    )
    for name in names:
        gcs_objects.write(f"{bucket}/Train/{name}", b"x")
    with caplog.at_level("WARNING"):
        assert sorted(files.list_below(f"{bucket}/Train")) == ["Fake//b.png", "Fake/a.png", "Real/f..png"]
    (line,) = set(caplog.messages)
    assert f"{bucket}/Train: 4 objects are left out" in line
    caplog.clear()
    with caplog.at_level("WARNING"), files.local_copy(f"{bucket}/Train") as folder:
        below = glob.glob(f"{folder}/**", recursive=True, include_hidden=True)
        copied = sorted(os.path.relpath(path, folder) for path in below if os.path.isfile(path))
    assert copied == ["Fake/a.png", "Real/.g/h", "Real/f..png"]
    assert ["4 objects" in caplog.text, "1 objects" in caplog.text] == [True, True]


def test_who_pays_for_a_bucket_is_said_by_one_variable(bucket, gcs_server, monkeypatch):
    says = "Bucket is a requester pays bucket but no user project provided."
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "not-asked")
    with gcs_server.fault(match="GET", status=400, message=says):
        for action in (files.read_bytes, files.list_names, files.exists):
            with pytest.raises(RequestError, match=r"DEEPDETECT_GCS_USER_PROJECT.*set it to"):
                action(f"{bucket}/a")
    assert "not-asked" not in "".join(gcs_server.requests)
    monkeypatch.setenv("DEEPDETECT_GCS_USER_PROJECT", "mine")
    before = len(gcs_server.requests)
    files.write_bytes(f"{bucket}/a", b"1")
    files.append_bytes(f"{bucket}/a", b"2")
    files.rename(f"{bucket}/a", f"{bucket}/b")
    assert files.read_bytes(f"{bucket}/b") == b"12"
    assert files.list_names(bucket) == ["b"]
    files.remove(f"{bucket}/b")
    # The client library looks at the bucket itself once in a while, and does without an answer.
    asked = [request for request in gcs_server.requests[before:] if "/o" in request]
    assert len(asked) > 8
    assert [request for request in asked if "userProject=mine" not in request] == []


def test_tensorflow_reads_the_same_images(bucket, image_set, tmp_path):
    content = f"{image_set}/Test/Fake/00000.jpg"
    for name in ODD:
        files.write_bytes(f"{bucket}/odd/{name}", files.read_bytes(content))
    paths = [f"{bucket}/odd/{name}" for name in files.list_below(f"{bucket}/odd")]
    assert len(paths) == len(ODD)
    assert {tf.io.read_file(path).numpy() for path in paths} == {files.read_bytes(content)}
    with pytest.raises(tf.errors.NotFoundError):
        tf.io.read_file(f"{bucket}/odd/none.jpg")


@pytest.mark.slow
def test_tensorflow_reads_through_faults(bucket, image_set, gcs_server):
    target = upload(f"{image_set}/Test/Real", f"{bucket}/real")
    paths = [f"{target}/{name}" for name in sorted(files.list_below(target))]
    with gcs_server.fault(status=503, every=3) as errors, gcs_server.fault(reset=True, every=5) as resets:
        contents = [tf.io.read_file(path).numpy() for path in paths]
    assert contents == [files.read_bytes(path) for path in paths]
    assert errors.hits
    assert resets.hits


def test_lines_wait_on_a_bucket_until_they_are_asked_for(bucket):
    lines = BufferedLines(f"{bucket}/l")
    lines.add(["a"])
    lines.add(["b"])
    assert not files.exists(f"{bucket}/l")
    lines.flush()
    assert files.read_text(f"{bucket}/l") == "a\nb\n"


def test_a_failed_append_leaves_no_part(bucket, gcs_server, fast):
    path = f"{bucket}/job/m.jsonl"
    files.append_text(path, "old\n")
    refused = gcs_server.fault(match="compose", status=403, message=FORBIDDEN)
    with refused, pytest.raises(RequestError, match=r"storage\.objects\.create"):
        files.append_text(path, "new\n")
    assert (files.read_text(path), objects(bucket)) == ("old\n", ["job/m.jsonl"])


def test_a_part_is_removed_although_the_lock_was_lost_meanwhile(bucket):
    path = f"{bucket}/job/m.jsonl"
    files.append_text(path, "old\n")
    answers = iter([None, StoppedEarly("this job lost its lock")])

    def check():
        answer = next(answers)
        if answer:
            raise answer

    with gcs_client.FENCES.added(check), pytest.raises(StoppedEarly, match="lost its lock"):
        files.append_text(path, "new\n")
    assert (files.read_text(path), objects(bucket)) == ("old\n", ["job/m.jsonl"])


def test_a_part_that_an_outage_left_is_removed_by_the_next_start(bucket, gcs_server, fast, impatient):
    path = f"{bucket}/job/m.jsonl"
    files.append_text(path, "old\n")
    with gcs_server.fault(match="compose|DELETE", status=503) as fault, pytest.raises(StorageDown):
        files.append_text(path, "new\n")
    assert fault.hits
    assert len(objects(bucket)) == 2
    files.remove_leftovers(f"{bucket}/job")
    assert (files.read_text(path), objects(bucket)) == ("old\n", ["job/m.jsonl"])


def test_a_folder_that_cannot_be_published_leaves_no_part(bucket, tmp_path, gcs_server, fast):
    for name in ("saved_model.pb", "variables/v", "z"):
        files.write_text(str(tmp_path / name), name)
    refused = gcs_server.fault(match="POST .*upload", every=2, status=403, message=FORBIDDEN)
    with refused, pytest.raises(RequestError):
        files.publish(str(tmp_path), f"{bucket}/e/1", "saved_model.pb")
    assert objects(bucket) == []
