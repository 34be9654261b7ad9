"""Series that are no anatomical spine images: localisers, derived images, other contrasts.

Judged from the header alone. DERIVED by itself excludes nothing: vendors mark Dixon images and
composed whole-spine images so, and so do many de-identification tools.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from spinemets.io.listing import Rejection
from spinemets.io.plain_words import plain_words
from spinemets.io.weighting import AcquisitionHeader, has_t1_words

__all__ = ["contrast_exclusion", "derived_exclusion", "exclusion", "is_localiser"]

_LOCALISER = re.compile(
    r"\b(?:loc|local[iy][sz]\w*|lokali[sz]\w*|scout\w*|survey|3 ?planes?|3 ?plan|tri ?plan\w*|pilot|topo\w*"
    r"|reperage|localizador|smart ?brain|smart ?spine|aahead\w*|aaspine\w*|u?e?bersicht\w*)\b"
)
_DISEASE_SURVEY = re.compile(r"\b(?:met\w*|myelom\w*|tumou?r|bone|skelet\w*|marrow) survey\b")
_COMPOSED_TYPES = {"COMPOSED", "COMP_SP", "COMP_AD", "COMP_DIF", "COMP"}
_DERIVED_TYPES: Mapping[str, str] = {
    "MPR": "a reformatted image",
    "REFORMATTED": "a reformatted image",
    "RESAMPLED": "a reformatted image",
    "CSA MPR": "a reformatted image",
    "MIP": "a projection",
    "MIN_IP": "a projection",
    "MINIP": "a projection",
    "MAX_IP": "a projection",
    "PROJECTION IMAGE": "a projection",
    "VOLUME_RENDERED": "a projection",
    "SUB": "a subtraction",
    "SUBTRACT": "a subtraction",
    "SUBTRACTION": "a subtraction",
    "ADC": "a diffusion map",
    "TRACEW": "a diffusion map",
    "FA": "a diffusion map",
    "EADC": "a diffusion map",
    "T1 MAP": "a parameter map",
    "T2 MAP": "a parameter map",
    "T2_STAR MAP": "a parameter map",
    "R2": "a parameter map",
    "R2_STAR": "a parameter map",
    "FF": "a fat-fraction map",
    "FAT_FRACTION": "a fat-fraction map",
    "PERCENT_FAT": "a fat-fraction map",
    "P": "a phase image",
    "PHASE": "a phase image",
    "PHASE MAP": "a phase image",
    "REAL": "a real-part image",
    "IMAGINARY": "an imaginary-part image",
    "FIELD_MAP": "a field map",
    "SCREEN SAVE": "a screenshot",
    "SCREENSHOT": "a screenshot",
}
_DERIVED_WORDS = (
    (re.compile(r"\b(?:mip|min ?ip|minip|thick ?mip)\b"), "a projection"),
    (re.compile(r"\b(?:mpr|reformat\w*|reformation\w*)\b"), "a reformatted image"),
    (re.compile(r"\b(?:sub|subtr\w*|subtrakt\w*|sottraz\w*|substr\w*)\b"), "a subtraction"),
    (re.compile(r"\b(?:e?adc|tracew?|fa map)\b"), "a diffusion map"),
    (re.compile(r"\b(?:[rt][12]\*? ?map|fat ?frac\w*|field ?map|phase ?map)\b"), "a parameter map"),
    (re.compile(r"\b(?:screen ?(?:save|shot|cap\w*)|dose report)\b"), "a screenshot"),
)
# Flow compensation is no flow image; myelopathy, myeloma and angioma are diseases; "diffuse" is a finding;
# the German Myelon, alone or in compounds, is the spinal cord.
_OTHER_CONTRASTS = (
    (
        re.compile(r"\b(?:e?dwi\w*|dti|diff(?!use\b|er)\w*|ep2d ?diff\w*|resolve|b ?\d{3,4})\b"),
        "diffusion-weighted",
    ),
    (re.compile(r"\b(?:perf(?!or|ec)\w*|dce|dsc)\b"), "perfusion"),
    (re.compile(r"\b(?:bold|fmri|epi|ep2d\w*)\b"), "functional"),
    (
        re.compile(
            r"\b(?:tof|angio(?!m|li|sa)\w*|mra|twist|tricks|cine"
            r"|(?:pc|csf)?flow(?! ?(?:comp|void|art[ei]f)))\b"
        ),
        "flow or angiography",
    ),
    (re.compile(r"\bm[iy]elo(?!pat|m[ae]|[cz]el|[cz]yt|fib|dys|rad|n)\w*"), "a myelography"),
    (re.compile(r"\b(?:mtr?|mts|mt on|mt off)\b"), "magnetisation transfer"),
)
_OTHER_STATED_CONTRASTS = {
    "DIFFUSION": "diffusion-weighted",
    "PERFUSION": "perfusion",
    "FLOW_ENCODED": "flow or angiography",
    "TOF": "flow or angiography",
    "TAGGING": "tagged",
}


def exclusion(header: AcquisitionHeader) -> tuple[Rejection, str] | None:
    """Why a series is no anatomical spine image; None for one that may be."""
    if is_localiser(header):
        return Rejection.LOCALISER, "a localiser"
    derived = derived_exclusion(header)
    if derived:
        return Rejection.DERIVED, f"{derived}, computed from another series"
    contrast = contrast_exclusion(header)
    if contrast:
        return Rejection.CONTRAST, f"contrast: {contrast}; T1, T2, STIR, PD or Dixon is needed"
    return None


def is_localiser(header: AcquisitionHeader) -> bool:
    """Whether a series only served to plan others."""
    if {value.upper() for value in header.image_type} & {"LOCALIZER", "LOCALISER", "SCOUT"}:
        return True
    return bool(_LOCALISER.search(_DISEASE_SURVEY.sub(" ", plain_words(header.description))))


def derived_exclusion(header: AcquisitionHeader) -> str:
    """What a computed image is ("a projection"); empty for one that can be used."""
    types = [value.upper() for value in header.image_type]
    if _COMPOSED_TYPES & set(types):
        return ""
    kind = next((_DERIVED_TYPES[value] for value in types[1:] if value in _DERIVED_TYPES), "")
    words = plain_words(header.description)
    if types[:1] == ["ORIGINAL"]:
        # Siemens shortens MPRAGE to "mpr".
        words = words.replace("mpr", "mprage")
    return kind or next((kind for pattern, kind in _DERIVED_WORDS if pattern.search(words)), "")


def contrast_exclusion(header: AcquisitionHeader) -> str:
    """The contrast of a series whose contrast is of no use here; empty for a usable one."""
    stated = _OTHER_STATED_CONTRASTS.get(header.acquisition_contrast.upper(), "")
    if "DIFFUSION" in {value.upper() for value in header.image_type[1:]}:
        stated = "diffusion-weighted"
    words = plain_words(header.description)
    stated = stated or next((kind for pattern, kind in _OTHER_CONTRASTS if pattern.search(words)), "")
    dark_fluid = (
        "flair" in words or "dark fl" in words or header.acquisition_contrast.upper() == "FLUID_ATTENUATED"
    )
    inversion_time = header.inversion_time_ms
    if not stated and dark_fluid and not has_t1_words(header.description):
        # A T1 FLAIR (TI below 1.3 s) is the usual T1 of the spine on some scanners.
        stated = "FLAIR" if inversion_time is None or inversion_time > 1300 else ""
    return stated
