from __future__ import annotations

import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.files import natural, same_content
from p2pftl.imaging.images import Images, grey
from p2pftl.imaging.manifest import read_manifest

DATA = Path(os.environ.get("P2PFTL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"the real images (../shared/data/{name}) are not here")


def levels(seed: int, side: int = 24) -> np.ndarray:
    return draw(seed, "picture").integers(0, 256, (side, side), dtype=np.uint8)


def folder(root: Path, count: int = 6, classes: tuple[str, ...] = ("a", "b")) -> Path:
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(levels(100 * c + i)).save(root / name / f"case ({i + 1}).png")
    return root


def refused(what: Callable[[], object], code: str) -> DataError:
    with pytest.raises(DataError) as caught:
        what()
    error = caught.value
    assert error.code == code, str(error)
    assert error.__context__ is None
    assert error.where
    assert "SECRET" not in str(error)
    return error


# --- what is read -----------------------------------------------------------------------------------------------


def test_class_folders_become_classes_and_pixels_come_back_as_they_were(tmp_path: Path) -> None:
    source = Images(str(folder(tmp_path / "d")), size=24)
    catalogue = source.catalogue({}, 0)
    assert catalogue.classes == ("a", "b")
    assert catalogue.unit == "grey"
    assert Counter(s.label for s in catalogue.samples) == {0: 6, 1: 6}
    assert len({s.patient for s in catalogue.samples}) == 12
    cohort = source.read(catalogue.samples[::-1])
    np.testing.assert_array_equal(cohort.pixels[0], levels(105))
    assert list(cohort.labels) == [1] * 6 + [0] * 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_colour_mode_becomes_the_same_grey(tmp_path: Path, mode: str) -> None:
    pattern = np.kron(np.indices((6, 6)).sum(0) % 2, np.ones((4, 4))).astype(np.uint8) * 255
    Image.fromarray(pattern).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(grey(tmp_path / "a.png", "here", 24), pattern)


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    picture = np.full((24, 24, 4), 200, np.uint8)
    picture[:12, :, 3], picture[12:, :, 3] = 0, 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    seen = grey(tmp_path / "a.png", "here", 24)
    assert set(seen[:12].ravel()) == {0}
    assert set(seen[12:].ravel()) == {200}


@pytest.mark.parametrize("bits", [12, 16])
def test_deep_grey_is_scaled_by_the_bits_it_uses(tmp_path: Path, bits: int) -> None:
    deep = np.linspace(0, 2**bits - 1, 576).astype(np.uint16).reshape(24, 24)
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_allclose(grey(tmp_path / "a.png", "here", 24, bits), deep / (2**bits - 1) * 255, atol=0.51)
    if bits == 16:
        refused(lambda: grey(tmp_path / "a.png", "here", 24, 12), "E330")


def test_a_photograph_turned_by_its_exif_tag_is_turned_back(tmp_path: Path) -> None:
    picture = Image.fromarray(np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1)))
    exif = Image.Exif()
    exif[0x0112] = 3
    picture.rotate(180).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(grey(tmp_path / "a.png", "here", 24), np.asarray(picture))


# --- who is a patient -------------------------------------------------------------------------------------------


def test_names_are_ordered_as_people_count() -> None:
    names = ["case (10).png", "case (9).png", "case (1).png", "b2", "b10", "b"]
    assert sorted(names, key=natural) == ["b", "b2", "b10", "case (1).png", "case (9).png", "case (10).png"]


def test_blocks_of_consecutive_files_of_one_class_count_as_one_patient(tmp_path: Path) -> None:
    samples = Images(str(folder(tmp_path / "d", 11)), block=4).catalogue({}, 0).samples
    numbers: dict[str, list[int]] = {}
    for sample in samples:
        numbers.setdefault(sample.patient, []).append(int(Path(sample.file).stem[6:-1]) + 100 * sample.label)
    assert sorted(numbers.values()) == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10, 11],
        [101, 102, 103, 104],
        [105, 106, 107, 108],
        [109, 110, 111],
    ]


