"""The PDF report as a DICOM object, for archives that show documents only."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import EncapsulatedPDFStorage

from spinemets.reporting.dicom.equipment import new_object
from spinemets.reporting.dicom.identifiers import Identifiers
from spinemets.reporting.dicom.source import SourceSeries

__all__ = ["make_document"]


def make_document(pdf: bytes, study: str, source: SourceSeries, identifiers: Identifiers) -> Dataset:
    """The report's PDF as an Encapsulated PDF of the source's study, which names the reference's images.

    Parameters
    ----------
    study
        What the PDF calls the study: another name makes another object.
    """
    dataset = new_object("document", EncapsulatedPDFStorage, "DOC", source, identifiers, f"document {study}")
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "YES"
    dataset.AcquisitionDateTime = ""
    dataset.DocumentTitle = "Spine MRI lesion report, research use only"
    title = codes.cid7021.ImagingMeasurementReport
    dataset.ConceptNameCodeSequence = [_code_item(title)]
    dataset.SourceInstanceSequence = [_source_item(header) for header in source.headers]
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(pdf)
    # The value must have an even length; the attribute above says where the document ends.
    dataset.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return dataset


def _source_item(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [_code_item(codes.cid7060.SourceImage)]
    return item


def _code_item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
