"""The swarm on Ray: one actor per twin (or per packed crew), named after its scanner. Ray only carries.

Frames go from actor to actor: the payload as one object, passed by reference as a top-level argument; the
driver sees headers, times and acknowledgements. Actors never wait for each other. A dead actor is not
restarted by Ray (it would come back with its state silently reset): the conductor revives it from its last
saved state, in a new actor, at a higher incarnation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError

from p2pftl.agenda import Parcel, Step
from p2pftl.errors import P2pftlError, UsageError
from p2pftl.params import Vector
from p2pftl.state import TwinState
from p2pftl.swarm import leftovers
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.crew import Crew, Recruit
from p2pftl.swarm.seams import Advanced, Delivered, Died, Report

T = TypeVar("T")

PATIENCE = 600.0
SMALL = 100_000
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Failed:
    """What an actor says of an error: never another exception's text, which may hold patient data."""

    error: P2pftlError


@dataclass(frozen=True)
class Answer:
    """A step without payloads, and per parcel the acknowledgement to wait for (None: delivered already)."""

    step: Step
    acknowledgements: tuple[Any, ...]


class CrewActor:
    """A crew in its own process. Its methods run one at a time, in the order in which each caller called them."""

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.crew: Crew
        self.homes: dict[str, Any] = {}

    def begin(self, recruit: Recruit, vault: Vault, names: Sequence[str]) -> list[Step] | Failed:
        self.crew = Crew(recruit, vault)
        return _guarded(", ".join(names), lambda: self.crew.begin(names))

    def revive(self, recruit: Recruit, vault: Vault, name: str, incarnation: int, at: float) -> Step | Failed:
        self.crew = Crew(recruit, vault)
        return _guarded(name, lambda: self.crew.revive(name, incarnation, at))

    def meet(self, homes: Mapping[str, Any]) -> None:
        """Learn in which actor each peer lives."""
        self.homes.update(homes)

    def post(self, parcel: Parcel, payload: Any) -> None:
        self.crew.post(replace(parcel, payload=payload))

    def advance(self, name: str, until: float) -> Answer | Failed:
        return _guarded(name, lambda: self._carry(self.crew.advance(name, until)))

    def vector(self, name: str) -> Vector:
        return self.crew.vector(name)

    def pid(self) -> int:
        return os.getpid()

    def _carry(self, step: Step) -> Answer:
        """Send a step's parcels on; several receivers of one payload share one object."""
        acknowledgements: list[Any] = []
        stored: dict[int, Any] = {}
        for parcel in step.parcels:
            if parcel.receiver in self.crew.members:
                self.crew.post(parcel)
                acknowledgements.append(None)
                continue
            payload: Any = parcel.payload
            if payload.nbytes > SMALL:
                payload = stored.setdefault(id(parcel.payload), None) or ray.put(payload)
                stored[id(parcel.payload)] = payload
            acknowledgements.append(self.homes[parcel.receiver].post.remote(replace(parcel, payload=None), payload))
        bare = tuple(replace(parcel, head=b"", payload=None) for parcel in step.parcels)
        return Answer(replace(step, parcels=bare), tuple(acknowledgements))


