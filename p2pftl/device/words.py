"""Header text to what may be kept: known model, software, filter and mode names pass, anything else becomes a keyed hash.

Free text can hold a person's name or a hospital's, so none of it reaches a log, a state or a message (TRUST.md section 7).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

from p2pftl.imaging.kernels import Vendor


@dataclass(frozen=True)
class Salt:
    """A key that stays on this machine: without it a hash of a serial number or a UID falls to a dictionary."""

    key: bytes = field(repr=False)

    def of(self, *parts: str) -> str:
        """Return 24 hexadecimal digits that stand for `parts`."""
        text = "\0".join(f"{len(part)}:{part}" for part in parts)
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()[:24]


_FAMILIES: dict[Vendor, str] = {
    "SIEMENS": "SOMATOM|Definition|Sensation|Emotion|Force|Drive|Edge|Plus|Flash|AS\\+?|Perspective|Scope|Spirit|Balance|Volume|Zoom|Open|"
    "Confidence|Duo|go\\.(?:Now|Up|All|Top|Sim|Open Pro)|X\\.(?:cite|ceed)|Pro\\.Pulse|NAEOTOM|Alpha|Biograph|mCT|Vision|Horizon",
    "GE": "LightSpeed|Light|Speed|VCT|BrightSpeed|Discovery|CT|HD|HiSpeed|Revolution|Optima|Apex|EVO|Ascend|Frontier|Maxima|ACTs?|ES|GSI|"
    "QX/i|Pro|Plus|Ultra|RT|Xtra|XT|Elite|Power|RP|MI|ST|STE|Synergy",
    "PHILIPS": "Brilliance|Ingenuity|Core|iCT|SP|Elite|IQon|Spectral|CT|Incisive|Access|MX|Mx8000|IDT|Big|Bore|Oncology|Gemini|TF|GXL|"
    "Vereos|Precedence|Air|Power|Slice",
    "TOSHIBA": "Aquilion|ONE|PRIME|SP|LB|RXL|CX|CXL|Lightning|Lite|Start|Serve|Precision|Vision|PRISM|GENESIS|Insight|Activion|Alexion|"
    "Asteion|Astelion|Super|Multi|Edition|Large|Bore|Exceed|Auklet|Cartesion|Prime",
    "OTHER": "(?!)",
}  # fmt: skip

_SOFTWARE: dict[Vendor, str] = {
    "SIEMENS": r"(?:syngo )?(?:CT )?(?:V[A-Z]?\d{2}[A-Z]?(?:_SP\d{1,2}[A-Z]?)?|20\d\d[A-Z])",
    "GE": r"\d{2}[A-Z]{2}\d{1,2}\.\d{1,2}|(?:vct|gmp|hde|rev)_(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|vct)\.\d{1,3}",
    "PHILIPS": r"\d(?:\.\d{1,2}){1,3}",
    "TOSHIBA": r"V\d{1,2}\.\d{2}[A-Z]{2}\d{3}",
    "OTHER": r"(?!)",
}  # fmt: skip

_FILTERS = frozenset(
    {"BODY FILTER", "HEAD FILTER", "MEDIUM FILTER", "SMALL FILTER", "LARGE", "MEDIUM", "SMALL", "FLAT", "WEDGE", "WEDGE_1", "WEDGE_2"}
    | {"WEDGE_3", "BUTTERFLY", "STRIP", "MULTIPLE", "NONE", "0", "1", "2", "3", "A", "B", "C", "D", "E", "L", "UA", "UB"}
)
_MODULATION = frozenset(
    {"NONE", "ANGULAR", "LONGITUDINAL", "ANGULAR_LONG", "LONG_ANGULAR", "XYZ_EC", "XY_EC", "Z_EC", "3D", "AUTO_MA", "SMART_MA", "ECG"}
    | {"ECG_BASED", "ORGAN_BASED", "ACS", "Z_DOM", "D_DOM", "Z-DOM", "D-DOM"}
)
_NUMBER = r"(?:[ -]?\d{1,3}\+?)?"
_ITERATIVE = ("ASIR", "VEO", "IDOSE", "IMR", "SAFIRE", "ADMIRE", "IRIS", "AIDR", "FIRST", "ITERATIVE", "QIR", "MBIR")
_DEEP = ("AICE", "TRUEFIDELITY", "DLIR", "DEEP", "PRECISE IMAGE")


def model(vendor: Vendor, text: str, salt: Salt) -> str | None:
    """Return a ManufacturerModelName where it is made of that vendor's product names, else "unknown-" and a keyed hash."""
    word = rf"(?:{_FAMILIES[vendor]}){_NUMBER}"
    return _kept(rf"{word}(?:[ /-]?{word})*", text, salt, "model")


def same_model(text: str) -> str:
    """What two spellings of one model share: "Brilliance 16" and "BRILLIANCE16"."""
    return "".join(filter(str.isalnum, text.lower()))


def software(vendor: Vendor, text: str, salt: Salt) -> str | None:
    """Return a SoftwareVersions value where it looks like that vendor's, else "unknown-" and a keyed hash: a change still shows."""
    return _kept(_SOFTWARE[vendor], text, salt, "software")


def beam_filter(text: str) -> str | None:
    return _named(text, _FILTERS)


def modulation(text: str) -> str | None:
    return _named(text, _MODULATION)


def reconstruction(method: str, kernel: str, vendor: Vendor) -> str | None:
    """Return how the image was reconstructed as far as the header says. None: it does not say, which is not backprojection."""
    found = method.upper().replace("-", " ")
    if any(word in found for word in _DEEP):
        return "deep learning"
    siemens_iterative = vendor == "SIEMENS" and re.fullmatch(r"[IJQ][a-z]?\d{2}[a-z]?(?:\\\d)?", kernel)
    if siemens_iterative or any(word in found for word in _ITERATIVE):
        return "iterative"
    return "filtered backprojection" if found in ("FBP", "FILTER BACK PROJECTION", "FILTER_BACK_PROJ") else None


def _kept(pattern: str, text: str, salt: Salt, what: str) -> str | None:
    wanted = " ".join(text.split())
    if not wanted:
        return None
    return wanted if len(wanted) <= 64 and re.fullmatch(pattern, wanted, re.IGNORECASE) else f"unknown-{salt.of(what, wanted)[:8]}"


def _named(text: str, names: frozenset[str]) -> str | None:
    wanted = " ".join(text.upper().split())
    if not wanted:
        return None
    return wanted if wanted in names else "other"
