"""Lesions, cord and thecal sac as contours for radiotherapy planning (RTSTRUCT)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from spinemets.anatomy import Structure
from spinemets.findings import StudyReport
from spinemets.reporting.dicom.equipment import new_object
from spinemets.reporting.dicom.identifiers import Identifiers
from spinemets.reporting.dicom.outlines import Polygon, outlines
from spinemets.reporting.dicom.segmentation import lesion_name
from spinemets.reporting.dicom.source import SourceSeries
from spinemets.reporting.palette import COMPARTMENT_COLOURS, CORD_COLOUR, SAC_COLOUR
from spinemets.volume import Mask

__all__ = ["make_structure_set"]

# A tenth of a micrometre; more digits only make files longer.
_DIGITS = 4
_DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"


@dataclass(frozen=True, slots=True, eq=False)
class _Roi:
    name: str
    mask: Mask
    colour: tuple[int, int, int]
    interpreted_type: str


def make_structure_set(report: StudyReport, source: SourceSeries, identifiers: Identifiers) -> Dataset | None:
    """The structure set of a report; None where there is nothing to outline.

    Contours lie on the slices of the source, along the edges of its pixels. The thecal sac is
    outlined with the cord in it. Lesions have no interpreted type: whether one is a target, a
    reader decides.
    """
    rois = list(_rois(report))
    if not rois:
        return None
    dataset = new_object("contours", RTStructureSetStorage, "RTSTRUCT", source, identifiers)
    header = source.headers[0]
    dataset.FrameOfReferenceUID = header.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = header.get("PositionReferenceIndicator", "")
    dataset.StructureSetLabel = "spinemets"
    dataset.StructureSetDescription = "Found by software; research use only"
    dataset.StructureSetDate, dataset.StructureSetTime = (
        dataset.InstanceCreationDate,
        dataset.InstanceCreationTime,
    )
    dataset.OperatorsName = ""
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, roi in enumerate(rois, start=1):
        dataset.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=header.FrameOfReferenceUID,
                ROIName=roi.name,
                ROIGenerationAlgorithm="AUTOMATIC",
            )
        )
        dataset.ROIContourSequence.append(
            _item(
                ROIDisplayColor=list(roi.colour),
                ContourSequence=list(_contours(roi.mask, source)),
                ReferencedROINumber=number,
            )
        )
        dataset.RTROIObservationsSequence.append(
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType=roi.interpreted_type,
                ROIInterpreter="",
            )
        )
    return dataset


def _rois(report: StudyReport) -> Iterator[_Roi]:
    for finding in report.findings:
        lesion = finding.lesion
        yield _Roi(lesion_name(lesion.number), lesion.mask(), COMPARTMENT_COLOURS[finding.compartment], "")
    anatomy = report.segmentation.anatomy
    cord = anatomy == Structure.CORD
    sac = cord | (anatomy == Structure.THECAL_SAC)
    if cord.any():
        yield _Roi("spinal cord", cord, CORD_COLOUR, "ORGAN")
    if sac.any():
        yield _Roi("thecal sac", sac, SAC_COLOUR, "ORGAN")


def _frame_of_reference(source: SourceSeries) -> Dataset:
    header = source.headers[0]
    series = _item(
        SeriesInstanceUID=header.SeriesInstanceUID,
        ContourImageSequence=[
            _item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
            for image in source.headers
        ],
    )
    study = _item(
        ReferencedSOPClassUID=_DETACHED_STUDY_MANAGEMENT,
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=header.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _contours(mask: Mask, source: SourceSeries) -> Iterator[Dataset]:
    """A contour for each part of the mask on each slice."""
    for place in np.nonzero(mask.any(axis=(1, 2)))[0]:
        for polygon in outlines(mask[place]):
            points_mm = _well_closed(_points_mm(polygon, source, int(place)).round(_DIGITS))
            contour = _item(
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points_mm),
                ContourData=[float(value) for value in points_mm.ravel()],
            )
            entry = source.slices[place]
            if entry is not None:
                contour.ContourImageSequence = [_image(source, *entry)]
            yield contour


def _points_mm(polygon: Polygon, source: SourceSeries, place: int) -> Polygon:
    """LPS mm of a polygon's corners, shape (points, 3)."""
    row_mm, column_mm = source.pixel_spacing_mm
    along_row, along_column = np.array(source.orientation[:3]), np.array(source.orientation[3:])
    rows, columns = polygon.T
    return np.asarray(
        source.positions_mm[place]
        + np.outer(columns * column_mm, along_row)
        + np.outer(rows * row_mm, along_column)
    )


def _well_closed(points_mm: Polygon) -> Polygon:
    """The same polygon, begun so that its last point is not straight above or below its first.

    Readers made for axial slices (plastimatch is one) compare x and y alone to see whether a
    contour repeats its first point at the end, and would drop that last one.
    """
    if np.array_equal(points_mm[0, :2], points_mm[-1, :2]):
        return np.roll(points_mm, -1, axis=0)
    return points_mm


def _image(source: SourceSeries, index: int, frame: int) -> Dataset:
    header = source.headers[index]
    image = _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if source.is_multiframe:
        image.ReferencedFrameNumber = frame + 1
    return image


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
