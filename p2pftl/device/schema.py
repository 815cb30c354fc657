"""What a device state may hold: every path with its unit and kind (SCANNER_TWIN.md sections 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["double", "integer", "string", "boolean", "array"]
Source = Literal["header", "rdsr", "qa", "log", "manual", "sim"]
Quality = Literal["measured", "derived", "assumed", "missing"]

SOURCES: tuple[Source, ...] = ("header", "rdsr", "qa", "log", "manual", "sim")
QUALITIES: tuple[Quality, ...] = ("measured", "derived", "assumed", "missing")
FEATURES = ("config", "calibration", "tube", "qa", "health", "maintenance", "lifecycle", "sync", "learning")
LOCAL = ("attributes.serial_hmac", "attributes.installed", "attributes.manufactured")  # never leave the twin, not even in an export


@dataclass(frozen=True)
class Field:
    """unit: "" where there is none; kind: its DTDL schema; about: one plain phrase."""

    unit: str
    kind: Kind
    about: str


def _fields(text: str) -> dict[str, Field]:
    """Each line: path | unit | kind | about."""
    found = {}
    for line in text.strip().splitlines():
        path, unit, kind, about = (part.strip() for part in line.split("|"))
        assert kind in ("double", "integer", "string", "boolean", "array")
        found[path] = Field(unit, kind, about)  # type: ignore[arg-type]
    return found


SCHEMA = _fields("""
attributes.vendor             |          | string  | maker, as a bucket
attributes.model              |          | string  | model name
attributes.serial_hmac        |          | string  | serial number, keyed hash, local
attributes.installed          | s        | double  | when it was installed, local
attributes.manufactured       | s        | double  | when it was made, local
attributes.detector.sid       | mm       | double  | source to isocentre
attributes.detector.sdd       | mm       | double  | source to detector
attributes.detector.rows      |          | integer | detector rows
attributes.detector.pitch     | mm       | double  | detector cell
attributes.detector.views     |          | integer | views per rotation
attributes.tube.type          |          | string  | tube type
attributes.tube.sources       |          | integer | X-ray sources
attributes.tube.cap_MHU       | MHU      | double  | anode heat capacity
attributes.tube.cool_MHU_min  | MHU/min  | double  | largest cooling rate
attributes.tube.power_kW      | kW       | double  | generator power
config.software               |          | string  | software version
config.kernel                 |          | string  | kernel by the vendor's name
config.kernel_group           |          | string  | soft, standard, lung, bone or unknown
config.kvp                    | kV       | double  | tube voltage
config.ma                     | mA       | double  | tube current
config.mas                    | mAs      | double  | tube load per rotation
config.mas_effective          | mAs      | double  | tube load per rotation and pitch
config.dose                   |          | double  | factor on mas
config.rotation_s             | s        | double  | time of one rotation
config.exposure_ms            | ms       | double  | exposure time as the header has it
config.exposure_header        |          | double  | Exposure (0018,1152) as the header has it, unit by vendor
config.slice_mm               | mm       | double  | slice thickness
config.spacing_mm             | mm       | double  | distance of slices
config.collimation_mm         | mm       | double  | total collimation
config.collimation_single_mm  | mm       | double  | collimation of one row
config.pitch                  |          | double  | spiral pitch factor
config.table_speed            | mm/s     | double  | table speed
config.table_feed             | mm       | double  | table feed per rotation
config.fov                    | mm       | double  | reconstruction diameter
config.collection_mm          | mm       | double  | data collection diameter
config.pixel_mm               | mm       | double  | pixel spacing
config.size                   |          | integer | pixels per side
config.recon                  |          | string  | filtered backprojection, iterative, deep learning
config.filter                 |          | string  | beam filter
config.focal_mm               | mm       | array   | focal spots
config.modulation             |          | string  | tube current modulation
config.ctdi_mGy               | mGy      | double  | CTDIvol
config.ctdi_phantom           |          | string  | head or body phantom behind CTDIvol
config.dlp_mGy_cm             | mGy cm   | double  | dose length product
config.ssde_mGy               | mGy      | double  | size specific dose estimate
config.wed_mm                 | mm       | double  | water equivalent diameter
calibration.last_air          | s        | double  | last air calibration
calibration.last_water        | s        | double  | last water calibration
calibration.last_detector     | s        | double  | last detector calibration
calibration.last_any          | s        | double  | last calibration of any kind
calibration.offset_hu         | HU       | double  | offset that is known to be there
calibration.gain              |          | double  | gain error that is known to be there
calibration.source            |          | string  | where the calibration is known from
tube.heat_J                   | J        | double  | heat in the anode
tube.heat_share               |          | double  | heat over capacity
tube.heat_peak                |          | double  | highest heat_share of the last day
tube.scan_s                   | s        | double  | beam-on time of this tube
tube.mAs                      | mAs      | double  | load of this tube
tube.energy_J                 | J        | double  | energy of this tube
tube.exposures                |          | integer | beam-ons of this tube
tube.arcs                     |          | integer | arcs of this tube
tube.damage                   | s        | double  | equivalent scan seconds
tube.output                   |          | double  | output by the wear model
tube.output_hat               |          | double  | output from measured against predicted noise
tube.output_sd                |          | double  | standard error of output_hat
tube.per_day                  | s        | double  | mean damage per device day
tube.rul_days.p10             | d        | double  | remaining life, 10 % fail before
tube.rul_days.p50             | d        | double  | remaining life, median
tube.rul_days.p90             | d        | double  | remaining life, 90 % fail before
tube.installed                | s        | double  | when this tube was put in
tube.number                   |          | integer | tubes this scanner has had
tube.source                   |          | string  | rdsr, header or sim
qa.baseline.mean              | HU       | double  | water mean when it was new
qa.baseline.sd                | HU       | double  | water noise when it was new
qa.baseline.n                 |          | integer | days behind the baseline
qa.last.mean                  | HU       | double  | mean of the centre of water
qa.last.sd                    | HU       | double  | noise at the centre of water
qa.last.unif                  | HU       | double  | largest edge minus centre
qa.last.air                   | HU       | double  | mean of air
qa.last.ring                  | HU       | double  | ring index
qa.last.mtf50                 | 1/mm     | double  | frequency at half modulation
qa.last.nps_f                 | 1/mm     | double  | mean frequency of the noise
qa.last.sd_expected           | HU       | double  | noise the model expects
qa.last.t                     | s        | double  | when the phantom was scanned
qa.cusum.up                   |          | double  | CUSUM of the water mean, upward
qa.cusum.dn                   |          | double  | CUSUM of the water mean, downward
qa.ewma                       |          | double  | EWMA of ln(sd / baseline)
qa.alarms                     |          | array   | charts in alarm
qa.status                     |          | string  | pass, warn, fail or stale
qa.reason                     |          | string  | why
qa.last_pass                  | s        | double  | last phantom that passed
qa.surrogate.air              | HU       | double  | air outside patients
qa.surrogate.fat              | HU       | double  | subcutaneous fat of patients
qa.surrogate.aorta            | HU       | double  | descending aorta of patients
qa.surrogate.status           |          | string  | pass or warn, never more
health.calibration            |          | double  | 0 to 1
health.noise                  |          | double  | 0 to 1
health.uniformity             |          | double  | 0 to 1
health.tube                   |          | double  | 0 to 1
health.data_freshness         |          | double  | 0 to 1
health.reason                 |          | string  | what the lowest of them is about
maintenance.flag              |          | string  | what of the model asks for a look at the scanner
lifecycle.state               |          | string  | where in its life the device is
lifecycle.since               | s        | double  | since when
lifecycle.reason              |          | string  | why
lifecycle.passes              |          | integer | passing phantoms since it came back
sync.last_header              | s        | double  | last image seen
sync.last_rdsr                | s        | double  | last dose report seen
sync.last_qa                  | s        | double  | last phantom seen
sync.lag_s                    | s        | double  | age of the last image when it was seen
sync.noise_residual_pct       | %        | double  | measured against predicted noise
sync.gaps                     |          | integer | dose report events that never came
sync.images                   |          | integer | images counted
sync.studies                  |          | integer | series counted
sync.phantoms                 |          | integer | phantom images counted
sync.duplicates               |          | integer | images that came again
sync.refused                  |          | integer | files that could not be read
sync.missing                  |          | array   | attributes the headers do not have
learning.fingerprint          |          | array   | ln sd, nps_f, mtf50, ln T, kVp/20, unif
learning.q                    |          | double  | quality, 0 to 1
learning.model_version        |          | integer | rounds completed
learning.trained_on           |          | integer | samples, bucketed
""")

INSTANTS = frozenset({  # seconds on the twin's clock that name a moment, not a length of time
    "attributes.installed", "attributes.manufactured", "calibration.last_air", "calibration.last_water", "calibration.last_detector",
    "calibration.last_any", "tube.installed", "qa.last.t", "qa.last_pass", "lifecycle.since", "sync.last_header", "sync.last_rdsr",
    "sync.last_qa",
})  # fmt: skip
