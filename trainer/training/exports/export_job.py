"""Export a checkpoint of a job again: a SavedModel, Keras, TFLite, ONNX, each compared with the SavedModel and timed.

Does not own: writing SavedModels (``saved_model.py``), conversion (``convert.py``, ``stock_keras.py``), the export at
the end of a job (``exporter.py``).
"""

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import __version__
from trainer.core import config, globs, progress, result
from trainer.core.config import Config, flags
from trainer.core.errors import RequestError
from trainer.core.job_dir import EXPORT_CARD, EXPORT_METADATA, JobPaths
from trainer.core.storage import files
from trainer.data import input_rule, positive_class
from trainer.data.faces import crop_rule
from trainer.data.formats import file_kind
from trainer.data.manifest import Split, read_train_and_validation
from trainer.data.pixels import Pixels
from trainer.models import keras_settings
from trainer.serving import convert, exported_model, tensorrt_check
from trainer.training import resume
from trainer.training.checkpoints import judged
from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpoint
from trainer.training.exports.export_request import ExportFlags, parse_formats

THRESHOLD = 0.5  # Of a checkpoint that was never exported.

_CHECK_SAMPLES = 8  # Images that the SavedModel is checked with in a process of its own.


def run(request: ExportFlags) -> dict[str, Any]:
    """Write the requested forms and ``comparison.json``; return what the latter holds.

    Raises:
        RequestError: if flags, job or images are wrong.
        JobFailed: if the SavedModel's outputs differ from the model's.
    """
    forms = parse_formats(request.formats)
    if "savedmodel" in forms:
        exported_model.require_loadable(request.out, "out")
    job = read_config(request.job_dir)
    checkpoint = find_checkpoint(request.job_dir, request.step)
    metadata = describe(request.job_dir, job, checkpoint)
    contents = read_samples(request, job)
    files.require_writable(request.out, "out")
    with keras_settings.pinned():
        comparison = write(request, forms, job, checkpoint, metadata, contents)
    files.write_text(files.join(request.out, "comparison.json"), json.dumps(comparison, indent=1) + "\n")
    return comparison


def read_config(job_dir: str) -> Config:
    """Return a job's settings.

    Raises:
        RequestError: if it is not a job_dir.
    """
    path = JobPaths(job_dir).config
    if not files.exists(path):
        raise RequestError(f"--job_dir: expected a job's folder, received {job_dir!r} without config.json")
    settings = flags.given_settings({"config": path})
    layout = {field.name for field in dataclasses.fields(config.LayoutConfig)}
    newer = {name: value for name, value in resume.newer_settings(settings).items() if name in layout}
    return config.from_flat({**newer, **settings})


def find_checkpoint(job_dir: str, name: str) -> Checkpoint:
    """Return the checkpoint that ``--step`` names.

    Raises:
        RequestError: if there is none, or it is damaged.
    """
    store = CheckpointStore(JobPaths(job_dir).checkpoints, keep=1)
    steps = store.steps()
    if not steps:
        raise RequestError(f"--job_dir: expected a job with a checkpoint, received {job_dir!r} without one")
    if name in ("best", "0"):
        step = judged.best_step(store)
    elif name == "last":
        step = steps[-1]
    else:
        step = int(name) if name.isdecimal() else -1
    if step not in steps:
        choices = ", ".join(map(str, steps))
        raise RequestError(f"--step: expected best, last or a checkpoint's step ({choices}); received {name!r}"
                           + (" before the first validation" if step == 0 else ""))  # fmt: skip
    try:
        return judged.read(store, step)
    except DamagedCheckpoint as damage:
        raise RequestError(
            f"--step: expected a whole checkpoint, received a damaged one ({damage}); restore {store.path(step)!r} "
            "from a backup, or take another --step"
        ) from damage


