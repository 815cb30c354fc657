"""Events are facts with one canonical form: packing is a fingerprint, unpacking gives the fact back or one clear error."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl import events
from p2pftl.errors import CheckpointError
from p2pftl.events import KINDS, Event, Merged, RunPlanned, Scored, pack, unpack
from p2pftl.gossip.pace import Synchronous
from tests.toys import play, storm

EXAMPLES: dict[Any, Any] = {
    float: 1.5,
    int: 3,
    str: "ct-02",
    bool: True,
    float | None: None,
    tuple[str, ...]: ("a", "b"),
    tuple[int, ...]: (4, 0),
}


def example(kind: type[Event]) -> Event:
    hints = get_type_hints(kind)
    return kind(**{field.name: EXAMPLES.get(hints[field.name], {"b": 1.0, "a": 2.0}) for field in dataclasses.fields(kind)})


def test_every_event_is_listed_frozen_and_in_the_past_tense_of_the_list() -> None:
    defined = {name for name, kind in vars(events).items() if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event}
    assert defined == set(KINDS)
    assert all(kind.__dataclass_params__.frozen for kind in KINDS.values())


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_every_kind_survives_packing(kind: type[Event]) -> None:
    event = example(kind)
    assert unpack(pack(event)) == event
    assert pack(unpack(pack(event))) == pack(event)


def test_every_event_of_a_whole_run_survives_packing(tmp_path: Path) -> None:
    for event in play(storm(pace=Synchronous(4.0)), tmp_path).events:
        assert unpack(pack(event)) == event


def test_the_order_in_which_a_mapping_was_filled_does_not_show() -> None:
    first = Merged(t=1.0, twin="a", round=0, weights={"b": 0.5, "c": 0.25}, staleness=0.0)
    second = Merged(t=1.0, twin="a", round=0, weights={"c": 0.25, "b": 0.5}, staleness=0.0)
    assert pack(first) == pack(second)
    nested = [
        RunPlanned(t=0.0, name="n", seed=1, rounds=1, classes=(), synthetic=True, facts={"x": [facts]})
        for facts in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    ]
    assert pack(nested[0]) == pack(nested[1])


def test_undefined_metrics_stay_undefined() -> None:
    event = Scored(t=1.0, twin="a", round=0, split="test", metrics={"auroc": None, "confusion": ((1, 2), (3, 4))})
    assert unpack(pack(event)) == event


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x00",
        msgpack.packb("Merged"),
        msgpack.packb(["Later", {"t": 1.0}]),
        msgpack.packb(["Merged", {"t": 1.0, "colour": 3}]),
        msgpack.packb(["Merged", {"t": 1.0}]),
        msgpack.packb(["Merged", [1.0]]),
        msgpack.packb([{}, {}]),
        msgpack.packb(["RunFinished", {"t": 1.0, "status": "done"}]) + b"\0",
        b"\x91" * 2000,
    ],
)
def test_what_is_no_event_of_ours_is_e505(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="E505"):
        unpack(data)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=60), at=st.integers(0, 60), put=st.binary(max_size=4))
def test_noise_is_an_event_or_e505_nothing_else(data: bytes, at: int, put: bytes) -> None:
    good = pack(example(Merged))
    for candidate in (data, good[:at] + put + good[at + len(put) :]):
        with contextlib.suppress(CheckpointError):
            unpack(candidate)
