"""From the labels of any data set to the sets of channels that training takes.

Data sets differ in what they label and in where they stop. Here a table says what each value
means, and ``Extent`` what a voxel without a label may be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import SpineRegion, Structure, VertebralLevel
from spinemets.channels import Channel
from spinemets.errors import UnsupportedInputError
from spinemets.training.datasets.volumes import crop_to_spine, to_training_spacing, training_affine
from spinemets.training.images import RasImage
from spinemets.training.scans import (
    ANY,
    UNKNOWN_LESION,
    Allowed,
    LabelledScan,
    Labels,
    bit,
    channels_of,
    to_bytes,
)
from spinemets.volume import Mask, PointMm, Weighting

__all__ = [
    "BODIES",
    "Annotation",
    "Extent",
    "Meaning",
    "Part",
    "body_channels",
    "build_scan",
    "check_values",
    "meaning_of_name",
]

LabelMap = npt.NDArray[np.int32]

BODIES = bit(Channel.C2, Channel.CERVICAL_BODY, Channel.THORACIC_BODY, Channel.LUMBAR_BODY)
_REGION_CHANNELS = {
    SpineRegion.CERVICAL: Channel.CERVICAL_BODY,
    SpineRegion.THORACIC: Channel.THORACIC_BODY,
    SpineRegion.LUMBAR: Channel.LUMBAR_BODY,
    SpineRegion.SACRAL: Channel.SACRUM,
}
# A body's rear wall lies this far behind the front of the canal, and an estimated wall is this unsure.
_WALL_MM = 1.5
_UNSURE_MM = 3.0


class Part(Enum):
    """What a label covers."""

    VERTEBRA = "a vertebra, body and arch joined"
    BODY = "a vertebral body"
    POSTERIOR = "posterior elements"
    DISC = "a disc"
    CANAL = "the spinal canal: sac or cord"
    SAC = "the thecal sac without the cord"
    CORD = "the cord"
    SACRUM = "the sacrum"
    LESION = "a lesion"
    BACKGROUND = "nothing of the spine"
    ANYTHING = "anything: it is not told what"


_STRUCTURES = {
    Part.BODY: Structure.VERTEBRAL_BODY,
    Part.POSTERIOR: Structure.POSTERIOR_ELEMENTS,
    Part.DISC: Structure.DISC,
    Part.CANAL: Structure.THECAL_SAC,
    Part.SAC: Structure.THECAL_SAC,
    Part.CORD: Structure.CORD,
    Part.SACRUM: Structure.SACRUM,
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one value of a label map stands for; the level where the label tells it."""

    part: Part
    level: VertebralLevel | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """What is drawn on an image, on its grid: anatomy by value, and lesions by number.

    A lesion without a label beneath leaves open what anatomy it lies in.

    Attributes
    ----------
    ignored
        Where anything may be, a lesion too.
    """

    values: LabelMap
    lesions: Labels | None = None
    ignored: Mask | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """What a voxel without a label may be.

    Attributes
    ----------
    unlabelled
        Channels as bits, at heights where there are labels. Above and below, everything.
    whole_sacrum
        Whether all that is seen of the sacrum is labelled; if not, what lies below the lowest
        vertebra may be sacrum.
    """

    unlabelled: int = bit(Channel.BACKGROUND)
    whole_sacrum: bool = True


def check_values(labels: LabelMap, meanings: Mapping[int, Meaning], path: Path) -> None:
    """Refuse a label map with other values than a data set has.

    Raises
    ------
    UnsupportedInputError
        There is no label, or one that means nothing.
    """
    present = {int(value) for value in np.unique(labels)} - {0}
    if not present:
        raise UnsupportedInputError(f"{path}: holds no label, only 0")
    strange = sorted(present - set(meanings))
    if strange:
        raise UnsupportedInputError(
            f"{path}: label values {strange[:8]} are none of this layout's, "
            f"which lie in {min(meanings)} to {max(meanings)}"
        )


