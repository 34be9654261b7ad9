"""The values that pass between the stages of a detection.

    Study -> SpineSegmentation -> Vertebrae -> Lesions -> LesionFindings -> StudyReport

All are frozen; a stage makes a new one rather than filling one in. Nothing here computes,
draws or touches the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion, Structure, VertebralLevel
from spinemets.errors import GeometryError
from spinemets.volume import Grid, Mask, Study, Volume
from spinemets.voxels import Box

__all__ = [
    "InstanceEvidence",
    "Lesion",
    "LesionFinding",
    "LesionPlace",
    "LevelAlternative",
    "NetworkExecution",
    "NetworkMaps",
    "PointMm",
    "Provenance",
    "ReviewTopic",
    "SequenceSignal",
    "SourceMaps",
    "SpineSegmentation",
    "StudyReport",
    "Vertebra",
]

PointMm = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class InstanceEvidence:
    """What the network's signal says about the level of one vertebra instance.

    Attributes
    ----------
    instance
        The instance's label in ``SpineSegmentation.vertebrae``, from 1.
    c2, cervical, thoracic, lumbar, sacral
        Mean probability over the instance's body that it is C2 (with the dens), C3-C7,
        T1-T13, L1-L6 or S1; they sum to 1. Uniform (0.2 each) where a network has no opinion.
    """

    instance: int
    c2: float = 0.2
    cervical: float = 0.2
    thoracic: float = 0.2
    lumbar: float = 0.2
    sacral: float = 0.2


@dataclass(frozen=True, slots=True)
class NetworkExecution:
    """How the networks really ran for one study, which can differ from what was planned.

    Attributes
    ----------
    device, precision
        Of the last pass: "cuda:0", "cpu", ... and "bfloat16", "float32", ...
    strategy
        "whole volume", or "parts" where a convolution was computed piece by piece.
    passes
        Images that went through a network.
    parts
        Into how many pieces the largest convolution was cut; 1 for a whole volume.
    fallbacks
        What was done instead of what was planned, in order, in plain sentences.
    """

    device: str
    precision: str
    strategy: str = "whole volume"
    passes: int = 0
    parts: int = 1
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SourceMaps:
    """What the networks say of each voxel of a series' own grid.

    Attributes
    ----------
    box
        Holds every voxel that is not background.
    channels
        uint8, shape of the box: the likeliest ``Channel``.
    bodies
        float32, shape of the box: probability of vertebral body, of whatever region; 0 far from the
        spine.
    regions
        float16, five times the shape of the box: probabilities of C2, cervical, thoracic and lumbar
        body, and sacrum; likewise.
    lesion_box
        As far from the spine as lesions are wanted.
    lesion
        float32, shape of that box: probability of lesion.
    """

    box: Box
    channels: npt.NDArray[np.uint8]
    bodies: npt.NDArray[np.float32]
    regions: npt.NDArray[np.float16]
    lesion_box: Box
    lesion: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class NetworkMaps:
    """A study as the networks have seen it.

    Attributes
    ----------
    maps
        On the grid of the reference series.
    cautions
        What a reader must know of fallbacks.
    """

    maps: SourceMaps
    cautions: tuple[str, ...]
    execution: NetworkExecution


@dataclass(frozen=True, slots=True, eq=False)
class SpineSegmentation:
    """What was found in a study, voxel by voxel, on the grid of its reference series.

    Attributes
    ----------
    grid
        The reference series' own grid.
    anatomy
        uint8, shape ``grid.shape``; values of ``Structure``.
    vertebrae
        uint8, shape ``grid.shape``; 0 or an instance's label 1..n, from head to foot. An
        instance covers body and posterior elements; S1 (or the whole visible sacrum) is the
        last one where it is seen.
    lesion_probability
        float32, shape ``grid.shape``, in [0, 1].
    evidence
        One entry per instance, in the order of the labels.
    volumes
        Every used series resampled onto ``grid``, the reference first and untouched.
    cautions
        What went less than well: a doubtful registration, a fallback to the CPU, ...
    execution
        How the networks ran; None where no network did.
    covered
        One bool array for each volume, shape ``grid.shape``: where its series has values, that is within
        its extent and not in a rim of 0. Empty where each has them everywhere.

    Raises
    ------
    GeometryError
        An array's shape is not the grid's, or evidence and instances do not match.
    """

    grid: Grid
    anatomy: npt.NDArray[np.uint8]
    vertebrae: npt.NDArray[np.uint8]
    lesion_probability: npt.NDArray[np.float32]
    evidence: tuple[InstanceEvidence, ...]
    volumes: tuple[Volume, ...]
    cautions: tuple[str, ...] = ()
    execution: NetworkExecution | None = None
    covered: tuple[Mask, ...] = ()

    def __post_init__(self) -> None:
        for name in ("anatomy", "vertebrae", "lesion_probability"):
            array = getattr(self, name)
            if array.shape != self.grid.shape:
                raise GeometryError(f"{name} of shape {array.shape} does not fit a grid of {self.grid.shape}")
        for volume in self.volumes:
            if not volume.grid.is_close(self.grid):
                raise GeometryError(f"{volume.series.name} is not on the segmentation's grid")
        if self.covered and [mask.shape for mask in self.covered] != [self.grid.shape] * len(self.volumes):
            raise GeometryError(
                "every volume needs a mask of what it covers, of the grid's shape, or none does"
            )
        if int(self.anatomy.max(initial=0)) > max(Structure):
            raise GeometryError(f"anatomy holds the unknown label {int(self.anatomy.max())}")
        labels = [entry.instance for entry in self.evidence]
        if labels != list(range(1, len(labels) + 1)) or int(self.vertebrae.max(initial=0)) > len(labels):
            raise GeometryError("instances must be labelled 1..n, with one entry of evidence each")


@dataclass(frozen=True, slots=True)
class LevelAlternative:
    """A name that a vertebra has in another plausible numbering of the whole column."""

    level: VertebralLevel
    probability: float


@dataclass(frozen=True, slots=True)
class Vertebra:
    """One vertebra with its name and how sure that name is.

    Attributes
    ----------
    instance
        The label in ``SpineSegmentation.vertebrae``.
    confidence
        Probability of ``level`` among all admissible numberings of the column, in [0, 1].
    alternatives
        Other names, most probable first; empty where none reaches 0.01.
    centroid_mm
        Centre of the body in RAS+ mm.
    fully_visible
        False where the vertebra is cut off by the edge of the image.
    """

    instance: int
    level: VertebralLevel
    confidence: float
    alternatives: tuple[LevelAlternative, ...]
    centroid_mm: PointMm
    fully_visible: bool


@dataclass(frozen=True, slots=True)
class SequenceSignal:
    """A lesion's signal on one series, against the study's own normal tissue.

    Attributes
    ----------
    series_name, weighting
        The series, as ``Series.name`` and ``Weighting.value``.
    z_score
        (lesion median - reference median) / reference robust spread. NaN-free; None where there
        is no reference.
    appearance
        "dark", "similar" or "bright" relative to that reference; "unknown" without one.
    reference
        "marrow" of the vertebral bodies, or what else surrounds the lesion: "cord" or "CSF".
    """

    series_name: str
    weighting: str
    z_score: float | None
    appearance: str
    reference: str = "marrow"


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """One connected lesion.

    Attributes
    ----------
    number
        1..n, from head to foot.
    voxels
        int32, shape (n, 3): voxel indices on ``grid``.
    centroid_mm
        RAS+ mm.
    volume_mm3
        Voxel count times voxel volume.
    longest_diameter_mm
        Longest distance between two surface points, in 3-D.
    confidence
        Probability that this is a lesion at all, in [0, 1].
    signals
        One entry per series of the study.
    """

    number: int
    voxels: npt.NDArray[np.int32]
    grid: Grid
    centroid_mm: PointMm
    volume_mm3: float
    longest_diameter_mm: float
    confidence: float
    signals: tuple[SequenceSignal, ...] = ()

    def mask(self) -> Mask:
        """The lesion as a boolean array of shape ``grid.shape``."""
        mask = np.zeros(self.grid.shape, dtype=np.bool_)
        mask[tuple(self.voxels.T)] = True
        return mask


class ReviewTopic(StrEnum):
    """What a reader is asked to decide about a finding; evidence is whether it is a lesion at all."""

    COMPARTMENT = "compartment"
    LEVEL = "level"
    EVIDENCE = "evidence"
    EXTENT = "extent"


@dataclass(frozen=True, slots=True, eq=False)
class LesionFinding:
    """A lesion with its place in the body.

    Attributes
    ----------
    levels
        Vertebral levels it touches, head to foot; empty where no vertebra is near.
    main_level
        The one that holds most of it; None where ``levels`` is empty.
    level_confidence
        Confidence of ``main_level``'s name, 0 where there is none.
    region
        Of the main level; None where no vertebra is near.
    compartment_probabilities
        All three compartments; they sum to 1.
    compartment_shares
        The share of the lesion's volume in each compartment as segmented; they sum to 1.
    needs_review, review_reasons
        True, with plain sentences, where a reader must decide.
    review_topics
        What those sentences are about, each topic once.
    """

    lesion: Lesion
    levels: tuple[VertebralLevel, ...]
    main_level: VertebralLevel | None
    level_confidence: float
    region: SpineRegion | None
    compartment: Compartment
    compartment_probabilities: Mapping[Compartment, float]
    compartment_shares: Mapping[Compartment, float]
    needs_review: bool
    review_reasons: tuple[str, ...] = ()
    review_topics: tuple[ReviewTopic, ...] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a report came to be: enough to make it again.

    Attributes
    ----------
    version
        Of spinemets.
    model, model_version, model_sha256
        The bundle's name, version and weights' checksum.
    device, precision, strategy, passes, parts, fallbacks
        Where and how the networks ran, as in ``NetworkExecution``; of a loaded model, what is planned.
    configuration
        The effective detection configuration as plain data.
    timings_s
        Wall time of each stage, in seconds.
    """

    version: str
    model: str
    model_version: str
    model_sha256: str
    device: str = "cpu"
    precision: str = "float32"
    strategy: str = "whole volume"
    passes: int = 0
    parts: int = 1
    fallbacks: tuple[str, ...] = ()
    configuration: Mapping[str, object] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)


Side = Literal["right", "left", "midline", "both"]


@dataclass(frozen=True, slots=True)
class LesionPlace:
    """Where to look for a lesion in the reference series.

    Attributes
    ----------
    slice_first, slice_last, slice_count
        From 1, in the order of the file or, in DICOM, of position; the count is the series'.
    instance_number
        DICOM: the InstanceNumber of the slice that holds most of the lesion, or that slice's frame,
        from 1, in a multi-frame object; None for image files and where the file is gone.
    side
        Of the spinal canal's midline, as the patient has it; None where no spine was recognised.
    """

    slice_first: int
    slice_last: int
    slice_count: int
    instance_number: int | None
    side: Side | None


@dataclass(frozen=True, slots=True, eq=False)
class StudyReport:
    """Everything that is said about one study.

    Attributes
    ----------
    places
        Where to look for each lesion, by its number.
    """

    study: Study
    segmentation: SpineSegmentation
    vertebrae: tuple[Vertebra, ...]
    findings: tuple[LesionFinding, ...]
    cautions: tuple[str, ...]
    provenance: Provenance
    places: Mapping[int, LesionPlace] = field(default_factory=dict)
