"""CT slices from folders of DICOM files (data source `dicom`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Interval

from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Catalogue, Cohort, Sample, Source
from p2pftl.imaging.files import Finding, Survey, left_out, place, refusal, regular, squared, walk
from p2pftl.imaging.kernels import UNKNOWN
from p2pftl.imaging.manifest import Row, class_numbers, opaque, read_manifest
from p2pftl.imaging.pixels import hounsfield
from p2pftl.imaging.scanner import Scanner
from p2pftl.imaging.slice_file import Header, opened, parse, read_header

SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
LESION = ("no lesion", "lesion")
_XML_CAP = 2**20  # bytes

Label = Literal["manifest", "boxes", "manufacturer", "kernel", "kernel_group"]


@dataclass(frozen=True)
class Dicom(Source):
    """Single-frame CT images under `path`, as Hounsfield units.

    size: side of the images after antialiased resampling, pixels. label: where the class comes from: column of `manifest`
    (CSV `file,label[,patient][,split][,scanner]`, also the list of files to use), `boxes` (folder of Pascal VOC files named by
    SOPInstanceUID: lesion where one holds a box, else no lesion), or the header (manufacturer, kernel, kernel_group); left out,
    it is manifest or boxes, whichever is given. block: None = a patient is never divided. A number = blocks of that many
    neighbouring slice positions count as patients of their own; neighbouring slices are alike, so scores become
    optimistic: for the case where a scanner has a single patient. broken: refuse the folder for one bad file, or skip
    such files and count them. window: (centre, width) in HU.
    """

    path: str
    size: Annotated[int, Interval(ge=16, le=1024)] = 128
    label: Label | None = None
    manifest: str | None = None
    boxes: str | None = None
    block: Annotated[int, Ge(1)] | None = None
    broken: Literal["refuse", "skip"] = "refuse"
    window: tuple[float, float] = (-550.0, 1500.0)

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:
        """Read the headers below `path`. Raises DataError E301..E327, E333, E334."""
        survey = self.survey()
        return replace(survey.catalogue, notes=tuple(str(finding) for finding in survey.findings))

    def survey(self) -> Survey:
        """Return the catalogue with what was noticed: E327 mixed series, E326 unclear text, codes of skipped files."""
        rows = {row.file: row for row in read_manifest(self.manifest, self.path)} if self.manifest else None
        label = self._label()
        slices, skipped = self._headers(rows)
        names, places = self._names(label, slices, rows), [where for where, *_ in slices]
        unlabelled = [i for i, name in enumerate(names) if not name]
        if unlabelled and self.broken == "refuse":
            raise DataError("E333", f"{label} gives no label", where=places[unlabelled[0]], fix="use a manifest, or broken: skip")
        skipped += ["E333"] * len(unlabelled)
        kept = [i for i, name in enumerate(names) if name]
        if not kept:
            raise DataError("E301", f"no usable CT slice; left out: {', '.join(sorted(set(skipped)))}", where=self.path)
        wanted = LESION if label == "boxes" else None
        classes, numbers = class_numbers([names[i] for i in kept], wanted, [places[i] for i in kept], self.path)
        headers = [slices[i][2] for i in kept]
        table = [rows[slices[i][1]] if rows else None for i in kept]
        patients, strangers = _patients(headers, table)
        keys = _blocks(headers, patients, self.block) if self.block else patients
        samples = [
            Sample(
                file=str(slices[i][1]), index=0, label=number, patient=key,
                scanner=row.scanner if row and row.scanner else header.scanner, split=row.split if row else "",
            )
            for i, number, key, header, row in zip(kept, numbers, keys, headers, table, strict=True)
        ]  # fmt: skip
        order = sorted(range(len(kept)), key=lambda k: (patients[k], *_rank(headers[k])))
        findings = (*left_out(skipped), *strangers, *check_series(headers), *self._cautions(headers))
        return Survey(Catalogue(tuple(samples[k] for k in order), classes, False, "HU"), findings)

    def read(self, samples: Sequence[Sample]) -> Cohort:
        """Read pixels: [N, size, size] int16 HU. With `broken: skip` a slice whose pixels are bad is left out. Raises DataError E3xx."""
        return self.inspect(samples)[0]

    def inspect(self, samples: Sequence[Sample]) -> tuple[Cohort, tuple[Finding, ...]]:
        """Read pixels and say what was noticed: E325 for HU outside -2048..8192, codes of skipped slices.

        pixel_mm of the cohort is the median over its slices.
        """
        pixels = np.empty((len(samples), self.size, self.size), np.int16)
        labels: list[int] = []
        skipped: list[str] = []
        sides: list[float] = []
        strange = 0
        for number, sample in enumerate(samples, 1):
            try:
                picture, side, odd = _slice(Path(sample.file), f"{self.path}: slice {number} of the {len(samples)} asked for", self.size)
            except DataError as problem:
                if self.broken == "refuse":
                    raise
                skipped.append(problem.code)
                continue
            pixels[len(labels)] = picture
            labels.append(sample.label)
            strange += odd
            sides += [side] if side else []
        findings = left_out(skipped)
        if skipped and not labels:
            raise DataError("E304", f"none of {len(samples)} slices can be read: {', '.join(sorted(set(skipped)))}", where=self.path)
        if strange:
            findings += (Finding("E325", "HU outside -2048..8192 in some slices", strange),)
        pixel_mm = float(np.median(sides)) if sides else 0.0
        return Cohort(pixels[: len(labels)], np.array(labels, np.int64), "HU", self.window, pixel_mm), findings

    def _label(self) -> Label:
        label = self.label or ("manifest" if self.manifest else "boxes" if self.boxes else None)
        if label is None or (label == "manifest" and not self.manifest) or (label == "boxes" and not self.boxes):
            problem = f"label: {label} needs the key {label}" if label else "nothing says what the classes are"
            raise DataError("E333", problem, where=self.path, fix="give manifest, boxes, or label: kernel_group, kernel or manufacturer")
        return label

    def _headers(self, rows: dict[Path, Row] | None) -> tuple[list[tuple[str, Path, Header]], list[str]]:
        """Return (where, path, header) of the good files, and the codes of the others."""
        files = _candidates(self.path) if rows is None else [(row.where, file) for file, row in rows.items()]
        slices: list[tuple[str, Path, Header]] = []
        skipped: list[str] = []
        seen: dict[str, str] = {}
        for where, path in files:
            try:
                header = read_header(path, where)
                if header.phantom:
                    problem = "QualityControlImage (0028,0300) says phantom, not patient"
                    raise DataError("E319", problem, where=where, fix="give it to p2pftl twin watch, or set broken: skip")
                if header.instance and header.instance in seen:
                    raise DataError("E305", "is the same image as another file", where=where, fix=f"see {seen[header.instance]}; keep one")
            except DataError as problem:
                if self.broken == "refuse":
                    raise
                skipped.append(problem.code)
                continue
            seen[header.instance] = where
            slices.append((where, path, header))
        return slices, skipped

    def _names(self, label: Label, slices: Sequence[tuple[str, Path, Header]], rows: Mapping[Path, Row] | None) -> list[str]:
        headers = [header for *_, header in slices]
        if label == "manifest" and rows:
            return [rows[path].label for _, path, _ in slices]
        if label == "boxes":
            boxed = boxed_instances(self.boxes or "")
            return [LESION[header.instance in boxed] for header in headers]
        if label == "manufacturer":
            return [header.vendor for header in headers]
        if label == "kernel":
            return ["" if header.kernel == UNKNOWN else header.scanner for header in headers]
        return ["" if header.kernel_group == "unknown" else header.kernel_group for header in headers]

    def _cautions(self, headers: Sequence[Header]) -> tuple[Finding, ...]:
        unclear = sum(header.burned_in_unclear for header in headers)
        unknown = sum(header.kernel == UNKNOWN for header in headers)
        found = []
        if unclear:
            found.append(Finding("E326", "derived images that do not say whether text is burnt in: look at them", unclear))
        if unknown:
            found.append(Finding("E327", "slices with a reconstruction kernel that is missing or not known", unknown))
        if self.block:
            found.append(Finding("E306", f"blocks of {self.block} slice positions count as patients: scores are optimistic"))
        return tuple(found)


def boxed_instances(folder: str) -> frozenset[str]:
    """Return the SOPInstanceUIDs (file stems) whose Pascal VOC file in `folder` holds at least one box. Raises E301, E333."""
    return frozenset(path.stem for path in walk(folder) if path.suffix.lower() == ".xml" and _boxes(path, folder))


def _boxes(path: Path, folder: str) -> int:
    where, broken, root = f"{folder}: an annotation", False, None
    if regular(path, where) > _XML_CAP:
        raise DataError("E333", "is larger than 1 MB", where=where)
    problem: DataError | None = None
    try:
        text = path.read_bytes()
        broken = b"<!DOCTYPE" in text or b"<!ENTITY" in text
        root = None if broken else ElementTree.fromstring(text)
    except OSError as failure:
        problem = refusal(failure, where)
    except ElementTree.ParseError:
        broken = True
    if problem:
        raise problem
    if broken or root is None:
        raise DataError("E333", "is not a Pascal VOC file", where=where, fix="export the boxes again")
    return len(root.findall("object/bndbox"))


def check_series(headers: Iterable[Header]) -> tuple[Finding, ...]:
    """Look for series that mix what one series should share, lack positions, or miss slices (E327)."""
    series: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        series[header.series].append(header)
    count: dict[str, int] = defaultdict(int)
    for group in series.values():
        for what in _mixed(group):
            count[what] += 1
    return tuple(Finding("E327", what, n) for what, n in sorted(count.items()))


def _mixed(group: Sequence[Header]) -> Iterable[str]:
    if len({(h.rows, h.columns) for h in group}) > 1:
        yield "series that mix image sizes"
    if len({h.spacing for h in group}) > 1:
        yield "series that mix pixel spacings"
    if len({h.kernel for h in group}) > 1:
        yield "series that mix reconstruction kernels"
    if len({h.thickness for h in group}) > 1:
        yield "series that mix slice thicknesses"
    turns = {h.orientation and tuple(round(c, 2) for c in h.orientation) for h in group}
    if len(turns) > 1:
        yield "series that mix orientations"
    if None in turns or any(h.position is None for h in group):
        yield "series without usable slice positions, ordered by instance number"
        return
    if any(h.orientation and min(abs(h.orientation[0]), abs(h.orientation[4])) < 0.9 for h in group):
        yield "series that are not axial"
    places = sorted(h.position for h in group if h.position is not None)
    gaps = [b - a for a, b in pairwise(places)]
    if len(gaps) > 1 and max(gaps) - min(gaps) > max(0.1, 0.1 * float(np.median(gaps))):
        yield "series with missing, double or unevenly spaced slices"


def _candidates(root: str) -> list[tuple[str, Path]]:
    """Return (where, path) of the files that are, or claim to be, DICOM."""
    claimed = [path for path in walk(root) if path.suffix.lower() in SUFFIXES or (path.name != "DICOMDIR" and _marked(path, root))]
    if not claimed:
        raise DataError("E301", "no DICOM file in this folder", where=root, fix="files end in .dcm, or hold DICM at byte 128")
    return [(place(root, number, len(claimed)), path) for number, path in enumerate(claimed, 1)]


def _marked(path: Path, root: str) -> bool:
    problem: DataError
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as failure:
        problem = refusal(failure, root)
    raise problem


def _slice(path: Path, where: str, size: int) -> tuple[npt.NDArray[np.int16], float, bool]:
    """Return (HU [size, size], side of a pixel in mm or 0, whether HU were unusual)."""
    with opened(path, where) as file:
        header, data = parse(file, where)
        hu, strange = hounsfield(header, data, where)
    side = header.spacing[1] * header.columns / size if header.spacing else 0.0
    return np.rint(squared(hu, size)).astype(np.int16), side, strange


def _patients(headers: Sequence[Header], table: Sequence[Row | None]) -> tuple[list[str], tuple[Finding, ...]]:
    named = [row.patient if row and row.patient else header.patient for header, row in zip(headers, table, strict=True)]
    without = sum(not name for name in named)
    keys = [f"1{name}" if name else f"2{h.study or h.series}" for name, h in zip(named, headers, strict=True)]
    finding = Finding("E306", "slices without PatientID: each study counts as one patient", without)
    return opaque(keys), (finding,) if without else ()


def _rank(header: Header) -> tuple[str, float, str, int]:
    place = header.position if header.position is not None else float(header.number or 0)
    return header.study, round(place, 1), header.series, header.number or 0


def _blocks(headers: Sequence[Header], patients: Sequence[str], block: int) -> list[str]:
    """Cut each patient with more than `block` slice positions into runs of about `block` neighbouring ones.

    Reconstructions of one position (other kernel) stay in one block.
    """
    positions: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for patient, spot in sorted({(patient, _rank(header)[:2]) for patient, header in zip(patients, headers, strict=True)}):
        positions[patient].append(spot)
    keys = {}
    for patient, spots in positions.items():
        parts = -(-len(spots) // block)
        for i, spot in enumerate(spots):
            keys[patient, spot] = f"{patient}.{i * parts // len(spots) + 1:03d}" if parts > 1 else patient
    return [keys[patient, _rank(header)[:2]] for patient, header in zip(patients, headers, strict=True)]