def body_channels(level: VertebralLevel | None) -> int:
    """The channels that the body of a vertebra may have, as bits.

    >>> body_channels(VertebralLevel.T12) == bit(Channel.THORACIC_BODY)
    True
    """
    if level is None:
        return BODIES
    if level is VertebralLevel.C2:
        return bit(Channel.C2)
    return bit(_REGION_CHANNELS[level.region])


def build_scan(
    subject: str,
    image: RasImage,
    annotation: Annotation,
    weighting: Weighting,
    meanings: Mapping[int, Meaning],
    extent: Extent,
) -> LabelledScan:
    """A labelled scan of an image and its labels, cropped to the spine.

    Raises
    ------
    UnsupportedInputError
        Bodies cannot be parted from arches: there is neither a canal nor a disc.
    """
    voxels, spacing = to_training_spacing(image.voxels, image.grid.spacing_mm, labels=False)
    resampled, _ = to_training_spacing(annotation.values, image.grid.spacing_mm, labels=True)
    drawn = np.zeros(image.voxels.shape, np.uint8) if annotation.lesions is None else annotation.lesions
    lesions = to_training_spacing(drawn, image.grid.spacing_mm, labels=True)[0].astype(np.uint8)
    box = crop_to_spine((resampled > 0) | (lesions > 0), spacing)
    values, lesions = resampled[box].astype(np.int32), lesions[box]
    structures, unsure = _structures(subject, values, meanings, spacing)
    allowed = _allowed(structures, values, meanings, extent)
    allowed[unsure] |= BODIES & _levels_of(values, meanings)[unsure] | bit(Channel.POSTERIOR_ELEMENTS)
    allowed[(lesions > 0) & (values == 0)] = ANY
    if annotation.ignored is not None:
        ignored = to_training_spacing(annotation.ignored, image.grid.spacing_mm, labels=True)[0][box] > 0
        allowed[ignored] = ANY
        lesions[ignored & (lesions == 0)] = UNKNOWN_LESION
    truth = None if annotation.lesions is None else lesions
    return LabelledScan(
        subject,
        to_bytes(voxels[box]),
        allowed,
        structures,
        spacing,
        weighting,
        truth,
        training_affine(image.grid, box),
    )


def _mask(values: LabelMap, meanings: Mapping[int, Meaning], *parts: Part) -> Mask:
    return np.isin(values, [value for value, meaning in meanings.items() if meaning.part in parts])


def _structures(
    subject: str, values: LabelMap, meanings: Mapping[int, Meaning], spacing: PointMm
) -> tuple[Labels, Mask]:
    """``Structure`` of every voxel, and where body and arch could not be told apart."""
    structures = np.zeros(values.shape, dtype=np.uint8)
    for part, structure in _STRUCTURES.items():
        structures[_mask(values, meanings, part)] = structure
    joined = _mask(values, meanings, Part.VERTEBRA)
    unsure = np.zeros(values.shape, dtype=bool)
    if not joined.any():
        return structures, unsure
    rows = np.arange(values.shape[1])[None, :, None]
    canal = _mask(values, meanings, Part.CANAL, Part.SAC, Part.CORD)
    if canal.any():
        wall = _front_of(canal) - _WALL_MM
    else:
        wall = _rear_of_discs(subject, values, meanings, spacing)
        unsure = joined & (np.abs(rows - wall[None, None, :]) < _UNSURE_MM)
    body = joined & (rows > wall[None, None, :])
    atlas = [v for v, m in meanings.items() if m.part is Part.VERTEBRA and m.level is VertebralLevel.C1]
    # The ring of the atlas is no body.
    body &= ~np.isin(values, atlas)
    structures[joined] = Structure.POSTERIOR_ELEMENTS
    structures[body] = Structure.VERTEBRAL_BODY
    return structures, unsure & ~np.isin(values, atlas)


