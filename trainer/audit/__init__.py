"""Look at a data set before training on it: what is broken, doubled, leaked, or given away.

``measure`` one image, ``scan`` all, search them for ``duplicates`` and ``cues``, and write the ``report``.
Imports no TensorFlow for local folders.
"""
