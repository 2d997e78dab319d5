"""Optimizer, learning rate and its schedule."""

import dataclasses

from trainer.core.config.field import setting
from trainer.core.config.registries import OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning rate and its schedule."""

    optimizer: str = setting("adam", "Update rule.", choices=OPTIMIZERS)
    learning_rate: float = setting(1e-3, "Initial learning rate.", minimum=0.0, exclusive=True)
    lr_schedule: str = setting(
        "plateau",
        "plateau: multiply by --plateau_factor when --plateau_monitor stops improving. cosine: decay to "
        "--min_learning_rate over all epochs. constant.",
        choices=("plateau", "constant", "cosine"),
    )
    plateau_monitor: str = setting(
        "val_accuracy",
        "Metric that the plateau schedule monitors.",
        choices=("val_loss", "val_accuracy", "val_auc"),
    )
    plateau_patience: int = setting(
        2, "Epochs without improvement before the learning rate is lowered.", unit="epochs", minimum=0
    )
    plateau_factor: float = setting(
        0.1, "Factor applied to the learning rate on a plateau.", minimum=0.0, maximum=1.0, exclusive=True
    )
    min_learning_rate: float = setting(1e-5, "Floor of the plateau and cosine schedules.", minimum=0.0)
    freeze_backbone_epochs: int = setting(
        0,
        "Train only the last layer in the first epochs, on features of the unaugmented images that are computed once. "
        "0: train all layers from the start.",
        unit="epochs",
        minimum=0,
        before=0,
    )
    backbone_lr_factor: float = setting(
        1.0,
        "Share of each update that the layers before the last one get once they are trained; below 1 they learn slower "
        "than the last layer.",
        minimum=1e-6,  # With 0 the backbone would stay frozen: --freeze_backbone_epochs, which does so for nothing.
        maximum=1.0,
        before=1.0,
    )
