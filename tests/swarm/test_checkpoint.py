"""A saved state is whole or it is refused, and going on from it is going on as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl import events as facts
from p2pftl.errors import CheckpointError
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.gossip.partners import Nobody
from p2pftl.policies import find, registered
from p2pftl.state import MAGIC, PREFIX, TwinState
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.conductor import Conductor
from p2pftl.swarm.crew import Crew
from p2pftl.swarm.local import LocalSwarm
from p2pftl.twin import Twin
from p2pftl.world.incidents import Crash
from tests.toys import Frozen, Heavy, play, toy


def state() -> TwinState:
    part = np.arange(4, dtype=np.float32)
    memory = {"momentum": part[::2], "step": np.zeros((2, 1), np.float32), "rows": [1, 2.5, None, "x", b"y", True], "deep": {"a": part}}
    return TwinState(
        incarnation=2, completed=5, origin="start", size=6, ranges=((0, 2), (4, 6)), part=part, shared=((4, 6),), age=7.0, mass=0.3,
        extra={"u": 0.5}, memory=memory, told=part[:2], incarnations={"ct-02": 3},
    )  # fmt: skip


# ---------------------------------------------------------------------- the file


def test_what_is_saved_is_loaded_and_the_newest_counts(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "deep" / "state")
    vault.save("ct-01", b"old")
    vault.save("ct-01", b"new")
    vault.save("a.b", b"other")
    assert (vault.load("ct-01"), vault.load("a.b")) == (b"new", b"other")
    assert sorted(path.name for path in vault.folder.iterdir()) == ["a.b.state", "ct-01.state"]


def test_a_missing_or_unreadable_state_is_e501(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    (tmp_path / "ct-02.state").mkdir()
    for name in ("ct-01", "ct-02"):
        with pytest.raises(CheckpointError, match=f"E501 no saved state of {name}"):
            vault.load(name)


def test_a_disk_that_refuses_is_e509_and_the_state_before_is_whole(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    vault.save("ct-01", b"good")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match="E509"):
            vault.save("ct-01", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert vault.load("ct-01") == b"good"


def test_a_folder_that_cannot_be_made_is_e509(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="E509"):
        Vault(tmp_path / "file" / "state").save("ct-01", b"x")


WRITER = """
import sys
from pathlib import Path
from p2pftl.swarm.checkpoint import Vault
vault = Vault(Path(sys.argv[1]))
n = 0
while True:
    vault.save("ct-01", bytes([n % 251]) * 3_000_000)
    n += 1
    if n == 1:
        print("started", flush=True)
