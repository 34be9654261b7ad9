"""What is concluded from a segmented study: the values that pass between the later stages.

    SpineSegmentation -> Vertebrae -> Lesions -> LesionFindings -> StudyReport

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

from spinemets.anatomy import Compartment, SpineRegion, VertebralLevel
from spinemets.segmented import NetworkExecution, SpineSegmentation
from spinemets.volume import Grid, Mask, PointMm, Study

__all__ = [
    "Lesion",
    "LesionFinding",
    "LesionPlace",
    "LevelAlternative",
    "Provenance",
    "ReviewTopic",
    "SequenceSignal",
    "StudyReport",
    "Vertebra",
]


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
    execution
        Where and how the networks ran; of a loaded model, what is planned.
    configuration
        The effective detection configuration as plain data.
    timings_s
        Wall time of each stage, in seconds.
    """

    version: str
    model: str
    model_version: str
    model_sha256: str
    execution: NetworkExecution = field(default_factory=NetworkExecution)
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