def describe(job_dir: str, job: Config, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the content of ``deepdetect.json``: that of the job's own export of this step, if there is one.

    Raises:
        RequestError: if there is none, and the classes cannot be read from the job's data either.
    """
    for kind in ("best", "last"):
        path = files.join(JobPaths(job_dir).exports(kind), str(checkpoint.step), EXPORT_METADATA)
        if files.exists(path):
            return dict(exported_model.find_export(path.removesuffix("/" + EXPORT_METADATA)).details)
    done = result.read(JobPaths(job_dir).result)
    names = list(done.images["Train"]) if done is not None and "Train" in done.images else _class_names(job)
    # The job's setting as it began: "" means what it meant then.
    before = job.export.positive_class
    positive = positive_class.settle(names, "", before) or names[positive_class.positive_class_index(names, "")]
    values = checkpoint.state["best" if checkpoint.step == checkpoint.state["stopping"]["best_step"] else "last"]
    return {
        "format": 1,
        "class_names": names,
        "positive_class": positive,
        "threshold": THRESHOLD,
        "image_size": job.data.image_size,
        "input": input_rule.of_config(job.data).metadata(),
        **crop_rule.entry(job.data.data_dir),
        "step": checkpoint.step,
        "monitor": job.loop.monitor,
        "validation": {name: values.get(f"val_{name}") for name in ("loss", "accuracy", "auc")},
        "config": job.flat(),
        "versions": {"deepdetect": __version__},
    }


def make_card(job_dir: str, checkpoint: Checkpoint, metadata: dict[str, Any]) -> str:
    """Return the model card of the job's own export of this step, or a new one from the job's files."""
    from trainer.reports import model_card  # Late: its libraries are slow to import.

    for kind in ("best", "last"):
        path = files.join(JobPaths(job_dir).exports(kind), str(checkpoint.step), EXPORT_CARD)
        if files.exists(path):
            return files.read_text(path)
    done = result.read(JobPaths(job_dir).result)
    if done is None:
        return model_card.render(metadata, model_card.CardFacts())
    rows = {"Devices": f"{done.num_devices} x {done.device_kind}"}
    if done.step == checkpoint.step:
        rows["SHA-256 of the weights"] = done.weights_sha256
    is_bad = done.learned is False and checkpoint.step == done.best_step
    facts = model_card.CardFacts(
        images=done.images, skipped=done.skipped, made=rows,
        warning=f"Learned nothing: {done.learned_because}." if is_bad else "",
    )  # fmt: skip
    return model_card.render(metadata, facts)


def _read_splits(job: Config) -> tuple[Split, Split]:
    return read_train_and_validation(
        job.data.data_dir, job.data.validation_fraction, job.loop.seed, self_blended=job.self_blended, layout=job.layout
    )


def _class_names(job: Config) -> Sequence[str]:
    train, _ = _read_splits(job)
    return list(train.class_names)


def read_samples(request: ExportFlags, job: Config) -> list[bytes]:
    """Return encoded images to compare on, evenly spread over the available ones.

    Raises:
        RequestError: if there are none.
    """
    if request.samples:
        paths = globs.expand([request.samples], (), file_kind.is_image, kinds="images")
        contents: Iterable[Any] = (_read(paths[i]) for i in _spread(len(paths), request.num_samples))
    else:
        from trainer.data import readers

        try:
            _, split = _read_splits(job)
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
        JobFailed: if the SavedModel's outputs differ from the model's.
    """
    from trainer.data import decode_batch
    from trainer.serving import saved_model

    size = job.data.image_size
    rule = input_rule.of_config(job.data).one_view
    decoded = decode_batch.load_batch(contents, rule, job.data.max_image_pixels)
    images = np.delete(decoded.images, list(decoded.errors), axis=0)
    if not len(images):
        raise RequestError("--samples: expected images that can be decoded, received none; give other ones")
    with progress.phase("building the model"):
        serving = saved_model.serving_model(checkpoint.arrays, metadata, job.model, size)
        of_pixels = serving.of_pixels()
        makers = _makers(request, forms, serving, images[:_CHECK_SAMPLES])  # Refuses before anything is written.
    with tempfile.TemporaryDirectory() as scratch:
        keep = "savedmodel" in forms
        target = files.join(request.out, "savedmodel", str(checkpoint.step)) if keep else os.path.join(scratch, "1")
        good = [content for number, content in enumerate(contents) if number not in decoded.errors]
        with progress.phase("writing the SavedModel, and checking it in a fresh process"):
            _write_saved_model(request, target, job, checkpoint, metadata, good[:_CHECK_SAMPLES])
        runs = {"savedmodel": _load(target, request.out)}
        if job.data.test_views > 1:  # Other forms take one view, so they are compared with the model on one view.
            runs["savedmodel"] = (lambda batch: of_pixels(batch).numpy(), runs["savedmodel"][1])
        runs |= {form: _convert(request, form, make) for form, make in makers.items()}
        with progress.phase(f"comparing {len(runs)} forms on {len(images)} images"):
            comparison = convert.compare(runs, images, exported_model.find_export(target), request.quantize)
        if "onnx" in forms:
            content = files.read_bytes(files.join(request.out, "model.onnx"))
            comparison["forms"]["onnx"]["tensorrt"] = tensorrt_check.verdict(content)
        return {"job_dir": request.job_dir, "step": checkpoint.step, **comparison}


def _write_saved_model(
    request: ExportFlags, target: str, job: Config, checkpoint: Checkpoint, metadata: dict[str, Any],
    samples: Sequence[bytes],
) -> None:  # fmt: skip
    """Write the SavedModel and its model card."""
    from trainer.reports import model_card  # Late: its libraries are slow to import.
    from trainer.serving import saved_model

    card = model_card.attempt(functools.partial(make_card, request.job_dir, checkpoint, metadata))
    saved_model.write(
        target, checkpoint.arrays, metadata, samples, config=job.model, image_size=job.data.image_size, card=card
    )
    if card:
        files.write_text(files.join(request.out, "model_card.md"), card)


def _load(target: str, out: str) -> tuple[convert.Run, int]:
    """Load the SavedModel that was written; return a function that runs it, and its size in bytes."""
    import tensorflow as tf

    with files.local_copy(target) as folder:
        original = tf.saved_model.load(folder).signatures["serve_images"]
        files.write_bytes(files.join(out, "deepdetect.json"), files.read_bytes(files.join(folder, EXPORT_METADATA)))
        size = sum(os.path.getsize(os.path.join(folder, name)) for name in files.list_below(folder))
    return lambda batch: original(images=tf.constant(batch))["probabilities"].numpy(), size


def _makers(
    request: ExportFlags, forms: Sequence[str], serving: Any, images: Pixels
) -> dict[str, Callable[[], tuple[bytes, convert.Run]]]:
    """Return for each form beside the SavedModel what makes its file, and the function that runs it.

    Raises:
        RequestError: if the network cannot have one of the forms.
    """
    makers: dict[str, Callable[[], tuple[bytes, convert.Run]]] = {}
    frozen = convert.freeze(serving.of_pixels()) if {"tflite", "onnx"} & set(forms) else None
    if "keras" in forms:
        from trainer.serving import stock_keras  # Late: it imports TensorFlow.

        stock = stock_keras.rebuild(serving.model, serving.temperature)
        makers["keras"] = lambda: stock_keras.make(stock, images, serving.of_one_view(images))
    if "tflite" in forms:
        makers["tflite"] = lambda: _with(convert.run_tflite, convert.to_tflite(frozen, request.quantize))
    if "onnx" in forms:
        makers["onnx"] = lambda: _with(convert.run_onnx, convert.to_onnx(frozen))
    return makers


def _with(run: Callable[[bytes], convert.Run], content: bytes) -> tuple[bytes, convert.Run]:
    return content, run(content)


def _convert(
    request: ExportFlags, form: str, make: Callable[[], tuple[bytes, convert.Run]]
) -> tuple[convert.Run, int]:  # fmt: skip
    """Write one form; return a function that runs it, and its size in bytes."""
    with progress.phase(f"converting to {form}"):
        content, run = make()
    files.write_bytes(files.join(request.out, f"model.{form}"), content)
    return run, len(content)
