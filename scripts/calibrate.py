"""Fit what turns the networks' outputs into findings, on studies that are no test studies.

`lesions` fits the weights of a lesion's confidence, as `lesions:` of a detection's configuration,
and shows operating points: RESULTS come from `spinemets detect --save-probabilities`, TRUTHS from
make_implanted.py. A result without a truth counts as a healthy exam; a single result is that of a
single truth, whatever their names. `anatomy` fits offsets of the anatomy network's logits on a
recipe's validation subjects, for export_bundle.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import yaml

from spinemets.anatomy import Structure
from spinemets.batch.privacy import is_hashed_key
from spinemets.config import LesionConfig
from spinemets.errors import GeometryError, SpinemetsError, UnreadableFileError
from spinemets.evaluation.files import belongs_to, read_label_map
from spinemets.io.files import NIFTI_DAMAGE_ERRORS
from spinemets.training.calibration import (
    StudyCandidates,
    find_candidates,
    fit_confidence,
    fit_cord,
    operating_points,
)
from spinemets.training.data import read_validation
from spinemets.training.offsets import fit_offsets
from spinemets.training.recipe import load_recipe
from spinemets.training.trained import built, read_trained
from spinemets.volume import Grid


def main() -> int:
    """Parse, fit, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    lesions = commands.add_parser("lesions", help="weights of lesions' confidence, operating points")
    lesions.add_argument(
        "pairs", type=Path, nargs="+", metavar="RESULTS TRUTHS", help="folders; further pairs may follow"
    )
    lesions.add_argument("--thresholds", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    lesions.add_argument(
        "--cord", type=Path, nargs=2, metavar=("RESULTS", "TRUTHS"), help="studies that show the cord ill"
    )
    lesions.set_defaults(run=_lesions)
    anatomy = commands.add_parser("anatomy", help="offsets of the anatomy logits")
    anatomy.add_argument("recipe", type=Path)
    anatomy.add_argument("checkpoint", type=Path)
    anatomy.add_argument("--data", type=Path, required=True, help="folder that the recipe's sources lie in")
    anatomy.set_defaults(run=_anatomy)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (SpinemetsError, ValueError) as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 2
    return 0


def _lesions(arguments: argparse.Namespace) -> None:
    if len(arguments.pairs) % 2:
        raise ValueError("every folder of results needs its folder of truths")
    folders = zip(arguments.pairs[::2], arguments.pairs[1::2], strict=True)
    maps = [one for results, truths in folders for one in _read_all(results, truths)]
    spines = _read_all(*arguments.cord) if arguments.cord else []
    for threshold in arguments.thresholds:
        studies = [one.candidates(threshold) for one in maps]
        config = fit_confidence(studies, LesionConfig(threshold=threshold))
        if spines:
            config = fit_cord([*studies, *(one.candidates(threshold) for one in spines)], config)
        fitted = {name: round(value, 3) for name, value in config.model_dump().items()}
        print(yaml.safe_dump({"lesions": fitted}, sort_keys=False))
        for point in operating_points(studies, config):
            print(json.dumps({name: round(getattr(point, name), 3) for name in point.__slots__}))


def _anatomy(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe)
    network = built(read_trained(arguments.checkpoint, "anatomy").weights)
    for channel, offset in fit_offsets(network, read_validation(recipe, arguments.data)).items():
        print(f"--anatomy-offset {channel.name.lower()}={offset}")


@dataclass(frozen=True, slots=True, eq=False)
class _Map:
    """A study's lesion probabilities and the truth."""

    probability: npt.NDArray[np.float32]
    truth: npt.NDArray[np.integer]
    voxel_volume_mm3: float
    series: int
    cord: npt.NDArray[np.bool_]

    def candidates(self, threshold: float) -> StudyCandidates:
        return find_candidates(
            self.probability,
            self.truth,
            self.voxel_volume_mm3,
            threshold,
            series=self.series,
            cord=self.cord,
        )


def _read_all(results: Path, truths: Path) -> list[_Map]:
    """Every result of a folder with its truth.

    A single result is that of a single truth, whatever their names: a lone study of several
    sequences is called by its folder.
    """
    if not truths.is_dir():
        raise ValueError(f"{truths}: no such folder; without it every result would count as healthy")
    paths = sorted(results.glob("*/lesion_probability.nii.gz"))
    if not paths:
        raise ValueError(f"{results}: no lesion_probability.nii.gz; detect with --save-probabilities")
    known = {path.name.removesuffix("_lesions.nii.gz"): path for path in truths.glob("*_lesions.nii.gz")}
    if len(paths) == len(known) == 1:
        return [_read(paths[0], *known.values())]
    return [_read(path, own) for path, own in _truths_of(paths, known).items()]


def _truths_of(paths: Sequence[Path], known: Mapping[str, Path]) -> dict[Path, Path | None]:
    """The truth of each result; says which truths are of none, as their lesions do not count."""
    truths = {path: _truth_of(path.parent.name, known) for path in paths}
    hashed = [path.parent for path, own in truths.items() if not own and is_hashed_key(path.parent.name)]
    if known and hashed:
        raise ValueError(
            f"{hashed[0]} is called by a hash, which no truth is, and would count as healthy; "
            "detect names results as their scans with --identifiers keep"
        )
    left_out = sorted(name for name, path in known.items() if path not in truths.values())
    if left_out:
        print(f"calibrate: no result is called as the truth of {', '.join(left_out)}", file=sys.stderr)
    return truths


def _read(path: Path, own: Path | None) -> _Map:
    try:
        image = nibabel.Nifti1Image.from_filename(path)
        probability = np.asarray(image.dataobj, dtype=np.float32)
    except NIFTI_DAMAGE_ERRORS as error:
        raise UnreadableFileError(f"{path}: is no readable NIfTI file ({error})") from error
    series = _series_of(path.parent / "report.json")
    truth: npt.NDArray[np.integer] = np.zeros(probability.shape, dtype=np.int32)
    if own is not None:
        truth, grid = read_label_map(own)
        if not grid.is_close(Grid(probability.shape, np.asarray(image.affine, dtype=np.float64))):
            raise GeometryError(f"{own}: does not lie on the grid of {path}")
    anatomy, _ = read_label_map(path.parent / "anatomy.nii.gz")
    cord = anatomy == Structure.CORD
    return _Map(probability, truth, float(np.prod(image.header.get_zooms()[:3])), series, cord)


def _series_of(report: Path) -> int:
    """How many series a result was found in."""
    try:
        return len(json.loads(report.read_text(encoding="utf-8"))["study"]["series"])
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise UnreadableFileError(
            f"{report}: does not tell the study's series ({error!r}); detect with --formats json,nifti"
        ) from error


def _truth_of(name: str, known: Mapping[str, Path]) -> Path | None:
    """The lesions of a result, where there are any."""
    fitting = [study for study in known if belongs_to(name, study)]
    return known[max(fitting, key=len)] if fitting else None


if __name__ == "__main__":
    sys.exit(main())
