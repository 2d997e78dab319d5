"""Processes with other versions of what computes are refused at the meeting, on both sides, and named."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer.core import config
from trainer.core.errors import RequestError
from trainer.distributed import cluster, rendezvous

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import local_cluster

NAMES = ("deepdetect", "python", "tensorflow", "keras", "numpy")


def test_other_versions_are_refused_on_both_sides(monkeypatch):
    members = []
    for environment in local_cluster.environments(2):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        members.append(cluster.from_environment())
    facts = [rendezvous.facts_of(config.from_flat({"data_dir": "D", "job_dir": "J"})) for _ in members]
    assert facts[0]["versions"].keys() == set(NAMES)
    facts[1]["versions"] = dict.fromkeys(NAMES, "0.0")
    with ThreadPoolExecutor(2) as pool:
        meetings = [pool.submit(rendezvous.meet, *each, 20.0) for each in zip(members, facts, strict=True)]
        for meeting in meetings:
            with pytest.raises(RequestError) as refusal:
                meeting.result()
            for name in NAMES:
                assert f"{name} (chief: {facts[0]['versions'][name]}, worker 1: 0.0)" in str(refusal.value)
