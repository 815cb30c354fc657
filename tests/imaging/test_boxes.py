from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from p2pftl.errors import DataError
from p2pftl.imaging.anatomy.patient import Patient
from p2pftl.imaging.boxes import BoxCohort, enclosing, in_plane, outlined
from p2pftl.imaging.boxes_files import CocoBoxes, DicomBoxes, left_out
from p2pftl.imaging.boxes_phantom import LEAST_MM2, PhantomBoxes, View, imaged
from p2pftl.imaging.cohort import Sample, Shard
from p2pftl.imaging.scanner import Scanner
from tests.imaging.ct_file import SECRET, elements, encode

SMALL = PhantomBoxes(patients=4, slices=2, size=64)
ILL = Sample("", 0, 1, "p0001")


def test_parts_that_touch_at_a_corner_are_one_and_small_ones_are_left_out() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1, 1] = mask[2, 2] = mask[3, 3] = mask[0, 6] = True
    assert in_plane(enclosing(mask, 2)).tolist() == [[1, 1, 4, 4]]
    assert in_plane(enclosing(mask, 1), (2, 10)).tolist() == [[12, 0, 14, 10], [2, 10, 8, 40]]
    assert in_plane(enclosing(np.zeros((3, 3), bool), 1)).shape == (0, 4)
    volume = np.zeros((4, 5, 6), bool)
    volume[1:3, 0:5, 2:4] = True
    assert in_plane(enclosing(volume, 1)).tolist() == [[2, 1, 4, 3]]  # depth is projected away


def test_each_box_is_the_tight_frame_of_a_lesion() -> None:
    case = SMALL.case(ILL, Scanner(), seed=3)
    done, patient = imaged(case), Patient(case.seed, "nodule", 64)
    for level, boxes in zip(patient.levels(2), done.boxes, strict=True):
        lesion = patient.slice(level, Scanner().slice_mm)[2]
        assert len(boxes)
        boxed = np.zeros_like(lesion)
        for left, top, right, bottom in boxes.astype(int):
            part = lesion[top:bottom, left:right]
            assert part[0].any()
            assert part[-1].any()
            assert part[:, 0].any()
            assert part[:, -1].any()
            boxed[top:bottom, left:right] = True
        assert (lesion & ~boxed).sum() < LEAST_MM2 / patient.pixel_mm**2 * 7


def test_the_radiograph_is_denser_where_the_lesions_are() -> None:
    source = replace(SMALL, view="radiograph", task="consolidation")
    case = source.case(ILL, Scanner(), seed=2)
    ill, sound = imaged(case), imaged(replace(case, pathology="normal"))
    denser = ill.pixels[0].astype(int) - sound.pixels[0]
    inside = np.zeros((64, 64), bool)
    for left, top, right, bottom in np.rint(ill.boxes[0]).astype(int):
        inside[top:bottom, left:right] = True
    assert ill.pixels.shape == (1, 64, 64)
    assert 0 < inside.mean() < 0.6
    assert denser[inside].mean() > 10 > abs(denser[~inside].mean())
    assert [len(boxes) for boxes in sound.boxes] == [0]


@pytest.mark.parametrize("view", ["ct", "radiograph"])
def test_patients_are_drawn_once_and_read_back_as_they_are_drawn_here(view: View, phantoms: Path) -> None:
    source = replace(SMALL, view=view, cache=str(phantoms))
    samples = source.catalogue({}, 7).samples
    assert len(samples) == (8 if view == "ct" else 4)
    scanners = {"ct-01": Scanner(), "ct-02": Scanner(kernel="bone", dose=0.5)}
    test = tuple(sample for sample in samples if sample.patient == samples[0].patient)
    rest = tuple(sample for sample in samples if sample.patient != samples[0].patient)
    shards = {"ct-01": Shard(rest, (), test), "ct-02": Shard(rest, (), test)}
    told: list[tuple[int, int]] = []
    ready = source.prepare(shards, scanners, 7, lambda done, of: told.append((done, of)))
    assert told == [(done, 7) for done in range(8)]
    assert source.prepare(shards, scanners, 7, lambda done, of: told.append((done, of))) == ready
    assert told[-1] == (7, 7)
    assert ready["ct-01"].test == ready["ct-02"].test
    cohort = source.read(ready["ct-02"].train)
    here = [imaged(source.case(sample, scanners["ct-02"], 7)) for sample in rest]
    assert cohort.labels.tolist() == [sample.label for sample in rest]
    for row, (sample, done) in enumerate(zip(rest, here, strict=True)):
        assert np.array_equal(cohort.pixels[row], done.pixels[sample.index])
        assert np.array_equal(cohort.boxes[row], done.boxes[sample.index])
        assert len(cohort.boxes[row]) == len(cohort.kinds[row])
        assert bool(len(cohort.boxes[row])) == bool(sample.label)
    other = source.read(ready["ct-01"].train)
    assert not np.array_equal(other.pixels, cohort.pixels)
    assert all(np.array_equal(*pair) for pair in zip(other.boxes, cohort.boxes, strict=True))


