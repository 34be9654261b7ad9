"""The weighting of a series, from what its header or its file name says.

Rules, in this order; the first that speaks decides.

1. *Dixon.* A water, fat, in-phase or opposed-phase image is named as such by its image type
   (Siemens, Philips, GE) or by its description.
2. *STIR.* The words STIR or TIRM, or an inversion recovery with a TI of 80 to 300 ms (fat is
   nulled at 110-170 ms at 1.5 T and 170-230 ms at 3 T). A dark-fluid TIRM is not one.
3. *T2\\*.* Gradient echoes weighted by T2* (MEDIC, MERGE, mFFE) have no class of their own and
   are unknown; balanced ones (CISS, FIESTA, TrueFISP) count as T2.
4. *Words*: T1, T2 or PD in the series description, then in the protocol and sequence names.
   Ranges of vertebrae (``C7-T1``) are no weighting. Two weightings in one text cancel out.
5. *Acquisition contrast* of enhanced multi-frame objects.
6. *TR, TE and TI.* Spin echo: TE >= 60 ms is T2; TE < 40 ms with TR <= 1200 ms, or with a TI of
   300 to 1300 ms (T1 FLAIR), is T1; TE < 60 ms with TR > 1500 ms is PD. Gradient echo: TE < 8 ms
   with TR < 50 ms or a TI of 600 to 1300 ms (MPRAGE), or a flip angle of 40 degrees or more
   with TE < 15 ms, is T1; short TR with a steady state and a large flip angle is T2.

What rules 4 and 5 say is not believed where a spin echo's times exclude it: a T1 or PD with
TE >= 70 ms is a T2, and a T2 with TE <= 30 ms is a T1 if TR <= 1000 ms and a PD if TR > 1500 ms:
protocols are copied and renamed carelessly, and the first echo of a "T2" double echo is a PD.
Fat suppression (words, ScanOptions, the enhanced header's own field) and contrast agent then
refine T1, T2 and PD. A fat-suppressed T1 without a sign of contrast agent is unknown: neither T1
nor T1FS+Gd is true of it.

STIR, T2* and fat suppression are not taken from a protocol's name that is the whole examination's
("L SPINE T1 T2 STIR"): one that names T1 beside T2, PD or STIR, or another weighting than the description.

Of contrast agent the first that speaks decides:

1. The description, and that of the series before it became a file.
2. The study's other descriptions: where one of a T1 ("SAG T1 POST", or "SAG POST" with the times of
   a T1) names contrast agent, a T1 without fat suppression that names none was acquired before it,
   also where it is the only one. The next two say less, as both are often entered for the whole
   examination. Where ContrastBolusAgent is entered for some of the study's
   plain T1s and not for others, it was not, and a T1 that has it was acquired after it.
3. ContrastBolusAgent.
4. The protocol's name, unless it names both ("W/WO CONTRAST").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spinemets.io.contrast_words import stated_contrast
from spinemets.io.plain_words import WORD_START, any_word, plain_words
from spinemets.volume import Weighting

__all__ = [
    "DIXON_WEIGHTINGS",
    "AcquisitionHeader",
    "has_t1_words",
    "names_agent",
    "native_if_silent",
    "underlying_contrast",
    "weighting_from_header",
    "weighting_from_name",
]


@dataclass(frozen=True, slots=True)
class AcquisitionHeader:
    """What a header says of how a series was acquired; times in ms, angles in degrees.

    Absent values are empty or None.

    Attributes
    ----------
    original_description
        Of the DICOM series that an image file was made from, as a sidecar gives it.
    fat_suppressed
        None where the header has no field of its own for it (only enhanced multi-frame objects do).
    contrast_named_in_study
        Whether the description of some T1 of the study names contrast agent, so that a plain T1
        whose own does not was acquired before it; see ``native_if_silent``.
    """

    description: str = ""
    original_description: str = ""
    protocol: str = ""
    sequence_name: str = ""
    image_type: tuple[str, ...] = ()
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    scan_options: tuple[str, ...] = ()
    repetition_time_ms: float | None = None
    echo_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_deg: float | None = None
    contrast_agent: str = ""
    acquisition_contrast: str = ""
    fat_suppressed: bool | None = None
    contrast_named_in_study: bool = False


_T1 = re.compile(WORD_START + r"t1(?![0-9])")
_T2 = re.compile(WORD_START + r"t2(?![0-9*]| ?star)")
_PD = any_word(r"pd(?:w|wi|w?fs)?", r"proton\w*", r"densite de protons?", "dp", "rho")
_PATTERNS = ((Weighting.T1, _T1), (Weighting.T2, _T2), (Weighting.PD, _PD))
_T2_STAR = any_word(r"t2 ?\*\w*", r"t2 ?star\w*", "medic", "merge", "m ?ffe", "swi", "swan", r"me2d\w*")
_BALANCED = any_word(
    "ciss", "fiesta c?", "fiesta", r"tru?e?fi(?:sp)?", "bssfp", "balanced", r"s?b ?(?:ffe|tfe)", "drive",
    "cosmic",
)  # fmt: skip
_STIR = any_word("stir", "tirm", r"ir ?tse", r"ir ?fse", r"t2 ?ir", r"stir\w*")
_DARK_FLUID = any_word("flair", r"dark ?fl\w*", "df")
_FAT_SUPPRESSED = any_word(
    "fs", r"(?:t1|t2|pd)w? ?fs", r"f ?sat\w*", r"fat ?s\w*", r"fett\w*", "spair", "spir", "chess", "proset",
    "we", r"water ?exc\w*", r"sat\w* (?:de )?(?:gra[is]\w*|grasa)", r"soppr\w* (?:del )?gras\w*",
)  # fmt: skip
_NOT_FAT_SUPPRESSED = any_word(r"(?:no|non|without|ohne|sans|sin|senza) ?(?:fs|fat ?s\w*|fett\w*|sat\w*)")
# De-identified files name no agent, even those of images after one. The last is what stands in our
# copies for the meaning of a code.
_UNSTATED_AGENT = {
    "", "UNKNOWN", "-", "ANONYMIZED", "ANONYMISED", "ANONYMOUS", "ANON", "DEIDENTIFIED", "REMOVED",
    "REDACTED", "SEE CODING SCHEME",
}  # fmt: skip
_NO_AGENT = {"NO", "NONE", "N", "NON", "OHNE", "0"}
_FAT_SUPPRESSING_OPTIONS = {"FS", "FATSAT", "FAT_SAT", "FAT SAT", "SFS", "SPIR", "SPAIR", "WE", "CHESS"}
_DIXON_IMAGE_TYPES = {
    Weighting.DIXON_WATER: {"W", "WATER", "DIXON_WATER"},
    Weighting.DIXON_FAT: {"F", "FAT", "DIXON_FAT"},
    Weighting.DIXON_IN_PHASE: {"IP", "IN_PHASE", "INPHASE", "IN PHASE", "IN"},
    Weighting.DIXON_OUT_OF_PHASE: {
        "OP", "OPP", "OPP_PHASE", "OPPOSED_PHASE", "OUT_PHASE", "OUTPHASE", "OUT_OF_PHASE", "OUT OF PHASE",
    },
}  # fmt: skip
DIXON_WEIGHTINGS = frozenset(_DIXON_IMAGE_TYPES)
_DIXON = any_word(r"m?dixon\w*", "ideal", "flex", "lava ?flex")
_DIXON_WORDS = {
    Weighting.DIXON_OUT_OF_PHASE: any_word(
        "opp", r"opp\w* ?phase", r"out(?: of)? ?phase", "outphase", r"(?<!post )(?<!pre )op"
    ),
    Weighting.DIXON_IN_PHASE: any_word("in", "in ?phase", "ip"),
    Weighting.DIXON_WATER: any_word("w", "water", "wasser", "eau", "agua"),
    Weighting.DIXON_FAT: any_word("f", "fat", "fett", "graisse", "grasa"),
}
_PREFIXED_DIXON = re.compile(r"^\s*(water|fat|in ?phase|out ?phase)\s*:", re.IGNORECASE)
_PREFIXES = {
    "water": Weighting.DIXON_WATER,
    "fat": Weighting.DIXON_FAT,
    "inphase": Weighting.DIXON_IN_PHASE,
    "outphase": Weighting.DIXON_OUT_OF_PHASE,
}
_STATED_CONTRASTS = {
    "T1": Weighting.T1,
    "T2": Weighting.T2,
    "PROTON_DENSITY": Weighting.PD,
    "STIR": Weighting.T2_FS,
}


def has_t1_words(text: str) -> bool:
    """Whether a text names a T1 weighting."""
    return bool(_T1.search(plain_words(text)))


def native_if_silent(study: Iterable[AcquisitionHeader]) -> frozenset[AcquisitionHeader]:
    """The headers of a study that were acquired before contrast agent if they describe a T1 without it.

    None where no description of a T1 names contrast agent. Those with a ContrastBolusAgent are not
    among them where another plain T1 whose description does not name contrast agent has none.
    """
    headers = frozenset(study)
    if not any(_names_contrast_of_t1(header) for header in headers):
        return frozenset()
    with_agent = {header for header in headers if names_agent(header.contrast_agent)}
    plain_t1s = {
        header
        for header in headers
        if weighting_from_header(header) in (Weighting.T1, Weighting.T1_GD)
        and not stated_contrast(plain_words(_descriptions(header)))
    }
    return headers if plain_t1s <= with_agent else headers - with_agent


def _names_contrast_of_t1(header: AcquisitionHeader) -> bool:
    words = plain_words(_descriptions(header))
    if stated_contrast(words) is not True:
        return False
    # "SAG POST GAD" is one by its times; of a Dixon image the words alone tell.
    return bool(_T1.search(words)) or weighting_from_header(header) in (Weighting.T1_GD, Weighting.T1_FS_GD)


def _descriptions(header: AcquisitionHeader) -> str:
    return f"{header.description} {header.original_description}"


def weighting_from_name(name: str) -> Weighting:
    """The weighting that a file name states; UNKNOWN where it states none.

    >>> weighting_from_name("case01_T1_fs_gd.nii.gz").value
    'T1FS+Gd'
    """
    return weighting_from_header(AcquisitionHeader(description=name))


def weighting_from_header(header: AcquisitionHeader) -> Weighting:
    """The weighting of a series by the rules at the top of this file."""
    dixon = _dixon(header)
    if dixon is not None:
        return dixon
    texts = _texts(header)
    everything = _of_series(texts)
    if _is_stir(header, everything):
        return Weighting.T2_FS
    if _is_t2_star(header, everything):
        return Weighting.UNKNOWN
    base = _base(header, texts)
    if base is Weighting.T1:
        return _refined_t1(header, everything)
    if base in (Weighting.T2, Weighting.PD) and _is_fat_suppressed(header, everything):
        return Weighting.T2_FS if base is Weighting.T2 else Weighting.PD_FS
    return base or Weighting.UNKNOWN


def underlying_contrast(header: AcquisitionHeader) -> str:
    """T1, T1 Gd, T2, PD or T2star: what a Dixon or unknown weighting leaves unsaid; empty if nothing tells.

    >>> underlying_contrast(AcquisitionHeader("T1 mDIXON sag"))
    'T1'
    """
    texts = _texts(header)
    if _is_t2_star(header, _of_series(texts)):
        return "T2star"
    base = _base(header, texts)
    if base is Weighting.T1 and _has_contrast_agent(header, fat_suppressed=False):
        return "T1 Gd"
    return base.value if base else ""


def _texts(header: AcquisitionHeader) -> list[str]:
    """The header's names in plain words, in the order in which they are believed."""
    names = (header.description, header.original_description, header.protocol, header.sequence_name)
    return [plain_words(text) for text in names]