class RaySwarm:
    """Participants as Ray actors, on a cluster of our own on this machine or on the one at `address`.

    run: namespace of the actors' names; notice: told in one line what is being waited for.
    Raises UsageError E604 when the cluster cannot be reached.
    """

    def __init__(self, *, run: str, address: str | None = None, notice: Callable[[str], None] = lambda text: None) -> None:
        self.notice = notice
        self.run = run
        self.folder: Path | None = None
        self.actors: dict[str, Any] = {}
        self.pids: dict[Any, int] = {}
        self.vault: Vault
        self._others = leftovers.descendants()
        self._processes: list[leftovers.Process] = []
        self._stopping = False
        self._brief: tuple[Any, Any] = (None, None)
        self._lives: Counter[str] = Counter()
        self._answers: dict[Any, str] = {}
        self._acknowledgements: dict[Any, tuple[str, tuple[str, int]]] = {}
        self.dashboard = self._connect(address)

    # ------------------------------------------------------------------ up and down

    def start(self, recruit: Recruit, crews: Sequence[Sequence[str]], vault: Vault) -> list[Step]:
        """Start one actor per crew, all at once; those of an earlier start that still answer are used again."""
        self.notice(f"starting {len(crews)} actors")
        self._answers, self._acknowledgements = {}, {}
        self._brief, self.vault = (ray.put(recruit), ray.put(vault)), vault
        living = self._one_each(crews)
        self.actors = {name: actor for crew, actor in zip(crews, living, strict=True) for name in crew}
        begun = {actor.begin.remote(*self._brief, list(crew)): crew for crew, actor in zip(crews, living, strict=True)}
        for actor in living:
            actor.meet.remote(self.actors)
        steps: dict[str, list[Step]] = {}
        waiting = list(begun)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=PATIENCE)
            if not done:
                raise UsageError("E610", f"{len(waiting)} actors did not start in {PATIENCE:.0f} s", fix="raise twins_per_actor")
            steps[begun[done[0]][0]] = self._first(done[0], begun[done[0]])
            self.notice(f"{len(steps)} of {len(crews)} actors have read their studies")
        self.pids = {actor: ray.get(actor.pid.remote()) for actor in living}
        return [step for crew in crews for step in steps[crew[0]]]

    def stop(self) -> None:
        """End actors, cluster and temporary files; called again after an interruption, it does so by force."""
        again, self._stopping = self._stopping, True
        try:
            if not again:
                self._note_processes()
                with contextlib.suppress(Exception):
                    for actor in dict.fromkeys(self.actors.values()):
                        ray.kill(actor)
                self.actors = {}
                ray.shutdown()
        finally:
            self._note_processes()
            leftovers.end(self._processes)
            if self.folder is not None:
                leftovers.remove(self.folder)

    def _note_processes(self) -> None:
        """Remember what was started for a cluster of our own: two of Ray's helpers may outlive it by a minute (TRUST.md, section 3)."""
        if self.folder is not None:
            self._processes = [*self._processes, *(one for one in leftovers.descendants() if one not in self._others)]

    def _connect(self, address: str | None) -> str:
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        logging.getLogger("ray").setLevel(logging.ERROR)
        common: dict[str, Any] = {"namespace": self.run, "log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        try:
            if address is None:
                self.folder = _private_folder()
                with _temporary_files_in(self.folder):
                    context = ray.init(
                        address="local", include_dashboard=True, dashboard_host="127.0.0.1", _temp_dir=str(self.folder / "ray"), **common
                    )  # fmt: skip
                with contextlib.suppress(OSError):  # Ray leaves its token readable for everybody
                    (Path.home() / ".ray" / "auth_token").chmod(0o600)
            else:
                context = ray.init(address=address, **common)
        except Exception as error:
            self.stop()
            problem = f"no Ray cluster at {address or 'this machine'} ({type(error).__name__})"
            raise UsageError("E604", problem, fix="check --address, or use --executor local") from error
        except BaseException:  # Ctrl-C while Ray starts
            self.stop()
            raise
        url = str(context.dashboard_url or "")
        return f"http://{url}" if url else ""

    def _one_each(self, crews: Sequence[Sequence[str]]) -> list[Any]:
        """Return an actor per crew: an earlier one of its first member that still answers, or a new one; end the rest."""
        free = {name: actor for name, actor in self.actors.items() if _answers(actor)}
        chosen = []
        for crew in crews:
            actor = free.get(crew[0]) or self._actor(crew[0])
            free = {name: other for name, other in free.items() if other != actor}
            chosen.append(actor)
        for actor in dict.fromkeys(free.values()):
            ray.kill(actor)
        return chosen

    def _actor(self, name: str) -> Any:
        """A new process, titled after `name` and, from its second on, their number: Ray frees a dead actor's title only later."""
        self._lives[name] += 1
        title = name if self._lives[name] == 1 else f"{name}.{self._lives[name]}"
        options = {"name": title, "num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1}
        return ray.remote(CrewActor).options(**options).remote()

    # ------------------------------------------------------------------ going on

    def advance(self, name: str, until: float) -> None:
        self._answers[self.actors[name].advance.remote(name, until)] = name

    def completed(self) -> Sequence[Report]:
        started = time.monotonic()
        awaited = [*self._answers, *self._acknowledgements]
        while True:
            done, _ = ray.wait(awaited, num_returns=1, timeout=1.0)
            if done:
                break
            if time.monotonic() - started > PATIENCE:
                return [self._dead(name, "no answer") for name in set(self._answers.values())]
        more, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        return [report for ref in dict.fromkeys([*done, *more]) for report in self._report(ref)]

    def _report(self, ref: Any) -> list[Report]:
        if ref in self._acknowledgements:
            receiver, flight = self._acknowledgements.pop(ref)
            try:
                ray.get(ref)
            except RayActorError as error:
                if self._lives_in(receiver, error.actor_id):
                    return [self._dead(receiver, "its process is gone")]
                return [Delivered(receiver, flight, lost=True)]  # sent to a process it no longer lives in
            except RayError:
                return [Delivered(receiver, flight, lost=True)]
            return [Delivered(receiver, flight)]
        name = self._answers.pop(ref, None)
        if name is None:
            return []
        try:
            answer = self._told(ref)
        except RayActorError:
            return [self._dead(name, "its process is gone")]
        reports: list[Report] = [Advanced(answer.step)]
        for parcel, acknowledgement in zip(answer.step.parcels, answer.acknowledgements, strict=True):
            if acknowledgement is None:
                reports.append(Delivered(parcel.receiver, parcel.flight))
            else:
                self._acknowledgements[acknowledgement] = (parcel.receiver, parcel.flight)
        return reports

    def vector(self, name: str) -> Vector:
        """Final parameters of a twin; from its last saved state if it died since."""
        try:
            found: Vector = ray.get(self.actors[name].vector.remote(name), timeout=PATIENCE)
        except RayActorError:
            found = TwinState.unpacked(self.vault.load(name)).vector
        return found

    # ------------------------------------------------------------------ death and return

    def kill(self, name: str) -> None:
        """End the actor's process; Ray does so at once and without asking it."""
        actor = self.actors.pop(name)
        ray.kill(actor)
        if not _ends(self.pids.pop(actor, None)):
            raise P2pftlError("E701", f"the process of {name} does not end", fix="look for a stopped process on this machine")
        self._forget(name)

    def revive(self, name: str, incarnation: int, at: float) -> Step:
        actor = self._actor(name)
        try:
            step: Step = self._told(actor.revive.remote(*self._brief, name, incarnation, at), timeout=PATIENCE)
            self.pids[actor] = ray.get(actor.pid.remote(), timeout=PATIENCE)
        except RayError as error:
            raise P2pftlError("E702", f"its new process gave no answer ({type(error).__name__})") from error
        self.actors[name] = actor
        actor.meet.remote(self.actors)
        others = [other for other in dict.fromkeys(self.actors.values()) if other != actor]
        for met in [other.meet.remote({name: actor}) for other in others]:
            with contextlib.suppress(RayError):  # dead too: its next answer says so
                ray.get(met, timeout=PATIENCE)
        return step

    def _dead(self, name: str, reason: str) -> Died:
        """Report everybody who lived in the actor of `name`."""
        actor = self.actors.get(name)
        names = tuple(sorted(other for other, home in self.actors.items() if home == actor)) or (name,)
        with contextlib.suppress(Exception):
            self.kill(name)
        for other in names:
            self.actors.pop(other, None)
            self._forget(other)
        return Died(names, reason)

    def _lives_in(self, name: str, actor_id: str | None) -> bool:
        actor = self.actors.get(name)
        return actor is not None and actor_id in (None, actor._actor_id.hex())

    def _forget(self, name: str) -> None:
        self._answers = {ref: told for ref, told in self._answers.items() if told != name}
        self._acknowledgements = {ref: where for ref, where in self._acknowledgements.items() if where[0] != name}

    def _first(self, ref: Any, crew: Sequence[str]) -> list[Step]:
        try:
            steps: list[Step] = self._told(ref)
        except RayActorError as error:
            problem = f"the process of {', '.join(crew[:4])} died while reading its studies"
            raise UsageError("E610", problem, fix="free some memory, or raise twins_per_actor") from error
        return steps

    def _told(self, ref: Any, timeout: float | None = None) -> Any:
        answer = ray.get(ref, timeout=timeout)
        if isinstance(answer, Failed):
            raise answer.error
        return answer


def _answers(actor: Any) -> bool:
    try:
        ray.get(actor.pid.remote(), timeout=PATIENCE)
    except RayError:
        return False
    return True


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


def _ends(pid: int | None) -> bool:
    """Wait until the process is gone; SIGKILL it if Ray did not. A pid of another machine counts as gone."""
    for patience in range(200):
        try:
            os.kill(pid or 0, 0 if patience < 100 else signal.SIGKILL) if pid else None
        except (ProcessLookupError, PermissionError):
            return True
        if pid is None or _zombie(pid):
            return True
        time.sleep(0.01)
    return False


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return not Path("/proc").exists()


def _guarded(who: str, act: Callable[[], T]) -> T | Failed:
    """Run `act`; turn any error into one that names the twin and the place in our code, and nothing of the data."""
    try:
        return act()
    except P2pftlError as error:
        return Failed(error)
    except Exception as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "p2pftl" in frame.filename]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "outside p2pftl"
        return Failed(P2pftlError("E700", f"{who} stopped: {type(error).__name__} at {place}", fix="run with --executor local to debug"))
