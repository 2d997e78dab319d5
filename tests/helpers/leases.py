"""Leases that another holder may have."""

from trainer.core.errors import StoppedEarly
from trainer.core.storage.lease import Lease


def taken(lease: Lease) -> Lease | None:
    """Take a lease and return it; None if a live process holds it."""
    try:
        lease.take()
    except StoppedEarly:
        return None
    return lease