def _of_series(texts: Sequence[str]) -> str:
    """The names that speak of this series and not of its examination, as one text."""
    described = next((found for found in map(_named, texts[:2]) if found), frozenset())
    own = [text for text in texts[2:] if not _is_of_examination(_named(text), described)]
    return " ".join((*texts[:2], *own))


def _is_of_examination(named: frozenset[Weighting], described: frozenset[Weighting]) -> bool:
    """Whether a protocol of these weightings cannot be that of a series described by those."""
    # PD and T2 are the two echoes of one sequence.
    several = Weighting.T1 in named and len(named) > 1
    return several or bool(named and described and not named & described)


def _named(words: str) -> frozenset[Weighting]:
    """Every weighting that a text names; STIR counts as T2."""
    stir = (Weighting.T2,) if _names_stir(words) else ()
    return frozenset((*_written(words), *stir))


def _written(words: str) -> list[Weighting]:
    return [weighting for weighting, pattern in _PATTERNS if pattern.search(words)]


def _names_stir(words: str) -> bool:
    return bool(_STIR.search(words)) and not _DARK_FLUID.search(words)


def _is_t2_star(header: AcquisitionHeader, words: str) -> bool:
    return header.acquisition_contrast.upper() == "T2_STAR" or bool(_T2_STAR.search(words))


