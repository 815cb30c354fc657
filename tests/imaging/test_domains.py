"""A domain for every twin: classes, patients and test images of its own, and no image in two places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Cohort, Sample
from p2pftl.imaging.domains import Domain, Domains, domain_of, greyed, shards_of
from p2pftl.imaging.npz import Npz
from p2pftl.imaging.phantom import Phantom
from p2pftl.imaging.scanner import Scanner
from p2pftl.imaging.split import Iid

TWINS = ("ct-01", "ct-02")


def archive(folder: Path, name: str, classes: int, count: int = 24) -> Npz:
    images = draw(1, name).integers(1, 255, (count, 16, 16), dtype=np.uint8)
    path = folder / f"{name}.npz"
    np.savez(path, train_images=images, train_labels=np.arange(count) % classes)
    return Npz(str(path), size=16, classes=tuple(f"{name} {k}" for k in range(classes)))


@pytest.fixture
def domains(tmp_path: Path) -> Domains:
    return Domains({"wrist": Domain(archive(tmp_path, "wrist", 2)), "skull": Domain(archive(tmp_path, "skull", 3), most=4)}, size=16)


def scanners(names: tuple[str, ...] = TWINS) -> dict[str, Scanner]:
    return dict.fromkeys(names, Scanner())


def refused(what: Callable[[], object], code: str) -> str:
    with pytest.raises(DataError) as caught:
        what()
    assert caught.value.code == code, str(caught.value)
    return str(caught.value)


def test_every_twin_has_its_own_domain_in_order_and_its_own_classes(domains: Domains) -> None:
    found = domains.catalogue(scanners(), 1)
    assert domains.held_by(TWINS) == {"ct-01": "wrist", "ct-02": "skull"}
    assert found.own == {"ct-01": ("wrist 0", "wrist 1"), "ct-02": ("skull 0", "skull 1", "skull 2")}
    assert len(found.classes) == 3
    assert {sample.label for sample in found.samples if domain_of(sample) == "wrist"} == {0, 1}


def test_twins_called_like_domains_have_the_one_of_their_name(domains: Domains) -> None:
    names = ("skull", "wrist")
    assert domains.held_by(names) == {"skull": "skull", "wrist": "wrist"}
    assert domains.catalogue(scanners(names), 1).own["wrist"] == ("wrist 0", "wrist 1")


def test_no_patient_and_no_image_stands_in_two_parts_or_with_two_twins(domains: Domains) -> None:
    found = domains.catalogue(scanners(), 1)
    made = shards_of(domains, found, TWINS, Iid(), 0.3, 0.2, 1)
    parts = [{sample.patient for sample in part} for shard in made.values() for part in (shard.train, shard.validation, shard.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(found.samples)
    assert {domain_of(sample) for sample in (*made["ct-02"].train, *made["ct-02"].test)} == {"skull"}


def test_so_many_patients_of_each_class_are_kept_at_most_and_the_seed_draws_them(domains: Domains) -> None:
    def kept(seed: int) -> list[int]:
        return [sample.index for sample in domains.catalogue(scanners(), seed).samples if domain_of(sample) == "skull"]

    assert len(kept(1)) == 12
    assert kept(1) == kept(1) != kept(2)


def test_shares_that_do_not_overlap_have_no_patient_in_common_and_together_are_all(tmp_path: Path) -> None:
    source = archive(tmp_path, "wrist", 3)
    both = Domains({"a": Domain(source, share=(0.0, 0.7)), "b": Domain(source, share=(0.7, 1.0))})
    for seed in (1, 2):
        found = both.catalogue(scanners(), seed).samples
        held = {name: {(one.file, one.index, one.label) for one in found if domain_of(one) == name} for name in ("a", "b")}
        whole = Domains({"a": Domain(source)}).catalogue(scanners(("a",)), seed).samples
        assert not held["a"] & held["b"]
        assert held["a"] | held["b"] == {(one.file, one.index, one.label) for one in whole}
        assert {one[2] for one in held["b"]} == {0, 1, 2}
    overlapping = Domains({"a": Domain(source, share=(0.0, 0.7)), "b": Domain(source, share=(0.5, 1.0))})
    assert len({one.place for one in whole}) == len(whole)
    assert "image in common" in refused(lambda: overlapping.catalogue(scanners(), 1), "E306")


def test_pixels_are_those_of_the_sources_whatever_the_mixture(domains: Domains) -> None:
    samples = domains.catalogue(scanners(), 1).samples
    chosen = (samples[3], samples[30], samples[0])
    cohort = domains.read(chosen)
    assert cohort.unit == "grey"
    assert cohort.pixels.dtype == np.uint8
    assert cohort.pixels.shape == (3, 16, 16)
    for pixels, sample in zip(cohort.pixels, chosen, strict=True):
        with np.load(sample.file) as file:
            np.testing.assert_array_equal(pixels, file["train_images"][sample.index])
    assert domains.read(()).pixels.shape == (0, 16, 16)


def test_hounsfield_units_are_seen_through_the_window_and_brought_to_size() -> None:
    pixels = np.full((1, 32, 32), -550, np.int16)
    pixels[0, :16] = 3000
    found = greyed(Cohort(pixels, np.zeros(1, np.int64), "HU"), 16)
    assert found.shape == (1, 16, 16)
    assert set(found[0, :8].ravel()) == {255}
    assert set(found[0, 8:].ravel()) <= {127, 128}


def test_phantoms_of_two_domains_are_other_patients() -> None:
    both = Domains({"a": Domain(Phantom(patients=8, slices=1)), "b": Domain(Phantom(patients=8, slices=1))})
    found = both.catalogue(scanners(), 1)
    assert found.synthetic
    labels = {name: [one.label for one in found.samples if domain_of(one) == name] for name in ("a", "b")}
    assert labels["a"] != labels["b"]  # drawn from seeds of their own


def test_one_image_in_two_domains_is_refused(tmp_path: Path) -> None:
    source = archive(tmp_path, "wrist", 3)
    shared = Domains({"a": Domain(source, only=("wrist 0", "wrist 1")), "b": Domain(source, only=("wrist 1", "wrist 2"))})
    assert "image in common" in refused(lambda: shared.catalogue(scanners(), 1), "E306")
    other = Domain(archive(tmp_path, "foot", 4), only=("foot 0", "foot 1"))
    apart = Domains({"a": other, "b": Domain(source, only=("wrist 1", "wrist 2"))})
    assert apart.catalogue(scanners(), 1).own["ct-02"] == ("wrist 1", "wrist 2")


def test_what_does_not_fit_is_refused(domains: Domains, tmp_path: Path) -> None:
    refused(lambda: domains.catalogue(scanners(("x", "y", "z")), 1), "E303")
    refused(lambda: replace(domains, left_out="ankle"), "E303")
    source = archive(tmp_path, "wrist", 3)
    assert "0.5 to 0.5 holds nobody" in refused(lambda: Domains({"a": Domain(source, share=(0.5, 0.5))}), "E303")
    assert "no patient of some class" in refused(
        lambda: Domains({"a": Domain(source, share=(0.0, 0.01))}).catalogue(scanners(("a",)), 1), "E304"
    )
    refused(lambda: Domains({"a": Domain(source, only=("wrist 0", "hand"))}).catalogue(scanners(("a",)), 1), "E333")
    refused(lambda: Domains({"a": Domain(source, only=("wrist 0",))}).catalogue(scanners(("a",)), 1), "E302")


def test_who_is_left_out_is_known_by_domain_or_by_name(domains: Domains) -> None:
    out = replace(domains, left_out="skull")
    assert [name for name in TWINS if out.is_left_out(name, TWINS)] == ["ct-02"]
    assert [name for name in ("skull", "wrist") if out.is_left_out(name, ("skull", "wrist"))] == ["skull"]
    assert not any(domains.is_left_out(name, TWINS) for name in TWINS)


def test_two_parts_of_an_archive_have_no_image_in_common_and_one_has_all_of_its_own() -> None:
    train, test = (Sample("a.npz", 3, 0, f"{part}-3", split=part) for part in ("train", "test"))
    assert train.place != test.place
    assert train.place == replace(train, label=1, patient="p").place
    assert Sample("a.png", 0, 0, "p", split="train").place == Sample("a.png", 0, 0, "p", split="test").place
