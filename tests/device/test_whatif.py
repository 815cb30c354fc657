"""What-if: predictions follow the model, images can be degraded and not improved, all else is refused with its reason."""

import math

import pytest
import torch

from p2pftl.device.log import DeviceLog
from p2pftl.device.protocol import Protocol
from p2pftl.device.tube import Tube
from p2pftl.device.water import truth
from p2pftl.device.whatif import Question, answer, ask, degrade, protocol, resimulate, rows
from p2pftl.draw import draw
from p2pftl.errors import ScenarioError
from p2pftl.imaging.acquisition import acquire
from p2pftl.imaging.scanner import Scanner

NOW = Scanner(mas=200, slice_mm=5)
SIZE, PIXEL = 256, 250 / 256


def water(copies=12):
    return truth(SIZE, PIXEL, 200.0).expand(copies, -1, -1)


def centre():
    line = (torch.arange(SIZE) - (SIZE - 1) / 2) * PIXEL
    return torch.hypot(line[:, None], line[None]) < 20


def twin(**config):
    log = DeviceLog.create("ct-01", 0.0)
    values = {"config.kvp": 120.0, "config.mas": 200.0, "config.slice_mm": 5.0, "config.kernel_group": "standard", "tube.per_day": 330.0}
    log.record("observed", 1.0, "header", {"values": values | {f"config.{name}": value for name, value in config.items()}})
    return log.state


def test_half_the_dose_is_noisier_by_the_root_and_spares_the_tube():
    found = answer(NOW, Question(dose=0.5), Tube(damage=2e5), 330.0)
    assert found.after.noise / found.before.noise == pytest.approx(math.sqrt(2), rel=0.01)
    assert found.after.cnr / found.before.cnr == pytest.approx(math.sqrt(0.5), rel=0.01)
    assert found.dose == 0.5
    assert found.wear == pytest.approx(0.5**1.5)
    assert found.life.p50 == pytest.approx(Tube(damage=2e5).remaining(330.0).p50 / 0.5**1.5)
    assert found.gained > 0
    assert found.before.mtf50 == found.after.mtf50


def test_kernel_slice_and_voltage_act_as_the_model_says():
    bone = answer(NOW, Question(kernel="bone"))
    assert bone.after.noise / bone.before.noise == pytest.approx(1.95, abs=0.04)
    assert bone.after.mtf50 == pytest.approx(0.809, abs=0.002)
    assert (bone.dose, bone.wear) == (1, 1)
    thin = answer(NOW, Question(slice_mm=1.0))
    assert thin.after.noise / thin.before.noise == pytest.approx(math.sqrt(5), rel=0.03)
    low = answer(NOW, Question(kvp=80.0))
    assert low.dose == pytest.approx((80 / 120) ** 2.5)
    assert "contrast" in low.notes[-1]
    assert bone.life is None
    assert [name for name, *_ in rows(bone)][:2] == ["noise", "cnr"]


def test_a_twin_is_asked_by_its_state_which_stays_as_it_is():
    state = twin()
    before = state
    assert ask(state, Question(dose=0.5)).gained > 0
    assert state == before
    assert protocol(state) == NOW


@pytest.mark.parametrize(
    ("config", "reason"), [({"mas": None}, "config.mas"), ({"recon": "ASiR"}, "iteratively"), ({"kernel_group": "unknown"}, "kernel")]
)
def test_a_scanner_the_model_does_not_know_is_refused(config, reason):
    with pytest.raises(ScenarioError, match=f"E118.*{reason}"):
        ask(twin(**config), Question(dose=0.5))


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (Question(dose=0.0), "dose"), (Question(dose=-1), "dose"), (Question(dose=100), "mas"), (Question(kvp=60.0), "kvp"),
        (Question(slice_mm=0.3), "slice_mm"), (Question(slice_mm=20.0), "slice_mm"), (Question(dose=math.nan), "dose"),
    ],
)  # fmt: skip
def test_questions_outside_the_range_are_refused(question, reason):
    with pytest.raises(ScenarioError, match=f"E118.*{reason}"):
        answer(NOW, question)


def test_a_question_that_starves_the_detector_is_refused():
    with pytest.raises(ScenarioError, match=r"E118.*photons"):
        answer(Scanner(mas=20, slice_mm=0.6, kvp=70), Question(dose=0.06))


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (Question(dose=1.2), "higher dose"), (Question(kernel="bone"), "sharper"), (Question(slice_mm=1.0), "thinner"),
        (Question(slice_mm=8.0), "thicker"), (Question(kvp=100.0), "voltage"),
    ],
)  # fmt: skip
def test_acquired_images_cannot_be_improved(question, reason):
    with pytest.raises(ScenarioError, match=f"E118.*{reason}"):
        degrade(torch.zeros(1, 64, 64), NOW, question, 4.0, draw(1, "no"))


@pytest.mark.parametrize("question", [Question(dose=0.5), Question(kernel="soft"), Question(dose=0.3, kernel="soft")])
def test_a_degraded_image_has_the_noise_of_one_acquired_so(question):
    seen = acquire(water(), NOW, PIXEL, draw(1, "seen")).hu
    made = degrade(seen, NOW, question, PIXEL, draw(1, "made"))
    real = resimulate(water(), NOW, question, PIXEL, draw(1, "real")).hu.double()
    spread = [images[:, centre()].double().std(1).mean().item() for images in (made, real)]
    # At 1 mm pixels some noise from above their Nyquist frequency has folded down, where a softer kernel leaves it.
    assert spread[0] == pytest.approx(spread[1], rel=0.06 if question.kernel else 0.04)
    assert made[:, centre()].mean().item() == pytest.approx(real[:, centre()].mean().item(), abs=0.5)


def test_prediction_and_resimulation_agree():
    found = answer(NOW, Question(dose=0.4))
    seen = resimulate(water(), NOW, Question(dose=0.4), PIXEL, draw(2, "real")).hu.double()
    assert seen[:, centre()].std(1).mean().item() == pytest.approx(found.after.noise, rel=0.04)
    assert Protocol().diameter_mm == 200
