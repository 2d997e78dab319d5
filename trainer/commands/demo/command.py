"""``deepdetect demo``: draws a data set, trains a recipe on it with three seeds, and shows what came out.

Does not own: the pictures (``make_data.py``), the figures (``summary.py``).  Imports neither OpenCV nor TensorFlow.
"""

from collections.abc import Sequence
from pathlib import Path

from trainer.commands.demo import draw_request, summary
from trainer.commands.table import COMMANDS
from trainer.core import installed, terminal
from trainer.core.config import flags
from trainer.core.config.help_page import WORDS, HelpRequested
from trainer.core.errors import EXIT_DONE

_OF_DATA = ("train_per_class", "validation_per_class", "test_per_class", "difficulty", "size")
USAGE = """\
Draw faces and forgeries of them, train the recipe fast with three seeds, score each on Test, and show the figures.

  deepdetect demo [OUT] [flags]

OUT (default: demo) receives data/ and job/.  Rerun the same command to resume.  On two CPU cores it takes some minutes;
--seeds=1 --epochs=2 is shorter.  Flags are the trainer's, and --train_per_class=N, --validation_per_class=N,
--test_per_class=N, --difficulty=X and --size=N of the data set.

  deepdetect demo draw --help

explains how to draw a data set alone.

Exit codes: as of deepdetect train."""


def main(argv: Sequence[str]) -> int:
    """Run the demo and return its exit code.

    Raises:
        HelpRequested: if ``--help`` is among the words.
        RequestError: if a flag is wrong.
    """
    if argv[:1] == ["draw"]:
        return _draw(argv[1:])
    if any(word in WORDS for word in argv):
        raise HelpRequested(USAGE)
    named = bool(argv) and not argv[0].startswith("-")
    out, words = (argv[0], argv[1:]) if named else ("demo", argv)
    folder = Path(out).expanduser().absolute()
    words = flags.with_underscores(words, _OF_DATA)
    drawn = [word for word in words if word[2:].partition("=")[0] in _OF_DATA]
    own = [word for word in words if word not in drawn]
    places = [f"--data_dir={folder / 'data'}", f"--job_dir={folder / 'job'}"]
    flags.train_config([*places, *own])  # A wrong flag is answered before minutes are spent on drawing.
    if code := _draw([f"--out={folder / 'data'}", *drawn]):
        return code
    recipe = installed.folder(installed.RECIPES) / "fast.yaml"
    return COMMANDS["train"].load()([f"--config={recipe}", *places, "--seeds=3", *own]) or _conclude(folder)


def _conclude(folder: Path) -> int:
    """Score the model of a single job on Test, as those of several seeds are; print the figures."""
    if not (folder / "job" / "seeds.json").exists():
        places = [f"--model_dir={folder / 'job' / 'export' / 'best'}", f"--data_dir={folder / 'data'}"]
        if code := COMMANDS["evaluate"].load()([*places, "--split=Test", f"--out={folder / 'evaluation'}"]):
            return code
    print(terminal.visible(f"\n{summary.summary(folder)}"))
    return EXIT_DONE


def _draw(words: Sequence[str]) -> int:
    draw_request.parse(words)  # A wrong flag is answered without OpenCV.
    from trainer.commands.demo import make_data  # Late: it loads OpenCV, which an installation may lack.

    return make_data.main(words)
