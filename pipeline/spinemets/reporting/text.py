"""The few lines that the command line prints of a report."""

from __future__ import annotations

from spinemets.findings import StudyReport
from spinemets.reporting.document import report_document
from spinemets.reporting.words import (
    length_text,
    level_names,
    percent,
    review_text,
    uncertain_levels,
    volume_text,
)

__all__ = ["summary_lines"]


def summary_lines(report: StudyReport) -> list[str]:
    """The few plain lines that the command line prints of a report."""
    document = report_document(report)
    uncertain = uncertain_levels(document.levels)
    lines = list(document.summary.sentences)
    for finding in document.findings:
        levels = level_names(finding, uncertain)
        probability = percent(finding.compartment_probabilities[finding.compartment])
        review = f"  {review_text(finding)}" if finding.needs_review else ""
        lines.append(
            f"{finding.lesion:>3}  {levels:<14} {finding.compartment.value} ({probability})"
            f"  {volume_text(finding.volume_mm3)}  {length_text(finding.longest_diameter_mm)}"
            f"  confidence {percent(finding.confidence)}{review}"
        )
    lines += [f"Caution: {caution}" for caution in document.cautions]
    lines.append(document.disclaimer)
    return lines
