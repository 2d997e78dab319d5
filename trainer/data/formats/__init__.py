"""Image formats: recognise them, turn pictures upright, and decode what TensorFlow alone would not decode right."""
