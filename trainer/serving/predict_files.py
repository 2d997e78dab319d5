"""Score the files of a request: images, with heat maps if requested, or videos.

Does not own: which files words name (``globs.py``), the model (``predictor.py``), videos (``video.py``), where rows go
(``row_writer.py``).
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from trainer.core import globs, progress
from trainer.core.errors import AccessDenied
from trainer.core.storage import files
from trainer.core.tables import Row
from trainer.data import image_files
from trainer.data.faces import video_file
from trainer.data.faces.crop_rule import CropRule
from trainer.data.formats import file_kind
from trainer.data.formats.image_format import Unreadable
from trainer.serving import exported_model, face_scores, heatmap, video
from trainer.serving.card_check import CardCheck
from trainer.serving.face_scores import CutFace, FaceScore, FaceScorer
from trainer.serving.predict_request import PredictFlags, check_explain, check_threshold
from trainer.serving.predictor import PredictionBatch, Predictor, first_line
from trainer.serving.row_writer import RowWriter

log = logging.getLogger(__name__)

_KINDS = {False: "images (videos need --video)", True: f"videos ({', '.join(video_file.ENDINGS)})"}  # With --video.


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What was scored.

    Attributes:
        export: the model.
        left_out: a line on the files in folders and globs that are of another kind; empty if there are none.
    """

    export: exported_model.ExportedModel
    left_out: str


def run(
    request: PredictFlags, words: Sequence[str], stdin: Iterable[str], keep: Callable[[list[Row]], None]
) -> Scoring:
    """Score all files that the words name; write heat maps and frames.

    Args:
        request: the checked flags.
        words: images or videos, folders, globs; ``-`` reads paths from ``stdin``.
        stdin: paths for ``-``.
        keep: called with a row for each file, as they come.

    Raises:
        RequestError: if the model or a path is wrong, or an output cannot be written.
    """
    export = exported_model.find_export(request.model_dir)
    check_threshold(request, export)
    rule = face_scores.rule_of(export, request.faces)
    check_explain(request, has_rule=rule is not None)
    takes = globs.with_endings(video_file.ENDINGS) if request.video else file_kind.is_image
    others: list[str] = []
    paths = globs.expand(words, stdin, takes, kinds=_KINDS[request.video], report=others.append)
    for line in others:
        log.info("%s", line)
    check = CardCheck(export, whole_images=rule is None)
    _require_outputs(request)
    if request.video:
        rows = _of_videos(export, paths, request, rule, check)
    elif rule:
        rows = predict_faces(export, rule, paths, request, check)
    else:
        rows = predict_images(export, paths, request, check)
    for part in rows:
        keep(part)
    check.warn()
    return Scoring(export, "; ".join(others))


def _require_outputs(request: PredictFlags) -> None:
    """Refuse an output that cannot be written before hours are spent on scores."""
    for flag, file in (("out", request.out), ("report", request.report), ("frames_out", request.frames_out)):
        if file:
            files.require_writable(os.path.dirname(file) or ".", flag)
    if request.explain:
        files.require_writable(request.explain, "explain")


def _of_videos(
    export: exported_model.ExportedModel,
    paths: Sequence[str],
    request: PredictFlags,
    rule: CropRule | None,
    check: CardCheck,
) -> Iterator[list[Row]]:
    """Yield the row of each video, in order, and write those of its frames if requested."""
    with progress.phase("loading the model"):
        predictor = Predictor(export, num_devices=request.num_devices)
    scorer = _scorer(export, predictor, rule, request)
    frames = RowWriter(request.frames_out, "frames_out") if request.frames_out else None
    try:
        for row, of_frames in video.predict(export, predictor, paths, request.sampling, scorer):
            if frames:
                frames.add(of_frames)
            if rule is None and row["label"] is not None:
                check.see_frames(str(row["path"]))
            yield [row]
    finally:
        if frames:
            frames.finish()


def predict_images(
    export: exported_model.ExportedModel, paths: Sequence[str], request: PredictFlags, check: CardCheck
) -> Iterator[list[Row]]:
    """Yield a row for each path, in order, by batches: a prediction, or an ``error`` and None elsewhere.

    Raises:
        RequestError: if the model does not load, or heat maps are requested and it has none.
    """
    with progress.phase("loading the model"):
        predictor = Predictor(export, explain=bool(request.explain), num_devices=request.num_devices)
    contents: dict[int, bytes] = {}  # Of the images whose heat maps are not drawn yet.

    def read(number: int) -> bytes:
        content = image_files.read(paths[number])
        check.see_file(paths[number], content)
        if request.explain:
            contents[number] = content
        return content

    with progress.bar(len(paths), "image", "scoring") as bar:
        for batch in predictor.score(len(paths), read, request.batch_size):
            numbers = range(batch.start, batch.start + len(batch.labels))
            encoded = {n: contents.pop(n) for n in numbers if n in contents}
            pictures = _draw(request.explain, paths, batch, encoded, export)
            yield [_row(export, paths[n], batch, n, request, pictures) for n in numbers]
            bar.update(len(numbers))


def _scorer(
    export: exported_model.ExportedModel, predictor: Predictor, rule: CropRule | None, request: PredictFlags
) -> FaceScorer | None:
    return FaceScorer(export, predictor, rule, request.several_faces, request.batch_size) if rule else None


def predict_faces(
    export: exported_model.ExportedModel, rule: CropRule, paths: Sequence[str], request: PredictFlags, check: CardCheck
) -> Iterator[list[Row]]:
    """Yield the rows of each path, in order, by batches: of its faces, cut by a rule; or an ``error``.

    Raises:
        RequestError: if the model does not load.
    """
    from trainer.data.formats import rescue  # Late: Pillow.

    with progress.phase("loading the model"):
        predictor = Predictor(export, num_devices=request.num_devices)
    scorer = FaceScorer(export, predictor, rule, request.several_faces, request.batch_size)
    with progress.bar(len(paths), "image", "scoring") as bar:
        for start in range(0, len(paths), request.batch_size):
            part = paths[start : start + request.batch_size]
            cut: list[list[CutFace]] = []
            errors: dict[int, str] = {}
            for number, path in enumerate(part):
                faces: list[CutFace] = []
                try:
                    faces = scorer.cut(rescue.decode(image_files.read(path), export.max_image_pixels))
                except (OSError, AccessDenied, Unreadable) as error:
                    errors[number] = first_line(error)
                cut.append(faces)
            scores = scorer.score(cut)
            for path, of_path in zip(part, scores, strict=True):
                for score in of_path:
                    check.see_face(path, score.columns())
            yield [
                _face_row(export, path, score, errors.get(number, ""), request)
                for number, path in enumerate(part)
                for score in scores[number]
            ]
            bar.update(len(part))


def _face_row(
    export: exported_model.ExportedModel, path: str, score: FaceScore, error: str, request: PredictFlags
) -> Row:
    """Return the row of a face; ``error`` is of its file."""
    values = score.probabilities
    numbers = [None] * len(export.class_names) if values is None else [float(f"{value:.9g}") for value in values]
    row: Row = {
        "path": files.printable(path),
        "label": None if values is None else export.decide(values, request.own_threshold),
        "p_fake": numbers[export.positive],
        "error": error or score.error or None,
        **score.columns(),
    }
    if len(export.class_names) > 2:
        row |= {f"p_{name}": value for name, value in zip(export.class_names, numbers, strict=True)}
    return row


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
    label = None if request.own_threshold is None else export.decide(probabilities, request.own_threshold)
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
