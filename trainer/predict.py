"""Score images with an exported model: files, folders, globs or a list, to a table, CSV or JSONL.

Does not own: which files words name (``inputs.py``), how files are scored (``serving.py``).
"""

import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import tqdm

from trainer import config, errors, files, flags, inputs, serving
from trainer.config import Value
from trainer.errors import RequestError

USAGE = """\
Say for each image how likely it is a fake.

  python -m trainer.predict --model_dir=J/export/best PATH... [--out=F.csv|F.jsonl] [flags]

PATH is an image, a folder (with all below it), a glob (quote it to let ** cross folders) or gs://; "-" reads
paths from stdin, one a line.  Rows are path, label, p_fake, error, and p_<class> if there are more than two.

Exit codes: 0 every image has an answer; 1 some have none, their rows say why; 2 the request is wrong; 75 gs://
did not answer, try later."""


@dataclasses.dataclass(frozen=True)
class PredictFlags:
    """Settings of one prediction."""

    model_dir: str = config.setting(
        "", "Exported model: a job's export/best (its newest version is used) or one version of it."
    )
    out: str = config.setting("", "File to write, .csv or .jsonl; empty: a table on stdout.")
    batch_size: int = config.setting(32, "Images scored at a time.", unit="images", minimum=1)


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, model or paths are wrong.
    """
    given, words = flags.parse(argv, flags.fields_of(PredictFlags), usage=USAGE)
    request = PredictFlags(**given)  # type: ignore[arg-type]
    render = _renderer(request.out)
    for flag, path in (("model_dir", request.model_dir), ("out", request.out)):
        files.require_form(path, flag)
    export = serving.find_export(request.model_dir)
    paths = inputs.expand(words, sys.stdin)
    if request.out:
        files.require_writable(os.path.dirname(request.out) or ".", "out")
    rows = predict(export, paths, request.batch_size)
    if request.out:
        files.write_text(request.out, render(rows))
    else:
        print(render(rows), end="")
    return _conclude(rows, request.out)


def predict(export: serving.Export, paths: Sequence[str], batch_size: int) -> list[dict[str, Value | None]]:
    """Return a row for each path, in order: an answer, or an ``error`` and None elsewhere.

    Raises:
        RequestError: if the model does not load.
    """
    scorer = serving.Scorer(export)
    rows: list[dict[str, Value | None]] = []
    with tqdm.tqdm(total=len(paths), unit="image", file=sys.stderr, disable=None, leave=False) as bar:
        for answers in scorer.score(len(paths), lambda index: files.read_bytes(paths[index]), batch_size):
            indices = range(len(answers.labels))
            rows += [_row(export, paths[answers.start + index], answers, index) for index in indices]
            bar.update(len(answers.probabilities))
    return rows


def _row(export: serving.Export, path: str, answers: serving.Answers, index: int) -> dict[str, Value | None]:
    """Return the row of image ``index`` of a batch; nine digits give a float32 back exactly."""
    error = answers.errors.get(index)
    numbers = [None if error else float(f"{value:.9g}") for value in answers.probabilities[index]]
    row: dict[str, Value | None] = {
        "path": files.printable(path),
        "label": None if error else answers.labels[index],
        "p_fake": numbers[export.positive],
        "error": error,
    }
    if len(export.class_names) > 2:
        row |= {f"p_{name}": number for name, number in zip(export.class_names, numbers, strict=True)}
    return row


def _renderer(out: str) -> Any:
    """Return what turns rows into the text of the wanted form.

    Raises:
        RequestError: for an extension that is neither .csv nor .jsonl.
    """
    extension = os.path.splitext(out)[1].lower()
    renderers = {".csv": to_csv, ".jsonl": to_jsonl}
    if out and extension not in renderers:
        raise RequestError(f"--out: expected a file that ends in .csv or .jsonl, received {out!r}")
    return renderers.get(extension, to_table)


def to_csv(rows: Sequence[dict[str, Value | None]]) -> str:
    """Return rows as CSV with a header; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_jsonl(rows: Sequence[dict[str, Value | None]]) -> str:
    """Return rows as one JSON object a line; None is null."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def to_table(rows: Sequence[dict[str, Value | None]]) -> str:
    """Return rows as aligned text for a person, the path last because it has any length."""
    heads = [name for name in rows[0] if name not in ("path", "error")]
    lines = [[*heads, "path"]]
    for row in rows:
        cells = [f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name] or "-") for name in heads]
        lines.append([*cells, f"{row['path']}  ({row['error']})" if row["error"] else str(row["path"])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    texts = ["  ".join([*map(str.ljust, line, widths), line[-1]]) for line in lines]
    return "\n".join(texts) + "\n"


def _conclude(rows: Sequence[dict[str, Value | None]], out: str) -> int:
    """Tell stderr how it went, and return the exit code."""
    failed = sum(1 for row in rows if row["error"])
    where = f"; rows are in {out}" if out else ""
    if failed:
        print(
            f"{failed} of {len(rows)} images could not be scored, see the error column{where}",
            file=sys.stderr,
        )
        return errors.EXIT_FAILED
    if out:
        print(f"scored {len(rows)} images{where}", file=sys.stderr)
    return errors.EXIT_DONE


def console() -> None:
    """Serve as the console script."""
    sys.exit(flags.run_command(main))


if __name__ == "__main__":
    console()
