"""Score videos: combine the scores of their frames.

Owns: the scores and rows of a video and of its frames.  Does not own: reading frames (``video_file.py``), the model
(``predictor.py``), writing the rows (``tables.py``).
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core import progress
from trainer.core.errors import AccessDenied, RequestError
from trainer.core.storage import files
from trainer.core.tables import Row
from trainer.data.faces.video_file import Sample, Video
from trainer.serving import exported_model
from trainer.serving.face_scores import NO_FACE, FaceScore, FaceScorer
from trainer.serving.predictor import NOT_FINITE, Predictor, first_line

Scored = Callable[[int], object]  # Gets how many more frames are scored.


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which frames to score, and how to combine their scores.

    Attributes:
        every: use every N-th frame; 0: those shown at whole seconds.
        most: use at most this many frames; 0: all.
        top: number of samples behind the second score: a number, or a share such as "10%".
        batch_size: frames that each device scores at a time.
        threshold: replaces the export's; None: the export's.
    """

    every: int
    most: int
    top: str
    batch_size: int
    threshold: float | None

    def top_of(self, frames: int) -> int:
        """Return how many of a video's samples count for the top score, at least one.

        Raises:
            RequestError: if ``top`` is neither a number nor a share.
        """
        text = self.top.strip()
        try:
            number = float(text.removesuffix("%")) if text.endswith("%") else int(text)
        except ValueError:
            number = 0
        is_valid = 0 < number <= 100 if text.endswith("%") else number > 0
        if not is_valid:
            raise RequestError(f"--top_k: expected a number of frames or a share such as 10%, received {self.top!r}")
        return min(max(math.ceil(number / 100 * frames) if text.endswith("%") else int(number), 1), frames)


def predict(
    export: exported_model.ExportedModel,
    predictor: Predictor,
    paths: Sequence[str],
    sampling: Sampling,
    scorer: FaceScorer | None = None,
) -> Iterator[tuple[Row, list[Row]]]:
    """Yield for each video, in order, its row and a row for each scored frame, or face if each has a row of its own.

    A video that cannot be read has an ``error`` and None elsewhere.  One that ends early has an ``error`` and the
    scores of the frames before its end.

    Raises:
        RequestError: if ``sampling.top`` is wrong.
    """
    sampling.top_of(1)
    with progress.bar(len(paths), "video", "scoring") as bar:
        for path in paths:
            scores = _score(predictor, path, sampling, scorer)
            yield _row(export, path, scores, sampling), list(_frame_rows(export, path, scores, sampling))
            bar.update()


@dataclasses.dataclass
class _VideoScores:
    """The scores of one video.

    Attributes:
        samples: the frames.
        probabilities: ``[C]`` of each scored frame, or None.
        end: length that was read, seconds.
        has_times: whether the file states any.
        error: what went wrong; empty if nothing did.
        faces: of each frame, if faces are scored: the scores behind its probabilities.
    """

    samples: list[Sample] = dataclasses.field(default_factory=list)
    probabilities: list[exported_model.Probabilities | None] = dataclasses.field(default_factory=list)
    end: float = 0.0
    has_times: bool = False
    error: str = ""
    faces: list[list[FaceScore]] = dataclasses.field(default_factory=list)

    @property
    def good(self) -> list[tuple[exported_model.Probabilities, int]]:
        """The scored frames' probabilities and weights."""
        # If reading failed, the last frames have samples but no scores.
        pairs = zip(self.probabilities, self.samples, strict=False)
        return [(row, sample.weight) for row, sample in pairs if row is not None]

    def seconds(self, value: float) -> float | None:
        """Return a time for a row; None if the file states none."""
        return round(value, 3) if self.has_times else None


def _score(predictor: Predictor, path: str, sampling: Sampling, scorer: FaceScorer | None) -> _VideoScores:
    scores = _VideoScores()
    try:
        with files.local_file(path) as local, contextlib.closing(Video(local, sampling.every, sampling.most)) as video:
            with progress.bar(None, "frame", os.path.basename(files.printable(path))) as bar:
                if scorer is not None:
                    _score_faces(scorer, video, scores, sampling.batch_size, bar.update)
                else:
                    _score_frames(predictor, video, scores, sampling.batch_size, bar.update)
            scores.end, scores.has_times, scores.error = video.end, video.has_times, video.missing
    except (OSError, AccessDenied) as error:
        scores.error = first_line(error)
    if not scores.good and not scores.error:
        scores.error = _why_none(scores)
    return scores


