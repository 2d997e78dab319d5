"""Recompute every metric of metrics.json from predictions.csv alone, with scikit-learn where it has the metric."""

import math
import warnings

import numpy as np
from scipy.optimize import brentq
from sklearn import metrics as sk

SETTINGS = {"split", "data_dir", "class_names", "positive_class", "skipped", "model", "bootstrap", "seed", "threshold",
            "n", "ci95", "undefined", "drawn", "threshold_choice", "learned", "learned_because"}  # fmt: skip


def read_predictions(rows, figures):
    """Return labels [N], probabilities [N, C] and answers [N] of the rows of predictions.csv."""
    names = figures["class_names"]
    labels = np.array([names.index(row["label"]) for row in rows])
    if len(names) > 2:
        p = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
        assert [row["predicted"] for row in rows] == [names[label] for label in p.argmax(1)]
        return labels, p / p.sum(1, keepdims=True), p.argmax(1)
    fake = np.array([float(row["p_fake"]) for row in rows])
    p = np.stack([fake, 1 - fake], axis=1)
    return labels, p, np.where(fake.astype(np.float32) >= np.float32(figures["threshold"]), 0, 1)


def ranked(truth, scores, *, need_negatives=True):
    """Return the metrics of the ROC and precision-recall curves; NaN with one class only."""
    names = ["auc", "average_precision", "eer", "tpr_at_fpr.0.01", "tpr_at_fpr.0.001"]
    if truth.all() or not truth.any():
        return dict.fromkeys(names, math.nan)
    fpr, tpr, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    values = [
        sk.roc_auc_score(truth, scores),
        sk.average_precision_score(truth, scores),
        brentq(lambda x: 1 - x - np.interp(x, fpr, tpr), 0, 1),
    ]
    for limit in (0.01, 0.001):
        enough = (~truth).sum() >= 1 / limit or not need_negatives
        values.append(tpr[fpr <= limit].max() if enough else math.nan)
    return dict(zip(names, values, strict=True))


def flat_figures(labels, p, called, names, *, need_negatives=True):
    """Return every metric by its name in ``undefined``; NaN where it is undefined."""
    classes = range(len(names))
    right = called == labels
    confidence = p[np.arange(len(labels)), called]
    ece = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    values = {
        "accuracy": sk.accuracy_score(labels, called),
        "log_loss": sk.log_loss(labels, np.clip(p, 1e-7, 1 - 1e-7), labels=list(classes)),
        "ece": ece,
        **ranked(labels == 0, p[:, 0], need_negatives=need_negatives),
    }
    if len(names) == 2:
        values["brier"] = sk.brier_score_loss(labels == 0, p[:, 0], pos_label=True)
    else:
        values["brier"] = ((np.eye(len(names))[labels] - p) ** 2).sum(1).mean()
        aucs = [ranked(labels == label, p[:, label])["auc"] for label in classes]
        values["macro.auc"] = np.mean(aucs)
    columns = sk.precision_recall_fscore_support(labels, called, labels=list(classes), zero_division=np.nan)
    for figure, of_classes in zip(("precision", "recall", "f1"), columns[:3], strict=True):
        values |= {f"per_class.{name}.{figure}": value for name, value in zip(names, of_classes, strict=True)}
        values[f"macro.{figure}"] = np.mean(of_classes)
    all_there = len(np.unique(labels)) == len(names)
    values["balanced_accuracy"] = sk.balanced_accuracy_score(labels, called) if all_there else math.nan
    return values


def flatten(figures, prefix=""):
    """Return ``{"a.b": value}`` of nested figures."""
    flat = {}
    for name, value in figures.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def check(figures, rows):
    """Compare all of metrics.json (of one evaluation, without its further parts) with what predictions.csv gives."""
    labels, p, called = read_predictions(rows, figures)
    names, undefined = figures["class_names"], figures["undefined"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = flat_figures(labels, p, called, names)
        resamples = _resamples(labels, p, called, figures)
    if len(np.unique(p[:, 0])) == 1:  # Nothing is ranked; scikit-learn says 0.5.
        expected |= dict.fromkeys(ranked(labels == 0, p[:, 0]), math.nan)
    if len(names) > 2 and any(len(np.unique(column)) == 1 for column in p.T):
        expected["macro.auc"] = math.nan
    assert figures["n"] == len(rows)
    assert figures["confusion_matrix"] == sk.confusion_matrix(labels, called, labels=range(len(names))).tolist()
    found = flatten({name: value for name, value in figures.items() if name not in SETTINGS})
    found.pop("confusion_matrix")
    counts = {f"per_class.{name}.n": int((labels == label).sum()) for label, name in enumerate(names)}
    assert {name: found.pop(name) for name in counts} == counts
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if math.isnan(value):
            assert found[name] is None, name
            assert undefined[name], name
        else:
            assert math.isclose(found[name], value, rel_tol=1e-6, abs_tol=1e-9), (name, found[name], value)
            assert name not in undefined
    _check_intervals(figures, expected, resamples)


def _resamples(labels, p, called, figures):
    """Draw resamples as ``bootstrap.py`` does (single images, in one block), and measure each."""
    draws = np.random.default_rng(figures["seed"]).integers(len(labels), size=(figures["bootstrap"], len(labels)))
    return [flat_figures(labels[i], p[i], called[i], figures["class_names"], need_negatives=False) for i in draws]


def _check_intervals(figures, expected, resamples):
    names = {"accuracy", "log_loss", "brier", "balanced_accuracy", "auc", "average_precision", "eer",
              "tpr_at_fpr.0.01", "tpr_at_fpr.0.001", "ece"}  # fmt: skip
    assert figures["ci95"].keys() == names | ({"macro.auc"} if len(figures["class_names"]) > 2 else set())
    for name, interval in figures["ci95"].items():
        values = np.array([resample[name] for resample in resamples])
        defined = values[np.isfinite(values)]
        if math.isnan(expected[name]) or figures["n"] == 1 or not len(defined):
            assert interval is None, name
            assert figures["undefined"][f"ci95.{name}"], name
        else:
            np.testing.assert_allclose(interval, np.percentile(defined, [2.5, 97.5]), rtol=1e-6, atol=1e-9)