"""


def test_a_writer_killed_at_any_moment_never_leaves_half_a_state(tmp_path: Path) -> None:
    for k in range(6):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.003 * k)
            writer.kill()
        saved = Vault(tmp_path).load("ct-01")
        assert len(saved) == 3_000_000
        assert saved == saved[:1] * len(saved)


def test_states_are_kept_as_often_as_asked_and_at_the_end(tmp_path: Path) -> None:
    run = toy(rounds=5, partners=Nobody())
    crew = Crew(run, Vault(tmp_path, every=3))
    crew.begin(["ct-01"])
    kept = []
    for _ in range(7):
        crew.advance("ct-01", 1e9)
        kept.append(TwinState.unpacked(Vault(tmp_path).load("ct-01")).completed)
    assert kept == [0, 0, 3, 3, 3, 5, 5]


def test_a_short_fit_goes_with_the_round_before_it_and_nothing_else_changes(tmp_path: Path) -> None:
    told = {}
    for pace, short, calls in ((Synchronous(3.0), 0.0, 6), (Synchronous(3.0), 1e9, 3), (Asynchronous(), 1e9, 6)):
        vault = Vault(tmp_path / f"{pace} {short}", every=3)
        crew = Crew(toy(rounds=5, partners=Nobody(), pace=pace), vault, short)
        steps = crew.begin(["ct-01"])
        while not steps[-1].done:
            steps.append(crew.advance("ct-01", 1e9))
        assert len(steps) == 1 + calls
        told[pace.lockstep, calls] = (
            [event for step in steps for event in step.events],
            crew.vector("ct-01").tobytes(),
            vault.load("ct-01"),
        )
    assert told[True, 6] == told[True, 3]


# ---------------------------------------------------------------------- its content


def test_a_state_survives_packing_to_the_bit() -> None:
    before, after = state(), TwinState.unpacked(state().packed())
    assert after.packed() == before.packed()
    plain = ("incarnation", "completed", "origin", "size", "ranges", "shared", "age", "mass", "extra", "incarnations")
    assert [getattr(after, name) for name in plain] == [getattr(before, name) for name in plain]
    assert after.part.tobytes() == before.part.tobytes()
    assert after.told is not None
    assert after.told.tolist() == [0.0, 1.0]
    assert after.memory is not None
    assert after.memory["momentum"].tolist() == [0.0, 2.0]
    assert after.memory["step"].shape == (2, 1)
    assert after.memory["rows"] == [1, 2.5, None, "x", b"y", True]
    assert after.part.flags.writeable
    assert after.memory["deep"]["a"].flags.writeable


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5]), max_size=12), st.sampled_from(["<f4", "<f8", "<i2"]))
def test_zeros_at_the_ends_of_an_optimisers_arrays_cost_nothing_and_come_back(values: list[float], dtype: str) -> None:
    array = np.array(values).astype(dtype)
    sizes = []
    for more in (0, 5000):
        padded = np.concatenate([np.zeros(more, dtype), array, np.zeros(more, dtype)])
        packed = replace(state(), memory={"a": padded}).packed()
        memory = TwinState.unpacked(packed).memory
        assert memory is not None
        assert memory["a"].tobytes() == padded.tobytes()
        assert memory["a"].dtype == padded.dtype
        sizes.append(len(packed))
    assert sizes[1] < sizes[0] + 20


def test_only_a_state_that_holds_everything_is_a_model() -> None:
    whole = replace(state(), size=4, ranges=((0, 4),))
    assert TwinState.unpacked(whole.packed()).vector.tolist() == [0, 1, 2, 3]
    with pytest.raises(CheckpointError, match="E502"):
        _ = state().vector


@settings(deadline=None, max_examples=150)
@given(at=st.integers(0, 2000), flip=st.integers(1, 255), cut=st.integers(0, 2000))
def test_one_changed_byte_or_a_cut_is_e502(at: int, flip: int, cut: int) -> None:
    good = bytes(state().packed())
    changed = bytearray(good)
    changed[at % len(good)] ^= flip
    for damaged in (bytes(changed), good[: cut % len(good)], good + b"\\0"):
        with pytest.raises(CheckpointError, match="E502"):
            TwinState.unpacked(damaged)


def test_a_state_of_another_schema_is_e505() -> None:
    head = msgpack.packb({"secret": 1})
    newer = PREFIX.pack(MAGIC, 0, 4, len(head)) + head
    older = msgpack.packb({"schema": 1, "secret": 1})
    crc = zlib.crc32(newer)
    for data, schema in ((PREFIX.pack(MAGIC, crc, 4, len(head)) + head, 4), (hashlib.sha256(older).digest() + older, 1)):
        with pytest.raises(CheckpointError, match=f"E505 .* schema {schema}, this is 3"):
            TwinState.unpacked(data)


# ---------------------------------------------------------------------- going on from it


def begun() -> Callable[[], Twin]:
    run = toy(rounds=9, rate=0.3, task=Heavy, partners=Nobody())

    def make() -> Twin:
        twin = run("ct-03")
        assert isinstance(twin, Twin)
        return twin

    return make


@pytest.mark.parametrize("rounds", [0, 1, 4, 9])
def test_a_restored_twin_goes_on_to_the_same_bits(rounds: int) -> None:
    make = begun()
    whole, first, second = make(), make(), make()
    for twin in (whole, first):
        twin.begin(0.0)
    for _ in range(rounds):
        first.advance(1e9)
    second.restore(first.snapshot(), 2)
    second.begin(77.0)
    for twin in (whole, second):
        while not twin.retired:
            twin.advance(1e9)
    assert whole.vector.tobytes() == second.vector.tobytes()
    assert whole.memory is not None
    assert second.memory is not None
    assert {key: value.tobytes() for key, value in whole.memory.items()} == {key: value.tobytes() for key, value in second.memory.items()}


@pytest.mark.parametrize("aggregator", sorted(registered("aggregator")))
@pytest.mark.parametrize("codec", sorted(registered("codec")))
def test_a_crash_in_which_nothing_was_lost_changes_no_bit(aggregator: str, codec: str, tmp_path: Path) -> None:
    """In lockstep all fit at the same time: who is back before the others send has lost no frame, and they wait for it."""
    chosen = {"aggregator": find("aggregator", aggregator)(), "codec": find("codec", codec)()}
    policies = {"pace": Synchronous(60.0), "rate": 0.3, "task": Heavy, "rounds": 8, **chosen}
    calm = play(toy(**policies), tmp_path)
    crashed = play(toy(**policies, incidents=[Crash("ct-03", 1.7, 0.3), Crash("ct-06", 1.8, 0.1)]), tmp_path)
    assert {event.twin for event in crashed.of(facts.Revived)} == {"ct-03", "ct-06"}
    assert all((calm.vectors[name] == crashed.vectors[name]).all() for name in calm.vectors)
    assert not crashed.degraded


def test_a_frozen_backbone_is_neither_held_nor_saved_and_comes_back(tmp_path: Path) -> None:
    """LARGE has 40,000 elements below a head of 10,000."""
    run = toy(rounds=4, rate=0.3, task=Frozen, partners=Nobody())
    outcome = play(run, tmp_path)
    twin = run("ct-01")
    assert isinstance(twin, Twin)
    saved = Vault(tmp_path).load("ct-01")
    assert len(saved) < 4 * 10_000 + 500
    twin.restore(saved, 2)
    assert twin.vector.tobytes() == outcome.vectors["ct-01"].tobytes()
    assert twin.model.part.nbytes == 4 * 10_000


def test_a_state_that_began_with_another_model_is_e502() -> None:
    one, other = toy(task=Frozen, seed=1)("ct-01"), toy(task=Frozen, seed=2)("ct-01")
    with pytest.raises(CheckpointError, match="E502"):
        other.restore(one.snapshot(), 2)


@pytest.mark.parametrize("every", [1, 3])
def test_a_crash_costs_the_rounds_since_the_last_saved_state(every: int, tmp_path: Path) -> None:
    run = toy(rounds=8, rate=0.1, pace=Asynchronous(), incidents=[Crash("ct-03", 2.7, 1.0)])
    swarm = LocalSwarm()
    first = swarm.start(run, [run.names], Vault(tmp_path, every))
    events = list(Conductor(run.world, swarm, first))
    (revived,) = [event for event in events if isinstance(event, facts.Revived)]
    assert revived.round == (5 if every == 1 else 3)
    rounds = [event.round for event in events if isinstance(event, facts.RoundDone) and event.twin == "ct-03"]
    assert rounds == [0, 1, 2, 3, 4, *range(revived.round, 8)]


def test_no_file_of_another_name_is_left(tmp_path: Path) -> None:
    play(toy(rounds=3), tmp_path)
    assert sorted(os.listdir(tmp_path)) == [f"ct-0{k}.state" for k in range(1, 9)]
