"""Simulated studies as files: phantoms, and labelled scans with lesions implanted.

Both are written as ``studies/`` and ``truth/``, which ``spinemets detect`` analyses and
``scripts/evaluate.py results`` scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinemets.atomic import atomic_write_text
from spinemets.errors import UnsupportedInputError
from spinemets.io import ANATOMY_LABELS, LEVEL_LABELS, write_label_map
from spinemets.io.file_names import image_stem
from spinemets.simulation.studies import (
    SimulatedStudy,
    StudyOptions,
    draw_study,
    truth_record,
    verse_numbers,
)
from spinemets.simulation.tissues import structure_of_tissue
from spinemets.training.contrast import RESEMBLING
from spinemets.training.datasets import LAYOUTS, Case
from spinemets.training.datasets.own_masks import read_anatomy
from spinemets.training.implanted import IMPLANTED_WEIGHTINGS, write_implanted
from spinemets.training.scans import LabelledScan, read_spider
from spinemets.training.study_files import SUFFIXES, need_own_place, write_nifti
from spinemets.volume import Weighting

__all__ = ["read_labelled", "write_implants", "write_phantoms"]

_PEAK = 1000


def write_phantoms(out: Path, seeds: Sequence[int], options: StudyOptions) -> Iterator[tuple[str, int]]:
    """Write a study for every seed; yield its name and how many lesions it shows.

    Raises
    ------
    OutputError
        A file cannot be written, or the folder has other files of a study of that name.
    """
    for seed in seeds:
        name = f"phantom{seed}"
        need_own_place(out, name, options.weightings)
        study = draw_study(options, np.random.default_rng([seed, 20]))
        yield name, _write_phantom(study, out, name)


def _write_phantom(study: SimulatedStudy, out: Path, name: str) -> int:
    """Images, label maps and the record of one study; how many lesions it shows."""
    grid = study.labels.grid
    (out / "studies").mkdir(parents=True, exist_ok=True)
    for weighting, image in study.images.items():
        scaled = np.round(image / max(float(np.quantile(image, 0.999)), 1e-6) * _PEAK)
        path = out / "studies" / f"{name}_{SUFFIXES[weighting]}.nii.gz"
        write_nifti(path, scaled.clip(0, 4095).astype(np.int16), grid.affine)
    # One sequence is a study by the name of its file; several share the part before the sequence.
    truth = name if len(study.images) > 1 else f"{name}_{SUFFIXES[next(iter(study.images))]}"
    record = truth_record(study.phantom, study.labels)
    # Not all that were drawn: some lie where nothing of them shows.
    shown = np.unique(study.labels.lesion[study.labels.lesion > 0]).tolist()
    names = {number: f"lesion {number}" for number in shown}
    maps: Sequence[tuple[str, npt.NDArray[np.uint8], Mapping[int, str]]] = (
        ("anatomy", structure_of_tissue(study.labels.tissue), ANATOMY_LABELS),
        ("levels", verse_numbers(study.labels.vertebra), LEVEL_LABELS),
        ("lesions", study.labels.lesion, names),
    )
    (out / "truth").mkdir(parents=True, exist_ok=True)
    for kind, array, labels in maps:
        write_label_map(out / "truth" / f"{truth}_{kind}.nii.gz", array, grid, labels)
    atomic_write_text(out / "truth" / f"{truth}.json", json.dumps(record, indent=2) + "\n")
    return len(shown)


def write_implants(
    scan: LabelledScan, out: Path, stem: str, weightings: Sequence[Weighting], seeds: Sequence[int]
) -> Iterator[tuple[str, int]]:
    """Write a labelled scan with lesions for every seed; yield its name and their number.

    Parameters
    ----------
    stem
        Names begin with it. What precedes its first underscore is the patient, whose studies stay
        together in splits and in intervals.

    Raises
    ------
    UnsupportedInputError
        The scan's weighting is unknown, or one is asked for that cannot be simulated from labels.
    OutputError
        A file cannot be written, or the folder has other files of a study of that name.
    """
    if scan.weighting is Weighting.UNKNOWN:
        raise UnsupportedInputError(
            f"{scan.subject}: its weighting is not known from its name; pass --scan-weighting"
        )
    wanted = weightings or (scan.weighting,)
    strange = [weighting.value for weighting in wanted if weighting not in IMPLANTED_WEIGHTINGS]
    if strange:
        raise UnsupportedInputError(
            f"{scan.subject}: implants are written as T1, T2 or STIR, not as {', '.join(strange)}; "
            "pass --weighting"
        )
    if scan.weighting not in RESEMBLING and set(wanted) != {scan.weighting}:
        raise UnsupportedInputError(
            f"{scan.subject}: T1 and STIR cannot be simulated from {scan.weighting.value}; "
            "leave out --weighting, or give a T1 or T2 scan"
        )
    if Weighting.T2 in wanted and scan.weighting is not Weighting.T2:
        raise UnsupportedInputError(
            f"{scan.subject}: T2 cannot be simulated from {scan.weighting.value}; leave out --weighting T2, "
            "or give a T2 scan"
        )
    for seed in seeds:
        name = f"{stem}{'-' if '_' in stem else '_'}implant{seed}"
        rng = np.random.default_rng([seed, 21])
        yield name, write_implanted(scan, out, name, wanted, rng)


def read_labelled(image: Path, labels: Path, layout: str, weighting: Weighting) -> LabelledScan:
    """An image with its labels.

    Parameters
    ----------
    layout
        "anatomy" for what ``spinemets detect`` writes, whose levels.nii.gz tells the regions where it
        lies beside the anatomy; "spider-joined"; or the name of a data set's labels.

    Raises
    ------
    InputError
        A file cannot be read, or does not fit the layout.
    """
    case = Case(image_stem(image), image_stem(image), {"image": image, "labels": labels}, weighting)
    if layout == "anatomy":
        levels = labels.with_name(labels.name.replace("anatomy", "levels"))
        if levels != labels and levels.is_file():
            case = replace(case, files={**case.files, "levels": levels})
        return read_anatomy(case)
    if layout == "spider-joined":
        return read_spider(image, labels, case.name)
    return LAYOUTS[{"totalspineseg": "spine_generic"}.get(layout, layout)].read(case)