def _front_of(canal: Mask) -> npt.NDArray[np.float64]:
    """The row of the canal's front at every height."""
    rows = np.arange(canal.shape[1])[None, :, None]
    front = np.where(canal, rows, -1).max(axis=(0, 1)).astype(float)
    known = front >= 0
    smooth = ndimage.median_filter(front[known], min(9, int(known.sum())))
    return np.interp(np.arange(canal.shape[2]), np.flatnonzero(known), smooth)


def _rear_of_discs(
    subject: str, values: LabelMap, meanings: Mapping[int, Meaning], spacing: PointMm
) -> npt.NDArray[np.float64]:
    """The row of the bodies' rear wall at every height, drawn from disc to disc."""
    points = []
    for value in np.unique(values[_mask(values, meanings, Part.DISC)]):
        places = np.argwhere(values == value)
        middle = places[np.abs(places[:, 0] - np.median(places[:, 0])) * spacing[0] <= 6]
        rear = np.percentile(middle[:, 1], 5)
        points.append((float(middle[middle[:, 1] <= rear + 2, 2].mean()), float(rear)))
    if not points:
        raise UnsupportedInputError(
            f"{subject}: vertebrae are labelled as wholes, and without canal or discs their bodies "
            "cannot be told from their arches"
        )
    heights, rears = np.array(sorted(points)).T
    return np.asarray(np.interp(np.arange(values.shape[2]), heights, rears) - _WALL_MM)


def _levels_of(values: LabelMap, meanings: Mapping[int, Meaning]) -> npt.NDArray[np.uint16]:
    """The body channels that each voxel's label speaks for."""
    table = np.full(max(max(meanings), int(values.max())) + 1, BODIES, dtype=np.uint16)
    for value, meaning in meanings.items():
        table[value] = body_channels(meaning.level)
    return table[values]


def _allowed(
    structures: Labels, values: LabelMap, meanings: Mapping[int, Meaning], extent: Extent
) -> Allowed:
    allowed = (1 << channels_of(structures)).astype(np.uint16)
    bodies = structures == Structure.VERTEBRAL_BODY
    allowed[bodies] = _levels_of(values, meanings)[bodies]
    if not _mask(values, meanings, Part.CORD).any():
        allowed[_mask(values, meanings, Part.CANAL)] = bit(Channel.THECAL_SAC, Channel.CORD)
    unlabelled = values == 0
    allowed[unlabelled] = extent.unlabelled
    heights = np.arange(values.shape[2])
    labelled = np.flatnonzero((values > 0).any(axis=(0, 1)))
    outside = (heights < labelled.min()) | (heights > labelled.max())
    spine = np.flatnonzero(np.isin(structures, (Structure.VERTEBRAL_BODY, Structure.DISC)).any(axis=(0, 1)))
    if not extent.whole_sacrum and spine.size:
        below = unlabelled & (heights <= spine.min() + 15)[None, None, :]
        allowed[below] |= bit(Channel.SACRUM, Channel.POSTERIOR_ELEMENTS)
    allowed[unlabelled & outside[None, None, :]] = ANY
    return allowed


_LEVEL = re.compile(r"([ctls])0?([0-9]{1,2})")
_LESION = re.compile(r"lesion|metastas|tumou?r")
_DENIALS = {"no", "non", "not", "without", "free"}
_PARTS: tuple[tuple[str, Part], ...] = (
    (r"discs?|disks?|ivds?|intervertebral", Part.DISC),
    (r"sacrum|sacral|coccyx", Part.SACRUM),
    (
        r"arch(?:es)?|arcus|posterior|spinous|spinosus|process(?:es|us)?|laminae?|pedicles?",
        Part.POSTERIOR,
    ),
    (r"thecal(?:sac)?|dural(?:sac)?|\bsacs?\b|csf", Part.SAC),
    (r"canals?", Part.CANAL),
    (r"cords?|\bsc\b", Part.CORD),
    (r"body|bodies|corpus|corpora", Part.BODY),
    (r"vert(?:s|ebra[els]?)?", Part.VERTEBRA),
)
# What may stand beside the words above without making them mean another thing.
_BESIDE = (
    r"spinal|spine|column|elements?|transverse|articular|costal|superior|inferior|left|right"
    r"|cervical|thoracic|lumbar|of|the|[0-9]+"
)
_KNOWN = re.compile(f"(?:{'|'.join(pattern for pattern, _ in _PARTS)}|{_BESIDE})+")
_IN_CANAL = {Part.CANAL, Part.SAC, Part.CORD}


