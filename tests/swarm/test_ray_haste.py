"""Ray's start without two of its waits."""

from __future__ import annotations

import threading

import pytest
from ray._private import node, services

from p2pftl.errors import UsageError
from p2pftl.swarm.ray_cluster import Cluster
from p2pftl.swarm.ray_haste import Haste, hastened

pytestmark = pytest.mark.ray


def test_the_ray_of_constraints_is_built_as_thought_and_left_as_it_was() -> None:
    serve, ask = node.Node.start_api_server, services.get_node
    with hastened():
        assert node.Node.start_api_server is not serve
        assert services.get_node is not ask
    assert (node.Node.start_api_server, services.get_node) == (serve, ask)


def test_a_ray_that_is_built_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = node.Node.start_api_server
    monkeypatch.delattr(services, "get_node")
    with hastened() as haste:
        assert node.Node.start_api_server is serve
    assert haste.dashboard() is None


def test_the_thread_that_started_something_lives_until_the_end() -> None:
    haste, seen = Haste(), []

    def act() -> str:
        seen.append(threading.current_thread())
        return "127.0.0.1:8265"

    haste.serve(act)
    assert haste.dashboard() == "127.0.0.1:8265"
    assert seen[0].is_alive()
    haste.end()
    seen[0].join(10)
    assert not seen[0].is_alive()


def test_a_dashboard_that_does_not_start_is_e604() -> None:
    def act() -> str:
        raise OSError("DOE^JOHN")

    cluster = Cluster(None, "tests")
    cluster._haste = Haste()
    cluster._haste.serve(act)
    with pytest.raises(UsageError, match=r"E604 no Ray cluster at this machine \(OSError\)") as caught:
        _ = cluster.dashboard
    assert "DOE" not in str(caught.value)
