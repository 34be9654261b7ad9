"""A MONAI datalist: a JSON file with ``training``, ``validation`` and ``test`` lists.

Every entry has ``image`` and ``label``, ``lesion`` or both, relative to the JSON file; ``patient``
and ``weighting`` ("T1", "T2", "STIR", ...) where the file names do not tell them. A patient is what
precedes the first underscore of an image's name; of a name that tells a contrast alone (``p1/T2.nii.gz``)
or is that of all images (``p1/image.nii.gz``), it is the first folder in which they differ. ``labels`` at
the top names the values, value to name as in the Medical Segmentation Decathlon or name to value
as in nnU-Net: "L4", "vertebrae_T12", "vertebral_body", "posterior_elements", "disc_L4_L5",
"spinal_canal", "thecal_sac", "cord", "sacrum", "L4/L5" (a disc), and "lesion", "metastasis" or
"tumor" with whatever words beside it. What is named "ignore" or "other" may be anything. An entry
of ``training`` with ``fold`` 0, as Auto3DSeg writes them, is for validation where there is no list
for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spinemets.channels import Channel
from spinemets.errors import NoUsableInputError, UnreadableFileError, UnsupportedInputError
from spinemets.io.file_names import image_stem, parse_file_name
from spinemets.io.weighting import weighting_from_name
from spinemets.training.datasets.cases import Case, Layout, Subset, need_cases
from spinemets.training.datasets.labels import (
    Annotation,
    Extent,
    LabelMap,
    Meaning,
    Part,
    build_scan,
    check_values,
    meaning_of_name,
)
from spinemets.training.datasets.own_masks import number_lesions, scan_of_lesions
from spinemets.training.datasets.volumes import to_training_spacing
from spinemets.training.images import RasImage, load_pair
from spinemets.training.scans import ANY, UNKNOWN_LESION, LabelledScan, Labels, bit, to_bytes
from spinemets.volume import Mask, Weighting

__all__ = ["LAYOUT"]

_LISTS: dict[str, Subset] = {
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "testing": "test",
    "test": "test",
}
_NO_ANATOMY = (Part.LESION, Part.BACKGROUND, Part.ANYTHING)
_EXPECTED = 'a JSON file with "training": [{"image": ..., "label": ...}, ...]'


def find_cases(path: Path) -> tuple[Case, ...]:
    """Every entry of the lists; ``path`` is the JSON file, or a folder with ``dataset.json``."""
    path = path / "dataset.json" if path.is_dir() else path
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NoUsableInputError(
            f"{path}: cannot be read ({error.strerror}); expected {_EXPECTED}"
        ) from error
    except ValueError as error:
        raise UnreadableFileError(f"{path}: is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise UnreadableFileError(f"{path}: holds no object; expected {_EXPECTED}")
    names = _label_names(document.get("labels", {}), path)
    has_validation = any(document.get(key) for key in ("validation", "val"))
    cases = []
    for key, subset in _LISTS.items():
        entries = document.get(key) or ()
        if not isinstance(entries, list | tuple) or not all(isinstance(one, dict | str) for one in entries):
            raise UnreadableFileError(f'{path}: its "{key}" is no list of images; expected {_EXPECTED}')
        for number, entry in enumerate(entries):
            # The Decathlon's test list names images alone: there is nothing to learn from them.
            if isinstance(entry, str) or not ("label" in entry or "lesion" in entry):
                continue
            fold = subset == "train" and not has_validation and entry.get("fold") == 0
            cases.append(_case(entry, path, f"{key}[{number}]", "validation" if fold else subset, names))
    return need_cases(_with_patients(cases), path, _EXPECTED)


def _label_names(labels: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Value to name, whichever way around they are written."""
    try:
        if all(str(key).lstrip("-").isdigit() for key in labels):
            return {int(key): str(name) for key, name in labels.items()}
        return {int(value): str(name) for name, value in labels.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UnreadableFileError(f'{path}: its "labels" are no names of values: {error}') from error


def _case(entry: Mapping[str, Any], path: Path, place: str, subset: Subset, names: Mapping[int, str]) -> Case:
    try:
        image = entry["image"][0] if isinstance(entry["image"], list) else entry["image"]
        files = {"image": path.parent / image}
        for key, source in (("labels", "label"), ("lesions", "lesion")):
            if source in entry:
                files[key] = path.parent / entry[source]
        weighting = Weighting(entry["weighting"]) if "weighting" in entry else None
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(f"{path}: {place} lacks a value or holds a wrong one: {error!r}") from error
    name = image_stem(files["image"])
    patient = str(entry.get("patient", ""))
    return Case(patient, name, files, weighting or weighting_from_name(name), subset, names)


def _with_patients(cases: Sequence[Case]) -> list[Case]:
    """The cases with the patients that their entries do not name, and names that are theirs alone."""
    images = [case.files["image"].absolute() for case in cases]
    stems, folders = {case.name for case in cases}, {image.parent for image in images}
    all_alike = len(stems) == 1 and len(folders) > 1
    nameless = {one for one in images if all_alike or parse_file_name(one).contrast == image_stem(one)}
    root = Path(os.path.commonpath([image.parent for image in nameless])) if nameless else Path()
    named = []
    for case, image in zip(cases, images, strict=True):
        name, patient = case.name, case.name.split("_")[0]
        if image in nameless:
            below = image.parent.relative_to(root).parts or (image.parent.name,)
            name, patient = f"{'-'.join(below)}_{name}", below[0]
        named.append(replace(case, name=name, patient=case.patient or patient))
    return named


def read_case(case: Case) -> LabelledScan:
    """Read one entry's image with its labels, its lesions, or both.

    Raises
    ------
    InputError
        A file cannot be read, they do not fit together, or a label has no name.
    """
    path = case.files.get("labels", case.files.get("lesions", case.files["image"]))
    image, labels = load_pair(case.files["image"], path)
    lesions: Mask | None = None
    if "lesions" in case.files:
        lesions = load_pair(case.files["image"], case.files["lesions"])[1] > 0
    meanings = _meanings(case) if "labels" in case.files else {}
    ignored = _drawn(labels, meanings, Part.ANYTHING)
    if any(meaning.part is Part.LESION for meaning in meanings.values()):
        drawn = _drawn(labels, meanings, Part.LESION)
        lesions = drawn if lesions is None else drawn | lesions
    subject = f"datalist/{case.name}"
    if meanings:
        labels[_drawn(labels, meanings, *_NO_ANATOMY)] = 0
    anatomy = {value: meaning for value, meaning in meanings.items() if meaning.part not in _NO_ANATOMY}
    if anatomy or (meanings and labels.any()):
        check_values(labels, meanings, path)
    if anatomy:
        numbers = None if lesions is None else number_lesions(lesions)
        annotation = Annotation(labels, numbers, ignored if ignored.any() else None)
        return build_scan(subject, image, annotation, case.weighting, anatomy, _extent(anatomy))
    alone = number_lesions(np.zeros(image.voxels.shape, dtype=bool) if lesions is None else lesions)
    alone[ignored & (alone == 0)] = UNKNOWN_LESION
    return _lesions_alone(subject, image, alone, case.weighting)


def _drawn(labels: LabelMap, meanings: Mapping[int, Meaning], *parts: Part) -> Mask:
    return np.isin(labels, [value for value, meaning in meanings.items() if meaning.part in parts])


def _meanings(case: Case) -> dict[int, Meaning]:
    meanings = {}
    for value, name in case.label_names.items():
        if value == 0:
            continue
        meaning = meaning_of_name(name)
        if meaning is None:
            raise UnsupportedInputError(
                f'{case.files["labels"]}: label {value} is named "{name}", which is no structure of a spine; '
                'name it as in "L4", "disc_L4_L5", "vertebral_body", "spinal_canal", "cord" or "lesion", '
                'or "ignore" where it may be anything'
            )
        meanings[value] = meaning
    if all(meaning.part in (Part.BACKGROUND, Part.ANYTHING) for meaning in meanings.values()):
        raise UnsupportedInputError(
            f'{case.files["labels"]}: the datalist has no "labels" that name its values; add them'
        )
    return meanings


def _extent(meanings: Mapping[int, Meaning]) -> Extent:
    """What has no label at all in a data set may lie where nothing is labelled."""
    parts = {meaning.part for meaning in meanings.values()}
    open_channels = bit(Channel.BACKGROUND)
    for channel, holders in (
        (Channel.CORD, {Part.CORD, Part.CANAL}),
        (Channel.THECAL_SAC, {Part.SAC, Part.CANAL}),
        (Channel.DISC, {Part.DISC}),
        (Channel.POSTERIOR_ELEMENTS, {Part.POSTERIOR, Part.VERTEBRA}),
    ):
        if not parts & holders:
            open_channels |= bit(channel)
    return Extent(open_channels, whole_sacrum=Part.SACRUM in parts)


def _lesions_alone(subject: str, image: RasImage, lesions: Labels, weighting: Weighting) -> LabelledScan:
    """A scan of which nothing but its lesions is known."""
    voxels, spacing = to_training_spacing(image.voxels, image.grid.spacing_mm, labels=False)
    values, _ = to_training_spacing(lesions, image.grid.spacing_mm, labels=True)
    allowed = np.full(voxels.shape, ANY, dtype=np.uint16)
    structures = np.zeros(voxels.shape, dtype=np.uint8)
    scan = LabelledScan(subject, to_bytes(voxels), allowed, structures, spacing, weighting)
    return scan_of_lesions(scan, values.astype(np.int32), {})


LAYOUT = Layout(find_cases, read_case)
