"""Files on a local disk and in gs:// buckets, by one set of functions.  Imports no TensorFlow."""