def _why_none(scores: _VideoScores) -> str:
    """Return why a video has no score."""
    if not scores.samples:
        return "a video without frames"
    if scores.faces and all(face.error == NO_FACE for faces in scores.faces for face in faces):
        return f"no face was found in its {len(scores.faces)} frames (--faces=none scores whole frames)"
    return "no frame of it could be scored"


def _score_frames(predictor: Predictor, video: Video, scores: _VideoScores, count: int, scored: Scored) -> None:
    for answers in predictor.score_pixels(_pixels(video, scores.samples, count)):
        scores.probabilities += [None if n in answers.errors else row for n, row in enumerate(answers.probabilities)]
        scored(len(answers.probabilities))


def _score_faces(scorer: FaceScorer, video: Video, scores: _VideoScores, count: int, scored: Scored) -> None:
    for samples, images in video.batches(count):
        scores.samples += samples
        faces = scorer.score([scorer.cut(image) for image in images])
        scores.faces += faces
        scores.probabilities += [scorer.one(of_frame).probabilities for of_frame in faces]
        scored(len(samples))


def _pixels(video: Video, samples: list[Sample], count: int) -> Iterator[Any]:
    """Yield the frames, and append what they are to ``samples``."""
    for batch, images in video.batches(count):
        samples += batch
        yield images


def _row(export: exported_model.ExportedModel, path: str, scores: _VideoScores, sampling: Sampling) -> Row:
    row: Row = {"path": files.printable(path), "label": None, "p_fake": None, "p_fake_top": None,
                "frames": len(scores.good), "seconds": None, "error": scores.error or None}  # fmt: skip
    mean = None
    if scores.good:
        probabilities, weights = (np.array(values) for values in zip(*scores.good, strict=True))
        mean = np.average(probabilities.astype(np.float64), axis=0, weights=weights).astype(np.float32)
        top = sampling.top_of(int(weights.sum()))
        row |= {
            "label": export.decide(mean, sampling.threshold),
            "p_fake": _digits(mean[export.positive]),
            "p_fake_top": _digits(_mean_of_top(probabilities[:, export.positive], weights, top)),
            "seconds": scores.seconds(scores.end),
        }
    return row | _by_class(export, mean)


def _mean_of_top(p_fake: exported_model.Probabilities, weights: npt.NDArray[np.int64], most: int) -> float:
    """Return the mean of the highest values, each counted as often as its weight, until ``most`` are counted."""
    order = np.argsort(-p_fake, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    counted = np.clip(most - before, 0, weights[order])
    return float(np.average(p_fake[order].astype(np.float64), weights=counted))


def _frame_rows(
    export: exported_model.ExportedModel, path: str, scores: _VideoScores, sampling: Sampling
) -> Iterator[Row]:
    for sample, probabilities, error, columns in _answers(scores):
        row: Row = {"path": files.printable(path), "frame": sample.number, "seconds": scores.seconds(sample.seconds),
                    "label": None, "p_fake": None, "error": error, "weight": sample.weight, **columns}  # fmt: skip
        if probabilities is not None:
            label = export.decide(probabilities, sampling.threshold)
            row |= {"label": label, "p_fake": _digits(probabilities[export.positive]), "error": None}
        yield row | _by_class(export, probabilities)


def _answers(scores: _VideoScores) -> Iterator[tuple[Sample, exported_model.Probabilities | None, str, Row]]:
    """Yield the answers to frames or their faces, with the error of those without one, and the columns of the face."""
    if scores.faces:
        for sample, faces in zip(scores.samples, scores.faces, strict=False):
            for face in faces:
                yield sample, face.probabilities, face.error, face.columns()
        return
    for sample, probabilities in zip(scores.samples, scores.probabilities, strict=False):
        yield sample, probabilities, NOT_FINITE, {}


def _by_class(export: exported_model.ExportedModel, probabilities: exported_model.Probabilities | None) -> Row:
    if len(export.class_names) == 2:
        return {}
    numbers = [None] * len(export.class_names) if probabilities is None else [_digits(p) for p in probabilities]
    return {f"p_{name}": number for name, number in zip(export.class_names, numbers, strict=True)}


def _digits(value: Any) -> float:
    """Return a float32 rounded to nine digits, which identify it exactly."""
    return float(f"{value:.9g}")
