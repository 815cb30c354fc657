from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p2pftl.device.headers import NUMBERS, Acquisition, moment, read
from p2pftl.device.words import Salt, model, software
from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.dicom_write import VENDORS, Study, write_slice
from p2pftl.imaging.scanner import Scanner
from p2pftl.imaging.slice_file import opened
from tests.device.ct_headers import (
    CTDI,
    CURRENT,
    DATE,
    EXPOSURE,
    HOUR,
    KERNEL,
    KVP,
    MODEL,
    ROTATION,
    SERIAL,
    SOFTWARE,
    SPEED,
    STATION,
    TIME,
    double,
    drop,
    image,
)
from tests.imaging.ct_file import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, SECRET, encode, text

SALT = Salt(b"k" * 32)


def of(path: Path, salt: Salt = SALT) -> Acquisition:
    with opened(path, "here") as file:
        return read(file, "here", salt)


def test_a_header_becomes_configuration_and_dose(tmp_path: Path) -> None:
    found = of(drop(tmp_path, "a", image(z=3.0)))
    assert found.get("config.kvp") == 120
    assert found.get("config.ma") == 200
    assert found.get("config.kernel") == "B70f"
    assert found.get("config.kernel_group") == "bone"
    assert found.get("config.slice_mm") == 1.5
    assert found.get("config.ctdi_mGy") == 7.5
    assert found.get("config.software") == "syngo CT 2006G"
    assert found.derived["config.mas"] == 200 * 0.5  # SIEMENS: ExposureTime is that of one rotation
    assert found.derived["config.mas_effective"] == 80
    assert found.device.vendor == "SIEMENS"
    assert found.device.model == "Sensation 10"
    assert found.helical is True
    assert found.z == 3.0
    assert found.t == 1709201700.0  # 2024-02-29 10:15 UTC


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED])
def test_the_transfer_syntax_makes_no_difference(tmp_path: Path, syntax: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(encode(image(), syntax))
    assert of(path) == of(drop(tmp_path, "b", image()))


def test_big_endian_doubles_are_read(tmp_path: Path) -> None:
    tags = image(tags={CTDI: ("FD", double(7.5)[::-1]), SPEED: None, 0x00189311: None})
    path = tmp_path / "a"
    path.write_bytes(encode(tags, BIG_ENDIAN))
    assert of(path).get("config.ctdi_mGy") == 7.5


@pytest.mark.parametrize("tag", [KVP, CURRENT, TIME, EXPOSURE, CTDI, SPEED, KERNEL, SOFTWARE, MODEL, SERIAL, STATION, DATE])
def test_what_is_missing_is_none_and_never_zero(tmp_path: Path, tag: int) -> None:
    whole, without = of(drop(tmp_path, "a", image())), of(drop(tmp_path, "b", image(tags={tag: None})))
    assert 0 not in [*without.values.values(), *without.derived.values(), without.t]
    lost = {path for path in whole.values if whole.values[path] is not None and without.values[path] is None}
    assert len(lost) == (2 if tag == KERNEL else 0 if tag in (MODEL, SERIAL, STATION, DATE) else 1)
    if tag == DATE:
        assert without.t is None
    if tag == MODEL:
        assert without.device.model is None


@pytest.mark.parametrize("tag", [KVP, CURRENT, TIME, EXPOSURE])
@pytest.mark.parametrize("zero", ["0", "0.0", "", " "])
def test_a_zero_or_empty_value_stands_for_missing(tmp_path: Path, tag: int, zero: str) -> None:
    found = of(drop(tmp_path, "a", image(tags={tag: ("DS" if tag == KVP else "IS", text(zero))})))
    path = next(path for path, number in NUMBERS.items() if number.tag == tag)
    assert found.values[path] is None
    assert path in found.missing


@pytest.mark.parametrize("nonsense", [SECRET, "-120", "1e9", "nan", "inf", "1_2_0", "120,5", "0x78", "१२०", "1e999"])
def test_nonsense_is_refused_by_code_without_its_text(tmp_path: Path, nonsense: str) -> None:
    with pytest.raises(DataError) as caught:
        of(drop(tmp_path, "a", image(tags={KVP: ("DS", text(nonsense))})))
    assert caught.value.code == "E350"
    assert "KVP (0018,0060) DS" in str(caught.value)
    assert nonsense not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])
def test_nonsense_doubles_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(DataError, match=r"E350.*CTDIvol"):
        of(drop(tmp_path, "a", image(tags={CTDI: ("FD", double(value))})))


def test_no_text_of_the_header_comes_through(tmp_path: Path) -> None:
    every = {
        tag: ("LO", text(SECRET)) for tag in (MODEL, SOFTWARE, STATION, SERIAL, 0x00181160, 0x00189323, 0x00180022, 0x00189769, KERNEL)
    }
    every |= {tag: ("DA", text(SECRET)) for tag in (DATE, 0x00080021, 0x00080023, 0x00181200, 0x00181205)} | {HOUR: ("TM", text(SECRET))}
    found = of(drop(tmp_path, "a", image(tags={**every, 0x00181190: ("DS", text(SECRET)), 0x00083010: ("UI", text(SECRET))})))
    assert SECRET not in f"{found}"
    assert found.device.model == f"unknown-{SALT.of('model', SECRET)[:8]}"
    assert found.values["config.filter"] == "other"
    assert found.t is None


