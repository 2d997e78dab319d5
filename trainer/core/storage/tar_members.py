"""The members of local tar files by paths such as ``shards/000.tar/a.jpg``, read at their offsets.

Owns: the index of each tar file, made when it is listed, or first read in a process.  Does not own: what the members
mean (``data/layouts/named/webdataset.py``).  Imports no TensorFlow.
"""

import os
import tarfile

from trainer.core.errors import RequestError, StorageDown
from trainer.core.storage import transient

ENDING = ".tar"
_SIZE_BITS = 40  # One number holds offset and size: millions of pairs would take twice the memory.
_BLOCK = 512  # Bytes; a tar file ends with two blocks of zeros.

_indices: dict[str, dict[str, int]] = {}  # What has one is a tar file even when it is gone.


def place(path: str) -> tuple[str, str] | None:
    """Return the tar file and the member that a path names; None if it names no member."""
    at = path.find(f"{ENDING}/")
    while at >= 0:
        tar = path[: at + len(ENDING)]
        if tar in _indices or os.path.isfile(tar):
            return tar, path[at + len(ENDING) + 1 :]
        at = path.find(f"{ENDING}/", at + 1)
    return None


def file_of(path: str) -> str:
    """Return the file that holds what a path names: a tar file for a member, else the path itself."""
    found = place(path)
    return found[0] if found else path


def names(tar: str) -> list[str]:
    """Return the names of the regular files in a tar file, in its order.

    Raises:
        RequestError: if it is damaged or cut off.
    """
    _indices[tar] = _index(tar)
    return list(_indices[tar])


def read(tar: str, member: str) -> bytes:
    """Return the content of a member in one attempt.

    Raises:
        OSError: if the member is missing or cut off, or for trouble that may pass.
        StorageDown: if the tar file cannot be read: not a fault of its images, which may be thousands.
    """
    try:
        index = _indices.get(tar) or _indices.setdefault(tar, _index(tar))
        descriptor = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if transient.is_transient(error):
            raise
        raise StorageDown(
            f"{tar!r} cannot be read ({transient.reason(error)}), and its images are not to blame; restore it, then "
            "rerun the same command"
        ) from error
    try:
        if member not in index:
            raise FileNotFoundError(f"no member {member!r} in {tar!r}")
        offset, size = index[member] >> _SIZE_BITS, index[member] & (1 << _SIZE_BITS) - 1
        content = os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
    if len(content) != size:
        raise OSError(f"{tar!r} is shorter than it was")
    return content


def _index(tar: str) -> dict[str, int]:
    """Return offset and size of each member, in one number, by name; of equal names the last one counts."""
    try:
        with open(tar, "rb") as file:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                members = {}
                for one in archive:
                    if one.isreg() and not one.issparse():
                        members[one.name.removeprefix("./")] = one.offset_data << _SIZE_BITS | one.size
                    archive.members = []  # type: ignore[attr-defined]  # It would keep them all.
            file.seek(-_BLOCK, os.SEEK_END)
            if any(file.read(_BLOCK)):
                raise tarfile.ReadError("no end")
    except tarfile.TarError as error:
        raise RequestError(
            f"--data_dir: expected a whole tar file without compression, received {tar!r} ({error}); copy it again"
        ) from error
    return members
