"""Ray's own start, without two of its waits: a first round comes two seconds earlier.

While Ray starts a cluster it waits for its dashboard (a second) before it starts anything that could run an actor, and then asks
once a second whether that has come up. Neither is a setting (Ray 2.60), so two of its functions are replaced while it starts: the
dashboard comes up beside the rest, and is asked for at the end. A Ray that is built otherwise starts as slowly as it likes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, cast

from ray._private import node, services, state

NODE, SERVICES, STATE = cast(Any, node.Node), cast(Any, services), cast(Any, state)  # nothing in them has types
OFTEN, LONG = 0.02, 20.0  # seconds between two looks at what has come up, and until Ray's own way of looking is left to itself


class Haste:
    """What is under way while Ray starts. Its thread lives until `end`: Linux ends a process with the thread that started it."""

    def __init__(self) -> None:
        self._address: Future[str] | None = None
        self._over = threading.Event()

    def serve(self, act: Callable[[], str]) -> None:
        """Begin to start a dashboard, and go on. act: starts it and returns its address, host:port."""
        address = self._address = Future()
        threading.Thread(target=self._live, args=(act, address), daemon=True).start()

    def dashboard(self) -> str | None:
        """Wait for the dashboard and return its address, None where Ray took care of it. Raises what its start raised."""
        return None if self._address is None else self._address.result()

    def end(self) -> None:
        """Let the thread end, and with it the dashboard."""
        self._over.set()

    def _live(self, act: Callable[[], str], address: Future[str]) -> None:
        try:
            address.set_result(act())
        except Exception as error:
            address.set_exception(error)
        self._over.wait()


@contextlib.contextmanager
def hastened() -> Iterator[Haste]:
    """Within this block `ray.init` does not wait for its dashboard; `dashboard` of what is yielded does."""
    haste = Haste()
    serve, ask = getattr(NODE, "start_api_server", None), getattr(SERVICES, "get_node", None)
    if serve is None or ask is None:
        yield haste
        return

    def served(self: Any, **options: Any) -> None:
        def act() -> str:
            serve(self, **options)
            return str(self.webui_url or "")

        haste.serve(act)

    def asked(gcs_address: str, node_id: str) -> Any:
        _come_up(gcs_address, node_id)
        return ask(gcs_address, node_id)

    NODE.start_api_server, SERVICES.get_node = served, asked
    try:
        yield haste
    finally:
        NODE.start_api_server, SERVICES.get_node = serve, ask


def _come_up(gcs_address: str, node_id: str) -> None:
    """Wait until a node is known to its cluster."""
    known, until = STATE.GlobalState(), time.monotonic() + LONG
    known._initialize_global_state(SERVICES._get_gcs_client_options(gcs_address))
    while time.monotonic() < until and not any(one["NodeID"] == node_id for one in known.node_table()):
        time.sleep(OFTEN)
