"""What was missed and what was made up, lesion by lesion, as pictures for whoever must judge them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from spinemets.atomic import atomic_write_bytes
from spinemets.batch import study_key
from spinemets.errors import NoUsableInputError
from spinemets.evaluation.files import StudyFiles, read_label_map
from spinemets.evaluation.lesions import ExamOutcome
from spinemets.io.files import is_image_file, read_image, read_image_header
from spinemets.reporting.drawing import (
    BACKDROP,
    Outline,
    Sheet,
    display_window,
    draw_orientation,
    draw_outline,
    draw_text,
    fit_text,
    grey_picture,
    to_image,
)
from spinemets.reporting.overlays import plane_about
from spinemets.reporting.panels import with_caption
from spinemets.reporting.planes import ORIENTATION_LETTERS, PicturePlane, body_axes, inside, sample
from spinemets.volume import Grid, Plane

__all__ = ["Failure", "made_up", "missed", "save_failures"]

_MOST, _PER_ROW = 12, 2
_SIDE_MM, _SIDE = 100.0, 230
_BORDER = 8
_MOST_SERIES = 3
_OUTLINE = Outline((255, 90, 60))


@dataclass(frozen=True, slots=True)
class Failure:
    """A lesion of one study that was missed or made up.

    Attributes
    ----------
    label_map, number
        The file that it is labelled in, and its value there.
    weight
        What worse ones have more of: mm3 of a missed one, the confidence of one made up.
    """

    study: str
    label_map: Path
    number: int
    weight: float
    caption: str


def missed(outcome: ExamOutcome, truth: StudyFiles) -> list[Failure]:
    """The true lesions of a study that no finding finds."""
    return [
        Failure(
            outcome.study,
            truth.maps["lesions"],
            lesion.number,
            lesion.volume_mm3,
            f"{outcome.study}: lesion {lesion.number}, {lesion.volume_mm3 / 1000:.2f} mL",
        )
        for lesion in outcome.lesions
        if lesion.found_by is None
    ]


def made_up(outcome: ExamOutcome, result: StudyFiles) -> list[Failure]:
    """The findings of a study that are no lesions."""
    return [
        Failure(
            outcome.study,
            result.maps["lesions"],
            number,
            score,
            f"{outcome.study}: finding {number}, confidence {score:.2f}",
        )
        for number, score in zip(outcome.false_positives, outcome.false_positive_scores, strict=True)
    ]


def save_failures(failures: Mapping[str, Sequence[Failure]], scans: Path, folder: Path) -> list[Path]:
    """One sheet of pictures for each kind of failure: its worst dozen, on up to three series each.

    Parameters
    ----------
    failures
        By the name of the sheet; one without failures is left out.
    scans
        Holds the image files, called as their studies, or so with more after an underscore.

    Returns
    -------
    list of Path
        The PNG files written.

    Raises
    ------
    NoUsableInputError
        A study has no scan there on the grid of its labels.
    OutputError
        The folder cannot be written.
    """
    paths = []
    for name, found in failures.items():
        worst = sorted(found, key=lambda one: -one.weight)[:_MOST]
        if worst:
            buffer = io.BytesIO()
            _sheet([_tile(failure, scans) for failure in worst]).save(buffer, "PNG")
            paths.append(folder / f"{name}.png")
            atomic_write_bytes(paths[-1], buffer.getvalue())
    return paths


def _sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    width = max(tile.width for tile in tiles) + _BORDER
    height = tiles[0].height + _BORDER
    rows = -(-len(tiles) // _PER_ROW)
    sheet = Image.new("RGB", (min(_PER_ROW, len(tiles)) * width, rows * height), BACKDROP)
    for rank, tile in enumerate(tiles):
        sheet.paste(tile, (rank % _PER_ROW * width, rank // _PER_ROW * height))
    return sheet


def _tile(failure: Failure, scans: Path) -> Image.Image:
    """The sagittal slice that shows most of a lesion: on every series, then outlined on the first."""
    labels, grid = read_label_map(failure.label_map)
    mask = labels == failure.number
    plane = _sagittal(np.argwhere(mask), grid)
    points = plane.points_mm()
    within = inside(grid, points)
    series = {
        name: grey_picture(sample(scan, grid, points), within, display_window(scan))
        for name, scan in _scans_of(failure.study, scans, grid).items()
    }
    first = next(iter(series.values()))
    outlined = {"outlined": draw_outline(first, sample(mask, grid, points), _OUTLINE)}
    tile = Image.new("RGB", ((len(series) + 1) * _SIDE, _SIDE), BACKDROP)
    for rank, (name, picture) in enumerate((*series.items(), *outlined.items())):
        image = to_image(picture)
        if rank == 0:
            sheet = Sheet(image, np.zeros((_SIDE, _SIDE), dtype=np.bool_))
            draw_orientation(sheet, ORIENTATION_LETTERS[Plane.SAGITTAL])
        draw_text(image, (_BORDER, _SIDE - 12), fit_text(name, _SIDE // 2 - 2 * _BORDER), size=12)
        tile.paste(image, (rank * _SIDE, 0))
    return with_caption(tile, failure.caption)


def _sagittal(voxels: npt.NDArray[np.intp], grid: Grid) -> PicturePlane:
    """The slice with most of these voxels, (n, 3), about the middle of what it shows of them."""
    axes = body_axes(grid)
    along = grid.to_world(voxels) @ axes.directions.T
    slices = np.rint((along[:, 0] - axes.lower_mm[0]) / axes.spacing_mm[0] - 0.5).astype(np.int64)
    chosen = slices == np.bincount(slices.clip(0)).argmax()
    centre = along[chosen].mean(axis=0) @ axes.directions
    return plane_about(axes, Plane.SAGITTAL, centre, (_SIDE, _SIDE), _SIDE_MM / _SIDE)


def _scans_of(study: str, scans: Path, grid: Grid) -> dict[str, npt.NDArray[np.float32]]:
    """The images of a study on the grid of its labels, by what follows the study's name."""
    called = _called(study_key(Path(study)), scans)
    fitting = {name: path for name, path in called.items() if read_image_header(path).grid.is_close(grid)}
    if not fitting:
        raise NoUsableInputError(
            f"{scans}: holds no image called {study} on the grid of its labels; name the folder with the "
            "image files that detect was given"
        )
    return {name: read_image(fitting[name])[0] for name in sorted(fitting)[:_MOST_SERIES]}


def _called(key: str, scans: Path) -> dict[str, Path]:
    paths = {study_key(path): path for path in scans.iterdir() if is_image_file(path)}
    return {
        name.removeprefix(key).strip("_"): path
        for name, path in paths.items()
        if name == key or name.startswith(f"{key}_")
    }
