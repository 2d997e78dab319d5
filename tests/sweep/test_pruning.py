"""The median stopping rule on files of trials that never trained."""

import json

import pytest

from trainer.core.job_dir import SweepPaths
from trainer.sweep import pruning, records
from trainer.sweep.pruning import MedianPruner


def trial(folder, name, values, status=records.DONE, metric="auc"):
    """Write a trial with these values after its epochs; without a status it has not ended."""
    paths = SweepPaths(str(folder))
    lines = [
        {"kind": "validation", "step": 5 * epoch, "epoch": epoch, f"val_{metric}": value}
        for epoch, value in enumerate(values, start=1)
    ]
    own = folder / "trials" / name
    own.mkdir(parents=True)
    (own / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if status:
        records.Record(trial=name, job=name, settings={}, status=status).write(paths)


def pruner(folder, metric="auc", warmup=1):
    return MedianPruner(str(folder), "9", metric, metric != "loss", warmup)


@pytest.fixture
def three(tmp_path):
    """Return a sweep with three ended trials whose running averages after epoch 2 are 0.5, 0.6 and 0.8."""
    for name, values in (("0", [0.4, 0.6, 0.1]), ("1", [0.5, 0.7, 1.0]), ("2", [0.7, 0.9, 1.0])):
        trial(tmp_path, name, values)
    return tmp_path


def test_a_trial_is_compared_with_the_median_of_running_averages_up_to_its_epoch(three):
    reason = pruner(three)(2, {"auc": 0.59})
    assert reason == "pruned after epoch 2: best auc 0.5900 is worse than 0.6000, the median of 3 trials"
    assert pruner(three)(2, {"auc": 0.6}) == ""  # Strictly worse.
    assert pruner(three)(1, {"auc": 0.5}) == ""
    assert "0.5000" in pruner(three)(1, {"auc": 0.49})
    assert "0.7333" in pruner(three)(3, {"auc": 0.7})
    assert "0.7333" in pruner(three)(7, {"auc": 0.7})  # Of shorter trials all that there is.


def test_its_own_best_epoch_counts_and_what_a_killed_start_wrote_of_this_epoch_does_not(three):
    trial(three, "9", [0.65, 0.2, 0.99], status="")
    assert pruner(three)(2, {"auc": 0.1}) == ""  # 0.65 is above 0.6.
    assert "best auc 0.6500 is worse than 0.7333" in pruner(three)(3, {"auc": 0.2})
    assert "best auc 0.2000" in pruner(three)(1, {"auc": 0.2})


def test_losses_fall(tmp_path):
    for name, values in (("0", [0.7, 0.5]), ("1", [0.7, 0.3]), ("2", [0.7, 0.1])):
        trial(tmp_path, name, values, metric="loss")
    assert "best loss 0.5100 is worse than 0.5000" in pruner(tmp_path, "loss")(2, {"loss": 0.51})
    assert pruner(tmp_path, "loss")(2, {"loss": 0.5}) == ""


def test_nobody_is_pruned_early_or_by_few_or_without_a_value(three):
    assert pruner(three, warmup=3)(2, {"auc": 0.0}) == ""
    assert pruner(three, warmup=3)(3, {"auc": 0.0})
    assert pruner(three)(2, {"auc": None}) == ""
    (three / "trials" / "1" / "trial.json").unlink()  # It has not ended any more.
    assert pruner(three)(2, {"auc": 0.0}) == ""


def test_pruned_trials_count_and_failed_ones_do_not(three):
    trial(three, "3", [0.1], status=records.FAILED)
    assert "0.6000, the median of 3" in pruner(three)(2, {"auc": 0.0})
    trial(three, "4", [0.1], status=records.PRUNED)
    assert "0.5500, the median of 4" in pruner(three)(2, {"auc": 0.0})
    trial(three, "5", [None, None])  # Its auc was never defined.
    assert "0.5500, the median of 4" in pruner(three)(2, {"auc": 0.0})


def test_another_process_decides_alike(three):
    again = pruning.from_json(pruner(three).to_json())
    assert again == pruner(three)
    assert again(2, {"auc": 0.0}) == pruner(three)(2, {"auc": 0.0}) != ""
