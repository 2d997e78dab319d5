"""A request for predictions: its flags, and the checks that need no TensorFlow.

Does not own: how images and videos are scored (``predict_files.py``).
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

from trainer.core import tables
from trainer.core.config import PATH, Value, flags, setting
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.faces.video_file import require_opencv
from trainer.serving import exported_model, face_scores
from trainer.serving.video import Sampling

NULL = "-0"  # The word for names that end with a NUL byte.

USAGE = """\
Estimate for each image how likely it is a fake.

  python -m trainer.predict --model_dir=J/export/best PATH... [--out=F.csv|F.jsonl] [--report=F.html] [flags]

PATH is an image, a folder (all images below it), a glob (quote it to let ** cross folders) or gs://; "-" reads
paths from stdin, one a line; -0 reads them with a NUL byte after each, as find -print0 writes them.  Rows are
path, label, p_fake, error, heatmap with --explain, and p_<class> if there are more than two.  Of a model trained on
face crops they are also x0, y0, x1, y1, face_score and faces: the box of the face that was scored, and how many
there were (needs pip install -e '.[faces]').

With --video PATHs are videos (.mp4, .avi, .mov, .mkv and .webm in folders and globs); p_fake is the mean over their
seconds, p_fake_top the mean of the highest ones, seconds the length that was read.

Exit codes: 0 every image was scored; 1 some were not, their rows say why; 2 the request is wrong; 75 stopped by a
signal, or gs:// did not answer: the rows so far are kept, rerun it."""


@dataclasses.dataclass(frozen=True)
class PredictFlags:
    """Settings of one prediction."""

    model_dir: str = setting(
        "", "Exported model: a job's export/best (its newest version is used) or one version of it.", path=PATH
    )
    out: str = setting("", "File to write, .csv or .jsonl; empty: a table on stdout.", path=PATH)
    batch_size: int = setting(32, "Images scored at a time by each device.", unit="images", minimum=1)
    num_devices: int = setting(
        0, "GPUs that share the batches; on a CPU, logical devices. 0: all GPUs, or the CPU.", minimum=0
    )
    threshold: str = setting(
        "",
        "For two classes, answer the positive one from this p_fake up (0 to 1); empty: the export's threshold.",
    )
    explain: str = setting(
        "",
        "Folder or gs:// path for a picture of each image under its heat map (Grad-CAM): what supports the label. "
        "Empty: none.",
        path=PATH,
    )
    video: bool = setting(False, "Score videos (needs OpenCV: pip install -e '.[video]').")
    every_n_frames: int = setting(0, "Score every N-th frame of a video. 0: those shown at full seconds.", minimum=0)
    max_frames: int = setting(0, "Score at most N frames of a video, then stop reading it. 0: all.", minimum=0)
    top_k: str = setting("10%", "Frames that p_fake_top is the mean of: a number, or a share of those scored.")
    faces: str = setting(
        "auto",
        "auto: a model trained on crops of prepare_data faces scores the faces of an image, cut by the same rule. "
        "none: whole images. required: as auto, and a model without such a rule is refused.",
        choices=face_scores.FACES,
    )
    several_faces: str = setting(
        "highest",
        "Of several faces in an image count the highest p_fake, the mean, or each, which gets a row of its own.",
        choices=face_scores.SEVERAL,
    )
    report: str = setting(
        "",
        "File to write, .html: a page with the scores, thumbnails, a histogram and what could not be scored. Empty: "
        "none.",
        path=PATH,
    )
    frames_out: str = setting(
        "", "File with a row for each frame of the videos, .csv or .jsonl. Empty: none.", path=PATH
    )

    @property
    def sampling(self) -> Sampling:
        """Which frames of a video are scored, and how."""
        return Sampling(self.every_n_frames, self.max_frames, self.top_k, self.batch_size, self.own_threshold)

    @property
    def own_threshold(self) -> float | None:
        """The threshold that replaces the export's; None: the export's.

        Raises:
            RequestError: if it is none.
        """
        if not self.threshold:
            return None
        try:
            value = float(self.threshold)
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= 1.0:
            raise RequestError(f"--threshold: expected a number from 0 to 1, or nothing, received {self.threshold!r}")
        return value


