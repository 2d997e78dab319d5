"""The settings of cutting faces out of videos, each of them a flag."""

import dataclasses
from typing import Any

from trainer.core import config
from trainer.data.faces import detector
from trainer.data.faces.crop_rule import CropRule

USAGE = """\
Cut the faces out of videos, or of whole images.

  python -m trainer.prepare_data faces --videos=DIR|LIST --out=O [flags]

Folders are kept: DIR/Train/Fake/a.mp4 becomes O/Train/Fake/a/000123.png, one image for each sampled frame with a face,
and an image DIR/Train/Fake/b.jpg becomes O/Train/Fake/b.png.  LIST (.csv, .tsv, .jsonl, .parquet) has the column path
and, if known, label and split.  O/faces.csv has a row for each crop, O/faces.json the rule that models trained on O
carry along.  Rerun the same command to resume after a kill, or to add videos.  Needs pip install -e '.[faces]'.

Exit codes: 0 done, bad videos are named; 1 not one crop was made; 2 the request is wrong; 75 stopped, rerun it."""


@dataclasses.dataclass(frozen=True)
class FacesFlags:
    """Settings of one extraction."""

    videos: str = config.setting(
        "", "Folder or gs:// path with videos or images at any depth, or a list file of them.", path=config.PATH
    )
    out: str = config.setting("", "Folder or gs:// path for the crops; a --data_dir for training.", path=config.PATH)
    frames_per_video: int = config.setting(32, "Frames to look at, evenly in time.", unit="frames", minimum=1)
    which: str = config.setting(
        "largest", "Cut the largest face of a frame, or all of them.", choices=("largest", "all")
    )
    margin: float = config.setting(
        0.3, "The square is wider than the face's box by this share.", minimum=0.0, maximum=4.0
    )
    size: int = config.setting(0, "Height and width of the crops; 0: as large as they are.", unit="pixels", minimum=0)
    align: bool = config.setting(False, "Turn every crop until the eyes are level.")
    encode: str = config.setting("png", "png keeps every pixel; jpeg takes less room.", choices=("png", "jpeg"))
    jpeg_quality: int = config.setting(95, "Of --encode=jpeg.", minimum=1, maximum=100)
    max_image_pixels: int = config.setting(
        config.MAX_IMAGE_PIXELS, "Larger images count as bad, and are not decoded.", unit="pixels", minimum=1
    )
    workers: int = config.setting(0, "Videos read at a time, each by a process; 0: one for each core.", minimum=0)

    @property
    def rule(self) -> CropRule:
        """How a face becomes a crop."""
        return CropRule(
            detector.NAME, detector.version(), self.margin, self.size, self.align, self.encode, self.jpeg_quality
        )

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings besides the rule that decide which crops there are."""
        return {name: getattr(self, name) for name in ("frames_per_video", "which", "max_image_pixels")}
