"""One's own images with lesion masks, in the form that results are scored against.

``studies/<case>.nii.gz`` with ``truth/<case>_lesions.nii.gz`` (0, or a lesion's number; 255 where
it is not known), as ``scripts/make_implanted.py`` writes and ``scripts/evaluate.py results``
reads; several sequences ``p01_T1.nii.gz``, ``p01_T2.nii.gz`` may share ``p01_lesions.nii.gz``. If
there, ``truth/<case>_anatomy.nii.gz`` (values of ``anatomy.nii.gz``) and
``truth/<case>_levels.nii.gz`` (VerSe's numbers) tell the anatomy, and ``truth/<case>.json`` the
compartment of each lesion. What precedes the first underscore of a name is the patient; the
weighting is read from the name, as in ``p01_T1w.nii.gz``.

The mask is taken to show every lesion. Without anatomy, what is known of a voxel follows from
the lesion's compartment alone, and patches are cut around lesions.
"""

from __future__ import annotations

import json
import logging
from glob import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, Structure, VertebralLevel
from spinemets.channels import Channel
from spinemets.errors import NoUsableInputError, UnreadableFileError, UnsupportedInputError
from spinemets.io.file_names import image_stem, parse_file_name
from spinemets.io.label_values import VERSE_LABELS
from spinemets.io.weighting import weighting_from_name
from spinemets.training.datasets.cases import Case, Layout, images_in, need_cases
from spinemets.training.datasets.labels import BODIES, body_channels
from spinemets.training.datasets.volumes import to_training_spacing, training_affine
from spinemets.training.images import load, load_pair
from spinemets.training.scans import (
    ANY,
    UNKNOWN_LESION,
    Allowed,
    LabelledScan,
    Labels,
    bit,
    channels_of,
    to_bytes,
)
from spinemets.voxels import islands_of

__all__ = ["LAYOUT", "number_lesions", "read_anatomy", "scan_of_lesions"]

_log = logging.getLogger(__name__)

LabelMap = npt.NDArray[np.int32]

# Files of a case that hold the values of ``anatomy.nii.gz``.
_OF_STRUCTURES = ("anatomy", "labels")
_BONE = bit(Channel.SACRUM, Channel.POSTERIOR_ELEMENTS) | BODIES
# Where a lesion of each compartment lies: the likeliest structure, and all possible channels.
_HOSTS: dict[Compartment | None, tuple[Structure, int]] = {
    None: (Structure.VERTEBRAL_BODY, ANY),
    Compartment.EXTRADURAL: (Structure.VERTEBRAL_BODY, _BONE | bit(Channel.BACKGROUND)),
    Compartment.INTRADURAL_EXTRAMEDULLARY: (Structure.THECAL_SAC, bit(Channel.THECAL_SAC)),
    Compartment.INTRAMEDULLARY: (Structure.CORD, bit(Channel.CORD)),
}


def find_cases(folder: Path) -> tuple[Case, ...]:
    """Every image of ``studies`` that has a lesion mask in ``truth``."""
    cases = []
    for image in images_in(folder / "studies"):
        name = image_stem(image)
        files = {"image": image}
        # One truth serves all sequences of a study that is named after it.
        title = parse_file_name(image).title
        names = (name, title, title.replace(" ", "_"))
        for kind in ("lesions", "anatomy", "levels"):
            found = [
                path for case in names for path in images_in(folder / "truth", f"{escape(case)}_{kind}.*")
            ]
            if found:
                files[kind] = found[0]
        if "lesions" not in files:
            raise NoUsableInputError(f"{image}: has no mask; expected {folder}/truth/{name}_lesions.nii.gz")
        documents = [folder / "truth" / f"{case}.json" for case in names]
        facts = next((path for path in documents if path.is_file()), None)
        if facts is not None:
            files["facts"] = facts
        cases.append(Case(name.split("_")[0], name, files, weighting_from_name(image.name)))
    return need_cases(cases, folder, "studies/<case>.nii.gz and truth/<case>_lesions.nii.gz")


def read_case(case: Case) -> LabelledScan:
    """Read one image with its lesion mask, and its anatomy where that is there.

    Raises
    ------
    InputError
        A file cannot be read, they do not fit together, or nothing in them tells where the spine is.
    """
    scan = _scan(case, f"own/{case.name}", "anatomy")
    compartments = _compartments(case.files["facts"]) if "facts" in case.files else {}
    lesions = _label_map(case, "lesions")
    if lesions is not None and set(np.unique(lesions).tolist()) - {0} == {UNKNOWN_LESION}:
        _log.warning(
            "all that a lesion mask shows is 255, where nothing is known, so that no lesion is learnt from "
            "it; lesions are numbered from 1"
        )
    return scan_of_lesions(
        scan, np.zeros(scan.structures.shape, np.int32) if lesions is None else lesions, compartments
    )


def read_anatomy(case: Case) -> LabelledScan:
    """Read an image with its "labels" in the values of ``anatomy.nii.gz``; no lesion is known.

    The regions of bodies are known where there are "levels" (VerSe's numbers) as well.

    Raises
    ------
    InputError
        A file cannot be read, they do not fit together, or a value names no structure.
    """
    return _scan(case, case.name, "labels")


