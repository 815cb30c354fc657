"""--set, --variant: what was changed, and who is blamed when the change is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pftl.errors import P2pftlError, ScenarioError
from p2pftl.scenario.load import load
from tests.scenario.conftest import Refusal, Write

VARIANTS = "{alone: {partners: {use: none}, cloud: null}, often: {cloud: {use: fedavg, every: 1}}, slow: {links: {latency: 9}}}"


def test_an_override_replaces_a_value_and_adds_what_is_missing(write: Write) -> None:
    scenario = load(
        write(), ["rounds=9", "fit.lr=1e-3", "twins.ct-02.dose=0.5", "cloud.use=fedavg", "cloud.links.latency=3", "seeds=[1, 2]"]
    )
    assert (scenario.rounds, scenario.fit.lr, scenario.twins["ct-02"].dose, scenario.seeds) == (9, 0.001, 0.5, (1, 2))
    assert scenario.cloud is not None
    assert scenario.cloud.links is not None
    assert scenario.cloud.links.latency == 3.0


def test_flow_syntax_sets_whole_lists_and_mappings(write: Write) -> None:
    scenario = load(write(), ["topology={use: star, twins: 3}", "incidents=[{kind: leave, twin: ct-02, at: 4}]"])
    assert type(scenario.topology).__name__ == "Star"
    assert scenario.incidents[0].spans()[0] == 4.0


def test_later_overrides_win_and_lists_are_counted_from_zero(write: Write) -> None:
    path = write(incidents="[{kind: leave, twin: ct-02, at: 4}, {kind: crash, twin: ct-03, at: 5}]")
    scenario = load(path, ["incidents.1.at=6", "incidents.1.at=7", "incidents.0.twin=ct-01"])
    assert [incident.spans()[0] for incident in scenario.incidents] == [4.0, 7.0]
    assert scenario.incidents[0].concerns() == ("ct-01",)


def test_a_policy_written_short_can_be_given_its_keys(write: Write) -> None:
    assert load(write(partners="random"), ["partners.k=3"]).partners == load(write(partners="{use: random, k: 3}")).partners


def test_an_empty_value_is_null(write: Write) -> None:
    assert load(write(cloud="{use: fedavg}"), ["cloud="]).cloud is None


@pytest.mark.parametrize(
    ("override", "code", "says"),
    [
        ("rouds=3", "E109", "did you mean rounds?"),
        ("fit.learning_rate=3", "E109", "fit.learning_rate: unknown key"),
        ("incidents.0.at=3", "E110", "must be a list"),
        ("rounds.x=3", "E109", "has no key x; set rounds itself"),
        ("seeds.5=3", "E109", "seeds has 2 entries"),
        ("seeds.x=3", "E109", "they count from 0"),
        ("rounds", "E105", "KEY=VALUE"),
        ("=3", "E105", "KEY=VALUE"),
        ("a..b=3", "E105", "KEY=VALUE"),
        ("rounds=ten", "E110", 'rounds = "ten"'),
        ("fit.lr=-1", "E118", "must be > 0"),
        ("fit={lr: 1", "E105", "bracket"),
        ("name=010", "E111", "leading zero"),
        ("fit.lr=.nan", "E113", "finite"),
        ("name=!!str x", "E116", "tags"),
        ("rounds=1\n---\n2", "E106", "second document"),
        ("topology.use=rng", "E126", "did you mean ring?"),
        ("twins.ct-77.dose=1", "E120", "no such twin"),
    ],
)
def test_a_bad_override_is_blamed_not_the_file(refusal: Refusal, override: str, code: str, says: str) -> None:
    error = refusal(overrides=(override,), seeds="[1, 2]")
    assert (error.code, error.where) == (code, "--set " + " ".join(override.split()))
    assert says in str(error)


def test_a_variant_merges_but_a_named_policy_replaces(write: Write) -> None:
    path = write(variants=VARIANTS, cloud="{use: fedavg, every: 5, wait: 99}", links="{loss: 0.1}", partners="{use: random, k: 3}")
    alone, often, slow = (load(path, variant=name) for name in ("alone", "often", "slow"))
    assert (type(alone.partners).__name__, alone.cloud) == ("Nobody", None)
    assert often.cloud is not None
    assert (often.cloud.every, often.cloud.wait) == (1, 60.0)
    assert (slow.links.latency, slow.links.loss) == (9.0, 0.1)
    assert (alone.name, alone.variants, alone.seeds) == ("small-alone", {}, ())


def test_overrides_win_over_the_variant(write: Write) -> None:
    assert load(write(variants=VARIANTS), ["links.latency=1"], variant="slow").links.latency == 1.0


def test_a_variant_without_the_cloud_has_no_outage_of_it(write: Write) -> None:
    incidents = "[{kind: outage, twin: cloud, at: 1}, {kind: leave, twin: ct-01, at: 2}, {kind: cut_link, link: [cloud, ct-02], at: 3}]"
    path = write(cloud="{use: fedavg}", incidents=incidents, variants="{alone: {cloud: null}}")
    assert len(load(path).incidents) == 3
    assert [incident.concerns() for incident in load(path, variant="alone").incidents] == [("ct-01",)]
    with pytest.raises(ScenarioError, match=r"variant alone: incidents\.0\.twin") as caught:
        load(path, ["variants.alone.topology={use: ring, names: [a, b]}"])
    assert caught.value.where.endswith(f":7:{f'incidents: {incidents}'.index('ct-01') + 1}")


def test_an_empty_variant_changes_nothing_but_the_name(write: Write) -> None:
    path = write(variants="{same: {}}")
    assert load(path, variant="same").rounds == load(path).rounds == 5


def test_every_variant_is_checked_even_if_none_is_chosen(refusal: Refusal) -> None:
    error = refusal(variants="{a: {}, b: {rounds: 0}}")
    assert (error.code, error.where.rpartition("s.yaml:")[2]) == ("E118", f"6:{len('variants: {a: {}, b: {rounds: 0')}")
    assert error.problem.startswith("variant b: rounds = 0")


@pytest.mark.parametrize("key", ["seeds", "variants", "version"])
def test_a_variant_cannot_change_what_compares_it(refusal: Refusal, key: str) -> None:
    assert "a variant cannot change it" in refusal(variants=f"{{a: {{{key}: 1}}}}").problem


def test_an_unknown_variant_is_refused(write: Write) -> None:
    with pytest.raises(ScenarioError, match=r"E109 .*no variant slo; did you mean slow\?"):
        load(write(variants=VARIANTS), variant="slo")
    with pytest.raises(ScenarioError, match="has no variants"):
        load(write(), variant="slow")


def test_what_a_variant_breaks_elsewhere_names_the_variant(write: Write, tmp_path: Path) -> None:
    with pytest.raises(P2pftlError, match=r"E120 .*s\.yaml:6:\d+: variant few: .*ct-08"):
        load(write(incidents="[{kind: leave, twin: ct-08, at: 1}]", variants="{few: {topology: {twins: 4}}}"))
