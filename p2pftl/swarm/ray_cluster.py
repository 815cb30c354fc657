"""Ray itself: a cluster of our own on this machine, or somebody's by address; which machines it has."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from p2pftl.errors import UsageError
from p2pftl.swarm import leftovers
from p2pftl.swarm.placing import Machine
from p2pftl.swarm.ray_haste import Haste, hastened

PROMPT = {
    "free_objects_batch_size": 8, "free_objects_period_milliseconds": 50,  # Ray keeps up to 100 dead payloads for a second
    "worker_niceness": 0,  # as nice as a loop of your own; 15 by default, so that any other program halves their speed
}  # fmt: skip
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large pages, asked for when a process starts: a training step is a tenth faster
}
BUILT_IN = ("CPU", "GPU", "memory", "object_store_memory", "accelerator_type", "node:", "bundle")


class Cluster:
    """A connection to Ray, and what has to be tidied up after it. address: None starts a cluster here; namespace: of actors' names."""

    def __init__(self, address: str | None, namespace: str) -> None:
        self.address = address
        self.namespace = namespace
        self.folder: Path | None = None
        self._dashboard = ""
        self._others = leftovers.descendants()
        self._processes: list[leftovers.Process] = []
        self._stopping = False
        self._haste: Haste | None = None
        self._starting = contextlib.ExitStack()

    def connect(self) -> None:
        """Start or find Ray; this takes seconds, and the dashboard may take longer. Raises UsageError E604."""
        for key, value in SETTINGS.items():
            os.environ.setdefault(key, value)
        logging.getLogger("ray").setLevel(logging.ERROR)
        common: dict[str, Any] = {"namespace": self.namespace, "log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        with self._or_none():
            context = self._start(common) if self.address is None else ray.init(address=self.address, **common)
            self._dashboard = str(context.dashboard_url or "")

    @property
    def dashboard(self) -> str:
        """Address of Ray's dashboard, "" if there is none; waited for. Raises UsageError E604."""
        with self._or_none():
            if self._haste is not None:
                self._dashboard = self._haste.dashboard() or self._dashboard
            self._starting.close()
        return f"http://{self._dashboard}" if self._dashboard else ""

    @contextlib.contextmanager
    def _or_none(self) -> Iterator[None]:
        """Ray is there after this block, or nothing is left of it."""
        try:
            yield
        except Exception as error:
            self.stop()
            problem = f"no Ray cluster at {self.address or 'this machine'} ({type(error).__name__})"
            raise UsageError("E604", problem, fix="check --address, or use --executor local") from error
        except BaseException:  # Ctrl-C while Ray starts
            self.stop()
            raise

    def machines(self) -> list[Machine]:
        """Those that are up."""
        return [_machine(one) for one in ray.nodes() if one["Alive"]]  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """End the cluster if it is ours, and its files; called again after an interruption, it does so by force."""
        again, self._stopping = self._stopping, True
        self._starting.close()
        try:
            if not again:
                self._note_processes()
                ray.shutdown()
                if self._haste is not None:
                    self._haste.end()
        finally:
            self._note_processes()
            leftovers.end(self._processes)
            if self.folder is not None:
                leftovers.remove(self.folder)

    def _start(self, common: dict[str, Any]) -> Any:
        self.folder = _private_folder()
        self._starting.enter_context(_temporary_files_in(self.folder))
        self._haste = self._starting.enter_context(hastened())
        context = ray.init(
            address="local", include_dashboard=True, dashboard_host="127.0.0.1", _temp_dir=str(self.folder / "ray"),
            object_store_memory=_store(), _system_config=PROMPT, **common,
        )  # fmt: skip
        with contextlib.suppress(OSError):  # Ray leaves its token readable for everybody
            (Path.home() / ".ray" / "auth_token").chmod(0o600)
        return context

    def _note_processes(self) -> None:
        """Remember what was started for a cluster of our own: two of Ray's helpers may outlive it by a minute (TRUST.md, section 3)."""
        if self.folder is not None:
            self._processes = [*self._processes, *(one for one in leftovers.descendants() if one not in self._others)]


def _machine(found: dict[str, Any]) -> Machine:
    has = found["Resources"]
    named = frozenset(key for key in has if not key.startswith(BUILT_IN))
    return Machine(found["NodeID"], has.get("CPU", 0.0), has.get("GPU", 0.0), named)


def _store() -> int | None:
    """Bytes that frames on their way may take before Ray puts some on disk: a quarter of what is free; None where that is unknown."""
    try:
        room = os.statvfs("/dev/shm")
        free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return max(100_000_000, min(int(free.split()[1]) * 1024, room.f_bavail * room.f_frsize) // 4)


def _private_folder() -> Path:
    """A folder for Ray that only this user can look into; Ray opens its own to everybody.

    Socket paths below it must stay under 107 bytes, so a long system folder is not used.
    """
    system = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="p2pftl-", dir="/tmp" if len(system) > 24 and os.access("/tmp", os.W_OK) else system))


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let processes started now, and theirs, keep what is temporary in `folder`, which goes with them."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
