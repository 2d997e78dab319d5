"""The command ``python -m trainer.predict``: score images or videos with an exported model."""

import sys
from collections.abc import Sequence

from trainer.core import cli, errors, tables, terminal
from trainer.core.storage import files
from trainer.core.tables import Row
from trainer.serving import predict_files, predict_request, video
from trainer.serving.predict_request import PredictFlags


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, model or paths are wrong.
    """
    request, words = predict_request.parse(argv)
    rows = predict_files.run(request, words, sys.stdin)
    text = tables.renderer(request.out, "out")(rows)
    if request.out:
        files.write_text(request.out, text)
    else:
        print(text, end="")
    return _conclude(rows, request)


def _conclude(rows: Sequence[Row], request: PredictFlags) -> int:
    """Print a summary to stderr, and return the exit code."""
    what = "videos" if request.video else "images"
    failed = [str(row["path"]) for row in rows if row["error"]]
    where = terminal.visible(f"; rows are in {request.out}") if request.out else ""
    if failed:
        hint = ""
        if not request.video and any(path.lower().endswith(video.ENDINGS) for path in failed):
            hint = "; videos need --video"
        print(
            f"{len(failed)} of {len(rows)} {what} could not be scored, see the error column{where}{hint}",
            file=sys.stderr,
        )
        return errors.EXIT_FAILED
    if request.out:
        print(f"scored {len(rows)} {what}{where}", file=sys.stderr)
    return errors.EXIT_DONE


def console() -> None:
    """Entry point of ``deepdetect-predict``."""
    sys.exit(cli.run_command(main))


if __name__ == "__main__":
    console()
