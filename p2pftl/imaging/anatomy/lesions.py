"""Diseases of the lung, placed once per patient in millimetres: opacities and nodules.

Opacity: a few ellipsoidal foci with ragged margins; ground glass (vessels stay visible), consolidation (air
bronchograms), or both. Nodule: a ball with lobes or spicules; solid, part-solid, ground-glass or calcified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from p2pftl.draw import draw
from p2pftl.imaging.anatomy.build import Build
from p2pftl.imaging.anatomy.outlines import cavity, lungs
from p2pftl.imaging.anatomy.shapes import Plane
from p2pftl.imaging.anatomy.texture import PATCHES, SEPTA, Texture

Pathology = Literal["normal", "ggo", "consolidation", "mixed", "nodule"]
NoduleKind = Literal["solid", "spiculated", "part_solid", "ground_glass", "calcified"]

KINDS: tuple[tuple[NoduleKind, float], ...] = (
    ("solid", 0.5), ("spiculated", 0.25), ("part_solid", 0.1), ("ground_glass", 0.1), ("calcified", 0.05),
)  # fmt: skip
NODULE_HU = {"solid": 38.0, "spiculated": 34.0, "part_solid": -560.0, "ground_glass": -590.0, "calcified": 420.0}
CONSOLIDATED, BRONCHOGRAM = 32.0, -930.0
LEVELS = (0.18, 0.82)  # where lesions are, of the way from apex to base
FOCUS_MM = {"ggo": (24.0, 46.0), "consolidation": (32.0, 56.0), "mixed": (28.0, 50.0)}  # half axes
GLASS_HU = {"ggo": (-755.0, -585.0), "consolidation": (-640.0, -460.0), "mixed": (-700.0, -500.0)}
CORE = {"ggo": (2.0, 2.0), "consolidation": (0.2, 0.4), "mixed": (0.4, 0.6)}  # see Opacity.core


@dataclass(frozen=True)
class Lung:
    """Lung tissue at one level, [n, n] each: position x, y in mm; density of parenchyma alone and with vessels, HU;
    share of each pixel that is bronchial air; z, mm; pixel, mm."""

    x: Plane
    y: Plane
    z: float
    pixel: float
    parenchyma: Plane
    hu: Plane
    bronchi: Plane
    grain: Plane


@dataclass(frozen=True)
class Nodule:
    """A ball around `centre` (x, y, z) of `diameter` mm, its surface shaped by directions [k, 3] with amplitudes."""

    centre: tuple[float, float, float]
    diameter: float
    kind: NoduleKind
    lobes: npt.NDArray[np.float32]
    lobe_size: npt.NDArray[np.float32]
    spikes: npt.NDArray[np.float32]

    @property
    def extent(self) -> tuple[float, float]:
        """Level of the centre and half height, mm."""
        return self.centre[2], self.diameter / 2

    def applied(self, lung: Lung) -> tuple[Plane, Plane]:
        """Return lung HU with the nodule in it, and the share of each pixel it covers."""
        hu, share = lung.hu.copy(), np.zeros_like(lung.hu)
        if abs(lung.z - self.centre[2]) > 1.1 * self.diameter + 2:
            return hu, share
        near = _near(lung, self.centre[0], self.centre[1], 1.2 * self.diameter + 3 * lung.pixel)
        distance, core = self._surfaces(lung.x[near], lung.y[near], lung.z)
        value = NODULE_HU[self.kind]
        if self.kind in ("part_solid", "ground_glass"):
            cover = _sigmoid(-distance / max(1.4, 0.5 * lung.pixel))
            hazy = lung.hu[near] + cover * (value + 40 * lung.grain[near] - lung.hu[near])
            hu[near] = np.maximum(lung.hu[near], hazy)  # vessels stay visible
        else:
            cover = np.clip(0.5 - distance / max(1.3 * lung.pixel, 0.9), 0, 1)
            hu[near] += cover * (value + 14 * lung.grain[near] - hu[near])
        if self.kind == "part_solid":
            hu[near] += np.clip(0.5 - core / lung.pixel, 0, 1) * (30 - hu[near])
        share[near] = cover
        return hu, share

    def _surfaces(self, x: Plane, y: Plane, z: float) -> tuple[Plane, Plane]:
        """Distance to the surface and to that of the solid core, mm."""
        offset = np.stack([x - self.centre[0], y - self.centre[1], np.full_like(x, z - self.centre[2])], -1)
        reach = np.sqrt((offset**2).sum(-1)) + np.float32(1e-3)
        heading = offset / reach[..., None]
        radius = self.diameter / 2 * (1 + np.sin(2.2 * (heading @ self.lobes.T)) @ self.lobe_size)
        if len(self.spikes):
            closest = (heading @ self.spikes.T).max(-1)
            radius = radius + 0.45 * self.diameter * np.exp((closest - 1) / 0.012)
        return (reach - radius).astype(np.float32), (reach - 0.45 * radius).astype(np.float32)


@dataclass(frozen=True)
class Opacity:
    """Foci [k, 3] with half axes [k, 3], mm, shared ragged margin.

    hu: density of the ground glass; core: how deep inside a focus consolidation starts (1 = centre, 0 = margin,
    2 = nowhere); crazy: with an interlobular network.
    """

    centres: npt.NDArray[np.float32]
    axes: npt.NDArray[np.float32]
    hu: float
    core: float
    crazy: bool
    edge: Texture
    network: Texture
    ragged: float

    @property
    def extent(self) -> tuple[float, float]:
        """Level of the largest focus and its half height, mm."""
        first = int(np.argmax(self.axes.prod(1)))
        return float(self.centres[first, 2]), float(self.axes[first, 2])

    def applied(self, lung: Lung) -> tuple[Plane, Plane]:
        """Return lung HU with the opacity in it, and the share of each pixel it covers."""
        n = len(lung.x)
        smooth = self._depth(lung)
        if smooth.max() < -1.5:
            return lung.hu, np.zeros_like(lung.hu)
        edge = self.edge.plane(lung.z, n, n * lung.pixel)
        depth = smooth + self.ragged * (edge + 0.35 * lung.grain)
        haze = _sigmoid(11 * depth)
        density = self.hu + 28 * edge + 34 * lung.grain
        if self.crazy:
            density = density + self._network(lung)
        glass = np.maximum(lung.parenchyma + haze * (density - lung.parenchyma), lung.parenchyma)
        hu = np.where(lung.bronchi > 0.3, 0.9 * lung.hu + 0.1 * glass, np.maximum(glass, lung.hu))
        solid = _sigmoid(22 * (depth - self.core))
        airless = CONSOLIDATED + 14 * lung.grain
        airless = airless + lung.bronchi * (BRONCHOGRAM - airless)
        return (hu + solid * (airless - hu)).astype(np.float32), haze

    def _network(self, lung: Lung) -> Plane:
        """Extra density of thickened septa, HU: where the field crosses zero."""
        field = self.network.plane(lung.z, len(lung.x), len(lung.x) * lung.pixel)
        septa: Plane = (130 * np.exp(-((field / 0.3) ** 2))).astype(np.float32)
        return septa

    def _depth(self, lung: Lung) -> Plane:
        """1 in the centre of a focus, 0 at its margin, negative outside; the deepest focus wins."""
        deepest = np.full_like(lung.x, -9)
        for (cx, cy, cz), (a, b, c) in zip(self.centres.tolist(), self.axes.tolist(), strict=True):
            away = np.sqrt(((lung.x - cx) / a) ** 2 + ((lung.y - cy) / b) ** 2 + ((lung.z - cz) / c) ** 2)
            np.maximum(deepest, 1 - away, out=deepest)
        return deepest


Lesion = Nodule | Opacity


def drawn_lesions(build: Build, seed: int, pathology: Pathology) -> tuple[Lesion, ...]:
    """Place a patient's lesions, the largest first; none for "normal"."""
    if pathology == "normal":
        return ()
    return _nodules(build, seed) if pathology == "nodule" else (_opacity(build, seed, pathology),)