def meaning_of_name(name: str) -> Meaning | None:
    """What a label of this name stands for; None where that is not certain.

    A word that is not known makes a name mean nothing: "muscle_T12" is no vertebra.

    >>> meaning_of_name("disc_L4_L5").part.name
    'DISC'
    >>> meaning_of_name("vertebrae_T12").level.value
    'T12'
    >>> meaning_of_name("L3").part.name, meaning_of_name("L3/L4").part.name
    ('VERTEBRA', 'DISC')
    >>> meaning_of_name("vertebral_metastasis").part.name
    'LESION'
    """
    words = _words(name)
    if any(word.startswith("ignore") for word in words):
        return Meaning(Part.ANYTHING)
    if any(_LESION.match(word) for word in words):
        return None if _DENIALS & set(words) else Meaning(Part.LESION)
    if words and words[0] in ("background", "other", "others"):
        return Meaning(Part.BACKGROUND if words[0] == "background" else Part.ANYTHING)
    levels, rest = _named_levels(words)
    if not all(_KNOWN.fullmatch(word) for word in rest):
        return None
    parts = {part for pattern, part in _PARTS for word in rest if re.search(pattern, word)}
    if not parts:
        # "L5-1" may be a disc, and "L4 2" the second of two.
        return None if any(word.isdigit() for word in rest) else _meaning_of_levels(levels)
    part = _one_of(parts)
    if part not in (Part.BODY, Part.VERTEBRA):
        return part and Meaning(part)
    return Meaning(part, levels[0] if levels else None) if len(levels) < 2 else None


def _words(name: str) -> list[str]:
    """The words of a name in lower case: "SpinalCanal" has two, "L4L5" two."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[0-9])(?=[A-Za-z])", " ", name)
    return [word for word in re.split(r"[\W_]+", spaced.lower()) if word]


def _named_levels(words: list[str]) -> tuple[list[VertebralLevel], list[str]]:
    """The levels among the words of a name, and the other words; L5/S is L5/S1, L4-5 is L4-L5."""
    levels: list[VertebralLevel] = []
    rest = []
    before = None
    for word in words:
        level = None
        if found := _LEVEL.fullmatch(word):
            level = VertebralLevel.__members__.get(f"{found[1].upper()}{int(found[2])}")
        elif before is not None and word == "s":
            level = VertebralLevel.S1
        elif before is not None and word == str(int(before.value[1:]) + 1):
            level = VertebralLevel.__members__.get(f"{before.value[0]}{word}")
        if level is None:
            rest.append(word)
        else:
            levels.append(level)
        before = level
    return levels, rest


def _meaning_of_levels(levels: list[VertebralLevel]) -> Meaning | None:
    """One level is its vertebra, two neighbours are the disc between them."""
    if len(levels) == 1:
        sacral = levels[0].region is SpineRegion.SACRAL
        return Meaning(Part.SACRUM) if sacral else Meaning(Part.VERTEBRA, levels[0])
    order = list(VertebralLevel)
    places = sorted(order.index(level) for level in levels)
    if len(set(places)) != 2 or len(levels) != 2:
        return None
    between = order[places[0] + 1 : places[1]]
    return Meaning(Part.DISC) if all(level.is_supernumerary for level in between) else None


def _one_of(parts: set[Part]) -> Part | None:
    """What several words name together, as in "vertebral body"; None where they contradict."""
    own = parts - {Part.VERTEBRA} or parts
    if len(own) > 1:
        return Part.CANAL if own <= _IN_CANAL else None
    return next(iter(own))
