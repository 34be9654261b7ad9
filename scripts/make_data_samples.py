"""Make the synthetic sample studies in ``data_samples/``: a DICOM study, a NIfTI file, their truth.

Everything follows from fixed seeds; running it again on the same machine gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from spinemets.anatomy import Compartment, VertebralLevel
from spinemets.atomic import atomic_write_bytes
from spinemets.errors import OutputError
from spinemets.io.label_values import ANATOMY_LABELS, LEVEL_LABELS
from spinemets.simulation.acquisition import AcquisitionOptions, acquire
from spinemets.simulation.contrast import Protocol, TissueProperties, draw_properties
from spinemets.simulation.disease import PhantomLesion
from spinemets.simulation.implicit import draw_waves
from spinemets.simulation.phantom import PhantomOptions, SpinePhantom, draw_spine
from spinemets.simulation.rasterisation import PhantomLabels
from spinemets.simulation.studies import truth_record, verse_numbers
from spinemets.simulation.tissues import structure_of_tissue
from spinemets.volume import Grid, PointMm, Weighting

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

THORACOLUMBAR_SEED = 20
CERVICOTHORACIC_SEED = 31
_QUIET = AcquisitionOptions(noise=(0.008, 0.012), ghost_chance=0.0, wrap_chance=0.0, band_chance=0.0)
_PEAK = 1000.0


@dataclass(frozen=True, slots=True)
class Sequence:
    """One series of the DICOM study: its number, name and timing."""

    number: int
    description: str
    protocol: Protocol
    scanning: tuple[str, ...]
    echo_train: int


SEQUENCES = (
    Sequence(2, "T2 TSE sag", Protocol(Weighting.T2, 3600.0, 102.0), ("SE",), 17),
    Sequence(3, "T1 TSE sag", Protocol(Weighting.T1, 560.0, 10.0), ("SE",), 3),
    Sequence(4, "STIR sag", Protocol(Weighting.T2_FS, 4200.0, 58.0, inversion_ms=160.0), ("SE", "IR"), 11),
)


@dataclass(frozen=True, slots=True)
class Placement:
    """A lesion by the level it lies at, as offsets in mm from a landmark of that level.

    Attributes
    ----------
    from_canal
        Whether the offset counts from the canal's middle instead of the body's centre.
    """

    compartment: Compartment
    level: VertebralLevel
    offset_mm: PointMm
    radii_mm: PointMm
    from_canal: bool = False
    epidural: bool = False


THORACOLUMBAR_LESIONS = (
    Placement(Compartment.EXTRADURAL, VertebralLevel.T9, (3, -9, 1), (13, 13, 9), epidural=True),
    Placement(Compartment.INTRAMEDULLARY, VertebralLevel.T12, (0, 0.5, 12), (4.4, 3.6, 11), from_canal=True),
    Placement(Compartment.EXTRADURAL, VertebralLevel.L3, (-5, 4, -2), (12, 10, 9)),
    Placement(
        Compartment.INTRADURAL_EXTRAMEDULLARY, VertebralLevel.L4, (1, -1, 4), (5.5, 5, 9), from_canal=True
    ),
)
CERVICOTHORACIC_LESIONS = (
    Placement(Compartment.INTRAMEDULLARY, VertebralLevel.C5, (0, 0.5, -3), (4.6, 3.4, 9), from_canal=True),
    Placement(Compartment.EXTRADURAL, VertebralLevel.T2, (1, 0, 0), (11, 10, 8)),
)


def main() -> None:
    """Write everything below the folder given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data_samples"))
    folder = parser.parse_args().folder
    for path, content in make_samples():
        try:
            atomic_write_bytes(folder / path, content)
        except OutputError as error:
            parser.error(str(error))


def make_samples() -> Iterator[tuple[str, bytes]]:
    """Relative path and content of every file, the list of checksums last."""
    sums = []
    for path, content in _files():
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {path}\n")
        yield path, content
    yield "SHA256SUMS", "".join(sorted(sums, key=lambda line: line[66:])).encode()


