"""Real scans with lesions implanted, written as files: what lesion detection is measured on.

No public MRI data set has masks of spinal metastases. Scans that take part in no training are
given lesions whose place, size and compartment are known; the scan as it is serves to count
false positives. Lesions come from ``simulation.lesions``, whose kind the network was trained
on, so that the figures say how well it finds such lesions in patients it has never seen, or from
``simulation.balls``, whose kind it has not seen either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion, Structure
from spinemets.atomic import atomic_write_text
from spinemets.channels import Channel
from spinemets.simulation.balls import plan_balls, render_balls
from spinemets.simulation.lesion_places import ImplantOptions, LesionPlan, plan_lesions
from spinemets.simulation.lesions import render_lesions
from spinemets.spinal_axis import SpinalAxis, fit_spinal_axis
from spinemets.training.contrast import resemble
from spinemets.training.scans import LabelledScan, bit
from spinemets.training.study_files import SUFFIXES, need_own_place, write_nifti
from spinemets.volume import Grid, Weighting
from spinemets.voxels import SAMPLED_VOXELS, voxels_of

__all__ = ["IMPLANTED_WEIGHTINGS", "ImplantKind", "write_implanted"]

ImplantKind = Literal["disease", "balls", "none"]

_REGIONS = (
    (Channel.SACRUM, SpineRegion.SACRAL),
    (Channel.LUMBAR_BODY, SpineRegion.LUMBAR),
    (Channel.THORACIC_BODY, SpineRegion.THORACIC),
    (Channel.CERVICAL_BODY, SpineRegion.CERVICAL),
    (Channel.C2, SpineRegion.CERVICAL),
)
_CANAL = (Structure.THECAL_SAC, Structure.CORD)
_NAMED_SHARE = 0.5  # of the bodies' voxels; with less, nobody knows where a region ends
_UNSURE_MM = 8.0  # half a disc and 3 mm: so near to a border, readers differ
_PROCESS_MM = 10.0  # that upper articular processes stand above their body's middle
_STEEPEST = 0.4  # mm down for each mm back, of lumbar and lower thoracic arches
IMPLANTED_WEIGHTINGS = (Weighting.T1, Weighting.T2, Weighting.T2_FS)


def write_implanted(
    scan: LabelledScan,
    folder: Path,
    study: str,
    weightings: Sequence[Weighting],
    rng: np.random.Generator,
    kind: ImplantKind = "disease",
) -> int:
    """Write one scan with lesions under ``folder/studies`` and their truth under ``folder/truth``.

    Every weighting shows the same lesions. One other than the scan's own is simulated from its
    labels. Images lie where the scan lies, in its own slices, 1 mm in plane, their axes in RAS+
    order. The truth is named after the study and, where there is one weighting only, after that too.

    Parameters
    ----------
    kind
        Lesions as in training, balls as in none, or no lesion, to count what is made up in the scan.

    Returns
    -------
    int
        How many lesions were implanted.

    Raises
    ------
    OutputError
        A file cannot be written, or the folder has other files of a study of that name.
    """
    need_own_place(folder, study, weightings)
    affine = np.diag([*scan.spacing_mm, 1.0]) if scan.affine is None else scan.affine
    studies, truths = folder / "studies", folder / "truth"
    studies.mkdir(parents=True, exist_ok=True)
    truths.mkdir(parents=True, exist_ok=True)
    plan = _plan(scan, kind, rng)
    render = render_balls if kind == "balls" else render_lesions
    compartments: tuple[Compartment, ...] = ()
    ratios: dict[str, dict[int, float]] = {}
    for weighting in weightings:
        image = np.asarray(scan.image, dtype=np.float32)
        if weighting is not scan.weighting:
            image = resemble(image, scan.structures, weighting, rng) * 255
        ill = render(image, scan.structures, scan.spacing_mm, weighting, plan, rng)
        compartments = ill.compartments
        ratios[SUFFIXES[weighting]] = _signal_ratios(image, ill.image, plan.masks)
        name = f"{study}_{SUFFIXES[weighting]}"
        write_nifti(studies / f"{name}.nii.gz", np.clip(ill.image, 0, None).astype(np.float32), affine)
    truth = name if len(weightings) == 1 else study
    write_nifti(truths / f"{truth}_lesions.nii.gz", plan.masks, affine)
    facts = {"lesions": _facts(plan.masks, compartments, ratios, scan, Grid(plan.masks.shape, affine))}
    atomic_write_text(truths / f"{truth}.json", json.dumps(facts, indent=2) + "\n")
    return len(compartments)


def _plan(scan: LabelledScan, kind: ImplantKind, rng: np.random.Generator) -> LesionPlan:
    if kind == "balls":
        return plan_balls(scan.structures, scan.spacing_mm, rng)
    if kind == "disease":
        return plan_lesions(scan.structures, scan.spacing_mm, ImplantOptions(), rng)
    return LesionPlan((), scan.structures, np.zeros_like(scan.structures), sclerotic=False)


def _signal_ratios(
    before: npt.NDArray[np.float32], after: npt.NDArray[np.float32], masks: npt.NDArray[np.uint8]
) -> dict[int, float]:
    """The signal of every lesion, by its number, as a share of what was there before; both are medians."""
    ratios = {}
    for number in np.unique(masks[masks > 0]).tolist():
        place = masks == number
        old, new = float(np.median(before[place])), float(np.median(after[place]))
        ratios[number] = round(max(new, 0.0) / max(old, 1e-3), 2)
    return ratios


def _facts(
    masks: npt.NDArray[np.uint8],
    compartments: Sequence[Compartment],
    ratios: Mapping[str, Mapping[int, float]],
    scan: LabelledScan,
    grid: Grid,
) -> list[dict[str, object]]:
    """What is known of every lesion."""
    facts: list[dict[str, object]] = []
    spine = _Spine.of(scan, grid)
    for number, compartment in enumerate(compartments, start=1):
        voxels = np.argwhere(masks == number)
        if not len(voxels):
            continue
        region = _region(scan, voxels, spine)
        counts = np.bincount(scan.structures[tuple(voxels.T)], minlength=len(Structure))
        facts.append(
            {
                "lesion": number,
                "compartment": compartment.value,
                "region": region.value if region else None,
                "structure": Structure(int(counts.argmax())).name.lower(),
                "centroid_mm": [round(float(c), 1) for c in grid.to_world(voxels.mean(axis=0))],
                "volume_mm3": round(float(len(voxels) * np.prod(scan.spacing_mm)), 1),
                "signal_ratio": {name: by_number[number] for name, by_number in ratios.items()},
            }
        )
    return facts


def _region(scan: LabelledScan, voxels: npt.NDArray[np.intp], spine: _Spine | None) -> SpineRegion | None:
    """The region of a lesion's body or sacrum, else that of its height; None where it may be either of two.

    In the canal the border between two regions is the middle of their disc, and a lesion that
    lies on both sides has none. Labels do not tell whose an arch is: it reaches down behind the
    next body, and its upper processes stand behind the one above.
    """
    allowed = scan.allowed[tuple(voxels.T)]
    votes = [int((allowed == bit(channel)).sum()) for channel, _ in _REGIONS]
    if sum(votes) > 0.5 * len(voxels):
        return _REGIONS[int(np.argmax(votes))][1]
    if spine is None:
        return None
    along, front, _ = spine.axis.project(spine.grid.to_world(voxels)).T
    if np.isin(scan.structures[tuple(voxels.T)], _CANAL).mean() > 0.5:
        regions = [spine.region_at(float(height)) for height in np.quantile(along, (0.2, 0.5, 0.8))]
        regions += [spine.region_at(float(np.median(along)) + shift) for shift in (-_UNSURE_MM, _UNSURE_MM)]
    else:
        drop = max(_PROCESS_MM, _STEEPEST * float(-np.median(front)))
        middle = float(np.median(along))
        regions = [spine.region_at(middle + shift) for shift in (_PROCESS_MM, -drop)]
    return regions[0] if len(set(regions)) == 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class _Spine:
    """The canal's curve, and the heights along it where one region ends and the next begins."""

    axis: SpinalAxis
    grid: Grid
    borders_mm: tuple[tuple[float, SpineRegion], ...]
    lowest: SpineRegion

    @classmethod
    def of(cls, scan: LabelledScan, grid: Grid) -> _Spine | None:
        """None where the labels show no curve, or no bodies whose region is known."""
        axis = fit_spinal_axis(scan.structures, grid)
        bodies = scan.allowed[scan.structures == Structure.VERTEBRAL_BODY]
        named = np.isin(bodies, [bit(channel) for channel, _ in _REGIONS])
        if axis is None or not named.size or named.mean() < _NAMED_SHARE:
            return None
        extents = []
        for channel, region in _REGIONS:
            voxels = voxels_of(scan.allowed == bit(channel), SAMPLED_VOXELS)
            if len(voxels):
                along = axis.project(grid.to_world(voxels))[:, 0]
                top, bottom = np.quantile(along, (0.005, 0.995)).tolist()
                extents.append((top, bottom, region))
        extents.sort()
        if not extents:
            return None
        borders = tuple((0.5 * (upper[1] + lower[0]), upper[2]) for upper, lower in pairwise(extents))
        return cls(axis, grid, borders, extents[-1][2])

    def region_at(self, along_mm: float) -> SpineRegion:
        """The region of a height along the canal."""
        return next((region for border, region in self.borders_mm if along_mm < border), self.lowest)
