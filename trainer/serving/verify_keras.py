"""Check that ``.keras`` files are self-contained: load them with Keras alone and compare with expected outputs.

Run as ``python -P verify_keras.py MODEL.keras SAMPLES.npz [...]``, in pairs; on purpose, it imports nothing of this
package, and makes that impossible, wherever the package is installed.  The samples hold ``images [N, S, S, 3] uint8``
and ``probabilities [N, C]``.
Prints the largest difference and exits with 0, or prints what is wrong and exits with 1.
"""

import os
import sys

if __name__ == "__main__":
    # As in verify_saved_model.py: from here on their imports raise ImportError.
    sys.modules |= dict.fromkeys(("trainer", "sklearn", "matplotlib"))  # type: ignore[arg-type]
    os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np

# Both sides compute in float32 on a CPU; scale and temperature are multiplications in place of divisions.
TOLERANCE = 1e-4


def main(paths: list[str]) -> int:
    """Compare each model's probabilities with its samples'; return the exit code."""
    largest = 0.0
    for model_path, samples_path in zip(paths[::2], paths[1::2], strict=True):
        with np.load(samples_path, allow_pickle=False) as samples:
            images, expected = samples["images"], samples["probabilities"]
        model = keras.models.load_model(model_path)  # In its safe mode, without objects of ours.
        for pixels in (images, images.astype(np.float32)):
            difference = float(np.max(np.abs(model.predict_on_batch(pixels) - expected)))
            largest = max(largest, difference)
            if not difference <= TOLERANCE:  # So that NaN fails, too.
                name = os.path.basename(model_path)
                print(f"{name} differs from the live model by {difference:.2e} (allowed: {TOLERANCE:.0e})")
                return 1
    print(f"{largest:.2e}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
