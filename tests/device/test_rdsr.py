from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from p2pftl.device.rdsr import Report, read
from p2pftl.device.words import Salt
from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.slice_file import opened
from tests.device.ct_headers import container, event, mode_item, number, report, save, source, text_item, uid_item
from tests.imaging.ct_file import SECRET, encode, text, uid

SALT = Salt(b"k" * 32)


def of(data: pydicom.FileDataset, folder: Path) -> Report:
    return of_file(save(data, folder))


def of_file(path: Path) -> Report:
    with opened(path, "here") as file:
        return read(file, "here", SALT)


def test_a_report_becomes_irradiation_events(tmp_path: Path) -> None:
    found = of(report([event("1.2.9.1"), event("1.2.9.2", seconds=6.5, ctdi=11.0)]), tmp_path)
    assert found.device.vendor == "SIEMENS"
    assert found.device.model == "Sensation 10"
    assert found.expected == 2
    assert found.gaps == 0
    one, two = found.events
    assert one.load == (120, 210, 4.0)
    assert two.seconds == 6.5
    assert (one.ctdi, one.dlp, one.length_mm, one.collimation_mm, one.pitch) == (8.0, 280.0, 350, 38.4, 1.2)
    assert one.mode == "spiral"
    assert one.loads[0].rotation_s == 0.5
    assert one.t == 1709201700.0  # of the report's first irradiation
    assert not one.estimated
    assert one.key != two.key
    assert SECRET not in f"{found}"


def test_an_event_has_its_own_time_where_the_report_says_it(tmp_path: Path) -> None:
    found = of(report([event(started="20240229101530"), event("1.2.9.2")], begun=""), tmp_path)
    assert [beam.t for beam in found.events] == [1709201730.0, 1709202000.0]  # its own; when the report was written


@pytest.mark.parametrize(
    ("unit", "value"), [("s", 4.0), ("ms", 4000), ("min", "0.0666666667")],
)  # fmt: skip
def test_units_are_converted(tmp_path: Path, unit: str, value: float | str) -> None:
    beam = event(seconds=None)
    beam.ContentSequence[2].ContentSequence[0] = number("113824", value, unit)
    assert of(report([beam]), tmp_path).events[0].seconds == pytest.approx(4.0)


def test_the_spellings_of_dose_length_product_mean_the_same(tmp_path: Path) -> None:
    for unit, value in (("mGy.cm", 280), ("mGycm", 280), ("Gy.cm", 0.28)):
        beam = event()
        beam.ContentSequence[3].ContentSequence[1] = number("113838", value, unit)
        assert of(report([beam]), tmp_path).events[0].dlp == pytest.approx(280)


def test_a_unit_that_cannot_be_is_refused_without_its_text(tmp_path: Path) -> None:
    beam = event(seconds=None)
    beam.ContentSequence[2].ContentSequence[0] = number("113824", 4.0, SECRET)
    with pytest.raises(DataError, match=r"E351 .*Exposure Time") as caught:
        of(report([beam]), tmp_path)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [SECRET, "-4", "1e9", "nan", "1_0"])
def test_nonsense_is_refused_by_code_without_its_text(tmp_path: Path, value: str) -> None:
    bad = text(value)
    placeholder = "314159265358"[: len(bad)]
    beam = event(seconds=None)
    beam.ContentSequence[2].ContentSequence[0] = number("113824", placeholder, "s")
    path = save(report([beam]), tmp_path)
    head = b"\x40\x00\x0a\xa3DS" + len(bad).to_bytes(2, "little")
    raw = path.read_bytes()
    assert raw.count(head + placeholder.encode()) == 1
    path.write_bytes(raw.replace(head + placeholder.encode(), head + bad))
    with pytest.raises(DataError, match=r"E350 .*Exposure Time") as caught:
        of_file(path)
    assert value not in str(caught.value).replace("(113824, DCM)", "")
    assert caught.value.__context__ is None


def test_missing_items_are_missing(tmp_path: Path) -> None:
    bare = container("113819", [])
    beam = event("", seconds=None, sources=[], ctdi=None, dlp=None)
    found = of(report([bare, beam]), tmp_path).events
    for one in found:
        assert one.load is None
        assert (one.seconds, one.ctdi, one.dlp) == (None, None, None)
    assert found[0].mode is None
    assert found[0].key != found[1].key


def test_zero_stands_for_missing(tmp_path: Path) -> None:
    assert of(report([event(seconds=0, ctdi=0)]), tmp_path).events[0].load is None


