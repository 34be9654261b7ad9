"""A report as DICOM objects of the examined study, on the grid of its reference series."""

from spinemets.reporting.dicom.write import DICOM_FORMATS, write_dicom

__all__ = ["DICOM_FORMATS", "write_dicom"]
