"""The bytes of one image file: trouble of the way to it is retried, and only its own fault is blamed on it.

A pipe, a socket or a device is refused without waiting for it.  If a file cannot be found, its folder decides: a folder
that is missing, empty or closed to this process means that data_dir is not mounted, which may pass.
Does not own: which errors may pass (``transient.py``).  Imports no TensorFlow.
"""

import errno
import os
import stat

from trainer.core.storage import files, tar_members, transient
from trainer.data import slow_reads, tfrecord

_PIECE = 2**20  # Bytes.

# What a file's own fault and a folder that is not mounted look like alike.
_UNREACHABLE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP)


def read(path: str, folder: str = "") -> bytes:
    """Return a file's content.

    Args:
        path: local, also a member of a tar file, or remote.
        folder: local folder that holds images as long as data_dir is mounted, such as that of the image's class; empty
            if that is not known.

    Raises:
        OSError: for the file's own fault.
        StorageDown: if trouble of another kind does not pass.
    """
    with slow_reads.watched(path):
        if files.is_remote(path):
            return files.read_bytes(path)
        return transient.retry(path, lambda: read_local(path, folder))


def class_folder(root: str, name: str) -> str:
    """Return the folder of an image's class, such as ``root/Train/Fake`` for ``Train/Fake/a.jpg``."""
    return files.join(root, *name.split("/")[:-1][:2])


def read_local(path: str, folder: str) -> bytes:
    """Return a local file's content in one attempt, which somebody watches; see ``read``."""
    if member := tar_members.place(path):
        return tar_members.read(*member)
    descriptor, size = _open(path, folder)
    try:
        content = os.read(descriptor, size + 1)
        while len(content) != size:  # It has another size by now.
            piece = os.read(descriptor, _PIECE)
            content += piece
            size = len(content) if not piece else size
        return content
    finally:
        os.close(descriptor)


def open_regular(path: str, folder: str = "") -> int:
    """Return the descriptor of a local regular file, open for reading; ``folder`` is that of ``read``.

    Raises:
        OSError: if it cannot be opened, or is something else, which is not waited for.  One that may pass, if the
            folder is not there either.
    """
    return _open(path, folder)[0]


def _open(path: str, folder: str) -> tuple[int, int]:
    """Return the descriptor of ``open_regular``, and the file's size in bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # Otherwise a pipe waits for a writer.
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # Said of sockets and devices, too.
            _require_regular(path, os.stat(path).st_mode)
        if folder and error.errno in _UNREACHABLE:
            _require_present(folder)
        raise
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status.st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def _require_regular(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def _require_present(folder: str) -> None:
    """Check that a local folder of images is there, as it is unless its file system was unmounted.

    Raises:
        OSError: of a kind that may pass, if it is missing, empty or cannot be listed.
    """
    if problem := _problem_of(folder):
        raise OSError(errno.ENODEV, f"{problem}, which held images before; is it mounted?", folder)


def _problem_of(folder: str) -> str:
    """Return what is wrong with a folder that should hold something; empty if nothing is."""
    try:
        with os.scandir(folder) as entries:
            return "" if next(entries, None) else f"empty: {folder!r}"
    except OSError as error:
        if transient.is_transient(error):
            raise
        return f"{transient.reason(error)}: {folder!r}"


def missing_folder(data_dir: str, split: str) -> str:
    """Return what shows that the images of a local data_dir are gone: a folder and its problem; empty if nothing does.

    Args:
        data_dir: a folder of splits, or a packed set, local or remote.
        split: name of one that it has if it is no packed set.
    """
    if files.is_remote(data_dir) or os.path.exists(files.join(data_dir, tfrecord.MANIFEST)):
        return ""
    root = files.join(data_dir, split)
    if problem := _problem_of(data_dir) or _problem_of(root):
        return problem
    members = [files.join(root, name) for name in sorted(os.listdir(root)) if name[0] not in "._"]
    classes = [member for member in members if os.path.isdir(member) or not os.path.exists(member)]  # Or dead links.
    return next(filter(None, map(_problem_of, classes)), "")
