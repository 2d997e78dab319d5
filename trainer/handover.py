"""The end of a job: exported models, the training report, and the result."""

import datetime
import logging
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import __version__, calibration, files, report, savedmodel, scoring
from trainer.checkpoint import Arrays, CheckpointStore, DamagedCheckpoint, digest_of_arrays
from trainer.config import Config
from trainer.data import augment
from trainer.data.images import Images
from trainer.data.manifest import Split, positive_class_index
from trainer.data.order import Order
from trainer.errors import JobFailed, StoppedEarly
from trainer.loop import Ending, Plan
from trainer.paths import JobPaths
from trainer.result import Result
from trainer.runtime import Runtime
from trainer.state import State

log = logging.getLogger(__name__)

_PREVIEW_IMAGES = 8
_EXPORT_SAMPLES = 8


class Handover:
    """Makes what a finished job leaves behind, from its state and its checkpoints."""

    def __init__(
        self, config: Config, plan: Plan, runtime: Runtime, state: State, store: CheckpointStore,
        train: Split, validation: Split,
    ) -> None:  # fmt: skip
        """Bind the parts of a job."""
        self._config, self._plan, self._runtime, self._state, self._store = config, plan, runtime, state, store
        self._train, self._validation = train, validation
        self._paths = JobPaths(config.loop.job_dir)

    def result(self, ending: Ending, *, images_per_second: float, skipped: dict[str, int]) -> Result:
        """Export, draw the report, and return the result (not written yet).

        Raises:
            JobFailed: if an export does not do what the live model does, or its checkpoint is damaged.
        """
        state, runtime = self._state, self._runtime
        exports, thresholds = self._export()
        self._write_report()
        return Result(
            status="done",
            stopped_by=ending.value,
            step=state.step,
            epoch=self._plan.epoch_of(state.step),
            best_step=state.stopping.best_step,
            best_epoch=self._plan.epoch_of(state.stopping.best_step),
            monitor=self._config.loop.monitor,
            validation=_summary(state.best),
            last_validation=_summary(state.last),
            images_per_second=images_per_second,
            weights_sha256=digest_of_arrays(state.model_arrays()),
            exports=exports,
            precision=runtime.precision,
            num_devices=runtime.num_devices,
            device_kind=runtime.device_kind,
            images={split.name: split.counts for split in (self._train, self._validation)},
            skipped=skipped,
            thresholds=thresholds,
            decided_by=self._config.export.decision,
            reason=state.hopeless,
        )

    def _export(self) -> tuple[dict[str, str], dict[str, float]]:
        steps = {"best": self._state.stopping.best_step, "last": self._state.step}
        values = {"best": self._state.best, "last": self._state.last}
        exports, decisions = {}, {}
        for kind in self._config.export.kinds:
            target = files.join(self._paths.exports(kind), str(steps[kind]))
            arrays = self._arrays(steps[kind])
            decisions[kind] = self._decide(arrays)
            difference = savedmodel.write(
                target,
                arrays,
                {**self._metadata(steps[kind], values[kind]), **decisions[kind].metadata()},
                self._samples(),
                config=self._config.model,
                image_size=self._config.data.image_size,
            )
            log.info("exported %s: %s (reloaded alone, differs by %.1e at most)", kind, target, difference)
            exports[kind] = target
        return exports, {kind: decision.threshold for kind, decision in decisions.items()}

    def _decide(self, arrays: Arrays) -> calibration.Decision:
        """Choose what Validation decides, from the float32 predictions of the weights that are exported."""
        settings, names = self._config.export, self._train.class_names
        labels, probabilities = np.zeros(0, np.int64), np.zeros([0, len(names)], np.float32)
        if calibration.needs_scores(settings, len(names)):
            config = self._config
            model = savedmodel.live_model(
                arrays, config.model, num_classes=len(names), image_size=config.data.image_size
            )
            labels, probabilities = scoring.score_split(model, self._validation, config.data)
        positive = positive_class_index(names, settings.positive_class)
        decision = calibration.decide(labels, probabilities, positive=positive, settings=settings)
        why = decision.threshold_choice["why"] or f"by {settings.threshold_by} on {len(labels)} Validation images"
        log.info("threshold %g (%s), temperature %.4g", decision.threshold, why, decision.temperature)
        return decision

    def _arrays(self, step: int) -> Any:
        try:
            return self._store.read(step).arrays
        except DamagedCheckpoint as damage:
            raise JobFailed(
                f"the checkpoint of step {step}, which is to be exported, is damaged ({damage}); restore "
                f"{self._store.path(step)!r} from a backup, or use --export=last"
            ) from damage

    def _metadata(self, step: int, values: dict[str, Any]) -> dict[str, Any]:
        names = self._train.class_names
        return {
            "format": 1,
            "class_names": list(names),
            "positive_class": names[positive_class_index(names, self._config.export.positive_class)],
            "image_size": self._config.data.image_size,
            "step": step,
            "epoch": self._plan.epoch_of(step),
            "monitor": self._config.loop.monitor,
            "validation": _summary(values),
            "precision": self._runtime.precision,
            "config": self._config.flat(),
            "versions": {"deepdetect": __version__, "tensorflow": tf.__version__},
            "created": now(),
        }

    def _samples(self) -> list[bytes]:
        """Return the readable ones of some validation images, evenly spread over the classes."""
        chosen = np.unique(np.linspace(0, len(self._validation) - 1, _EXPORT_SAMPLES).astype(int))
        contents = Images(self._validation, self._config.data, cached=False).encoded(chosen)
        return [content for content in contents if isinstance(content, bytes)]

    def _write_report(self) -> None:
        """Draw the run; a plot that fails must not cost a trained model, so it is logged instead."""
        try:
            images, augmented, labels = self._preview()
            counts = {split.name: split.counts for split in (self._train, self._validation)}
            report.write_training_report(self._paths.job_dir, images, augmented, labels, counts)
        except StoppedEarly:
            raise
        except Exception:
            log.exception("the training report could not be drawn")

    def _preview(self) -> tuple[Any, Any, list[str]]:
        """Return some training images before and after augmentation, with their classes."""
        split, data, seed = self._train, self._config.data, self._config.loop.seed
        order = Order(len(split), min(_PREVIEW_IMAGES, len(split)), seed)
        number, index, _ = order.slots(tf.constant(0, tf.int64), 0, order.batch_size)
        chosen = index.numpy().tolist()
        images = Images(split, data, cached=False).load(index.numpy()).images
        augmented = augment.preview(data.augment, images, augment.draw(seed, int(number), index.numpy()))
        return images, augmented, [split.class_names[split.labels[i]] for i in chosen]


def _summary(values: dict[str, Any]) -> dict[str, float | None]:
    return {name: values.get(f"val_{name}") for name in ("loss", "accuracy", "auc")}


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
