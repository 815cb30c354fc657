"""A simulated scanner's days: phantom in the morning, patients, wear and drift, service when it is in quarantine.

    device = Device.new("ct-03", seed=7, scanner=Scanner())
    while device.day < 730:
        device.live()

The twin learns of the device what a real one would show: phantoms, exposures, services. `truth` is the simulation's own.
Deterministic: every draw is keyed by seed, name and day. Device day d begins at virtual time (d - history) * day_s.
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
from p2pftl.device.protocol import Protocol, Reading
from p2pftl.device.qa import QaPolicy, Verdict
from p2pftl.device.rules import Rules
from p2pftl.device.sampled import MEAN_SCATTER, RIPPLE, RIPPLE_SCATTER, sample
from p2pftl.device.troubles import LASTING, MENDED, Trouble, Truth, end, follow, mend, strike, wear_on
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
        self.struck: frozenset[int] = frozenset()  # places of troubles that have begun
        self.unmended: frozenset[str] = frozenset()  # kinds of those that no service has mended since
        self.protocol, self.policy = rules.protocol, attuned(rules.policy, rules.protocol)  # how the phantom is scanned now
        self.day = 0
        self.stage, self.since = "commissioning", 0.0  # state of life, and the day on which it came
        self.tubes = 1
        self.peak = 0.0  # highest share of the tube's heat capacity today
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
        installed = -rules.history * rules.day_s + 0.0  # + 0.0: no negative zero
        log = DeviceLog.create(name, installed, wear=changed)
        tube = Tube(wear=rules.wear)
        truth = Truth(tube, lifetime(rules.wear, draw(seed, "device", name, "tube", 1)), scanner, pattern=_pattern(seed, name))
        device = cls(name, seed, rules, truth, log, troubles)
        start = {
            "attributes.vendor": scanner.vendor, "attributes.installed": installed, "attributes.tube.cap_MHU": rules.wear.cap_MHU,
            "attributes.tube.cool_MHU_min": rules.wear.cool_MHU_min, "tube.number": 1, "tube.installed": installed, "tube.source": "sim",
        }  # fmt: skip
        device._record("observed", 0.0, {"values": {**start, **_config(truth)}, "quality": "assumed"})
        return device

    # ------------------------------------------------------------------ what others ask

    @property
    def condition(self) -> Condition:
        """What images acquired now suffer from, beside the calibration error of `truth.scanner`, which acquiring adds."""
        return self.truth.condition(self._jitter(self._today, 0))

    @property
    def skew(self) -> float:
        """Seconds by which its clock, and so its log, is fast."""
        return float(sum(self.troubles[place]["seconds"] for place in self.ongoing if self.troubles[place].kind == "clock_skew"))

    @property
    def labels(self) -> Mapping[str, float]:
        """Class -> share of the patients who come now, as far as an incident says so."""
        mixes = [self.troubles[place]["labels"] for place in sorted(self.ongoing) if self.troubles[place].kind == "case_mix_shift"]
        return mixes[-1] if mixes else {}

    @property
    def working(self) -> bool:
        """Whether patients are scanned today."""
        return self.log.state.lifecycle in TRUSTED | {"commissioning"}

    def scan(self, true: Images, pixel_mm: float, *key: str | int) -> Acquired:
        """Acquire the true anatomy [B, n, n] HU with today's protocol and faults; `key` names the images and makes their noise theirs."""
        scanner, generator = self.truth.scanner, self._draw("image", *key)
        return acquire(true, scanner, pixel_mm, generator, condition=self.condition)

    def advance(self, t: float) -> list[Entry]:
        """Live every device day that has begun by virtual time `t`, and what happened since; return what the log gained."""
        known = len(self.log)
        while (self.day - self.rules.history) * self.rules.day_s <= t:
            self.live()
        self._incidents(round(t / self.rules.day_s, 9) + self.rules.history)  # as a plan counts the days of incidents
        return self.log.entries[known:]

    def recheck(self, t: float) -> None:
        """Scan a phantom out of turn at virtual time `t`, because something asks for one; not while no phantoms or patients are scanned."""
        if self.working and not self._is("missed_qa"):
            day = t / self.rules.day_s + self.rules.history
            self._phantom(day, len(self.log))
            self._settle(day)

    def resume(self, day: int, head: str) -> None:
        """Live again until `day` as before an interruption; of what happened on the last day, as much as the log ending in `head` has.

        Raises CheckpointError E502 when that is not the same life.
        """
        while self.day < day:
            self.live()
        while self.log.head != head and (due := self._due()) is not None and due[0] < day:
            self._incidents(due[0])
        if self.log.head != head:
            raise CheckpointError("E502", f"the device log of {self.name} does not come out as it was saved", fix="run the scenario again")

    def live(self) -> None:
        """Live one device day: incidents until its morning, service, phantom, patients, evening summary."""
        day = self.day
        self.peak = 0.0
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
        self._settle(day)
        self.day = day + 1

    # ------------------------------------------------------------------ a day, in order

    def _incidents(self, upto: float) -> None:
        """Let begin and end what does by device day `upto` (fractions count), in the order of time."""
        while (due := self._due()) is not None and due[0] <= upto:
            when, place, over = due
            if over:
                self._over(when, place)
            else:
                self._begin(when, place)
            self._settle(when)

    def _due(self) -> tuple[float, int, bool] | None:
        """What comes next: day, place in `troubles`, whether it ends."""
        begin = [(trouble.day, place, False) for place, trouble in enumerate(self.troubles) if place not in self.struck]
        ends = [(self.troubles[place].until, place, True) for place in self.ongoing]
        return min(begin + ends, default=None)

    def _begin(self, when: float, place: int) -> None:
        trouble = self.troubles[place]
        self.struck |= {place}
        self.unmended |= {trouble.kind}
        self.truth = strike(self.truth, trouble)
        if trouble.kind in LASTING or math.isfinite(trouble.until):
            self.ongoing |= {place}
            self.truth = wear_on(self.truth, trouble, min(math.ceil(when), trouble.until) - when)  # what is left of the day
        self._record("happened", when, {"kind": trouble.kind, "text": _text(trouble), "params": dict(trouble.params)})
        self._act(when, trouble)

    def _over(self, when: float, place: int) -> None:
        trouble = self.troubles[place]
        self.ongoing -= {place}
        self.unmended -= {trouble.kind}
        self.truth = end(self.truth, trouble, self.usual)
        if trouble.kind.endswith("_change"):
            self._record("observed", when, {"values": _config(self.truth)})
            if trouble["qa"]:
                self._rescan(when, trouble, over=True)
        self._record("happened", when, {"kind": trouble.kind, "text": f"{trouble.kind.replace('_', ' ')} is over"})

    def _settle(self, day: float) -> None:
        if self.stage != self.log.state.lifecycle:
            self.stage, self.since = self.log.state.lifecycle, day

    def _act(self, day: float, trouble: Trouble) -> None:
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
                self._follow(follow(self.protocol, trouble))  # a kernel is the reconstruction's, so the phantom's as well
        if trouble.kind.endswith("_change") or trouble.kind == "software_upgrade":
            self._record("observed", day, {"values": _config(self.truth)})
        if trouble.kind.endswith("_change") and trouble["qa"]:
            self._rescan(day, trouble)

    def _service(self, day: int) -> None:
        state = self.log.state
        if state.lifecycle == "quarantined" and day >= self.since + self.rules.ageing.service_days:
            low, high = self.rules.ageing.repair_h
            tube = "tube_replace" in (kinds := self._diagnosis())
            hours = float(self._draw("repair", day).uniform(*(self.rules.ageing.tube_h if tube else (low, high))))
            self._stop(day, "maintenance", "service was called", hours, kinds)
        elif state.lifecycle in ("maintenance", "offline") and day >= self.back and not self._is("outage"):
            for kind in self.repairs:
                self._mend(day, kind, 24 * (day - self.since), by="service")
            if self.repairs and state.lifecycle == "offline":
                lifecycle.move(self.log, self._t(day), Move("maintenance", "service is here"), source="sim")
            self.repairs = ()
            lifecycle.move(self.log, self._t(day), Move("verifying", "phantoms must pass first"), source="sim")

    def _calibrate(self, day: int) -> None:
        if day and day % self.rules.ageing.air_days == 0 and self.log.state.lifecycle in TRUSTED:
            self.truth = replace(self.truth, ring=0.0, channels=0) if "ring" not in self.unmended else self.truth
            self._record("observed", day, {"values": {"calibration.last_air": self._t(day), "calibration.source": "sim"}})

    def _phantom(self, day: float, number: int = 0) -> None:
        """A phantom, a second one when a chart alarms, and what follows for the lifecycle. number: 0 for the morning's."""
        reading, expected = self._measure(int(day), number), water.expected_sd(self.protocol)
        verdict = checkup.phantom(
            self.log, reading, self._t(day), self.policy, expected=expected, again=lambda: self._measure(int(day), number + 1), source="sim"
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
        self.peak = shift.peak
        arcs = int(generator.poisson(shift.tube.arc_rate() * (shift.tube.scan_s - self.truth.tube.scan_s)))
        self.truth = replace(self.truth, tube=replace(shift.tube, arcs=shift.tube.arcs + arcs))
        if self.truth.tube.damage >= self.truth.fails_at:
            self._record("happened", day, {"kind": "tube_failure", "text": "the tube failed", "params": {"damage": self.truth.tube.damage}})
            self._tube_fails(day, 0.0)

    def _age(self, day: int) -> None:
        for place in sorted(self.ongoing):
            trouble = self.troubles[place]
            self.truth = wear_on(self.truth, trouble, min(1.0, trouble.until - day))
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
        totals["heat_peak"] = self.peak
        self._record("observed", day, {"values": {f"tube.{name}": value for name, value in totals.items()}, "quality": "derived"})
        per_day = self.rules.workload.mean_damage(self.rules.wear)
        found = summary(self.log.state, t, self.rules.day_s, self.rules.policy, per_day)
        self._record("observed", day, {"values": found, "quality": "derived"})

    # ------------------------------------------------------------------ in detail

    def _measure(self, day: int, again: int) -> Reading:
        """Scan the phantom; one that lies reports a scanner without fault."""
        error = self._jitter(day, again) + self.truth.scanner.hu_offset
        condition = Condition() if self._is("lying_qa") else self.truth.condition(error)
        generator, plan = self._draw("phantom", day, again), self.protocol
        if self.rules.measure == "sampled":
            return sample(plan, generator, condition)
        image = water.scan(plan, generator, condition)[0]
        return water.analyse(image, plan.pixel_mm, roi_mm2=plan.roi_mm2, edge_mm=plan.edge_mm)

    def _dosimetry(self, reading: Reading, verdict: Verdict) -> dict[str, Any]:
        if verdict.baseline.n < self.policy.charts.days:
            return {}
        self.recent = (*self.recent, (reading.sd, verdict.baseline.sd))[-7:]
        found = output([seen for seen, _ in self.recent], [hoped for _, hoped in self.recent])
        return {"tube.output_hat": found.value, "tube.output_sd": found.sd} if found else {}

    def _diagnosis(self) -> tuple[str, ...]:
        """What an engineer does after reading the log: calibrate; replace a tube whose output fell; accept noise that is in order."""
        state = self.log.state
        last, hoped = state.get("qa.last.sd"), state.get("qa.baseline.sd")
        rings = state.get("qa.last.ring", 0.0) > self.policy.limits.ring_hu
        if last and hoped and not rings and (hoped / last) ** 2 < SOUND_OUTPUT:
            return ("tube_replace", "air_cal", "water_cal")
        noise_alone = all("noise" in name for name in state.get("qa.alarms", [])) and state.get("qa.alarms") and not rings
        return ("air_cal", "water_cal", "baseline") if noise_alone else ("air_cal", "water_cal")

    def _tube_fails(self, day: float, downtime_h: float) -> None:
        hours = downtime_h or float(self._draw("failure", int(day)).uniform(*self.rules.ageing.tube_h))
        self._stop(day, "offline", "the tube failed", hours, ("tube_replace", "air_cal", "water_cal"))

    def _stop(self, day: float, to: str, reason: str, hours: float, repairs: tuple[str, ...]) -> None:
        if to not in lifecycle.NEXT[self.log.state.lifecycle]:
            return  # it stands already
        self.back, self.repairs = day + hours / 24, repairs
        lifecycle.move(self.log, self._t(day), Move(to, reason), source="sim")

    def _mend(self, day: float, kind: str, hours: float, *, by: str) -> None:
        if kind == "tube_replace":
            self.tubes += 1
        if kind in lifecycle.RENEWING:
            self.recent = ()
        self.truth = mend(self.truth, kind, lifetime(self.rules.wear, self._draw("tube", self.tubes)))
        self.ongoing -= {place for place in self.ongoing if self.troubles[place].kind in MENDED.get(kind, ())}
        self.unmended -= MENDED.get(kind, frozenset())
        lifecycle.maintain(self.log, self._t(day), kind, by=by, downtime_h=hours, source="sim")

    def _rescan(self, day: float, trouble: Trouble, *, over: bool = False) -> None:
        """The phantom follows the clinical protocol, and a physicist has another baseline made. over: the change has ended."""
        self._follow(follow(self.protocol, trouble, self.rules.protocol if over else None))
        lifecycle.maintain(self.log, self._t(day), "baseline", by="physicist", note="another protocol", source="sim")
        if self.log.state.lifecycle in ("active", "warn"):
            lifecycle.move(self.log, self._t(day), Move("baseline", "another protocol"), source="sim")

    def _follow(self, protocol: Protocol) -> None:
        self.protocol, self.policy, self.recent = protocol, attuned(self.rules.policy, protocol), ()

    def _is(self, kind: str) -> bool:
        return any(self.troubles[place].kind == kind for place in self.ongoing)

    @property
    def _today(self) -> int:
        """The day that was begun last."""
        return max(self.day - 1, 0)

    def _jitter(self, day: int, again: int) -> float:
        return self.rules.ageing.day_hu * float(self._draw("jitter", day, again).standard_normal())

    def _t(self, day: float) -> float:
        return (day - self.rules.history) * self.rules.day_s + self.skew

    def _draw(self, *what: str | int) -> np.random.Generator:
        return draw(self.seed, "device", self.name, *what)

    def _record(self, kind: str, day: float, data: Mapping[str, Any]) -> None:
        self.log.record(kind, self._t(day), "sim", data)


def attuned(policy: QaPolicy, protocol: Protocol) -> QaPolicy:
    """Return `policy` for phantoms scanned with `protocol`: what their noise alone makes of mean and ring index is no finding.

    Limits and charts of the page are those of the reference protocol (6 HU of noise); a sharp kernel and thin slices have 30.
    """
    noise = water.expected_sd(protocol)
    ripple = RIPPLE[protocol.kernel] * noise * (1 + 4 * RIPPLE_SCATTER)
    limits = replace(policy.limits, ring_hu=max(policy.limits.ring_hu, ripple))
    charts = replace(policy.charts, mean_sd=math.hypot(policy.charts.mean_sd, MEAN_SCATTER[protocol.kernel] * noise))
    return replace(policy, limits=limits, charts=charts)


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
