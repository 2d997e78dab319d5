"""``model_card.md``, next to ``deepdetect.json``: what an exported model is, what was measured, and what is unknown.

People may edit a card: an evaluation replaces its own section and leaves the rest unchanged.
Owns: the words of the card.  Does not own: metrics (``evaluation/metrics/``), when a card is made (``exporter.py``,
``export.py``, ``evaluate.py``).  Imports no TensorFlow.
"""

import dataclasses
import datetime
import functools
import json
import logging
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from trainer import __version__
from trainer.core import terminal
from trainer.core.errors import StoppedEarly
from trainer.core.job_dir import EXPORT_CARD
from trainer.core.storage import files
from trainer.core.storage.transient import may_pass
from trainer.data import input_rule
from trainer.data.faces import crop_rule
from trainer.evaluation import calibration, metrics, sources
from trainer.evaluation.predictions import Predictions
from trainer.reports import console, evaluation_sections, html, hub_card, metric_titles
from trainer.serving import temperature as temperature_lib

log = logging.getLogger(__name__)

VALIDATION = "Validation"
RESAMPLES = 400  # Enough for two digits of an interval; a large Validation must not delay the job.
_RARE = 0.01  # Assumed share of forgeries when the card says how many positive answers are right.
_BEGIN = "<!-- evaluations: trainer.evaluate writes between this line and the end -->"
_END = "<!-- end of evaluations -->"
_SECTION_END = "<!-- end of split -->"


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What the card of an export says in addition to ``deepdetect.json``; empty where it is not known.

    Attributes:
        images: used images by split and class.
        skipped: images that could not be decoded, by split.
        held_out: whether Validation was split off from Train.
        figures: metrics of Validation, see ``measure``; None if it was not scored for the export.
        made: further rows about how the model was made.
        audit: findings of an audit of the data, see ``digest.py``; None without one.
        warning: what is wrong with the model, the first line of the card; empty: nothing.
        sources: whether Train and Validation share sources, a sentence; empty: no source is known.
    """

    images: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    held_out: bool = False
    figures: Mapping[str, Any] | None = None
    made: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    audit: Mapping[str, Any] | None = None
    warning: str = ""
    sources: str = ""


class Markdown(str):
    """Text that is already Markdown; templates escape all other text."""


def escape(value: Any) -> Any:
    """Return text escaped for Markdown, on one line and within one table cell."""
    if not isinstance(value, str) or isinstance(value, Markdown):
        return value
    return re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", terminal.in_line(files.printable(" ".join(value.split()))))


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.reports", "templates"), finalize=escape, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip


def measure(
    labels: npt.NDArray[np.integer[Any]],
    probabilities: npt.NDArray[np.float32],
    names: Sequence[str],
    metadata: Mapping[str, Any],
    image_sources: sources.Sources | None = None,
) -> dict[str, Any]:
    """Return the metrics of Validation with 95% intervals, as in ``metrics.json``.

    Args:
        labels: ``[N]``, N >= 1.
        probabilities: ``[N, C]`` before the temperature.
        names: of the images, ``<split>/<class>/...``; they identify frames of one video.
        metadata: ``class_names``, ``positive_class``, ``threshold`` and ``temperature`` of the export.
        image_sources: of the images; None: names tell them.
    """
    classes = metadata["class_names"]
    temperature = metadata["temperature"]
    tempered = temperature_lib.temper(np.asarray(probabilities, np.float64), temperature)
    predictions = Predictions.of(
        labels, tempered, classes, classes.index(metadata["positive_class"]), metadata["threshold"]
    )
    image_sources = image_sources or sources.find_sources("auto", names, {})
    figures = metrics.measure(predictions, resamples=RESAMPLES, seed=0, sources=image_sources.numbers)
    figures |= {"drawn": image_sources.describe(len(labels)), "bootstrap": RESAMPLES, "seed": 0}
    if temperature != 1.0:
        figures["calibration"] = calibration.effect(predictions, temperature)
    return figures


def _crop_text(metadata: Mapping[str, Any]) -> str:
    rule = crop_rule.of_metadata(metadata.get("faces"), "deepdetect.json")
    return rule.text if rule else ""


def render(metadata: Mapping[str, Any], facts: CardFacts) -> str:
    """Return the card of an export.

    Args:
        metadata: the contents of ``deepdetect.json``.
        facts: everything else that is known.
    """
    names = metadata["class_names"]
    positive = metadata["positive_class"]
    others = [name for name in names if name != positive]
    config = metadata.get("config", {})
    choice = metadata.get("threshold_choice") or {}
    about = {"class_names": names, "threshold": metadata["threshold"], "threshold_choice": choice or None}
    about["calibration"] = (facts.figures or {}).get("calibration")
    text = (
        _templates()
        .get_template("model_card.md")
        .render(
            meta=metadata,
            warning=facts.warning,
            input=input_rule.of_export(metadata).text,
            faces=_crop_text(metadata),
            classes=", ".join(names),
            positive=positive,
            rest=others[0] if len(others) == 1 else "all other classes",
            config=config,
            settings=Markdown(json.dumps(config, indent=1)),
            images=facts.images,
            skipped=facts.skipped,
            held_out=facts.held_out,
            sources=facts.sources,
            audit=evaluation_sections.audit(facts.audit),
            figures=metric_titles.rows(facts.figures) if facts.figures else [],
            scored=facts.figures["n"] if facts.figures else 0,
            intervals=metric_titles.intervals(facts.figures) if facts.figures else "",
            measured=[(name, html.number(value, False)) for name, value in metadata.get("validation", {}).items()],
            threshold=evaluation_sections.threshold(about, positive),
            temperature=metadata.get("temperature", 1.0),
            choice=choice,
            rare=_rare(choice),
            made=_made(metadata, facts),
            begin=Markdown(_BEGIN),
            end=Markdown(_END),
        )
    )
    return hub_card.with_results(text, metadata, VALIDATION, facts.figures)


def _rare(choice: Mapping[str, Any]) -> str:
    """Return how many of 100 positive answers are right if forgeries are rare (Bayes), from the rates on Validation.

    Empty without a false alarm there: in a small Validation that is luck.
    """
    hits = choice.get("tpr")
    alarms = choice.get("fpr")
    if not hits or not alarms:
        return ""
    return f"{100 * hits * _RARE / (hits * _RARE + alarms * (1 - _RARE)):.0f}"


def _made(metadata: Mapping[str, Any], facts: CardFacts) -> dict[str, Any]:
    """Return the rows about how the model was made that are known."""
    config = metadata.get("config", {})
    rows = {
        "Made": metadata.get("created"),
        "Step": metadata.get("step"),
        "Epoch": metadata.get("epoch"),
        "Monitor": metadata.get("monitor"),
        "Seed": config.get("seed"),
        "Precision in training": metadata.get("precision"),
        **facts.made,
        "Versions": ", ".join(f"{name} {version}" for name, version in metadata.get("versions", {}).items()),
    }
    return {name: str(value) for name, value in rows.items() if value not in (None, "")}


def attempt(make: Callable[[], str]) -> str:
    """Return a card; log an error and return "" if it fails, because a card must not cost a trained model.

    What the next start may find in order, a storage that is away or a full disk, is not caught, nor is a stop request.
    """
    try:
        return make()
    except StoppedEarly:
        raise
    except Exception as error:
        if may_pass(error):
            raise
        log.exception("the model card could not be made")
        return ""


def add_evaluation(version: str, details: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Add an evaluation to the card of an export, replacing an earlier one of that split; return the card's path.

    Args:
        version: folder of the export; a card is created if it has none.
        details: its ``deepdetect.json``.
        figures: the contents of ``metrics.json``.
    """
    path = files.join(version, EXPORT_CARD)
    card = files.read_text(path) if files.exists(path) else render(details, CardFacts())
    split = str(figures["split"])
    files.write_text(path, hub_card.with_results(with_section(card, split, _section(figures)), details, split, figures))
    return path


