"""What the names of image files say: which study, which weighting, image or label map.

*BIDS* (``sub-01[_ses-02]_..._T2w.nii.gz``, in folders of BIDS or all in one folder): files of one
subject and session are one study. *Plain names*: a file is a study of its own, unless names in
one folder differ only by what follows a weighting at their end (``case01_T1.nii.gz``,
``case01_T2_sag.nii.gz``, ``case01_STIR.nii.gz``; or ``T1.nii.gz``, ``T2.nii.gz``).

*Label maps* are known by a word such as ``_dseg``, ``_mask`` or ``_label-cord`` behind the weighting,
by their folder (``masks/``, ``labelsTr/``, ``truth/``), or by the name of a structure
(``case01_lesion.nii.gz``) beside an image of the same case. ``file_series`` also asks the sidecar
and the header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FileName", "case_of_structure", "image_stem", "parse_file_name"]

_IMAGE_SUFFIXES = re.compile(r"(?:\.nii(?:\.gz)?|\.nrrd|\.nhdr|\.mha|\.mhd)$", re.IGNORECASE)
_SUBJECT = re.compile(r"^(sub-[^_]+)(?:_(ses-[^_]+))?(?:_|$)")
_SEPARATORS = re.compile(r"[_\-\s.+]+")
_CONTRAST = re.compile(
    r"(?:t1|t2)(?![0-9])\w*|[esd](?:t[12]|pd)w\w*|pd(?:w|fs|wfs)?|stir|tirm|dixon|mdixon|flair|dwi|adc|bold"
    r"|epi|ct|mtr?|mts",
    re.IGNORECASE,
)
_QUALIFIER = re.compile(
    r"fs|fatsat|fat|sat|gd|gado\w*|ce|c|km|pre|post|contrast|water|w|f|in|opp|ip|op|phase|ideal|tse|fse|se|gre|ir"
    r"|space|vista|cube|sag\w*|ax|axial|tra|trans\w*|cor|coronal|2d|3d|iso|mri?|mip|mpr|sub|subtraction|map"
    r"|image|img|native?|\d",
    re.IGNORECASE,
)
_LABEL_WORD = re.compile(
    r"dseg|seg|segs|segmentation|msk|mask|masks|label|labels|labeled|labelled|labelmap|lbl|probseg|roi|gt"
    r"|centerline|ctd",
    re.IGNORECASE,
)
_STRUCTURE = re.compile(
    r"(?:^|[_\-. ])(?:cord|sc|canal|sac|body|bodies|vert|vertebrae?|discs?|lesions?|tumou?rs?|levels?)$",
    re.IGNORECASE,
)
_ALWAYS_LABEL = re.compile(r"landmarks?|dseg|probseg|labelmap", re.IGNORECASE)
_LABEL_FOLDER = re.compile(
    r"masks?|labels?|labels(?:tr|ts)|segmentations?|segs?|(?:ground[_-]?)?truth|gt|annotations?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class FileName:
    """A file's name taken apart.

    Attributes
    ----------
    study
        Equal for files of one study, within one input.
    title
        A short name of the study, as in "sub-01 ses-02" or "case01".
    contrast
        The words that tell of its contrast: "acq-stir_T2w", "T1_fs_gd"; empty where none
        stands out.
    is_label_map
        Whether the name says that it holds labels, not intensities.
    """

    study: tuple[str, ...]
    title: str
    contrast: str
    is_label_map: bool


def image_stem(path: Path) -> str:
    """The file's name without its format's suffix.

    >>> image_stem(Path("a/sub-01_T2w.nii.gz"))
    'sub-01_T2w'
    """
    return _IMAGE_SUFFIXES.sub("", path.name)


def parse_file_name(path: Path) -> FileName:
    """Take a file's name apart by the rules at the top of this file.

    >>> parse_file_name(Path("case01_T2_sag.mha")).title
    'case01'
    >>> parse_file_name(Path("sub-01_T2w_label-SC_mask.nii.gz")).is_label_map
    True
    """
    stem = image_stem(path)
    subject = _SUBJECT.match(stem)
    if subject:
        names = tuple(name for name in subject.groups() if name)
        contrast = stem[subject.end() :]
        return FileName((_dataset_folder(path), *names), " ".join(names), contrast, _is_label_map(path, stem))
    title, contrast = _split_plain(stem)
    study = (str(path.parent), title)
    return FileName(study, title or path.parent.name, contrast, _is_label_map(path, stem))


def case_of_structure(path: Path) -> str | None:
    """The case's name where a file is named for a structure of it; None where it is not.

    >>> case_of_structure(Path("case01_lesion.nii.gz"))
    'case01'
    """
    stem = image_stem(path)
    structure = _STRUCTURE.search(stem)
    return stem[: structure.start()] if structure else None


def _dataset_folder(path: Path) -> str:
    """The folder that holds the subjects' folders, or the files where there are none."""
    for folder in reversed(path.parents):
        if folder.name.startswith("sub-"):
            return str(folder.parent)
    return str(path.parent)


def _split_plain(stem: str) -> tuple[str, str]:
    """The case's name and the trailing words of contrast; (stem, "") where there are none."""
    words = [(match.start(), match.group()) for match in re.finditer(r"[^_\-\s.+]+", stem)]
    anchored = len(stem)
    for position, word in reversed(words):
        if _CONTRAST.fullmatch(word):
            anchored = position
        elif not _QUALIFIER.fullmatch(word):
            break
    if anchored == len(stem):
        return stem, ""
    return stem[:anchored].strip("_- .+"), stem[anchored:]


def _is_label_map(path: Path, stem: str) -> bool:
    """Label words count where no weighting follows them: ``_label-6_T2w`` is an image."""
    words = _SEPARATORS.split(stem)
    if any(_ALWAYS_LABEL.fullmatch(word) for word in words) or _LABEL_FOLDER.fullmatch(path.parent.name):
        return True
    last_contrast = max((k for k, word in enumerate(words) if _CONTRAST.fullmatch(word)), default=-1)
    return any(_LABEL_WORD.fullmatch(word) for word in words[last_contrast + 1 :])
