"""TensorBoard's HParams: what each trial was given and what it reached, as its plugin reads it."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from trainer import files

log = logging.getLogger(__name__)


def write(job_dir: str, trial_id: str, values: Mapping[str, Any], metric: str, score: float) -> None:
    """Write an event file into ``tensorboard/hparams`` of a trial; without TensorBoard's package there is none."""
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.hparams import api
        from tensorboard.plugins.scalar import summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        return
    # No TensorFlow operation: it would take memory of a GPU that another process's trial needs.
    protos = [
        api.hparams_pb(dict(values), trial_id=trial_id),
        summary.pb(f"best_{metric}", score),
    ]
    try:
        writer = EventFileWriter(files.join(job_dir, "tensorboard", "hparams"))
        for proto in protos:
            # With TensorFlow loaded the plugin makes TensorFlow's messages, and the writer takes TensorBoard's.
            own = summary_pb2.Summary.FromString(proto.SerializeToString())
            writer.add_event(event_pb2.Event(wall_time=time.time(), step=0, summary=own))
        writer.close()
    except Exception as error:  # A full disk, say; its types differ by place.
        log.warning("TensorBoard HParams cannot be written: %s", error)
