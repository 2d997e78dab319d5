"""The settings of a drawn data set, each of them a flag of ``deepdetect demo draw``.  Imports no OpenCV."""

import dataclasses
from collections.abc import Sequence

from trainer.core import config
from trainer.core.config import flags

USAGE = """\
Draw portraits for a demonstration of deepdetect that needs no download.

  deepdetect demo draw --out=demo_data --train_per_class=2000 --seed=7

Real pictures are drawn portraits.  Fake pictures show the same people after a forgery: the inner face of another
person blended in (a swap), or the inner face rendered again through a generator's up-sampling.  Both classes pass the
same camera and are compressed once by the same distribution of JPEG qualities.

The set is written to OUT/{Train,Validation,Test}/{Fake,Real}/*.jpg.  A picture depends on the seed, its split, class
and number alone.  Rerun an interrupted command to continue where it stopped.

Exit codes: 0 the set is complete; 2 an argument or the output folder cannot be used; 75 the disk is full or fails;
130 interrupted."""


@dataclasses.dataclass(frozen=True)
class DrawFlags:
    """Settings of one drawn set."""

    out: str = config.setting("demo_data", "Folder to write to, new or empty.", path=config.PATH)
    train_per_class: int = config.setting(750, "Pictures of each class in Train.", minimum=0)
    validation_per_class: int = config.setting(150, "Pictures of each class in Validation.", minimum=0)
    test_per_class: int = config.setting(250, "Pictures of each class in Test.", minimum=0)
    seed: int = config.setting(0, "Another seed draws other people.", minimum=0)
    difficulty: float = config.setting(
        0.5, "0: forgeries that are easily seen, 1: hardly distinguishable.", minimum=0, maximum=1
    )
    size: int = config.setting(256, "Side of the pictures.", unit="pixels", minimum=64, maximum=512)
    workers: int = config.setting(0, "Processes; 0: one for each core.", minimum=0)


def parse(argv: Sequence[str]) -> DrawFlags:
    """Return the settings that a command line sets.

    Raises:
        HelpRequested: if ``--help`` is among the words.
        RequestError: for anything wrong with the command line.
    """
    return flags.parse_request(argv, DrawFlags, usage=USAGE)
