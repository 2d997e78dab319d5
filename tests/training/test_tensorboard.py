"""What TensorBoard reads: event files of whole jobs read back, and a job that does not notice that it is looked at."""

import importlib.util
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.pr_curve import metadata as pr_metadata

from tests.helpers.fake_gcs import objects
from tests.helpers.images import write_image_set
from tests.helpers.jobs import finished_job, float32_policy, result_of, run_job, sigterm_after, values_of  # noqa: F401  (a fixture)
from trainer.core.config import DataConfig
from trainer.data import preview
from trainer.data.manifest import read_train_and_validation
from trainer.training import observers, profiler, trainer
from trainer.training.tensorboard import SummaryWriter

pytestmark = pytest.mark.slow  # Three short trainings.

JOB = {"epochs": 2, "image_size": 48, "learning_rate": 0.01}  # Three steps an epoch.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_image_set(tmp_path_factory.mktemp("data"), train=30, validation=8, test=0)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return finished_job(data, tmp_path_factory.mktemp("plain") / "job", **JOB)


@pytest.fixture(scope="module")
def shown(data, tmp_path_factory):
    """Return a job with everything shown, interrupted after its fourth step and continued."""
    job_dir = tmp_path_factory.mktemp("shown") / "job"
    more = {"tensorboard": "all", "profile_steps": "2,3"}
    with sigterm_after(4):
        assert run_job(data, job_dir, **JOB, **more) == 75
    assert run_job(data, job_dir, **JOB, **more) == 0
    return job_dir


@pytest.fixture(scope="module")
def events(shown):
    """Return all events by tag: pairs of step and tensor; and the plugin of each tag."""
    found, plugins = {}, {}
    for path in sorted((shown / "tensorboard").glob("events.*")):
        accumulator = EventAccumulator(str(path), size_guidance={"tensors": 0}).Reload()
        for tag in accumulator.Tags()["tensors"]:
            plugins[tag] = accumulator.SummaryMetadata(tag).plugin_data.plugin_name
            found.setdefault(tag, []).extend(
                (event.step, tf.make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(tag)
            )
        if accumulator.Tags()["graph"]:
            found.setdefault("graph", []).append(accumulator.Graph())
    return found, plugins


def steps_of(path, tag):
    """Return the steps at which TensorBoard shows a tag of a file or folder, in its order."""
    accumulator = plugin_event_accumulator.EventAccumulator(str(path), size_guidance={"tensors": 0}).Reload()
    return [event.step for event in accumulator.Tensors(tag)]


def test_looking_changes_nothing(plain, shown):
    assert result_of(shown)["weights_sha256"] == result_of(plain)["weights_sha256"]
    assert values_of(shown) == values_of(plain)


def test_scalars_alone_by_default(plain):
    (path,) = (plain / "tensorboard").iterdir()
    accumulator = EventAccumulator(str(path)).Reload()
    tags = set(accumulator.Tags()["tensors"])
    assert {tag.split("/")[0] for tag in tags} == {"train", "validation"}
    assert all(accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "scalars" for tag in tags)
    assert not accumulator.Tags()["graph"]


def test_no_step_is_shown_twice_after_a_kill(data, tmp_path):
    """Killed in step 6 with a checkpoint of step 3, so that three steps are done, and written, again."""
    real = trainer.Trainer._train

    def until_6(self, batches, number):
        done = real(self, batches, number)
        self.observers.on_window(self.statistics.fetch(force=True))  # As a slow machine does: every step is an event.
        if number == 5:
            raise MemoryError
        return done

    settings = {**JOB, "epochs": 3}
    with mock.patch.object(trainer.Trainer, "_train", until_6), pytest.raises(MemoryError):
        run_job(data, tmp_path / "job", **settings)
    folder = tmp_path / "job" / "tensorboard"
    assert steps_of(folder, "train/loss") == [1, 2, 3, 4, 5, 6]
    assert run_job(data, tmp_path / "job", **settings) == 0
    assert len(list(folder.iterdir())) == 2
    again = [step for path in sorted(folder.iterdir()) for step in steps_of(path, "train/loss")]
    assert len(again) > len(set(again))  # In the files they stand twice.
    for tag in ("train/loss", "validation/accuracy"):
        shown = steps_of(folder, tag)
        assert shown == sorted(set(shown)), tag
    assert steps_of(folder, "train/loss")[:3] == [1, 2, 3]
    assert steps_of(folder, "validation/accuracy") == [3, 6, 9]


def test_precision_recall_of_every_validation_once(shown, events):
    found, plugins = events
    tag = "validation/precision_recall/pr_curves"
    assert plugins[tag] == "pr_curves"
    assert [step for step, _ in found[tag]] == [3, 6]
    for _, curve in found[tag]:
        assert curve.shape == (6, 201)
        assert curve[pr_metadata.TRUE_POSITIVES_INDEX, 0] == 8  # From probability 0 up all are called positive.
        assert curve[pr_metadata.FALSE_POSITIVES_INDEX, 0] == 8
    # Of two classes, half of the probability decides: the accuracy that the loop measured.
    middle = found[tag][-1][1][:, 100]
    right = middle[pr_metadata.TRUE_POSITIVES_INDEX] + middle[pr_metadata.TRUE_NEGATIVES_INDEX]
    assert right / 16 == pytest.approx(result_of(shown)["last_validation"]["accuracy"])
    scalars = {step: float(value) for step, value in found["validation/accuracy"]}
    assert right / 16 == pytest.approx(scalars[6])


def test_the_batch_of_each_start_is_the_one_that_was_trained(events, data):
    found, plugins = events
    assert plugins["train/augmented"] == "images"
    assert [step for step, _ in found["train/augmented"]] == [0, 4]
    train, _ = read_train_and_validation(data, 0.1, 0)
    settings = DataConfig(data_dir=data, image_size=48, batch_size=20)
    for step, (width, height, *pictures) in found["train/augmented"]:
        assert (int(width), int(height), len(pictures)) == (48, 48, 16)
        expected = preview.of_batch(train, settings, 0, step=step, batch_size=20, count=16)
        np.testing.assert_array_equal(tf.io.decode_png(pictures[5]).numpy(), expected.augmented[5])
        assert not np.array_equal(expected.augmented[5], expected.images[5])


def test_the_worst_errors_are_named_and_shown(shown, events):
    found, plugins = events
    assert (plugins["validation/worst"], plugins["validation/worst_names"]) == ("images", "text")
    assert [step for step, _ in found["validation/worst_names"]] == [3, 6]
    accuracy = {line["step"]: line["val_accuracy"] for line in values_of(shown, "validation")}
    for step, text in found["validation/worst_names"]:
        names = [line.split() for line in text.item().decode().splitlines() if line.startswith("    ")]
        assert len(names) == min(8, round(16 * (1 - accuracy[step])))
        assert [p for p, _ in names] == sorted(p for p, _ in names)
        assert all(float(p) <= 0.5 and name.startswith("Validation/") for p, name in names)
        pictures = [value[2:] for at, value in found["validation/worst"] if at == step]
        assert [len(one) for one in pictures] == ([len(names)] if names else [])


def test_settings_and_graph(shown, events):
    found, plugins = events
    assert plugins["_hparams_/session_start_info"] == "hparams"
    (path, *_) = sorted((shown / "tensorboard").glob("events.*"))
    content = EventAccumulator(str(path)).Reload().SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["learning_rate"].number_value == 0.01
    assert values["model"].string_value == "cnn"
    assert "data_dir" not in values
    assert "Conv2D" in {node.op for node in found["graph"][0].node} | {
        node.op for function in found["graph"][0].library.function for node in function.node_def
    }


def test_the_trace_is_there_once(shown):
    (trace,) = shown.glob("tensorboard/plugins/profile/*/*.xplane.pb")  # The second start had the steps behind it.
    content = trace.read_bytes()
    assert b"train" in content


def start(step=0, **more):
    return observers.Start(step, 6, {}, **more)


def do_steps(profile, *numbers):
    """Run steps as the loop does, with their events."""
    for number in numbers:
        tf.reduce_sum(tf.ones([8, 8]))
        profile.on_step(observers.Step(number, 0.1))


def test_steps_that_are_done_are_not_traced(package_log, tmp_path):
    profile = profiler.Profiler((3, 5), str(tmp_path), write=True)
    profile.on_start(start(3))
    assert "nothing is traced, as the job continues from step 3" in package_log.text
    do_steps(profile, 4, 5, 6)
    profile.on_end(observers.End(6, None))
    assert not list(tmp_path.iterdir())


def test_the_trace_begins_before_its_first_step_and_ends_after_its_last(tmp_path):
    profile = profiler.Profiler((2, 3), str(tmp_path), write=True)
    profile.on_start(start())
    do_steps(profile, 1, 2)
    assert not list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
    do_steps(profile, 3)
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    do_steps(profile, 4, 2, 3)  # A second time after a rollback: traced once.
    profile.on_end(observers.End(3, None))
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb")) == [trace]


def test_a_trace_that_a_stop_cuts_short_is_kept(tmp_path):
    profile = profiler.Profiler((2, 50), str(tmp_path), write=True)
    profile.on_start(start())
    do_steps(profile, 1, 2, 3)
    profile.on_end(observers.End(3, None))
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))


