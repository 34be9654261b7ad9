"""The tables of a batch: one row for each study, one row for each finding."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from spinemets.anatomy import Compartment
from spinemets.atomic import atomic_write_bytes
from spinemets.findings import StudyReport
from spinemets.reporting.assemble import NO_LESION
from spinemets.reporting.document import report_document
from spinemets.reporting.schema import FindingRecord

__all__ = [
    "CAUTION_BREAK",
    "FINDING_COLUMNS",
    "REPORT_COLUMNS",
    "Row",
    "csv_text",
    "finding_rows",
    "report_row",
    "write_parquet",
]

Row = Mapping[str, object]
CAUTION_BREAK = " | "
"""Between the sentences of ``caution_texts``."""

REPORT_COLUMNS: Mapping[str, type] = {
    "lesions": int,
    "lesions_doubtful": int,
    **{f"lesions_{compartment.value}": int for compartment in Compartment},
    "needs_review": int,
    "highest_confidence": float,
    "total_volume_mm3": float,
    "levels_seen": str,
    "levels_uncertain": str,
    "levels_involved": str,
    "cautions": int,
    "caution_texts": str,
}
"""What a study's row tells of its report: the columns in their order, with the types of their values."""

FINDING_COLUMNS: Mapping[str, type] = {
    "study": str,
    "lesion": int,
    "level": str,
    "levels": str,
    "level_confidence": float,
    "level_uncertain": bool,
    "region": str,
    "compartment": str,
    **{f"probability_{compartment.value}": float for compartment in Compartment},
    "volume_mm3": float,
    "longest_diameter_mm": float,
    "x_mm": float,
    "y_mm": float,
    "z_mm": float,
    "slice_first": int,
    "slice_last": int,
    "slice_count": int,
    "instance_number": int,
    "side": str,
    "confidence": float,
    "needs_review": bool,
    "review_topics": str,
    "review_reasons": str,
}
"""What a finding's row tells: the columns in their order, with the types of their values."""


def report_row(report: StudyReport) -> Row:
    """What a study's row tells of its report: the values of ``REPORT_COLUMNS``."""
    document = report_document(report)
    summary = document.summary
    # That nothing was found is said by the number of lesions.
    cautions = [caution for caution in document.cautions if caution != NO_LESION]
    values = (
        summary.lesions,
        summary.lesions_doubtful,
        *(summary.by_compartment[compartment] for compartment in Compartment),
        summary.needs_review,
        max((finding.confidence for finding in document.findings), default=None),
        summary.total_volume_mm3,
        " ".join(record.level.value for record in document.levels),
        " ".join(record.level.value for record in document.levels if record.uncertain),
        " ".join(level.value for level in summary.levels_involved),
        len(cautions),
        CAUTION_BREAK.join(caution.replace(CAUTION_BREAK, " / ") for caution in cautions),
    )
    return dict(zip(REPORT_COLUMNS, values, strict=True))


def finding_rows(study: str, report: StudyReport) -> tuple[Row, ...]:
    """One row for each finding: the values of ``FINDING_COLUMNS``, as rounded in the report."""
    return tuple(_finding_row(study, finding) for finding in report_document(report).findings)


def _finding_row(study: str, finding: FindingRecord) -> Row:
    values = (
        study,
        finding.lesion,
        finding.level.value if finding.level else "",
        " ".join(level.value for level in finding.levels),
        finding.level_confidence,
        finding.level_uncertain,
        finding.region.value if finding.region else "",
        finding.compartment.value,
        *(finding.compartment_probabilities[compartment] for compartment in Compartment),
        finding.volume_mm3,
        finding.longest_diameter_mm,
        *finding.centroid_mm,
        finding.slice_first,
        finding.slice_last,
        finding.slice_count,
        finding.instance_number,
        finding.side,
        finding.confidence,
        finding.needs_review,
        " ".join(topic.value for topic in finding.review_topics),
        " ".join(finding.review_reasons),
    )
    return dict(zip(FINDING_COLUMNS, values, strict=True))


def csv_text(columns: Iterable[str], rows: Iterable[Row]) -> str:
    """Rows as comma-separated text with a head line; absent values are left empty.

    >>> csv_text(("study", "lesions"), [{"study": "a, b", "lesions": 2}, {"study": "c"}])
    'study,lesions\\n"a, b",2\\nc,\\n'
    """
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, tuple(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_parquet(path: Path, columns: Mapping[str, type], rows: Sequence[Row]) -> None:
    """Rows as a Parquet file; absent values are null. Needs pyarrow.

    Parameters
    ----------
    columns
        Names and types of all columns: a column without a value has its type too.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    table = pyarrow.table(
        {name: pyarrow.array([row.get(name) for row in rows], types[kind]) for name, kind in columns.items()}
    )
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    atomic_write_bytes(path, buffer.getvalue())
