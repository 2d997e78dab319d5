"""An API server for tests of this folder."""

import pytest

from tests.helpers import fake_kube as kube
from trainer.submit.kube import follow


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Run a prepared API server that KUBECONFIG names."""
    monkeypatch.setattr(follow, "_PAUSE_SECONDS", 0.05)
    with kube.serve(tmp_path, monkeypatch) as state:
        state.prepare()
        yield state
