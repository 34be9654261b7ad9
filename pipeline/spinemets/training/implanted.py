"""Real scans with lesions implanted, written as files: what lesion detection is measured on.

No public MRI data set has masks of spinal metastases. Scans that take part in no training are
given lesions whose place, size and compartment are known; the scan as it is serves to count
false positives. Lesions come from ``simulation.lesions``, whose kind the network was trained
on, so that the figures say how well it finds such lesions in patients it has never seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion, Structure
from spinemets.atomic import atomic_write_text
from spinemets.channels import Channel
from spinemets.instances import ARCH_SLOPE
from spinemets.simulation.lesions import ImplantOptions, plan_lesions, render_lesions
from spinemets.training.contrast import resemble
from spinemets.training.scans import LabelledScan, bit
from spinemets.volume import Grid, Weighting

__all__ = ["IMPLANTED_WEIGHTINGS", "write_implanted"]

_REGIONS = (
    (Channel.SACRUM, SpineRegion.SACRAL),
    (Channel.LUMBAR_BODY, SpineRegion.LUMBAR),
    (Channel.THORACIC_BODY, SpineRegion.THORACIC),
)
_SUFFIXES: Mapping[Weighting, str] = {Weighting.T1: "T1w", Weighting.T2: "T2w", Weighting.T2_FS: "STIR"}
IMPLANTED_WEIGHTINGS = tuple(_SUFFIXES)


def write_implanted(
    scan: LabelledScan,
    folder: Path,
    study: str,
    weightings: Sequence[Weighting],
    rng: np.random.Generator,
) -> int:
    """Write one scan with lesions under ``folder/studies`` and their truth under ``folder/truth``.

    Every weighting shows the same lesions. One other than the scan's own is simulated from its
    labels. Images lie where the scan lies, in its own slices, 1 mm in plane, their axes in RAS+
    order. The truth is named after the study and, where there is one weighting only, after that too.

    Returns
    -------
    int
        How many lesions were implanted.
    """
    affine = np.diag([*scan.spacing_mm, 1.0]) if scan.affine is None else scan.affine
    studies, truths = folder / "studies", folder / "truth"
    studies.mkdir(parents=True, exist_ok=True)
    truths.mkdir(parents=True, exist_ok=True)
    plan = plan_lesions(scan.structures, scan.spacing_mm, ImplantOptions(), rng)
    compartments: tuple[Compartment, ...] = ()
    for weighting in weightings:
        image = np.asarray(scan.image, dtype=np.float32)
        if weighting is not scan.weighting:
            image = resemble(image, scan.structures, weighting, rng) * 255
        ill = render_lesions(image, scan.structures, scan.spacing_mm, weighting, plan, rng)
        compartments = ill.compartments
        name = f"{study}_{_SUFFIXES[weighting]}"
        _write(studies / f"{name}.nii.gz", np.clip(ill.image, 0, None).astype(np.float32), affine)
    truth = name if len(weightings) == 1 else study
    _write(truths / f"{truth}_lesions.nii.gz", plan.masks, affine)
    facts = {"lesions": _facts(plan.masks, compartments, scan, Grid(plan.masks.shape, affine))}
    atomic_write_text(truths / f"{truth}.json", json.dumps(facts, indent=2) + "\n")
    return len(compartments)


def _write(path: Path, array: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> None:
    file = nib.Nifti1Image(array, affine)
    file.set_sform(affine, code=1)
    file.set_qform(affine, code=1)
    nib.save(file, path)


def _facts(
    masks: npt.NDArray[np.uint8], compartments: Sequence[Compartment], scan: LabelledScan, grid: Grid
) -> list[dict[str, object]]:
    """What is known of every lesion."""
    facts: list[dict[str, object]] = []
    for number, compartment in enumerate(compartments, start=1):
        voxels = np.argwhere(masks == number)
        if not len(voxels):
            continue
        region = _region(scan, voxels)
        facts.append(
            {
                "lesion": number,
                "compartment": compartment.value,
                "region": region.value if region else None,
                "centroid_mm": [round(float(c), 1) for c in grid.to_world(voxels.mean(axis=0))],
                "volume_mm3": round(float(len(voxels) * np.prod(scan.spacing_mm)), 1),
            }
        )
    return facts


def _region(scan: LabelledScan, voxels: npt.NDArray[np.intp]) -> SpineRegion | None:
    """The region of a lesion's body or sacrum, else that of its height; None where it may be either of two.

    Labels do not tell whose an arch is, and it reaches down behind the next body.
    """
    allowed = scan.allowed[tuple(voxels.T)]
    votes = [int((allowed == bit(channel)).sum()) for channel, _ in _REGIONS]
    if sum(votes) > 0.5 * len(voxels):
        return _REGIONS[int(np.argmax(votes))][1]
    here = _region_at(scan, float(voxels[:, 2].mean()))
    above = _region_at(scan, float(voxels[:, 2].mean() + _arch_drop(scan, voxels)))
    return here if here is above else None


def _arch_drop(scan: LabelledScan, voxels: npt.NDArray[np.intp]) -> float:
    """By how much bone so far behind the canal may hang below its own body, in voxels."""
    canal = np.isin(scan.structures, (Structure.THECAL_SAC, Structure.CORD))
    beside = np.nonzero(canal[:, :, voxels[:, 2].min() : voxels[:, 2].max() + 1])[1]
    if not len(beside):
        return 0.0
    behind_mm = (beside.mean() - voxels[:, 1].mean()) * scan.spacing_mm[1]
    return float(ARCH_SLOPE * max(0.0, behind_mm) / scan.spacing_mm[2])


def _region_at(scan: LabelledScan, height: float) -> SpineRegion | None:
    """Known where the scan is lumbar: the region of the lowest numbered body at or below a height."""
    lowest: dict[SpineRegion, float] = {}
    for channel, region in _REGIONS:
        heights = np.nonzero((scan.allowed == bit(channel)).any(axis=(0, 1)))[0]
        if heights.size:
            lowest[region] = float(heights.min())
    below = [region for region, least in lowest.items() if least <= height]
    return max(below, key=lambda region: lowest[region]) if below else None
