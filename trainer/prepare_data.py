"""Prepare a data set: cut the faces out of videos, audit it, then pack it.

  python scripts/prepare_data.py faces --videos=V --out=D
  python scripts/prepare_data.py audit --data_dir=D --out=O
  python scripts/prepare_data.py pack  --data_dir=D --out=O

``python scripts/prepare_data.py COMMAND --help`` explains a command.
"""

import logging
import sys
from collections.abc import Sequence

from trainer.core import cli, placement, progress, terminal
from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE, EXIT_FAILED, RequestError
from trainer.core.storage import files
from trainer.data import split_report, tfrecord
from trainer.data.audit import request as audit_request
from trainer.data.faces import crop_rule, detector, inputs
from trainer.data.faces import request as faces_request
from trainer.data.manifest import read_all_splits
from trainer.data.pack import request as pack_request

log = logging.getLogger("trainer.prepare_data")


def main(argv: Sequence[str]) -> int:
    """Run the command that the first word names.

    Raises:
        RequestError: if there is no such command, or the request to it is wrong.
    """
    name, words = (argv[0], argv[1:]) if argv else ("", [])
    if name in ("--help", "-h", "-help"):
        raise flags.HelpRequested(__doc__)
    if name not in COMMANDS:
        raise RequestError(f"expected one of the commands {', '.join(COMMANDS)}, received {name or 'none'}; see --help")
    return COMMANDS[name](words)


def audit(argv: Sequence[str]) -> int:
    """Audit a folder of images and return the exit code."""
    request = flags.parse_request(
        argv, audit_request.AuditFlags, usage=audit_request.USAGE, required=("data_dir", "out")
    )
    _refuse_packed(request.data_dir, "; audit the folder that it was packed from")
    placement.refuse_among_images("out", request.out, request.data_dir)
    with progress.phase(f"listing {request.data_dir!r}"):
        splits = read_all_splits(request.data_dir, request)
    files.require_writable(request.out, "out")
    log.info("%s", split_report.of_splits(request.data_dir, splits))
    from trainer.reports import audit as audit_report  # Late: slow to import, and a wrong flag is answered at once.

    summary = audit_report.audit(splits, request)
    progress.say(audit_report.summary_table(summary, request.out))
    return EXIT_FAILED if request.strict and summary["strict_failures"] else EXIT_DONE


def pack(argv: Sequence[str]) -> int:
    """Pack a folder of images into TFRecord shards and return the exit code."""
    request = flags.parse_request(argv, pack_request.PackFlags, usage=pack_request.USAGE, required=("data_dir", "out"))
    _refuse_packed(request.data_dir)
    placement.refuse_among_images("out", request.out, request.data_dir)
    with progress.phase(f"listing {request.data_dir!r}"):
        splits = read_all_splits(request.data_dir, request)
    files.require_writable(request.out, "out")
    log.info("%s", split_report.of_splits(request.data_dir, splits))
    from trainer.data.pack import writer  # Late: TensorFlow is loaded here.

    dropped = writer.leaks(splits, request) if request.drop_leaks else set()
    summary = writer.pack(request, splits, dropped)
    crop_rule.copy(request.data_dir, request.out)
    for name, reason in summary["bad"].items():
        print(terminal.in_line(f"bad: {files.printable(name)}: {reason}"), file=sys.stderr)
    progress.say(writer.summary_table(summary, request))
    return EXIT_DONE


def faces(argv: Sequence[str]) -> int:
    """Cut the faces out of videos and return the exit code."""
    request = flags.parse_request(argv, faces_request.FacesFlags, usage=faces_request.USAGE, required=("videos", "out"))
    if placement.is_within(request.out, request.videos):
        raise RequestError(f"--out: expected a folder outside of --videos, received {request.out!r}; give another one")
    detector.require()
    with progress.phase(f"listing {request.videos!r}"):
        entries = inputs.find(request.videos)
    files.require_writable(request.out, "out")
    from trainer.data.faces import run  # Late: Pillow and joblib are loaded here.

    notes = run.run(entries, request)
    for one, note in zip(entries, notes, strict=True):
        if note.error:
            print(terminal.in_line(f"bad: {files.printable(one.name)}: {note.error}"), file=sys.stderr)
    progress.say(run.summary(entries, notes, request))
    return EXIT_DONE if any(note.rows for note in notes) else EXIT_FAILED


def _refuse_packed(data_dir: str, remedy: str = "") -> None:
    if tfrecord.read_manifest(data_dir) is not None:
        raise RequestError(f"--data_dir: expected a folder of images, received the packed set {data_dir!r}{remedy}")


COMMANDS = {"audit": audit, "pack": pack, "faces": faces}

if __name__ == "__main__":
    cli.console(main)
