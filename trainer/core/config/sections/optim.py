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
    lr_warmup_steps: int = setting(
        -1,
        "Steps over which the learning rate rises linearly to its value, with every schedule; 0: none. auto: one epoch "
        "or 5% of all steps, whichever is shorter.",
        unit="steps",
        minimum=0,
        auto=-1,
        before=0,
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
    plateau_waits_for_learning: bool = setting(
        True,
        "Keep the plateau schedule from lowering the learning rate while the 95% interval of the validation AUC holds "
        "0.5.",
        before=False,
    )
    min_learning_rate: float = setting(1e-5, "Floor of the plateau and cosine schedules.", minimum=0.0)
