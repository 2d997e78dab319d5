"""The end of a job: exported models with their cards, the training report, and the result.

Does not own: how a SavedModel is written and verified (``serving``), the pages (``reports``), when a job ends.
"""

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import __version__
from trainer.core import progress
from trainer.core.arrays import MODEL_PREFIX, Arrays
from trainer.core.config import Config
from trainer.core.errors import JobFailed, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.result import Result
from trainer.core.storage import files
from trainer.core.storage.transient import may_pass
from trainer.data import input_rule
from trainer.data.audit import digest
from trainer.data.faces import crop_rule
from trainer.data.image_source import ImageSource
from trainer.data.layouts import overlap, sources
from trainer.data.manifest import Split
from trainer.data.positive_class import positive_class_index
from trainer.distributed.strategy import Runtime
from trainer.evaluation import calibration, chance
from trainer.reports import model_card
from trainer.reports import training as training_report
from trainer.serving import saved_model
from trainer.training import resume
from trainer.training.checkpoints import judged
from trainer.training.checkpoints.checkpoint import CheckpointStore, DamagedCheckpoint, digest_of_arrays
from trainer.training.exports import samples
from trainer.training.exports import scores as scores_lib
from trainer.training.exports.scores import Scores
from trainer.training.loop import Plan, StopReason
from trainer.training.metrics_log import utc_now
from trainer.training.start import weights_record
from trainer.training.train_state import TrainState

log = logging.getLogger(__name__)

_EXPORT_SAMPLES = 8


