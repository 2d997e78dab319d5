"""Score images or videos with an exported model: files, folders, globs or a list, to a table, CSV or JSONL.

Does not own: which files words name (``globs.py``), how files are scored (``predictor.py``), videos (``video.py``), what
rows look like (``tables.py``).
"""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import tqdm

from trainer.core import cli, config, errors, globs, tables
from trainer.core.config import Value, flags
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.core.tables import Row
from trainer.serving import exported_model, heatmap, video
from trainer.serving import video as video_lib
from trainer.serving.predictor import PredictionBatch, Predictor

USAGE = """\
Say for each image how likely it is a fake.

  python -m trainer.predict --model_dir=J/export/best PATH... [--out=F.csv|F.jsonl] [flags]

PATH is an image, a folder (with all below it), a glob (quote it to let ** cross folders) or gs://; "-" reads
paths from stdin, one a line.  Rows are path, label, p_fake, error, heatmap with --explain, and p_<class> if there are
more than two.

With --video PATHs are videos (of folders and globs .mp4, .avi, .mov, .mkv and .webm are taken); p_fake is the mean of
their frames, p_fake_top the mean of the highest ones, seconds the length that was read.

Exit codes: 0 every image has an answer; 1 some have none, their rows say why; 2 the request is wrong; 75 gs://
did not answer, try later."""


@dataclasses.dataclass(frozen=True)
class PredictFlags:
    """Settings of one prediction."""

    model_dir: str = config.setting(
        "", "Exported model: a job's export/best (its newest version is used) or one version of it."
    )
    out: str = config.setting("", "File to write, .csv or .jsonl; empty: a table on stdout.")
    batch_size: int = config.setting(32, "Images scored at a time by each device.", unit="images", minimum=1)
    num_devices: int = config.setting(
        0, "GPUs that batches take turns on; on a CPU logical devices. 0: all GPUs, or the CPU.", minimum=0
    )
    threshold: float = config.setting(
        0.0,
        "Of two classes, answer the positive one from this p_fake up. 0: the export's own threshold.",
        minimum=0.0,
        maximum=1.0,
    )
    explain: str = config.setting(
        "",
        "Folder or gs:// path for a picture of each image under its heat map (Grad-CAM): what spoke for the label. "
        "Empty: none.",
    )
    video: bool = config.setting(False, "Score videos (needs OpenCV: pip install -e '.[video]').")
    every_n_frames: int = config.setting(0, "Score each so many-th frame of a video. 0: about one a second.", minimum=0)
    max_frames: int = config.setting(
        0, "Score at most so many frames of a video, and read no further. 0: all.", minimum=0
    )
    top_k: str = config.setting("10%", "Frames that p_fake_top is the mean of: a number, or a share of those scored.")
    frames_out: str = config.setting("", "File for a row about each frame of the videos, .csv or .jsonl. Empty: none.")


