"""A metric is one file: it reaches metrics.json, intervals, report, card and comparison without another edit."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from tests.evaluation.test_compare import PATHS, made, of_fake, write_evaluation
from tests.helpers import recompute
from tests.helpers.commands import answer
from tests.helpers.tiny_export import write_export, write_image
from trainer import evaluate
from trainer.core.job_dir import EXPORT_CARD
from trainer.evaluation import metrics
from trainer.evaluation.metrics import registry
from trainer.evaluation.predictions import Predictions

ROOT = Path(__file__).resolve().parents[2]
# The example of docs/architecture.md, "How to add a metric" (a test compares them).
MATTHEWS = '''\
"""Matthews correlation coefficient of the labels with the truth, positive class against the rest."""

import numpy as np
from sklearn.metrics import matthews_corrcoef

from trainer.evaluation.metrics.metric import Metric, Undefined


def value(predictions):
    called = predictions.predicted == predictions.positive
    if len(set(called)) < 2 or len(set(predictions.is_positive)) < 2:
        return Undefined("all images are of one class, or called so")
    return float(matthews_corrcoef(predictions.is_positive, called))


def resampled(resamples):
    truth = resamples.predictions.is_positive.astype(float)
    called = (resamples.predictions.predicted == resamples.predictions.positive).astype(float)
    n = resamples.counts.sum(axis=1)
    p, q, both = (resamples.counts @ values / n for values in (truth, called, truth * called))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (both - p * q) / np.sqrt(p * (1 - p) * q * (1 - q))


METRICS = (
    Metric(
        name="mcc",
        value=value,
        resampled=resampled,
        title="Matthews correlation",
        meaning="Correlation of the answer {positive} with the truth; 1 is perfect, 0 is guessing.",
        tile=True,
        console="MCC",
    ),
)
'''


@pytest.fixture
def add_file(tmp_path, monkeypatch):
    """Return a function that adds a file to the package of metrics, from a folder outside it, until the test ends."""
    folder = tmp_path / "more_metrics"
    folder.mkdir()

    def add(name, text):
        (folder / f"{name}.py").write_text(text)
        registry.all_metrics.cache_clear()

    before = set(sys.modules)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(folder)])
    yield add
    for name in set(sys.modules) - before:
        if name.startswith(metrics.__name__):
            del sys.modules[name]
            vars(metrics).pop(name.rpartition(".")[2], None)
    registry.all_metrics.cache_clear()


def random_predictions(count=300, classes=2, threshold=0.5):
    rng = np.random.default_rng(7)
    labels = rng.integers(classes, size=count)
    probabilities = rng.dirichlet(np.ones(classes), count) + 0.4 * np.eye(classes)[labels]
    probabilities = np.round(probabilities / probabilities.sum(axis=1, keepdims=True), 2)  # With ties.
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    names = ("Fake", "Real", "Drawn")[:classes]
    return Predictions.of(labels, probabilities.astype(np.float32), names, 0, threshold)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Return an export, a split to evaluate it on, and its true classes and probabilities."""
    folder = tmp_path_factory.mktemp("metric")
    export = write_export(folder / "best" / "1", ["Fake", "Real"])
    reds = {"Fake": [250, 200, 180, 160, 90, 140, 30], "Real": [10, 40, 60, 150, 100, 90, 20, 210]}
    for name, values in reds.items():
        for number, red in enumerate(values):
            write_image(folder / "data" / "Test" / name / f"{number}.png", (red, 90, 120))
    truth = np.repeat([True, False], [7, 8])
    return export, folder / "data", truth, np.concatenate(list(reds.values())) / 255


@pytest.mark.slow
def test_one_new_file_is_a_metric_everywhere(add_file, evaluated, tmp_path, capsys):
    add_file("matthews", MATTHEWS)
    export, data, truth, p_fake = evaluated
    words = [f"--model_dir={export}", f"--data_dir={data}", f"--out={tmp_path}/out", "--bootstrap=50", "--update_card"]
    code, printed, _ = answer(capsys, evaluate.main, *words)
    assert code == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = sk.matthews_corrcoef(truth, p_fake >= 0.5)
    assert figures["mcc"] == pytest.approx(expected)
    low, high = figures["ci95"]["mcc"]
    assert low < expected < high
    assert f"  MCC       {expected:.4f}  (95%: {low:.4f} to {high:.4f})" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<span>Matthews correlation</span><b>{expected:.3f}</b>" in page
    assert "Correlation of the answer Fake with the truth" in page
    card = (Path(export) / EXPORT_CARD).read_text()
    assert f"| Matthews correlation | {expected:.3f} | {low:.3f} to {high:.3f} |" in card


def test_the_documented_example_is_the_one_that_works():
    assert MATTHEWS in (ROOT / "docs" / "architecture.md").read_text()


