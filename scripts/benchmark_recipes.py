"""Train every recipe with several seeds on the same images, and print the table of docs/recipes.md.

  python scripts/benchmark.py recipes
  python scripts/benchmark.py recipes --data_dir=faces --recipes=notebook,transfer --seeds=3 --out=runs
  python scripts/benchmark.py recipes --write=docs/recipes.md

Without --data_dir the images are drawn faces, at a difficulty where the notebook's recipe learns something but not all.
A recipe's own seeds, epochs and sizes are used.  AUC after JPEG 60 is of Test recompressed at quality 60.  A run that
is already in --out is not repeated.  The CPU minutes are those of the training command on all cores together, from
its start to its end, user and system: other work on the machine changes them less than it does the clock's.  Of a run
that was interrupted and resumed they are those of the last start.
"""

import argparse
import dataclasses
import io
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark_notebook import ROOT, draw, run_module
from PIL import Image

JPEG_QUALITY = 60
BEGIN, END = "<!-- table: scripts/benchmark.py recipes -->", "<!-- end of the table -->"
DEFAULTS = "defaults"
HEAD = ("recipe", "Test AUC", "of each seed", "95% interval", "EER", "AUC after JPEG 60", "parameters", "CPU minutes")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training with one seed.

    Attributes:
        auc: on Test.
        low: lower end of its 95% interval.
        high: upper end.
        eer: equal error rate on Test.
        recompressed_auc: on Test at JPEG quality 60.
        parameters: trained and fixed variables of the model.
        cpu_minutes: of the whole training command, user and system, of all its threads and processes.
    """

    auc: float
    low: float
    high: float
    eer: float
    recompressed_auc: float
    parameters: int
    cpu_minutes: float


def main(argv: Sequence[str]) -> int:
    """Run what is missing and print the table."""
    arguments = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(arguments.out or scratch)
        out.mkdir(parents=True, exist_ok=True)
        data = Path(arguments.data_dir) if arguments.data_dir else draw(out / "data", arguments)
        recompressed = recompress(data, out / f"jpeg{JPEG_QUALITY}")
        lines = [f"Command: `{_command(argv)}`", "", _line(HEAD), _line(["---"] * len(HEAD))]
        print("\n".join(lines), flush=True)
        for recipe in arguments.recipes.split(","):
            runs = list(_runs(recipe, data, recompressed, out, arguments.seeds, arguments.epochs))
            lines.append(_row(recipe, runs))
            print(lines[-1], flush=True)
    if arguments.write:
        write_table(Path(arguments.write), lines)
    return 0


def _command(argv: Sequence[str]) -> str:
    """Return the command for people who repeat it, without the places where this one wrote."""
    words = [word for word in argv if not word.startswith(("--out=", "--write="))]
    return " ".join(["python scripts/benchmark.py recipes", *words])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names = ",".join(sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")))
    add("--recipes", default=names, help=f"(default {names}); {DEFAULTS} is a job without any")
    add("--data_dir", default="", help="Train, Validation and Test (default: drawn faces)")
    add("--out", default="", help="keep jobs and results here, and continue from them (default: a temporary folder)")
    add("--seeds", type=int, default=3, help="(default 3)")
    add("--train_per_class", type=int, default=750, help="of drawn faces (default 750)")
    add("--difficulty", type=float, default=0.4, help="of drawn faces (default 0.4)")
    add("--epochs", type=int, default=0, help="of every recipe, to compare at equal images seen (default: its own)")
    add("--write", default="", help="also replace the table in this page")
    return parser


def recompress(data: Path, out: Path) -> Path:
    """Write Test again at JPEG quality 60, once; return the folder of the new set."""
    for path in sorted((data / "Test").glob("*/*")):
        copy = out / "Test" / path.parent.name / f"{path.stem}.jpg"
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.open(path).convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
            copy.write_bytes(buffer.getvalue())
    return out


def _runs(recipe: str, data: Path, recompressed: Path, out: Path, seeds: int, epochs: int) -> Iterator[Run]:
    """Yield the runs of one recipe; ``epochs`` 0 means its own number."""
    for seed in range(seeds):
        job = out / (f"{recipe}-{epochs}-epochs-{seed}" if epochs else f"{recipe}-{seed}")
        config = [] if recipe == DEFAULTS else [f"--config={ROOT / 'recipes' / recipe}.yaml"]
        flags = [*config, f"--data_dir={data}", f"--seed={seed}"]
        if epochs:
            flags.append(f"--epochs={epochs}")
        file = Path(f"{job}.json")
        if not file.exists():
            file.write_text(json.dumps(dataclasses.asdict(_run(job, flags, data, recompressed))))
        yield Run(**json.loads(file.read_text()))


def _run(job: Path, settings: Sequence[str], data: Path, recompressed: Path) -> Run:
    """Train one recipe with one seed and score both sets."""
    log = Path(f"{job}.log")
    began = _children_cpu_minutes()
    flags = [*settings, f"--job_dir={job}"]
    run_module("trainer.train", flags, log)
    cpu_minutes = _children_cpu_minutes() - began
    figures = []
    for name, folder in (("test", data), ("recompressed", recompressed)):
        score = [f"--model_dir={job}/export/best", f"--data_dir={folder}", "--split=Test", f"--out={job}/{name}"]
        run_module("trainer.evaluate", score, log)
        figures.append(json.loads((job / name / "metrics.json").read_text()))
    low, high = figures[0]["ci95"]["auc"]
    return Run(
        auc=figures[0]["auc"], low=low, high=high, eer=figures[0]["eer"], recompressed_auc=figures[1]["auc"],
        parameters=_parameters(job), cpu_minutes=cpu_minutes,
    )  # fmt: skip


def _children_cpu_minutes() -> float:
    """Return the CPU minutes of all child processes that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) / 60


def _parameters(job: Path) -> int:
    """Count a model's variables in the newest checkpoint."""
    from trainer.core.arrays import MODEL_PREFIX
    from trainer.training.checkpoints.checkpoint import CheckpointStore

    newest = CheckpointStore(str(job / "checkpoints"), keep=1).newest()
    assert newest is not None
    return sum(array.size for name, array in newest.arrays.items() if name.startswith(MODEL_PREFIX))


def _row(recipe: str, runs: Sequence[Run]) -> str:
    aucs = [run.auc for run in runs]
    spread = f" ± {statistics.stdev(aucs):.3f}" if len(aucs) > 1 else ""
    mean = {name: statistics.fmean(getattr(run, name) for run in runs)
            for name in ("auc", "eer", "recompressed_auc", "cpu_minutes")}  # fmt: skip
    return _line([
        f"`{recipe}`", f"{mean['auc']:.3f}{spread}", ", ".join(f"{auc:.3f}" for auc in aucs),
        f"{min(run.low for run in runs):.3f} to {max(run.high for run in runs):.3f}", f"{mean['eer']:.3f}",
        f"{mean['recompressed_auc']:.3f}", f"{runs[0].parameters:,}", f"{mean['cpu_minutes']:.1f}",
    ])  # fmt: skip


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_table(page: Path, lines: Sequence[str], begin: str = BEGIN) -> None:
    """Replace what stands between the two marks of a page, the second of which is always the same.

    Raises:
        ValueError: if the page has no marks.
    """
    text = page.read_text()
    before, _, rest = text.partition(begin)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"expected {begin} and {END} in {page}, received a page without them")
    page.write_text("\n".join([f"{before}{begin}", "", *lines, "", f"{END}{after}"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
