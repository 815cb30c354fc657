"""What if this scanner ran at another dose, kernel, voltage or slice thickness? Asked of the model, never of the device.

Predictions hold for filtered backprojection of water-like bodies within the range the model was fitted to; elsewhere they
are refused with the reason. On images already acquired noise can be added and detail taken away, nothing else.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch

from p2pftl.device.protocol import Protocol
from p2pftl.device.state import State
from p2pftl.device.tube import Life, Tube
from p2pftl.device.water import expected_sd
from p2pftl.errors import ScenarioError
from p2pftl.imaging import acquisition
from p2pftl.imaging.acquisition import STARVED, TYPICAL, Acquired, Geometry, Images, acquire, noise, noise_sigma
from p2pftl.imaging.condition import SOUND, Condition
from p2pftl.imaging.scanner import Scanner

Kernel = Literal["soft", "standard", "lung", "bone"]
LESION_HU = 20.0  # contrast the CNR is stated for
CTDI_POWER = 2.5  # CTDIvol ~ mAs kVp^2.5


@dataclass(frozen=True)
class Question:
    """dose: factor on the present tube load; the others replace the present value, None keeps it."""

    dose: float = 1.0
    kernel: Kernel | None = None
    kvp: float | None = None
    slice_mm: float | None = None


@dataclass(frozen=True)
class Quality:
    """Of one protocol: noise HU in 20 cm of water, contrast-to-noise of 20 HU, MTF50 and mean noise frequency 1/mm."""

    noise: float
    cnr: float
    mtf50: float
    nps_f: float


@dataclass(frozen=True)
class Answer:
    """before, after: image quality; dose: CTDIvol relative to now; wear: tube damage per exam relative to now; life: remaining
    tube life then, days, None where the load is not known; gained: days more at the median; notes: what to keep in mind."""

    scanner: Scanner
    before: Quality
    after: Quality
    dose: float
    wear: float
    life: Life | None
    gained: float | None
    notes: tuple[str, ...]


def ask(state: State, question: Question) -> Answer:
    """Answer from a twin's state. Raises ScenarioError E118 where the model does not hold, saying why."""
    now = protocol(state)
    return answer(now, question, state.tube, state.get("tube.per_day"))


def answer(now: Scanner, question: Question, tube: Tube | None = None, per_day: float | None = None) -> Answer:
    """Predict `question` for a scanner that runs `now`. per_day: tube damage per device day. Raises ScenarioError E118."""
    then = changed(now, question)
    dose = then.dose / now.dose * (then.kvp / now.kvp) ** CTDI_POWER
    exponent = (tube or Tube()).wear.exponent
    wear = (then.dose / now.dose * then.kvp / now.kvp) ** exponent  # same time, other current and voltage
    life = gained = None
    if tube is not None and per_day:
        life = tube.remaining(per_day * wear)
        gained = life.p50 - tube.remaining(per_day).p50
    return Answer(then, _quality(now), _quality(then), dose, wear, life, gained, _notes(now, then))


def protocol(state: State) -> Scanner:
    """Return the clinical protocol in a twin's state. Raises ScenarioError E118 when it is not one the model knows."""
    wanted = {"kvp": "config.kvp", "mas": "config.mas", "slice_mm": "config.slice_mm", "kernel": "config.kernel_group"}
    found = {name: state.get(path) for name, path in wanted.items()}
    missing = [wanted[name] for name, value in found.items() if value is None]
    if missing:
        raise ScenarioError(
            "E118", "not known of this scanner: " + ", ".join(missing), fix="what-if needs them from headers or the scenario"
        )
    recon = str(state.get("config.recon", "filtered backprojection")).lower()
    if recon not in ("filtered backprojection", "fbp", ""):
        raise ScenarioError("E118", "this scanner reconstructs iteratively or by learning: its noise follows another law", fix="FBP only")
    scanner = Scanner(kernel=found["kernel"], kvp=float(found["kvp"]), mas=float(found["mas"]), slice_mm=float(found["slice_mm"]))
    acquisition.check(scanner)
    return scanner


