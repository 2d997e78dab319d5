"""The images, their form and the batch size."""

import dataclasses

from trainer.core.config.field import PATH, setting
from trainer.core.config.registries import (
    AUGMENTATIONS,
    BILINEAR,
    INPUTS,
    INTERPOLATIONS,
    MAX_IMAGE_PIXELS,
    NEAREST,
    RESIZE,
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Images, their form and the batch size."""

    data_dir: str = setting(
        "",
        "Folder or gs:// path with {Train,Validation,Test}/{Fake,Real}/* images; any class names, two or more. "
        "Without Validation, a share of Train is used instead (--validation_fraction).",
        fixed=False,
        path=PATH,
    )
    image_size: int = setting(
        224, "Height and width of what the model sees of an image; --input says how.", unit="pixels", minimum=1
    )
    input: str = setting(
        RESIZE,
        "How an image becomes what the model sees. resize: squeezed or stretched to image_size; that erases fine "
        "traces of forgery. crop: a window of its own pixels, in training a random one. pad: the whole image, shrunk "
        "only if its longer side exceeds image_size. Smaller images are padded by reflection.",
        choices=INPUTS,
        before=RESIZE,
    )
    interpolation: str = setting(
        NEAREST,
        "How --input=resize and pad resample an image. nearest: each pixel is one of the image's own, which keeps fine "
        "traces of forgery; the notebook's. bilinear: smooth. A side that shrinks to less than half is averaged in "
        "both.",
        choices=INTERPOLATIONS,
        before=BILINEAR,
    )
    test_views: int = setting(
        1,
        "With --input=crop, windows whose probabilities are averaged in Validation and in the export. 1: the centre. "
        "5: also the corners. 10: all of them mirrored, too.",
        minimum=1,
        maximum=10,
        before=1,
    )
    batch_size: int = setting(
        32,
        "Global batch: images per step over all devices; must divide evenly among them. auto: the largest power of two "
        "on each device that fits into memory, found by train steps before the job starts.",
        unit="images",
        minimum=1,
        auto=0,
    )
    validation_fraction: float = setting(
        0.1,
        "Share of every Train class held out when data_dir has no Validation (chosen by --seed).",
        minimum=0.0,
        maximum=1.0,
        exclusive=True,
    )
    max_bad_fraction: float = setting(
        0.05,
        "Stop with exit code 2 when more than this share of a split cannot be decoded; fewer are skipped and "
        "named in job_dir/skipped.jsonl.",
        minimum=0.0,
        maximum=1.0,
        fixed=False,
    )
    max_image_pixels: int = setting(
        MAX_IMAGE_PIXELS,
        "Skip images whose header states more pixels, before they are decoded.",
        unit="pixels",
        minimum=1,
    )
    cache: str = setting(
        "none",
        "Keep decoded images. memory: for the next epochs. A local folder: also for the next starts of the job, and "
        "for other jobs on the same images.",
        fixed=False,
        path=PATH,
    )
    cache_bytes: int = setting(
        0,
        "Size limit of the cache for each split; images beyond it are decoded every time. 0: half of the free memory, "
        "or 80% of the free disk.",
        unit="bytes",
        minimum=0,
        fixed=False,
    )
    data_service: str = setting(
        "",
        "Read and decode in a tf.data service: grpc://host:port of its dispatcher (python -m trainer.data_service), "
        "whose workers must see data_dir at the same path. It affects speed only. Empty: every process reads and "
        "decodes its own images.",
        fixed=False,
    )
    decode_processes: int = setting(
        0,
        "Processes that read and decode images; changes no result. 1: the command's own, with a thread for each core. "
        "auto or 0: one more for each core, but 1 on up to 4 cores, which threads keep busy.",
        unit="processes",
        minimum=0,
        fixed=False,
        auto=0,
    )
    augment: str = setting(
        "notebook",
        "Training augmentation; several, separated by commas, are applied in their order.",
        choices=AUGMENTATIONS,
        several=True,
    )
    sampling: str = setting(
        "none",
        "Which images an epoch draws. none: every image of Train once. balanced: as many of every class; those of a "
        "small class come more than once, augmented anew.",
        choices=("none", "balanced"),
        before="none",
    )
