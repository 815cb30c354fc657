from __future__ import annotations

import io
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.npz import Npz

REAL = Path(os.environ.get("P2PFTL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "pneumoniamnist" / "pneumoniamnist.npz"


def sound(channels: int = 0) -> dict[str, np.ndarray]:
    arrays = {}
    for part, count in (("train", 12), ("val", 4), ("test", 6)):
        shape = (count, 16, 16) + ((channels,) if channels else ())
        arrays[f"{part}_images"] = draw(5, part).integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 3)[:, None].astype(np.uint8)
    return arrays


def archive(path: Path, arrays: Mapping[str, Any], **changes: Any) -> str:
    kept = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez_compressed(path, **kept)
    return str(path)


def refused(what: Callable[[], object], code: str) -> DataError:
    with pytest.raises(DataError) as caught:
        what()
    assert caught.value.code == code, str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.where
    return caught.value


def test_the_archives_own_parts_are_kept_and_every_image_is_a_patient(tmp_path: Path) -> None:
    catalogue = Npz(archive(tmp_path / "a.npz", sound())).catalogue({}, 0)
    assert catalogue.classes == ("0", "1", "2")
    assert Counter(s.split for s in catalogue.samples) == {"train": 12, "val": 4, "test": 6}
    assert len({s.patient for s in catalogue.samples}) == 22


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [0, 1])
def test_rows_come_back_in_the_order_asked_for(tmp_path: Path, save: Callable[..., None], channels: int) -> None:
    arrays = sound(channels)
    save(tmp_path / "a.npz", **arrays)
    arrays = {name: array[..., 0] if array.ndim == 4 else array for name, array in arrays.items()}
    source = Npz(str(tmp_path / "a.npz"), size=16)
    samples = source.catalogue({}, 0).samples
    chosen = [samples[i] for i in (21, 3, 12, 0, 11, 15)]
    cohort = source.read(chosen)
    for pixels, label, sample in zip(cohort.pixels, cohort.labels, chosen, strict=True):
        np.testing.assert_array_equal(pixels, arrays[f"{sample.split}_images"][sample.index])
        assert label == arrays[f"{sample.split}_labels"][sample.index, 0]


def test_one_sample_may_be_asked_for_twice(tmp_path: Path) -> None:
    source = Npz(archive(tmp_path / "a.npz", sound()), size=16)
    samples = source.catalogue({}, 0).samples
    cohort = source.read([samples[2], samples[5], samples[2]])
    np.testing.assert_array_equal(cohort.pixels[0], cohort.pixels[2])
    np.testing.assert_array_equal(cohort.pixels[0], source.read([samples[2]]).pixels[0])


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_grey_and_colour_become_grey_of_the_size_wanted(tmp_path: Path, channels: int) -> None:
    source = Npz(archive(tmp_path / "a.npz", sound(channels)), size=32)
    cohort = source.read(source.catalogue({}, 0).samples)
    assert cohort.pixels.shape == (22, 32, 32)
    assert cohort.pixels.dtype == np.uint8


def test_classes_may_be_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", sound())
    assert Npz(path, classes=("x", "y", "z", "never")).catalogue({}, 0).classes == ("x", "y", "z", "never")
    refused(lambda: Npz(path, classes=("x", "y")).catalogue({}, 0), "E333")


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "no train images": ("E330", {"train_images": None}),
    "no labels": ("E333", {"val_labels": None}),
    "D35 fewer labels than images": ("E333", {"train_labels": np.zeros(11, np.uint8)}),
    "D35 several labels per image": ("E333", {"train_labels": np.zeros((12, 14), np.uint8)}),
    "D35 labels that are text": ("E333", {"train_labels": np.array(["a"] * 12)}),
    "D35 labels that are fractions": ("E333", {"train_labels": np.full(12, 0.5)}),
    "D35 negative label": ("E333", {"train_labels": np.arange(12) - 1}),
    "D02 one class": ("E302", {f"{part}_labels": np.zeros(n, np.uint8) for part, n in (("train", 12), ("val", 4), ("test", 6))}),
    "D33 volumes": ("E331", {"train_images": np.zeros((12, 16, 16, 16), np.uint8)}),
    "D33 vectors": ("E331", {"train_images": np.zeros((12, 256), np.uint8)}),
    "D34 floating point": ("E331", {"train_images": np.full((12, 16, 16), np.nan)}),
    "D33 4 x 4 pixels": ("E331", {"train_images": np.zeros((12, 4, 4), np.uint8)}),
    "Fortran order": ("E331", {"train_images": np.asfortranarray(sound()["train_images"])}),
    "pickle": ("E330", {"train_labels": np.array([{"a": 1}] * 12, object)}),
}