def _files() -> Iterator[tuple[str, bytes]]:
    phantom, properties, rng = draw_patient(THORACOLUMBAR_SEED, THORACOLUMBAR_LESIONS)
    grid = thoracolumbar_grid(phantom)
    labels = None
    yield from localiser(phantom, properties, grid)
    for sequence in SEQUENCES:
        image, labels = acquire(phantom, grid, sequence.protocol, rng, properties, _QUIET)
        yield from dicom_series(sequence, image, grid)
    if labels is not None:
        yield from truth("dicom", phantom, _as_stored(labels))

    phantom, properties, rng = draw_patient(CERVICOTHORACIC_SEED, CERVICOTHORACIC_LESIONS)
    grid = sagittal_grid(phantom, (12, 200, 260), (3.6, 1.0, 1.0), (VertebralLevel.C7, -10.0, 0.0))
    image, labels = acquire(phantom, grid, Protocol(Weighting.T2, 3400.0, 98.0), rng, properties, _QUIET)
    name = "nifti/cervicothoracic_T2w"
    yield f"{name}.nii.gz", nifti(np.round(image / image.max() * _PEAK).astype(np.int16), grid)
    sidecar = {"SeriesDescription": "T2 TSE sag", "EchoTime": 0.098, "RepetitionTime": 3.4}
    yield f"{name}.json", as_json(sidecar)
    yield from truth("nifti", phantom, labels)


def draw_patient(
    seed: int, placements: tuple[Placement, ...]
) -> tuple[SpinePhantom, TissueProperties, np.random.Generator]:
    """A phantom with its lesions, its tissues, and the generator that drew them."""
    rng = np.random.default_rng(seed)
    options = PhantomOptions(
        numbering="usual", age_years=(64, 68), size=(1.0, 1.06), fracture=0.0, scoliosis_deg=1.0, mimics=0.0
    )
    phantom = draw_spine(rng, options)
    lesions = tuple(_place(phantom, placement, rng) for placement in placements)
    return replace(phantom, lesions=lesions), draw_properties(rng, phantom.age_years), rng


def _place(phantom: SpinePhantom, placement: Placement, rng: np.random.Generator) -> PhantomLesion:
    centre = np.array(phantom.centroids_mm()[placement.level])
    if placement.from_canal:
        profile = phantom.profile
        height = np.array([centre[2] + placement.offset_mm[2]], dtype=np.float32)
        row = profile.index_of(height)[0]
        middle = profile.canal_y_mm[row] + profile.sac_shift_mm[row]
        if placement.compartment is Compartment.INTRAMEDULLARY:
            middle += profile.cord_shift_mm[row]
        inside = phantom.deformed((profile.canal_x_mm[row], middle, height[0]))
        centre = np.array((inside[0], inside[1], centre[2]))
    x, y, z = (float(value) for value in centre + placement.offset_mm)
    uneven = draw_waves(rng, (9.0, 25.0), 0.09, 6)
    return PhantomLesion(placement.compartment, (x, y, z), placement.radii_mm, uneven, placement.epidural)


def thoracolumbar_grid(phantom: SpinePhantom) -> Grid:
    """The grid of the DICOM study's three sequences."""
    return sagittal_grid(phantom, (13, 232, 352), (4.4, 1.15, 1.15), (VertebralLevel.L2, 12.0, 5.0))


def sagittal_grid(
    phantom: SpinePhantom,
    shape: tuple[int, int, int],
    spacing_mm: PointMm,
    aim: tuple[VertebralLevel, float, float],
) -> Grid:
    """A sagittal grid about a level, moved to the front and turned about the vertical axis.

    ``aim`` is the level, the forward shift in mm and the turn in degrees.
    """
    level, forward_mm, turn_deg = aim
    centroids = phantom.centroids_mm()
    centre = np.array(centroids[level])
    half = shape[2] * spacing_mm[2] / 2
    seen = np.array([point for point in centroids.values() if abs(point[2] - centre[2]) < half])
    middle = np.array((seen[:, 0].mean(), seen[:, 1].mean() + forward_mm, centre[2]))
    cosine, sine = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing_mm)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, np.round(affine, 6))