def _base(header: AcquisitionHeader, texts: Iterable[str]) -> Weighting | None:
    """T1, T2 or PD, whatever became of fat; also STIR where an enhanced object states it."""
    spoken = next((found for found in map(_spoken, texts) if found is not None), None)
    stated = spoken or _STATED_CONTRASTS.get(header.acquisition_contrast.upper())
    return _corrected(stated, header) or _from_times(header)


def _dixon(header: AcquisitionHeader) -> Weighting | None:
    # Values 1 and 2 say whether pixels are derived; the kind of image stands from value 3 on.
    kinds = {value.upper() for value in header.image_type[2:]}
    for weighting, names in _DIXON_IMAGE_TYPES.items():
        if kinds & names:
            return weighting
    prefix = _PREFIXED_DIXON.match(header.description)
    if prefix:
        return _PREFIXES[prefix.group(1).lower().replace(" ", "")]
    words = plain_words(header.description)
    if _DIXON.search(words):
        return next((weighting for weighting, names in _DIXON_WORDS.items() if names.search(words)), None)
    return None


def _is_stir(header: AcquisitionHeader, words: str) -> bool:
    inversion_time = header.inversion_time_ms
    short_inversion = inversion_time is not None and 80 <= inversion_time <= 300
    if header.acquisition_contrast.upper() == "STIR":
        return True
    if _names_stir(words):
        return inversion_time is None or inversion_time <= 300
    gradient = "GR" in header.scanning_sequence and "SE" not in header.scanning_sequence
    return "IR" in header.scanning_sequence and short_inversion and not gradient