def _scan(case: Case, subject: str, kind: str) -> LabelledScan:
    """An image at the training spacing, with what its label map of this kind and its levels tell."""
    image = load(case.files["image"])
    voxels, spacing = to_training_spacing(image.voxels, image.grid.spacing_mm, labels=False)
    anatomy = _label_map(case, kind)
    structures, allowed = _anatomy(voxels.shape, anatomy, _label_map(case, "levels"))
    affine = training_affine(image.grid)
    return LabelledScan(
        subject, to_bytes(voxels), allowed, structures, spacing, case.weighting, affine=affine
    )


def _label_map(case: Case, kind: str) -> LabelMap | None:
    """A label map of a case at the training spacing; None where the case has none of this kind.

    Values below 0 are nothing, as for the evaluation of the same files.
    """
    if kind not in case.files:
        return None
    image, labels = load_pair(case.files["image"], case.files[kind])
    labels = np.maximum(labels, 0)
    if kind in _OF_STRUCTURES:
        _check_structures(labels, case.files[kind])
    return to_training_spacing(labels, image.grid.spacing_mm, labels=True)[0].astype(np.int32)


def _check_structures(anatomy: LabelMap, path: Path) -> None:
    present = {int(value) for value in np.unique(anatomy)}
    strange = sorted(present - set(Structure))
    if strange or present == {0}:
        raise UnsupportedInputError(
            f"{path}: values {strange[:8] or [0]} name no structure; expected those of anatomy.nii.gz, 1 to 6"
        )


def scan_of_lesions(
    scan: LabelledScan, lesions: LabelMap, compartments: dict[int, Compartment]
) -> LabelledScan:
    """A scan with its lesions put in, and what their compartments tell of the anatomy.

    Parameters
    ----------
    lesions
        0, a lesion's number, or 255 for unknown; shape of the scan.

    Raises
    ------
    UnsupportedInputError
        There is neither a lesion nor any anatomy to cut patches around.
    """
    structures, allowed = scan.structures.copy(), scan.allowed.copy()
    unnamed = structures == Structure.BACKGROUND
    for number in np.unique(lesions[(lesions > 0) & (lesions != UNKNOWN_LESION)]).tolist():
        structure, channels = _HOSTS[compartments.get(number)]
        inside = lesions == number
        structures[inside & unnamed] = structure
        # The mask's own anatomy stands; only what it leaves open is narrowed down.
        allowed[inside & (allowed == ANY)] = channels
    if not structures.any():
        if (lesions == UNKNOWN_LESION).any():
            raise UnsupportedInputError(
                f"{scan.subject}: all that its mask shows is 255, where nothing is known; "
                "lesions are numbered from 1"
            )
        raise UnsupportedInputError(
            f"{scan.subject}: holds neither a lesion nor anatomy; give anatomy (as spinemets detect writes "
            "it) for exams without lesions"
        )
    return LabelledScan(
        scan.subject, scan.image, allowed, structures, scan.spacing_mm, scan.weighting, _as_bytes(lesions)
    )


def number_lesions(mask: npt.NDArray[np.bool_]) -> Labels:
    """Lesions by number from 1, of a mask in which they all have one value."""
    numbered = islands_of(mask)
    return np.asarray(np.minimum(numbered, UNKNOWN_LESION - 1), dtype=np.uint8)


def _as_bytes(lesions: LabelMap) -> Labels:
    """Lesion numbers as they are where they fit below 255, else numbered anew."""
    if lesions.max(initial=0) <= UNKNOWN_LESION:
        return lesions.astype(np.uint8)
    unknown = lesions == UNKNOWN_LESION
    numbered = number_lesions((lesions > 0) & ~unknown)
    numbered[unknown] = UNKNOWN_LESION
    return numbered


def _anatomy(
    shape: tuple[int, ...], anatomy: LabelMap | None, levels: LabelMap | None
) -> tuple[Labels, Allowed]:
    if anatomy is None:
        return np.zeros(shape, dtype=np.uint8), np.full(shape, ANY, dtype=np.uint16)
    structures = anatomy.astype(np.uint8)
    allowed = (1 << channels_of(structures)).astype(np.uint16)
    bodies = structures == Structure.VERTEBRAL_BODY
    allowed[bodies] = BODIES
    if levels is not None:
        for level, number in VERSE_LABELS.items():
            inside = bodies & (levels == number)
            allowed[inside] = (
                bit(Channel.POSTERIOR_ELEMENTS) if level is VertebralLevel.C1 else body_channels(level)
            )
    return structures, allowed


def _compartments(path: Path) -> dict[int, Compartment]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = document.get("findings", document.get("lesions", ()))
        return {int(row["lesion"]): Compartment(row["compartment"]) for row in rows if row.get("compartment")}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(f"{path}: lacks a value or holds a wrong one: {error!r}") from error


LAYOUT = Layout(find_cases, read_case)
