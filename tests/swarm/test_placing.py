"""Where crews live is decided by what the machines have, and by where data lie; nothing here needs Ray."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pftl.errors import UsageError
from p2pftl.swarm.placing import Machine, bound_apart, place, share

NAMES = tuple(f"ct-{k:02d}" for k in range(1, 13))
ALONE = [(name,) for name in NAMES]


def by_machine(crews: list[tuple[str, ...]], machines: list[Machine], **options: str) -> Counter[str]:
    return Counter(one.machine for one in place(crews, machines, **options))  # type: ignore[arg-type]


def test_twins_are_spread_by_cores() -> None:
    assert by_machine(ALONE, [Machine("a", 8), Machine("b", 4), Machine("head", 0)]) == {"a": 8, "b": 4}


def test_a_machine_without_cores_is_used_where_there_is_no_other() -> None:
    assert by_machine(ALONE, [Machine("a", 0)]) == {"a": 12}


def test_large_crews_count_by_their_members() -> None:
    crews = [NAMES[:6], *((name,) for name in NAMES[6:])]
    found = place(crews, [Machine("a", 2), Machine("b", 2)])
    assert Counter(one.machine for one in found[1:]) == {next(iter({"a", "b"} - {found[0].machine})): 6}


def test_who_has_data_on_a_machine_goes_there_whatever_it_costs() -> None:
    machines = [Machine("a", 64), Machine("b", 1, named=frozenset({"ct-03", "ct-07"}))]
    crews = bound_apart([NAMES], machines)
    assert sorted(map(len, crews)) == [2, 10]
    assert {(one.machine, one.bound) for one in place(crews, machines)} == {("a", ""), ("b", "ct-03")}


def test_data_on_two_machines_are_never_read_in_one_process() -> None:
    machines = [Machine("a", 1, named=frozenset({"ct-01"})), Machine("b", 1, named=frozenset({"ct-02"}))]
    assert bound_apart([("ct-01", "ct-02")], machines) == [("ct-01",), ("ct-02",)]
    assert bound_apart([NAMES], [Machine("a", 1)]) == [NAMES]


def test_on_a_mixed_cluster_twins_live_where_the_gpus_are_unless_told_otherwise() -> None:
    machines = [Machine("cpu", 64), Machine("gpu", 4, gpus=2)]
    assert by_machine(ALONE, machines) == {"gpu": 12}
    assert {one.gpu for one in place(ALONE, machines)} == {share(12, 2)}
    assert {one.gpu for one in place(ALONE, machines, "cpu")} == {0.0}
    assert by_machine(ALONE, machines, device="cpu")["cpu"] > 10


def test_cuda_without_a_gpu_is_an_error() -> None:
    with pytest.raises(UsageError, match="E611"):
        place(ALONE, [Machine("a", 2)], "cuda")


@given(st.integers(1, 200), st.integers(1, 16))
def test_all_crews_fit_on_the_gpus_and_none_asks_for_more_than_one(crews: int, gpus: int) -> None:
    fraction = share(crews, gpus)
    assert 0 < fraction <= 1
    assert math.floor(1 / fraction) * gpus >= crews


def test_no_gpu_no_share() -> None:
    assert share(4, 0) == 0
    assert share(4, 0.5) == 0.125
