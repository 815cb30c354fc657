from __future__ import annotations

import os
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless, RLELossless

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.dicom import Dicom, boxed_instances
from p2pftl.imaging.files import squared
from p2pftl.imaging.kernels import kernel, vendor
from p2pftl.imaging.pixels import hounsfield, stream_size
from p2pftl.imaging.slice_file import Header, opened, parse, read_header
from tests.imaging.ct_file import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    PIXELS,
    SECRET,
    Element,
    elements,
    encode,
    text,
    uid,
    us,
    write,
)  # fmt: skip

REAL = Path(os.environ.get("P2PFTL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dicom_ct"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real CT slices (../shared/data/dicom_ct) are not here")


def read(path: Path) -> tuple[Header, np.ndarray, bool]:
    with opened(path, "here") as file:
        header, data = parse(file, "here")
        hu, strange = hounsfield(header, data, "here")
    return header, hu, strange


def refused(what: Callable[[], object], code: str, capfd: pytest.CaptureFixture[str] | None = None) -> DataError:
    """`what` must end in DataError `code` that neither shows nor carries anything from the file."""
    began = time.process_time()
    with pytest.raises(DataError) as caught:
        what()
    error = caught.value
    assert error.code == code, str(error)
    assert error.__context__ is None
    assert error.__cause__ is None
    shown = f"{error}{error!r}{error.args}" + ("".join(capfd.readouterr()) if capfd else "")
    assert SECRET not in shown
    assert error.where
    assert time.process_time() - began < 2
    return error


def folder(root: Path, count: int = 4, **changes: Element) -> Path:
    """Two patients, `count` slices each, two kernels."""
    for patient in range(2):
        for i in range(count):
            tags = elements(patient=f"{SECRET}{patient}", series=f"1.2.{patient}", instance=f"1.2.{patient}.{i}", z=3.0 * i)
            tags[0x00181210] = ("SH", text(("B70f", "B40f")[patient]))
            write(root / f"{SECRET}{patient}" / f"{i}.dcm", tags)
    return root


# --- what is read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_hounsfield_units_are_slope_times_stored_plus_intercept_in_every_native_syntax(tmp_path: Path, syntax: str) -> None:
    stored = draw(1, "stored").integers(0, 4096, (32, 32)).astype("<u2")
    tags = elements() | {PIXELS: ("OW", stored.tobytes()), 0x00281053: ("DS", text("0.5")), 0x00281052: ("DS", text("-1000"))}
    _, hu, strange = read(write(tmp_path / "a.dcm", tags, syntax))
    np.testing.assert_allclose(hu, np.maximum(stored * 0.5 - 1000.0, -1024))
    assert not strange


def test_signed_pixels_keep_their_sign_and_bits_above_the_stored_ones_are_dropped(tmp_path: Path) -> None:
    values = np.full((32, 32), -5, "<i2")
    values[0, 0] = 100
    leavings = (values.view("<u2") & 0x0FFF) | 0xA000
    signed = elements() | {PIXELS: ("OW", leavings.tobytes()), 0x00280103: ("US", us(1)), 0x00281052: ("DS", text("0"))}
    _, hu, _ = read(write(tmp_path / "a.dcm", signed))
    assert hu[0, 0] == 100
    assert hu[1, 1] == -5
    plain = signed | {0x00280103: ("US", us(0))}
    _, hu, _ = read(write(tmp_path / "b.dcm", plain))
    assert hu[0, 0] == 100
    assert hu[1, 1] == 4096 - 5


def test_padding_becomes_air_whatever_its_stored_value(tmp_path: Path) -> None:
    stored = np.full((32, 32), 1100, "<i2")
    stored[0], stored[1], stored[2] = -2000, -1995, 1000
    bits = {0x00280101: ("US", us(16)), 0x00280102: ("US", us(15)), 0x00280103: ("US", us(1))}
    limits = {0x00280120: ("SS", struct.pack("<h", -2000)), 0x00280121: ("SS", struct.pack("<h", -1990))}
    _, hu, strange = read(write(tmp_path / "a.dcm", elements() | bits | limits | {PIXELS: ("OW", stored.tobytes())}))
    assert (hu[:2] == -1024).all()
    assert (hu[2] == -24).all()
    assert (hu[3:] == 76).all()
    assert not strange


def test_a_slice_turned_in_the_gantry_is_turned_back(tmp_path: Path) -> None:
    stored = np.arange(1024, dtype="<u2").reshape(32, 32)
    upright = elements() | {PIXELS: ("OW", stored.tobytes())}
    prone = elements() | {PIXELS: ("OW", stored[::-1, ::-1].tobytes()), 0x00200037: ("DS", text("-1\\0\\0\\0\\-1\\0"))}
    np.testing.assert_array_equal(read(write(tmp_path / "a.dcm", upright))[1], read(write(tmp_path / "b.dcm", prone))[1])


def test_hounsfield_units_out_of_range_are_noticed(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    write(root / "x.dcm", elements(instance="9", series="9") | {0x00281053: ("DS", text("20"))})
    source = Dicom(str(root), size=16, label="kernel")
    _, findings = source.inspect(source.catalogue({}, 0).samples)
    assert [(finding.code, finding.count) for finding in findings] == [("E325", 1)]


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_slices_equal_the_uncompressed_ones(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    if syntax == JPEG2000Lossless:
        pytest.importorskip("openjpeg", reason='needs pip install "p2pftl[compressed]"')
    stored = draw(2, "stored").integers(0, 4096, (64, 64)).astype("<u2")
    plain = write(
        tmp_path / "a.dcm", elements(64) | {PIXELS: ("OW", stored.tobytes()), 0x00280101: ("US", us(16)), 0x00280102: ("US", us(15))}
    )
    dataset = pydicom.dcmread(plain)
    dataset.compress(syntax)
    packed = tmp_path / "b.dcm"
    dataset.save_as(packed)
    np.testing.assert_array_equal(read(packed)[1], read(plain)[1])
    raw = packed.read_bytes()
    packed.write_bytes(raw[: len(raw) * 2 // 3])
    refused(lambda: read(packed), "E312")


def test_the_claimed_size_of_a_code_stream_is_known_before_it_is_decoded() -> None:
    assert stream_size(b"\0\0\xff\xd8\xff\xe0\x00\x04ab\xff\xc3\x00\x0b\x10\x02\x00\x01\x80\x01") == (512, 384)
    siz = b"\xff\x4f\xff\x51" + struct.pack(">HHLLLL", 41, 0, 400, 300, 16, 0)
    assert stream_size(b"xx" + siz) == (300, 384)
    assert stream_size(b"") is None
    assert stream_size(b"\xff\xd8\xff") is None


def test_a_compressed_stream_of_another_size_than_the_header_says_is_not_decoded(tmp_path: Path) -> None:
    bomb = b"\xff\x4f\xff\x51" + struct.pack(">HHLLLLLLLLH", 41, 0, 65000, 65000, 0, 0, 65000, 65000, 0, 0, 1) + b"\x0f\x01\x01"
    frame = (
        b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0" + struct.pack("<L", len(bomb) + 1) + bomb + b"\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    pytest.importorskip("openjpeg", reason='needs pip install "p2pftl[compressed]"')
    path = write(tmp_path / "a.dcm", elements() | {PIXELS: ("OB", frame)}, JPEG2000Lossless)
    refused(lambda: read(path), "E323")


@pytest.mark.parametrize(("side", "size"), [(64, 16), (64, 24), (16, 64)])
def test_resampling_keeps_the_mean_and_stays_inside_the_range(side: int, size: int) -> None:
    ramp = np.add.outer(np.arange(side), 2.0 * np.arange(side)).astype(np.float32)
    small = squared(ramp, size)
    assert small.shape == (size, size)
    assert small.mean() == pytest.approx(ramp.mean(), rel=1e-3)
    assert small.min() >= ramp.min()
    assert small.max() <= ramp.max()


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    chess = (np.indices((64, 64)).sum(0) % 2).astype(np.float32)
    np.testing.assert_allclose(squared(chess, 32), 0.5)
    np.testing.assert_allclose(squared(chess, 16), 0.5)


# --- what is catalogued -----------------------------------------------------------------------------------------


def test_the_catalogue_holds_no_identifier_and_slices_lie_in_the_order_of_space(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    for i, path in enumerate(sorted((root / f"{SECRET}0").iterdir())):
        path.rename(path.with_name(f"{'zxay'[i]}.dcm"))
    survey = Dicom(str(root), label="kernel").survey()
    samples = survey.catalogue.samples
    assert survey.catalogue.classes == ("SIEMENS B40f", "SIEMENS B70f")
    assert Counter((s.patient, s.scanner, s.label) for s in samples) == {("p0001", "SIEMENS B70f", 1): 4, ("p0002", "SIEMENS B40f", 0): 4}
    assert SECRET not in "".join(f"{s.patient}{s.scanner}{s.split}" for s in samples) + str(survey.findings)
    places = [read_header(Path(s.file)).position for s in samples]
    assert places == sorted(places[:4]) + sorted(places[4:])
    assert SECRET not in repr(read_header(Path(samples[0].file)))


def test_reading_gives_the_catalogued_slices_in_the_order_asked_for(tmp_path: Path) -> None:
    source = Dicom(str(folder(tmp_path / "d")), size=16, label="kernel")
    samples = source.catalogue({}, 0).samples
    cohort = source.read(samples[::-1])
    assert cohort.pixels.shape == (8, 16, 16)
    assert cohort.pixels.dtype == np.int16
    assert cohort.unit == "HU"
    assert cohort.pixel_mm == pytest.approx(0.7 * 32 / 16)
    assert list(cohort.labels) == [s.label for s in samples[::-1]]
    assert cohort.pixels[0, 8, 8] == 0
    assert cohort.pixels[0, 0, 0] == -1000


def test_blocks_keep_both_kernels_of_one_position_together(tmp_path: Path) -> None:
    for kernel_name in ("B70f", "B40f"):
        for i in range(10):
            tags = elements(patient="one", series=kernel_name, instance=f"{kernel_name}{i}", z=5.0 * i)
            write(tmp_path / kernel_name / f"{i}.dcm", tags | {0x00181210: ("SH", text(kernel_name))})
    whole = Dicom(str(tmp_path), label="kernel").survey()
    assert {s.patient for s in whole.catalogue.samples} == {"p0001"}
    cut = Dicom(str(tmp_path), label="kernel", block=4).survey()
    assert [f.code for f in cut.findings] == ["E306"]
    blocks: dict[str, list[float]] = {}
    for sample in cut.catalogue.samples:
        position = read_header(Path(sample.file)).position
        assert position is not None
        blocks.setdefault(sample.patient, []).append(position)
    assert sorted(len(places) for places in blocks.values()) == [6, 6, 8]
    spans = sorted((min(places), max(places)) for places in blocks.values())
    assert all(before[1] < after[0] for before, after in pairwise(spans))


def test_a_lesion_is_a_slice_whose_annotation_holds_a_box(tmp_path: Path) -> None:
    root, boxes = folder(tmp_path / "d"), tmp_path / "voc"
    boxes.mkdir()
    (boxes / "1.2.0.1.xml").write_text("<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>")
    (boxes / "1.2.0.2.xml").write_text("<annotation></annotation>")
    assert boxed_instances(str(boxes)) == {"1.2.0.1"}
    catalogue = Dicom(str(root), boxes=str(boxes)).catalogue({}, 0)
    assert catalogue.classes == ("no lesion", "lesion")
    assert Counter(s.label for s in catalogue.samples) == {0: 7, 1: 1}
    (boxes / "x.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')
    refused(lambda: boxed_instances(str(boxes)), "E333")


def test_a_manifest_chooses_files_and_overrides_the_header(tmp_path: Path) -> None:
    root, table = folder(tmp_path / "d"), tmp_path / "d" / "table.csv"
    lines = [f"{SECRET}{p}/{i}.dcm,{'ab'[i % 2]},x{i},{('train', 'test')[i // 2]},GE BONE" for p in (0,) for i in range(4)]
    table.write_text("file,label,patient,split,scanner\n" + "\n".join(lines))
    samples = Dicom(str(root), manifest=str(table)).catalogue({}, 0).samples
    assert [(s.patient, s.split, s.scanner, s.label) for s in samples] == [
        ("p0001", "train", "GE BONE", 0), ("p0002", "train", "GE BONE", 1),
        ("p0003", "test", "GE BONE", 0), ("p0004", "test", "GE BONE", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({0x00280030: ("DS", text("0.9\\0.9"))}, "spacings"),
        ({0x00181210: ("SH", text("B30f"))}, "kernels"),
        ({0x00200037: ("DS", text("1\\0\\0\\0\\0\\-1"))}, "orientations"),
        ({0x00200032: ("DS", text("0\\0\\100"))}, "unevenly"),
        ({0x00200032: ("DS", text("0\\0"))}, "without usable slice positions"),
        ({0x00180050: ("DS", text("5"))}, "thicknesses"),
    ],
)
def test_a_series_that_is_not_of_one_piece_is_noticed(tmp_path: Path, change: dict[int, Element], says: str) -> None:
    root = folder(tmp_path / "d")
    write(root / f"{SECRET}0" / "3.dcm", elements(patient="0", series="1.2.0", instance="1.2.0.3", z=9.0) | change)
    findings = Dicom(str(root), label="kernel").survey().findings
    assert any(f.code == "E327" and says in f.problem for f in findings), findings


def test_skipping_leaves_bad_files_out_and_names_their_codes_only(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    write(root / f"{SECRET}mr.dcm", elements(instance="8") | {0x00080060: ("CS", text("MR"))})
    (root / "empty.dcm").write_bytes(b"")
    write(root / "flat.dcm", elements(instance="9", series="9") | {PIXELS: ("OW", b"\1\0" * 1024)})
    source = Dicom(str(root), size=16, label="kernel", broken="skip")
    survey = source.survey()
    assert [(f.code, f.count) for f in survey.findings] == [("E310", 1), ("E319", 1)]
    assert SECRET not in str(survey.findings)
    cohort, findings = source.inspect(survey.catalogue.samples)
    assert len(cohort) == len(cohort.labels) == 8
    assert [(f.code, f.count) for f in findings] == [("E332", 1)]
    refused(lambda: Dicom(str(root), label="kernel").survey(), "E319")


def test_files_that_do_not_claim_to_be_dicom_are_passed_over(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.dcm").write_text("no image")
    shutil.copy(root / f"{SECRET}0" / "0.dcm", root / "DICOMDIR")
    write(root / "IM0001", elements(instance="7", series="7"))
    assert len(Dicom(str(root), label="kernel").catalogue({}, 0).samples) == 9


# --- what is refused --------------------------------------------------------------------------------------------


def without(*tags: int) -> Callable[[dict[int, Element]], bytes]:
    return lambda sound: encode({tag: value for tag, value in sound.items() if tag not in tags})


def having(**changes: Element) -> Callable[[dict[int, Element]], bytes]:
    return lambda sound: encode(sound | {int(tag[1:], 16): value for tag, value in changes.items()})


def deep(sound: dict[int, Element]) -> bytes:
    nested = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" * 1500
    return encode({0x00080008: sound[0x00080008]}) + b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + nested


def long_header(sound: dict[int, Element]) -> bytes:
    return encode(sound | {0x00100020: ("UN", b"A" * (3 * 2**20))})


def inflating(sound: dict[int, Element]) -> bytes:
    return encode(sound | {PIXELS: ("OW", b"\0" * 80 * 2**20)}, DEFLATED)


BAD: dict[str, tuple[str, Callable[[dict[int, Element]], bytes]]] = {
    "D08 not DICOM": ("E310", lambda sound: SECRET.encode() * 40),
    "D09 0 bytes": ("E310", lambda sound: b""),
    "D10 header cut after DICM": ("E311", lambda sound: encode(sound)[:132]),
    "D10 header cut within": ("E311", lambda sound: encode(sound)[:-2065]),
    "D10 no transfer syntax": ("E311", lambda sound: encode(sound, "")),
    "D11 half of the pixels": ("E312", lambda sound: encode(sound)[:-1024]),
    "D12 last byte missing": ("E313", lambda sound: encode(sound)[:-1]),
    "D13 no PixelData": ("E314", without(PIXELS)),
    "D14 no Rows": ("E315", without(0x00280010)),
    "D14 no Columns": ("E315", without(0x00280011)),
    "D14 0 rows": ("E315", having(_00280010=("US", us(0)))),
    "D14 65535 x 65535": ("E315", having(_00280010=("US", us(65535)), _00280011=("US", us(65535)))),
    "D15 12 bits allocated": ("E316", having(_00280100=("US", us(12)))),
    "D15 more stored than allocated": ("E316", having(_00280101=("US", us(20)), _00280102=("US", us(19)))),
    "D15 high bit in the middle": ("E316", having(_00280102=("US", us(15)))),
    "D15 floating point": ("E316", having(_7FE00008=("OF", b"\0" * 4096))),
    "D16 pixels of 195 frames": ("E317", having(_7FE00010=("OW", b"\1\0" * 1024 * 195))),
    "D17 99999999 frames": ("E317", having(_00280008=("IS", text("99999999")))),
    "D17 frames not a number": ("E317", having(_00280008=("IS", text(SECRET)))),
    "D18 RGB with one sample": ("E318", having(_00280004=("CS", text("RGB")))),
    "D18 three samples": ("E318", having(_00280002=("US", us(3)))),
    "D19 MR": ("E319", having(_00080060=("CS", text("MR")))),
    "D19 no modality": ("E319", without(0x00080060)),
    "D19 secondary capture": ("E319", having(_00080016=("UI", uid("1.2.840.10008.5.1.4.1.1.7")))),
    "D19 phantom": ("E319", having(_00280300=("CS", text("YES")))),
    "D19 localizer": ("E319", having(_00080008=("CS", text("ORIGINAL\\PRIMARY\\LOCALIZER")))),
    "D20 no slope": ("E320", without(0x00281053)),
    "D20 no intercept": ("E320", without(0x00281052)),
    "D20 atomic numbers": ("E320", having(_00281054=("LO", text("Z_EFF")))),
    "D21 slope 0": ("E321", having(_00281053=("DS", text("0")))),
    "D21 slope 1e308": ("E321", having(_00281053=("DS", text("1e308")))),
    "D21 slope nan": ("E321", having(_00281053=("DS", text("nan")))),
    "D21 intercept inf": ("E321", having(_00281052=("DS", text("-inf")))),
    "D22 slope is text": ("E321", having(_00281053=("DS", text(SECRET)))),
    "D23 no decoder (MPEG)": ("E322", lambda sound: encode(sound, "1.2.840.10008.1.2.4.100")),
    "D24 unknown syntax": ("E322", lambda sound: encode(sound, "1.2.3.4.5")),
    "D24 native pixels under a compressed syntax": ("E311", lambda sound: encode(sound, RLELossless)),
    "D25 deflate bomb": ("E323", inflating),
    "D25 broken deflate": ("E311", lambda sound: encode(sound, DEFLATED)[:330] + b"\xff" * 90),
    "D26 1500 nested sequences": ("E324", deep),
    "D26 3 MB of header": ("E311", long_header),
    "D28 burnt-in text": ("E326", having(_00280301=("CS", text("YES")))),
}


@pytest.mark.parametrize(("code", "spoil"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_by_code_without_a_word_of_its_content(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], code: str, spoil: Callable[[dict[int, Element]], bytes]
) -> None:
    root = folder(tmp_path / "d")
    (root / f"{SECRET}.dcm").write_bytes(spoil(elements()))
    error = refused(lambda: Dicom(str(root), label="kernel").catalogue({}, 0), code, capfd)
    assert error.where.endswith("file 9 of 9 (sorted by path)")


def test_a_constant_image_is_refused_when_it_is_read(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    write(root / "flat.dcm", elements(instance="9", series="9") | {PIXELS: ("OW", b"\1\0" * 1024)})
    source = Dicom(str(root), label="kernel")
    samples = source.catalogue({}, 0).samples
    refused(lambda: source.read(samples), "E332")


def test_a_file_that_shrank_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    source = Dicom(str(folder(tmp_path / "d")), label="kernel")
    samples = source.catalogue({}, 0).samples
    os.truncate(samples[3].file, 2000)
    assert refused(lambda: source.read(samples), "E312").where.endswith("slice 4 of the 8 asked for")


def link_loop(root: Path) -> None:
    (root / "again").symlink_to(root)


def pipe(root: Path) -> None:
    os.mkfifo(root / "pipe.dcm")


def dangling(root: Path) -> None:
    (root / "gone.dcm").symlink_to(root / SECRET / "nowhere")


def twice(root: Path) -> None:
    shutil.copy(root / f"{SECRET}0" / "0.dcm", root / "copy.dcm")


def emptied(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def one_kernel(root: Path) -> None:
    shutil.rmtree(root / f"{SECRET}1")


def no_kernel(root: Path) -> None:
    write(root / "x.dcm", elements(instance="9") | {0x00181210: ("SH", text(SECRET))})


FOLDERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "D01 missing": ("E301", shutil.rmtree),
    "D01 empty": ("E301", emptied),
    "D01 dangling link": ("E301", dangling),
    "D02 one class": ("E302", one_kernel),
    "D30 duplicate SOPInstanceUID": ("E305", twice),
    "D31 link loop": ("E308", link_loop),
    "D31 pipe": ("E308", pipe),
    "D35 no label": ("E333", no_kernel),
}


@pytest.mark.parametrize(("code", "spoil"), FOLDERS.values(), ids=FOLDERS)
def test_a_bad_folder_is_refused(tmp_path: Path, code: str, spoil: Callable[[Path], None]) -> None:
    root = folder(tmp_path / "d")
    spoil(root)
    refused(lambda: Dicom(str(root), label="kernel").catalogue({}, 0), code)


@pytest.mark.skipif(os.name == "nt", reason="permissions are of the POSIX kind")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    path = sorted(root.rglob("*.dcm"))[0]
    path.chmod(0)
    was_root = os.geteuid() == 0
    above = {folder: folder.stat().st_mode for folder in (tmp_path, *tmp_path.parents[:2])} if was_root else {}
    for path, mode in above.items():
        path.chmod(mode | 0o055)
    if was_root:
        os.seteuid(65534)
    try:
        refused(lambda: Dicom(str(root), label="kernel").catalogue({}, 0), "E307")
    finally:
        if was_root:
            os.seteuid(0)
        for path, mode in above.items():
            path.chmod(mode & 0o7777)


@pytest.mark.parametrize("label", [None, "manifest", "boxes"])
def test_a_label_without_its_source_is_refused(tmp_path: Path, label: str | None) -> None:
    refused(lambda: Dicom(str(folder(tmp_path / "d")), label=label).catalogue({}, 0), "E333")  # type: ignore[arg-type]


def outcome(path: Path) -> str:
    try:
        read(path)
    except DataError as error:
        refusal = error
    else:
        return "read"
    assert SECRET not in str(refusal)
    assert refusal.__context__ is None
    return refusal.code


def test_whatever_bytes_are_flipped_only_our_own_error_escapes(tmp_path: Path) -> None:
    sound = {syntax: encode(elements(16), syntax) for syntax in (EXPLICIT, IMPLICIT, DEFLATED)}
    path = tmp_path / "mutant.dcm"
    outcomes: Counter[str] = Counter()
    for seed in range(600):
        rng = draw(3, "mutant", seed)
        raw = bytearray(sound[(EXPLICIT, IMPLICIT, DEFLATED)[seed % 3]])
        for at in rng.integers(128, len(raw), 1 + seed % 7):
            raw[at] = rng.integers(256)
        path.write_bytes(raw[: len(raw) if seed % 4 else int(rng.integers(len(raw)))])
        outcomes[outcome(path)] += 1
    assert outcomes["read"] > 50, outcomes
    assert len(outcomes) > 8, outcomes


# --- vocabulary -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manufacturer", "text_of_kernel", "name", "group"),
    [
        ("SIEMENS", "B70f", "B70f", "bone"), ("SIEMENS", "B40f", "B40f", "standard"), ("SIEMENS", "B30f", "B30f", "soft"),
        ("SIEMENS", "B60f", "B60f", "lung"), ("Siemens Healthineers", "Br40d", "Br40d", "standard"),
        ("Philips", "L", "L", "lung"), ("Philips Medical Systems", "B", "B", "standard"), ("Philips", "YC", "YC", "lung"),
        ("GE MEDICAL SYSTEMS", "STANDARD", "STANDARD", "standard"), ("GE MEDICAL SYSTEMS", "BONEPLUS", "BONEPLUS", "bone"),
        ("TOSHIBA", "FC17", "FC17", "standard"), ("Canon Medical Systems", "FC52", "FC52", "lung"), ("TOSHIBA", "FC08", "FC08", "soft"),
        ("TOSHIBA", "FC99", "unknown", "unknown"), ("SIEMENS", SECRET, "unknown", "unknown"), (SECRET, "B70f", "unknown", "unknown"),
    ],
)  # fmt: skip
def test_kernel_texts_become_known_names_and_groups_or_unknown(manufacturer: str, text_of_kernel: str, name: str, group: str) -> None:
    assert kernel(vendor(manufacturer), text_of_kernel) == (name, group)


# --- the real slices --------------------------------------------------------------------------------------------


@needs_real
def test_real_slices_of_four_vendors_are_read_as_pydicom_reads_them() -> None:
    for path in sorted(REAL.glob("*/*.dcm"))[::6]:
        header, hu, _ = read(path)
        dataset = pydicom.dcmread(path)
        oracle = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        np.testing.assert_array_equal(hu, np.clip(oracle, -1024, 32767))
        assert (header.rows, header.columns) == (512, 512)


@needs_real
def test_the_real_folder_is_catalogued_by_patient_scanner_and_box() -> None:
    survey = Dicom(str(REAL), boxes=str(REAL / "annotations_voc")).survey()
    samples = survey.catalogue.samples
    assert Counter(s.scanner for s in samples) == {
        "PHILIPS L": 10, "PHILIPS B": 10, "SIEMENS B70f": 10, "SIEMENS B40f": 10, "GE STANDARD": 10, "TOSHIBA FC17": 4,
    }  # fmt: skip
    assert Counter(s.label for s in samples) == {1: 37, 0: 17}
    assert len({s.patient for s in samples}) == 9
    assert [(f.code, f.count) for f in survey.findings] == [("E326", 1)]


@needs_real
def test_the_real_folder_is_catalogued_in_a_fraction_of_a_second_and_read_at_128_pixels() -> None:
    source = Dicom(str(REAL), label="kernel_group")
    began = time.process_time()
    samples = source.catalogue({}, 0).samples
    listed = time.process_time()
    cohort = source.read(samples)
    done = time.process_time()
    assert cohort.pixels.shape == (54, 128, 128)
    assert listed - began < 0.5  # 0.05 s alone on the machine
    assert (done - listed) / 54 < 0.02  # 1.3 ms
    lungs = cohort.images()
    assert 0.2 < lungs.mean() < 0.8


def test_pictures_made_by_pillow_are_not_dicom(tmp_path: Path) -> None:
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    refused(lambda: Dicom(str(tmp_path), label="kernel").catalogue({}, 0), "E301")