def test_what_was_not_drawn_or_is_damaged_is_refused(tmp_path: Path) -> None:
    assert refused(lambda: SMALL.read(SMALL.catalogue({}, 1).samples), "E301")
    (tmp_path / "x.npz").write_bytes(b"PK\3\4 not really")
    assert refused(lambda: SMALL.read([replace(ILL, file=str(tmp_path / "x.npz"))]), "E330")
    assert refused(lambda: replace(SMALL, task="lesion_type").catalogue({}, 1), "E304")
    assert len(SMALL.read([])) == 0


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "boxes").write_text("a file where a folder should be")
    source = replace(SMALL, cache=str(tmp_path))
    shards = {"ct-01": Shard(source.catalogue({}, 1).samples[:1], (), ())}
    refused(lambda: source.prepare(shards, {"ct-01": Scanner()}, 1, lambda done, of: None), "E307")


def test_an_image_counts_as_its_lowest_kind() -> None:
    with pytest.raises(AssertionError):
        BoxCohort(np.zeros((1, 4, 4), np.uint8), np.zeros(1, np.int64), "grey")


def test_a_picture_shows_frames_in_their_colour_and_what_is_inside_in_grey() -> None:
    red = (255, 0, 0)
    shown = outlined(np.full((6, 8), 0.2, np.float32), [(np.array([[1, 1, 4, 5], [6, -3, 20, 2]], np.float32), red)])
    framed = (shown == red).all(2)
    assert framed[1, 1:4].all()
    assert framed[1:5, 3].all()
    assert framed[:2, 7].all()
    assert framed.sum() == 10 + 4
    assert (shown[2, 2] == 51).all()


def coco(folder: Path, **changes: Any) -> CocoBoxes:
    """Two pictures of 40 x 20 pixels; the first with a box of each of two categories."""
    folder.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.fromarray(np.arange(800, dtype=np.uint8).reshape(20, 40)).save(folder / name)
    document = {
        "categories": [{"id": 3, "name": "lung"}, {"id": 5, "name": "opacity"}],
        "images": [{"id": i, "file_name": f"{name}.png", "width": 40, "height": 20, "patient": SECRET} for i, name in ((7, "a"), (8, "b"))],
        "annotations": [
            {"image_id": 7, "category_id": 5, "bbox": [4, 2, 10, 5]},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 60, 20]},
        ],
    }
    (folder / "boxes.json").write_text(json.dumps(document | changes))
    return CocoBoxes(str(folder), str(folder / "boxes.json"), size=80)


def test_coco_boxes_follow_their_image_to_its_new_size(tmp_path: Path) -> None:
    source = coco(tmp_path)
    catalogue = source.catalogue({}, 0)
    assert catalogue.classes == ("nothing", "lung", "opacity")
    assert [(sample.label, sample.patient) for sample in catalogue.samples] == [(1, "p0001"), (0, "p0001")]
    cohort = source.read(catalogue.samples)
    assert cohort.boxes[0].tolist() == [[8, 8, 28, 28], [0, 0, 80, 80]]  # the second reached out of its image
    assert cohort.kinds[0].tolist() == [2, 1]
    assert cohort.boxes[1].shape == (0, 4)
    assert cohort.pixels.shape == (2, 80, 80)
    only = replace(source, classes=("opacity",))
    assert only.catalogue({}, 0).classes == ("nothing", "opacity")
    assert only.read(only.catalogue({}, 0).samples).kinds[0].tolist() == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [{"id": 7, "file_name": "../a.png", "width": 40, "height": 20}]},
        {"images": [{"id": 7, "file_name": "a.png", "width": 0, "height": 20}]},
        {"annotations": [{"image_id": 9, "category_id": 5, "bbox": [0, 0, 1, 1]}]},
        {"annotations": [{"image_id": 7, "category_id": 5, "bbox": [0, 0, 1]}]},
        {"annotations": "none"},
        {"categories": [3]},
    ],
)
def test_a_file_that_is_not_coco_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    refused(lambda: coco(tmp_path, **changes).catalogue({}, 0), "E333")


def test_a_category_that_is_not_there_gets_a_suggestion(tmp_path: Path) -> None:
    assert "opacity" in refused(lambda: replace(coco(tmp_path), classes=("opacities",)).catalogue({}, 0), "E333")
    (tmp_path / "boxes.json").write_text("{")
    refused(lambda: CocoBoxes(str(tmp_path), str(tmp_path / "boxes.json")).catalogue({}, 0), "E333")
    refused(lambda: CocoBoxes(str(tmp_path), str(tmp_path / "none.json")).catalogue({}, 0), "E301")