def with_section(card: str, split: str, section: str) -> str:
    """Return the card with the section of a split, replacing an earlier one or after the others."""
    marker = f"<!-- split {urllib.parse.quote(split, safe='')} -->"
    before, _, rest = card.partition(_BEGIN)
    within, _, after = rest.partition(_END)
    pattern = re.compile(rf"^(<!-- split \S+ -->)\n(.*?)^{_SECTION_END}$", re.DOTALL | re.MULTILINE)
    sections = dict(pattern.findall(within)) | {marker: section}
    text = "\n".join(f"{name}\n{content}{_SECTION_END}\n" for name, content in sections.items())
    return f"{before.rstrip()}\n\n{_BEGIN}\n\n{text}\n{_END}{after}".rstrip() + "\n"


def _section(figures: Mapping[str, Any]) -> str:
    robustness = figures.get("robustness")
    table = [] if robustness is None else [("unchanged", "", robustness["unchanged"])]
    for kind, what in (robustness or {"kinds": {}})["kinds"].items():
        table += [(kind, f"{what['unit']} {result['strength']:g}", result) for result in what["results"]]
    return (
        _templates()
        .get_template("model_card_evaluation.md")
        .render(
            figures=figures,
            warning=console.no_use(figures),
            rows=metric_titles.rows(figures),
            intervals=metric_titles.intervals(figures),
            threshold=evaluation_sections.threshold(figures, figures["positive_class"]),
            matrix=list(zip(figures["class_names"], figures["confusion_matrix"], strict=True)),
            audit=evaluation_sections.audit(figures.get("audit"), figures["split"], figures["auc"]),
            robustness=[(kind, strength, *_cells(result)) for kind, strength, result in table],
            worst=console.worst_fall(robustness) if robustness else "",
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            version=__version__,
        )
    )


def _cells(result: Mapping[str, Any]) -> list[str]:
    cells = [metric_titles.cell(result, name) for name in ("auc", "accuracy")]
    return [f"{cell['value']} ({cell['note']})" if cell["note"] else cell["value"] for cell in cells]
