"""Score the faces of images, cut by the rule of the crops that a model was trained on.

Owns: which model needs that, and what several faces of an image come to.  Does not own: the rule
(``data/faces/crop_rule.py``), running the model (``predictor.py``).
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.core.errors import RequestError
from trainer.core.tables import Row
from trainer.data.faces import crop_rule, detector, extract
from trainer.data.faces.crop_rule import Cropper, CropRule
from trainer.data.faces.detector import Face
from trainer.data.pixels import Pixels
from trainer.serving.exported_model import ExportedModel, Probabilities
from trainer.serving.predictor import Predictor

NO_FACE = "no face was found (--faces=none scores the whole image)"
FACES = ("auto", "none", "required")
SEVERAL = ("highest", "mean", "each")


def rule_of(export: ExportedModel, faces: str) -> CropRule | None:
    """Return the rule to score by; None: whole images.

    Args:
        export: the model.
        faces: auto: as the model was trained; none: whole images; required: by a rule, or not at all.

    Raises:
        RequestError: if a rule is required and the model has none, or its detector is not installed.
    """
    rule = None if faces == "none" else crop_rule.of_metadata(export.details.get("faces"), export.path)
    if rule is None and faces == "required":
        raise RequestError(
            f"--faces: expected a model of face crops (prepare_data faces), received {export.path!r}, trained on whole "
            "images or on crops of other tools; leave out --faces=required, and give it images like those"
        )
    if rule is not None:
        detector.require()
    return rule


@dataclasses.dataclass(frozen=True)
class FaceScore:
    """The answer to one face, or to several of one image together.

    Attributes:
        box: columns of the face's box and its score by the detector; of several together, of the largest.
        count: number of faces in the image.
        probabilities: ``[C]``; None if ``error`` says why not.
        error: why there are none; empty otherwise.
    """

    box: Row
    count: int
    probabilities: Probabilities | None
    error: str = ""

    def columns(self) -> Row:
        """Return the columns of a row that tell which face was scored."""
        return {**self.box, "faces": self.count}


_NO_BOX: Row = dict.fromkeys(("x0", "y0", "x1", "y1", "face_score"))


@dataclasses.dataclass(frozen=True)
class CutFace:
    """A face of an image: its crop, and what rows say about it."""

    face: Face
    content: bytes
    box: Row


class FaceScorer:
    """Finds the faces of images, cuts them and scores them."""

    def __init__(self, export: ExportedModel, predictor: Predictor, rule: CropRule, several: str, batch: int) -> None:
        """Bind the parts.

        Args:
            export: the model's metadata.
            predictor: the model.
            rule: from ``rule_of``.
            several: what counts of several faces of an image: highest p_fake, mean, or each for itself.
            batch: crops that each device scores at a time.
        """
        self._positive = export.positive
        self._predictor = predictor
        self._cropper = Cropper(rule)
        self._several = several
        self._batch = batch

    def cut(self, rgb: Pixels) -> list[CutFace]:
        """Return the faces of ``[H, W, 3]`` uint8, the best first."""
        height, width = rgb.shape[:2]
        return [
            CutFace(face, content, {**extract.box(face, height, width), "face_score": round(face.score, 4)})
            for face, content in self._cropper.crops(rgb)
        ]

    def score(self, images: Sequence[Sequence[CutFace]]) -> list[list[FaceScore]]:
        """Return the scores of the faces of some images, of each at least one, which may be an error."""
        crops = [one.content for faces in images for one in faces]
        batches = self._predictor.score(len(crops), crops.__getitem__, self._batch)
        answers = iter([answer for batch in batches for answer in _answers(batch.probabilities, batch.errors)])
        return [self._together([(one, *next(answers)) for one in faces]) for faces in images]

    def one(self, scores: Sequence[FaceScore]) -> FaceScore:
        """Return what counts for the image: of scores for each face the highest."""
        good = [score for score in scores if score.probabilities is not None]
        return max(good, key=self._p_fake) if good else scores[0]

    def _p_fake(self, score: FaceScore) -> float:
        return float(score.probabilities[self._positive]) if score.probabilities is not None else -1.0

    def _together(self, answers: Sequence[tuple[CutFace, Probabilities | None, str]]) -> list[FaceScore]:
        if not answers:
            return [FaceScore(_NO_BOX, 0, None, NO_FACE)]
        scores = [FaceScore(cut.box, len(answers), values, error) for cut, values, error in answers]
        if self._several == "each":
            return scores
        good = [score.probabilities for score in scores if score.probabilities is not None]
        if self._several == "mean" and good:
            largest = max(answers, key=lambda answer: answer[0].face.area)[0]
            mean: Probabilities = np.stack(good).astype(np.float64).mean(axis=0).astype(np.float32)
            return [FaceScore(largest.box, len(answers), mean)]
        return [self.one(scores)]


def _answers(probabilities: Probabilities, errors: dict[int, str]) -> Iterator[tuple[Probabilities | None, str]]:
    for position, row in enumerate(probabilities):
        yield (None, errors[position]) if position in errors else (row, "")
