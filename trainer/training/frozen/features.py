"""The features of all images of a split, computed once by all replicas together, in chunks of one fixed size.

A chunk is what one replica computes at once, so a feature has the same bits on one device and on many, and after a
restart.  Every process ends with all of them.
Owns: how features are computed.  Does not own: where they are kept (``feature_store.py``), what is done with them
(``phase.py``).
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from trainer.core import progress
from trainer.core.config import Value
from trainer.core.errors import StoppedEarly
from trainer.core.storage import files
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.data.pipeline import Batch
from trainer.distributed.process_group import SingleProcess
from trainer.distributed.strategy import Runtime
from trainer.models import preprocess
from trainer.training.checkpoints.checkpoint import digest_of_arrays
from trainer.training.device_rows import DeviceRows
from trainer.training.distributed_input import DistributedInput
from trainer.training.frozen.feature_store import FeatureStore, Rows
from trainer.training.stop_controller import StopController

log = logging.getLogger(__name__)

CHUNK = 32
PART = 2**14  # Images of a file, after which a restart does not begin again.


class FeatureExtractor:
    """Computes the rows of a split: of each image its features and its weight, 0 if it cannot be decoded."""

    def __init__(
        self, runtime: Runtime, backbone: keras.Model, inputs: DistributedInput, group: SingleProcess,
        stop: StopController, *, folder: str, settings: Mapping[str, Value], on_progress: Callable[[], None],
    ) -> None:  # fmt: skip
        """Bind what computes, and what is asked in between.

        Args:
            runtime: whose replicas compute.
            backbone: features from pixels.
            inputs: the images.
            group: of all processes.
            stop: may end the job in between.
            folder: keeps what is computed for the next start.
            settings: that decide the job's result.
            on_progress: called in the chief when more is kept.
        """
        self._runtime = runtime
        self._strategy = runtime.strategy
        self._backbone = backbone
        self._inputs = inputs
        self._group = group
        self._stop = stop
        self._folder = folder
        self._settings = settings
        self._on_progress = on_progress

    def rows(self, split: Split) -> Rows:
        """Return ``[images, F + 1]``: features and weight of each image, in the manifest's order.

        Raises:
            StoppedEarly: after a stop request; the next start goes on from what was computed.
            RequestError: if too many images are bad.
        """
        rows = np.zeros([len(split), self._backbone.output.shape[-1] + 1], np.float32)
        # All processes begin where the one begins that can read least.
        store = FeatureStore(files.join(self._folder, self._key(split)), write=self._stop.is_chief)
        kept = min(self._group.gather(store.read(split.name, rows)))
        before = time.monotonic()
        if kept < len(split):
            self._compute(split, rows, kept, store)
        self._inputs.check_bad_images(merge=True)
        speed = (len(split) - kept) / max(time.monotonic() - before, 1e-9)
        log.info("frozen backbone: %d features of each of %d images of %s, %s", rows.shape[1] - 1, len(split),
                 split.name, f"{speed:.0f} images/s" if kept < len(split) else "read from job_dir")  # fmt: skip
        return rows

    def forget(self) -> None:
        """Remove what was kept."""
        if self._stop.is_chief:
            files.remove_tree(self._folder)

    def _key(self, split: Split) -> str:
        """Return a name for all that decides the values."""
        runtime = self._runtime
        facts = [
            sorted(self._settings.items()), split.fingerprint, runtime.precision, runtime.device_kind, CHUNK,
            tf.__version__, digest_of_arrays({each.path: np.array(each) for each in self._backbone.variables}),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _compute(self, split: Split, rows: Rows, kept: int, store: FeatureStore) -> None:
        order = Order(len(split), CHUNK * self._inputs.share.replicas, shuffle=False)
        start = kept // order.batch_size  # With another number of replicas a few are computed again.
        done = start * order.batch_size
        waiting = DeviceRows()
        title = f"features of {split.name}"
        with (
            progress.bar(len(split), "image", title, show=self._stop.is_chief, initial=kept) as bar,
            contextlib.closing(self._inputs.plain(split, order, start)) as batches,
        ):  # fmt: skip
            for batch in batches:
                bar.update(min(order.batch_size, len(split) - done - len(waiting)))
                waiting.add(self._replicas(batch))
                stopping = self._stop.poll()
                if not (stopping or waiting.is_full or done + len(waiting) >= len(split)):
                    continue
                computed = waiting.fetch()[: len(split) - done]
                rows[done : done + len(computed)] = computed
                done += len(computed)
                if stopping or done == len(split) or done - kept >= PART:
                    self._keep(store, split, rows, kept, done)
                    kept = max(kept, done)
                if stopping:
                    raise StoppedEarly(
                        f"{self._stop.cause} after the features of {done} of {len(split)} images of {split.name}, "
                        "which are kept; rerun the same command to go on"
                    )
                self._inputs.check_bad_images()

    def _keep(self, store: FeatureStore, split: Split, rows: Rows, first: int, done: int) -> None:
        if self._stop.is_chief and done > first:
            store.save(split.name, first, rows[first:done])
            self._on_progress()

    @tf.function(autograph=False)
    def _replicas(self, batch: Batch) -> tf.Tensor:
        """Return the rows of a global batch, in slot order."""
        return self._strategy.gather(self._strategy.run(self._replica, (batch,)), axis=0)

    def _replica(self, batch: Batch) -> tf.Tensor:
        features = self._backbone(preprocess.to_unit_range(batch["image"]), training=False)
        return tf.concat([tf.cast(features, tf.float32), batch["weight"][:, None]], axis=1)
