"""Prove to each other, over a new connection, that both ends are processes of the same job.

Each end sends a random number and answers the other's with an HMAC under the job's key, which is never sent.  The key
follows from what the processes of a job have in common and a stranger does not: the addresses, a job_dir in a bucket,
Slurm's numbers of the step, and DEEPDETECT_CLUSTER_SECRET if it is set.  Without the secret, whoever knows those can
make the key too: then it keeps out mistakes (probes, other jobs, older starts), not attackers.  Nothing is encrypted.
Does not own: how connections are made, and what a process does afterwards (``rendezvous.py``).  Imports no TensorFlow.
"""

import hmac
import json
import secrets
from collections.abc import Mapping

from trainer.core import storage
from trainer.distributed.cluster import Cluster
from trainer.distributed.messages import Connection, Message

SECRET = "DEEPDETECT_CLUSTER_SECRET"
HELLO_SECONDS = 10.0  # For the whole handshake, however slowly its bytes come.

_SMALL_BYTES = 2**12  # Of a message before the other end has proved anything.
_FACTS_BYTES = 2**20  # Of the message that brings the proof.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")


class Stranger(Exception):
    """Raised for a connection that is not of this job; the message says why."""


def job_key(cluster: Cluster, job_dir: str, environment: Mapping[str, str]) -> bytes:
    """Return the key that all processes of one start share.

    Args:
        cluster: whose addresses are part of it.
        job_dir: part of it where every machine reaches it under the same path; elsewhere mounts may differ.
        environment: variables of this process.
    """
    numbers = [environment.get(name, "") for name in _SLURM] if cluster.source.startswith("SLURM") else []
    place = job_dir.rstrip("/") if storage.is_shared(job_dir) else ""
    identity = json.dumps([cluster.addresses, place, numbers]).encode()
    return hmac.digest(environment.get(SECRET, "").encode("utf-8", "surrogateescape"), identity, "sha256")


def introduce(connection: Connection, key: bytes, seconds: float, message: Message) -> None:
    """Handshake from the end that connected; ``message`` is sent with this end's proof.

    Raises:
        Stranger: if the other end has another key, or is another program.
        Closed, TimeoutError: as ``Connection.receive`` does.
    """
    own = secrets.token_hex(16)
    connection.send("hello", nonce=own)
    answer = connection.receive(seconds, _SMALL_BYTES)
    if answer["kind"] != "challenge":
        raise Stranger(str(answer.get("message", "it answers in another way than this version")))
    if not _is_proof(answer.get("proof"), key, "chief", own):
        raise Stranger(f"a chief of another job answers there: its cluster, its job_dir or its {SECRET} is another one")
    connection.send("proof", proof=_proof(key, "worker", str(answer.get("nonce"))), **message)


def examine(connection: Connection, key: bytes, seconds: float) -> Message:
    """Handshake from the end that was connected to; return the message that came with the proof.

    Raises:
        Stranger: if the other end has another key, or is another program.
        Closed, TimeoutError: as ``Connection.receive`` does.
    """
    hello = connection.receive(seconds, _SMALL_BYTES)
    if hello["kind"] != "hello" or not isinstance(hello.get("nonce"), str):
        raise Stranger("it is no process of this version of deepdetect")
    own = secrets.token_hex(16)
    connection.send("challenge", nonce=own, proof=_proof(key, "chief", hello["nonce"]))
    message = connection.receive(seconds, _FACTS_BYTES)
    if not _is_proof(message.get("proof"), key, "worker", own):
        raise Stranger(f"it is of another job: its cluster, its job_dir or its {SECRET} is another one")
    return message


def _proof(key: bytes, role: str, nonce: str) -> str:
    """Return the answer to a random number; the role keeps one end's answers from being used by the other."""
    return hmac.digest(key, f"{role} {nonce}".encode("utf-8", "surrogatepass"), "sha256").hex()


def _is_proof(value: object, key: bytes, role: str, nonce: str) -> bool:
    return isinstance(value, str) and value.isascii() and hmac.compare_digest(value, _proof(key, role, nonce))
