"""Reading and writing: DICOM and NIfTI in, NIfTI out.

Names are imported when they are first used, so ``import spinemets.io`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spinemets.io.archives import unpack_study
    from spinemets.io.bids_names import bids_description, bids_stem
    from spinemets.io.discovery import discover
    from spinemets.io.file_names import image_stem
    from spinemets.io.files import is_dicom_series
    from spinemets.io.identity import private_words
    from spinemets.io.label_maps import write_label_map, write_probability_map
    from spinemets.io.label_values import ANATOMY_LABELS, COMPARTMENT_LABELS, LEVEL_LABELS, VERSE_LABELS
    from spinemets.io.listing import (
        IgnoredFile,
        PackedFiles,
        Rejection,
        SeriesListing,
        StudyListing,
        describe,
    )
    from spinemets.io.reading import read_study
    from spinemets.io.sources import EARLIER_NAME, RECORDS_NAME
    from spinemets.io.weighting import AcquisitionHeader, weighting_from_header

__all__ = [
    "ANATOMY_LABELS",
    "COMPARTMENT_LABELS",
    "EARLIER_NAME",
    "LEVEL_LABELS",
    "RECORDS_NAME",
    "VERSE_LABELS",
    "AcquisitionHeader",
    "IgnoredFile",
    "PackedFiles",
    "Rejection",
    "SeriesListing",
    "StudyListing",
    "bids_description",
    "bids_stem",
    "describe",
    "discover",
    "image_stem",
    "is_dicom_series",
    "private_words",
    "read_study",
    "unpack_study",
    "weighting_from_header",
    "write_label_map",
    "write_probability_map",
]

_MODULES = {
    "bids_description": "bids_names",
    "bids_stem": "bids_names",
    "discover": "discovery",
    "image_stem": "file_names",
    "is_dicom_series": "files",
    "private_words": "identity",
    "read_study": "reading",
    "unpack_study": "archives",
    "write_label_map": "label_maps",
    "write_probability_map": "label_maps",
    **dict.fromkeys(("EARLIER_NAME", "RECORDS_NAME"), "sources"),
    "AcquisitionHeader": "weighting",
    "weighting_from_header": "weighting",
    **dict.fromkeys(
        ("IgnoredFile", "PackedFiles", "Rejection", "SeriesListing", "StudyListing", "describe"), "listing"
    ),
    **dict.fromkeys(("ANATOMY_LABELS", "COMPARTMENT_LABELS", "LEVEL_LABELS", "VERSE_LABELS"), "label_values"),
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
