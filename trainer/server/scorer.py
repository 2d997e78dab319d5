"""The model behind the queue: batches of encoded images, pixels or faces in, answers out.

Owns: which of an export's signatures a batch needs, the picture of a heat map.  Does not own: the queue
(``batcher.py``), the form of an answer (``answers.py``).
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.core.tables import Row
from trainer.data.formats import rescue
from trainer.data.formats.image_format import Unreadable
from trainer.data.pixels import Pixels
from trainer.serving import face_scores, heatmap
from trainer.serving.exported_model import ExportedModel, Probabilities
from trainer.serving.face_scores import FaceScorer
from trainer.serving.predictor import NoHeatMaps, PredictionBatch, Predictor

PLAIN, EXPLAINED, FACES, PIXELS = "plain", "explained", "faces", "pixels"  # Kinds of batches.


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """The model's answer to one image.

    Attributes:
        probabilities: ``[C]``; of no meaning with an error.
        label: class name.
        error: why there is no answer; empty otherwise.
        heat: ``[S, S]`` in [0, 1] if requested.
        face: columns about the face that was scored, of a model of face crops.
    """

    probabilities: Probabilities
    label: str
    error: str = ""
    heat: npt.NDArray[np.float32] | None = None
    face: Row = dataclasses.field(default_factory=dict)


class Scorer:
    """An export on the first device.

    Attributes:
        export: its metadata.
        finds_faces: whether files of ``POST /predict`` are scored by their faces, as trainer.predict does.
        no_heat_maps: why there are no heat maps; empty if there are.
    """

    def __init__(self, export: ExportedModel) -> None:
        """Load the model and score one image, which compiles its graphs.

        Raises:
            RequestError: if it does not load, or needs a detector of faces that is not installed.
            StorageDown: if its files cannot be read, for a reason that may pass.
        """
        self.export = export
        rule = face_scores.rule_of(export, "auto")
        self._predictor = Predictor(export, num_devices=1)
        self._explaining, self.no_heat_maps = _explaining(self._predictor)
        self._faces = FaceScorer(export, self._predictor, rule, "highest", batch=32) if rule else None
        self.finds_faces = rule is not None
        if self.finds_faces:
            self.no_heat_maps = "the model scores crops of faces, and a map would be of a crop"
        for kind in (PLAIN, EXPLAINED) if self._explaining else (PLAIN,):
            answers = self.run(kind, [_grey()])
            if answers[0].heat is not None:
                self.draw(_grey(), answers[0].heat)  # Imports Matplotlib.

    def run(self, kind: str, contents: Sequence[Any]) -> list[Answer]:
        """Return the answers to a batch: encoded images or, of a kind that begins with PIXELS, ``[H, W, 3]`` uint8."""
        if kind == FACES:
            return self._of_faces(contents)
        if kind.startswith(PIXELS):
            (batch,) = self._predictor.score_pixels(iter([np.stack(contents)]))
            return _answers(batch)
        predictor = self._explaining if kind == EXPLAINED and self._explaining else self._predictor
        return _answers(predictor.score_batch(contents))

    def _of_faces(self, contents: Sequence[bytes]) -> list[Answer]:
        return [self._of_face(content) for content in contents]

    def _of_face(self, content: bytes) -> Answer:
        assert self._faces is not None, "only a model of face crops gets this kind"
        try:
            faces = self._faces.cut(rescue.decode(content, self.export.max_image_pixels))
        except Unreadable as error:
            return Answer(np.zeros(0, np.float32), "", str(error))
        ((score,),) = self._faces.score([faces])
        if score.probabilities is None:
            return Answer(np.zeros(0, np.float32), "", score.error.split(" (")[0], face=score.columns())
        return Answer(score.probabilities, self.export.decide(score.probabilities), face=score.columns())

    def draw(self, content: bytes, heat: npt.NDArray[np.float32]) -> bytes:
        """Return an image under its heat map, as a PNG."""
        from trainer.data import decode_batch  # Late: TensorFlow.

        image: Pixels = decode_batch.decode_image(content, self.export.max_image_pixels)
        on_image = self.export.input_rule.on_image(heat, *image.shape[:2])
        return heatmap.to_png(heatmap.overlay(image, on_image))


def _explaining(predictor: Predictor) -> tuple[Predictor | None, str]:
    try:
        return predictor.explaining(), ""
    except NoHeatMaps as error:
        return None, error.because


def _answers(batch: PredictionBatch) -> list[Answer]:
    return [
        Answer(batch.probabilities[n], batch.labels[n], batch.errors.get(n, ""), batch.heatmaps.get(n))
        for n in range(len(batch.labels))
    ]


def _grey() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()
