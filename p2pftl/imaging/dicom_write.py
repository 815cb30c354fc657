"""CT Image Storage files shaped like four vendors' (PS3.3 A.3), for synthetic images only.

Explicit VR little endian, 12 bits unsigned, slope 1, intercept -1024. Headers repeat what those vendors' files really
hold, odd units included, so that reading them is a real exercise; every file says that it is synthetic.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from p2pftl.imaging.scanner import Scanner

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://p2pftl.invalid/synthetic")
DATE, TIME = "20200101", "120000"  # no clock: the same study is the same file
INTERCEPT, TOP = -1024, 4095
COLLIMATION_MM, PITCH, ROTATION_S = 40.0, 1.0, 0.5
CTDI_PER_MAS = 0.07  # mGy per mA s at 120 kV in the body phantom


@dataclass(frozen=True)
class Vendor:
    """How one vendor's files look: texts, kernel names by group, focal spots and source distances in mm.

    generator: GeneratorPower as it writes it, kW or W; exposure_share: what it writes as Exposure per mA s;
    names_rotation: whether RevolutionTime is there.
    """

    manufacturer: str
    model: str
    software: str
    kernels: dict[str, str]
    filter: str
    focal_spots: tuple[float, ...]
    generator: int
    sid: float
    sdd: float
    exposure_share: float = 1.0
    names_rotation: bool = True


# Kernel names, filters, distances: SCANNER_TWIN.md section 11; odd units as seen in public files: section 2.
VENDORS = {
    "SIEMENS": Vendor(
        "SIEMENS", "SOMATOM Definition AS", "syngo CT VA48A", {"soft": "B30f", "standard": "B40f", "lung": "B60f", "bone": "B70f"},
        "FLAT", (1.2,), 40, 595, 1085.6, exposure_share=0.8, names_rotation=False,
    ),
    "GE": Vendor(
        "GE MEDICAL SYSTEMS", "LightSpeed VCT", "07MW18.4", {"soft": "SOFT", "standard": "STANDARD", "lung": "LUNG", "bone": "BONEPLUS"},
        "BODY FILTER", (1.2,), 48000, 541, 949.075, exposure_share=0.05,
    ),
    "PHILIPS": Vendor(
        "Philips", "Ingenuity CT", "4.1.7", {"soft": "A", "standard": "B", "lung": "YC", "bone": "D"},
        "B", (1.0,), 48, 570, 1040, names_rotation=False,
    ),
    "TOSHIBA": Vendor(
        "TOSHIBA", "Aquilion", "V4.86ER003", {"soft": "FC08", "standard": "FC13", "lung": "FC52", "bone": "FC30"},
        "LARGE", (0.9, 1.6), 48, 600, 1072,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """Whose images these are. key: local patient key; identity: names that make the UIDs; sex "F" or "M"; age in years."""

    key: str
    identity: tuple[str | int, ...]
    sex: str
    age: int
    remark: str = ""


def kernel_name(scanner: Scanner) -> str:
    """What this vendor calls the kernel: "B70f"."""
    return VENDORS[scanner.vendor].kernels[scanner.kernel]


def uid(*what: str | int) -> UID:
    """Return the name-based UUID of `what` as a UID under 2.25 (PS3.5 B.2): the same names, the same UID."""
    return UID(f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, what))).int}")


def write_slice(path: Path, image: npt.NDArray[Any], scanner: Scanner, study: Study, number: int, z_mm: float, pixel_mm: float) -> None:
    """Write one axial slice; the arguments are those of `ct_slice`."""
    ct_slice(image, scanner, study, number, z_mm, pixel_mm).save_as(path, enforce_file_format=True)


def ct_slice(
    image: npt.NDArray[Any],
    scanner: Scanner,
    study: Study,
    number: int,
    z_mm: float,
    pixel_mm: float,
    *,
    odd: bool = True,
    quality_control: bool = False,
) -> FileDataset:
    """Return the data set of one axial slice.

    image: HU [n, n]; number: from 1; z_mm: position towards the head; odd: write Exposure, GeneratorPower, FocalSpots and
    RevolutionTime as this vendor does instead of by the standard; quality_control: mark it as an image of a test object.
    """
    vendor = VENDORS[scanner.vendor]
    data = _file(uid(*study.identity, scanner.vendor, number))
    _identify(data, vendor, scanner, study)
    _describe_acquisition(data, vendor, scanner, odd)
    _place(data, scanner, study, number, z_mm, pixel_mm, image.shape[0])
    if quality_control:
        data.QualityControlImage = "YES"
    _put_pixels(data, image)
    return data


def _file(instance: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    meta.ImplementationVersionName = "P2PFTL"
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, instance
    data.SpecificCharacterSet = "ISO_IR 100"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    for what in ("InstanceCreation", "Study", "Series", "Acquisition", "Content"):
        setattr(data, f"{what}Date", DATE)
        setattr(data, f"{what}Time", TIME)
    return data


def _identify(data: Dataset, vendor: Vendor, scanner: Scanner, study: Study) -> None:
    data.Modality, data.Manufacturer, data.ManufacturerModelName = "CT", vendor.manufacturer, vendor.model
    data.SoftwareVersions, data.DeviceSerialNumber, data.StationName = vendor.software, f"SYNTH-{scanner.vendor}", "SYNTH"
    data.InstitutionName = "SYNTHETIC: no real patient"
    data.StudyDescription = "Thorax phantom, synthetic"
    data.SeriesDescription = f"{kernel_name(scanner)} {scanner.slice_mm:g} mm"
    data.ProtocolName, data.BodyPartExamined = "Thorax synthetic", "CHEST"
    data.AccessionNumber = data.ReferringPhysicianName = data.PatientBirthDate = ""
    data.PatientName, data.PatientID = f"SYNTHETIC^{study.key}", study.key
    data.PatientSex, data.PatientAge = study.sex, f"{study.age:03d}Y"
    data.PatientIdentityRemoved, data.DeidentificationMethod = "YES", "p2pftl synthetic phantom: never was a patient"
    data.BurnedInAnnotation = "NO"
    data.ImageComments = "; ".join(filter(None, ("synthetic", study.remark)))
    data.StudyInstanceUID, data.SeriesInstanceUID = uid(*study.identity, "study"), uid(*study.identity, scanner.vendor, "series")
    data.FrameOfReferenceUID = uid(*study.identity, "frame")
    data.IrradiationEventUID = uid(*study.identity, scanner.vendor, "irradiation")
    data.StudyID, data.SeriesNumber, data.AcquisitionNumber = study.key[-16:], 1, 1


def _describe_acquisition(data: Dataset, vendor: Vendor, scanner: Scanner, odd: bool) -> None:
    mas = scanner.mas * scanner.dose
    data.ScanOptions, data.GantryDetectorTilt, data.TableHeight, data.RotationDirection = "HELICAL MODE", 0, 150, "CW"
    data.KVP, data.SliceThickness, data.DataCollectionDiameter = f"{scanner.kvp:g}", f"{scanner.slice_mm:g}", 500
    data.DistanceSourceToDetector, data.DistanceSourceToPatient = vendor.sdd, vendor.sid
    data.ExposureTime, data.XRayTubeCurrent = round(ROTATION_S * 1000), max(1, round(mas / ROTATION_S))
    data.Exposure = max(1, round(mas * (vendor.exposure_share if odd else 1)))
    data.FilterType, data.ConvolutionKernel = vendor.filter, kernel_name(scanner)
    data.GeneratorPower = vendor.generator if odd else min(vendor.generator, 48)
    data.FocalSpots = list(vendor.focal_spots) if odd else vendor.focal_spots[-1]
    if vendor.names_rotation or not odd:
        data.RevolutionTime = ROTATION_S
    data.SingleCollimationWidth, data.TotalCollimationWidth = 0.625, COLLIMATION_MM
    data.SpiralPitchFactor, data.TableFeedPerRotation = PITCH, COLLIMATION_MM * PITCH
    data.TableSpeed = COLLIMATION_MM * PITCH / ROTATION_S
    data.CTDIvol = round(CTDI_PER_MAS * mas / PITCH * (scanner.kvp / 120) ** 2.5, 4)
    body = Dataset()
    body.CodeValue, body.CodingSchemeDesignator, body.CodeMeaning = "113691", "DCM", "IEC Body Dosimetry Phantom"
    data.CTDIPhantomTypeCodeSequence = Sequence([body])


def _place(data: Dataset, scanner: Scanner, study: Study, number: int, z_mm: float, pixel_mm: float, side: int) -> None:
    corner = -(side - 1) / 2 * pixel_mm
    data.InstanceNumber, data.PatientPosition, data.PositionReferenceIndicator = number, "HFS", ""
    data.ReconstructionDiameter = round(side * pixel_mm, 3)
    data.ImagePositionPatient = [round(corner, 4), round(corner, 4), round(z_mm, 3)]
    data.ImageOrientationPatient, data.SliceLocation = [1, 0, 0, 0, 1, 0], round(z_mm, 3)
    data.PixelSpacing = [round(pixel_mm, 6)] * 2


def _put_pixels(data: Dataset, image: npt.NDArray[Any]) -> None:
    stored = np.clip(np.rint(image).astype(np.int32) - INTERCEPT, 0, TOP).astype("<u2")
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = INTERCEPT, 1, "HU"
    data.WindowCenter, data.WindowWidth, data.WindowCenterWidthExplanation = [-550, 40], [1500, 400], ["LUNG", "MEDIASTINUM"]
    data.LossyImageCompression = "00"
    data.PixelData = stored.tobytes()
