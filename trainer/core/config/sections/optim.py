"""Optimizer, learning rate and its schedule."""

import dataclasses

from trainer.core.config.field import setting
from trainer.core.config.registries import OPTIMIZERS

# The notebook's, for which the default rate is meant.
DEFAULT_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning rate and its schedule."""

    optimizer: str = setting("adam", "Update rule.", choices=OPTIMIZERS)
    learning_rate: float = setting(1e-3, "Initial learning rate.", minimum=0.0, exclusive=True)
    weight_decay: float = setting(
        -1.0,
        "Share of the learning rate by which weights shrink in each step (adamw, sgd, lion). auto: 0.004 for adamw, 0 "
        "for the others.",
        minimum=0.0,
        auto=-1.0,
    )
    decay_biases: bool = setting(
        False, "Let the weight decay also shrink biases and the scales of normalisations.", before=True
    )
    momentum: float = setting(0.9, "Momentum of sgd.", minimum=0.0, maximum=0.9999)
    adam_beta_1: float = setting(0.9, "Decay of the mean gradient in adam and adamw.", minimum=0.0, maximum=0.999999)
    adam_beta_2: float = setting(
        0.999, "Decay of the mean squared gradient in adam and adamw.", minimum=0.0, maximum=0.999999
    )
    adam_epsilon: float = setting(
        1e-7, "Added to the root of the mean squared gradient in adam and adamw.", minimum=0.0, exclusive=True
    )
    clip_norm: float = setting(
        0.0,
        "Largest norm of the gradient of all weights together; larger ones are scaled down. 0: no limit.",
        minimum=0.0,
    )
    gradient_centralization: bool = setting(
        True,
        "Take from the gradient of each hidden dense layer's kernel its mean over the unit's inputs. Without it the "
        "units of cnn move together, and in some jobs most of them die in the first steps.",
        before=False,
    )
    ema_decay: float = setting(
        0.0,
        "Decay of an exponential moving average of the weights, which Validation and exports then use; 0: off. 0.999 "
        "averages about 1000 steps.",
        minimum=0.0,
        maximum=0.999999,
    )
    accumulate_steps: int = setting(
        1,
        "Take a batch in this many parts, one after another, and add their gradients: a step then needs the memory of "
        "one part.",
        minimum=1,
    )
    scale_learning_rate: bool = setting(
        False, "Multiply --learning_rate by batch_size / 32, for batches of another size than the defaults'."
    )
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

    def scaled(self, batch_size: int) -> "OptimConfig":
        """Return these settings with the rate that they mean for a batch size.

        Linear scaling: Goyal et al. 2017, "Accurate, Large Minibatch SGD", arXiv:1706.02677, section 2.1.
        """
        factor = batch_size / DEFAULT_BATCH_SIZE if self.scale_learning_rate else 1.0
        return dataclasses.replace(self, learning_rate=self.learning_rate * factor, scale_learning_rate=False)
