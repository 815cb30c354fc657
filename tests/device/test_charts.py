"""False alarms and delays of the charts, by simulation, against the table of SCANNER_TWIN.md section 5."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from p2pftl.device import qa
from p2pftl.device.charts import Baseline, ChartPolicy, Charts
from p2pftl.device.protocol import Reading
from p2pftl.device.qa import Limits, QaPolicy, judge
from p2pftl.draw import draw

POLICY = ChartPolicy()
BASE = Baseline(0.0, 5.7, 20)
SOUND = Reading(mean=0.0, sd=5.7, unif=0.2, air=-1000.0, ring=0.27, mtf50=0.51, nps_f=0.35)


def first_alarms(policy, mean, noise, days, runs, kind):
    """First day (1 is the first) on which a chart of `kind` alarms in each of `runs` runs; infinity for none."""
    generator = draw(1, "charts", kind, str(mean(1)), str(noise), policy.threshold)
    z = generator.standard_normal((runs, days, 2))
    found = []
    for run in range(runs):
        charts, day = Charts(), math.inf
        for number in range(days):
            hu = mean(number + 1) + policy.mean_sd * z[run, number, 0]
            sd = BASE.sd * math.exp(noise + policy.ln_sd * z[run, number, 1])
            charts = charts.update(replace(SOUND, mean=hu, sd=sd), BASE, policy)
            if any(kind in name for name in charts.alarms(policy)):
                day = number + 1
                break
        found.append(day)
    return np.array(found)


def still(_):
    return 0.0


@pytest.mark.parametrize(("threshold", "share"), [(5.0, 0.18), (6.0, 0.08), (7.0, 0.03)])
def test_cusum_alarms_falsely_as_often_as_published(threshold, share):
    days = first_alarms(replace(POLICY, threshold=threshold), still, 0.0, 100, 500, "HU")
    assert np.isfinite(days).mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    ("change", "delay"),
    [
        (lambda d: 0.1 * d, 10),
        (lambda d: 0.25 * d, 6),
        (lambda d: 0.5 * d, 4),
        (lambda d: 1.0 * d, 3),
        (lambda d: 1.0, 6),
        (lambda d: 2.0, 3),
    ],
    ids=["0.1 HU/d", "0.25 HU/d", "0.5 HU/d", "1 HU/d", "1 HU", "2 HU"],
)
def test_cusum_finds_a_drift_or_step_after_the_published_days(change, delay):
    assert abs(np.median(first_alarms(POLICY, change, 0.0, 60, 201, "HU")) - delay) <= 1


def test_ewma_alarms_falsely_as_often_as_published():
    days = first_alarms(POLICY, still, 0.0, 100, 500, "noise")
    assert np.isfinite(days).mean() == pytest.approx(0.07, abs=0.04)


@pytest.mark.parametrize(("output", "delay", "near"), [(0.95, 20, 4), (0.90, 5, 1), (0.80, 2, 1), (0.50, 1, 0)])
def test_ewma_finds_less_output_after_the_published_days(output, delay, near):
    days = first_alarms(POLICY, still, -0.5 * math.log(output), 300, 201, "noise")
    assert abs(np.median(days) - delay) <= near


@pytest.mark.parametrize(("rate", "delay"), [(0.1, 45), (0.25, 19), (0.5, 10), (1.0, 5)])
def test_the_limit_of_a_day_finds_a_drift_much_later(rate, delay):
    generator = draw(2, "limit", rate)
    days = [
        next(d for d in range(1, 200) if qa.beyond(replace(SOUND, mean=rate * d + 0.6 * generator.standard_normal()), BASE, Limits()))
        for _ in range(101)
    ]
    assert abs(np.median(days) - delay) <= 2


def test_the_limit_of_the_ewma_is_four_per_cent():
    assert POLICY.ewma_limit == pytest.approx(0.039, abs=0.001)


def test_a_repeat_phantom_clears_a_false_alarm_and_confirms_a_true_one():
    policy, near = QaPolicy(), Charts(up=5.8)
    off = replace(SOUND, mean=1.0)
    assert judge(off, BASE, near, policy).status == "warn"
    cleared = judge(off, BASE, near, policy, repeat=SOUND)
    assert (cleared.status, cleared.alarms, cleared.charts.up) == ("pass", (), 0.0)
    confirmed = judge(off, BASE, near, policy, repeat=off)
    assert confirmed.status == "fail"
    assert "confirmed" in confirmed.reasons[0]
    broken = judge(replace(off, mean=9.0), BASE, near, policy, repeat=replace(off, mean=8.5))
    assert [reason.split(",")[0] for reason in broken.reasons] == ["water +9.0 HU", "HU above baseline"], "a limit is named once"


def test_a_baseline_is_learnt_before_the_charts_begin_and_not_from_failing_days():
    policy, baseline, charts = QaPolicy(), Baseline(), Charts()
    for number in range(30):
        reading = replace(SOUND, mean=40.0 if number == 3 else 0.5)
        verdict = judge(reading, baseline, charts, policy)
        baseline, charts = verdict.baseline, verdict.charts
        assert verdict.status == ("fail" if number == 3 else "pass")
    assert baseline.n == policy.charts.days
    assert baseline.mean == pytest.approx(0.5)
    assert baseline.sd == pytest.approx(5.7)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mean": 5.1}, "fail"), ({"mean": -5.1}, "fail"), ({"sd": 6.9}, "fail"), ({"sd": 4.5}, "fail"), ({"unif": 5.1}, "fail"),
        ({"mean": float("nan")}, "fail"), ({"ring": 1.1}, "warn"), ({"air": -985.0}, "warn"), ({}, "pass"),
    ],
)  # fmt: skip
def test_limits_of_a_day(change, expected):
    assert judge(replace(SOUND, **change), BASE, Charts(), QaPolicy()).status == expected


def test_a_phantom_is_stale_after_two_device_days():
    limits = Limits()
    assert not qa.is_stale(100.0, 100.0 + 2 * 60, 60.0, limits)
    assert qa.is_stale(100.0, 100.0 + 2 * 60 + 1, 60.0, limits)
    assert qa.is_stale(None, 0.0, 60.0, limits)
    assert [qa.freshness(0.0, days * 60.0, 60.0, limits) for days in (0, 1, 1.5, 2, 9)] == [1, 1, 0.5, 0, 0]


# ---------------------------------------------------------------------- against the literature


def run_length(step, transition):
    """Mean run length of a chart by Brook and Evans (Biometrika 1972, 59, 539): its states as a Markov chain until the alarm."""
    return np.linalg.solve(np.eye(len(transition)) - transition, np.ones(len(transition)))[step]


def normal(x):
    return special.ndtr(x)


def cusum_run_length(threshold, slack, shift, states=400):
    """Mean days to the alarm of a two-sided CUSUM, from zero, standardised mean `shift`."""
    width = 2 * threshold / (2 * states - 1)
    here, there = np.arange(states)[:, None], np.arange(states)[None]
    one_sided = []
    for sign in (1, -1):
        upper = normal((there - here + 0.5) * width + slack - sign * shift)
        lower = np.where(there == 0, 0.0, normal((there - here - 0.5) * width + slack - sign * shift))
        one_sided.append(run_length(0, upper - lower))
    return 1 / (1 / one_sided[0] + 1 / one_sided[1])


def ewma_run_length(width, weight, shift, states=401):
    """Mean days to the alarm of an EWMA with steady-state limits, from zero (Lucas and Saccucci, Technometrics 1990, 32, 1)."""
    limit = width * math.sqrt(weight / (2 - weight))
    step = 2 * limit / states
    centre = -limit + (np.arange(states) + 0.5) * step
    edges = (centre[None] + step / 2 - (1 - weight) * centre[:, None]) / weight - shift
    return run_length(states // 2, normal(edges) - normal(edges - step / weight))


# Two-sided, k = 0.5: Lucas and Crosier, Technometrics 1982, 24, 199; Montgomery, table of CUSUM run lengths.
@pytest.mark.parametrize(
    ("threshold", "shift", "published"), [(4, 0, 168), (4, 1, 8.38), (4, 2, 3.34), (5, 0, 465), (5, 0.5, 38.0), (5, 1, 10.4), (5, 2, 4.01)]
)
def test_the_oracle_of_the_cusum_gives_the_run_lengths_of_the_literature(threshold, shift, published):
    assert cusum_run_length(threshold, 0.5, shift) == pytest.approx(published, rel=0.01)


# Lucas and Saccucci 1990, table 3, and Crowder's 370 for L = 2.860.
@pytest.mark.parametrize(("width", "weight", "shift", "published"), [(2.962, 0.2, 0, 500), (2.962, 0.2, 1, 10.5), (2.86, 0.2, 0, 370)])
def test_the_oracle_of_the_ewma_gives_the_run_lengths_of_the_literature(width, weight, shift, published):
    assert ewma_run_length(width, weight, shift) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(("threshold", "hu"), [(4.0, 0.0), (6.0, 0.6), (6.0, 1.0), (6.0, 2.0), (5.0, -1.0)])
def test_charts_of_the_mean_run_as_long_as_theory_says(threshold, hu):
    days = first_alarms(replace(POLICY, threshold=threshold), lambda _: hu, 0.0, 1500, 400 if hu else 120, "HU")
    expected = cusum_run_length(threshold, POLICY.slack, hu / POLICY.mean_sd)
    assert days.mean() == pytest.approx(expected, rel=0.1 if hu else 0.25)


@pytest.mark.parametrize("output", [0.95, 0.90, 0.80, 0.50])
def test_charts_of_the_noise_run_as_long_as_theory_says(output):
    noise = -0.5 * math.log(output)
    days = first_alarms(POLICY, still, noise, 1500, 400, "noise")
    assert days.mean() == pytest.approx(ewma_run_length(POLICY.width, POLICY.weight, noise / POLICY.ln_sd), rel=0.12)


def test_the_published_shares_of_false_alarms_follow_from_the_run_lengths():
    shares = [1 - math.exp(-100 / cusum_run_length(threshold, POLICY.slack, 0)) for threshold in (5, 6, 7)]
    assert shares == pytest.approx([0.18, 0.08, 0.03], abs=0.02)
    assert 1 - math.exp(-100 / ewma_run_length(POLICY.width, POLICY.weight, 0)) == pytest.approx(0.07, abs=0.01)
