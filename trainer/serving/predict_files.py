"""Score the files of a request: images, with heat maps if requested, or videos.

Does not own: which files words name (``globs.py``), the model (``predictor.py``), videos (``video.py``), where rows go
(``row_writer.py``).
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import tqdm

from trainer.core import globs
from trainer.core.storage import files
from trainer.core.tables import Row
from trainer.data import image_files
from trainer.serving import exported_model, heatmap, video
from trainer.serving.predict_request import PredictFlags, check_threshold
from trainer.serving.predictor import PredictionBatch, Predictor
from trainer.serving.row_writer import RowWriter


def run(request: PredictFlags, words: Sequence[str], stdin: Iterable[str], keep: Callable[[list[Row]], None]) -> None:
    """Score all files that the words name; write heat maps and frames.

    Args:
        request: the checked flags.
        words: images or videos, folders, globs; ``-`` reads paths from ``stdin``.
        stdin: lines with a path each.
        keep: called with a row for each file, as they come.

    Raises:
        RequestError: if the model or a path is wrong, or an output cannot be written.
    """
    export = exported_model.find_export(request.model_dir)
    check_threshold(request, export)
    paths = globs.expand(words, stdin, video.ENDINGS if request.video else ())
    # Refuse an output that cannot be written before hours are spent on scores.
    for flag, file in (("out", request.out), ("frames_out", request.frames_out)):
        if file:
            files.require_writable(os.path.dirname(file) or ".", flag)
    if request.explain:
        files.require_writable(request.explain, "explain")
    if not request.video:
        for rows in predict_images(export, paths, request):
            keep(rows)
        return
    predictor = Predictor(export, num_devices=request.num_devices)
    frames = RowWriter(request.frames_out, "frames_out") if request.frames_out else None
    try:
        for row, of_frames in video.predict(export, predictor, paths, request.sampling):
            if frames:
                frames.add(of_frames)
            keep([row])
    finally:
        if frames:
            frames.finish()


def predict_images(
    export: exported_model.ExportedModel, paths: Sequence[str], request: PredictFlags
) -> Iterator[list[Row]]:
    """Yield a row for each path, in order, by batches: a prediction, or an ``error`` and None elsewhere.

    Raises:
        RequestError: if the model does not load, or heat maps are requested and it has none.
    """
    predictor = Predictor(export, explain=bool(request.explain), num_devices=request.num_devices)
    contents: dict[int, bytes] = {}  # Of the images whose heat maps are not drawn yet.

    def read(number: int) -> bytes:
        content = image_files.read(paths[number])
        if request.explain:
            contents[number] = content
        return content

    with tqdm.tqdm(total=len(paths), unit="image", file=sys.stderr, disable=None, leave=False) as bar:
        for batch in predictor.score(len(paths), read, request.batch_size):
            numbers = range(batch.start, batch.start + len(batch.labels))
            encoded = {n: contents.pop(n) for n in numbers if n in contents}
            pictures = _draw(request.explain, paths, batch, encoded, export)
            yield [_row(export, paths[n], batch, n, request, pictures) for n in numbers]
            bar.update(len(numbers))


def _draw(
    folder: str,
    paths: Sequence[str],
    batch: PredictionBatch,
    contents: Mapping[int, bytes],
    export: exported_model.ExportedModel,
) -> dict[int, str]:
    """Write the pictures of a batch's heat maps, and return their files by the image's number."""
    numbers = [batch.start + n for n in batch.heatmaps if n not in batch.errors]
    if not numbers:
        return {}
    from trainer.data import decode_batch  # Late: TensorFlow.  It gives the pixels that the model gets.

    def draw(number: int) -> str:
        image = decode_batch.decode_image(contents[number], export.max_image_pixels)
        heat = export.input_rule.on_image(batch.heatmaps[number - batch.start], *image.shape[:2])
        picture = heatmap.overlay(image, heat)
        file = files.join(folder, heatmap.file_name(paths[number]))
        files.write_bytes(file, heatmap.to_png(picture))
        return file

    with ThreadPoolExecutor() as pool:
        return dict(zip(numbers, pool.map(draw, numbers), strict=True))


def _row(
    export: exported_model.ExportedModel,
    path: str,
    batch: PredictionBatch,
    number: int,
    request: PredictFlags,
    pictures: Mapping[int, str],
) -> Row:
    """Return an image's row."""
    error = batch.errors.get(number - batch.start)
    probabilities = batch.probabilities[number - batch.start]
    # Nine digits give a float32 back exactly.
    values = [None if error else float(f"{value:.9g}") for value in probabilities]
    label = export.decide(probabilities, request.threshold) if request.threshold else None
    row: Row = {
        "path": files.printable(path),
        "label": None if error else label or batch.labels[number - batch.start],
        "p_fake": values[export.positive],
        "error": error,
    }
    if request.explain:
        row["heatmap"] = pictures.get(number)
    if len(export.class_names) > 2:
        row |= {f"p_{name}": value for name, value in zip(export.class_names, values, strict=True)}
    return row