_OF_VIDEOS = ("every_n_frames", "max_frames", "top_k", "frames_out")


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, model or paths are wrong.
    """
    given, words = flags.parse(argv, flags.fields_of(PredictFlags), usage=USAGE)
    request = PredictFlags(**given)  # type: ignore[arg-type]
    render = tables.renderer(request.out, "out")
    render_frames = tables.renderer(request.frames_out, "frames_out")
    for flag in ("model_dir", "out", "explain", "frames_out"):
        files.require_form(getattr(request, flag), flag)
    _check_video(request, given)
    export = exported_model.find_export(request.model_dir)
    _check_threshold(request, export)
    paths = globs.expand(words, sys.stdin, video.ENDINGS if request.video else ())
    for flag, file in (("out", request.out), ("frames_out", request.frames_out)):
        if file:
            files.require_writable(os.path.dirname(file) or ".", flag)
    if request.explain:
        files.require_writable(request.explain, "explain")
    if request.video:
        rows, frames = video_lib.predict(
            export, Predictor(export, num_devices=request.num_devices), paths, _sampling(request)
        )
        if request.frames_out:
            files.write_text(request.frames_out, render_frames(frames))
    else:
        rows = predict(export, paths, request)
    if request.out:
        files.write_text(request.out, render(rows))
    else:
        print(render(rows), end="")
    return _conclude(rows, request)


def _sampling(request: PredictFlags) -> video_lib.Sampling:
    return video_lib.Sampling(
        request.every_n_frames, request.max_frames, request.top_k, request.batch_size, request.threshold
    )


def _check_video(request: PredictFlags, given: Mapping[str, Value]) -> None:
    """Refuse flags of videos for images and the other way round, and a machine without OpenCV."""
    needless = [name for name in _OF_VIDEOS if name in given]
    if needless and not request.video:
        raise RequestError(f"--{needless[0]}: expected --video beside it, received none; add it, or leave this out")
    if request.video and request.explain:
        raise RequestError(
            "--explain: expected images, received --video; save the frames that matter, and explain them"
        )
    if request.video:
        _sampling(request).top_of(1)
        video.require_opencv()


def _check_threshold(request: PredictFlags, export: exported_model.ExportedModel) -> None:
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


def predict(export: exported_model.ExportedModel, paths: Sequence[str], request: PredictFlags) -> list[Row]:
    """Return a row for each path, in order: an answer, or an ``error`` and None elsewhere.

    Raises:
        RequestError: if the model does not load, or has no heat maps and they are wanted.
    """
    scorer = Predictor(export, explain=bool(request.explain), num_devices=request.num_devices)
    contents: dict[int, bytes] = {}  # Of the images whose heat maps are not drawn yet.

    def read(number: int) -> bytes:
        content = files.read_bytes(paths[number])
        if request.explain:
            contents[number] = content
        return content

    rows: list[Row] = []
    with tqdm.tqdm(total=len(paths), unit="image", file=sys.stderr, disable=None, leave=False) as bar:
        for answers in scorer.score(len(paths), read, request.batch_size):
            numbers = range(answers.start, answers.start + len(answers.labels))
            drawn = _draw(request.explain, paths, answers, {n: contents.pop(n) for n in numbers if n in contents})
            rows += [_row(export, paths[n], answers, n, request, drawn) for n in numbers]
            bar.update(len(numbers))
    return rows


def _draw(folder: str, paths: Sequence[str], answers: PredictionBatch, contents: Mapping[int, bytes]) -> dict[int, str]:
    """Write the pictures of a batch's heat maps, and return their files by the image's number."""
    wanted = [answers.start + n for n in answers.heatmaps if n not in answers.errors]
    if not wanted:
        return {}
    from trainer.data import decode  # The model's own: the same pixels, the same way up.

    decode_one = decode.decode_one(config.MAX_IMAGE_PIXELS)

    def draw(number: int) -> str:
        image = decode_one(data=contents[number]).numpy()
        picture = heatmap.overlay(image, answers.heatmaps[number - answers.start])
        file = files.join(folder, heatmap.file_name(paths[number]))
        files.write_bytes(file, heatmap.to_png(picture))
        return file

    with ThreadPoolExecutor() as pool:
        return dict(zip(wanted, pool.map(draw, wanted), strict=True))


def _row(
    export: exported_model.ExportedModel,
    path: str,
    answers: PredictionBatch,
    number: int,
    request: PredictFlags,
    drawn: Mapping[int, str],
) -> Row:
    """Return an image's row; nine digits give a float32 back exactly."""
    error = answers.errors.get(number - answers.start)
    probabilities = answers.probabilities[number - answers.start]
    numbers = [None if error else float(f"{value:.9g}") for value in probabilities]
    label = export.decide(probabilities, request.threshold) if request.threshold else None
    row: Row = {
        "path": files.printable(path),
        "label": None if error else label or answers.labels[number - answers.start],
        "p_fake": numbers[export.positive],
        "error": error,
    }
    if request.explain:
        row["heatmap"] = drawn.get(number)
    if len(export.class_names) > 2:
        row |= {f"p_{name}": number for name, number in zip(export.class_names, numbers, strict=True)}
    return row


def _conclude(rows: Sequence[Row], request: PredictFlags) -> int:
    """Tell stderr how it went, and return the exit code."""
    what = "videos" if request.video else "images"
    failed = [str(row["path"]) for row in rows if row["error"]]
    where = f"; rows are in {request.out}" if request.out else ""
    if failed:
        hint = ""
        if not request.video and any(path.lower().endswith(video.ENDINGS) for path in failed):
            hint = "; videos need --video"
        print(
            f"{len(failed)} of {len(rows)} {what} could not be scored, see the error column{where}{hint}",
            file=sys.stderr,
        )
        return errors.EXIT_FAILED
    if request.out:
        print(f"scored {len(rows)} {what}{where}", file=sys.stderr)
    return errors.EXIT_DONE


def console() -> None:
    """Serve as the console script."""
    sys.exit(cli.run_command(main))


if __name__ == "__main__":
    console()