def test_identical_files_are_one_patient_even_across_blocks(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", 8)
    (root / "a" / "case (8).png").write_bytes((root / "a" / "case (1).png").read_bytes())
    survey = Images(str(root), block=2).survey()
    patients = {Path(s.file).stem: s.patient for s in survey.catalogue.samples if s.label == 0}
    assert patients["case (1)"] == patients["case (2)"] == patients["case (7)"] == patients["case (8)"]
    assert len(set(patients.values())) == 3
    assert [(f.code, f.count) for f in survey.findings] == [("E305", 1)]


def test_only_files_of_equal_size_are_compared_and_equal_ones_found(tmp_path: Path) -> None:
    texts = ["one", "two", "three", "one", "two", "one"]
    paths = [tmp_path / str(i) for i in range(6)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    assert sorted(same_content(paths)) == [[0, 3, 5], [1, 4]]


def test_scanner_folders_hold_class_folders(tmp_path: Path) -> None:
    for scanner in ("GE", "SIEMENS"):
        folder(tmp_path / "d" / scanner, 2)
    for i, path in enumerate(sorted((tmp_path / "d" / "GE").rglob("*.png"))):
        Image.fromarray(levels(900 + i)).save(path)
    catalogue = Images(str(tmp_path / "d"), folders="scanner/class").catalogue({}, 0)
    assert Counter((s.scanner, catalogue.classes[s.label]) for s in catalogue.samples) == {
        ("GE", "a"): 2, ("GE", "b"): 2, ("SIEMENS", "a"): 2, ("SIEMENS", "b"): 2,
    }  # fmt: skip
    (tmp_path / "d" / "GE" / "b").rename(tmp_path / "d" / "GE" / "beta")
    refused(lambda: Images(str(tmp_path / "d"), folders="scanner/class").catalogue({}, 0), "E303")


# --- manifests --------------------------------------------------------------------------------------------------


def table(root: Path, text: str | bytes) -> str:
    path = root / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_manifest_names_everything(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", 2)
    lines = "\ufefflabel,file,extra,patient,split,scanner\r\n10,a/case (1).png,x,Jane,train,GE\r\n9,b/case (1).png,x,Joe,Test,GE\r\n\r\n"
    lines += '9,"a/case (2).png",x,Jane,training,SIEMENS\r\n'
    catalogue = Images(manifest=table(root, lines)).catalogue({}, 0)
    assert catalogue.classes == ("9", "10")
    assert [(Path(s.file).parent.name, s.label, s.patient, s.split, s.scanner) for s in catalogue.samples] == [
        ("a", 1, "p0001", "train", "GE"), ("a", 0, "p0001", "train", "SIEMENS"), ("b", 0, "p0002", "test", "GE"),
    ]  # fmt: skip
    assert Images(manifest=table(root, lines), classes=("10", "9")).catalogue({}, 0).classes == ("10", "9")


MANIFESTS: dict[str, tuple[str, str | bytes]] = {
    "D35 no label": ("E333", "file,label\na/case (1).png,\n"),
    "D35 label not among the classes": ("E333", "file,label\na/case (1).png,a\nb/case (1).png,q\n"),
    "D36 duplicate file": ("E334", "file,label\na/case (1).png,a\nb/case (1).png,b\na/../a/case (1).png,b\n"),
    "D36 no label column": ("E334", "file,class\na/case (1).png,a\n"),
    "D36 no file column": ("E334", "image,label\na/case (1).png,a\n"),
    "D36 column twice": ("E334", "file,label,label\na/case (1).png,a,b\n"),
    "D36 empty": ("E334", ""),
    "D36 only a header": ("E334", "file,label\n"),
    "D36 ragged": ("E334", "file,label\na/case (1).png,a,b\n"),
    "D36 UTF-16": ("E334", "file,label\na/case (1).png,a\n".encode("utf-16")),
    "D36 NUL": ("E334", "file,label\na/case (1).png,a\0\n"),
    "D36 cell of 200 kB": ("E334", "file,label\na," + "x" * 200_000 + "\n"),
    "D36 unknown split": ("E334", "file,label,split\na/case (1).png,a,SECRET\n"),
    "D36 half of the patients": ("E334", "file,label,patient\na/case (1).png,a,SECRET\nb/case (1).png,b,\n"),
    "D36 outside the folder": ("E334", "file,label\n../../etc/passwd,a\n"),
    "D36 absolute path": ("E334", "file,label\n/etc/passwd,a\n"),
    "D01 listed but not there": ("E301", "file,label\na/case (9).png,a\nb/case (1).png,b\n"),
    "D31 a folder as file": ("E308", "file,label\na,a\nb/case (1).png,b\n"),
    "D02 one class": ("E302", "file,label\na/case (1).png,a\na/case (2).png,a\n"),
    "D32 a table as image": ("E330", "file,label\ntable.csv,a\n"),
}


@pytest.mark.parametrize(("code", "text"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_bad_manifest_is_refused(tmp_path: Path, code: str, text: str | bytes) -> None:
    manifest = table(folder(tmp_path / "d", 2), text)
    classes = ("a", "b") if "label not among" in str(text) or ",q" in str(text) else None
    refused(lambda: Images(manifest=manifest, classes=classes).catalogue({}, 0), code)


def test_a_mistake_in_a_manifest_is_shown_with_its_line(tmp_path: Path) -> None:
    manifest = table(folder(tmp_path / "d", 2), 'file,label\n"a/case (1).png",a\n\nb/case (1).png,\n')
    assert refused(lambda: read_manifest(manifest, None), "E333").where == f"{manifest}:4"


def test_the_same_picture_under_two_patients_or_classes_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", 2)
    (root / "a" / "case (2).png").write_bytes((root / "b" / "case (1).png").read_bytes())
    refused(lambda: Images(str(root)).catalogue({}, 0), "E305")
    named = "file,label,patient\na/case (1).png,b,1\na/case (2).png,a,2\nb/case (1).png,a,3\n"
    refused(lambda: Images(manifest=table(root, named)).catalogue({}, 0), "E305")


def test_blocks_beside_named_patients_are_refused(tmp_path: Path) -> None:
    manifest = table(folder(tmp_path / "d", 2), "file,label,patient\na/case (1).png,a,1\nb/case (1).png,b,2\n")
    refused(lambda: Images(manifest=manifest, block=2).catalogue({}, 0), "E306")


# --- what is refused --------------------------------------------------------------------------------------------


def png_header(wide: int, high: int) -> bytes:
    head = b"IHDR" + struct.pack(">LLBBBBB", wide, high, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [head, data, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">L", len(c) - 4) + c + struct.pack(">L", zlib.crc32(c)) for c in chunks)


def bomb(path: Path) -> None:
    path.write_bytes(png_header(60000, 60000))


def large(path: Path) -> None:
    path.write_bytes(png_header(9000, 9000))


def cmyk(path: Path) -> None:
    Image.fromarray(levels(1)).convert("CMYK").save(path, "JPEG")


def floating(path: Path) -> None:
    Image.fromarray(levels(1).astype(np.float32)).save(path, "TIFF")


def animated(path: Path) -> None:
    frames = [Image.fromarray(levels(i)) for i in range(3)]
    frames[0].save(path, "PNG", save_all=True, append_images=frames[1:])


def pages(path: Path) -> None:
    frames = [Image.fromarray(levels(i)) for i in range(3)]
    frames[0].save(path, "TIFF", save_all=True, append_images=frames[1:])


def tiny(path: Path) -> None:
    Image.fromarray(levels(1, 4)).save(path, "PNG")


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


PICTURES = [bomb, large, cmyk, floating, animated, pages, tiny, postscript, nothing]


@pytest.mark.parametrize("spoil", PICTURES, ids=lambda spoil: spoil.__name__)
def test_a_bad_picture_is_refused_before_it_is_decoded(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    root = folder(tmp_path / "d", 3)
    spoil(root / "a" / "SECRET.png")
    error = refused(lambda: Images(str(root)).catalogue({}, 0), "E330")
    assert error.where.endswith("file 1 of 7 (sorted by path)")
    survey = Images(str(root), broken="skip").survey()
    assert [(f.code, f.count) for f in survey.findings] == [("E330", 1)]
    assert len(survey.catalogue.samples) == 6


def test_a_picture_cut_short_or_of_one_grey_is_refused_when_it_is_read(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", 3)
    cut = root / "a" / "case (1).png"
    cut.write_bytes(cut.read_bytes()[:200])
    source = Images(str(root))
    samples = source.catalogue({}, 0).samples
    refused(lambda: source.read(samples), "E330")
    Image.new("L", (24, 24), 7).save(cut)
    refused(lambda: source.read(samples), "E332")
    assert len(Images(str(root), broken="skip").read(samples)) == 5
    refused(lambda: Images(str(root), broken="skip").read(samples[:1]), "E304")


def test_a_folder_that_is_missing_empty_or_without_classes_is_refused(tmp_path: Path) -> None:
    refused(lambda: Images().catalogue({}, 0), "E301")
    refused(lambda: Images(str(tmp_path / "nowhere")).catalogue({}, 0), "E301")
    refused(lambda: Images(str(tmp_path)).catalogue({}, 0), "E302")
    Image.fromarray(levels(1)).save(tmp_path / "a.png")
    refused(lambda: Images(str(tmp_path)).catalogue({}, 0), "E302")
    refused(lambda: Images(str(folder(tmp_path / "one", 2, ("a",)))).catalogue({}, 0), "E302")
    refused(lambda: Images(manifest=str(tmp_path / "no.csv")).catalogue({}, 0), "E301")


def test_whatever_bytes_are_flipped_only_our_own_error_escapes(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        path = tmp_path / "a.png"
        Image.fromarray(levels(1)).save(path, kind)
        sound = path.read_bytes()
        for seed in range(60):
            rng = draw(4, "mutant", kind, seed)
            raw = bytearray(sound)
            for at in rng.integers(0, len(raw), 1 + seed % 5):
                raw[at] = rng.integers(256)
            path.write_bytes(raw)
            try:
                grey(path, "here", 16)
                outcomes["read"] += 1
            except DataError as error:
                outcomes[error.code] += 1
    assert outcomes["read"] > 50, outcomes
    assert outcomes["E330"] > 20, outcomes


# --- the real images --------------------------------------------------------------------------------------------


@needs("sars_cov2_ct")
def test_the_real_covid_slices_are_catalogued_in_blocks_and_read() -> None:
    source = Images(str(DATA / "sars_cov2_ct"), block=10)
    began = time.process_time()
    catalogue = source.catalogue({}, 0)
    assert time.process_time() - began < 1
    assert catalogue.classes == ("COVID", "NonCOVID")
    assert Counter(s.label for s in catalogue.samples) == {0: 313, 1: 308}
    assert len({s.patient for s in catalogue.samples}) == 63
    assert {max(n for _, n in group.items()) for group in [Counter(s.patient for s in catalogue.samples)]} == {10}
    cohort = source.read(catalogue.samples[::40])
    assert cohort.pixels.shape == (16, 128, 128)
    assert 0.3 < cohort.images().mean() < 0.9
    named = Images(manifest=str(DATA / "sars_cov2_ct" / "manifest.csv")).catalogue({}, 0)
    assert named.classes == ("0", "1")


@needs("iqothnccd_ct")
def test_the_real_lung_cancer_slices_are_read() -> None:
    source = Images(str(DATA / "iqothnccd_ct"), size=64, block=5)
    catalogue = source.catalogue({}, 0)
    assert catalogue.classes == ("benign", "malignant", "normal")
    assert len(catalogue.samples) == 120
    assert len({s.patient for s in catalogue.samples}) == 24
    assert source.read(catalogue.samples[::20]).pixels.shape == (6, 64, 64)
