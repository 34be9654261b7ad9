"""One case of a data set before it is read: whose it is, its files, its weighting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spinemets.errors import NoUsableInputError
from spinemets.io.files import is_image_file
from spinemets.training.scans import LabelledScan
from spinemets.volume import Weighting

__all__ = ["Case", "Layout", "Subset", "images_in", "need_cases"]

Subset = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Case:
    """One image of a data set with what goes with it.

    Attributes
    ----------
    patient
        Splits go by it; all images of a person bear the same.
    name
        Unlike that of any other case of the data set.
    files
        By what they hold, as in "image", "labels".
    subset
        The part that the data set itself puts it in; None where it does not say.
    label_names
        What the labels' values mean, where that is said beside the data and not by its layout.
    """

    patient: str
    name: str
    files: Mapping[str, Path]
    weighting: Weighting = Weighting.UNKNOWN
    subset: Subset | None = None
    label_names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of a data set lie.

    Attributes
    ----------
    find
        The cases of a folder (of a JSON file for datalists), in order of name; raises
        ``NoUsableInputError`` where there are none.
    read
        One of them; raises an ``InputError`` that names the file and the reason.
    """

    find: Callable[[Path], tuple[Case, ...]]
    read: Callable[[Case], LabelledScan]


def images_in(folder: Path, pattern: str = "*") -> list[Path]:
    """The image files (NIfTI, MetaImage, NRRD) of a folder that fit a pattern, by name."""
    return sorted(path for path in folder.glob(pattern) if is_image_file(path))


def need_cases(cases: Sequence[Case], folder: Path, expected: str) -> tuple[Case, ...]:
    """The cases by name.

    Raises
    ------
    NoUsableInputError
        There are none; says what was expected.
    """
    if not cases:
        raise NoUsableInputError(f"{folder}: holds no case; expected {expected}")
    return tuple(sorted(cases, key=lambda case: case.name))