def uid(*parts: object) -> UID:
    """An identifier that follows from its parts alone."""
    return generate_uid(entropy_srcs=["spinemets data_samples", *map(str, parts)])


def dicom_series(sequence: Sequence, image: Image, grid: Grid) -> Iterator[tuple[str, bytes]]:
    """Path and content of every slice; rows run from the head down, columns from front to back."""
    pixels = np.round(image / np.quantile(image, 0.9995) * _PEAK).clip(0, 4095).astype(np.uint16)
    stem = f"dicom/{sequence.number}_{sequence.description.replace(' ', '_')}"
    directions = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    orientation = np.concatenate([-directions[:, 1], -directions[:, 2]]) * (-1, -1, 1, -1, -1, 1)
    protocol = sequence.protocol
    for index in range(grid.shape[0]):
        corner = grid.to_world((index, grid.shape[1] - 1, grid.shape[2] - 1)) * (-1, -1, 1)
        dataset = _header(sequence.number, sequence.description, index + 1)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "IR" if protocol.inversion_ms else "SE"]
        dataset.ScanningSequence = list(sequence.scanning)
        dataset.SequenceVariant = "SK"
        dataset.RepetitionTime, dataset.EchoTime = _ds(protocol.repetition_ms), _ds(protocol.echo_ms)
        if protocol.inversion_ms:
            dataset.InversionTime = _ds(protocol.inversion_ms)
        dataset.EchoTrainLength = sequence.echo_train
        dataset.FlipAngle = "150"
        dataset.SliceThickness, dataset.SpacingBetweenSlices = "4", _ds(grid.spacing_mm[0])
        _set_geometry(dataset, orientation, corner, (grid.spacing_mm[2], grid.spacing_mm[1]))
        dataset.SliceLocation = _ds(float(-corner[0]))
        yield f"{stem}/{index + 1:03d}.dcm", _dicom_bytes(dataset, pixels[index, ::-1, ::-1].T)


def _as_stored(labels: PhantomLabels) -> PhantomLabels:
    """The labels with the axes of the DICOM series: slices, rows, columns."""
    grid = labels.grid
    depth, height = grid.shape[1:]
    affine = grid.affine[:, [0, 2, 1, 3]] * (1, -1, -1, 1)
    affine[:3, 3] = grid.to_world((0, depth - 1, height - 1))
    tissue, vertebra, lesion = (
        np.ascontiguousarray(array[:, ::-1, ::-1].transpose(0, 2, 1))
        for array in (labels.tissue, labels.vertebra, labels.lesion)
    )
    return PhantomLabels(Grid((grid.shape[0], height, depth), affine), tissue, vertebra, lesion)


def localiser(phantom: SpinePhantom, properties: TissueProperties, grid: Grid) -> Iterator[tuple[str, bytes]]:
    """Three coarse orthogonal slices, as every study begins with; a reader must not use them."""
    centre = grid.to_world((np.array(grid.shape) - 1) / 2)
    step, count = 4.0, 96
    protocol = Protocol(Weighting.T1, 300.0, 5.0)
    # Columns: normal, then what runs against the image's columns and rows.
    planes = {
        "sagittal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        "coronal": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
        "axial": ((0, 0, 1), (-1, 0, 0), (0, 1, 0)),
    }
    for index, axes in enumerate(planes.values(), start=1):
        affine = np.eye(4)
        affine[:3, :3] = np.array(axes).T * (8.0, step, step)
        affine[:3, 3] = centre - affine[:3, :3] @ (0, (count - 1) / 2, (count - 1) / 2)
        plane = Grid((1, count, count), affine)
        image, _ = acquire(phantom, plane, protocol, np.random.default_rng(index), properties, _QUIET)
        pixels = np.round(image / image.max() * _PEAK).astype(np.uint16)
        corner = plane.to_world((0, count - 1, count - 1)) * (-1, -1, 1)
        orientation = np.concatenate([-affine[:3, 1], -affine[:3, 2]]) / step * (-1, -1, 1, -1, -1, 1)
        dataset = _header(1, "Localizer", index)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]
        dataset.ScanningSequence, dataset.SequenceVariant = "GR", "SP"
        dataset.RepetitionTime, dataset.EchoTime, dataset.FlipAngle = "8.6", "4", "20"
        dataset.EchoTrainLength = 1
        dataset.SliceThickness = "8"
        _set_geometry(dataset, orientation, corner, (step, step))
        yield f"dicom/1_Localizer/{index:03d}.dcm", _dicom_bytes(dataset, pixels[0, ::-1, ::-1].T)