def test_values_without_their_containers_are_found(tmp_path: Path) -> None:
    flat = container(
        "113819", [mode_item("113804"), number("113824", 2, "s"), number("113733", 100, "kV"), number("113734", 90, "mA"),
                   uid_item("113769", "1.2.9.5")],
    )  # fmt: skip
    nested = container("113819", [container("113822", [container("113822", [number("113824", 2, "s"), container("113831", [
        container("113831", [number("113733", 100, "kV")]), number("113734", 90, "mA")])])])])  # fmt: skip
    for found in of(report([flat, nested]), tmp_path).events:
        assert found.load == (100, 90, 2)


def test_events_inside_another_container_count(tmp_path: Path) -> None:
    assert len(of(report([container("113811", [event(), event("1.2.9.2")])]), tmp_path).events) == 2


def test_two_sources_are_two_loads_and_the_first_one_wears_the_tube(tmp_path: Path) -> None:
    found = of(report([event(sources=[source("A", 140, 80), source("B", 80, 300)])]), tmp_path).events[0]
    assert [(load.kvp, load.ma) for load in found.loads] == [(140, 80), (80, 300)]
    assert found.load == (140, 80, 4.0)


def test_a_localizer_is_a_constant_angle_event(tmp_path: Path) -> None:
    assert of(report([event(mode="113805")]), tmp_path).events[0].mode == "constant angle"


def test_events_that_the_totals_name_and_that_are_not_there_are_gaps(tmp_path: Path) -> None:
    assert of(report([event()], total=3), tmp_path).gaps == 2
    assert of(report([event()], total=0), tmp_path).gaps == 0


def test_the_code_of_another_scheme_is_another_code(tmp_path: Path) -> None:
    beam = event()
    for item in beam.ContentSequence[2].ContentSequence:
        item.ConceptNameCodeSequence[0].CodingSchemeDesignator = "99JANE"
    assert of(report([beam]), tmp_path).events[0].seconds is None


@pytest.mark.parametrize(
    "changes",
    [{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.59"}, {"ConceptNameCodeSequence": []}, {"ContentSequence": []}],
)
def test_what_is_no_ct_dose_report_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match="E319"):
        of(report([event()], **changes), tmp_path)


def test_an_enhanced_report_of_an_older_scanner_is_read(tmp_path: Path) -> None:
    assert len(of(report([event()], SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22"), tmp_path).events) == 1


def test_content_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    inner = event()
    for _ in range(30):
        inner = container("113822", [inner])
    with pytest.raises(DataError, match="E324"):
        of(report([inner]), tmp_path)


def test_endless_nesting_is_refused_before_it_fills_the_stack(tmp_path: Path) -> None:
    begin, end = b"\xfe\xff\x00\xe0" + b"\xff" * 4, b"\xfe\xff\x0d\xe0" + bytes(4)
    inner = b"\x40\x00\x30\xa7SQ\0\0" + b"\xff" * 4
    close = b"\xfe\xff\xdd\xe0" + bytes(4)
    levels = 3000
    deep = begin + (inner + begin) * levels + (end + close) * levels + end + close
    tags = {0x00080016: ("UI", uid("1.2.840.10008.5.1.4.1.1.88.67")), 0x00080060: ("CS", text("SR")), 0x0040A730: ("SQ", deep)}
    (tmp_path / "a").write_bytes(encode(tags))
    with pytest.raises(DataError, match="E324"):
        of_file(tmp_path / "a")


def test_every_cut_of_a_report_is_refused_or_read_without_a_word_of_it(tmp_path: Path) -> None:
    path = save(report([event()]), tmp_path)
    whole, codes = path.read_bytes(), set()
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        try:
            found = f"{of_file(path)}"
        except DataError as problem:
            codes.add(problem.code)
            found = f"{problem!r}"
        assert SECRET not in found
    assert codes <= {"E310", "E311", "E319", "E324", "E350", "E351"}


def test_texts_are_never_read(tmp_path: Path) -> None:
    beam = event(extra=[text_item("121106", SECRET), text_item("113824", SECRET)])
    found = of(report([beam]), tmp_path)
    assert SECRET not in f"{found}"


def test_mutated_reports_are_read_or_refused_without_a_word_of_them(tmp_path: Path) -> None:
    path = save(report([event(), event("1.2.9.2")]), tmp_path)
    whole, refused = path.read_bytes(), 0
    for attempt in range(250):
        chance = draw(7, "mutant", attempt)
        mutant = bytearray(whole)
        for at in chance.integers(128, len(whole), size=1 + attempt % 4):
            mutant[at] = chance.integers(256)
        path.write_bytes(mutant)
        try:
            said = f"{of_file(path)}"
        except DataError as problem:
            refused += 1
            said = f"{problem!r}{problem}{problem.__context__}"
        assert SECRET not in said
    assert 10 < refused < 240
