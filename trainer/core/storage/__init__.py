"""Where files are kept: local paths, gs:// and others, behind one protocol (``base.Storage``).  Imports no TensorFlow.

To add a storage, write one module with a class that implements ``Storage`` and add one line to ``STORAGES``.  The rest
of the program calls the functions of ``files.py`` and knows no schemes.
"""

import re

from trainer.core.errors import RequestError
from trainer.core.storage.base import Storage
from trainer.core.storage.fsspec_storage import FsspecStorage, s3_options
from trainer.core.storage.gcs import GcsStorage
from trainer.core.storage.http_storage import HttpStorage
from trainer.core.storage.local import LocalStorage

LOCAL = LocalStorage()

# By scheme, the part of a path before "://".  Constructing a storage must neither import its client nor connect.
STORAGES: dict[str, Storage] = {
    "gs": GcsStorage(),
    # Only read, by the extra "storage".
    "s3": FsspecStorage("s3", "BUCKET/PATH", "s3fs", s3_options),
    "hf": FsspecStorage("hf", "datasets/OWNER/NAME/PATH", "huggingface_hub", read_options={"cache_type": "none"}),
    "az": FsspecStorage("az", "CONTAINER/PATH", "adlfs"),
    "http": HttpStorage("http"),
    "https": HttpStorage("https"),
}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def is_remote(path: str) -> bool:
    """Return whether a path has a scheme, a known one or not."""
    return bool(_SCHEME.match(path))


def for_path(path: str) -> Storage:
    """Return the storage of a path.

    Raises:
        RequestError: if no storage has its scheme.
    """
    scheme = _SCHEME.match(path)
    if scheme is None:
        return LOCAL
    if scheme[1] not in STORAGES:
        forms = " or ".join(each.form for each in (LOCAL, *STORAGES.values()) if not each.read_only)
        others = ", ".join(f"{name}://" for name, each in STORAGES.items() if each.read_only)
        raise RequestError(f"expected {forms}, received {path!r}; check the scheme (to read, also {others})")
    return STORAGES[scheme[1]]


def check(path: str) -> None:
    """Check the form of a path without touching its storage.

    Raises:
        RequestError: if its scheme is unknown or the path is malformed.
    """
    for_path(path).check(path)


def is_shared(path: str) -> bool:
    """Return whether a path is well-formed and every machine of a cluster can reach it."""
    try:
        check(path)
    except RequestError:
        return False
    return for_path(path).shared


def places() -> str:
    """Return the kinds of paths that can be written, for help texts: "local or gs://"."""
    return " or ".join(["local", *(f"{scheme}://" for scheme, each in STORAGES.items() if not each.read_only)])
