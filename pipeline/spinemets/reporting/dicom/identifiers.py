"""Identifiers that follow from what they name: the same result has the same UIDs on every run.

A study that is analysed again with the same outcome replaces its objects in an archive rather
than piling up beside them. Archives keep what they have under a UID, so whatever would change an
object changes every UID: patient, study and geometry as the source's headers give them, images,
masks, findings, model and settings.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from highdicom.base import SOPClass
from pydicom.dataset import Dataset

from spinemets.findings import StudyReport
from spinemets.reporting.dicom.deidentified import STATEMENTS
from spinemets.reporting.document import report_document

__all__ = ["Identifiers", "report_identifiers", "uid_of"]

# What further attributes of the first header the objects hold: equipment of the acquisition, frame
# of reference, plane, and what de-identification says of itself.
_ALSO_COPIED = (
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "InstitutionName",
    "InstitutionalDepartmentName", "InstitutionAddress", "StationName", "AcquisitionDateTime",
    "AcquisitionDate", "AcquisitionTime", "Modality", "FrameOfReferenceUID", "PositionReferenceIndicator",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", *STATEMENTS,
)  # fmt: skip


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
        SHA-256 of everything the report says and shows and of what its objects copy from the
        source, but for its timings, the formats that are written and the unused series: earlier
        results that came back into the study must not change it.
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


def report_identifiers(report: StudyReport, headers: Sequence[Dataset]) -> Identifiers:
    """The identifiers of a report's objects, from its content.

    Parameters
    ----------
    headers
        Of the reference series, as the objects copy from them and refer to them.
    """
    document = report_document(report, "keep", with_pictures=False)
    settings = {
        branch: values for branch, values in document.provenance.configuration.items() if branch != "report"
    }
    made = document.provenance.model_copy(update={"timings_s": {}, "configuration": settings})
    # The names of folders say nothing of the result.
    series = tuple(series.model_copy(update={"source": None}) for series in document.study.series)
    used = document.study.model_copy(update={"rejected": (), "series": series})
    said = document.model_copy(update={"provenance": made, "study": used})
    digest = hashlib.sha256(said.model_dump_json().encode())
    digest.update(_copied(headers).encode())
    for volume in report.study.volumes:
        digest.update(np.ascontiguousarray(volume.intensities).data)
    digest.update(report.segmentation.anatomy.tobytes())
    digest.update(report.segmentation.vertebrae.tobytes())
    for finding in report.findings:
        digest.update(finding.lesion.voxels.tobytes())
    return Identifiers(report.study.uid, digest.hexdigest())


def _copied(headers: Sequence[Dataset]) -> str:
    """What the objects copy from the source, as text that differs where any of it does."""
    first = headers[0]
    bare = SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=first.SeriesInstanceUID,
        series_number=1,
        sop_instance_uid=first.SOPInstanceUID,
        sop_class_uid=first.SOPClassUID,
        instance_number=1,
        modality="MR",
    )
    bare.copy_patient_and_study_information(first)
    patient_and_study = [
        str(element) for element in bare if element.tag in first and element.value == first[element.tag].value
    ]
    also = [f"{keyword} {first[keyword].value}" for keyword in _ALSO_COPIED if keyword in first]
    images = [f"{header.SOPInstanceUID} {header.get('ImagePositionPatient')}" for header in headers]
    return "\n".join([*patient_and_study, *also, *images])
