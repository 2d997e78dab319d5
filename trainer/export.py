"""Export a job's checkpoint again: a SavedModel, TFLite, ONNX, each compared with the SavedModel and timed.

Does not own: writing SavedModels (``saved_model.py``), conversion (``convert.py``).
"""

import dataclasses
import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import __version__
from trainer.core import cli, config, globs, result
from trainer.core.config import Config, flags
from trainer.core.errors import EXIT_DONE, RequestError
from trainer.core.job_dir import EXPORT_CARD, EXPORT_METADATA, JobPaths
from trainer.core.storage import files
from trainer.data.manifest import positive_class_index, read_train_and_validation
from trainer.serving import convert, exported_model
from trainer.training.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpoint

USAGE = """\
Export a job's checkpoint again, into a SavedModel, TFLite or ONNX.

  python -m trainer.export --job_dir=J --out=O [--step=best] [--formats=savedmodel,tflite,onnx] [flags]

O receives savedmodel/<step>/, model.tflite, model.onnx (those asked for), deepdetect.json (classes, threshold,
settings), model_card.md and comparison.json: how far each is from the SavedModel on real images, and how fast.

Exit codes: 0 done; 2 the request is wrong, a retry cannot help; 75 gs:// did not answer, try later; 1 anything
else, such as a form that does not answer as the model does."""

FORMATS = ("savedmodel", "tflite", "onnx")
THRESHOLD = 0.5  # Of a checkpoint that was never exported.

_CHECK_SAMPLES = 8  # Images that the SavedModel is checked with in a process of its own.


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Settings of one export."""

    job_dir: str = config.setting("", "The job: its config.json and checkpoints are used.")
    out: str = config.setting("", "Folder or gs:// path for the results.")
    step: str = config.setting("best", "Checkpoint: best (or 0), last, or its step.")
    formats: str = config.setting("savedmodel", "Forms, with commas: savedmodel, tflite, onnx.")
    quantize: str = config.setting(
        "none",
        "TFLite's weights. none: float32. float16: half the size. dynamic: 8 bits, a quarter.",
        choices=convert.QUANTIZE,
    )
    samples: str = config.setting(
        "", "Image, folder or glob of images to compare and time on; empty: Validation of the job's data_dir."
    )
    num_samples: int = config.setting(64, "Images to compare and time on.", unit="images", minimum=1)


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, job or images are wrong.
        JobFailed: if a form does not answer as the model does.
    """
    request = flags.parse_request(argv, ExportFlags, usage=USAGE, required=("job_dir", "out"))
    forms = parse_formats(request.formats)
    job = read_config(request.job_dir)
    checkpoint = find_checkpoint(request.job_dir, request.step)
    metadata = describe(request.job_dir, job, checkpoint)
    contents = read_samples(request, job)
    files.require_writable(request.out, "out")
    compared = write(request, forms, job, checkpoint, metadata, contents)
    files.write_text(files.join(request.out, "comparison.json"), json.dumps(compared, indent=1) + "\n")
    print(convert.to_text(compared), end="")
    convert.refuse_others(compared)
    return EXIT_DONE


def parse_formats(text: str) -> list[str]:
    """Return the forms asked for, in their usual order.

    Raises:
        RequestError: for an unknown form, none, or a package that is not there.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if name not in FORMATS]
    if wrong or not names:
        raise RequestError(f"--formats: expected some of {', '.join(FORMATS)}; received {text!r}")
    if "onnx" in names:
        convert.require_onnx()
    return [name for name in FORMATS if name in names]


def read_config(job_dir: str) -> Config:
    """Return a job's settings.

    Raises:
        RequestError: if it is no job_dir.
    """
    path = JobPaths(job_dir).config
    if not files.exists(path):
        raise RequestError(f"--job_dir: expected a job's folder, received {job_dir!r} without config.json")
    return config.from_flat(flags.given_settings({"config": path}))


def find_checkpoint(job_dir: str, wanted: str) -> Checkpoint:
    """Return the checkpoint that ``--step`` names.

    Raises:
        RequestError: if there is none, or it is damaged.
    """
    store = CheckpointStore(JobPaths(job_dir).checkpoints, keep=1)
    steps = store.steps()
    if not steps:
        raise RequestError(f"--job_dir: expected a job with a checkpoint, received {job_dir!r} without one")
    if wanted in ("best", "0"):
        newest = store.newest()
        assert newest is not None
        step = int(newest.state["stopping"]["best_step"])
    elif wanted == "last":
        step = steps[-1]
    else:
        step = int(wanted) if wanted.isdecimal() else -1
    if step not in steps:
        there = ", ".join(map(str, steps))
        raise RequestError(f"--step: expected best, last or a checkpoint's step ({there}); received {wanted!r}"
                           + (" before the first validation" if step == 0 else ""))  # fmt: skip
    try:
        return store.read(step)
    except DamagedCheckpoint as damage:
        raise RequestError(
            f"--step: expected a whole checkpoint, received a damaged one ({damage}); restore {store.path(step)!r} "
            "from a backup, or take another --step"
        ) from damage


def describe(job_dir: str, job: Config, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what ``deepdetect.json`` shall say: what the job's own export of that step says, if there is one.

    Raises:
        RequestError: if there is none, and the classes cannot be read from the job's data either.
    """
    for kind in ("best", "last"):
        path = files.join(JobPaths(job_dir).exports(kind), str(checkpoint.step), EXPORT_METADATA)
        if files.exists(path):
            return dict(exported_model.find_export(path.removesuffix("/" + EXPORT_METADATA)).details)
    done = result.read(JobPaths(job_dir).result)
    names = list(done.images["Train"]) if done is not None and "Train" in done.images else _class_names(job)
    values = checkpoint.state["best" if checkpoint.step == checkpoint.state["stopping"]["best_step"] else "last"]
    return {
        "format": 1,
        "class_names": names,
        "positive_class": names[positive_class_index(names, job.export.positive_class)],
        "threshold": THRESHOLD,
        "image_size": job.data.image_size,
        "step": checkpoint.step,
        "monitor": job.loop.monitor,
        "validation": {name: values.get(f"val_{name}") for name in ("loss", "accuracy", "auc")},
        "config": job.flat(),
        "versions": {"deepdetect": __version__},
    }


