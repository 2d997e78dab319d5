"""What ``benchmark.py gpu`` writes: one JSON file and one Markdown page, of all measurements so far.

MFU, model FLOPs utilisation (Chowdhery et al. 2022, "PaLM", arXiv:2204.02311, appendix B): images a second times the
FLOPs that a train step of this network needs for an image (``benchmark_roofline.py``), divided by the peak rate.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import benchmark_roofline as roofline
import benchmark_ways as ways
from benchmark_ways import Way
from benchmark_worker import Measured

from trainer.distributed import accelerators

_NOTES = """\
- "range": least and most of all rounds; ways take turns, so a disturbance hits all alike. "first": seconds until the
  first step is done, with building, tracing and compiling; of a job, of the whole command.
- MFU: images/s x FLOPs of the network an image / peak. Peak: {peak}.
- "of the bound": least time of an image by the roofline of this network (docs/performance.md), layer by layer, divided
  by the measured time; small batches on a CPU stay in its caches and can be faster.
- "MB an image": what the memory could have moved meanwhile, at {bandwidth}; the network must move {needed}."""


@dataclasses.dataclass(frozen=True)
class Peaks:
    """What the machine can do.

    Attributes:
        flops: a second, by Keras's name of the precision.
        bytes: of memory a second.
        source: where both come from.
    """

    flops: dict[str, float]
    bytes: float
    source: str


@dataclasses.dataclass
class Table:
    """Measurements of one run.

    Attributes:
        title: the command's word.
        facts: machine, versions, command and sizes, in the order in which they are shown.
        image_size: of the network, pixels.
        batch_size: images of a step.
        device: name of the card; empty: a CPU.
        rows: measurements of each way, in the order of their first.
    """

    title: str
    facts: dict[str, str]
    image_size: int
    batch_size: int
    device: str = ""
    rows: dict[Way, list[Measured]] = dataclasses.field(default_factory=dict)

    def add(self, way: Way, measured: Measured) -> None:
        """Add a measurement."""
        self.rows.setdefault(way, []).append(measured)

    def rate(self, way: Way) -> float:
        """Return the median; 0 if there is none."""
        rates = [each.rate for each in self.rows.get(way, []) if not each.error]
        return statistics.median(rates) if rates else 0.0

    def write(self, stem: Path) -> None:
        """Write ``<stem>.json`` and ``<stem>.md``, each as a whole."""
        for suffix, text in ((".json", self.json()), (".md", "\n".join(self.markdown()) + "\n")):
            partial = stem.with_suffix(".partial")
            partial.write_text(text)
            partial.replace(stem.with_suffix(suffix))

    def json(self) -> str:
        """Return everything that was measured."""
        rows = [
            {"name": way.name, **dataclasses.asdict(way), "median": self.rate(way),
             "measurements": [dataclasses.asdict(each) for each in measured]}
            for way, measured in self.rows.items()
        ]  # fmt: skip
        return json.dumps(
            {"benchmark": self.title, **self.facts, "rows": rows, "ratios": dict(self.ratios())}, indent=1
        )

    def peaks(self) -> Peaks:
        """Return the data sheet's figures of a card that is known, else what the bare product and copy reach."""
        card = accelerators.find(self.device)
        if card is None:
            flops = {way.precision: self.rate(way) for way in self.rows if way.kind == ways.PRODUCT}
            return Peaks(flops, self.rate(Way(ways.COPY)), "the bare product and copy of this run")
        half = card.half_tflops * 1e12
        flops = {ways.BFLOAT16: half, ways.FLOAT16: half, ways.FLOAT32: card.tf32_tflops * 1e12}
        return Peaks(flops, card.memory_gb_per_s * 1e9, f"the data sheet of {card.name} (float32: TF32)")

    def ratios(self) -> Iterator[tuple[str, float]]:
        """Yield the ratios that a fast job has near 1 or above, of those that were measured."""
        best = ways.BFLOAT16 if Way(ways.PRODUCT, ways.BFLOAT16) in self.rows else ways.FLOAT32
        cached = max((Way(ways.TRAIN, best, xla, ways.MEMORY) for xla in (False, True)), key=self.rate)
        files = max((Way(ways.TRAIN, best, xla, ways.FILES) for xla in (False, True)), key=self.rate)
        step = max((Way(ways.STEP, best, xla) for xla in (False, True)), key=self.rate)
        warped = max((Way(ways.STEP, best, xla, augment="notebook") for xla in (False, True)), key=self.rate)
        keras = max((way for way in self.rows if way.kind == ways.TRAIN_ON_BATCH), key=self.rate, default=step)
        torch = Way(ways.MODULE, ways.BFLOAT16, True)
        pairs = {
            "job from files / cached job": (files, cached),
            "cached job / its step with the notebook's augmentation": (cached, warped),
            "best step / best train_on_batch of Keras": (step, keras),
            "best step / PyTorch compiled": (step, torch),
            "cached job / the notebook's job": (cached, Way(ways.NOTEBOOK, ways.FLOAT32)),
        }
        for name, (above, below) in pairs.items():
            if above != below and self.rate(above) and self.rate(below):
                yield name, self.rate(above) / self.rate(below)

    def markdown(self) -> Iterator[str]:
        """Yield the lines of the page."""
        yield f"# Benchmark: {self.title}\n"
        yield from (f"- {name}: {value}" for name, value in self.facts.items())
        yield from self._limits()
        layers = roofline.costs_of("cnn", self.image_size, self.batch_size)
        peaks = self.peaks()
        head = ("what", "images/s", "range", "first, s", "TFLOP/s", "MFU", "of the bound", "MB an image", "note")
        yield "\n" + _line(head)
        yield _line(["---"] * len(head))
        yield from (_line(self._cells(way, layers, peaks)) for way in self.rows if way.kind not in ways.LIMITS)
        yield ""
        yield from (f"- **{name}: {value:.2f}**" for name, value in self.ratios())
        yield ""
        needed = f"{roofline.total(layers).bytes / 1e6:.1f} MB in bfloat16"
        rate = f"{peaks.bytes / 1e9:,.0f} GB/s"
        yield _NOTES.format(peak=peaks.source, bandwidth=rate, needed=needed)

    def _limits(self) -> Iterator[str]:
        """Yield what the bare product and copy reach."""
        peaks = self.peaks()
        for way in (way for way in self.rows if way.kind in ways.LIMITS):
            value = self.rate(way)
            peak = peaks.bytes if way.kind == ways.COPY else peaks.flops.get(way.precision, 0.0)
            unit = f"{value / 1e9:,.1f} GB/s" if way.kind == ways.COPY else f"{value / 1e12:,.2f} TFLOP/s"
            share = f", {value / peak:.0%} of the data sheet" if accelerators.find(self.device) and peak else ""
            yield f"- {way.name}: {f'{unit}{share}' if value else self.rows[way][-1].error}"

    def _cells(self, way: Way, layers: Sequence[roofline.LayerCost], peaks: Peaks) -> list[str]:
        measured, rate = self.rows[way], self.rate(way)
        problem = next((each.error for each in measured if each.error), "")
        if not rate:
            return [way.name, *["—"] * 7, problem.replace("|", "/")]
        rates = [each.rate for each in measured if not each.error]
        flops = rate * roofline.total(layers).flops
        peak = peaks.flops.get(way.precision, 0.0)
        exact = roofline.costs_of("cnn", self.image_size, self.batch_size, roofline.SINGLE)
        known = peak and peaks.bytes
        least = roofline.bound(exact if way.precision == ways.FLOAT32 else layers, peak, peaks.bytes) if known else 0.0
        note = "; ".join(dict.fromkeys(each.note or each.error for each in measured if each.note or each.error))
        return [
            way.name, _rounded(rate), f"{_rounded(min(rates))} to {_rounded(max(rates))}",
            f"{measured[0].first_seconds:.1f}", f"{flops / 1e12:.3f}", f"{flops / peak:.1%}" if peak else "—",
            f"{least * rate:.1%}" if known else "—", f"{peaks.bytes / rate / 1e6:,.0f}" if peaks.bytes else "—", note,
        ]  # fmt: skip


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
