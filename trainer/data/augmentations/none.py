"""No augmentation: training sees the images as they are."""

ORDER = 2
