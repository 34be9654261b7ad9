"""Fit what export_bundle.py puts into the networks' last layers, on studies that are no test studies.

`lesions` fits the scale of lesion logits and shows operating points: RESULTS come from
`spinemets detect --save-probabilities`, TRUTHS from make_implanted.py; a result without a truth
counts as a healthy exam. `anatomy` fits offsets of the anatomy network's logits on a recipe's
validation subjects.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from spinemets.errors import SpinemetsError
from spinemets.evaluation.files import read_label_map
from spinemets.training.calibration import find_candidates, fit_scale, operating_points
from spinemets.training.data import read_validation
from spinemets.training.loop import load_average, network_definition
from spinemets.training.offsets import fit_offsets
from spinemets.training.recipe import load_recipe


def main() -> int:
    """Parse, fit, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    lesions = commands.add_parser("lesions", help="scale of the lesion logits, operating points")
    lesions.add_argument("results", type=Path)
    lesions.add_argument("truths", type=Path)
    lesions.add_argument("--thresholds", type=float, nargs="+", default=[0.2, 0.3, 0.4, 0.5])
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
    paths = sorted(arguments.results.glob("*/lesion_probability.nii.gz"))
    maps = [_read(path, arguments.truths) for path in paths]
    for threshold in arguments.thresholds:
        studies = [find_candidates(*one, threshold) for one in maps]
        scale = fit_scale(studies)
        calibrated = float(expit(scale.slope * logit(threshold) + scale.shift))
        print(f"threshold {threshold}: slope {scale.slope:.3f}, shift {scale.shift:.3f};", end=" ")
        print(f"threshold once calibrated {calibrated:.3f}")
        for point in operating_points(studies, scale):
            print(json.dumps({name: round(getattr(point, name), 3) for name in point.__slots__}))


def _anatomy(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe)
    network = load_average(arguments.checkpoint, network_definition(recipe))
    for channel, offset in fit_offsets(network, read_validation(recipe, arguments.data)).items():
        print(f"--anatomy-offset {channel.name.lower()}={offset}")


def _read(path: Path, truths: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer], float]:
    image = nibabel.load(path)
    probability = np.asarray(image.dataobj, dtype=np.float32)
    truth_path = truths / f"{path.parent.name}_lesions.nii.gz"
    truth: npt.NDArray[np.integer] = np.zeros(probability.shape, dtype=np.int32)
    if truth_path.exists():
        truth, _ = read_label_map(truth_path)
    return probability, truth, float(np.prod(image.header.get_zooms()[:3]))


if __name__ == "__main__":
    sys.exit(main())
