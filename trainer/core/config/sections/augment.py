"""The parameters of the augmentations; which ones are applied says ``--augment``."""

import dataclasses

from trainer.core.config.field import setting


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How strong the augmentations are, and how often they happen."""

    blur_probability: float = setting(
        0.5, "Share of the images that --augment=forensic blurs.", minimum=0.0, maximum=1.0
    )
    jpeg_probability: float = setting(
        0.5, "Share of the images that --augment=forensic compresses again.", minimum=0.0, maximum=1.0
    )
    photometric_magnitude: float = setting(
        0.5, "Strength of --augment=photometric; 0 leaves the images as they are.", minimum=0.0, maximum=1.0
    )
    cutout_size: float = setting(
        0.25, "Side of the square of --augment=cutout, as a share of the image's side.", minimum=0.0, maximum=1.0
    )
    mixup_alpha: float = setting(
        0.2, "Shares of --augment=mixup are drawn from Beta(alpha, alpha).", minimum=0.01, maximum=100.0
    )
    cutmix_alpha: float = setting(
        1.0, "Areas of --augment=cutmix are drawn from Beta(alpha, alpha).", minimum=0.01, maximum=100.0
    )
    sbi_probability: float = setting(
        0.5,
        "Share of the images of the negative class that --augment=sbi turns into forgeries, anew in each epoch.",
        minimum=0.0,
        maximum=1.0,
    )
