"""CT files with the wider header of a scanner, and dose reports, for the tests of sync. Every text holds a canary."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from p2pftl.device.ingest import Intake, Taken
from p2pftl.device.log import load
from p2pftl.device.show import SUFFIX
from p2pftl.device.state import State
from tests.imaging.ct_file import SECRET, Element, elements, encode, text, uid

KVP, CURRENT, TIME, EXPOSURE = 0x00180060, 0x00181151, 0x00181150, 0x00181152
SERIAL, STATION, MODEL, SOFTWARE, KERNEL = 0x00181000, 0x00081010, 0x00081090, 0x00181020, 0x00181210
ROTATION, PITCH, FEED, SPEED, CTDI = 0x00189305, 0x00189311, 0x00189310, 0x00189309, 0x00189345
DATE, HOUR, EVENT = 0x00080022, 0x00080032, 0x00083010


def double(value: float) -> bytes:
    return struct.pack("<d", value)


def image(
    number: int = 1, *, series: int = 1, study: int = 1, z: float = 0.0, hour: str = "101500", serial: str = f"{SECRET}9", **more: Any
) -> dict[int, Element]:
    """One slice of a SIEMENS scanner with everything the twin reads; more: tag=(VR, bytes), None leaves the tag out."""
    tags = elements(16, series=f"1.2.3.{study}.{series}", instance=f"1.2.3.{study}.{series}.{number}", z=z)
    tags |= {
        0x0020000D: ("UI", uid(f"1.2.3.{study}")), KVP: ("DS", text("120")), CURRENT: ("IS", text("200")), TIME: ("IS", text("500")),
        EXPOSURE: ("IS", text("80")), SERIAL: ("LO", text(serial)), STATION: ("SH", text(SECRET)), MODEL: ("LO", text("Sensation 10")),
        SOFTWARE: ("LO", text("syngo CT 2006G")), PITCH: ("FD", double(1.0)), SPEED: ("FD", double(40.0)), CTDI: ("FD", double(7.5)),
        DATE: ("DA", text("20240229")), HOUR: ("TM", text(hour)), 0x00180015: ("CS", text(SECRET)), 0x00181030: ("LO", text(SECRET)),
    }  # fmt: skip
    return {tag: value for tag, value in {**tags, **more.get("tags", {})}.items() if value is not None}


NOW = 1_709_300_000.0


def take(out: Path, files: Sequence[Path], settle: bool = True) -> list[Taken]:
    with Intake(out) as intake:
        taken = [intake.take(path, "a file", NOW) for path in files]
        if settle:
            intake.settle(NOW)
        intake.commit()
    return taken


def states(out: Path) -> dict[str, State]:
    return {path.name.removesuffix(SUFFIX): load(path).state for path in sorted(out.glob(f"*{SUFFIX}"))}


def a_series(folder: Path, count: int = 5, **more: object) -> list[Path]:
    return [drop(folder, f"{more}-{i}.dcm", image(i, z=2.0 * i, **more)) for i in range(count)]  # type: ignore[arg-type]


def drop(folder: Path, name: str, tags: Mapping[int, Element], cut: int | None = None) -> Path:
    """Write a file, only its first `cut` bytes where given."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(tags)[:cut])
    return path


# ---------------------------------------------------------------------- dose reports


def code(value: str, scheme: str = "DCM") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, SECRET
    return item


def _item(kind: str, name: str) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = "CONTAINS", kind, [code(name)]
    return item


def container(name: str, content: Sequence[Dataset]) -> Dataset:
    item = _item("CONTAINER", name)
    item.ContinuityOfContent, item.ContentSequence = "SEPARATE", list(content)
    return item


def number(name: str, value: float | str | None, unit: str) -> Dataset:
    """A NUM item; value None: no measured value, as some scanners write it."""
    item = _item("NUM", name)
    item.MeasuredValueSequence = []
    if value is not None:
        measured = Dataset()
        measured.add_new(0x0040A30A, "DS", str(value))
        measured.MeasurementUnitsCodeSequence = [code(unit, "UCUM")] if unit else []
        item.MeasuredValueSequence = [measured]
    return item


def uid_item(name: str, value: str) -> Dataset:
    item = _item("UIDREF", name)
    item.UID = value
    return item


def text_item(name: str, value: str) -> Dataset:
    item = _item("TEXT", name)
    item.TextValue = value
    return item


def time_item(name: str, value: str) -> Dataset:
    item = _item("DATETIME", name)
    item.DateTime = value
    return item


def mode_item(value: str, scheme: str = "DCM") -> Dataset:
    item = _item("CODE", "113820")
    item.ConceptCodeSequence = [code(value, scheme)]
    return item


def source(name: str = "A", kvp: float | None = 120, ma: float | None = 210, rotation: float | None = 0.5) -> Dataset:
    return container(
        "113831",
        [text_item("113832", name), number("113733", kvp, "kV"), number("113734", ma, "mA"), number("113834", rotation, "s")],
    )


def event(
    uid: str = "1.2.9.1", *, seconds: float | None = 4.0, sources: Sequence[Dataset] | None = None, mode: str = "116152004",
    ctdi: float | None = 8.0, dlp: float | None = 280.0, started: str = "", extra: Sequence[Dataset] = (),
) -> Dataset:  # fmt: skip
    """One CT Acquisition (TID 10013)."""
    parameters = [
        number("113824", seconds, "s"), number("113825", 350, "mm"), number("113826", 0.6, "mm"), number("113827", 38.4, "mm"),
        number("113828", 1.2, "{ratio}"), number("113830", None, ""), *(sources if sources is not None else [source()]),
    ]  # fmt: skip
    dose = container("113829", [number("113830", ctdi, "mGy"), number("113838", dlp, "mGy.cm")])
    content = [text_item("125203", SECRET), mode_item(mode, "SCT"), container("113822", parameters), dose, *extra]
    content += [uid_item("113769", uid)] if uid else []
    content += [time_item("111526", started)] if started else []
    return container("113819", content)


def report(
    events: Sequence[Dataset], *, study: int = 1, instance: str = "1.2.8.1", total: int | None = None, serial: str = f"{SECRET}9",
    begun: str = "20240229101500", **more: Any,
) -> FileDataset:  # fmt: skip
    """A dose report (TID 10011) of the scanner of `image`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = instance, ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = meta.MediaStorageSOPClassUID, instance, "SR"
    data.Manufacturer, data.ManufacturerModelName, data.DeviceSerialNumber = f"SIEMENS {SECRET}", "Sensation 10", serial
    data.StationName, data.InstitutionName = SECRET, f"Hospital {SECRET}"
    data.PatientName, data.PatientID, data.StudyInstanceUID, data.SeriesInstanceUID = f"{SECRET}^Jane", SECRET, f"1.2.3.{study}", "1.2.7"
    data.ContentDate, data.ContentTime = "20240229", "102000"
    data.ValueType, data.ContinuityOfContent, data.ConceptNameCodeSequence = "CONTAINER", "SEPARATE", [code("113701")]
    counted = number("113812", len(events) if total is None else total, "{events}")
    data.ContentSequence = [
        text_item("121013", SECRET), text_item("121016", SECRET), *([time_item("113809", begun)] if begun else []),
        container("113811", [counted, number("113813", 560, "mGy.cm")]), *events,
    ]  # fmt: skip
    for name, value in more.items():
        setattr(data, name, value)
    return data


def save(data: FileDataset, folder: Path, name: str = "dose.dcm") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data.save_as(folder / name, enforce_file_format=True)
    return folder / name
