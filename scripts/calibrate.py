"""Fit the scale of lesion logits and show operating points, on studies that are no test studies.

RESULTS come from `spinemets detect --save-probabilities`; TRUTHS from make_implanted.py. A result
without a truth counts as a healthy exam.
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


def main() -> int:
    """Parse, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("truths", type=Path)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.2, 0.3, 0.4, 0.5])
    arguments = parser.parse_args()
    try:
        maps = [
            _read(path, arguments.truths)
            for path in sorted(arguments.results.glob("*/lesion_probability.nii.gz"))
        ]
        for threshold in arguments.thresholds:
            studies = [find_candidates(*one, threshold) for one in maps]
            scale = fit_scale(studies)
            calibrated = float(expit(scale.slope * logit(threshold) + scale.shift))
            print(f"threshold {threshold}: slope {scale.slope:.3f}, shift {scale.shift:.3f};", end=" ")
            print(f"threshold once calibrated {calibrated:.3f}")
            for point in operating_points(studies, scale):
                print(json.dumps({name: round(getattr(point, name), 3) for name in point.__slots__}))
    except (SpinemetsError, ValueError) as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 2
    return 0


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