def test_a_trace_in_a_bucket_arrives_at_its_end(bucket):
    profile = profiler.Profiler((1, 2), f"{bucket}/job/tensorboard", write=True)
    profile.on_start(start())
    do_steps(profile, 1)
    assert not objects(bucket)
    do_steps(profile, 2)
    assert [name for name in objects(bucket) if name.startswith("job/tensorboard/plugins/profile/")]


def test_events_are_made_on_the_host(tmp_path):
    """On a GPU each of their numbers would wait for all that the card still has to do."""
    devices = []
    with tf.device("CPU:1"):
        SummaryWriter(str(tmp_path), write=True).add(0, lambda: devices.append((tf.constant(1.0) + 1.0).device))
    assert [device[-5:] for device in devices] == ["CPU:0"]


def test_events_need_the_package_and_nothing_else_does(tmp_path, monkeypatch, package_log):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    events = SummaryWriter(str(tmp_path / "events"), write=True)
    events.scalars(1, {"train/loss": 0.5})
    events.send()
    assert "the package tensorboard is not installed" in package_log.text
    assert not (tmp_path / "events").exists()


def test_wrong_requests(data, tmp_path, capsys, monkeypatch):
    for value, said in (
        ("10", "two increasing whole numbers"),
        ("3,3", "two increasing whole numbers"),
        ("0,2", "two increasing whole numbers"),
        ("a,b", "two increasing whole numbers"),
        ("2,7", "up to the job's last, 6"),
    ):
        assert run_job(data, tmp_path / "job", **JOB, profile_steps=value) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    assert run_job(data, tmp_path / "job", **JOB, tensorboard="all") == 2
    assert "pip install -e '.[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "job" / "metrics.jsonl").exists()