class Exporter:
    """Exports the models of a finished job from its checkpoints, and reports on them."""

    def __init__(
        self, config: Config, plan: Plan, runtime: Runtime, state: TrainState, store: CheckpointStore,
        train: Split, validation: Split,
    ) -> None:  # fmt: skip
        """Bind the parts of a job."""
        self._config = config
        self._plan = plan
        self._runtime = runtime
        self._state = state
        self._store = store
        self._train = train
        self._validation = validation
        self._paths = JobPaths(config.loop.job_dir)
        self._crop_rule = crop_rule.entry(config.data.data_dir)  # Now: a damaged file is refused before the training.
        self._unmade: list[str] = []  # Parts of the result that failed; the next start tries again.
        self._scores: dict[int, Scores] = {}  # By step; best and last are often the same.

    def result(self, reason: StopReason, *, images_per_second: float, skipped: dict[str, int]) -> Result:
        """Export, write the report, and return the result (which is not written yet).

        Nothing is exported if the best epoch falls short of ``--require_auc``.

        Raises:
            JobFailed: if an export differs from the live model, or its checkpoint is damaged.
        """
        state, runtime = self._state, self._runtime
        self._remove_unfinished()
        exports, thresholds = self._export(skipped) if self._is_good_enough() else ({}, {})
        assessment, interval = self._assess(state.stopping.best_step, state.best)
        if assessment.warning:
            log.warning("%s", assessment.warning)
        with progress.phase("writing the report"):
            is_written = self._write_report(assessment.warning)
        if not is_written:
            self._unmade.append("report")
        return Result(
            status="done",
            stopped_by=reason.value,
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
            reason=state.pruned_because,
            unmade=self._unmade,
            auc_interval=list(interval) if interval else None,
            learned=assessment.learned,
            learned_because=assessment.because,
        )

    def _is_good_enough(self) -> bool:
        """Return whether the best epoch may be exported; score it if it may not, as its export would have been."""
        required, auc = self._config.export.require_auc, self._state.best.get("val_auc")
        if not required or (auc is not None and auc >= required):  # As ``Result.shortfall`` has it.
            return True
        if "best" in self._config.export.kinds:
            step = self._state.stopping.best_step
            self._score(step, self._arrays(step))
        return False

    def _assess(self, step: int, values: Mapping[str, Any]) -> tuple[chance.Assessment, Sequence[float] | None]:
        """Return whether the weights of a step learned anything, and the interval of their AUC.

        Args:
            step: of the weights.
            values: their validation; without scores (``--export=none``) all that is known.
        """
        scores = self._scores.get(step)
        scored = scores is not None and len(scores.positions)
        labels = self._validation.labels[scores.positions] if scores and scored else self._validation.labels
        is_positive = labels == self._positive
        evidence = chance.measured(
            values.get("val_auc"), int(is_positive.sum()), int((~is_positive).sum()),
            spread=scores.spread if scores else None, dead=scores.dead if scores else None,
        )  # fmt: skip
        return chance.assess(evidence, self._validation.name), evidence.interval

    def _remove_unfinished(self) -> None:
        """Remove what a kill left of earlier exports."""
        for folder in resume.unfinished_exports(self._paths):
            log.warning("export %s was never finished: removed", folder)
            files.remove_tree(folder)

    def _export(self, skipped: dict[str, int]) -> tuple[dict[str, str], dict[str, float]]:
        steps = {"best": self._state.stopping.best_step, "last": self._state.step}
        values = {"best": self._state.best, "last": self._state.last}
        exports: dict[str, str] = {}
        decisions: dict[str, calibration.Decision] = {}
        for kind in self._config.export.kinds:
            # The weights come from the checkpoint, so that an export can be made again from job_dir.
            target = files.join(self._paths.exports(kind), str(steps[kind]))
            arrays = self._arrays(steps[kind])
            # Threshold and temperature are chosen on Validation with exactly these weights.
            scores = self._score(steps[kind], arrays)
            decisions[kind] = self._decide(scores)
            metadata = {**self._metadata(steps[kind], values[kind]), **decisions[kind].metadata()}
            warning = self._assess(steps[kind], values[kind])[0].warning
            with progress.phase(f"writing the model card of {kind}"):
                card = model_card.attempt(functools.partial(self._card, arrays, metadata, scores, skipped, warning))
            if not card:
                self._unmade.append(f"model card of {kind}")
            # Write, reload in a fresh process, and compare with the live model.
            with progress.phase(f"exporting {kind}, and checking it in a fresh process"):
                difference = saved_model.write(
                    target,
                    arrays,
                    metadata,
                    self._samples(),
                    config=self._config.model,
                    image_size=self._config.data.image_size,
                    card=card,
                )
            log.info("exported %s: %s (reloaded in a fresh process, differs by at most %.1e)", kind, target, difference)
            exports[kind] = target
        return exports, {kind: decision.threshold for kind, decision in decisions.items()}

    def _score(self, step: int, arrays: Arrays) -> Scores:
        """Return the scores of the validation images by the weights of a step; none where nothing needs them."""
        if step not in self._scores:
            self._scores[step] = self._scores_of(arrays)
        return self._scores[step]

    def _scores_of(self, arrays: Arrays) -> Scores:
        config, classes = self._config, len(self._train.class_names)
        if not calibration.needs_scores(config.export):
            return scores_lib.none(classes)
        with progress.phase(f"scoring {self._validation.name} with the weights to export"):
            model = saved_model.live_model(arrays, config.model, num_classes=classes, image_size=config.data.image_size)
            return scores_lib.of_split(model, self._validation, config.data)

    @property
    def _positive(self) -> int:
        return positive_class_index(self._train.class_names, self._config.export.positive_class)

    def _decide(self, scores: Scores) -> calibration.Decision:
        """Choose threshold and temperature on Validation, with the predictions of the exported weights."""
        settings = self._config.export
        labels = self._validation.labels[scores.positions]
        decision = calibration.decide(labels, scores.probabilities, positive=self._positive, settings=settings)
        reason = decision.threshold_choice["why"] or f"by {settings.threshold_by} on {len(labels)} Validation images"
        log.info("threshold %g (%s), temperature %.4g", decision.threshold, reason, decision.temperature)
        return decision

    def _card(
        self, arrays: Arrays, metadata: dict[str, Any], scores: Scores, skipped: dict[str, int], warning: str
    ) -> str:
        split = self._validation
        names = [split.names[position] for position in scores.positions.tolist()]
        labels = split.labels[scores.positions]
        known = sources.of_split(split).select(scores.positions)
        audit = digest.find("", (self._config.data.data_dir, self._paths.job_dir))
        if audit:
            audit["differences"] = digest.differences(audit["listings"], {}, metadata["listings"])
        facts = model_card.CardFacts(
            images={each.name: each.counts for each in (self._train, split)},
            skipped=skipped,
            held_out=bool(split.held_out),
            sources=overlap.sentence([self._train, split]),
            figures=model_card.measure(labels, scores.probabilities, names, metadata, known) if names else None,
            audit=audit,
            made=self._made(arrays),
            warning=warning,
        )
        return model_card.render(metadata, facts)

    def _made(self, arrays: Arrays) -> dict[str, Any]:
        """Return what the card says about how the model was made, besides its metadata: one row for each entry."""
        weights = {name: array for name, array in arrays.items() if name.startswith(MODEL_PREFIX)}
        lines = files.read_text(self._paths.metrics).splitlines()
        return {
            "Devices": f"{self._runtime.num_devices} x {self._runtime.device_kind}",
            "Initial weights": weights_record.describe(self._paths),
            "Starts of the job": sum(json.loads(line)["kind"] == "start" for line in lines),
            "SHA-256 of the weights": digest_of_arrays(weights),
            "Forgeries in Validation": self._validation.forgeries_made,
        }

    def _arrays(self, step: int) -> Any:
        try:
            return judged.read(self._store, step).arrays
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
            "positive_class": names[self._positive],
            "image_size": self._config.data.image_size,
            "input": input_rule.of_config(self._config.data).metadata(),
            **self._crop_rule,
            "step": step,
            "epoch": self._plan.epoch_of(step),
            "monitor": self._config.loop.monitor,
            "validation": _summary(values),
            "precision": self._runtime.precision,
            "config": self._config.flat(),
            "listings": digest.listings([self._train, self._validation]),
            "versions": {"deepdetect": __version__, "tensorflow": tf.__version__},
            "created": utc_now(),
        }

    def _samples(self) -> list[bytes]:
        """Return the files of a few readable validation images, evenly spread over the classes."""
        positions = np.unique(np.linspace(0, len(self._validation) - 1, _EXPORT_SAMPLES).astype(int))
        contents = ImageSource(self._validation, self._config.data, cached=False).encoded(positions)
        return [content for content in contents if isinstance(content, bytes)]

    def _write_report(self, warning: str) -> bool:
        """Write the training report; a plot that fails must not cost a trained model, so it is logged instead.

        Args:
            warning: its first line; empty: none.

        Returns:
            Whether it was written.
        """
        try:
            batch = samples.of_training(self._config, self._train)
            counts = {split.name: split.counts for split in (self._train, self._validation)}
            training_report.write_training_report(
                self._paths.job_dir, batch.images, batch.augmented, batch.labels, counts, warning=warning
            )
        except StoppedEarly:
            raise
        except Exception as error:
            if may_pass(error):
                raise
            log.exception("the training report could not be drawn")
            return False
        return True


def _summary(values: dict[str, Any]) -> dict[str, float | None]:
    return {name: values.get(f"val_{name}") for name in ("loss", "accuracy", "auc")}
