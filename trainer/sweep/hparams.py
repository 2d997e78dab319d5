"""TensorBoard's HParams: what each trial or job was given, and what a trial reached, as its plugin reads it."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from trainer import files

log = logging.getLogger(__name__)


def session(values: Mapping[str, Any], name: str) -> bytes:
    """Return the summary, serialized, that makes a run one of the HParams tab; needs TensorBoard's package.

    Args:
        values: the run's settings.
        name: that the tab shows it under.
    """
    from tensorboard.plugins.hparams import api

    return bytes(api.hparams_pb(dict(values), trial_id=name).SerializeToString())


def write(job_dir: str, trial_id: str, values: Mapping[str, Any], metric: str, score: float) -> None:
    """Write an event file into ``tensorboard/hparams`` of a trial; without TensorBoard's package there is none."""
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.scalar import summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        return
    # No TensorFlow operation: it would take memory of a GPU that another process's trial needs.
    protos = [session(values, trial_id), summary.pb(f"best_{metric}", score).SerializeToString()]
    try:
        writer = EventFileWriter(files.join(job_dir, "tensorboard", "hparams"))
        for proto in protos:
            # With TensorFlow loaded the plugin makes TensorFlow's messages, and the writer takes TensorBoard's.
            own = summary_pb2.Summary.FromString(proto)
            writer.add_event(event_pb2.Event(wall_time=time.time(), step=0, summary=own))
        writer.close()
    except Exception as error:  # A full disk, say; its types differ by place.
        log.warning("TensorBoard HParams cannot be written: %s", error)
