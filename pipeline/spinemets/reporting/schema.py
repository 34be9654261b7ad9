"""The report as a document: pydantic models of ``report.json`` and its JSON Schema.

Knows the shape of the document only; ``spinemets.reporting.document`` fills it.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import GenerateJsonSchema

from spinemets.anatomy import Compartment, SpineRegion, VertebralLevel
from spinemets.findings import ReviewTopic, Side

__all__ = [
    "DISCLAIMER",
    "SCHEMA_VERSION",
    "AlternativeRecord",
    "FindingRecord",
    "LevelRecord",
    "ProvenanceRecord",
    "RejectedSeriesRecord",
    "ReportDocument",
    "SeriesRecord",
    "SignalRecord",
    "StudyRecord",
    "SummaryRecord",
    "json_schema_text",
]

SCHEMA_VERSION: Literal["1.2"] = "1.2"
DISCLAIMER = "Research use only. Not a medical device."

Probability = float
Point = tuple[float, float, float]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SeriesRecord(_Record):
    """A series that the analysis used."""

    name: str
    weighting: str
    plane: Literal["sagittal", "coronal", "axial"]
    identifier: str = Field(description="series UID, or a keyed hash of it")
    source: str | None = Field(description="name of the file or folder; null where identifiers are hashed")
    shape: tuple[int, int, int]
    spacing_mm: Point
    reference: bool = Field(description="true for the series whose grid carries the results")
    cautions: tuple[str, ...]


class RejectedSeriesRecord(_Record):
    """A series that was found and not used."""

    name: str
    reason: str


class StudyRecord(_Record):
    """What was examined."""

    identifier: str = Field(description="study UID, or a keyed hash of it")
    identifiers: Literal["keep", "hash"]
    patient_id: str | None = Field(description="null where identifiers are hashed")
    date: str | None = Field(description="null where identifiers are hashed")
    description: str
    series: tuple[SeriesRecord, ...]
    rejected: tuple[RejectedSeriesRecord, ...]


class AlternativeRecord(_Record):
    """Another name that a vertebra may have."""

    level: VertebralLevel
    probability: Probability = Field(ge=0, le=1)


class LevelRecord(_Record):
    """One recognised vertebra."""

    level: VertebralLevel
    confidence: Probability = Field(ge=0, le=1)
    uncertain: bool = Field(description="true where the confidence is below the configured bound")
    alternatives: tuple[AlternativeRecord, ...]
    centroid_mm: Point = Field(description="centre of the body, RAS+ mm")
    fully_visible: bool


class SignalRecord(_Record):
    """A lesion's signal on one series."""

    series: str
    weighting: str
    z_score: float | None = Field(description="robust z-score against the reference")
    appearance: str = Field(description="dark, similar, bright or unknown")
    reference: str = Field(description="the study's own normal tissue around it: marrow, cord or CSF")


class FindingRecord(_Record):
    """One lesion."""

    lesion: int = Field(ge=1, description="the lesion's number, also its value in the lesion map")
    level: VertebralLevel | None = Field(
        description="the level that holds most of the lesion; S1 stands for the sacrum"
    )
    levels: tuple[VertebralLevel, ...] = Field(description="every level it touches, head to foot")
    level_confidence: Probability = Field(ge=0, le=1)
    level_uncertain: bool = Field(description="true where the name of one of its levels is uncertain")
    region: SpineRegion | None
    compartment: Compartment
    compartment_probabilities: dict[Compartment, Probability]
    compartment_shares: dict[Compartment, Probability] = Field(
        description="share of the lesion's volume in each compartment as segmented"
    )
    volume_mm3: float = Field(ge=0)
    volume_ml: float = Field(ge=0)
    longest_diameter_mm: float = Field(ge=0)
    centroid_mm: Point = Field(description="RAS+ mm")
    slice_first: int = Field(ge=1, description="of the reference series, in the order of its slices")
    slice_last: int = Field(ge=1)
    slice_count: int = Field(ge=1, description="slices of the reference series")
    instance_number: int | None = Field(
        description="DICOM: InstanceNumber of the slice that holds most of the lesion, "
        "or its frame, from 1, in a multi-frame object; null for image files"
    )
    side: Side | None = Field(
        description="of the spinal canal's midline, as the patient has it; null where no spine was recognised"
    )
    confidence: Probability = Field(ge=0, le=1, description="probability that this is a lesion")
    signal: tuple[SignalRecord, ...]
    needs_review: bool
    review_reasons: tuple[str, ...]
    review_topics: tuple[ReviewTopic, ...] = Field(description="what the reasons are about, each once")
    overlay: str | None = Field(description="picture of the lesion, relative to the report; null if none")


class SummaryRecord(_Record):
    """The findings in numbers and in words."""

    lesions: int
    lesions_doubtful: int = Field(description="of them those with a confidence below 0.5")
    needs_review: int
    total_volume_mm3: float
    total_volume_ml: float
    by_compartment: dict[Compartment, int]
    by_region: dict[SpineRegion, int] = Field(description="lesions with no vertebra near are in none")
    levels_involved: tuple[VertebralLevel, ...]
    sentences: tuple[str, ...]


class ProvenanceRecord(_Record):
    """How the report came to be."""

    software: Literal["spinemets"] = "spinemets"
    version: str
    model: str
    model_version: str
    model_sha256: str
    device: str = Field(description="where the networks ran in the end")
    precision: str
    strategy: str
    passes: int = Field(default=0, description="images that went through a network")
    parts: int = Field(default=1, description="pieces that the largest convolution was cut into")
    fallbacks: tuple[str, ...] = Field(default=(), description="what was done instead of what was planned")
    configuration: dict[str, JsonValue]
    timings_s: dict[str, float]


class ReportDocument(_Record):
    """The whole of ``report.json``."""

    schema_version: Literal["1.2"] = SCHEMA_VERSION
    disclaimer: str = DISCLAIMER
    study: StudyRecord
    summary: SummaryRecord
    levels: tuple[LevelRecord, ...] = Field(description="head to foot")
    findings: tuple[FindingRecord, ...]
    cautions: tuple[str, ...]
    provenance: ProvenanceRecord


def json_schema_text() -> str:
    """The JSON Schema of ``report.json``, as committed in ``docs/report.schema.json``."""
    schema = ReportDocument.model_json_schema(mode="serialization")
    # pydantic leaves out which draft of JSON Schema it writes.
    schema = {"$schema": GenerateJsonSchema.schema_dialect, **schema}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