def levels(lesions: Sequence[Lesion], count: int) -> list[float]:
    """`count` levels, mm, spread over the middle of the largest lesion."""
    centre, half = lesions[0].extent
    return [centre + half * share for share in ((np.arange(count) + 0.5) / count - 0.5) * 0.9]


def _nodules(build: Build, seed: int) -> tuple[Nodule, ...]:
    """Two to seven nodules of 8 to 34 mm within a few centimetres of each other."""
    generator = draw(seed, "nodules")
    many = int(generator.integers(2, 8))
    level = float(generator.uniform(*LEVELS))
    found = []
    for index in range(many):
        own = draw(seed, "nodule", index)
        kind = own.choice([k for k, _ in KINDS], p=[p for _, p in KINDS])
        diameter = float(np.clip(own.lognormal(np.log(22), 0.3), 18 if index == 0 else 8, 34))
        spiculated = kind == "spiculated"
        found.append(
            Nodule(
                centre=_spot(build, own, level, 0.08, clear=max(3.0, 0.38 * diameter), shallow=60.0),
                diameter=min(diameter, 12.0) if kind == "calcified" else diameter,
                kind=kind,
                lobes=_directions(own, 5),
                lobe_size=(own.normal(0, 1, 5) * (0.085 if spiculated else 0.055)).astype(np.float32),
                spikes=_directions(own, 26 if spiculated else 0),
            )
        )
    return tuple(sorted(found, key=lambda nodule: -nodule.diameter))


