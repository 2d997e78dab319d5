"""One TensorFlow for all tests of a process: quiet, with two logical CPU devices, so that replicas can be tested."""

import collections
import os
import signal
import sys
from pathlib import Path

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
import tensorflow as tf  # noqa: E402

from tests.helpers.images import write_image_set  # noqa: E402

# Before the first op, or it is too late for the whole process.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.hookimpl(trylast=True)  # Once it is known which tests run.
def pytest_collection_modifyitems(items):
    """Put files with the most slow tests first, so that no core is left alone with a long one at the end."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # Stable: files stay whole, and tests in their order.


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
