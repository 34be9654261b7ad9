"""The few lines that the command line prints of a report."""

from __future__ import annotations

from spinemets.findings import StudyReport
from spinemets.reporting.document import report_document
from spinemets.reporting.words import level_names, percent, volume_text

__all__ = ["summary_lines"]


def summary_lines(report: StudyReport) -> list[str]:
    """The few plain lines that the command line prints of a report."""
    document = report_document(report)
    lines = list(document.summary.sentences)
    for finding in document.findings:
        probability = percent(finding.compartment_probabilities[finding.compartment])
        review = "  needs review" if finding.needs_review else ""
        lines.append(
            f"{finding.lesion:>3}  {level_names(finding):<12} {finding.compartment.value} ({probability})"
            f"  {volume_text(finding.volume_mm3)}  {finding.longest_diameter_mm:.0f} mm"
            f"  confidence {percent(finding.confidence)}{review}"
        )
    lines += [f"Caution: {caution}" for caution in document.cautions]
    lines.append(document.disclaimer)
    return lines
