"""Hosts that are reached without a proxy, in every spelling, beside the user's own."""

import pytest

from trainer.core import proxies


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"no_proxy": "a,::1", "NO_PROXY": "a,::1"}),
        ({"no_proxy": "x, a"}, {"no_proxy": "x,a,::1", "NO_PROXY": "x,a,::1"}),
        ({"NO_PROXY": ".corp"}, {"no_proxy": ".corp,a,::1", "NO_PROXY": ".corp,a,::1"}),
        ({"no_proxy": "x", "NO_PROXY": "y,x"}, {"no_proxy": "x,y,a,::1", "NO_PROXY": "x,y,a,::1"}),
        ({"no_proxy": "*"}, {"no_proxy": "*,a,::1", "NO_PROXY": "*,a,::1"}),
        ({"no_grpc_proxy": "z"}, {"no_proxy": "a,::1", "NO_PROXY": "a,::1", "no_grpc_proxy": "z,a,::1"}),
        ({"no_grpc_proxy": ""}, {"no_proxy": "a,::1", "NO_PROXY": "a,::1", "no_grpc_proxy": ""}),
    ],
)
def test_hosts_are_added_and_entries_stay(before, after):
    proxy = {"http_proxy": "http://proxy:3128"}
    environment = {**proxy, **before}
    for _ in range(2):  # Twice is once.
        proxies.go_past(["a", "::1"], environment)
        assert environment == {**proxy, **after}
