"""The headers of the reference series, put in order for what is derived from it.

Headers come from many scanners and anonymisers: what the standard requires and a header lacks
is filled in, so that the objects made from it are sound. Pixels are not read. DICOM's LPS
millimetres are used here, as the objects hold them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM, DSfloat

from spinemets.errors import OutputError
from spinemets.reporting.dicom.identifiers import uid_of
from spinemets.volume import Grid, Series, Volume

__all__ = ["SourceSeries", "lenient_values", "read_source"]

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_JITTER_SHARE = 0.1
_DATE, _TIME = re.compile(r"\d{8}"), re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")
_REQUIRED_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class SourceSeries:
    """A DICOM series as its derived objects refer to it.

    Attributes
    ----------
    headers
        Its files without pixels: one per slice in slice order, or a single multi-frame one.
    slices
        For each slice of the grid the index into ``headers`` and the frame (0 in a classic
        file); None where the slice was missing and has been interpolated.
    positions_mm
        float64, shape (slices, 3): LPS mm of each slice's first pixel, as the headers say.
    orientation
        LPS direction cosines of a row, then of a column.
    pixel_spacing_mm
        Distance between rows, then between columns.
    """

    headers: tuple[Dataset, ...]
    slices: tuple[tuple[int, int] | None, ...]
    positions_mm: npt.NDArray[np.float64]
    orientation: tuple[float, ...]
    pixel_spacing_mm: tuple[float, ...]
    slice_spacing_mm: float

    @property
    def is_multiframe(self) -> bool:
        """Whether it is one enhanced multi-frame file."""
        return "PerFrameFunctionalGroupsSequence" in self.headers[0]


@contextmanager
def lenient_values() -> Iterator[None]:
    """Keep pydicom from remarking on a source's malformed values: they are copied as they are.

    Its remarks quote identifiers, which must not reach a log.
    """
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(pydicom|highdicom)\b")
        yield


def read_source(volume: Volume) -> SourceSeries:
    """Read the headers of the series that a volume was made of.

    Raises
    ------
    OutputError
        A file is gone or damaged, has no UID, or does not lie where the volume says.
    """
    series = volume.series
    headers = tuple(_read_header(path, series) for path in series.files)
    if len({header.SOPInstanceUID for header in headers}) != len(headers):
        raise OutputError(f"{series.name}: several of its files share one UID; {_ADVICE}")
    if len(headers) > 1 and any("PerFrameFunctionalGroupsSequence" in header for header in headers):
        raise OutputError(f"{series.name}: it is spread over {len(headers)} multi-frame files; {_ADVICE}")
    places = [
        (index, frame, _place(volume.grid, position, series), position)
        for index, header in enumerate(headers)
        for frame, position in _positions(header)
        if not series.frames or frame in series.frames
    ]
    slices: list[tuple[int, int] | None] = [None] * volume.grid.shape[0]
    positions_mm = volume.grid.to_world([[k, 0, 0] for k in range(len(slices))]) * _LPS_TO_RAS
    for index, frame, place, position in places:
        if place is not None and slices[place] is None:
            slices[place], positions_mm[place] = (index, frame), position
    first = next(entry for entry in slices if entry is not None)
    source = SourceSeries(
        headers,
        tuple(slices),
        positions_mm,
        _plane_values(headers[first[0]], first[1], "PlaneOrientationSequence", "ImageOrientationPatient"),
        _plane_values(headers[first[0]], first[1], "PixelMeasuresSequence", "PixelSpacing"),
        volume.grid.spacing_mm[0],
    )
    for header in headers:
        _complete(header, source, series)
    return source


_ADVICE = "leave the dicom formats out for this study"


def _read_header(path: object, series: Series) -> Dataset:
    try:
        header = pydicom.dcmread(str(path), stop_before_pixels=True, force=True)
    except (OSError, InvalidDicomError, EOFError) as error:
        raise OutputError(
            f"{series.name}: a file of it can no longer be read ({type(error).__name__}); "
            "keep the source in place until the results are written"
        ) from error
    for keyword in ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not header.get(keyword):
            raise OutputError(f"{series.name}: a file of it has no {keyword}; {_ADVICE}")
    return header


def _positions(header: Dataset) -> Iterator[tuple[int, Sequence[float]]]:
    """Frame and LPS position of every image of a file."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        yield 0, [float(value) for value in header.ImagePositionPatient]
        return
    for frame, groups in enumerate(header.PerFrameFunctionalGroupsSequence):
        sequence = groups.get("PlanePositionSequence")
        if sequence:
            yield frame, [float(value) for value in sequence[0].ImagePositionPatient]


