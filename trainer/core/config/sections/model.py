"""The network."""

import dataclasses

from trainer.core.config.field import PATH, setting
from trainer.core.config.registries import NETWORKS


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    model: str = setting("cnn", "Architecture.", choices=NETWORKS, dotted=True)
    dropout: float = setting(
        0.2, "Share of units dropped before the last layer; 0 switches it off.", minimum=0.0, maximum=0.95
    )
    front_end: str = setting(
        "dct",
        "What --model=forensic sees. rgb: the pixels. srm: residuals of fixed filters. dct: logarithmic magnitudes of "
        "the 8x8 block DCT. Other networks see the pixels.",
        choices=("rgb", "srm", "dct"),
    )
    weights: str = setting(
        "none",
        "Start from weights of another model: a Keras file (.keras, .h5), a torch state dict (.pth), a job_dir or an "
        "export of an earlier job, local or gs://; package:efficientnet_lite0 is the file of an installed Python "
        "package. Nothing is downloaded (docs/weights.md). none: random weights. Needed until the first checkpoint.",
        path=PATH,
        before="none",
    )
