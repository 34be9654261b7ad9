"""Reports of small studies that were read from DICOM files of every kind of geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dicom_files import SAGITTAL, write_classic, write_enhanced
from spinemets.anatomy import Compartment, Structure, VertebralLevel
from spinemets.config import ReadingConfig, ReportConfig
from spinemets.findings import Lesion, LesionFinding, Provenance, ReviewTopic, StudyReport, Vertebra
from spinemets.io import discover, read_study
from spinemets.reporting import build_report
from spinemets.reporting.dicom import write_dicom
from spinemets.segmented import InstanceEvidence, SpineSegmentation
from spinemets.volume import Grid, Study

SHAPE = (12, 40, 32)
# (centre in fractions of the grid, radius in mm, level, compartment); the first lies left of the middle.
LESIONS = (
    ((0.27, 0.3, 0.4), 7.0, VertebralLevel.T12, Compartment.EXTRADURAL),
    ((0.7, 0.7, 0.6), 6.0, VertebralLevel.L1, Compartment.INTRAMEDULLARY),
)
LEVELS = (VertebralLevel.T11, VertebralLevel.T12, VertebralLevel.L1, VertebralLevel.L6)
PATIENT = {
    "PatientName": "Müller^Änne",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
    "StudyID": "77",
    "AccessionNumber": "A-9",
    "StudyTime": "101112",
    "ReferringPhysicianName": "",
    "StudyDescription": "MRI spine",
    "Manufacturer": "Scanner Maker",
    "SpecificCharacterSet": "ISO_IR 100",
    "PositionReferenceIndicator": "",
}


def axes(*steps_mm: tuple[float, float, float]) -> np.ndarray:
    """An affine from the RAS steps of slice, row and column; an origin far from zero."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(steps_mm).T
    affine[:3, 3] = (11.0, -23.0, 47.0)
    return affine


def oblique() -> np.ndarray:
    turn_z, turn_x = np.radians((17.0, 23.0))
    about_z = np.array([[np.cos(turn_z), -np.sin(turn_z), 0], [np.sin(turn_z), np.cos(turn_z), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(turn_x), -np.sin(turn_x)], [0, np.sin(turn_x), np.cos(turn_x)]])
    affine = SAGITTAL.copy()
    affine[:3, :3] = about_z @ about_x @ SAGITTAL[:3, :3]
    return affine


AXIAL = axes((0, 0, 4.0), (0, -1.25, 0), (-1.5, 0, 0))
# The patient lies with the feet first: rows run towards the head.
FEET_FIRST = axes((-4.0, 0, 0), (0, 0, 1.25), (0, 1.5, 0))
KINDS = ("sagittal", "axial", "oblique", "feet-first", "enhanced", "gap")


VALUES = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
GAP = (4, 5)


def affine_of(kind: str) -> np.ndarray:
    """RAS+ mm of the voxels of one kind of source, as its headers say."""
    turned = {"axial": AXIAL, "oblique": oblique(), "enhanced": oblique(), "feet-first": FEET_FIRST}
    return turned.get(kind, SAGITTAL)


def write_source(folder: Path, kind: str) -> Path:
    """Files of one kind of geometry; every voxel's value is another."""
    if kind == "enhanced":
        enhanced = {**PATIENT, "SpecificCharacterSet": "ISO_IR 100"}
        order = tuple(np.random.default_rng(3).permutation(SHAPE[0]).tolist())
        write_enhanced(folder / "enhanced.dcm", VALUES, affine_of(kind), order=order, tags=enhanced)
        return folder
    write_classic(folder, VALUES, affine_of(kind), tags=PATIENT, skip=GAP if kind == "gap" else ())
    return folder


