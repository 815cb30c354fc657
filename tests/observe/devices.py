"""Devices behind the twins of a staged run: real ones that live their days, and what a mirror would tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from p2pftl import events as fact
from p2pftl.device.life import Device
from p2pftl.device.lifecycle import quality
from p2pftl.device.rules import Rules
from p2pftl.device.troubles import Trouble
from p2pftl.events import Event
from tests.observe.staged import Staged

HISTORY, DAY_S = 25, 2.0
PARTS = ("calibration", "noise", "uniformity", "tube", "data_freshness")


def watched(**options: Any) -> list[Event]:
    """A staged run whose second twin's scanner drifts from day 35 on, and the events of all scanners."""
    run = Staged(**options)
    stream = run.run()
    end = stream[-1].t
    planned, *rest = stream
    twins = {name: {**facts, "device": {"day_s": DAY_S, "history": HISTORY}} for name, facts in planned.facts["twins"].items()}  # type: ignore[attr-defined]
    found: list[Event] = [replace(planned, facts={**planned.facts, "twins": twins})]  # type: ignore[attr-defined, call-arg]
    for number, name in enumerate(run.names):
        troubles = [Trouble("hu_drift", HISTORY + 35.0, params={"rate": 0.5})] if number == 1 else []
        found += lived(name, troubles, end, number)
    found += withheld(found, rest)
    return sorted([*found, *rest], key=lambda event: event.t)


def rules() -> Rules:
    """Days as short as the staged run needs them."""
    return Rules(day_s=DAY_S, history=HISTORY)


def lived(name: str, troubles: Sequence[Trouble], end: float, seed: int = 0) -> list[Event]:
    """One device's life until virtual time `end`, day by day, with a study every third day."""
    device = Device.new(name, seed=seed, rules=rules(), troubles=troubles)
    found: list[Event] = []
    told: tuple[Any, ...] = ()
    held, quiet, said = 90, 0, 0
    for day in range(int(end / DAY_S)):
        t = day * DAY_S
        device.advance(t)
        found.append(fact.DeviceLogged(t=t, twin=name, entries=tuple(map(entry_of, device.log.entries[said:]))))
        said = len(device.log)
        state = device.log.state
        known = (state.lifecycle, quality(state), state.get("qa.status", ""))
        if known != told:
            told = known
            health = {part: state.get(f"health.{part}") for part in PARTS}
            reason = state.get("lifecycle.reason", "")
            found.append(
                fact.DeviceChanged(t=t, twin=name, lifecycle=known[0], quality=known[1], status=known[2], reason=reason, health=health)
            )
        shut = any(window["until"] is None for window in state.quarantine)
        if shut and not quiet:
            quiet = 1
            since = state.quarantine[-1]["since"]
            found.append(fact.StudiesWithdrawn(t=t, twin=name, images=4, since=since, until=None, reason=state.quarantine[-1]["reason"]))
        elif quiet and not shut:
            quiet = 0
            window = state.quarantine[-1]
            since, until = (window[key] for key in ("since", "until"))
            found.append(fact.StudiesWithdrawn(t=t, twin=name, images=0, since=since, until=until, reason=window["reason"]))
        if day % 3 == 2 and device.working:
            held += 2
            found.append(fact.StudiesArrived(t=t, twin=name, images=2, held=held))
    return found


def entry_of(entry: Any) -> dict[str, Any]:
    """A log entry as events carry it."""
    one = entry.fact
    return {
        "n": entry.n, "t": one.t, "kind": one.kind, "source": one.source, "data": one.data, "previous": entry.previous, "hash": entry.hash,
    }  # fmt: skip


def withheld(devices: Sequence[Event], rest: Sequence[Event]) -> list[Event]:
    """An update held back in every round that ends while the twin's quality is 0."""
    found: list[Event] = []
    changes = [event for event in devices if isinstance(event, fact.DeviceChanged)]
    for done in rest:
        if isinstance(done, fact.RoundDone):
            known = [event for event in changes if event.twin == done.twin and event.t <= done.t]
            if known and known[-1].quality == 0:
                found.append(fact.UpdateWithheld(t=done.t, twin=done.twin, round=done.round, reason=known[-1].lifecycle))
    return found
