"""The training images that reports show, before and after augmentation."""

from trainer.core.config import Config
from trainer.data import augment, preview
from trainer.data.manifest import Split
from trainer.data.positive_class import positive_class_index
from trainer.reports import training as training_report

_IMAGES = 8


def of_training(config: Config, train: Split) -> preview.Preview:
    """Return the first images of the first batch."""
    positive = positive_class_index(train.class_names, config.export.positive_class)
    return preview.of_batch(
        train, config.data, config.loop.seed, step=0, batch_size=_IMAGES, count=_IMAGES,
        settings=augment.Settings(config.augment, positive),
    )  # fmt: skip


def pictures(config: Config, train: Split, validation: Split) -> training_report.Pictures:
    """Draw what the report of a running job shows of the data."""
    batch = of_training(config, train)
    counts = {split.name: split.counts for split in (train, validation)}
    return training_report.draw_pictures(batch.images, batch.augmented, batch.labels, counts)