def _header(series_number: int, description: str, instance: int) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = uid("instance", series_number, instance)
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = "20200101"
    dataset.StudyTime, dataset.SeriesTime = "120000", f"12{series_number:02d}00"
    dataset.AccessionNumber, dataset.StudyID = "", "1"
    dataset.Modality, dataset.Manufacturer = "MR", "spinemets simulation"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription, dataset.SeriesDescription = "MRI thoracolumbar spine", description
    dataset.ProtocolName = description
    dataset.PatientName, dataset.PatientID = "Phantom^Spine", "PHANTOM-001"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "", "O", "066Y"
    dataset.BodyPartExamined, dataset.PatientPosition = "SPINE", "HFS"
    dataset.ScanOptions, dataset.MRAcquisitionType = "", "2D"
    dataset.MagneticFieldStrength, dataset.NumberOfAverages = "1.5", "2"
    dataset.StudyInstanceUID = uid("study")
    dataset.SeriesInstanceUID = uid("series", series_number)
    dataset.FrameOfReferenceUID = uid("frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber, dataset.InstanceNumber = series_number, instance
    return dataset


def _set_geometry(
    dataset: Dataset, orientation: npt.NDArray[Any], corner: npt.NDArray[Any], pixel_mm: tuple[float, float]
) -> None:
    dataset.ImageOrientationPatient = [_ds(float(value) + 0.0) for value in orientation]
    dataset.ImagePositionPatient = [_ds(float(value)) for value in corner]
    dataset.PixelSpacing = [_ds(value) for value in pixel_mm]


def _ds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _dicom_bytes(dataset: Dataset, pixels: npt.NDArray[np.uint16]) -> bytes:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = "400", "800"
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    meta.ImplementationVersionName = "SPINEMETS"
    buffer = io.BytesIO()
    FileDataset(buffer, dataset, file_meta=meta, preamble=b"\0" * 128).save_as(
        buffer, enforce_file_format=True
    )
    return buffer.getvalue()


def truth(name: str, phantom: SpinePhantom, labels: PhantomLabels) -> Iterator[tuple[str, bytes]]:
    """The label maps of a scan with their names, and what a report on it should say."""
    lesion_names = {n: f"lesion {n}" for n in range(1, len(phantom.lesions) + 1)}
    maps: tuple[tuple[str, Labels, Mapping[int, str]], ...] = (
        ("anatomy", structure_of_tissue(labels.tissue), ANATOMY_LABELS),
        ("levels", verse_numbers(labels.vertebra), LEVEL_LABELS),
        ("lesions", labels.lesion, lesion_names),
    )
    for kind, array, names in maps:
        yield f"truth/{name}_{kind}.nii.gz", nifti(array, labels.grid)
        yield f"truth/{name}_{kind}.json", as_json({"labels": {str(n): text for n, text in names.items()}})
    yield f"truth/{name}.json", as_json(truth_record(phantom, labels))


def nifti(array: npt.NDArray[Any], grid: Grid) -> bytes:
    """A compressed NIfTI image with no time of making in it."""
    image = nibabel.Nifti1Image(array, grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code=1)
    image.set_qform(grid.affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)


def as_json(values: Mapping[str, object]) -> bytes:
    """JSON text that ends in a newline."""
    return (json.dumps(values, indent=2) + "\n").encode()


if __name__ == "__main__":
    main()
