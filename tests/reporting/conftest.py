"""A small analytic lumbar study with four lesions, on a grid of any axis order and direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spinemets.anatomy import Compartment, SpineRegion, Structure, VertebralLevel
from spinemets.findings import (
    Lesion,
    LesionFinding,
    LesionPlace,
    LevelAlternative,
    Provenance,
    ReviewTopic,
    SequenceSignal,
    StudyReport,
    Vertebra,
)
from spinemets.reporting import build_report
from spinemets.reporting.places import lesion_places
from spinemets.segmented import InstanceEvidence, SpineSegmentation
from spinemets.spinal_axis import fit_spinal_axis
from spinemets.volume import Grid, Plane, Series, Study, Volume, Weighting

LEVELS = ("T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1")
PITCH_MM, BODY_HEIGHT_MM, TOP_MM = 30.0, 23.0, 110.0
# (name, centre in RAS+ mm, radius in mm, compartment, levels)
LESIONS = (
    ("cord", (0.0, -28.0, 75.0), 5.0, Compartment.INTRAMEDULLARY, ("T12",)),
    ("body", (-12.0, 2.0, 5.0), 9.0, Compartment.EXTRADURAL, ("L2",)),
    ("cauda", (2.0, -28.0, -40.0), 5.0, Compartment.INTRADURAL_EXTRAMEDULLARY, ("L3", "L4")),
    ("border", (4.0, -19.0, -82.0), 6.0, Compartment.EXTRADURAL, ("L5",)),
)
SPACING_MM = {"sagittal": (4.0, 1.25, 1.25), "isotropic": (2.0, 2.0, 2.0)}


def body_centre_mm(level: str) -> tuple[float, float, float]:
    """Centre of a vertebral body in RAS+ mm."""
    return 0.0, 0.0, TOP_MM - BODY_HEIGHT_MM / 2 - PITCH_MM * LEVELS.index(level)


def make_grid(
    spacing_mm: tuple[float, float, float],
    order: tuple[int, int, int],
    flips: tuple[bool, bool, bool],
    turn_degrees: tuple[float, float, float],
) -> Grid:
    """A grid over the phantom whose array axes are the R, A, S axes in ``order``, some reversed.

    The whole grid is then turned about its centre, around the x, y and z axes.
    """
    extent = np.array([60.0, 130.0, 260.0])
    start = np.array([-30.0, -80.0, -140.0])
    shape = np.round(extent / spacing_mm).astype(int)
    affine = np.eye(4)
    for column, axis in enumerate(order):
        direction = np.zeros(3)
        direction[axis] = -spacing_mm[axis] if flips[column] else spacing_mm[axis]
        affine[:3, column] = direction
        first = shape[axis] - 1 if flips[column] else 0
        affine[axis, 3] = start[axis] + (first + 0.5) * spacing_mm[axis]
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", turn_degrees, degrees=True).as_matrix()
    centre = start + extent / 2
    turn[:3, 3] = centre - turn[:3, :3] @ centre
    return Grid(tuple(int(shape[axis]) for axis in order), turn @ affine)


def _ball(points: np.ndarray, centre: tuple[float, float, float], radius: float) -> np.ndarray:
    return np.linalg.norm(points - np.array(centre), axis=-1) <= radius


def _anatomy(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y, z = np.moveaxis(points, -1, 0)
    anatomy = np.zeros(x.shape, dtype=np.uint8)
    vertebrae = np.zeros(x.shape, dtype=np.uint8)
    column = (np.abs(x) < 22) & (np.abs(y) < 15)
    for rank, level in enumerate(LEVELS):
        middle = body_centre_mm(level)[2]
        within = np.abs(z - middle) < BODY_HEIGHT_MM / 2
        body = column & within
        arch = (np.abs(x) < 6) & (y < -42) & (y > -68) & (np.abs(z - middle + 6) < 8)
        anatomy[body] = Structure.SACRUM if level == "S1" else Structure.VERTEBRAL_BODY
        anatomy[arch] = Structure.POSTERIOR_ELEMENTS
        vertebrae[body | arch] = rank + 1
        if level != "S1":
            anatomy[column & (np.abs(z - middle + PITCH_MM / 2) < 3.5)] = Structure.DISC
    anatomy[np.hypot(x, y + 28) < 9] = Structure.THECAL_SAC
    anatomy[(np.hypot(x, y + 28) < 4.5) & (z > 45)] = Structure.CORD
    return anatomy, vertebrae


def _intensities(points: np.ndarray, anatomy: np.ndarray, lesions: np.ndarray, t2: bool) -> np.ndarray:
    # By structure, in the order of their numbers.
    values = (90, 260, 230, 160, 700, 300, 260) if t2 else (160, 420, 380, 220, 110, 300, 420)
    image = np.array(values, dtype=np.float32)[anatomy]
    image[lesions] = 480 if t2 else 180
    # A texture that depends on the place alone, so that every axis order shows the same image.
    return image + (15 * np.sin(points @ np.array((2.1, 1.7, 1.3)))).astype(np.float32)


def _lesion(number: int, grid: Grid, mask: np.ndarray, radius: float) -> Lesion:
    voxels = np.argwhere(mask).astype(np.int32)
    centre = grid.to_world(voxels).mean(axis=0)
    return Lesion(
        number=number,
        voxels=voxels,
        grid=grid,
        centroid_mm=tuple(float(value) for value in centre),
        volume_mm3=len(voxels) * grid.voxel_volume_mm3,
        longest_diameter_mm=2 * radius,
        confidence=0.97 - 0.1 * number,
        signals=(
            SequenceSignal("series 3 (T2 TSE sag)", "T2", 4.2, "bright"),
            SequenceSignal("series 4 (T1 TSE sag)", "T1", None, "unknown"),
        ),
    )


def _finding(
    lesion: Lesion, compartment: Compartment, levels: tuple[str, ...], doubtful: bool
) -> LesionFinding:
    likely = 0.52 if doubtful else 0.94
    rest = [c for c in Compartment if c is not compartment]
    probabilities = {compartment: likely, rest[0]: (1 - likely) * 0.9, rest[1]: (1 - likely) * 0.1}
    named = tuple(VertebralLevel(level) for level in levels)
    reason = "It lies on the border of the dura: extradural 52 %, intradural-extramedullary 43 %."
    return LesionFinding(
        lesion=lesion,
        levels=named,
        main_level=named[0] if named else None,
        level_confidence=0.9 if named else 0.0,
        region=named[0].region if named else None,
        compartment=compartment,
        compartment_probabilities=probabilities,
        compartment_shares=probabilities,
        needs_review=doubtful,
        review_reasons=(reason,) if doubtful else (),
        review_topics=(ReviewTopic.COMPARTMENT,) if doubtful else (),
    )


def _vertebra(rank: int, level: str) -> Vertebra:
    uncertain = level == "L5"
    return Vertebra(
        instance=rank + 1,
        level=VertebralLevel(level),
        confidence=0.61 if uncertain else 0.985,
        alternatives=(LevelAlternative(VertebralLevel.L6, 0.37),) if uncertain else (),
        centroid_mm=body_centre_mm(level),
        fully_visible=level != "S1",
    )


def synthetic_report(
    *,
    order: tuple[int, int, int] = (0, 1, 2),
    flips: tuple[bool, bool, bool] = (False, False, False),
    spacing_mm: tuple[float, float, float] = SPACING_MM["sagittal"],
    lesions: bool = True,
    series: int = 2,
    turn_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
    description: str = "T2 TSE sag",
) -> StudyReport:
    """The phantom's report; every argument changes one thing and leaves the anatomy alone."""
    grid = make_grid(spacing_mm, order, flips, turn_degrees)
    points = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    anatomy, vertebrae = _anatomy(points)
    masks = [_ball(points, centre, radius) for _, centre, radius, _, _ in LESIONS] if lesions else []
    everywhere = np.any(masks, axis=0) if masks else np.zeros(grid.shape, dtype=bool)
    kinds = [(Weighting.T2, description, 3), (Weighting.T1, "T1 TSE sag", 4)][:series]
    volumes = tuple(
        Volume(
            _intensities(points, anatomy, everywhere, weighting is Weighting.T2),
            grid,
            Series(
                study_uid="1.2.840.99.1",
                series_uid=f"1.2.840.99.1.{number}",
                description=text,
                number=number,
                weighting=weighting,
                plane=Plane.SAGITTAL,
                source=Path(f"/somewhere/DOE_JANE/{number}"),
            ),
        )
        for weighting, text, number in kinds
    )
    study = Study(
        uid="1.2.840.99.1",
        volumes=volumes,
        description="MRI lumbar spine",
        patient_id="PATIENT-4711",
        study_date="20240229",
        rejected=(("series 1 (localizer)", "a localiser: 3 slices in three planes"),),
        cautions=("the study holds no post-contrast series",),
    )
    segmentation = SpineSegmentation(
        grid=grid,
        anatomy=anatomy,
        vertebrae=vertebrae,
        lesion_probability=everywhere.astype(np.float32),
        evidence=tuple(InstanceEvidence(rank + 1) for rank in range(len(LEVELS))),
        volumes=volumes,
    )
    findings = [
        _finding(_lesion(rank + 1, grid, mask, radius), compartment, levels, name == "border")
        for rank, (mask, (name, _, radius, compartment, levels)) in enumerate(
            zip(masks, LESIONS, strict=False)
        )
    ]
    provenance = Provenance(
        version="0.1.0",
        model="spine_metastasis_mri",
        model_version="0.1.0",
        model_sha256="ab" * 32,
        configuration={"levels": {"review_confidence": 0.8}},
        timings_s={"segment": 3.21, "levels": 0.05},
    )
    vertebrae_named = [_vertebra(rank, level) for rank, level in enumerate(LEVELS)]
    return build_report(study, segmentation, vertebrae_named, findings, provenance)


@pytest.fixture(scope="session")
def make_report() -> Callable[..., StudyReport]:
    """The builder itself, for tests that vary the grid or the words."""
    return synthetic_report


@pytest.fixture(scope="session")
def report() -> StudyReport:
    """The phantom's report on an ordinary sagittal grid."""
    return synthetic_report()


@pytest.fixture(scope="session")
def regions() -> dict[str, SpineRegion]:
    """The region of each of the phantom's levels."""
    return {level: VertebralLevel(level).region for level in LEVELS}


@pytest.fixture
def places_of():
    """The places of a report's lesions, found anew."""

    def find(report: StudyReport) -> Mapping[int, LesionPlace]:
        segmentation, series = report.segmentation, report.study.reference.series
        axis = fit_spinal_axis(segmentation.anatomy, segmentation.grid)
        return lesion_places(report.findings, segmentation, series, axis)

    return find
