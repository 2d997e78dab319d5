"""The images of a run as this machine sees them: that they exist, before a GPU is asked for, and how many there are."""

from trainer.core.errors import RequestError
from trainer.core.storage import files, gcs_client


def require(data_dir: str) -> str:
    """Refuse a data_dir that does not exist; return a note if this machine cannot tell.

    Raises:
        RequestError: if it, or its bucket, does not exist.
    """
    if not data_dir.startswith("gs://"):
        return "data_dir: not checked, as it lies on a volume"
    try:
        is_there = files.exists(data_dir)
    except Exception as error:  # Any error of a bucket's client: the cluster may have rights that this machine lacks.
        if str(error) == str(gcs_client.no_bucket(data_dir)):
            raise
        return f"data_dir: not checked ({' '.join(str(error).split())[:200]})"
    if not is_there:
        raise RequestError(
            f"--data_dir: expected images or a packed set, found nothing below {data_dir!r}; check the path, or upload "
            "them: gcloud storage cp -r"
        )
    return ""


def count(data_dir: str) -> int:
    """Return the number of images in Train of a packed set; 0 if it is not one, or cannot be read."""
    from trainer.data import tfrecord

    try:
        index = tfrecord.read_manifest(data_dir)
        return sum(index["splits"]["Train"]["counts"].values()) if index else 0
    except Exception:  # Any error of a bucket's client: the cluster may have rights that this machine lacks.
        return 0
