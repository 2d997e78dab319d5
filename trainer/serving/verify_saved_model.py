"""Check that an exported model is self-contained: load it with TensorFlow alone and compare it with expected outputs.

Run as ``python -P verify_saved_model.py MODEL_DIR SAMPLES.npz``; on purpose, it imports nothing of this package, and
makes that impossible, wherever the package is installed: an export that needs it must be noticed.  TensorFlow itself
may come from anywhere, such as PYTHONPATH.  The samples hold ``encoded [N]`` bytes and ``images [N, S, S, 3] uint8``,
and of the live model ``probabilities [N, C]`` and ``of_images [N, C]``.
Prints the largest difference and exits with 0, or prints what is wrong and exits with 1.
"""

import sys

if __name__ == "__main__":
    # From here on "import trainer" raises ImportError.  The others TensorFlow would import for parts that no export
    # needs, which takes as long as the check itself.
    sys.modules |= dict.fromkeys(("trainer", "sklearn", "matplotlib"))  # type: ignore[arg-type]

import numpy as np
import tensorflow as tf

# Both sides compute in float32 on a CPU, but oneDNN may pick another kernel for another batch shape.
TOLERANCE = 1e-4


def main(model_dir: str, samples_path: str) -> int:
    """Compare every signature's probabilities with the samples'; return the exit code."""
    with np.load(samples_path, allow_pickle=False) as samples:
        encoded = samples["encoded"]
        images = samples["images"]
        expected = dict.fromkeys(("serving_default", "explain"), samples["probabilities"])
        expected["serve_images"] = samples["of_images"]
    signatures = tf.saved_model.load(model_dir).signatures
    outputs = {
        "serving_default": signatures["serving_default"](image_bytes=tf.constant(_contents(encoded))),
        "serve_images": signatures["serve_images"](images=tf.constant(images)),
    }
    if "explain" in signatures:
        outputs["explain"] = signatures["explain"](image_bytes=tf.constant(_contents(encoded)))
        heat = outputs["explain"]["heatmap"].numpy()
        if heat.shape != images.shape[:3] or not ((heat >= 0) & (heat <= 1)).all():
            print(f"signature explain gives a heatmap {heat.shape} that is not {images.shape[:3]} in [0, 1]")
            return 1
    largest = 0.0
    for name, output in outputs.items():
        difference = float(np.max(np.abs(output["probabilities"].numpy() - expected[name])))
        largest = max(largest, difference)
        if not difference <= TOLERANCE:  # So that NaN fails, too.
            print(f"signature {name} differs from the live model by {difference:.2e} (allowed: {TOLERANCE:.0e})")
            return 1
    print(f"{largest:.2e}")
    return 0


def _contents(encoded: np.ndarray) -> list[bytes]:
    """Return the bytes of each sample, stored as a uint8 row with the length in front (``saved_model.py``)."""
    return [row[8 : 8 + int(row[:8].view("<u8")[0])].tobytes() for row in encoded]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
