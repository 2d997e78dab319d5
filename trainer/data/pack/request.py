"""The settings of a packing, each of them a flag."""

import dataclasses

from trainer.core import config
from trainer.core.config.registries import INTERPOLATIONS, NEAREST

USAGE = """\
Pack a folder of images into TFRecord shards with an index.

  python scripts/prepare_data.py pack --data_dir=D --out=O [flags]

D holds {Train,Validation,Test}/<class>/* images, Train at least.  O can be the --data_dir of every other command: the
same images in the same order give the same weights as D.  Images keep their bytes unless something must change: what
EXIF turns, CMYK, and every format but JPEG and PNG become PNG of the very pixels that training on D would see.  Rerun
the same command to resume after a kill.

Exit codes: 0 done, or done before; 2 the request is wrong; 1 anything else."""


@dataclasses.dataclass(frozen=True)
class PackFlags(config.LayoutConfig):
    """Settings of one packing."""

    data_dir: str = config.setting(
        "", "Folder or gs:// path with {Train,Validation,Test}/<class>/* images.", path=config.PATH
    )
    out: str = config.setting(
        "", "Folder or gs:// path for the packed set; a --data_dir for every other command.", path=config.PATH
    )
    images_per_shard: int = config.setting(1024, "Images in one TFRecord file.", unit="images", minimum=1)
    resize: int = config.setting(
        0, "Store images at this height and width, as --image_size would resize them; 0: as they are.", minimum=0
    )
    interpolation: str = config.setting(NEAREST, "Of --resize; give training the same.", choices=INTERPOLATIONS)
    encode: str = config.setting(
        "keep",
        "keep: the files' own bytes where possible. png, jpeg: encode every image anew (jpeg loses detail).",
        choices=("keep", "png", "jpeg"),
    )
    jpeg_quality: int = config.setting(95, "Of --encode=jpeg.", minimum=1, maximum=100)
    drop_bad: bool = config.setting(
        False, "Leave out what cannot be decoded; without it, training skips and names it, as it does in the folder."
    )
    drop_leaks: bool = config.setting(
        False,
        "Leave out of Train what is also in Validation or Test, and of Validation what is also in Test, exactly or "
        "nearly, as audit finds it.",
    )
    max_image_pixels: int = config.setting(
        config.MAX_IMAGE_PIXELS, "Larger images count as bad, and are not decoded.", unit="pixels", minimum=1
    )
    workers: int = config.setting(0, "Shards made at a time; 0: one for each core.", minimum=0)
