"""Calls of the installed command, and what they are given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid


def spinemets(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command, as a user runs it."""
    command = [Path(sys.executable).with_name("spinemets"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


class Raises:
    """A segmenter that cannot."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def segment(self, _study):
        raise self._error


def write_dicom(folder: Path, positions_mm: list[float]) -> Path:
    """A sagittal T2 series with one image at each left-right position."""
    folder.mkdir()
    study_uid, series_uid, frame_uid = generate_uid(), generate_uid(), generate_uid()
    for number, position in enumerate(positions_mm, start=1):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = Dataset()
        image.file_meta = meta
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, series_uid
        image.FrameOfReferenceUID = frame_uid
        image.Modality, image.SeriesDescription = "MR", "T2 TSE sag"
        image.PatientName, image.PatientID, image.StudyDate = "Nobody^Known", "secret-7", "20200102"
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        image.ScanningSequence, image.RepetitionTime, image.EchoTime = "SE", 3500, 100
        image.SeriesNumber, image.InstanceNumber = 5, number
        image.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        image.ImagePositionPatient = [position, -60, 60]
        image.PixelSpacing, image.SliceThickness = [2, 2], 4
        image.Rows = image.Columns = 60
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.PixelData = np.random.default_rng(number).integers(0, 500, (60, 60), np.uint16).tobytes()
        pydicom.dcmwrite(folder / f"{number}.dcm", image, enforce_file_format=True)
    return folder