def changed(now: Scanner, question: Question) -> Scanner:
    """Return the scanner as `question` wants it. Raises ScenarioError E118 outside the model's range, photon starvation included."""
    then = replace(
        now,
        dose=now.dose * question.dose,
        kernel=now.kernel if question.kernel is None else question.kernel,
        kvp=now.kvp if question.kvp is None else question.kvp,
        slice_mm=now.slice_mm if question.slice_mm is None else question.slice_mm,
    )
    acquisition.check(then)
    for name, low, high in (("slice_mm", TYPICAL.sample_mm, 10.0), ("mas", 1.0, 1000.0)):
        value = then.mas * then.dose if name == "mas" else getattr(then, name)
        if not low <= value <= high:
            raise ScenarioError("E118", f"{name} = {value:g}: outside the model's range", fix=f"allowed: {low:g}..{high:g}")
    photons = acquisition.photons_in_air(then) * math.exp(-acquisition.water_mu(then.kvp) * Protocol().diameter_mm)
    if photons < STARVED:
        raise ScenarioError("E118", f"{photons:.0f} photons per ray behind 20 cm of water", fix=f"the model needs {STARVED:g}")
    return then


def resimulate(
    true: Images, now: Scanner, question: Question, pixel_mm: float, generator: np.random.Generator, condition: Condition = SOUND
) -> Acquired:
    """Scan clean or phantom slices [B, n, n] HU as `question` wants them. Raises ScenarioError E118."""
    return acquire(true, changed(now, question), pixel_mm, generator, condition=condition)


def degrade(
    seen: Images, now: Scanner, question: Question, pixel_mm: float, generator: np.random.Generator, geometry: Geometry = TYPICAL
) -> torch.Tensor:
    """Make acquired images [B, n, n] HU look as `question` wants them: a softer kernel by filtering, a lower dose by adding noise.

    Noise added has variance s_new^2 - s_old^2 and the new kernel's spectrum. Raises ScenarioError E118 for what images already
    acquired cannot give: more dose, a sharper kernel, another slice thickness, another voltage.
    """
    then = changed(now, question)
    _refuse_impossible(now, then, question)
    images = torch.as_tensor(seen).float()
    side = images.shape[-1]
    if then.kernel != now.kernel:
        f = np.hypot(np.fft.fftfreq(side, pixel_mm)[:, None], np.fft.rfftfreq(side, pixel_mm)[None])
        old, new = acquisition.apodisation(now.kernel, f, geometry), acquisition.apodisation(then.kernel, f, geometry)
        ratio = torch.from_numpy(np.where(old > 1e-3, new / np.maximum(old, 1e-3), 0.0)).float()
        images = torch.fft.irfft2(torch.fft.rfft2(images) * ratio, s=(side, side))
    before, _ = noise_sigma(images, replace(now, kernel=then.kernel), pixel_mm, geometry)
    after, _ = noise_sigma(images, then, pixel_mm, geometry)
    more = (after**2 - before**2).clamp(min=0).sqrt()
    return images + more * noise(images.shape, then.kernel, pixel_mm, generator, geometry).float()


def _refuse_impossible(now: Scanner, then: Scanner, question: Question) -> None:
    reasons = {
        "a higher dose: noise cannot be taken out of an image": question.dose > 1,
        "a sharper kernel: detail that was filtered away does not come back": acquisition.mtf50(then.kernel)
        > acquisition.mtf50(now.kernel),
        "thinner slices: they were averaged when they were acquired": then.slice_mm < now.slice_mm,
        "thicker slices: that needs the neighbouring slices, not one": then.slice_mm > now.slice_mm,
        "another tube voltage: the contrast of bone and iodine would change": then.kvp != now.kvp,
    }
    for reason, true in reasons.items():
        if true:
            raise ScenarioError("E118", f"acquired images cannot be given {reason}", fix="ask it of phantom or clean slices")


def _quality(scanner: Scanner) -> Quality:
    sd = expected_sd(Protocol(kvp=scanner.kvp, mas=scanner.mas * scanner.dose, slice_mm=scanner.slice_mm, kernel=scanner.kernel))
    return Quality(sd, LESION_HU / sd, acquisition.mtf50(scanner.kernel), acquisition.nps_mean(scanner.kernel))


def _notes(now: Scanner, then: Scanner) -> tuple[str, ...]:
    notes = ["noise and CNR: 20 cm of water, filtered backprojection, 20 HU contrast"]
    if then.kvp != now.kvp:
        notes.append("CTDIvol ~ mAs kVp^2.5; the contrast of bone and iodine changes too and is not in these figures")
    if "lung" in (now.kernel, then.kernel):
        notes.append("kernel lung has no curve of its own: it is computed as bone")
    return tuple(notes)


def rows(found: Answer) -> list[tuple[str, float, float]]:
    """(what, now, then) for a table; relative figures are 1 now."""
    before, after = asdict(found.before), asdict(found.after)
    table = [(name, float(before[name]), float(after[name])) for name in before]
    return [*table, ("CTDIvol, relative", 1.0, found.dose), ("tube wear per exam, relative", 1.0, found.wear)]