def test_hashes_need_the_key(tmp_path: Path) -> None:
    path = drop(tmp_path, "a", image())
    one, other = of(path), of(path, Salt(b"q" * 32))
    for name in ("instance", "series", "study"):
        assert getattr(one, name) != getattr(other, name)
    assert one.device.key != other.device.key
    assert "kkk" not in repr(SALT)


def test_two_scanners_of_one_model_differ_by_serial_number_else_by_station(tmp_path: Path) -> None:
    def key(**tags: object) -> str:
        return of(drop(tmp_path, "a", image(tags={SERIAL: None, STATION: None, **{int(k[1:], 16): v for k, v in tags.items()}}))).device.key

    serial, station = f"x{SERIAL:x}", f"x{STATION:x}"
    one, two = ("LO", text("1")), ("LO", text("2"))
    assert key(**{serial: one}) == key(**{serial: one, station: two})
    assert key(**{serial: one}) != key(**{serial: two})
    assert key(**{station: one}) != key(**{station: two})
    assert key(**{station: one}) != key(**{serial: one})
    assert key() == key()
    assert of(drop(tmp_path, "a", image(tags={SERIAL: None, STATION: None}))).device.anonymous


@pytest.mark.parametrize("vendor", VENDORS)
def test_our_own_writer_is_read_back_with_its_vendors_oddities(tmp_path: Path, vendor: str) -> None:
    scanner = Scanner(vendor=vendor, kernel="bone", kvp=100, mas=150, slice_mm=2)  # type: ignore[arg-type]
    write_slice(tmp_path / "a.dcm", np.zeros((16, 16), np.float32), scanner, Study("p", ("x",), "F", 50), 1, 12.0, 0.7)
    found = of(tmp_path / "a.dcm")
    assert found.device.vendor == vendor
    assert found.device.model == VENDORS[vendor].model
    assert found.values["config.software"] == VENDORS[vendor].software
    assert (found.get("config.kvp"), found.get("config.kernel_group"), found.get("config.slice_mm")) == (100, "bone", 2)
    assert found.get("config.mas") == (None if vendor == "PHILIPS" else pytest.approx(150))  # PHILIPS says no rotation time
    assert found.values["attributes.tube.power_kW"] == {"SIEMENS": 40, "GE": 48, "PHILIPS": 48, "TOSHIBA": None}[vendor]
    assert found.values["config.focal_mm"] == list(VENDORS[vendor].focal_spots)


def test_toshibas_backward_table_is_as_fast_as_forward(tmp_path: Path) -> None:
    tags = {SPEED: None, ROTATION: ("FD", double(0.5)), 0x00189310: ("FD", double(-55.5)), 0x00080070: ("LO", text("TOSHIBA"))}
    assert of(drop(tmp_path, "a", image(tags=tags))).get("config.table_speed") == 111


@pytest.mark.parametrize(
    ("stamp", "t"),
    [
        ("20240229101500", 1709201700.0), ("20240229101500.250000+0100", 1709198100.25), ("20240229101500-0030", 1709203500.0),
        ("19010101000000", -2177452800.0),
        ("20230229101500", None), (SECRET, None), ("", None), ("20240229", None), ("20240229256161", None),
    ],
)  # fmt: skip
def test_times_are_read_with_their_offset(stamp: str, t: float | None) -> None:
    assert moment(stamp) == t


@pytest.mark.parametrize("text", ["Jane Doe", "Aquilion Doe", "Brilliance 123456", "Sensation-Doe", "A" * 80, "LightSpeed\nVCT x", "16"])
def test_a_model_name_passes_only_if_made_of_product_names(text: str) -> None:
    assert all((model(vendor, text, SALT) or "").startswith("unknown-") for vendor in ("SIEMENS", "GE", "PHILIPS", "TOSHIBA", "OTHER"))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["12.03.1950", "01.2.1950", "Doe", "V1.2 Doe", "syngo Jane", "vct_doe.4"])
def test_a_software_version_passes_only_if_it_looks_like_the_vendors(text: str) -> None:
    assert all((software(vendor, text, SALT) or "").startswith("unknown-") for vendor in ("SIEMENS", "GE", "PHILIPS", "TOSHIBA", "OTHER"))  # type: ignore[arg-type]


def test_mutated_headers_are_read_or_refused_without_a_word_of_them(tmp_path: Path) -> None:
    whole, path, refused = encode(image()), tmp_path / "a", 0
    for number in range(400):
        chance = draw(7, "mutant", number)
        mutant = bytearray(whole)
        for at in chance.integers(128, len(whole) - 600, size=1 + number % 4):
            mutant[at] = chance.integers(256)
        path.write_bytes(mutant)
        try:
            said = f"{of(path)}"
        except DataError as problem:
            refused += 1
            said = f"{problem!r}{problem}{problem.__context__}"
        assert SECRET not in said
    assert 50 < refused < 350
