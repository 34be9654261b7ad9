"""What all pictures of one report share, and where in a picture a lesion shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Structure
from spinemets.findings import LesionFinding, StudyReport
from spinemets.reporting.drawing import display_window
from spinemets.reporting.planes import BodyAxes, PicturePlane, body_axes, sample
from spinemets.volume import Mask

__all__ = ["LesionPatch", "Scene", "lesion_patch", "make_scene"]

_PATCH_MARGIN = 4


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What every picture of one report is drawn from.

    Attributes
    ----------
    lesions
        int32, shape of the grid: 0 or the number of a lesion.
    sac, cord, bodies
        Shape of the grid: the dural sac with all it holds, the cord, the bodies and sacrum.
    windows
        One (low, high) for each volume of the segmentation.
    uncertain_below
        A level of less confidence is drawn with a question mark.
    """

    report: StudyReport
    axes: BodyAxes
    lesions: npt.NDArray[np.int32]
    sac: Mask
    cord: Mask
    bodies: Mask
    windows: tuple[tuple[float, float], ...]
    uncertain_below: float


def make_scene(report: StudyReport, uncertain_below: float) -> Scene:
    """Prepare a report for drawing."""
    segmentation = report.segmentation
    lesions = np.zeros(segmentation.grid.shape, dtype=np.int32)
    for finding in report.findings:
        lesions[tuple(finding.lesion.voxels.T)] = finding.lesion.number
    cord = segmentation.anatomy == Structure.CORD
    return Scene(
        report=report,
        axes=body_axes(segmentation.grid),
        lesions=lesions,
        sac=cord | (segmentation.anatomy == Structure.THECAL_SAC),
        cord=cord,
        bodies=np.isin(segmentation.anatomy, (Structure.VERTEBRAL_BODY, Structure.SACRUM)),
        windows=tuple(display_window(volume.intensities) for volume in segmentation.volumes),
        uncertain_below=uncertain_below,
    )


@dataclass(frozen=True, slots=True, eq=False)
class LesionPatch:
    """The part of a picture that a lesion can show in.

    Attributes
    ----------
    left, top
        Column and row of the part's corner in the picture.
    region
        float32, shape (height, width): the lesion is where it is 0.5 or more.
    """

    finding: LesionFinding
    left: int
    top: int
    region: npt.NDArray[np.float32]

    @property
    def is_seen(self) -> bool:
        """Whether the lesion shows at all."""
        return bool((self.region >= 0.5).any())


def lesion_patch(
    scene: Scene, plane: PicturePlane, finding: LesionFinding, *, projected: bool = False
) -> LesionPatch | None:
    """Where a lesion meets a picture, or, projected, where it would show through the body.

    None where the lesion lies beside the picture altogether.
    """
    lesion = finding.lesion
    points = lesion.grid.to_world(lesion.voxels)
    along = (points - plane.origin_mm) @ np.stack([plane.rightward, plane.downward]).T / plane.pixel_mm
    margin = _PATCH_MARGIN + max(lesion.grid.spacing_mm) / plane.pixel_mm
    lower = np.maximum(np.floor(along.min(axis=0) - margin), 0).astype(int)
    upper = np.minimum(np.ceil(along.max(axis=0) + margin) + 1, plane.size).astype(int)
    if (upper <= lower).any():
        return None
    part = plane.part((int(lower[0]), int(lower[1])), (int(upper[0] - lower[0]), int(upper[1] - lower[1])))
    if not projected:
        region = sample(scene.lesions, lesion.grid, part.points_mm(), label=lesion.number)
    else:
        region = _projection(scene, part, points @ plane.normal, lesion.number)
    return LesionPatch(finding, int(lower[0]), int(lower[1]), region)


def _projection(
    scene: Scene, part: PicturePlane, places_mm: npt.NDArray[np.float64], number: int
) -> npt.NDArray[np.float32]:
    """The union of a lesion's sections parallel to a picture; ``places_mm`` are along its normal."""
    flat = part.flat().points_mm()
    base = float(part.origin_mm @ part.normal)
    spacing = float(scene.axes.spacing_mm[np.abs(scene.axes.directions @ part.normal).argmax()])
    region = np.zeros(part.size[::-1], dtype=np.float32)
    for place in np.arange(places_mm.min(), places_mm.max() + spacing / 2, spacing):
        moved = flat + (place - base) * part.normal
        region = np.maximum(
            region, sample(scene.lesions, scene.report.segmentation.grid, moved, label=number)
        )
    return region
