"""The settings of a detection: one frozen tree, read from YAML, with every default in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spinemets.anatomy import VertebralLevel
from spinemets.errors import ConfigError

__all__ = [
    "FORMATS",
    "Anchor",
    "ClassificationConfig",
    "DeidentificationConfig",
    "DetectionConfig",
    "LesionConfig",
    "LevelConfig",
    "ReadingConfig",
    "ReportConfig",
    "SegmentationConfig",
    "load_config",
    "parse_anchor",
    "parse_formats",
    "read_settings",
]

_Kind = TypeVar("_Kind", bound=BaseModel)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Anchor(_Settings):
    """A level that the user is sure of.

    ``place`` is "highest" or "lowest" (the first or last fully visible vertebra, the sacrum
    aside) or a point inside the vertebra in RAS+ mm.
    """

    level: VertebralLevel
    place: Literal["highest", "lowest"] | tuple[float, float, float]


class ReadingConfig(_Settings):
    """How studies are read and which of their series are used."""

    allow_missing: bool = Field(
        default=False, description="interpolate missing slices instead of refusing the series"
    )
    minimum_slices: int = Field(default=5, ge=1, description="series with fewer slices are rejected")
    maximum_series: int = Field(
        default=6, ge=1, description="at most this many series of a study are used, best first"
    )


class SegmentationConfig(_Settings):
    """How the network runs and how series are brought together."""

    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto, float32, bfloat16 or float16"
    )
    deterministic: bool = Field(
        default=False, description="the same result bit by bit on every run, at some cost in speed"
    )
    registration: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="auto (only between series of different frames of reference), always or never",
    )


class LevelConfig(_Settings):
    """How vertebrae are named."""

    anchors: tuple[Anchor, ...] = Field(
        default=(), description="levels the user is sure of, as in [{level: L5, place: lowest}]"
    )
    review_confidence: float = Field(
        default=0.9, ge=0, le=1, description="below it, a level is said to be uncertain"
    )
    t13_prevalence: float = Field(default=0.03, gt=0, lt=0.5, description="share of people with T13")
    missing_t12_prevalence: float = Field(
        default=0.03, gt=0, lt=0.5, description="share of people without T12"
    )
    l6_prevalence: float = Field(default=0.04, gt=0, lt=0.5, description="share of people with L6")
    missing_l5_prevalence: float = Field(default=0.02, gt=0, lt=0.5, description="share of people without L5")
    missed_detection: float = Field(
        default=0.02, gt=0, lt=0.5, description="share of vertebrae that the network does not find"
    )
    spurious_suspect: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of bodies much lower than their neighbours, or beside one, that are no vertebrae",
    )
    evidence_weight: float = Field(
        default=0.3, ge=0, le=1, description="trust in the network's opinion on regions; 1: at its word"
    )
    morphology_weight: float = Field(
        default=0.5, ge=0, le=1, description="trust in body sizes; below 1: neighbours deviate together"
    )


class LesionConfig(_Settings):
    """What counts as a lesion."""

    # Fitted and chosen for the released networks with scripts/calibrate.py, on lesions implanted
    # into eight SPIDER subjects, which no reported figure includes.
    threshold: float = Field(default=0.25, gt=0, lt=1, description="lesion probability of a voxel")
    minimum_volume_mm3: float = Field(default=60.0, ge=0, description="smaller components are dropped")
    minimum_confidence: float = Field(
        default=0.3, ge=0, le=1, description="components of weaker evidence are dropped"
    )
    confidence_shift: float = Field(
        default=-1.861, description="log odds of a component being a lesion, plus ..."
    )
    confidence_evidence: float = Field(
        default=1.978,
        ge=0,
        description="... this for the mean log odds of its surer half of voxels, plus ...",
    )
    confidence_size: float = Field(
        default=0.224, description="... this for the logarithm of its volume in ml, plus ..."
    )
    confidence_series: float = Field(
        default=0.983, description="... this for the logarithm of the number of series, plus ..."
    )
    confidence_cord: float = Field(default=0.854, description="... this where most of it lies in the cord")


class ClassificationConfig(_Settings):
    """When a compartment is too close to call."""

    boundary_sd_mm: float = Field(
        default=0.8, gt=0, description="standard deviation of the segmented dura's and cord's place, in mm"
    )
    review_margin: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="needs review where the two likeliest compartments are closer than this",
    )
    bulk_exponent: float = Field(
        default=2.0, ge=1, description="how strongly a lesion across the dura takes the site of its bulk"
    )
    review_shift_sd: float = Field(
        default=1.5,
        ge=0,
        description="needs review where moving dura and cord by this many boundary_sd_mm changes the site",
    )
    level_share: float = Field(
        default=0.05, ge=0, le=1, description="a level is touched by this share of the lesion, or ..."
    )
    level_volume_mm3: float = Field(default=200.0, ge=0, description="... by this volume of it")
    review_level_confidence: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="needs review where the main level's name is less sure "
        "(below levels.review_confidence a name is marked as uncertain)",
    )
    review_lesion_confidence: float = Field(
        default=0.5, ge=0, le=1, description="needs review where the lesion itself is less sure"
    )


Format = Literal[
    "json", "html", "nifti", "png", "pdf", "bids", "fhir",
    "dicom-seg", "dicom-sr", "dicom-pdf", "dicom-sc", "dicom-rtstruct",
]  # fmt: skip
FORMATS: tuple[Format, ...] = get_args(Format)


class ReportConfig(_Settings):
    """What is written."""

    formats: tuple[Format, ...] = Field(
        default=("json", "html", "nifti", "png"),
        description="any of json, html, nifti, png, pdf, bids, fhir, and for DICOM studies dicom-seg, "
        "dicom-sr, dicom-pdf, dicom-sc and dicom-rtstruct, which carry the patient's name as the source does",
    )
    segmentation_type: Literal["binary", "labelmap"] = Field(
        default="binary", description="of dicom-seg: binary (read everywhere) or labelmap (smaller, newer)"
    )
    save_probabilities: bool = Field(
        default=False, description="also write the lesion probability of every voxel"
    )
    identifiers: Literal["keep", "hash"] = Field(
        default="hash", description="keep UIDs, patient ID and date, or hash or omit them"
    )


class DeidentificationConfig(_Settings):
    """De-identification by PS3.15 Annex E, before anything else is done with a study."""

    enabled: bool = Field(
        default=False, description="de-identify each study first, so that nothing written names anybody"
    )
    retain: tuple[Literal["dates", "device"], ...] = Field(
        default=(),
        description="what to keep: dates (shifted by the same for all studies of a patient), device "
        "(serial number, station)",
    )
    # No report says where it is.
    key_file: Path | None = Field(
        default=None, exclude=True, description="file of the secret key; made where it is missing"
    )


class DetectionConfig(_Settings):
    """All settings of one detection; the defaults are what ``configs/detect.yaml`` holds."""

    reading: ReadingConfig = ReadingConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    levels: LevelConfig = LevelConfig()
    lesions: LesionConfig = LesionConfig()
    classification: ClassificationConfig = ClassificationConfig()
    report: ReportConfig = ReportConfig()
    deidentification: DeidentificationConfig = DeidentificationConfig()


def load_config(path: Path) -> DetectionConfig:
    """Read a detection configuration from a YAML file; absent keys take their defaults.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, or holds an unknown key or a bad value.
    """
    return read_settings(path, DetectionConfig)


def read_settings(path: Path, settings: type[_Kind], context: Mapping[str, Any] | None = None) -> _Kind:
    """Read settings of a kind from a YAML file; absent keys take their defaults.

    Parameters
    ----------
    context
        For the settings' own validators.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, or holds an unknown key or a bad value.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); pass a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    try:
        return settings.model_validate(values or {}, context=context)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_problems(error, settings)}") from error


