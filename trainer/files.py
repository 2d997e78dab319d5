"""Small whole-file operations on local paths and on gs:// (there through TensorFlow's file system, loaded on use).

Owns: that a written file is whole or absent.  Does not own: names inside job_dir (``paths.py``).
"""

import os
import shutil
from pathlib import Path
from typing import Any

from trainer.errors import RequestError


def is_remote(path: str) -> bool:
    """Tell whether a path has a scheme such as gs://."""
    return "://" in path


def _gfile() -> Any:
    import tensorflow as tf  # Only remote paths pay for this import.

    return tf.io.gfile


def join(path: str, *names: str) -> str:
    """Join with "/", for local and remote paths alike."""
    return "/".join([path.rstrip("/"), *names]) if names else path


def printable(path: str) -> str:
    """Return a path fit for a UTF-8 file: bytes of a name that are not UTF-8 become U+FFFD."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def exists(path: str) -> bool:
    """Tell whether a file or folder is there."""
    return bool(_gfile().exists(path)) if is_remote(path) else os.path.exists(path)


def is_dir(path: str) -> bool:
    """Tell whether a folder is there."""
    return bool(_gfile().isdir(path)) if is_remote(path) else os.path.isdir(path)


def list_names(path: str) -> list[str]:
    """Return the sorted names inside a folder; empty if there is no such folder."""
    if is_remote(path):
        names = _gfile().listdir(path) if _gfile().isdir(path) else []
        return sorted(name.rstrip("/") for name in names)
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def read_bytes(path: str) -> bytes:
    """Return a file's content."""
    if is_remote(path):
        with _gfile().GFile(path, "rb") as file:
            return bytes(file.read())
    return Path(path).read_bytes()


def read_range(path: str, offset: int, length: int) -> bytes:
    """Return ``length`` bytes of a file from ``offset``; fewer where it ends."""
    with _gfile().GFile(path, "rb") if is_remote(path) else open(path, "rb") as file:
        file.seek(offset)
        return bytes(file.read(length))


def read_text(path: str) -> str:
    """Return a file's content as UTF-8."""
    return read_bytes(path).decode("utf-8")


def write_bytes(path: str, content: bytes) -> None:
    """Write a file so that it is whole or absent: beside its name first, flushed to disk, then renamed.

    A gs:// object appears only when its upload is complete, so it is written in place.
    """
    if is_remote(path):
        with _gfile().GFile(path, "wb") as file:
            file.write(content)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    beside = f"{path}.tmp-{os.getpid()}"
    with open(beside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def write_text(path: str, content: str) -> None:
    """Write UTF-8 text so that the file is whole or absent."""
    write_bytes(path, content.encode("utf-8"))


def append_text(path: str, content: str) -> None:
    """Append UTF-8 text to a file, making it if needed; after an error the file is as before."""
    if is_remote(path):
        with _gfile().GFile(path, "a") as file:
            file.write(content)
        return
    left = content.encode("utf-8")
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:  # A full disk may have taken half of it.
            file.truncate(before)
            raise


def make_dirs(path: str) -> None:
    """Make a folder and its parents; nothing happens if it is there."""
    _gfile().makedirs(path) if is_remote(path) else os.makedirs(path, exist_ok=True)


def rename_dir(source: str, target: str) -> None:
    """Rename a folder (on gs://, which has no rename, its objects are copied)."""
    _gfile().rename(source, target, overwrite=True) if is_remote(source) else os.replace(source, target)


def remove_tree(path: str) -> None:
    """Remove a folder and all in it; nothing happens if it is not there."""
    if is_remote(path):
        if _gfile().exists(path):
            _gfile().rmtree(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


def require_writable(path: str, flag: str) -> None:
    """Make a folder and prove that it takes a file.

    Raises:
        RequestError: naming the flag, if it cannot be made or written.
    """
    probe = join(path, f".write-probe-{os.getpid()}")
    try:
        make_dirs(path)
        write_bytes(probe, b"")
        _gfile().remove(probe) if is_remote(probe) else os.remove(probe)
    except Exception as error:  # TensorFlow and the operating system raise unrelated types for the same refusal.
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise RequestError(f"--{flag}: expected a folder that can be written, received {path!r}: {reason}") from error
