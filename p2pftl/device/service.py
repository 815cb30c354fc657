"""A service that a human did to a watched scanner, told to its twin, which records it and asks for phantoms. It never starts one."""

from __future__ import annotations

from pathlib import Path

from p2pftl.device import lifecycle
from p2pftl.device.ingest import Intake
from p2pftl.device.ledger import FILE
from p2pftl.device.lifecycle import RENEWING, Move
from p2pftl.device.log import DeviceLog
from p2pftl.device.state import State
from p2pftl.errors import CheckpointError, UsageError, nearest


def serviced(out: Path, name: str, kind: str, t: float, *, by: str, part: str = "", note: str = "", downtime_h: float = 0.0) -> State:
    """Record at `t` that `by` did a service to scanner `name` of the watched folder of twins `out`; return its state then.

    A scanner in quarantine or offline is verified by its next phantoms; a trusted one that has become another needs another baseline.
    Raises CheckpointError E501 where no twins are kept, UsageError E512 while a watch runs there, E613 for an unknown name or kind.
    """
    if not (out / FILE).is_file():
        raise CheckpointError("E501", "no watched scanners in this folder", where=out.name, fix="give the --out of p2pftl twin watch")
    if not by.strip():
        raise UsageError("E613", "nobody is named who did it", fix="give --by")
    with Intake(out) as intake:
        if name not in intake.logs:
            raise UsageError("E613", f"no twin {name} here", fix=nearest(name, intake.logs))
        log = intake.logs[name].fork()
        known = len(log)
        _serviced(log, t, kind, by, part, note, downtime_h)
        for entry in log.entries[known:]:
            intake.tell(name, entry.fact.kind, entry.fact.t, entry.fact.source, entry.fact.data)
        intake.commit()
        return log.state


def _serviced(log: DeviceLog, t: float, kind: str, by: str, part: str, note: str, downtime_h: float) -> None:
    out_of_use = log.state.lifecycle in ("quarantined", "offline", "maintenance")
    if log.state.lifecycle in ("quarantined", "offline"):
        lifecycle.move(log, t, Move("maintenance", "service was here"), source="manual")
    lifecycle.maintain(log, t, kind, part=part, by=by, note=note, downtime_h=downtime_h)
    if out_of_use:
        lifecycle.move(log, t, Move("verifying", "phantoms must pass first"), source="manual")
    elif kind in RENEWING and log.state.lifecycle in ("active", "warn"):
        lifecycle.move(log, t, Move("baseline", kind.replace("_", " ")), source="manual")
