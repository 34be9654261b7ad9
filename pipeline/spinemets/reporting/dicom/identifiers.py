"""Identifiers that follow from what they name: the same result has the same UIDs on every run.

A study that is analysed again with the same outcome replaces its objects in an archive rather
than piling up beside them. Any change of masks, findings, model or settings changes every UID.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

from spinemets.findings import StudyReport
from spinemets.reporting.document import report_document

__all__ = ["Identifiers", "report_identifiers", "uid_of"]


def uid_of(*parts: str) -> str:
    """A DICOM UID that follows from some text (a UUID of version 5 below the root 2.25).

    >>> uid_of("study", "levels") == uid_of("study", "levels") != uid_of("study", "lesions")
    True
    """
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, chr(0).join(parts)).int}"


@dataclass(frozen=True, slots=True)
class Identifiers:
    """The UIDs of one report's objects.

    Attributes
    ----------
    content
        SHA-256 of everything the report says, but for its timings, the formats that are written
        and the unused series: earlier results that came back into the study must not change it.
    """

    study_uid: str
    content: str

    def series(self, kind: str) -> str:
        """UID of the series that holds one kind of object."""
        return uid_of(self.study_uid, self.content, "series", kind)

    def instance(self, kind: str, number: int = 1) -> str:
        """UID of one object."""
        return uid_of(self.study_uid, self.content, "instance", kind, str(number))

    def tracking(self, name: str) -> str:
        """UID by which the segment, the measurements and the contour of one thing are matched."""
        return uid_of(self.study_uid, self.content, "tracking", name)


def report_identifiers(report: StudyReport) -> Identifiers:
    """The identifiers of a report's objects, from its content."""
    # Hashed identifiers leave out the names of folders, which say nothing of the result.
    document = report_document(report, "hash", with_pictures=False)
    settings = {
        branch: values for branch, values in document.provenance.configuration.items() if branch != "report"
    }
    made = document.provenance.model_copy(update={"timings_s": {}, "configuration": settings})
    used = document.study.model_copy(update={"rejected": ()})
    said = document.model_copy(update={"provenance": made, "study": used})
    digest = hashlib.sha256(said.model_dump_json().encode())
    digest.update(report.segmentation.anatomy.tobytes())
    digest.update(report.segmentation.vertebrae.tobytes())
    for finding in report.findings:
        digest.update(finding.lesion.voxels.tobytes())
    return Identifiers(report.study.uid, digest.hexdigest())
