"""Which trials to stop early: the median stopping rule of Golovin et al. 2017, "Google Vizier", on files.

A trial whose best objective so far is strictly worse than the median of the running averages of the other ended
trials' objectives, up to the same epoch, is stopped.  The decision is a function of what ended trials have on disk
(``trial.json`` and ``metrics.jsonl``), so that workers on several machines need not communicate and a worker
that was killed decides again as before.  Trials that were pruned count with the epochs that they had, so that the
median is over all trials and does not rise with the survivors; failed ones do not count.  Imports no TensorFlow.
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping

from trainer.core.job_dir import SweepPaths
from trainer.core.storage import files
from trainer.evaluation.training_curves import Curve, read_curves
from trainer.sweep import records

FEWEST_TRIALS = 3  # A median of fewer says little.


@dataclasses.dataclass
class MedianPruner:
    """Applies the rule to one trial; ``training.run`` calls it after each epoch.

    Attributes:
        job_dir: of the sweep.
        trial: its id.
        metric: the objective: auc, accuracy or loss.
        maximizes: whether more is better.
        warmup_epochs: epochs that every trial trains.
    """

    job_dir: str
    trial: str
    metric: str
    maximizes: bool
    warmup_epochs: int

    def __post_init__(self) -> None:
        self._ended: dict[str, Curve] = {}  # Read once: an ended trial no longer changes.

    def __call__(self, epoch: int, values: Mapping[str, float | None]) -> str:
        """Return why the trial should be pruned; empty if it should not.

        Args:
            epoch: number of epochs trained, from 1.
            values: loss, accuracy and auc after that epoch; earlier ones are read from its folder.
        """
        value = values.get(self.metric)
        if epoch < self.warmup_epochs or value is None:
            return ""
        own = self._curve(self.trial)
        earlier = [old for at, old in zip(own.epochs, own.values, strict=True) if at < epoch]
        best = (max if self.maximizes else min)([value, *earlier])
        averages = self._averages(epoch)
        if len(averages) < FEWEST_TRIALS:
            return ""
        median = statistics.median(averages)
        if not (best < median if self.maximizes else best > median):
            return ""
        return (
            f"pruned after epoch {epoch}: best {self.metric} {best:.4f} is worse than {median:.4f}, the median of "
            f"{len(averages)} trials"
        )

    def to_json(self) -> str:
        """Return the text from which ``from_json`` makes an equal pruner in another process."""
        return json.dumps(dataclasses.asdict(self))

    def _averages(self, epoch: int) -> list[float]:
        """Return the mean objective up to an epoch of every other ended trial that has one."""
        paths = SweepPaths(self.job_dir)
        for name in files.list_names(paths.trials):
            if name != self.trial and name not in self._ended:
                record = records.read(paths, name)
                if record is not None:
                    scored = record.status != records.FAILED
                    self._ended[name] = self._curve(name) if scored else Curve([], [])
        averaged = [
            [value for at, value in zip(curve.epochs, curve.values, strict=True) if at <= epoch]
            for curve in self._ended.values()
        ]
        return [statistics.fmean(values) for values in averaged if values]

    def _curve(self, trial: str) -> Curve:
        curves = read_curves(SweepPaths(self.job_dir).trial(trial))
        return curves.validation[f"val_{self.metric}"] if curves else Curve([], [])


def from_json(text: str) -> MedianPruner:
    """Return the pruner that ``to_json`` described."""
    return MedianPruner(**json.loads(text))