def _place(grid: Grid, position_mm: Sequence[float], series: Series) -> int | None:
    """The slice of the grid at a position; None for a frame that is not of this stack."""
    index = grid.to_index(np.asarray(position_mm) * _LPS_TO_RAS)
    place = round(float(index[0]))
    slice_mm, *pixel_mm = grid.spacing_mm
    # Half a pixel; where pixels are small, the jitter that reading lets pass, and as much again.
    aside = np.maximum(0.5, _JITTER_SHARE * slice_mm / np.array(pixel_mm))
    near = abs(index[0] - place) < 0.25 and (np.abs(index[1:]) < aside).all()
    if near and 0 <= place < grid.shape[0]:
        return place
    if len(series.files) > 1:
        raise OutputError(f"{series.name}: a file of it does not lie on its grid; {_ADVICE}")
    return None


def _plane_values(header: Dataset, frame: int, group: str, keyword: str) -> tuple[float, ...]:
    """A value of one image's plane, wherever a classic or an enhanced file keeps it."""
    holders = [header]
    if "PerFrameFunctionalGroupsSequence" in header:
        groups = [
            header.PerFrameFunctionalGroupsSequence[frame],
            *header.get("SharedFunctionalGroupsSequence", []),
        ]
        holders = [item[group].value[0] for item in groups if item.get(group)]
    return tuple(
        float(value) for value in next(holder for holder in holders if keyword in holder)[keyword].value
    )


def _complete(header: Dataset, source: SourceSeries, series: Series) -> None:
    """Fill in what the standard requires of any image, and make the stack's geometry uniform."""
    for keyword in _REQUIRED_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    for keyword in ("PatientName", "ReferringPhysicianName"):
        if isinstance(header[keyword].value, MultiValue):
            setattr(header, keyword, header[keyword].value[0])
    for keyword in ("PatientBirthDate", "StudyDate", "StudyTime"):
        if not _in_the_calendar(keyword, str(header.get(keyword) or "")):
            setattr(header, keyword, "")
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = uid_of(header.StudyInstanceUID, series.series_uid, "frame of reference")
    if "Modality" not in header:
        header.Modality = "MR"
    groups = header
    if source.is_multiframe:
        shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
        header.SharedFunctionalGroupsSequence = shared
        for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
            if not shared[0].get(keyword):
                setattr(shared[0], keyword, [Dataset()])
        shared[0].PlaneOrientationSequence[0].ImageOrientationPatient = _decimals(source.orientation)
        groups = shared[0].PixelMeasuresSequence[0]
    else:
        header.ImageOrientationPatient = _decimals(source.orientation)
    groups.PixelSpacing = _decimals(source.pixel_spacing_mm)
    if not groups.get("SliceThickness"):
        groups.SliceThickness = _decimals([source.slice_spacing_mm])[0]


def _in_the_calendar(keyword: str, value: str) -> bool:
    """Whether a date or a time is one; anonymisers write 19600000 and 00000000."""
    pattern, parse = (_TIME, TM) if keyword.endswith("Time") else (_DATE, DA)
    if not pattern.fullmatch(value):
        return False
    try:
        parse(value)
    except ValueError:
        return False
    return True


def _decimals(values: Sequence[float]) -> list[DSfloat]:
    """Numbers in the 16 characters that a decimal string may have."""
    return [DSfloat(value, auto_format=True) for value in values]
