"""A report as DICOM objects of the examined study, on the grid of its reference series."""

from spinemets.reporting.dicom.write import write_dicom

__all__ = ["write_dicom"]
