"""Bad scenarios: each gets its code, its place and a way out (TRUST.md §8, rows S)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2pftl.device.protocol import Protocol
from p2pftl.errors import P2pftlError, ScenarioError
from p2pftl.imaging.scanner import Scanner
from p2pftl.scenario.load import load
from tests.scenario.conftest import Refusal, Write, text

EVERYBODY_LEAVES = "[" + ", ".join(f"{{kind: leave, twin: ct-0{i}, at: {i}}}" for i in range(1, 9)) + "]"
KEYS = ["name", "seed", "rounds", "topology", "data"]  # lines 1 to 5 of the base; what a test adds stands on line 6


def test_the_smallest_scenario_has_everything_else_by_default(write: Write) -> None:
    scenario = load(write())
    assert (scenario.name, scenario.seed, scenario.rounds, scenario.seed_chosen) == ("small", 7, 5, False)
    assert (scenario.data.test, scenario.data.validation, scenario.cloud, scenario.twins) == (0.2, 0.2, None, {})
    assert [type(policy).__name__ for policy in (scenario.transfer, scenario.aggregator, scenario.codec)] == [
        "Full",
        "WeightedMean",
        "Dense",
    ]
    assert [type(policy).__name__ for policy in (scenario.partners, scenario.pace, scenario.mixing)] == ["All", "Synchronous", "Metropolis"]


@pytest.mark.parametrize(
    ("key", "value", "code", "says"),
    [
        ("^rouds", "3", "E109", "did you mean rounds?"),
        ("topology", "{use: ring, ^twin: 8}", "E109", "topology.twin: unknown key; did you mean twins?"),
        ("fit", "{lr: 0.1, ^bach: 4}", "E109", "did you mean batch?"),
        ("twins", "{ct-01: {^doze: 1}}", "E109", "did you mean dose?"),
        ("data", "{use: phantom, ^splitt: iid}", "E109", "did you mean split?"),
        ("cloud", "{use: fedavg, links: {^latenzy: 1}}", "E109", "did you mean latency?"),
        ("incidents", "[{kind: crash, twin: ct-01, at: 1, ^revive: 2}]", "E109", "did you mean revive_after?"),
        ("evaluate", "{^evry: 2}", "E109", "did you mean every?"),
        ("rounds", '^"ten"', "E110", 'rounds = "ten": must be a whole number'),
        ("rounds", "^'20'", "E110", "remove the quotes"),
        ("rounds", "^20.0", "E110", "write 20"),
        ("rounds", "^[1]", "E110", "a list of 1: must be a whole number"),
        ("rounds", "^true", "E110", "must be a whole number"),
        ("rounds", None, "E110", "rounds is missing"),
        ("topology", None, "E110", "topology is missing"),
        ("topology", "^8", "E110", "must be a mapping like {use: clusters}"),
        ("topology", "^{twins: 8}", "E110", "`use` is missing"),
        ("topology", "^{use: grid, rows: 2}", "E110", "topology.columns is missing"),
        ("seed", "^1.5", "E110", "must be a whole number"),
        ("fit", "^3", "E110", "must be a mapping"),
        ("fit", "{lr: ^fast}", "E110", "must be a number"),
        ("twins", "^[ct-01]", "E110", "must be a mapping"),
        ("twins", "{ct-01: ^fast}", "E110", "must be a mapping"),
        ("incidents", "^{kind: crash}", "E110", "must be a list"),
        ("twins_per_actor", "^many", "E110", "must be a whole number or auto"),
        ("seeds", "[1, ^two]", "E110", 'seeds.1 = "two": must be a whole number'),
        ("variants", "{a: ^3}", "E110", "variants.a must be a mapping"),
        ("incidents", "[^{twin: ct-01, at: 1}]", "E110", "`kind` is missing"),
        ("name", "^010", "E111", "leading zero"),
        ("links", "{latency: ^1:30}", "E111", "base 60"),
        ("name", "^12", "E112", 'must be text; quote it: "12"'),
        ("name", "^true", "E112", 'quote it: "true"'),
        ("control", "^yes", "E112", "write true"),
        ("control", "^off", "E112", "write false"),
        ("name", "^2026-01-02", "E112", "date"),
        ("topology", "{use: ^8}", "E112", "must be text"),
        ("links", "{latency: ^.nan}", "E113", "finite"),
        ("fit", "{lr: ^.inf}", "E113", "finite"),
        ("rounds", "^0", "E118", "must be >= 1"),
        ("rounds", "^-1", "E118", "must be >= 1"),
        ("rounds", "^1e12", "E118", "must be <= 1000000"),
        ("seed", "^-1", "E118", "must be >= 0"),
        ("fit", "{batch: ^0}", "E118", "fit.batch = 0: must be >= 1"),
        ("fit", "{lr: ^0}", "E118", "must be > 0"),
        ("fit", "{momentum: ^1.0}", "E118", "must be < 1"),
        ("links", "{latency: ^-1}", "E118", "must be >= 0"),
        ("links", "{loss: ^1.2}", "E118", "must be < 1"),
        ("links", "{bandwidth: ^0}", "E118", "must be > 0"),
        ("data", "{use: phantom, split: {use: dirichlet, alpha: ^0}}", "E118", "data.split.alpha = 0: must be > 0"),
        ("data", "{use: phantom, test: ^0.9}", "E118", "must be < 0.9"),
        ("data", "{use: phantom, validation: ^0}", "E118", "must be > 0"),
        ("partners", "{use: random, k: ^0}", "E118", "must be >= 1"),
        ("pace", "{use: synchronous, deadline: ^0}", "E118", "must be > 0"),
        ("cloud", "{use: fedavg, every: ^0}", "E118", "cloud.every = 0"),
        ("twins", "{ct-01: {kvp: ^10}}", "E118", "must be >= 70"),
        ("twins_per_actor", "^0", "E118", "must be >= 1"),
        ("seeds", "^[3, 1, 3]", "E118", "3 is listed twice"),
        ("incidents", "[{kind: slow_link, link: ^[ct-01], at: 0}]", "E118", "must have more entries"),
        ("incidents", "[{kind: slow_link, link: ^[a, b, c], at: 0}]", "E118", "at most 2 entries"),
        ("incidents", "[{kind: crash, twin: ct-01, at: ^-1}]", "E118", "must be >= 0"),
        ("device", "{day_s: ^0}", "E118", "must be >= 0.001"),
        ("device", "{history: ^-1}", "E118", "must be >= 0"),
        ("device", "{regain: ^2}", "E118", "must be <= 1"),
        ("device", "{^histroy: 3}", "E109", "did you mean history?"),
        ("device", "{qa: {limits: {^mean: 3}}}", "E109", "did you mean mean_hu?"),
        ("device", "{qa: {repeats: ^0}}", "E118", "must be > 0"),
        ("device", "{protocol: {kvp: ^60}}", "E118", "must be >= 70"),
        ("device", "^{protocol: {diameter_mm: 300}}", "E118", "make fov_mm larger"),
        ("device", "{ageing: ^{repair_h: [8, 2]}}", "E118", "the smaller one first"),
        ("device", "{workload: {ma: [^-1, 2]}}", "E118", "must be >= 0"),
        ("device", "{measure: ^pixels}", "E126", "sampled, image"),
        ("arrivals", "{rate: ^0}", "E118", "must be > 0"),
        ("arrivals", "{start: ^0}", "E118", "must be > 0"),
        ("arrivals", "{keep: ^0}", "E118", "must be >= 1"),
        ("twins", "{^ct-99: {dose: 0.5}}", "E120", "did you mean ct-"),
        ("incidents", "[{kind: outage, twin: ^ct-x5, at: 1}]", "E120", "did you mean ct-05?"),
        ("incidents", "[{kind: outage, twin: ^cloud, at: 1}]", "E120", "the scenario has no cloud"),
        ("incidents", "[{kind: cut_link, link: ^[ct-01, ct-05], at: 1}]", "E120", "is no link"),
        ("incidents", "[{kind: outage, twin: ct-01, at: 9, until: ^9}]", "E121", "until must be later than at"),
        ("incidents", "[{kind: crash, twin: ct-01, at: 1}, {kind: crash, twin: ct-01, at: ^3}]", "E121", "is dead from 1 s to 6 s"),
        ("incidents", "[{kind: leave, twin: ct-01, at: 5}, {kind: crash, twin: ct-01, at: ^9}]", "E121", "gone for good"),
        ("incidents", f"^{EVERYBODY_LEAVES}", "E122", "no twin is left"),
        ("incidents", "[{kind: partition, groups: ^[[ct-01], [ct-01]], at: 1}]", "E123", "overlap: ct-01"),
        ("topology", "^{use: ring, names: [a, a]}", "E124", "occurs twice"),
        ("topology", "^{use: ring, names: [../a, b]}", "E125", "not allowed"),
        ("topology", "^{use: ring, names: [ct, CT]}", "E125", "case"),
        ("name", "^../up", "E125", "cannot name a folder"),
        ("name", "^" + "x" * 65, "E125", "up to 64"),
        ("topology", "^rng", "E126", "no such topology; did you mean ring?"),
        ("topology", "{use: ^rng}", "E126", "did you mean ring?"),
        ("aggregator", "^mean", "E126", "no such aggregator"),
        ("aggregator", "^weigthed_mean", "E126", "did you mean weighted_mean?"),
        ("model", "{backbone: ^resnet}", "E126", "did you mean resnet18?"),
        ("fit", "{optimizer: ^adamw}", "E126", "did you mean adam?"),
        ("twins", "{ct-01: {vendor: ^SIMENS}}", "E126", "did you mean SIEMENS?"),
        ("data", "{use: phantom, split: {use: ^dirichlett}}", "E126", "did you mean dirichlet?"),
        ("incidents", "[{kind: ^outtage, twin: ct-01, at: 1}]", "E126", "did you mean outage?"),
        ("model", "{weights: ^nowhere.safetensors}", "E127", "no such file"),
        ("model", "{weights: ^model.pth}", "E127", "never loaded"),
        ("model", "{backbone: resnet18, weights: ^IMAGENET1K_V9}", "E127", "did you mean IMAGENET1K_V1?"),
        ("model", "{weights: ^IMAGENET1K_V1}", "E127", "compact"),
        ("fit", "{epochs: 2, steps: ^5}", "E128", "epochs and steps"),
        ("data", "{use: phantom, opposed: [ct-01, ^ct-99]}", "E120", "no twin ct-99"),
        ("topology", "^ring", "E128", "add twins: 8"),
        ("version", "^2", "E133", "upgrade"),
        ("name", "^${USER}", "E135", "environment variables"),
        ("topology", "^{use: regular, k: 9, twins: 8}", "E205", "k = 9 for 8 twins"),
        ("topology", "^{use: complete, twins: 20000}", "E209", "at most 10000"),
    ],
)  # fmt: skip
def test_a_bad_scenario_is_refused_with_code_place_and_hint(refusal: Refusal, key: str, value: str | None, code: str, says: str) -> None:
    """^ marks the place that the message must name; without a mark it is the start of the file."""
    name = key.replace("^", "")
    line = f"{key}: {value}"
    place = f"{KEYS.index(name) + 1 if name in KEYS else 6}:{line.index('^') + 1}" if "^" in line else "1:1"
    error = refusal(**{name: value and value.replace("^", "")})
    assert (error.code, error.where.rpartition("s.yaml:")[2]) == (code, place), str(error)
    assert says in str(error)


def test_push_sum_is_refused_where_the_shared_layers_change(refusal: Refusal) -> None:
    error = refusal(aggregator="push_sum", transfer="gradual_unfreezing")
    assert error.code == "E128"
    assert "push_sum keeps one mass" in error.problem
    assert error.where.endswith(":7:11")


@pytest.mark.parametrize("kind", ["hu_drift", "dose_change"])
def test_ct_numbers_cannot_drift_in_grey_images(refusal: Refusal, kind: str) -> None:
    error = refusal(data="{use: npz, path: x.npz}", incidents=f"[{{kind: {kind}, twin: ct-01, at: 1}}]", device="{}")
    assert (error.code, error.where.rpartition("s.yaml:")[2]) == ("E128", "6:20")
    assert "npz" in error.problem


@pytest.mark.parametrize(
    ("incident", "code", "place", "says"),
    [
        ("{kind: ^hu_drift, twin: ct-01, at: 1}", "E128", "", "add `device: {}`"),
        ("{kind: ^missed_qa, twin: ct-01, day: 1}", "E128", "", "there is none behind the twins"),
        ("{kind: ^case_mix_shift, twin: ct-01, at: 1, labels: {ggo: 1}}", "E128", "{}", "add `arrivals: {}`"),
        ("^{kind: hu_drift, twin: ct-01}", "E110", "{}", "virtual seconds, or `day`"),
        ("^{kind: hu_drift, twin: ct-01, at: 1, day: 2}", "E128", "{}", "in seconds and in device days"),
        ("{kind: hu_drift, twin: ct-01, at: 5, until: ^4}", "E121", "{}", "until must be later than at"),
        ("^{kind: hu_drift, twin: ct-01, day: 5, until_day: 4}", "E121", "{}", "until_day must be later"),
        ("{kind: hu_drift, twin: ct-01, day: ^-5}", "E118", "{}", "must be >= 0"),
        ("{kind: hu_drift, twin: ^ct-11, day: 5}", "E120", "{}", "did you mean ct-01?"),
        ("{kind: tube_wear, twin: ct-01, at: 1, share: ^0}", "E118", "{}", "must be > 0"),
        ("{kind: tube_failure, twin: ct-01, at: 1, ^until: 2}", "E109", "{}", "unknown key"),
        ("{kind: arc_burst, twin: ct-01, at: 1, count: ^-3}", "E118", "{}", "must be >= 1"),
        ("{kind: kernel_change, twin: ct-01, at: 1, kernel: ^sharp}", "E126", "{}", "soft, standard, lung, bone"),
        ("{kind: slice_change, twin: ct-01, at: 1, slice_mm: ^20}", "E118", "{}", "must be <= 10"),
        ("{kind: case_mix_shift, twin: ct-01, at: 1, labels: {ggo: ^2}}", "E118", "{}", "must be <= 1"),
    ],
)  # fmt: skip
def test_a_bad_incident_of_a_scanner_is_refused(refusal: Refusal, incident: str, code: str, place: str, says: str) -> None:
    line = f"incidents: [{incident}]"
    error = refusal(incidents=f"[{incident.replace('^', '')}]", device=place or None)
    assert (error.code, error.where.rpartition("s.yaml:")[2]) == (code, f"6:{line.index('^') + 1}"), str(error)
    assert says in str(error)


def test_the_cloud_has_no_scanner(refusal: Refusal) -> None:
    error = refusal(incidents="[{kind: hu_drift, twin: cloud, day: 1}]", device="{}", cloud="{use: fedavg}")
    assert (error.code, error.where.rpartition("s.yaml:")[2]) == ("E120", "6:36")


def test_twins_have_no_device_and_no_arrivals_unless_they_are_given(write: Write) -> None:
    assert (load(write()).device, load(write()).arrivals) == (None, None)
    scenario = load(write(device="{}", arrivals="{}"))
    assert scenario.device is not None
    assert scenario.arrivals is not None
    assert (scenario.device.history, scenario.device.coupling.quarantine, scenario.arrivals.rate) == (25, True, 4.0)


def test_the_phantom_follows_the_clinical_settings_unless_its_own_are_given(write: Write) -> None:
    bone = Scanner(kernel="bone", dose=0.5, slice_mm=3)
    device = load(write(device="{}")).device
    assert device is not None
    assert device.rules(bone).protocol == Protocol(kernel="bone", mas=50, slice_mm=3)
    device = load(write(device="{protocol: {kvp: 100}}")).device
    assert device is not None
    assert device.rules(bone).protocol == Protocol(kvp=100)


def test_the_cloud_can_be_named_where_there_is_one(write: Write) -> None:
    incidents = "[{kind: outage, twin: cloud, at: 1, until: 2}, {kind: slow_link, link: [ct-01, cloud], at: 0}]"
    assert len(load(write(incidents=incidents, cloud="{use: fedavg}")).incidents) == 2


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        ("", "E103", "empty"),
        ("# nothing\n---\n", "E103", "empty"),
        ("- a\n- b\n", "E104", "a list at the top"),
        ("just text", "E104", "a single value"),
        (text() + "x:\n\ty: 1\n", "E105", "tab"),
        (text() + "---\n" + text(), "E106", "second document"),
        (b"name: \xff\xfe\n", "E107", "byte 6"),
        ("name: x".encode("utf-16"), "E107", "UTF-8"),
        (b"name: a\x00b\n", "E107", "U+0000"),
        (text() + "rounds: 6\n", "E108", "rounds is written twice"),
        (text() + "x: &a [*a]\n", "E114", "contains itself"),
        (text() + "x: " + "[" * 3000 + "]" * 3000, "E115", "32 levels"),
        (text() + "x: !!python/object/apply:os.system [id]\n", "E116", "tags"),
        ("#" * 1_000_001, "E117", "1 MB"),
    ],
)
def test_a_bad_file_is_refused(refusal: Refusal, content: str | bytes, code: str, says: str) -> None:
    error = refusal(content)
    assert error.code == code
    assert says in str(error)
    assert "s.yaml" in error.where


def test_a_missing_file_names_the_one_beside_it(write: Write) -> None:
    path = write()
    path.rename(path.with_name("night-shift.yaml"))
    for wrong in ("nightshift.yaml", "night-shift", "night_shift.yml"):
        with pytest.raises(ScenarioError, match=r"E101 .*did you mean .*night-shift\.yaml"):
            load(path.with_name(wrong))


@pytest.mark.parametrize("name", ["nul\x00byte.yaml", "x" * 300 + ".yaml", "s.yaml/inside.yaml"])
def test_an_impossible_path_is_refused(write: Write, name: str) -> None:
    with pytest.raises(ScenarioError, match=r"E10[12]"):
        load(write().parent / name)


def test_a_folder_or_a_pipe_is_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"E102 .*a folder"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ScenarioError, match=r"E102 .*not a regular file"):
        load(tmp_path / "pipe.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused_with_its_errno(write: Write) -> None:
    path = write()
    path.chmod(0)
    with pytest.raises(ScenarioError, match=r"E102 .*EACCES"):
        load(path)


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(write: Write) -> None:
    assert load(write(b"\xef\xbb\xbf" + text().replace("\n", "\r\n").encode())).rounds == 5


def test_a_missing_seed_is_chosen_and_said(write: Write) -> None:
    first, second = load(write(seed=None)), load(write(seed=None))
    assert first.seed_chosen
    assert first.seed != second.seed


def test_a_missing_name_is_the_file_s(write: Write) -> None:
    assert load(write(name=None)).name == "s"


def test_numbers_without_a_dot_are_numbers_everywhere(write: Write) -> None:
    scenario = load(write(fit="{lr: 1e-3, batch: 1e1}", links="{bandwidth: 5e7}"))
    assert (scenario.fit.lr, scenario.fit.batch, scenario.links.bandwidth) == (0.001, 10, 5e7)


def test_paths_start_at_the_file_else_at_the_working_folder(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "here.safetensors").touch()
    (tmp_path / "beside.safetensors").touch()
    monkeypatch.chdir(elsewhere)
    for name, folder in (("beside", tmp_path), ("here", elsewhere)):
        assert load(write(model=f"{{weights: {name}.safetensors}}")).model.weights == str(folder / f"{name}.safetensors")


def test_aliases_and_merge_keys_work_within_a_scenario(write: Write) -> None:
    scenario = load(write(twins="{ct-01: &slow {vendor: GE, speed: 0.5}, ct-02: {<<: *slow, dose: 2}}"))
    assert (scenario.twins["ct-02"].vendor, scenario.twins["ct-02"].speed, scenario.twins["ct-02"].dose) == ("GE", 0.5, 2.0)


def test_nothing_but_our_own_errors_comes_out(write: Write) -> None:
    """Every key with every kind of wrong value."""
    values = ["null", "[]", "{}", "-1", "1e400", "x", "'2'", "[[[]]]", "{use: null}", "{use: {}}", "{kind: 3}", "{a: {b: c}}", "true"]
    others = ["model", "fit", "transfer", "cloud", "links", "twins", "incidents", "variants", "seeds", "version", "device", "arrivals"]
    for key in (*KEYS, *others):
        for value in values:
            path = write(**{key: value})
            try:
                load(path)
            except P2pftlError as error:
                assert error.where.startswith(str(path)), (key, value)  # noqa: PT017
