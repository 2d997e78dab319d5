"""The metrics of an evaluation: one file for each metric or family, and what measures them all.

A file in this folder with a tuple ``METRICS`` adds metrics; see docs/architecture.md, "How to add a metric".
"""

from trainer.evaluation.metrics.metric import Metric, Resamples, Undefined
from trainer.evaluation.metrics.probability_scores import cross_entropy, squared_distance
from trainer.evaluation.metrics.registry import all_metrics
from trainer.evaluation.metrics.summary import by_name, measure, resampled, validation_summary

__all__ = [
    "Metric", "Resamples", "Undefined", "all_metrics", "by_name", "cross_entropy", "measure", "resampled",
    "squared_distance", "validation_summary",
]  # fmt: skip