def _problems(error: ValidationError, settings: type[BaseModel]) -> str:
    """What is wrong with the settings of a file, key by key; a misspelt key with what is meant.

    Parameters
    ----------
    settings
        The model that the file was read as.

    Examples
    --------
    >>> try:
    ...     DetectionConfig.model_validate({"lesions": {"treshold": 0.3}})
    ... except ValidationError as error:
    ...     print(_problems(error, DetectionConfig))
    lesions.treshold: there is no such setting; did you mean threshold?
    """
    return "; ".join(_problem(one["type"], one["loc"], one["msg"], settings) for one in error.errors())


def _problem(kind: str, place: tuple[int | str, ...], message: str, settings: type[BaseModel]) -> str:
    where = ".".join(map(str, place)) or "file"
    if kind != "extra_forbidden":
        return f"{where}: {message}"
    known = _keys_at(place[:-1], settings)
    near = get_close_matches(str(place[-1]), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{where}: there is no such setting; {hint}"


def _keys_at(place: Sequence[int | str], settings: type[BaseModel]) -> list[str]:
    """The keys that may stand at a place of a settings file."""
    annotation: Any = settings
    for key in place:
        annotation = _annotation_at(key, _one_kind(annotation))
    return list(_one_kind(annotation).model_fields)


def _one_kind(annotation: Any) -> Any:
    """An annotation without what else it allows: no value at all, or conditions."""
    if get_origin(annotation) is Annotated:
        return _one_kind(get_args(annotation)[0])
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return _one_kind(kinds[0]) if _is_union(annotation) and len(kinds) == 1 else annotation


def _annotation_at(key: int | str, annotation: Any) -> Any:
    """What may stand under a key or number, or under the name of one of several kinds of a model."""
    if _is_union(annotation):
        return next(kind for kind in get_args(annotation) if key in _tags(kind))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields[str(key)].annotation
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return get_args(annotation)[0]


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _tags(model: type[BaseModel]) -> set[object]:
    """The words by which a model is told from others of its union."""
    return {word for field in model.model_fields.values() for word in get_args(field.annotation)}


def parse_anchor(text: str) -> Anchor:
    """Read an anchor as given on the command line.

    Raises
    ------
    ConfigError
        The text is not LEVEL=highest, LEVEL=lowest or LEVEL=X,Y,Z.

    Examples
    --------
    >>> parse_anchor("L5=lowest").place
    'lowest'
    >>> parse_anchor("T12=-3.5,20,140").place
    (-3.5, 20.0, 140.0)
    """
    expected = "expected LEVEL=lowest, LEVEL=highest or LEVEL=X,Y,Z in RAS+ mm, as in L5=lowest"
    name, equals, place = text.partition("=")
    try:
        level = VertebralLevel(name.strip().upper())
        if not equals:
            raise ValueError("no '='")
        if place in ("highest", "lowest"):
            return Anchor.model_validate({"level": level, "place": place})
        x, y, z = (float(part) for part in place.split(","))
        return Anchor(level=level, place=(x, y, z))
    except ValueError as error:
        raise ConfigError(f"anchor {text!r}: {expected}") from error


def parse_formats(text: str) -> tuple[Format, ...]:
    """Read the formats as given on the command line: names with commas between them.

    Raises
    ------
    ConfigError
        A name is not one of ``FORMATS``.

    Examples
    --------
    >>> parse_formats("json,dicom-seg")
    ('json', 'dicom-seg')
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        found = ", ".join(unknown) or "none"
        raise ConfigError(f"formats {text!r}: expected some of {', '.join(FORMATS)}, found {found}")
    return tuple(name for name in FORMATS if name in names)