def test_an_empty_box_is_refused(tmp_path: Path) -> None:
    source = coco(tmp_path, annotations=[{"image_id": 7, "category_id": 5, "bbox": [50, 0, 5, 5]}])
    refused(lambda: source.read(source.catalogue({}, 0).samples), "E333")


VOC = "<annotation><object><name>A</name><bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>16</xmax><ymax>12</ymax></bndbox></object></annotation>"


def test_voc_boxes_follow_their_slice_to_its_new_size(tmp_path: Path) -> None:
    slices, voc = tmp_path / "slices", tmp_path / "voc"
    slices.mkdir()
    voc.mkdir()
    for k in range(2):
        (slices / f"{k}.dcm").write_bytes(encode(elements(32, instance=f"1.2.3.{k}", z=float(k))))
    (voc / "1.2.3.1.xml").write_text(VOC.format(9))
    source = DicomBoxes(str(slices), str(voc), size=64)
    catalogue = source.catalogue({}, 0)
    cohort = source.read(catalogue.samples)
    assert catalogue.classes == ("no lesion", "lesion")
    assert cohort.labels.tolist() == [sample.label for sample in catalogue.samples] == [0, 1]
    assert cohort.boxes[1].tolist() == [[16, 8, 32, 24]]  # pixels 9 to 16, counted from 1, at twice the size
    assert cohort.boxes[0].shape == (0, 4)
    for wrong in (VOC.format("nine"), VOC.format(30), "<!DOCTYPE a>" + VOC.format(9), "<annotation>"):
        (voc / "1.2.3.1.xml").write_text(wrong)
        refused(lambda: source.read(catalogue.samples), "E333")


def test_the_real_boxes_are_read(real_data: Path) -> None:
    folder = real_data / "dicom_ct"
    source = DicomBoxes(str(folder), str(folder / "annotations_voc"), size=128)
    samples = source.catalogue({}, 0).samples
    cohort = source.read(samples)
    assert sum(map(len, cohort.boxes)) == cohort.labels.sum() == 37
    assert len({sample.patient for sample in samples if sample.label}) == 2
    assert cohort.boxes[int(np.argmax(cohort.labels))].max() < 128
    folder = real_data / "xray_boxes"
    opacities = ("Ground Glass Opacities", "Consolidation")
    radiographs = CocoBoxes(str(folder / "images"), str(folder / "annotations_coco.json"), opacities, size=64)
    listed = radiographs.catalogue({}, 0).samples
    assert (len(listed), len({sample.patient for sample in listed})) == (36, 29)
    assert np.bincount(np.concatenate(radiographs.read(listed[:3]).kinds)).shape == (3,)


def refused(act: Any, code: str) -> str:
    """The message with which `act` is refused; it leads back to nothing that could name a patient."""
    try:
        act()
    except DataError as problem:
        refusal = problem
    else:
        raise AssertionError("not refused")
    assert (refusal.code, refusal.__context__) == (code, None)
    assert SECRET not in str(refusal)
    return str(refusal)


# ---------------------------------------------------------------------- leaving patients out in turn


def of_folds(folds: int, kinds: Sequence[int] = (1, 0, 1, 0, 0, 1, 1, 0)) -> list[set[str]]:
    """Patients tested on in each fold; two images each."""
    samples = [Sample("x.png", row, kind, f"p{place}") for place, kind in enumerate(kinds) for row in (2 * place, 2 * place + 1)]
    found = [left_out(samples, folds, fold) for fold in range(1, folds + 1)]
    assert all([replace(sample, split="") for sample in one] == samples for one in found)
    return [{sample.patient for sample in one if sample.split == "test"} for one in found]


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_every_patient_is_left_out_once_and_findings_are_in_every_fold(folds: int) -> None:
    tested = of_folds(folds)
    assert sorted(patient for one in tested for patient in one) == [f"p{place}" for place in range(8)]
    assert all(one & {"p0", "p2", "p5", "p6"} for one in tested)


def test_a_patient_with_one_finding_counts_as_one_who_has_it() -> None:
    samples = [Sample("", row, label, patient) for row, (label, patient) in enumerate([(0, "a"), (1, "a"), (1, "b"), (0, "c")])]
    tested = {sample.patient for sample in left_out(samples, 2, 2) if sample.split == "test"}
    assert tested == {"b"}, "a and b have the finding, c is the first of the others"


def test_no_folds_leave_the_drawing_to_the_split_and_an_empty_fold_is_refused() -> None:
    samples = [Sample("", row, 1, f"p{row}") for row in range(3)]
    assert left_out(samples, 0, 1) == tuple(samples)
    for folds, fold in ((3, 4), (1, 1)):
        with pytest.raises(DataError, match="leaves nobody") as caught:
            left_out(samples, folds, fold)
        assert caught.value.code == "E304"
