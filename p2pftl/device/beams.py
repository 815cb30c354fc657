"""Beam-ons: from dose reports as they are, from image headers as well as they can be told (SCANNER_TWIN.md section 2).

An image header does not say how long the beam was on. What is estimated here is a lower bound: slices that were not sent
are not known, nor is the run-up of a helix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from p2pftl.device.headers import Acquisition

LONGEST_S = 300.0  # a longer beam-on is a misread one
SAME_S = 0.5  # two series this close in time are one beam-on: a scanner has one

Mode = Literal["spiral", "sequenced", "constant angle", "stationary", "free"]


@dataclass(frozen=True)
class Load:
    """One X-ray source of a beam-on: kV, mA, seconds per rotation."""

    kvp: float | None
    ma: float | None
    rotation_s: float | None = None


@dataclass(frozen=True)
class Irradiation:
    """One beam-on. key, study: keyed hashes; t: its begin, POSIX seconds; seconds: how long; loads: one for each X-ray source.

    source: rdsr (reported) or header (estimated); lengths mm, doses mGy and mGy cm; None where nothing says.
    """

    key: str
    study: str
    t: float | None
    source: Literal["rdsr", "header"]
    seconds: float | None
    loads: tuple[Load, ...]
    mode: Mode | None = None
    length_mm: float | None = None
    collimation_mm: float | None = None
    pitch: float | None = None
    ctdi: float | None = None
    dlp: float | None = None
    ssde: float | None = None

    @property
    def estimated(self) -> bool:
        return self.source == "header"

    @property
    def load(self) -> tuple[float, float, float] | None:
        """(kV, mA, s) of the first source, which runs in every mode; None where one of them is missing."""
        first = self.loads[0] if self.loads else Load(None, None)
        if first.kvp is None or first.ma is None or self.seconds is None:
            return None
        return first.kvp, first.ma, self.seconds


@dataclass(frozen=True)
class Strip:
    """What the images of one series say together. sums, counts: of ma and ctdi over its images; z0, z1, t0, t1: the outermost."""

    series: str
    study: str
    event: str | None
    original: bool
    helical: bool | None
    kvp: float | None
    kernel: str
    slice_mm: float | None
    rotation_s: float | None
    speed: float | None
    collimation_mm: float | None
    pitch: float | None
    images: int
    t0: float | None
    t1: float | None
    z0: float | None
    z1: float | None
    sums: dict[str, float]
    counts: dict[str, int]

    @classmethod
    def of(cls, image: Acquisition) -> Strip:
        """The strip of one image."""
        sums = {name: value for name, path in AVERAGED.items() if (value := image.get(path)) is not None}
        return cls(
            image.series, image.study, image.event, image.original, image.helical, image.get("config.kvp"),
            image.get("config.kernel") or "", image.get("config.slice_mm"), image.get("config.rotation_s"), image.get("config.table_speed"),
            image.get("config.collimation_mm"), image.get("config.pitch"), 1, image.t, image.t, image.z, image.z,
            sums, dict.fromkeys(sums, 1),
        )  # fmt: skip

    def joined(self, image: Acquisition) -> Strip:
        """This strip and one image more."""
        one = Strip.of(image)
        names = {*self.sums, *one.sums}
        return replace(
            self, images=self.images + 1, original=self.original and one.original, event=self.event or one.event,
            t0=_least(self.t0, one.t0), t1=_most(self.t1, one.t1), z0=_least(self.z0, one.z0), z1=_most(self.z1, one.z1),
            sums={name: self.sums.get(name, 0.0) + one.sums.get(name, 0.0) for name in names},
            counts={name: self.counts.get(name, 0) + one.counts.get(name, 0) for name in names},
        )  # fmt: skip

    def mean(self, name: str) -> float | None:
        """Mean over the images that have it."""
        return round(self.sums[name] / self.counts[name], 6) if self.counts.get(name) else None  # in any order of arrival

    @property
    def length_mm(self) -> float | None:
        """From the first edge to the last."""
        if self.z0 is None or self.z1 is None or self.slice_mm is None:
            return None
        return self.z1 - self.z0 + self.slice_mm

    @property
    def seconds(self) -> float | None:
        """Beam-on: length over table speed; rotations of an axial scan; else what the slices' own times span."""
        length, found = self.length_mm, None
        if length is not None and self.helical is not False and self.speed:
            found = length / self.speed
        elif length is not None and self.helical is False and self.collimation_mm and self.rotation_s:
            found = math.ceil(length / self.collimation_mm - 1e-6) * self.rotation_s
        elif self.images > 1 and self.t0 is not None and self.t1 is not None and self.t1 > self.t0:
            found = (self.t1 - self.t0) * self.images / (self.images - 1)
        return found if found is not None and found <= LONGEST_S else None


AVERAGED = {"ma": "config.ma", "mas": "config.mas", "mas_effective": "config.mas_effective", "ctdi": "config.ctdi_mGy"}


def estimate(strips: Iterable[Strip]) -> list[Irradiation]:
    """Return the beam-ons behind the series of one scanner, in order of time: reconstructions of one scan count once.

    Reformatted series do not count. One event UID is one beam-on, else series whose times overlap, else, without any
    times, series of one study over the same length.
    """
    groups: list[list[Strip]] = []
    for strip in sorted((s for s in strips if s.original), key=lambda s: (_order(s.t0), s.z0 or 0.0, s.series)):
        home = next((group for group in groups if any(same(strip, member) for member in group)), None)
        if home is None:
            groups.append([strip])
        else:
            home.append(strip)
    return [_beam(group) for group in groups]


def same(one: Strip, other: Strip) -> bool:
    """Whether two series of one scanner came from one beam-on."""
    if one.event and other.event:
        return one.event == other.event
    if one.t0 is not None and other.t0 is not None and one.t1 is not None and other.t1 is not None:
        return one.t0 <= other.t1 + SAME_S and other.t0 <= one.t1 + SAME_S
    if one.study != other.study or one.z0 is None or other.z0 is None or one.z1 is None or other.z1 is None:
        return False
    near = max(one.slice_mm or 1.0, other.slice_mm or 1.0)
    return abs(one.z0 - other.z0) <= near and abs(one.z1 - other.z1) <= near


def _beam(group: Sequence[Strip]) -> Irradiation:
    longest = max(group, key=lambda s: (s.length_mm or 0.0, s.seconds or 0.0, s.images, s.series))
    ctdi, length = longest.mean("ctdi"), longest.length_mm
    return Irradiation(
        key=next((s.event for s in group if s.event), None) or min(s.series for s in group), study=longest.study,
        t=min((s.t0 for s in group if s.t0 is not None), default=None), source="header",
        seconds=next((s.seconds for s in (longest, *group) if s.seconds is not None), None),
        loads=(Load(longest.kvp, longest.mean("ma"), longest.rotation_s),),
        mode="spiral" if longest.helical else "sequenced" if longest.helical is False else None,
        length_mm=length, collimation_mm=longest.collimation_mm, pitch=longest.pitch, ctdi=ctdi,
        dlp=ctdi * length / 10 if ctdi is not None and length is not None else None,
    )  # fmt: skip


def _order(t: float | None) -> tuple[bool, float]:
    return (t is None, t or 0.0)


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def plain(strip: Strip) -> dict[str, Any]:
    """The strip as JSON values; `Strip(**plain(strip))` gives it back."""
    return dict(vars(strip))


def in_order(beams: Iterable[Irradiation]) -> list[Irradiation]:
    """By time, those without one last."""
    return sorted(beams, key=lambda beam: (*_order(beam.t), beam.key))
