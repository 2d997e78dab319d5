"""How the images of data_dir are found, labelled and split."""

import dataclasses

from trainer.core.config.field import PATH, setting
from trainer.core.config.registries import LAYOUTS


@dataclasses.dataclass(frozen=True)
class LayoutConfig:
    """How the images of data_dir are found, labelled and split; the same flags in every command that reads it."""

    layout: str = setting("auto", "How images lie in data_dir.", choices=LAYOUTS, fixed=False, before="exact")
    columns: str = setting(
        "",
        "Columns of a list file, as meaning:name, separated by commas, such as path:file,label:target. Meanings are "
        "path, label, split, source, video and method; those not given are guessed.",
        fixed=False,
    )
    labels: str = setting(
        "",
        "Folders or labels of each class, such as real:original,fake:Deepfakes|Face2Face; all others are left out. "
        "Empty: by their names.",
        fixed=False,
    )
    test_fraction: float = setting(
        0.1,
        "Share of every class that is Test where data_dir says of no image to which split it belongs.",
        minimum=0.0,
        maximum=1.0,
        fixed=False,
    )
    split_seed: int = setting(0, "Seed of that choice of Test.", minimum=0, fixed=False)
    split_by: str = setting(
        "source",
        "Unit of splits that are drawn (Validation out of Train; Test by test_fraction). source: all images of one "
        "video or identity together, where they are known. image: each image by itself.",
        choices=("source", "image"),
        fixed=False,
        before="image",
    )
    drop: str = setting(
        "",
        "File with one image name a line, as audit writes them, local or gs://: images to leave out of their splits, "
        "after Test is drawn and before Validation is.",
        fixed=False,
        path=PATH,
    )
