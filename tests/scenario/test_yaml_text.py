"""The reader: YAML's traps are numbers where people mean numbers, text where they mean text, refusals where it is unclear."""

from __future__ import annotations

import math
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from p2pftl.errors import ScenarioError
from p2pftl.scenario.resolved import dumped
from p2pftl.scenario.yaml_text import read


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 0.001), ("5e7", 50_000_000), ("1E3", 1000), (".5", 0.5), ("1.", 1.0), ("-0.25", -0.25), ("1_000", 1000), ("+3", 3),
        ("0x1f", 31), ("0o17", 15), ("0", 0), ("-0", 0), ("1.5e3", 1500.0), ("0.1e1", 1.0),
        ("no", "no"), ("off", "off"), ("yes", "yes"), ("On", "On"), ("y", "y"), ("nan", "nan"), ("inf", "inf"), ("1e", "1e"),
        ("e5", "e5"),
        ("1.2.3", "1.2.3"),
        (".", "."), ("-", None), ("1-2", "1-2"), ("ct-01", "ct-01"), ("0b11", "0b11"), ("1__0", "1__0"), ("'010'", "010"),
        ('"1:30"', "1:30"), ('"2026-01-02"', "2026-01-02"), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("<<", "<<"), ("=", "="), ("1e5.5", "1e5.5"),
    ],
)  # fmt: skip
def test_a_scalar_means_what_a_person_reads(written: str, meant: object) -> None:
    if written == "-":
        written, meant = "'-'", "-"
    found = read(f"a: {written}", "f").value["a"]
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("text", "code", "place", "says"),
    [
        ("a:\n\tb: 1", "E105", "f:2:1", "tab"),
        ("a: [1, 2\nb: 3", "E105", "f:2:2", "opened at line 1, column 4"),
        ("a: {b: 1", "E105", "f:1:9", "bracket"),
        ('a: "x\nb: 1', "E105", "f:2:5", "quote"),
        ("a: b: c", "E105", "f:1:5", "`:`"),
        ("a: 1\n  b: 2", "E105", "f:2:4", "indentation"),
        ("a: @x", "E105", "f:1:4", "quote the text"),
        ("a: *x", "E105", "f:1:4", "no such anchor"),
        ("a: {<<: 3}", "E105", "f:1:9", "<<"),
        ("%YAML 2.0\n---\na: 1", "E105", "f:1:1", "YAML"),
        ("a: 1\n---\nb: 2", "E106", "f:2:1", "second document"),
        ("a: 1\nb: \x07", "E107", "f:2:4", "U+0007"),
        ("a: 1\x00", "E107", "f:1:5", "U+0000"),
        ("a: 1\nb: 2\na: 3", "E108", "f:3:1", "first at f:1:1"),
        ("a: {b: 1, 'b': 2}", "E108", "f:1:11", "b is written twice"),
        ("a: 010", "E111", "f:1:4", "write 10"),
        ("a: -007", "E111", "f:1:4", "leading zero"),
        ("a: 1:30", "E111", "f:1:4", "base 60"),
        ("a: 190:20:30.15", "E111", "f:1:4", "base 60"),
        ("a: 2026-01-02", "E112", "f:1:4", "date"),
        ("a: 2001-12-14t21:59:43.10-05:00", "E112", "f:1:4", "date"),
        ("1: x", "E112", "f:1:1", "a key must be text"),
        ("true: x", "E112", "f:1:1", "quote it"),
        ("? [a]\n: b", "E112", "f:1:3", "a key must be text"),
        ("a: .nan", "E113", "f:1:4", "finite"),
        ("a: [1, -.inf]", "E113", "f:1:8", "finite"),
        ("a: 1e999", "E113", "f:1:4", "too large"),
        ("a: &x [*x]", "E114", "f:1:8", "contains itself"),
        ("a: &x 1\nb: [" + ",".join(["*x"] * 101) + "]", "E114", "f:2:305", "aliases > 100"),
        ("a: " + "[" * 3000, "E115", "f:1:36", "32 levels"),
        ("a: &x [[[[[[[[[[[[[1]]]]]]]]]]]]]\nb: &y [[[[[[[[[[[[*x]]]]]]]]]]]]\nc: [[[[[[[[[[*y]]]]]]]]]]", "E115", "f:1:17", "32 levels"),
        ("a: !!python/object:os.system x", "E116", "f:1:4", "tags are not allowed"),
        ("a: !!str 5", "E116", "f:1:4", "quote"),
        ("a: !h!x y", "E116", "f:1:4", "tags"),
        ("a: " + "9" * 5000, "E118", "f:1:4", "5000 digits"),
    ],
)  # fmt: skip
def test_a_trap_is_refused_with_its_place(text: str, code: str, place: str, says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        read(text, "f")
    assert (caught.value.code, caught.value.where) == (code, place)
    assert says in str(caught.value)


def test_an_alias_bomb_is_refused_before_it_expands() -> None:
    levels = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
    )
    started = time.perf_counter()
    with pytest.raises(ScenarioError, match="E114"):
        read(levels, "f")
    assert time.perf_counter() - started < 1


def test_merge_keys_fill_in_what_is_not_said() -> None:
    found = read("a: &x {p: 1, q: 2}\nb: {q: 3, <<: *x}\nc: {<<: [{r: 5}, *x], p: 0}", "f").value
    assert found["b"] == {"p": 1, "q": 3}
    assert found["c"] == {"r": 5, "p": 0, "q": 2}


def test_every_value_knows_its_place() -> None:
    document = read("a:\n  b: [1, {c: 2}]\n", "f")
    assert document.place(("a", "b", 1, "c")) == "f:2:14"
    assert document.place(("a", "b", 1, "c"), key=True) == "f:2:11"
    assert document.place(("a", "nothing", "here")) == "f:2:3"


def test_windows_line_ends_do_not_matter() -> None:
    assert read("a: 1\r\nb: [x]\r\n", "f").value == {"a": 1, "b": ["x"]}


_words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]))
_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab01-:. #", max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(_plain)
def test_what_we_write_we_read_back(value: object) -> None:
    assert read(dumped({"a": value}), "f").value == {"a": value}


@given(st.text(max_size=60) | st.text("a: -[]{}&*!|>'\"%#,?\n\t019.e", max_size=60))
def test_any_text_is_read_or_refused_never_anything_else(text: str) -> None:
    try:
        found = read(text, "f").value
    except ScenarioError as error:
        found = 0 if error.where.startswith("f:") else math.nan
    assert _finite(found)


_LOOKS = ["yes", "no", "on", "010", "1:30", "1e-3", "2026-01-02", ".nan", "0x1f", "~", "null", "true", "5", "<<", "=", "!x", "&a", "*a"]


@pytest.mark.parametrize("text", [*_LOOKS, "", " x", "x ", "a: b", "# x", "a #b", "- a", "[a", "'", '"'])
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert read(dumped({"a": text}), "f").value == {"a": text}


def test_ordinary_numbers_agree_with_yaml_itself() -> None:
    for text in ("1", "-5", "2.5", "1.0e-3", "100", "0.0"):
        assert read(f"a: {text}", "f").value == yaml.safe_load(f"a: {text}")


def _finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(_finite(part) for part in value.values())
    if isinstance(value, list):
        return all(_finite(part) for part in value)
    return not isinstance(value, float) or math.isfinite(value)
