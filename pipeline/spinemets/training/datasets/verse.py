"""VerSe's vertebrae on CT as shapes: the label map gives the anatomy, the MR contrast is simulated.

``derivatives/sub-<id>/<name>_seg-vert_msk.nii.gz``, in the folder given or in its
``*training``, ``*validation`` and ``*test`` folders, which are the data set's own subsets; with
``rawdata/sub-<id>/<name>_ct.nii.gz`` where it is there, for what surrounds the spine, and
``_seg-subreg_msk.nii.gz`` (41 to 50, as SPINEPS writes it), which parts bodies from arches.
1 to 7 are C1 to C7, 8 to 19 T1 to T12, 20 to 25 L1 to L6, 26 S1, 28 T13.
Sources: Sekuboyina et al., Med Image Anal 2021;73:102166; https://osf.io/4skx2, CC BY-SA 4.0.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from spinemets.errors import GeometryError
from spinemets.io.label_values import LEVEL_LABELS, VERSE_LABELS
from spinemets.training.datasets.cases import Case, Layout, Subset, need_cases
from spinemets.training.datasets.labels import Meaning, Part, check_values
from spinemets.training.datasets.shapes import ShapeSource, simulate_scan
from spinemets.training.images import RasImage, load, load_pair, whole_numbers
from spinemets.training.scans import LabelledScan

__all__ = ["LAYOUT"]

_MASK, _SUBREGIONS, _CT = "_seg-vert_msk.nii.gz", "_seg-subreg_msk.nii.gz", "_ct.nii.gz"
_SUBSETS: tuple[tuple[str, Subset], ...] = (
    ("train", "train"),
    ("validation", "validation"),
    ("test", "test"),
)
_COCCYX = 27
_BODY_SUBREGION = (49, 50)
_MEANINGS = {value: Meaning(Part.VERTEBRA, level) for level, value in VERSE_LABELS.items()}
_MEANINGS[_COCCYX] = Meaning(Part.SACRUM)


def find_cases(folder: Path) -> tuple[Case, ...]:
    """Every vertebra mask, whether it has its CT or not."""
    cases = []
    for mask in sorted({*folder.glob(f"**/derivatives/sub-*/*{_MASK}"), *folder.glob(f"sub-*/*{_MASK}")}):
        stem = mask.name.removesuffix(_MASK)
        files = {"labels": mask}
        subregions = mask.with_name(f"{stem}{_SUBREGIONS}")
        ct = mask.parents[2] / "rawdata" / mask.parent.name / f"{stem}{_CT}"
        files |= {key: path for key, path in (("subregions", subregions), ("ct", ct)) if path.is_file()}
        parts = " ".join(mask.relative_to(folder).parts[:-3]).lower()
        subset = next((name for word, name in _SUBSETS if word in parts), None)
        cases.append(Case(mask.parent.name.removeprefix("sub-"), stem, files, subset=subset))
    return need_cases(cases, folder, f"derivatives/sub-<id>/<name>{_MASK}")


def read_case(case: Case) -> LabelledScan:
    """Make one MR scan in a contrast that goes with the case's name.

    Raises
    ------
    InputError
        A file cannot be read, they do not fit together, a label is strange, or no vertebra
        shows the canal.
    """
    path = case.files["labels"]
    file = load(path)
    labels = whole_numbers(file, path)
    check_values(labels, _MEANINGS, path)
    subregions = ct = None
    if "subregions" in case.files:
        body = np.isin(load_pair(path, case.files["subregions"])[1], _BODY_SUBREGION)
        subregions = body if body.any() else None
    if "ct" in case.files:
        ct = _same_grid(load(case.files["ct"]), file, case.files["ct"])
    levels = np.zeros(labels.shape, dtype=np.uint8)
    for value in np.unique(labels[labels > 0]).tolist():
        if value in LEVEL_LABELS:
            levels[labels == value] = value
    seed = int.from_bytes(hashlib.sha256(case.name.encode()).digest()[:8], "big")
    source = ShapeSource(f"verse/{case.name}", levels, file.grid.spacing_mm, subregions, ct)
    return simulate_scan(source, np.random.default_rng(seed))


def _same_grid(ct: RasImage, labels: RasImage, path: Path) -> np.ndarray:
    if not ct.grid.is_close(labels.grid, 0.5):
        raise GeometryError(f"{path}: does not lie on the grid of its vertebra mask; resample one of them")
    return ct.voxels


LAYOUT = Layout(find_cases, read_case)
