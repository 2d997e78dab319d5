"""Compare the notebook's own job with ours: the same images, recipe, epochs and seeds.

  python scripts/benchmark.py notebook
  python scripts/benchmark.py notebook --data_dir=faces --seeds=3 --precisions=float32,mixed_bfloat16

The notebook's job is Keras's ImageDataGenerator and ``Model.fit`` with its two callbacks, as the notebook has them
(``val_acc``, which no longer exists, is ``val_accuracy``).  Ours is ``recipes/notebook.yaml``.  Both are scored on Test
with the weights of the last epoch, as the notebook does.  Each run is a process of its own; a run that is already in
--out is not repeated.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS, AUC = "seconds", "auc"


def main(argv: Sequence[str]) -> int:
    """Run all jobs and print the table."""
    arguments = _parser().parse_args(argv)
    print(f"command: python scripts/benchmark.py notebook {' '.join(argv)}\n")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(arguments.out or scratch)
        out.mkdir(parents=True, exist_ok=True)
        data = Path(arguments.data_dir) if arguments.data_dir else draw(out / "data", arguments)
        ways: dict[str, Callable[..., Mapping[str, float]]] = {"notebook's job": _keras, "deepdetect": _ours}
        print("| job | precision | Test AUC by seed | mean | standard deviation | seconds |\n" + "|---" * 6 + "|")
        for precision in arguments.precisions.split(","):
            for name, way in ways.items():
                runs = []
                for seed in range(arguments.seeds):
                    file = out / f"{name.split(chr(39))[0]}-{precision}-{seed}.json"
                    if not file.exists():
                        file.write_text(json.dumps(way(data, file.with_suffix(""), seed, precision, arguments)))
                    runs.append(json.loads(file.read_text()))
                print(_row(name, precision, runs), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_dir", default="", help="Train, Validation and Test (default: drawn faces)")
    add("--out", default="", help="keep jobs and results here, and continue from them (default: a temporary folder)")
    add("--seeds", type=int, default=3, help="(default 3)")
    add("--precisions", default="float32,mixed_bfloat16", help="(default float32,mixed_bfloat16)")
    add("--image_size", type=int, default=224, help="pixels (default 224, the notebook's)")
    add("--epochs", type=int, default=5, help="(default 5, the notebook's)")
    add("--train_per_class", type=int, default=750, help="of drawn faces (default 750)")
    add("--difficulty", type=float, default=0.5, help="of drawn faces (default 0.5)")
    return parser


def draw(folder: Path, arguments: argparse.Namespace) -> Path:
    """Draw faces; return the folder."""
    command = [
        sys.executable, str(ROOT / "scripts" / "make_demo_data.py"), f"--out={folder}",
        f"--train_per_class={arguments.train_per_class}", f"--difficulty={arguments.difficulty}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def _row(name: str, precision: str, runs: Sequence[Mapping[str, float]]) -> str:
    values = [run[AUC] for run in runs]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    each = ", ".join(f"{value:.3f}" for value in values)
    seconds = statistics.fmean(run[SECONDS] for run in runs)
    return f"| {name} | {precision} | {each} | {statistics.fmean(values):.3f} | {deviation:.3f} | {seconds:.0f} |"


def _ours(data: Path, job: Path, seed: int, precision: str, arguments: argparse.Namespace) -> Mapping[str, float]:
    """Train with recipes/notebook.yaml and score Test with the last weights."""
    began = time.monotonic()
    train = [
        f"--config={ROOT / 'recipes' / 'notebook.yaml'}", f"--data_dir={data}", f"--job_dir={job}", f"--seed={seed}",
        f"--precision={precision}", f"--image_size={arguments.image_size}", f"--epochs={arguments.epochs}",
        "--export=last",
    ]  # fmt: skip
    run_module("trainer.train", train, Path(f"{job}.log"))
    seconds = time.monotonic() - began
    score = [f"--model_dir={job}/export/last", f"--data_dir={data}", "--split=Test", f"--out={job}/test"]
    run_module("trainer.evaluate", [*score, "--bootstrap=0"], Path(f"{job}.log"))
    return {SECONDS: seconds, AUC: json.loads((job / "test" / "metrics.json").read_text())["auc"]}


def run_module(module: str, words: Sequence[str], log: Path) -> None:
    """Run a command of the package, with its output added to a file.

    Raises:
        RuntimeError: if it does not end with exit code 0.
    """
    with log.open("a") as output:
        argv = [sys.executable, "-m", module, *words]
        code = subprocess.run(argv, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RuntimeError(f"expected exit code 0 of {module}, received {code}; see {log}")


def _keras(data: Path, job: Path, seed: int, precision: str, arguments: argparse.Namespace) -> Mapping[str, float]:
    """Run ``notebook_job`` in a process of its own."""
    request = {"data": str(data), "seed": seed, "precision": precision, "size": arguments.image_size,
               "epochs": arguments.epochs}  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(request)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    Path(f"{job}.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"expected exit code 0 of the notebook's job, received {done.returncode}; see {job}.log")
    figures: Mapping[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def notebook_job(data: str, seed: int, precision: str, size: int, epochs: int) -> Mapping[str, float]:
    """Train as the notebook does; return the AUC of Fake on Test and the seconds of training."""
    import keras
    from keras.src.legacy.preprocessing.image import ImageDataGenerator
    from sklearn.metrics import roc_auc_score

    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    augmented = notebook_generator()
    plain = ImageDataGenerator(rescale=1.0 / 255)
    form: dict[str, Any] = {"target_size": (size, size), "batch_size": 32, "class_mode": "categorical"}
    train = augmented.flow_from_directory(f"{data}/Train", seed=seed, **form)
    validation = plain.flow_from_directory(f"{data}/Validation", **form)
    test = plain.flow_from_directory(f"{data}/Test", shuffle=False, **form)
    model = notebook_model(size, jit=False)  # On a CPU, XLA takes several times as long, and only rounds otherwise.
    callbacks = [
        keras.callbacks.EarlyStopping(patience=10),
        keras.callbacks.ReduceLROnPlateau(monitor="val_accuracy", patience=2, factor=0.1, min_lr=0.00001),
    ]
    began = time.monotonic()
    model.fit(train, epochs=epochs, validation_data=validation, callbacks=callbacks, verbose=2)
    seconds = time.monotonic() - began
    fake = train.class_indices["Fake"]
    scores = model.predict(test, verbose=0)[:, fake]
    return {SECONDS: seconds, AUC: float(roc_auc_score(test.classes == fake, scores))}


def notebook_generator() -> Any:
    """Return the notebook's augmentation of Train."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(
        rescale=1.0 / 255, rotation_range=15, shear_range=0.1, zoom_range=0.2, horizontal_flip=True,
        width_shift_range=0.1, height_shift_range=0.1,
    )  # fmt: skip


def notebook_model(size: int, *, jit: bool | str = "auto") -> Any:
    """Return the notebook's network as Keras compiles it."""
    import keras

    layers = keras.layers
    blocks = [layer for filters in (32, 32, 64, 128)
              for layer in (layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D(2))]  # fmt: skip
    head = [layers.Flatten(), layers.Dense(256, activation="relu"), layers.Dropout(0.2),
            layers.Dense(2, activation="softmax", dtype="float32")]  # fmt: skip
    model = keras.Sequential([keras.Input((size, size, 3)), *blocks, *head])
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"], jit_compile=jit)
    return model


if __name__ == "__main__":
    print(json.dumps(notebook_job(**json.loads(sys.argv[1]))))
