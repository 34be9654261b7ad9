"""From the report value to the report document: rounding, hashing, counting.

The only place where identifiers are hashed or left out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Literal

from spinemets.anatomy import Compartment, SpineRegion, VertebralLevel
from spinemets.config import LevelConfig
from spinemets.findings import LesionFinding, LesionPlace, Provenance, StudyReport, Vertebra
from spinemets.reporting.schema import (
    AlternativeRecord,
    FindingRecord,
    LevelRecord,
    ProvenanceRecord,
    RejectedSeriesRecord,
    ReportDocument,
    SeriesRecord,
    SignalRecord,
    StudyRecord,
    SummaryRecord,
)
from spinemets.reporting.words import (
    is_doubtful,
    rounded_probability,
    rounded_size,
    summary_sentences,
    uncertain_levels,
)
from spinemets.volume import PointMm, Study, Volume

__all__ = ["OVERVIEW_NAME", "hash_identifier", "overlay_name", "report_document", "review_confidence"]

Identifiers = Literal["keep", "hash"]

OVERVIEW_NAME = "overview.png"


def overlay_name(number: int) -> str:
    """Where a lesion's picture lies, relative to the report.

    >>> overlay_name(3)
    'overlays/lesion-03.png'
    """
    return f"overlays/lesion-{number:02d}.png"


def hash_identifier(identifier: str, key: bytes) -> str:
    """The first 16 hexadecimal digits of an identifier's HMAC-SHA-256.

    Without the key nobody can tell whether it stands for an identifier that they know.

    >>> hash_identifier("1.2.3", b"key") == hash_identifier("1.2.3", b"key")
    True
    >>> hash_identifier("1.2.3", b"key") == hash_identifier("1.2.3", b"another key")
    False
    """
    return f"hmac-sha256:{hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:16]}"


def report_document(
    report: StudyReport,
    identifiers: Identifiers = "hash",
    *,
    with_pictures: bool = True,
    undrawn: Collection[int] = (),
    key: bytes | None = None,
) -> ReportDocument:
    """The document of a report.

    Parameters
    ----------
    identifiers
        "hash": UIDs become keyed hashes; patient ID, date and the source's name are left out.
        Descriptions are given as they are, and those of image files are their names: whoever reads
        the study can take them out, as ``batch.privacy.without_names`` does.
    with_pictures
        Whether the findings name their overlay pictures.
    undrawn
        Numbers of lesions that have none.
    key
        Of the hashes; None for a new one, so that nothing links the document to any other.
    """
    levels = tuple(_level(vertebra, review_confidence(report)) for vertebra in report.vertebrae)
    uncertain = uncertain_levels(levels)
    findings = tuple(
        _finding(
            finding,
            uncertain,
            report.places[finding.lesion.number],
            with_picture=with_pictures and finding.lesion.number not in undrawn,
        )
        for finding in report.findings
    )
    return ReportDocument(
        study=_study(report.study, identifiers, secrets.token_bytes() if key is None else key),
        summary=_summary(findings, levels),
        levels=levels,
        findings=findings,
        cautions=report.cautions,
        provenance=_provenance(report.provenance),
    )


def _study(study: Study, identifiers: Identifiers, key: bytes) -> StudyRecord:
    keep = identifiers == "keep"
    shown = (lambda uid: uid) if keep else (lambda uid: hash_identifier(uid, key))
    return StudyRecord(
        identifier=shown(study.uid),
        identifiers=identifiers,
        patient_id=study.patient_id if keep else None,
        date=study.study_date if keep else None,
        description=study.description,
        series=tuple(
            _series(volume, shown(volume.series.series_uid), keep=keep, reference=rank == 0)
            for rank, volume in enumerate(study.volumes)
        ),
        rejected=tuple(RejectedSeriesRecord(name=name, reason=reason) for name, reason in study.rejected),
    )


def _series(volume: Volume, identifier: str, *, keep: bool, reference: bool) -> SeriesRecord:
    series = volume.series
    return SeriesRecord(
        name=series.name,
        weighting=series.weighting.value,
        plane=series.plane.value,
        identifier=identifier,
        source=series.source.name if keep else None,
        shape=volume.grid.shape,
        spacing_mm=_point(volume.grid.spacing_mm),
        reference=reference,
        cautions=series.cautions,
    )


def _level(vertebra: Vertebra, review_confidence: float) -> LevelRecord:
    return LevelRecord(
        level=vertebra.level,
        confidence=rounded_probability(vertebra.confidence),
        uncertain=vertebra.confidence < review_confidence,
        alternatives=tuple(
            AlternativeRecord(level=other.level, probability=rounded_probability(other.probability))
            for other in vertebra.alternatives
        ),
        centroid_mm=_point(vertebra.centroid_mm),
        fully_visible=vertebra.fully_visible,
    )


def _finding(
    finding: LesionFinding,
    uncertain: frozenset[VertebralLevel],
    place: LesionPlace,
    *,
    with_picture: bool,
) -> FindingRecord:
    lesion = finding.lesion
    return FindingRecord(
        lesion=lesion.number,
        level=finding.main_level,
        levels=finding.levels,
        level_confidence=rounded_probability(finding.level_confidence),
        level_uncertain=not uncertain.isdisjoint(finding.levels),
        region=finding.region,
        compartment=finding.compartment,
        compartment_probabilities=_all_compartments(finding.compartment_probabilities),
        compartment_shares=_all_compartments(finding.compartment_shares),
        volume_mm3=rounded_size(lesion.volume_mm3),
        volume_ml=round(lesion.volume_mm3 / 1000, 6),
        longest_diameter_mm=rounded_size(lesion.longest_diameter_mm),
        centroid_mm=_point(lesion.centroid_mm),
        slice_first=place.slice_first,
        slice_last=place.slice_last,
        slice_count=place.slice_count,
        instance_number=place.instance_number,
        side=place.side,
        confidence=rounded_probability(lesion.confidence),
        signal=tuple(
            SignalRecord(
                series=signal.series_name,
                weighting=signal.weighting,
                z_score=None if signal.z_score is None else round(signal.z_score, 3),
                appearance=signal.appearance,
                reference=signal.reference,
            )
            for signal in lesion.signals
        ),
        needs_review=finding.needs_review,
        review_reasons=finding.review_reasons,
        review_topics=finding.review_topics,
        overlay=overlay_name(lesion.number) if with_picture else None,
    )


def _summary(findings: tuple[FindingRecord, ...], levels: tuple[LevelRecord, ...]) -> SummaryRecord:
    total_mm3 = sum(finding.volume_mm3 for finding in findings)
    compartments = Counter(finding.compartment for finding in findings)
    regions = Counter(finding.region for finding in findings)
    return SummaryRecord(
        lesions=len(findings),
        lesions_doubtful=sum(is_doubtful(finding) for finding in findings),
        needs_review=sum(finding.needs_review for finding in findings),
        total_volume_mm3=rounded_size(total_mm3),
        total_volume_ml=round(total_mm3 / 1000, 6),
        by_compartment={compartment: compartments[compartment] for compartment in Compartment},
        by_region={region: regions[region] for region in SpineRegion},
        levels_involved=tuple(sorted({level for finding in findings for level in finding.levels})),
        sentences=summary_sentences(findings, levels),
    )


def _provenance(provenance: Provenance) -> ProvenanceRecord:
    execution = provenance.execution
    return ProvenanceRecord(
        version=provenance.version,
        model=provenance.model,
        model_version=provenance.model_version,
        model_sha256=provenance.model_sha256,
        device=execution.device,
        precision=execution.precision,
        strategy=execution.strategy,
        passes=execution.passes,
        parts=execution.parts,
        fallbacks=execution.fallbacks,
        configuration=json.loads(json.dumps(dict(provenance.configuration), default=str)),
        timings_s={stage: round(seconds, 3) for stage, seconds in provenance.timings_s.items()},
    )


def review_confidence(report: StudyReport) -> float:
    """The bound below which a level counts as uncertain, as the detection was configured."""
    levels = report.provenance.configuration.get("levels")
    if isinstance(levels, Mapping) and "review_confidence" in levels:
        return float(levels["review_confidence"])
    return LevelConfig().review_confidence


def _all_compartments(values: Mapping[Compartment, float]) -> dict[Compartment, float]:
    return {compartment: rounded_probability(values.get(compartment, 0.0)) for compartment in Compartment}


def _point(point_mm: PointMm) -> PointMm:
    x, y, z = (round(float(value), 3) for value in point_mm)
    return x, y, z
