"""Writers of real DICOM files, small ones: classic and enhanced, in every transfer syntax that is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gdcm
import numpy as np
import openjpeg.utils
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
LPS = np.array([-1.0, -1.0, 1.0])
# Axes (slice, row, column): slices towards the right, rows towards the feet, columns towards the back.
SAGITTAL = np.array([[4.0, 0, 0, -14.0], [0, 0, -1.25, 20.0], [0, -1.5, 0, 30.0], [0, 0, 0, 1.0]])
STUDY_UID = "1.2.826.0.1.3680043.8.498.1"


def noise(shape: tuple[int, ...] = (8, 24, 20), seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, shape, dtype=np.uint16)


def plane_tags(affine: np.ndarray, index: int) -> dict[str, list[float]]:
    """ImagePositionPatient and so on of one slice of a grid with the axes (slice, row, column)."""
    column_step, row_step = affine[:3, 2] * LPS, affine[:3, 1] * LPS
    spacing = [float(np.linalg.norm(row_step)), float(np.linalg.norm(column_step))]
    orientation = [*(column_step / spacing[1]), *(row_step / spacing[0])]
    position = (affine @ [index, 0, 0, 1])[:3] * LPS
    return {
        "ImagePositionPatient": [round(float(x), 6) for x in position],
        "ImageOrientationPatient": [round(float(x), 9) for x in orientation],
        "PixelSpacing": [round(x, 8) for x in spacing],
    }


def new_dataset(path: Path, tags: Mapping[str, object], sop_class: str = MR) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    defaults: dict[str, object] = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": STUDY_UID,
        "SeriesInstanceUID": STUDY_UID + ".5",
        "FrameOfReferenceUID": STUDY_UID + ".9",
        "Modality": "MR",
        "PatientID": "secret-id",
        "StudyDate": "20240102",
        "SeriesNumber": 5,
        "SeriesDescription": "T2 TSE sag",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "ScanningSequence": "SE",
        "RepetitionTime": 3000,
        "EchoTime": 100,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }
    for keyword, value in {**defaults, **tags}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: FileDataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write in a transfer syntax, by an encoder that has nothing to do with the reader's code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax in (RLELossless, JPEGLSLossless):
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == JPEG2000Lossless:
        dataset.PixelData = encapsulate([openjpeg.utils.encode_array(dataset.pixel_array)])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    elif syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True)
    if syntax == JPEGLosslessSV1:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax


def write_classic(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray = SAGITTAL,
    tags: Mapping[str, object] | Callable[[int], Mapping[str, object]] | None = None,
    skip: tuple[int, ...] = (),
    syntax: str = ExplicitVRLittleEndian,
) -> list[Path]:
    """One file per slice; ``tags`` may depend on the slice, None removes one."""
    series_uid = generate_uid()
    paths = []
    for index, pixels in enumerate(voxels):
        if index in skip:
            continue
        more = tags(index) if callable(tags) else tags or {}
        # Names in another order than the slices, as exports have them.
        path = folder / f"im{(index * 7) % 997:04d}.dcm"
        geometry = plane_tags(affine, index)
        common = {"SeriesInstanceUID": series_uid, "InstanceNumber": index + 1, "SliceThickness": 3.5}
        dataset = new_dataset(path, {**common, **geometry, **more})
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
        save(dataset, path, syntax)
        paths.append(path)
    return paths


def write_enhanced(
    path: Path,
    voxels: np.ndarray,
    affine: np.ndarray = SAGITTAL,
    frame_groups: Callable[[int], Mapping[str, Mapping[str, object]]] | None = None,
    order: tuple[int, ...] | None = None,
    tags: Mapping[str, object] | None = None,
) -> Path:
    """One multi-frame file; ``voxels`` are slices, stored in ``order``; groups per frame may be added."""
    order = order or tuple(range(len(voxels)))
    dataset = new_dataset(
        path,
        {"ImageType": ["ORIGINAL", "PRIMARY", "T2", "NONE"], "EchoPulseSequence": "SPIN", **(tags or {})},
        ENHANCED_MR,
    )
    del dataset.ScanningSequence, dataset.RepetitionTime, dataset.EchoTime
    dataset.NumberOfFrames = len(order)
    dataset.Rows, dataset.Columns = voxels.shape[1:]
    shared = Dataset()
    geometry = plane_tags(affine, 0)
    groups = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": geometry["ImageOrientationPatient"]},
        "PixelMeasuresSequence": {"PixelSpacing": geometry["PixelSpacing"], "SliceThickness": 3.5},
        "MRTimingAndRelatedParametersSequence": {"RepetitionTime": 3000.0, "FlipAngle": 150.0},
    }
    _add_groups(shared, groups)
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index, place in enumerate(order):
        frame = Dataset()
        position = plane_tags(affine, place)["ImagePositionPatient"]
        _add_groups(frame, {"PlanePositionSequence": {"ImagePositionPatient": position}})
        _add_groups(frame, {"FrameContentSequence": {"StackID": "1", "InStackPositionNumber": place + 1}})
        _add_groups(frame, {"MREchoSequence": {"EffectiveEchoTime": 100.0}})
        _add_groups(frame, frame_groups(index) if frame_groups else {})
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = np.ascontiguousarray(voxels[list(order)]).tobytes()
    save(dataset, path)
    return path


def _add_groups(target: Dataset, groups: Mapping[str, Mapping[str, object]]) -> None:
    for keyword, values in groups.items():
        item = getattr(target, keyword)[0] if keyword in target else Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        setattr(target, keyword, [item])
