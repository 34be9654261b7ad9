"""DICOM headers as plain values: one instance per file, one slice per image in it.

Knows classic MR images and enhanced multi-frame ones; never touches pixels. Values that are
absent or malformed are None or empty: it is for later stages to say what that means.
"""

from __future__ import annotations

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from spinemets.errors import UnreadableFileError
from spinemets.io.dicom_geometry import SliceHeader
from spinemets.io.weighting import AcquisitionHeader

__all__ = [
    "DAMAGE_ERRORS",
    "InstanceHeader",
    "functional_group",
    "has_dicom_preamble",
    "lenient_headers",
    "read_instance",
]

_log = logging.getLogger(__name__)

# What pydicom and the decoders below it raise on damaged files.
DAMAGE_ERRORS = (
    OSError, EOFError, InvalidDicomError, BytesLengthException, ValueError, TypeError, LookupError,
    AttributeError, ArithmeticError, RuntimeError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip

_TAGS = [
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "StudyDescription", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "PatientID",
    "StudyDate", "Modality", "Manufacturer", "ImageType", "ComplexImageComponent", "SeriesNumber",
    "InstanceNumber",
    "AcquisitionNumber", "EchoTime",
    "TemporalPositionIdentifier", "InversionTime", "RepetitionTime", "FlipAngle", "ScanningSequence",
    "SequenceVariant", "ScanOptions", "ContrastBolusAgent", "ContrastBolusAgentSequence",
    "AcquisitionContrast", "EchoPulseSequence", "InversionRecovery", "FrameOfReferenceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames",
    "PhotometricInterpretation",
    "SteadyStatePulseSequence", "SpectrallySelectedSuppression", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """One DICOM file.

    Attributes
    ----------
    modality
        Empty where the header has none.
    samples
        Values per pixel: 3 for colour, that of a palette too, 0 where there is no image.
    acquisition
        Of the first frame.
    slices
        One per frame; one for a classic file; empty where there is no image.
    """

    path: Path
    sop_class: str
    study_uid: str
    series_uid: str
    series_number: int | None
    description: str
    study_description: str
    patient_id: str
    study_date: str
    modality: str
    manufacturer: str
    frame_of_reference_uid: str
    samples: int
    acquisition: AcquisitionHeader
    slices: tuple[SliceHeader, ...]


@contextmanager
def lenient_headers() -> Iterator[None]:
    """Keep pydicom from remarking on malformed values: each value that is used is judged here.

    Its remarks quote identifiers, which must not reach a log.
    """
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\b")
        yield


def has_dicom_preamble(path: Path) -> bool:
    """Whether a file carries the letters DICM after 128 bytes."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_instance(path: Path) -> InstanceHeader:
    """Read one file's header.

    Files without the DICM preamble are accepted if they begin with a plausible data set.

    Raises
    ------
    UnreadableFileError
        The file cannot be opened, or is no DICOM file, or its header is cut short.
    """
    try:
        with lenient_headers():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            if "SOPClassUID" not in dataset:
                raise UnreadableFileError(f"{path.name}: is not a DICOM file")
            if not any(keyword in dataset for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "Rows")):
                raise UnreadableFileError(f"{path.name}: its DICOM header is cut short; copy the file again")
            return _instance(path, dataset)
    except DAMAGE_ERRORS as error:
        # The error's own text may quote a patient's data.
        kind = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise UnreadableFileError(
            f"{path.name}: its DICOM header is damaged ({kind}); copy the file again"
        ) from error


def _instance(path: Path, dataset: pydicom.Dataset) -> InstanceHeader:
    rows = _integer(dataset, "Rows") or 0
    acquisition = _acquisition(dataset)
    number, description = _integer(dataset, "SeriesNumber"), acquisition.description or acquisition.protocol
    slices: tuple[SliceHeader, ...] = ()
    if rows:
        enhanced = "PerFrameFunctionalGroupsSequence" in dataset
        slices = _frames(path, dataset) if enhanced else _classic_slices(path, dataset)
        if enhanced:
            acquisition = _with_functional_groups(
                acquisition, dataset, dataset.PerFrameFunctionalGroupsSequence[0]
            )
    return InstanceHeader(
        path=path,
        sop_class=_text(dataset, "SOPClassUID"),
        study_uid=_text(dataset, "StudyInstanceUID") or f"unnamed study in {path.parent.resolve()}",
        series_uid=_text(dataset, "SeriesInstanceUID")
        or f"unnamed series {number} {description} in {path.parent.resolve()}",
        series_number=number,
        description=description,
        study_description=_text(dataset, "StudyDescription"),
        patient_id=_text(dataset, "PatientID"),
        study_date=_text(dataset, "StudyDate"),
        modality=_text(dataset, "Modality").upper(),
        manufacturer=_text(dataset, "Manufacturer"),
        frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID"),
        samples=_samples(dataset) if rows else 0,
        acquisition=acquisition,
        slices=slices,
    )


def _samples(dataset: pydicom.Dataset) -> int:
    """Values per pixel as it is shown; a stored value of PALETTE COLOR only points to its colour."""
    if _text(dataset, "PhotometricInterpretation").upper() == "PALETTE COLOR":
        return 3
    return _integer(dataset, "SamplesPerPixel") or 1


def _acquisition(dataset: pydicom.Dataset) -> AcquisitionHeader:
    return AcquisitionHeader(
        description=_text(dataset, "SeriesDescription"),
        protocol=_text(dataset, "ProtocolName"),
        sequence_name=_text(dataset, "SequenceName") or _text(dataset, "PulseSequenceName"),
        image_type=_texts(dataset, "ImageType") + _complex_part(dataset),
        scanning_sequence=_texts(dataset, "ScanningSequence") or _enhanced_sequence(dataset),
        sequence_variant=_texts(dataset, "SequenceVariant") or _enhanced_variant(dataset),
        scan_options=_texts(dataset, "ScanOptions"),
        repetition_time_ms=_number(dataset, "RepetitionTime"),
        echo_time_ms=_number(dataset, "EchoTime"),
        inversion_time_ms=_number(dataset, "InversionTime"),
        flip_angle_deg=_number(dataset, "FlipAngle"),
        contrast_agent=_text(dataset, "ContrastBolusAgent") or _agent_code(dataset),
        acquisition_contrast=_text(dataset, "AcquisitionContrast"),
    )


def _enhanced_sequence(dataset: pydicom.Dataset) -> tuple[str, ...]:
    """The pulse sequence of an enhanced object in the terms of a classic one."""
    echo = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}
    sequence = echo.get(_text(dataset, "EchoPulseSequence").upper(), ())
    return sequence + (("IR",) if _text(dataset, "InversionRecovery").upper() == "YES" else ())


def _enhanced_variant(dataset: pydicom.Dataset) -> tuple[str, ...]:
    """Whether an enhanced object keeps its transverse magnetisation; a longitudinal state is spoiled."""
    state = _text(dataset, "SteadyStatePulseSequence").upper()
    return () if state in ("", "NONE", "LONGITUDINAL") else ("SS",)


def _agent_code(dataset: pydicom.Dataset) -> str:
    agents = dataset.get("ContrastBolusAgentSequence") or ()
    return next((_text(agent, "CodeMeaning") or "contrast agent" for agent in agents), "")


def _classic_slice(path: Path, dataset: pydicom.Dataset) -> SliceHeader:
    return SliceHeader(
        path=path,
        sop_uid=_text(dataset, "SOPInstanceUID"),
        rows=_integer(dataset, "Rows") or 0,
        columns=_integer(dataset, "Columns") or 0,
        position_mm=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing_mm=_numbers(dataset, "PixelSpacing", 2),
        distance_mm=_slice_distance_mm(dataset),
        thickness_mm=_number(dataset, "SliceThickness"),
        instance_number=_integer(dataset, "InstanceNumber"),
        echo_time_ms=_number(dataset, "EchoTime"),
        inversion_time_ms=_number(dataset, "InversionTime"),
        image_type=_texts(dataset, "ImageType") + _complex_part(dataset),
        temporal_position=_integer(dataset, "TemporalPositionIdentifier"),
        acquisition_number=_integer(dataset, "AcquisitionNumber"),
    )


def _classic_slices(path: Path, dataset: pydicom.Dataset) -> tuple[SliceHeader, ...]:
    """The image of a classic file; several frames without functional groups have no known places."""
    image = _classic_slice(path, dataset)
    frames = _integer(dataset, "NumberOfFrames") or 1
    if frames == 1:
        return (image,)
    return tuple(replace(image, frame=index, position_mm=None) for index in range(frames))


def _slice_distance_mm(dataset: pydicom.Dataset) -> float | None:
    """SpacingBetweenSlices; some tools write the gap between slices there, or always 1."""
    distance, thickness = _number(dataset, "SpacingBetweenSlices"), _number(dataset, "SliceThickness")
    if distance is None or distance <= 0 or (thickness is not None and distance < 0.9 * thickness):
        return None
    return distance


def _frames(path: Path, dataset: pydicom.Dataset) -> tuple[SliceHeader, ...]:
    """Every frame of an enhanced multi-frame object as a slice."""
    file = _classic_slice(path, dataset)
    slices = []
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        content = functional_group(dataset, frame, "FrameContentSequence")
        measures = functional_group(dataset, frame, "PixelMeasuresSequence")
        acquisition = _with_functional_groups(AcquisitionHeader(image_type=file.image_type), dataset, frame)
        slices.append(
            replace(
                file,
                frame=index,
                position_mm=_numbers(
                    functional_group(dataset, frame, "PlanePositionSequence"), "ImagePositionPatient", 3
                ),
                orientation=_numbers(
                    functional_group(dataset, frame, "PlaneOrientationSequence"), "ImageOrientationPatient", 6
                ),
                pixel_spacing_mm=_numbers(measures, "PixelSpacing", 2),
                distance_mm=_slice_distance_mm(measures),
                thickness_mm=_number(measures, "SliceThickness"),
                instance_number=index + 1,
                echo_time_ms=acquisition.echo_time_ms,
                inversion_time_ms=acquisition.inversion_time_ms,
                image_type=acquisition.image_type,
                temporal_position=_integer(content, "TemporalPositionIndex"),
                acquisition_number=_integer(content, "FrameAcquisitionNumber"),
                stack_id=_text(content, "StackID"),
            )
        )
    return tuple(slices)


def functional_group(dataset: pydicom.Dataset, frame: pydicom.Dataset, keyword: str) -> pydicom.Dataset:
    """The first item of a functional group, of the frame's own or else of the shared ones."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    items = frame.get(keyword) or shared[0].get(keyword) or [pydicom.Dataset()]
    return items[0]  # type: ignore[no-any-return]


def _with_functional_groups(
    acquisition: AcquisitionHeader, dataset: pydicom.Dataset, frame: pydicom.Dataset
) -> AcquisitionHeader:
    """The acquisition with what one frame's functional groups add to it."""
    timing = functional_group(dataset, frame, "MRTimingAndRelatedParametersSequence")
    echo = functional_group(dataset, frame, "MREchoSequence")
    kind = functional_group(dataset, frame, "MRImageFrameTypeSequence")
    modifier = functional_group(dataset, frame, "MRModifierSequence")
    inversion_times = _texts(modifier, "InversionTimes")
    return replace(
        acquisition,
        image_type=_frame_type(kind, acquisition),
        acquisition_contrast=_text(kind, "AcquisitionContrast") or acquisition.acquisition_contrast,
        repetition_time_ms=_number(timing, "RepetitionTime") or acquisition.repetition_time_ms,
        flip_angle_deg=_number(timing, "FlipAngle") or acquisition.flip_angle_deg,
        echo_time_ms=_number(echo, "EffectiveEchoTime") or acquisition.echo_time_ms,
        inversion_time_ms=(_float(inversion_times[0]) if inversion_times else None)
        or acquisition.inversion_time_ms,
        scanning_sequence=acquisition.scanning_sequence + _frame_inversion(modifier, acquisition),
        fat_suppressed=_fat_suppression(dataset, modifier),
    )


def _frame_type(kind: pydicom.Dataset, acquisition: AcquisitionHeader) -> tuple[str, ...]:
    values = _texts(kind, "FrameType")
    return values + _complex_part(kind) if values else acquisition.image_type


def _complex_part(dataset: pydicom.Dataset) -> tuple[str, ...]:
    """PHASE, REAL or IMAGINARY, which classic images say in their type and others by themselves."""
    part = _text(dataset, "ComplexImageComponent").upper()
    known = part not in ("PHASE", "REAL", "IMAGINARY") or part in _texts(dataset, "ImageType")
    return () if known else (part,)


def _fat_suppression(dataset: pydicom.Dataset, modifier: pydicom.Dataset) -> bool | None:
    """Whether fat is suppressed, or water alone excited; None where neither is stated.

    The suppression belongs to the whole object (PS3.3 C.8.13.4); some writers put it beside the
    excitation of a frame.
    """
    if _text(modifier, "SpectrallySelectedExcitation").upper() == "WATER":
        return True
    keyword = "SpectrallySelectedSuppression"
    suppression = (_text(dataset, keyword) or _text(modifier, keyword)).upper()
    return suppression in ("FAT", "FAT_AND_WATER") if suppression else None


def _frame_inversion(modifier: pydicom.Dataset, acquisition: AcquisitionHeader) -> tuple[str, ...]:
    inverted = _text(modifier, "InversionRecovery").upper() == "YES"
    return ("IR",) if inverted and "IR" not in acquisition.scanning_sequence else ()


def _values(dataset: pydicom.Dataset, keyword: str) -> Sequence[Any]:
    try:
        value = dataset.get(keyword)
    except (ValueError, TypeError):
        # pydicom converts on access, and raises on text that is no number.
        _log.debug("a malformed value of %s is taken as absent", keyword)
        return ()
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, (str, int, float)) else tuple(value)


def _texts(dataset: pydicom.Dataset, keyword: str) -> tuple[str, ...]:
    return tuple(str(value).strip() for value in _values(dataset, keyword))


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    text = " ".join(_texts(dataset, keyword))
    return re.sub(r"[\x00-\x1f\x7f]", "", text).strip()


def _float(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _numbers(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    numbers = [_float(value) for value in _values(dataset, keyword)]
    present = tuple(number for number in numbers if number is not None)
    return present if len(present) == len(numbers) == count else None


def _number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    values = _values(dataset, keyword)
    return _float(values[0]) if values else None


def _integer(dataset: pydicom.Dataset, keyword: str) -> int | None:
    number = _number(dataset, keyword)
    return int(number) if number is not None and abs(number) < 2**31 else None