def _spoken(words: str) -> Weighting | None:
    """The one weighting that a text names; None where it names none or several."""
    named = _written(words)
    if not named and _BALANCED.search(words):
        return Weighting.T2
    return named[0] if len(named) == 1 else None


def _is_spin_echo(header: AcquisitionHeader) -> bool:
    return bool({"SE", "IR"} & set(header.scanning_sequence)) and "GR" not in header.scanning_sequence


def _corrected(base: Weighting | None, header: AcquisitionHeader) -> Weighting | None:
    """The stated weighting, or the one that a spin echo's times leave possible."""
    echo_time, repetition_time = header.echo_time_ms, header.repetition_time_ms
    if base is None or echo_time is None or not _is_spin_echo(header):
        return base
    if base in (Weighting.T1, Weighting.PD) and echo_time >= 70:
        return Weighting.T2
    if base is Weighting.T2 and echo_time <= 30 and repetition_time is not None:
        if repetition_time <= 1000:
            return Weighting.T1
        return Weighting.PD if repetition_time > 1500 else base
    return base


def _from_times(header: AcquisitionHeader) -> Weighting | None:
    echo_time, repetition_time = header.echo_time_ms, header.repetition_time_ms
    if echo_time is None or repetition_time is None or echo_time <= 0 or repetition_time <= 0:
        return None
    if _is_spin_echo(header):
        inversion_time = header.inversion_time_ms or 0.0
        if echo_time >= 60:
            return Weighting.T2
        if echo_time < 40 and (repetition_time <= 1200 or 300 < inversion_time <= 1300):
            return Weighting.T1
        return Weighting.PD if repetition_time > 1500 else None
    if "GR" in header.scanning_sequence:
        flip_angle = header.flip_angle_deg or 0.0
        if "SS" in header.sequence_variant and flip_angle >= 40 and repetition_time < 15:
            return Weighting.T2
        if echo_time < 8 and 600 <= (header.inversion_time_ms or 0.0) <= 1300:
            return Weighting.T1
        if (echo_time < 8 and repetition_time < 50) or (echo_time < 15 and flip_angle >= 40):
            return Weighting.T1
    return None


def _refined_t1(header: AcquisitionHeader, words: str) -> Weighting:
    fat_suppressed = _is_fat_suppressed(header, words)
    contrast = _has_contrast_agent(header, fat_suppressed=fat_suppressed)
    if fat_suppressed:
        return Weighting.T1_FS_GD if contrast else Weighting.UNKNOWN
    return Weighting.T1_GD if contrast else Weighting.T1


def _has_contrast_agent(header: AcquisitionHeader, *, fat_suppressed: bool) -> bool:
    """Whether a T1 was acquired after contrast agent; see the top of this file."""
    described = stated_contrast(plain_words(_descriptions(header)))
    if described is not None:
        return described
    if header.contrast_named_in_study and not fat_suppressed:
        return False
    agent = names_agent(header.contrast_agent)
    return stated_contrast(plain_words(header.protocol)) is True if agent is None else agent


def names_agent(contrast_agent: str) -> bool | None:
    """Whether a ContrastBolusAgent names an agent; None where it is empty or was replaced.

    >>> names_agent("Gadovist"), names_agent("NO"), names_agent("ANONYMIZED")
    (True, False, None)
    """
    agent = contrast_agent.strip().upper()
    if agent in _UNSTATED_AGENT:
        return None
    return agent not in _NO_AGENT and stated_contrast(plain_words(agent)) is not False


def _is_fat_suppressed(header: AcquisitionHeader, words: str) -> bool:
    if header.fat_suppressed is not None:
        return header.fat_suppressed
    if _FAT_SUPPRESSING_OPTIONS & {option.upper() for option in header.scan_options}:
        return True
    return bool(_FAT_SUPPRESSED.search(words)) and not _NOT_FAT_SUPPRESSED.search(words)
