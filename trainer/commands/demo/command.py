"""``deepdetect demo``: draws a data set, trains a recipe on it with three seeds, and shows what came out.

Does not own: the pictures (``make_data.py``), the figures (``summary.py``).  Imports neither OpenCV nor TensorFlow.
"""

from collections.abc import Sequence
from pathlib import Path

from trainer.commands.demo import digest, draw_request, summary
from trainer.commands.table import COMMANDS
from trainer.core import installed, progress, terminal
from trainer.core.config import flags
from trainer.core.config.help_page import WORDS, HelpRequested
from trainer.core.errors import EXIT_DONE

LOG = "demo.log"
_OF_DATA = ("train_per_class", "validation_per_class", "test_per_class", "difficulty", "size")
USAGE = """\
Draw faces and forgeries of them, train the recipe fast with three seeds, score each on Test, and show the figures.

  deepdetect demo [OUT] [flags]

OUT (default: demo) receives data/, job/ and demo.log, which holds all that the training says.  Rerun the same command
to resume.  On two CPU cores it takes some minutes; --seeds=1 --epochs=2 is shorter.  Flags are the trainer's, and
--train_per_class=N, --validation_per_class=N, --test_per_class=N, --difficulty=X and --size=N of the data set.

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
    return _train([*places, "--seeds=3", *own], folder) or _conclude(folder)


def _train(words: Sequence[str], folder: Path) -> int:
    """Train and score on Test, with a line on the terminal; the rest is in a file."""
    path, recipe = folder / LOG, installed.folder(installed.RECIPES) / "fast.yaml"
    progress.say(f"training, some minutes; what it says is in {terminal.link(str(path))}")
    with digest.running("training", path):
        code = COMMANDS["train"].load()([f"--config={recipe}", *words]) or _score(folder)
    if code:
        progress.say(f"it failed with exit code {code}: see {terminal.link(str(path))}")
    return code


def _score(folder: Path) -> int:
    """Score the model of a single job on Test, as those of several seeds are."""
    if not (folder / "job" / "seeds.json").exists():
        places = [f"--model_dir={folder / 'job' / 'export' / 'best'}", f"--data_dir={folder / 'data'}"]
        if code := COMMANDS["evaluate"].load()([*places, "--split=Test", f"--out={folder / 'evaluation'}"]):
            return code
    return EXIT_DONE


def _conclude(folder: Path) -> int:
    progress.say(f"\n{summary.summary(folder)}")
    return EXIT_DONE


def _draw(words: Sequence[str]) -> int:
    draw_request.parse(words)  # A wrong flag is answered without OpenCV.
    from trainer.commands.demo import make_data  # Late: it loads OpenCV, which an installation may lack.

    return make_data.main(words)
