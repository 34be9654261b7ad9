"""What all pictures of one report share, and where in a picture a lesion shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Compartment, Structure, VertebralLevel
from spinemets.findings import LesionFinding, ReviewTopic, StudyReport
from spinemets.reporting.drawing import display_window
from spinemets.reporting.planes import BodyAxes, PicturePlane, body_axes, sample
from spinemets.reporting.words import level_name, percent
from spinemets.volume import Mask
from spinemets.voxels import bounding_box, corner, voxels_of

__all__ = ["LesionPatch", "Scene", "has_doubtful_evidence", "lesion_label", "lesion_patch", "make_scene"]

_PATCH_MARGIN = 4
DOUBT_NOTE = "dashed: doubtful evidence"


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What every picture of one report is drawn from.

    Attributes
    ----------
    lesions
        int32, shape of the grid: 0 or the number of a lesion.
    sac, cord, bodies
        Shape of the grid: the dural sac with all it holds, the cord without what was taken for it
        far below its end, the bodies and sacrum.
    windows
        One (low, high) for each volume of the segmentation.
    level_names
        How each level is written, with a question mark where its name is uncertain.
    """

    report: StudyReport
    axes: BodyAxes
    lesions: npt.NDArray[np.int32]
    sac: Mask
    cord: Mask
    bodies: Mask
    windows: tuple[tuple[float, float], ...]
    level_names: Mapping[VertebralLevel, str]


def make_scene(report: StudyReport, uncertain_below: float) -> Scene:
    """Prepare a report for drawing; levels of less confidence carry a question mark."""
    segmentation, axes = report.segmentation, body_axes(report.segmentation.grid)
    uncertain = {vertebra.level for vertebra in report.vertebrae if vertebra.confidence < uncertain_below}
    lesions = np.zeros(segmentation.grid.shape, dtype=np.int32)
    for finding in report.findings:
        lesions[tuple(finding.lesion.voxels.T)] = finding.lesion.number
    cord = segmentation.anatomy == Structure.CORD
    return Scene(
        report=report,
        axes=axes,
        lesions=lesions,
        sac=cord | (segmentation.anatomy == Structure.THECAL_SAC),
        cord=_main_cord(report, cord, axes),
        bodies=np.isin(segmentation.anatomy, (Structure.VERTEBRAL_BODY, Structure.SACRUM)),
        windows=tuple(display_window(volume.intensities) for volume in segmentation.volumes),
        level_names={level: level_name(level, uncertain) for level in VertebralLevel},
    )


def _main_cord(report: StudyReport, cord: Mask, axes: BodyAxes) -> Mask:
    """The largest piece of the cord, and those that reach above its end or hold a lesion of the cord.

    What else is called cord lies in the cauda equina.
    """
    box = bounding_box(cord)
    if box is None:
        return cord
    pieces, count = ndimage.label(cord[box], structure=np.ones((3, 3, 3)))
    if count < 2:
        return cord
    places = voxels_of(cord[box])
    labels = pieces[tuple(places.T)]
    heights = report.segmentation.grid.to_world(places + corner(box)) @ axes.directions[2]
    ranks = np.arange(count + 1)
    tops = ndimage.maximum(heights, labels, ranks[1:])
    foot = heights[labels == np.bincount(labels).argmax()].min()
    kept = {int(rank) for rank in ranks[1:][tops >= foot]}
    for finding in report.findings:
        if finding.compartment is Compartment.INTRAMEDULLARY:
            own = finding.lesion.voxels[cord[tuple(finding.lesion.voxels.T)]] - corner(box)
            kept |= {int(rank) for rank in np.unique(pieces[tuple(own.T)])}
    main = np.zeros_like(cord)
    main[box] = np.isin(pieces, list(kept))
    return main


def has_doubtful_evidence(finding: LesionFinding) -> bool:
    """Whether it is doubtful that this is a lesion at all."""
    return ReviewTopic.EVIDENCE in finding.review_topics


def lesion_label(scene: Scene, finding: LesionFinding) -> str:
    """A lesion in one line, as in "6  S1?  extradural, lesion 29 %"."""
    level = scene.level_names[finding.main_level] if finding.main_level else "no level"
    confidence = percent(finding.lesion.confidence)
    return f"{finding.lesion.number}  {level}  {finding.compartment.value}, lesion {confidence}"


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
