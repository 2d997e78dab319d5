"""One TensorFlow for all tests of a process: quiet, with two logical CPU devices, so that replicas can be tested."""

import collections
import gc
import os
import signal
import sys
from pathlib import Path

gc.disable()  # Until all tests are collected: what is imported stays, and to look through it takes seconds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.pop("KUBERNETES_SERVICE_HOST", None)  # Tests that play a pod say so.
# Under nohup and in the background of a script these are ignored, and children inherit that.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _default)
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # So that a bare "pytest" finds the package, and scripts/, without an installation.
    sys.path.insert(0, str(ROOT))

from tests.helpers.fake_gcs import TENSORFLOW_RETRIES, bucket, gcs_server, tensorflow_cut_off  # noqa: E402, F401

os.environ.update(TENSORFLOW_RETRIES)

import pytest  # noqa: E402

from tests.helpers.images import write_image_set  # noqa: E402

# The longest without their slow tests.
LONG = [
    "commands/test_predict.py", "training/test_train_step.py", "data/test_pipeline.py", "data/test_pipeline_augment.py",
    "commands/test_train.py", "data/test_audit.py", "data/test_decode_batch.py", "commands/test_predict_words.py",
    "core/test_architecture.py", "data/test_decoding_pool.py", "commands/test_video.py", "submit/test_submit.py",
    "distributed/test_tf_private.py", "training/test_observers.py", "serving/test_predictor.py",
]  # fmt: skip


def pytest_configure(config):
    """Give TensorFlow two devices; the process that only hands out tests goes without TensorFlow."""
    if config.getoption("dist", "no") != "no" and not config.getoption("collectonly"):
        gc.enable()
        return
    import tensorflow as tf

    # Before the first op, or it is too late for the whole process.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


@pytest.hookimpl(trylast=True)  # Once it is known which tests run.
def pytest_collection_modifyitems(items):
    """Put files with the most slow tests first, then long ones: no core is left alone with one of them at the end."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    long = {ROOT / "tests" / name: len(LONG) - place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (-slow[item.path], -long.get(item.path, 0)))  # Stable: files stay whole, and in order.


def pytest_collection_finish():
    """Leave all that is there by now out of every search for garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def image_set(tmp_path_factory):
    """Return data_dir of 50, 15 and 15 images a class in Train, Validation and Test; read only."""
    return write_image_set(tmp_path_factory.mktemp("images"), train=50, validation=15, test=15)


@pytest.fixture
def package_log(monkeypatch, caplog):
    """Return caplog that sees the trainer's log, which a command of an earlier test may have cut off from it."""
    import logging

    monkeypatch.setattr(logging.getLogger("trainer"), "propagate", True)
    caplog.set_level(logging.INFO, logger="trainer")
    return caplog
