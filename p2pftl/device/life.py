"""A simulated scanner's days: phantom in the morning, patients, wear and drift, service when it is in quarantine.

    device = Device.new("ct-03", seed=7, scanner=Scanner())
    while device.day < 730:
        device.live()

The twin learns of the device what a real one would show: phantoms, exposures, services. `truth` is the simulation's own.
Deterministic: every draw is keyed by seed, name and day. Virtual time of day d is d * day_s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from p2pftl.device import checkup, lifecycle, water
from p2pftl.device.dosimeter import output
from p2pftl.device.health import summary
from p2pftl.device.lifecycle import TRUSTED, Move
from p2pftl.device.log import DeviceLog, Entry
from p2pftl.device.protocol import Reading
from p2pftl.device.qa import Verdict
from p2pftl.device.rules import Rules
from p2pftl.device.sampled import sample
from p2pftl.device.troubles import LASTING, MENDED, Trouble, Truth, end, mend, strike, wear_on
from p2pftl.device.tube import DAY, Tube, Wear, lifetime, work
from p2pftl.draw import draw
from p2pftl.errors import CheckpointError
from p2pftl.imaging.acquisition import Acquired, Images, acquire
from p2pftl.imaging.condition import Condition
from p2pftl.imaging.scanner import Scanner

OPENS_S, GAP_S = 8 * 3600.0, 600.0  # first patient, and time between two
SOUND_OUTPUT = 0.85  # a tube measured below this is replaced when it is serviced


class Device:
    """A simulated scanner and the log of its twin."""

    def __init__(self, name: str, seed: int, rules: Rules, truth: Truth, log: DeviceLog, troubles: Sequence[Trouble]) -> None:
        self.name, self.seed, self.rules = name, seed, rules
        self.truth, self.log, self.usual = truth, log, truth.scanner
        self.troubles = tuple(troubles)
        self.ongoing: frozenset[int] = frozenset()  # places of lasting troubles in `troubles`
        self.day = 0
        self.tubes = 1
        self.back = 0.0  # day on which a repair or an outage is over
        self.repairs: tuple[str, ...] = ()
        self.recent: tuple[tuple[float, float], ...] = ()  # measured and expected noise of the last phantoms

    @classmethod
    def new(
        cls, name: str, *, seed: int, scanner: Scanner | None = None, rules: Rules | None = None, troubles: Sequence[Trouble] = ()
    ) -> Device:
        """Install a scanner on day 0. scanner: its clinical protocol."""
        rules, scanner = rules or Rules(), scanner or Scanner()
        changed = {key: value for key, value in asdict(rules.wear).items() if value != getattr(Wear(), key)}
        log = DeviceLog.create(name, 0.0, wear=changed)
        tube = Tube(wear=rules.wear)
        truth = Truth(tube, lifetime(rules.wear, draw(seed, "device", name, "tube", 1)), scanner, pattern=_pattern(seed, name))
        device = cls(name, seed, rules, truth, log, troubles)
        start: dict[str, Any] = {
            "attributes.vendor": scanner.vendor,
            "attributes.tube.cap_MHU": rules.wear.cap_MHU,
            "attributes.installed": 0.0,
        }
        start |= {"attributes.tube.cool_MHU_min": rules.wear.cool_MHU_min, "tube.number": 1, "tube.installed": 0.0, "tube.source": "sim"}
        device._record("observed", 0.0, {"values": {**start, **_config(truth)}, "quality": "assumed"})
        return device

    # ------------------------------------------------------------------ what others ask

    @property
    def condition(self) -> Condition:
        """What images acquired today suffer from."""
        return self.truth.condition(self._jitter(self.day, 0))

    @property
    def working(self) -> bool:
        """Whether patients are scanned today."""
        return self.log.state.lifecycle in TRUSTED | {"commissioning"}

    def scan(self, true: Images, pixel_mm: float, *key: str | int) -> Acquired:
        """Acquire the true anatomy [B, n, n] HU with today's protocol and faults; `key` names the images and makes their noise theirs."""
        scanner, generator = self.truth.scanner, self._draw("image", *key)
        return acquire(true, scanner, pixel_mm, generator, condition=self.condition)

    def advance(self, t: float) -> list[Entry]:
        """Live every device day that has begun by virtual time `t`; return what the log gained."""
        known = len(self.log)
        while self.day * self.rules.day_s <= t:
            self.live()
        return self.log.entries[known:]

    def resume(self, day: int, head: str) -> None:
        """Live again until `day` as before an interruption. Raises CheckpointError E502 when that is not the same life."""
        while self.day < day:
            self.live()
        if self.log.head != head:
            raise CheckpointError("E502", f"the device log of {self.name} does not come out as it was saved", fix="run the scenario again")

    def live(self) -> None:
        """Live one device day: incidents, service, phantom, patients, evening summary."""
        day = self.day
        self._incidents(day)
        self._service(day)
        if self.log.state.lifecycle not in ("offline", "maintenance", "retired"):
            self._calibrate(day)
            if not self._is("missed_qa"):
                self._phantom(day)
            if self.working:
                self._patients(day)
        self._age(day)
        self._evening(day)
        self.day = day + 1

    # ------------------------------------------------------------------ a day, in order

    def _incidents(self, day: int) -> None:
        for place, trouble in enumerate(self.troubles):
            if trouble.day < day + 1 and trouble.day >= day:
                self.truth = strike(self.truth, trouble)
                self.ongoing |= {place} if trouble.kind in LASTING or math.isfinite(trouble.until) else frozenset()
                self._record("happened", day, {"kind": trouble.kind, "text": _text(trouble), "params": dict(trouble.params)})
                self._act(day, trouble)
            elif place in self.ongoing and trouble.until <= day:
                self.ongoing -= {place}
                self.truth = end(self.truth, trouble, self.usual)
                if trouble.kind.endswith("_change"):
                    self._record("observed", day, {"values": _config(self.truth)})
                self._record("happened", day, {"kind": trouble.kind, "text": f"{trouble.kind.replace('_', ' ')} is over"})

    def _act(self, day: int, trouble: Trouble) -> None:
        """What an incident does to the device's life rather than to its hardware."""
        match trouble.kind:
            case "tube_failure":
                self._tube_fails(day, trouble["downtime_h"])
            case "tube_replace":
                self._stop(day, "maintenance", "planned tube replacement", trouble["downtime_h"], ("tube_replace", "air_cal"))
            case "outage":
                self._stop(day, "offline", "no contact", 24 * (trouble.until - day), ())
            case "air_calibration" | "water_calibration":
                self._mend(day, "air_cal" if trouble.kind == "air_calibration" else "water_cal", 0.5, by="operator")
            case "software_upgrade":
                lifecycle.maintain(self.log, self._t(day), "software", part=self.truth.software, by="vendor", downtime_h=1.0, source="sim")
                if self.log.state.lifecycle in ("active", "warn"):
                    lifecycle.move(self.log, self._t(day), Move("baseline", "new software"), source="sim")
                self.recent = ()
        if trouble.kind.endswith("_change") or trouble.kind == "software_upgrade":
            self._record("observed", day, {"values": _config(self.truth)})
            if trouble.params.get("qa"):
                self._change_protocol(trouble)

    def _service(self, day: int) -> None:
        state = self.log.state
        if state.lifecycle == "quarantined" and day >= self._since(day) + self.rules.ageing.service_days:
            low, high = self.rules.ageing.repair_h
            tube = "tube_replace" in (kinds := self._diagnosis())
            hours = float(self._draw("repair", day).uniform(*(self.rules.ageing.tube_h if tube else (low, high))))
            self._stop(day, "maintenance", "service was called", hours, kinds)
        elif state.lifecycle in ("maintenance", "offline") and day >= self.back and not self._is("outage"):
            for kind in self.repairs:
                self._mend(day, kind, 24 * (day - self._since(day)), by="service")
            if self.repairs and state.lifecycle == "offline":
                lifecycle.move(self.log, self._t(day), Move("maintenance", "service is here"), source="sim")
            self.repairs = ()
            lifecycle.move(self.log, self._t(day), Move("verifying", "phantoms must pass first"), source="sim")

    def _calibrate(self, day: int) -> None:
        if day and day % self.rules.ageing.air_days == 0 and self.log.state.lifecycle in TRUSTED:
            self.truth = replace(self.truth, ring=0.0, channels=0) if not self._is("ring") and not self._struck("ring") else self.truth
            self._record("observed", day, {"values": {"calibration.last_air": self._t(day), "calibration.source": "sim"}})

    def _phantom(self, day: int) -> None:
        """The morning's phantom, a second one when a chart alarms, and what follows for the lifecycle."""
        reading, expected = self._measure(day, 0), water.expected_sd(self.rules.protocol)
        verdict = checkup.phantom(
            self.log, reading, self._t(day), self.rules.policy, expected=expected, again=lambda: self._measure(day, 1), source="sim"
        )
        if found := self._dosimetry(reading, verdict):
            self._record("observed", day, {"values": found, "quality": "derived"})

    def _patients(self, day: int) -> None:
        """Exposures of the day: heat, wear, arcs; a tube that reaches its life stops the scanner."""
        plan, generator = self.rules.workload, self._draw("patients", day)
        count = int(generator.poisson(plan.exams))
        starts = day * DAY + OPENS_S + GAP_S * np.arange(count)
        kvp = generator.choice(plan.kvp, count)
        ma = np.clip(generator.normal(*plan.ma, count), 60, 400)
        seconds = np.clip(generator.normal(*plan.seconds, count), 2, 15)
        shift = work(self.truth.tube, starts.tolist(), kvp.tolist(), ma.tolist(), seconds.tolist())
        arcs = int(generator.poisson(shift.tube.arc_rate() * (shift.tube.scan_s - self.truth.tube.scan_s)))
        self.truth = replace(self.truth, tube=replace(shift.tube, arcs=shift.tube.arcs + arcs))
        if self.truth.tube.damage >= self.truth.fails_at:
            self._record("happened", day, {"kind": "tube_failure", "text": "the tube failed", "params": {"damage": self.truth.tube.damage}})
            self._tube_fails(day, 0.0)

    def _age(self, day: int) -> None:
        for place in sorted(self.ongoing):
            trouble = self.troubles[place]
            first = day + 1 - trouble.day if trouble.day >= day else 1.0
            self.truth = wear_on(self.truth, trouble, max(0.0, first - max(0.0, day + 1 - trouble.until)))
        ageing, generator = self.rules.ageing, self._draw("age", day)
        walk = ageing.walk_hu * float(generator.standard_normal())
        self.truth = replace(self.truth, offset=self.truth.offset + walk, ring=math.hypot(self.truth.ring, ageing.ring_hu))

    def _evening(self, day: int) -> None:
        """The day's sums, and staleness where the phantom is missing."""
        tube, t = self.truth.tube.idle((day + 1) * DAY), self._t(day)
        self.truth = replace(self.truth, tube=tube)
        checkup.stale(self.log, t, self.rules.day_s, self.rules.policy, source="sim")
        totals = {"heat_J": tube.heat_J, "scan_s": tube.scan_s, "mAs": tube.mAs, "energy_J": tube.energy_J, "exposures": tube.exposures}
        totals |= {"arcs": tube.arcs, "damage": tube.damage, "output": tube.output, "heat_share": tube.heat_J / tube.wear.heat_max}
        self._record("observed", day, {"values": {f"tube.{name}": value for name, value in totals.items()}, "quality": "derived"})
        per_day = self.rules.workload.mean_damage(self.rules.wear)
        found = summary(self.log.state, t, self.rules.day_s, self.rules.policy, per_day)
        self._record("observed", day, {"values": found, "quality": "derived"})

    # ------------------------------------------------------------------ in detail

    def _measure(self, day: int, again: int) -> Reading:
        """Scan the phantom; one that lies reports a scanner without fault."""
        condition = Condition() if self._is("lying_qa") else self.truth.condition(self._jitter(day, again))
        generator = self._draw("phantom", day, again)
        if self.rules.measure == "sampled":
            return sample(self.rules.protocol, generator, condition)
        image = water.scan(self.rules.protocol, generator, condition)[0]
        return water.analyse(image, self.rules.protocol.pixel_mm)

    def _dosimetry(self, reading: Reading, verdict: Verdict) -> dict[str, Any]:
        if verdict.baseline.n < self.rules.policy.charts.days:
            return {}
        self.recent = (*self.recent, (reading.sd, verdict.baseline.sd))[-7:]
        found = output([seen for seen, _ in self.recent], [hoped for _, hoped in self.recent])
        return {"tube.output_hat": found.value, "tube.output_sd": found.sd} if found else {}

    def _diagnosis(self) -> tuple[str, ...]:
        """What an engineer does after reading the log: calibrate; replace a tube whose output fell; accept noise that is in order."""
        state = self.log.state
        last, hoped = state.get("qa.last.sd"), state.get("qa.baseline.sd")
        rings = state.get("qa.last.ring", 0.0) > self.rules.policy.limits.ring_hu
        if last and hoped and not rings and (hoped / last) ** 2 < SOUND_OUTPUT:
            return ("tube_replace", "air_cal", "water_cal")
        noise_alone = all("noise" in name for name in state.get("qa.alarms", [])) and state.get("qa.alarms") and not rings
        return ("air_cal", "water_cal", "baseline") if noise_alone else ("air_cal", "water_cal")

    def _tube_fails(self, day: int, downtime_h: float) -> None:
        hours = downtime_h or float(self._draw("failure", day).uniform(*self.rules.ageing.tube_h))
        self._stop(day, "offline", "the tube failed", hours, ("tube_replace", "air_cal", "water_cal"))

    def _stop(self, day: int, to: str, reason: str, hours: float, repairs: tuple[str, ...]) -> None:
        if to not in lifecycle.NEXT[self.log.state.lifecycle]:
            return  # it stands already
        self.back, self.repairs = day + hours / 24, repairs
        lifecycle.move(self.log, self._t(day), Move(to, reason), source="sim")

    def _mend(self, day: int, kind: str, hours: float, *, by: str) -> None:
        if kind == "tube_replace":
            self.tubes += 1
        if kind in lifecycle.RENEWING:
            self.recent = ()
        self.truth = mend(self.truth, kind, lifetime(self.rules.wear, self._draw("tube", self.tubes)))
        self.ongoing -= {place for place in self.ongoing if self.troubles[place].kind in MENDED.get(kind, ())}
        lifecycle.maintain(self.log, self._t(day), kind, by=by, downtime_h=hours, source="sim")

    def _change_protocol(self, trouble: Trouble) -> None:
        """The phantom follows the clinical protocol: another baseline."""
        changes: Mapping[str, Any] = {
            "dose_change": lambda: {"mas": self.rules.protocol.mas * trouble["factor"]}, "kvp_change": lambda: {"kvp": trouble["kvp"]},
            "kernel_change": lambda: {"kernel": trouble["kernel"]}, "slice_change": lambda: {"slice_mm": trouble["slice_mm"]},
        }[trouble.kind]()  # fmt: skip
        self.rules = replace(self.rules, protocol=replace(self.rules.protocol, **changes))
        self.recent = ()

    def _struck(self, kind: str) -> bool:
        """Whether such an incident came and was not mended since."""
        came = [trouble.day for trouble in self.troubles if trouble.kind == kind and trouble.day < self.day + 1]
        mended = [record["t"] / self.rules.day_s for record in self.log.state.maintenance if kind in MENDED.get(record["kind"], ())]
        return bool(came) and max(came) >= max(mended, default=-1.0)

    def _is(self, kind: str) -> bool:
        return any(self.troubles[place].kind == kind for place in self.ongoing)

    def _since(self, day: int) -> float:
        """Day on which the device came into its present state."""
        return float(self.log.state.get("lifecycle.since", 0.0)) / self.rules.day_s

    def _jitter(self, day: int, again: int) -> float:
        return self.rules.ageing.day_hu * float(self._draw("jitter", day, again).standard_normal())

    def _t(self, day: float) -> float:
        skew: float = sum(self.troubles[place]["seconds"] for place in self.ongoing if self.troubles[place].kind == "clock_skew")
        return day * self.rules.day_s + skew

    def _draw(self, *what: str | int) -> np.random.Generator:
        return draw(self.seed, "device", self.name, *what)

    def _record(self, kind: str, day: float, data: Mapping[str, Any]) -> None:
        self.log.record(kind, self._t(day), "sim", data)


def _pattern(seed: int, name: str) -> int:
    return int(draw(seed, "device", name, "channels").integers(2**31))


def _config(truth: Truth) -> dict[str, Any]:
    scanner = truth.scanner
    return {
        "config.software": truth.software, "config.kernel_group": scanner.kernel, "config.kvp": scanner.kvp, "config.dose": scanner.dose,
        "config.mas": scanner.mas * scanner.dose, "config.slice_mm": scanner.slice_mm, "config.recon": "filtered backprojection",
    }  # fmt: skip


def _text(trouble: Trouble) -> str:
    said = ", ".join(f"{name} {value}" for name, value in trouble.params.items())
    return trouble.kind.replace("_", " ") + (f": {said}" if said else "")