def make_report(study: Study, *, lesions: int = 2) -> StudyReport:
    """Levels across the rows, a canal, and ball-shaped lesions."""
    grid = study.reference.grid
    fractions = np.moveaxis(np.indices(grid.shape), 0, -1) / (np.array(grid.shape) - 1)
    points = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    vertebrae = (1 + np.minimum(3, fractions[..., 1] * 4)).astype(np.uint8)
    vertebrae[np.abs(fractions[..., 2] - 0.5) > 0.3] = 0
    anatomy = np.where(vertebrae > 0, Structure.VERTEBRAL_BODY, Structure.BACKGROUND).astype(np.uint8)
    anatomy[fractions[..., 2] > 0.85] = Structure.THECAL_SAC
    anatomy[fractions[..., 2] > 0.93] = Structure.CORD
    named = [
        Vertebra(
            rank, level, 0.9, (), tuple(grid.to_world(np.argwhere(vertebrae == rank)).mean(axis=0)), True
        )
        for rank, level in enumerate(LEVELS, start=1)
    ]
    findings = [
        _finding(number, study, points, *lesion) for number, lesion in enumerate(LESIONS[:lesions], start=1)
    ]
    everywhere = np.zeros(grid.shape, dtype=np.float32)
    for finding in findings:
        everywhere[finding.lesion.mask()] = 1.0
    evidence = tuple(InstanceEvidence(vertebra.instance) for vertebra in named)
    segmentation = SpineSegmentation(grid, anatomy, vertebrae, everywhere, evidence, study.volumes)
    provenance = Provenance("0.1.0", "spine_metastasis_mri", "0.1.0", "ab" * 32, timings_s={"reading": 1.0})
    return build_report(study, segmentation, named, findings, provenance)


def _centre(grid: Grid, mask: np.ndarray) -> tuple[float, ...]:
    return tuple(float(x) for x in grid.to_world(np.argwhere(mask)).mean(axis=0))


def _finding(number, study, points, fraction, radius_mm, level, compartment) -> LesionFinding:
    grid = study.reference.grid
    centre = grid.to_world((np.array(grid.shape) - 1) * fraction)
    voxels = np.argwhere(np.linalg.norm(points - centre, axis=-1) <= radius_mm).astype(np.int32)
    lesion = Lesion(
        number=number,
        voxels=voxels,
        grid=grid,
        centroid_mm=tuple(float(x) for x in grid.to_world(voxels).mean(axis=0)),
        volume_mm3=len(voxels) * grid.voxel_volume_mm3,
        longest_diameter_mm=2 * radius_mm - 0.123456,
        confidence=0.9 - 0.1 * number,
    )
    rest = {other: 0.1 for other in Compartment if other is not compartment}
    return LesionFinding(
        lesion=lesion,
        levels=(level,),
        main_level=level,
        level_confidence=0.9,
        region=level.region,
        compartment=compartment,
        compartment_probabilities={compartment: 0.8, **rest},
        compartment_shares={compartment: 1.0},
        needs_review=number == 2,
        review_reasons=("It lies on the border of the cord.",) if number == 2 else (),
        review_topics=(ReviewTopic.COMPARTMENT,) if number == 2 else (),
    )


@dataclass(frozen=True)
class Case:
    """A report, the folder its source lies in, and the folder its DICOM objects lie in."""

    report: StudyReport
    source: Path
    objects: Path


def read_source_study(folder: Path) -> Study:
    config = ReadingConfig(allow_missing=True)
    (listing,) = discover(folder, config)
    return read_study(listing, config)


@pytest.fixture(scope="session")
def case(tmp_path_factory) -> Callable[..., Case]:
    """Objects of one kind of source, written once for each set of formats."""
    made: dict[tuple[object, ...], Case] = {}

    def make(kind: str, *formats: str, lesions: int = 2, segmentation_type: str = "binary") -> Case:
        key = (kind, formats, lesions, segmentation_type)
        if key not in made:
            folder = tmp_path_factory.mktemp(kind)
            source = write_source(folder / "source", kind)
            report = make_report(read_source_study(source), lesions=lesions)
            config = ReportConfig(formats=formats, segmentation_type=segmentation_type)
            write_dicom(report, folder, config)
            made[key] = Case(report, source, folder / "dicom")
        return made[key]

    return make


@pytest.fixture(scope="session")
def written() -> Callable[[str], tuple[np.ndarray, np.ndarray, tuple[int, ...]]]:
    """What a kind of source was written from: values, their RAS+ affine, and the slices left out."""
    return lambda kind: (VALUES, affine_of(kind), GAP if kind == "gap" else ())


@pytest.fixture(scope="session")
def report_of() -> Callable[[Path], StudyReport]:
    """The report of whatever files a folder holds."""
    return lambda folder: make_report(read_source_study(folder))


@pytest.fixture(scope="session")
def report_from() -> Callable[[Study], StudyReport]:
    """The report of a study that has been read."""
    return make_report