_OF_VIDEOS = ("every_n_frames", "max_frames", "top_k", "frames_out")


def parse(argv: Sequence[str]) -> tuple[PredictFlags, list[str]]:
    """Return the checked flags, and the paths as the user gave them.

    Raises:
        HelpRequested: if ``--help`` is among the words.
        RequestError: for the first wrong flag.
    """
    words = _without_null(argv)
    values, words = flags.parse(words, flags.fields_of(PredictFlags), usage=USAGE, required=("model_dir",))
    return of_values(values), words


def of_values(values: Mapping[str, Value]) -> PredictFlags:
    """Return the flags with these values, checked together.

    Raises:
        RequestError: for the first wrong one.
    """
    request = PredictFlags(**values)  # type: ignore[arg-type]
    _ = request.own_threshold  # Raises if it is invalid.
    for flag in ("out", "frames_out"):
        tables.renderer(getattr(request, flag), flag)
    if request.report and os.path.splitext(request.report)[1].lower() != ".html":
        raise RequestError(f"--report: expected a file that ends in .html, received {request.report!r}")
    for flag in ("model_dir", "out", "explain", "report", "frames_out"):
        files.require_form(getattr(request, flag), flag)
    _check_video(request, values)
    return request


def _without_null(argv: Sequence[str]) -> list[str]:
    """Return the words with ``-`` for ``-0``, which absl takes for a flag."""
    flags_end = argv.index("--") if "--" in argv else len(argv)
    return ["-" if word == NULL and place < flags_end else word for place, word in enumerate(argv)]


def names_in(argv: Sequence[str], stdin: TextIO) -> Iterator[str]:
    """Yield the paths in stdin: with ``-0`` each up to a NUL byte and unchanged, else one a line."""
    if NULL in (argv[: argv.index("--")] if "--" in argv else argv):
        yield from map(os.fsdecode, stdin.buffer.read().split(b"\0"))
    else:
        yield from map(str.strip, stdin)


def _check_video(request: PredictFlags, values: Mapping[str, Value]) -> None:
    """Refuse video flags for images and image flags for videos, and a machine without OpenCV."""
    needless = [name for name in _OF_VIDEOS if name in values]
    if needless and not request.video:
        raise RequestError(f"--{needless[0]}: expected --video as well, received none; add it, or leave this out")
    if request.video and request.explain:
        raise RequestError(
            "--explain: expected images, received --video; save the frames that matter, and explain them"
        )
    if request.video:
        request.sampling.top_of(1)
        require_opencv()


def check_explain(request: PredictFlags, *, has_rule: bool) -> None:
    """Refuse heat maps of images whose faces are scored.

    Raises:
        RequestError: if both are requested.
    """
    if request.explain and has_rule:
        raise RequestError(
            "--explain: expected --faces=none, received a model of face crops, whose heat maps are of crops; cut the "
            "faces first (prepare_data faces), and explain the crops with --faces=none"
        )


def check_threshold(request: PredictFlags, export: exported_model.ExportedModel) -> None:
    """Refuse a threshold that the model has no use for.

    Raises:
        RequestError: if the model has more than two classes, or heat maps are requested as well.
    """
    if request.threshold and len(export.class_names) > 2:
        raise RequestError(
            f"--threshold: expected a model of two classes, received one of {len(export.class_names)}, which answers "
            "the most likely one; leave it out"
        )
    if request.threshold and request.explain:
        raise RequestError(
            "--explain: expected the export's own threshold, by which its heat maps show what spoke for the label, "
            "received --threshold; leave one of them out"
        )