def _opacity(build: Build, seed: int, pathology: Pathology) -> Opacity:
    """Two to six foci, mostly under the pleura and towards the back, in one lung or both."""
    generator = draw(seed, "opacity")
    many = int(generator.integers(2, 7))
    side = float(generator.choice([0, 0, -1, 1]))
    level = float(generator.uniform(*LEVELS))
    smallest, largest = FOCUS_MM[pathology]
    centres, axes = [], []
    for index in range(many):
        own = draw(seed, "focus", index)
        size = own.uniform(smallest, largest) * build.scale
        centres.append(_spot(build, own, level, 0.15, clear=4.0, shallow=16.0, rear=1.2, side=side))
        axes.append(size * own.uniform(0.75, 1.3, 3))
    return Opacity(
        centres=np.array(centres, np.float32),
        axes=np.array(axes, np.float32),
        hu=float(generator.uniform(*GLASS_HU[pathology])),
        core=float(generator.uniform(*CORE[pathology])),
        crazy=bool(generator.random() < 0.3) and pathology != "consolidation",
        edge=Texture(PATCHES, seed, "edge"),
        network=Texture(SEPTA, seed),
        ragged=float(generator.uniform(0.16, 0.3)),
    )


def _spot(
    build: Build,
    generator: np.random.Generator,
    level: float,
    spread: float,
    *,
    clear: float,
    shallow: float,
    rear: float = 0.0,
    side: float = 0.0,
) -> tuple[float, float, float]:
    """A place in the lung, mm, at `level` +- `spread` (0 apex, 1 base).

    clear: mm from the lung's surface at least; shallow: typical mm under the ribs; rear > 0 prefers the back;
    side: -1 right lung only, 1 left only.
    """
    while True:
        u = np.clip(generator.normal(level, spread, 600), *LEVELS)
        x = generator.uniform(-build.chest_width, build.chest_width, u.size)
        y = generator.uniform(-build.chest_depth, build.chest_depth, u.size)
        place = x.astype(np.float32), y.astype(np.float32), u
        fits = (-lungs(build, *place) > clear) & (x * side >= 0)
        weight = fits * np.exp(cavity(build, *place) / shallow + rear * y / build.chest_depth)
        if weight.sum() > 0:
            chosen = generator.choice(u.size, p=weight / weight.sum())
            return float(x[chosen]), float(y[chosen]), float(u[chosen] * build.lung_mm)


def _directions(generator: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    vectors = generator.normal(0, 1, (count, 3))
    unit: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _near(lung: Lung, x: float, y: float, reach: float) -> tuple[slice, slice]:
    n = len(lung.x)
    columns, rows = (
        slice(max(round((v - reach) / lung.pixel + n / 2), 0), max(round((v + reach) / lung.pixel + n / 2), 0)) for v in (x, y)
    )
    return rows, columns


def _sigmoid(value: Any) -> Plane:
    share: Plane = (1 / (1 + np.exp(-np.clip(value, -30, 30)))).astype(np.float32)
    return share
