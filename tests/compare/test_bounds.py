"""The bounds start where the method starts: same test images, same studies, same first parameters, as many images seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from p2pftl.compare.bounds import budgeted, local, pooled, with_bounds, with_seed
from p2pftl.compare.cells import BASE, Variant, cells, variants
from p2pftl.compare.footing import differences, footing, uneven
from p2pftl.errors import UsageError
from p2pftl.gossip.partners import Nobody
from p2pftl.learning.amount import samples_seen
from p2pftl.scenario.load import load
from p2pftl.scenario.plan import compile_plan
from p2pftl.scenario.resolved import resolved
from p2pftl.scenario.schema import Scenario

EIGHT = """
name: eight
seed: 4
rounds: 3
topology: {use: ring, twins: 8}
data: {use: phantom, patients: 90, slices: 3, split: {use: dirichlet, alpha: 0.7}}
fit: {batch: 8, epochs: 2}
cloud: {use: fedavg, every: 2}
twins: {ct-03: {vendor: GE, kernel: bone, dose: 0.5}, ct-05: {speed: 0.5}}
incidents:
  - {kind: outage, twin: cloud, at: 1}
  - {kind: outage, twin: ct-02, at: 1, until: 2}
"""


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    path = tmp_path / "eight.yaml"
    path.write_text(EIGHT, encoding="utf-8")
    return path


@pytest.fixture
def method(eight: Path) -> Scenario:
    return variants(eight, ())[0].scenario


def test_pooled_is_tested_on_the_same_images_and_holds_exactly_what_all_twins_hold(method: Scenario) -> None:
    apart, together = compile_plan(method), compile_plan(pooled(method))
    (name,) = together.shards
    whole = together.shards[name]
    assert whole.test == next(iter(apart.shards.values())).test
    for part in ("train", "validation"):
        mine, theirs = getattr(whole, part), [sample for shard in apart.shards.values() for sample in getattr(shard, part)]
        assert sorted(mine, key=repr) == sorted(theirs, key=repr)
        assert len(set(mine)) == len(mine)
    assert together.catalogue == apart.catalogue
    assert {sample.patient for sample in whole.train}.isdisjoint(sample.patient for sample in whole.test)


def test_pooled_scans_every_patient_with_the_scanner_of_its_twin(method: Scenario) -> None:
    apart, together = compile_plan(method), compile_plan(pooled(method))
    assert together.apart is not None
    assert (together.apart.shards, together.apart.scanners) == (apart.shards, apart.scanners)
    assert together.scanners[together.topology.names[0]].speed == 7.5


def test_both_bounds_stand_on_the_footing_of_the_method(method: Scenario) -> None:
    mine = footing(compile_plan(method))
    assert differences(footing(compile_plan(local(method))), mine) == []
    assert differences(footing(compile_plan(pooled(method))), mine) == ["deals the studies otherwise"]


def test_pooled_sees_as_many_images_with_epochs(method: Scenario) -> None:
    apart, together = compile_plan(method), compile_plan(pooled(method))
    lesson = apart.transfer.plan(0, apart.layout)
    (whole,) = together.shards.values()
    assert samples_seen(together.scenario.fit, lesson, len(whole.train)) == sum(
        samples_seen(method.fit, lesson, len(shard.train)) for shard in apart.shards.values()
    )


@pytest.mark.parametrize("steps", [1, 5, 12, 40])
def test_pooled_sees_the_nearest_number_of_images_with_steps(method: Scenario, steps: int) -> None:
    method = replace(method, fit=replace(method.fit, steps=steps))
    apart = compile_plan(method)
    lesson = apart.transfer.plan(0, apart.layout)
    target = sum(samples_seen(method.fit, lesson, len(shard.train)) for shard in apart.shards.values())
    found = budgeted(pooled(method), apart).fit
    whole = sum(len(shard.train) for shard in apart.shards.values())

    def off(count: int | None) -> int:
        return abs(samples_seen(replace(found, steps=count), lesson, whole) - target)

    assert found.steps is not None
    assert off(found.steps) <= method.fit.batch
    assert off(found.steps) <= min(off(found.steps + 1), off(max(1, found.steps - 1)))


def test_local_keeps_what_happens_to_twins_and_drops_what_happens_to_the_cloud(method: Scenario) -> None:
    alone = local(method)
    assert [getattr(incident, "twin", "") for incident in alone.incidents] == ["ct-02"]
    assert isinstance(alone.partners, Nobody)
    assert alone.cloud is None


def test_bounds_can_be_written_and_read_back(eight: Path, method: Scenario, tmp_path: Path) -> None:
    for scenario in (local(method), pooled(method)):
        file = tmp_path / "bound.yaml"
        file.write_text(resolved(scenario), encoding="utf-8")
        assert load(file) == scenario


def test_bounds_are_added_once_and_a_variant_of_that_name_must_be_one(eight: Path, method: Scenario) -> None:
    rows = with_bounds([Variant(BASE, method)])
    assert [(row.name, row.bound, row.matched) for row in rows] == [
        ("base", "", False),
        ("local", "lower", False),
        ("pooled", "upper", True),
    ]
    own = Variant("local", local(method))
    assert [row.name for row in with_bounds([Variant(BASE, method), own])] == ["base", "local", "pooled"]
    for name in ("local", "pooled"):
        with pytest.raises(UsageError, match="E617"):
            with_bounds([Variant(BASE, method), Variant(name, method)])


def test_a_bound_that_starts_elsewhere_is_refused(eight: Path, method: Scenario, tmp_path: Path) -> None:
    rows = with_bounds([Variant(BASE, method), Variant("local", replace(local(method), rounds=9))])
    with pytest.raises(UsageError, match="local cannot bound the others: it does 9 rounds instead of 3"):
        uneven(cells(rows, [1], tmp_path, with_seed), BASE, {"local": BASE})