def make_card(job_dir: str, checkpoint: Checkpoint, metadata: dict[str, Any]) -> str:
    """Return the card of the job's own export of that step, or a new one with what the job has written down."""
    from trainer.reports import model_card  # Late: its libraries are slow to import.

    for kind in ("best", "last"):
        path = files.join(JobPaths(job_dir).exports(kind), str(checkpoint.step), EXPORT_CARD)
        if files.exists(path):
            return files.read_text(path)
    done = result.read(JobPaths(job_dir).result)
    if done is None:
        return model_card.render(metadata, model_card.CardFacts())
    made = {"Devices": f"{done.num_devices} x {done.device_kind}"}
    if done.step == checkpoint.step:
        made["SHA-256 of the weights"] = done.weights_sha256
    return model_card.render(metadata, model_card.CardFacts(images=done.images, skipped=done.skipped, made=made))


def _class_names(job: Config) -> Sequence[str]:
    train, _ = read_train_and_validation(job.data.data_dir, job.data.validation_fraction, job.loop.seed)
    return list(train.class_names)


def read_samples(request: ExportFlags, job: Config) -> list[bytes]:
    """Return the encoded images to compare on, evenly spread over those that there are.

    Raises:
        RequestError: if there are none.
    """
    if request.samples:
        paths = globs.expand([request.samples], ())
        contents: Iterable[Any] = (_read(paths[i]) for i in _spread(len(paths), request.num_samples))
    else:
        from trainer.data import readers

        try:
            _, split = read_train_and_validation(job.data.data_dir, job.data.validation_fraction, job.loop.seed)
        except RequestError as error:
            raise RequestError(f"--samples: expected images to compare on, received none, and {error}") from error
        contents = readers.open_reader(split).read(_spread(len(split), request.num_samples))
    good = [content for content in contents if isinstance(content, bytes)]
    if not good:
        raise RequestError("--samples: expected images that can be read, received none; give other ones")
    return good


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _read(path: str) -> bytes | OSError:
    try:
        return files.read_bytes(path)
    except OSError as error:
        return error


def write(
    request: ExportFlags, forms: Sequence[str], job: Config, checkpoint: Checkpoint, metadata: dict[str, Any],
    contents: Sequence[bytes],
) -> dict[str, Any]:  # fmt: skip
    """Write the forms, compare them on decodable images, and return what ``comparison.json`` holds.

    Raises:
        RequestError: if no image can be decoded.
        JobFailed: if the SavedModel does not answer as the model does.
    """
    import tensorflow as tf

    from trainer.data import decode_batch
    from trainer.reports import model_card
    from trainer.serving import saved_model

    size = job.data.image_size
    loaded = decode_batch.load_batch(contents, size, job.data.max_image_pixels)
    images = np.delete(loaded.images, list(loaded.errors), axis=0)
    if not len(images):
        raise RequestError("--samples: expected images that can be decoded, received none; give other ones")
    frozen = convert.freeze(saved_model.serving_model(checkpoint.arrays, metadata, job.model, size).of_pixels())
    with tempfile.TemporaryDirectory() as scratch:
        keep = "savedmodel" in forms
        target = files.join(request.out, "savedmodel", str(checkpoint.step)) if keep else os.path.join(scratch, "1")
        good = [content for number, content in enumerate(contents) if number not in loaded.errors]
        card = model_card.attempt(functools.partial(make_card, request.job_dir, checkpoint, metadata))
        saved_model.write(
            target, checkpoint.arrays, metadata, good[:_CHECK_SAMPLES], config=job.model, image_size=size, card=card
        )
        if card:
            files.write_text(files.join(request.out, "model_card.md"), card)
        with files.local_copy(target) as folder:
            original = tf.saved_model.load(folder).signatures["serve_images"]
            files.write_bytes(
                files.join(request.out, "deepdetect.json"), files.read_bytes(files.join(folder, EXPORT_METADATA))
            )
            sizes = [os.path.getsize(os.path.join(folder, name)) for name in files.list_below(folder)]
        runs: dict[str, tuple[convert.Run, int]] = {
            "savedmodel": (lambda batch: original(images=tf.constant(batch))["probabilities"].numpy(), sum(sizes))
        }
        for form in forms:
            if form != "savedmodel":
                runs[form] = _convert(request, form, frozen)
        compared = convert.compare(runs, images, exported_model.find_export(target), request.quantize)
        return {"job_dir": request.job_dir, "step": checkpoint.step, **compared}


def _convert(request: ExportFlags, form: str, frozen: Any) -> tuple[convert.Run, int]:
    """Write one form; return what runs it, and its bytes."""
    if form == "tflite":
        content, run = convert.to_tflite(frozen, request.quantize), convert.run_tflite
    else:
        content, run = convert.to_onnx(frozen), convert.run_onnx
    files.write_bytes(files.join(request.out, f"model.{form}"), content)
    return run(content), len(content)


def console() -> None:
    """Serve as the console script."""
    sys.exit(cli.run_command(main))


if __name__ == "__main__":
    console()