@pytest.mark.parametrize(("code", "changes"), BAD.values(), ids=BAD)
def test_a_bad_archive_is_refused(tmp_path: Path, code: str, changes: dict[str, Any]) -> None:
    path = archive(tmp_path / "a.npz", sound(), **changes)
    refused(lambda: Npz(path).catalogue({}, 0), code)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    refused(lambda: Npz(str(tmp_path / "no.npz")).catalogue({}, 0), "E301")
    refused(lambda: Npz(str(tmp_path)).catalogue({}, 0), "E308")
    for content in (b"", b"nothing", b"\x93NUMPY\x01\x00"):
        (tmp_path / "b.npz").write_bytes(content)
        refused(lambda: Npz(str(tmp_path / "b.npz")).catalogue({}, 0), "E330")


def test_an_array_that_claims_more_than_it_holds_is_refused_without_allocating(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (4_000_000, 4096, 4096)})
    labels = io.BytesIO()
    np.lib.format.write_array_header_1_0(labels, {"descr": "|u1", "fortran_order": False, "shape": (4_000_000,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("train_images.npy", head.getvalue())
        file.writestr("train_labels.npy", labels.getvalue())
    refused(lambda: Npz(str(tmp_path / "a.npz")).catalogue({}, 0), "E330")


def test_an_array_that_inflates_implausibly_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", sound(), train_images=np.zeros((1300, 256, 256), np.uint8), train_labels=np.arange(1300) % 3)
    refused(lambda: Npz(path).catalogue({}, 0), "E330")


def test_an_archive_that_changed_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", sound())
    samples = Npz(path).catalogue({}, 0).samples
    archive(tmp_path / "a.npz", {name: value[:3] for name, value in sound().items()})
    refused(lambda: Npz(path).read(samples), "E330")


def test_whatever_bytes_are_flipped_only_our_own_error_escapes(tmp_path: Path) -> None:
    path = Path(archive(tmp_path / "a.npz", sound()))
    raw, outcomes = path.read_bytes(), Counter[str]()
    for seed in range(200):
        rng = draw(6, "mutant", seed)
        mutant = bytearray(raw)
        for at in rng.integers(0, len(raw), 1 + seed % 5):
            mutant[at] = rng.integers(256)
        path.write_bytes(mutant)
        try:
            source = Npz(str(path))
            source.read(source.catalogue({}, 0).samples)
            outcomes["read"] += 1
        except DataError as error:
            outcomes[error.code] += 1
    assert outcomes["E330"] > 50, outcomes


@pytest.mark.skipif(not REAL.is_file(), reason="the real archive (../shared/data/pneumoniamnist) is not here")
def test_the_real_archive_is_read_row_for_row() -> None:
    source = Npz(str(REAL))
    samples = source.catalogue({}, 0).samples
    assert Counter(s.split for s in samples) == {"train": 4708, "val": 524, "test": 624}
    with np.load(REAL) as oracle:
        chosen = [s for s in samples if s.split == "val"]
        np.testing.assert_array_equal(source.read(chosen).pixels, oracle["val_images"])
        np.testing.assert_array_equal(source.read(chosen).labels, oracle["val_labels"][:, 0])


def test_a_stored_member_that_has_less_than_it_says_is_cut_short_and_nothing_of_the_next_is_read(tmp_path: Path) -> None:
    arrays = sound()
    np.savez(tmp_path / "a.npz", **arrays)
    samples = Npz(str(tmp_path / "a.npz"), size=16).catalogue({}, 0).samples
    with zipfile.ZipFile(tmp_path / "a.npz") as whole, zipfile.ZipFile(tmp_path / "b.npz", "w") as part:
        for name in whole.namelist():
            content = whole.read(name)
            part.writestr(name, content[:-256] if name == "train_images.npy" else content)
    moved = [replace(sample, file=str(tmp_path / "b.npz")) for sample in samples]
    assert "train_images is cut short" in str(refused(lambda: Npz(str(tmp_path / "b.npz"), size=16).read(moved[:1]), "E330"))
