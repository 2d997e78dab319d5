"""From image files to batches: manifest, order, readers, decoding, cache, augmentation, pipeline."""
