"""The command ``python -m trainer.evaluate``: measure an exported model on a split, or compare evaluations."""

from collections.abc import Sequence

from trainer.core import cli, progress, terminal
from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE, RequestError
from trainer.evaluation.request import COMPARE_USAGE, USAGE, EvaluateFlags


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, model or data are wrong.
    """
    request = flags.parse_request(argv, EvaluateFlags, usage=USAGE, marked=("model_dir", "data_dir", "out"))
    if request.compare:
        return _compare(request)
    # Late: they load scikit-learn for seconds, in which ``cli.run_command`` already answers signals.
    from trainer.reports import console as console_lib
    from trainer.reports import evaluate
    from trainer.serving import exported_model

    figures = evaluate.evaluate(request)
    print(console_lib.summary(figures, request.out))
    if request.update_card:
        from trainer.reports import model_card  # Late: its libraries are slow.

        export = exported_model.find_export(request.model_dir)
        card = model_card.add_evaluation(export.path, export.details, figures)
        print(f"  {'card':<10}{terminal.link(card)}")
    return EXIT_DONE


def compare(argv: Sequence[str]) -> int:
    """Compare finished evaluations, whose folders are the words besides the flags; returns the exit code.

    Raises:
        RequestError: if flags or folders are wrong.
    """
    names = ("out", "bootstrap", "seed", "groups", "group_by")
    fields = {name: field for name, field in flags.fields_of(EvaluateFlags).items() if name in names}
    values, folders = flags.parse(argv, fields, usage=COMPARE_USAGE, required=("out",))
    if len(folders) < 2:
        raise RequestError(f"compare: expected two folders of evaluations or more, received {len(folders)}; see --help")
    return _compare(EvaluateFlags(**values, compare=",".join(folders)))  # type: ignore[arg-type]


def _compare(request: EvaluateFlags) -> int:
    flags.require(request, ("out",))
    if request.model_dir or request.data_dir:
        raise RequestError("--compare: expected no --model_dir and no --data_dir, as nothing is scored; leave them out")
    from trainer.reports import compare as compare_report  # Late, as above.

    summary = compare_report.write(
        request.compare, request.out, group_by=request.group_by, groups=request.groups,
        resamples=request.bootstrap, seed=request.seed,
    )  # fmt: skip
    progress.say(summary)
    return EXIT_DONE


def console() -> None:
    """Entry point of ``deepdetect-evaluate``."""
    cli.console(main)


if __name__ == "__main__":
    console()