def test_the_direction_of_a_metric_decides_the_verdict(add_file, tmp_path, capsys):
    miscalled = MATTHEWS.replace('name="mcc",', 'name="miscalled", lower_is_better=True,')
    miscalled = miscalled.replace("float(matthews", "-float(matthews").replace("return (both", "return -(both")
    add_file("miscalled", miscalled)
    add_file("matthews", MATTHEWS)
    labels, weak = made(1, skill=0.3)
    write_evaluation(tmp_path / "weak", PATHS, labels, of_fake(weak))
    write_evaluation(tmp_path / "strong", PATHS, labels, of_fake(made(2, skill=2.0)[1]))
    words = [f"--compare={tmp_path}/weak,{tmp_path}/strong", f"--out={tmp_path}/out", "--bootstrap=200"]
    assert answer(capsys, evaluate.main, *words)[0] == 0
    differences = json.loads((tmp_path / "out" / "compare.json").read_text())["differences"]["strong"]
    assert differences["mcc"]["difference"] == -differences["miscalled"]["difference"] > 0
    assert (differences["mcc"]["verdict"], differences["miscalled"]["verdict"]) == ("better", "better")
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count(">lower is better<") == sum(metric.lower_is_better for metric in metrics.all_metrics().values())


def test_undefined_is_null_with_the_reason_of_the_metric(add_file):
    add_file("matthews", MATTHEWS)
    only_fake = Predictions.of(np.zeros(3, int), np.full([3, 2], 0.5, np.float32), ("Fake", "Real"), 0, 0.5)
    figures = metrics.measure(only_fake, resamples=20, seed=0)
    assert figures["mcc"] is figures["ci95"]["mcc"] is None
    assert (
        figures["undefined"]["mcc"] == figures["undefined"]["ci95.mcc"] == "all images are of one class, or called so"
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_resampled_metrics_of_counts_of_one_are_the_metrics(classes):
    predictions = random_predictions(2500, classes)
    figures = metrics.measure(predictions, resamples=0, seed=0)
    values = metrics.resampled(predictions)(np.ones([1, 2500]))
    assert values.keys() == figures["ci95"].keys() == registry.of_classes(classes).keys()
    for name, value in values.items():
        assert value[0] == pytest.approx(metrics.by_name(figures, name)), name


def test_counts_are_repeated_images_for_every_metric():
    predictions = random_predictions(200, 3)
    counts = np.random.default_rng(1).integers(0, 4, size=[2, 200]).astype(float)
    values = metrics.resampled(predictions)(counts)
    for row, repeats in enumerate(counts.astype(int)):
        repeated = predictions.select(np.repeat(np.arange(200), repeats))
        figures = metrics.measure(repeated, resamples=0, seed=0)
        for name in set(values) - {"tpr_at_fpr.0.001"}:  # Undefined for a whole split of so few images.
            assert values[name][row] == pytest.approx(metrics.by_name(figures, name)), name


def test_what_metrics_share_is_computed_once():
    calls = []

    def of_block(block):
        calls.append("block")
        return block.counts.sum()

    def of_images(predictions):
        calls.append("images")
        return predictions.p_fake

    predictions, per_image = random_predictions(20), {}
    for total in (20, 40):
        block = metrics.Resamples(predictions, np.full([1, 20], total / 20), per_image)
        assert [block.once(of_block), block.once(of_block)] == [total, total]
        assert block.of_images(of_images) is block.of_images(of_images)
    assert calls == ["block", "images", "block"]


def test_orders_name_metrics_that_exist():
    names = set(registry.all_metrics())
    assert names == set(registry.IN_TABLES) == set(registry.IN_INTERVALS)
    assert set(registry.ABOVE_CLASSES) < names
    assert registry.ordered({"new", "brier", "accuracy", "also"}, registry.IN_TABLES) == [
        "accuracy", "brier", "also", "new",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("METRIC = ()", "wrong: expected METRICS, a tuple of Metric, received None"),
        ("METRICS = ['accuracy']", "expected METRICS, a tuple of Metric, received"),
        (
            "from trainer.evaluation.metrics import accuracy\nMETRICS = accuracy.METRICS[:1]",
            "expected a new name of a metric, received 'accuracy' again",
        ),
    ],
)
def test_a_file_that_is_not_a_metric_is_refused(add_file, text, message):
    add_file("wrong", text)
    with pytest.raises(ValueError, match=message):
        registry.all_metrics()


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")  # As recompute.py clips them.
def test_the_independent_recomputation_knows_every_metric():
    predictions = random_predictions(60, 3)
    expected = recompute.flat_figures(
        predictions.labels, predictions.probabilities, predictions.predicted, list(predictions.class_names)
    )
    assert set(registry.all_metrics()) <= set(expected)
