"""The command ``python -m trainer.predict``: score images or videos with an exported model."""

import sys
from collections.abc import Sequence

from trainer.core import cli, errors, terminal
from trainer.core.tables import Row
from trainer.data.faces import video_file
from trainer.serving import predict_files, predict_request
from trainer.serving.predict_request import PredictFlags
from trainer.serving.row_writer import RowWriter


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, model or paths are wrong.
        StoppedEarly: after a signal, or if a storage does not answer; the rows so far are kept.
    """
    request, words = predict_request.parse(argv)
    writer = RowWriter(request.out, "out")
    try:
        scoring = predict_files.run(request, words, predict_request.names_in(argv, sys.stdin), writer.add)
    except (KeyboardInterrupt, errors.StoppedEarly) as stop:
        writer.finish(is_interrupted=True)
        where = f" are in {request.out}" if request.out else " are printed"
        kept = f"the first {len(writer.rows)} rows{where}" if writer.rows else "before the first row"
        raise errors.StoppedEarly(f"{stop or 'SIGINT'}; {kept}; rerun the same command to score all") from stop
    writer.finish()
    if request.report:
        from trainer.reports.prediction import page  # Late: matplotlib and scikit-learn.

        page.write(writer.rows, scoring, request)
    return _conclude(writer.rows, request)


def _conclude(rows: Sequence[Row], request: PredictFlags) -> int:
    """Print a summary to stderr, and return the exit code."""
    what = "videos" if request.video else "images"
    failed = [str(row["path"]) for row in rows if row["error"]]
    where = f"; rows are in {terminal.link(request.out)}" if request.out else ""
    where += f"; report: {terminal.link(request.report)}" if request.report else ""
    if failed:
        hint = ""
        if not request.video and any(path.lower().endswith(video_file.ENDINGS) for path in failed):
            hint = "; videos need --video"
        print(
            f"{len(failed)} of {len(rows)} {what} could not be scored, see the error column{where}{hint}",
            file=sys.stderr,
        )
        return errors.EXIT_FAILED
    if request.out or request.report:
        print(f"scored {len(rows)} {what}{where}", file=sys.stderr)
    return errors.EXIT_DONE


def console() -> None:
    """Entry point of ``deepdetect-predict``."""
    cli.console(main)


if __name__ == "__main__":
    console()
