"""Write SPIDER scans with implanted lesions, and their truth, to measure lesion detection on."""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np

from spinemets.errors import SpinemetsError
from spinemets.training.implanted import write_implanted
from spinemets.training.scans import read_spider
from spinemets.volume import Weighting

WEIGHTINGS = {"T2": Weighting.T2, "T1": Weighting.T1, "STIR": Weighting.T2_FS}


def main() -> int:
    """Parse and write; the same seed gives the same files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spider", type=Path, help="folder of sub-<id>_T2w.nii.gz and sub-<id>_dseg.nii.gz")
    parser.add_argument("subjects", nargs="+", help="as in 011 045")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--weightings", nargs="+", choices=WEIGHTINGS, default=["T2"], help="T1 and STIR are simulated"
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="one study of all weightings that shows the same lesions in each",
    )
    parser.add_argument("--copies", type=int, default=2, help="studies for each subject and weighting")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--healthy",
        action="store_const",
        const="none",
        dest="kind",
        help="without lesions, to count what is made up in such scans",
    )
    kind.add_argument(
        "--balls",
        action="store_const",
        const="balls",
        dest="kind",
        help="balls and whole bodies of one signal, as no network was trained on",
    )
    parser.set_defaults(kind="disease")
    parser.add_argument("--seed", type=int, default=9)
    arguments = parser.parse_args()
    if arguments.copies < 1 or arguments.seed < 0:
        parser.error("--copies must be 1 or more, and --seed 0 or more")
    try:
        for number, subject in enumerate(arguments.subjects):
            image, labels = (arguments.spider / f"sub-{subject}_{kind}.nii.gz" for kind in ("T2w", "dseg"))
            scan = read_spider(image, labels, subject)
            studies = [[kind] for kind in arguments.weightings]
            if arguments.together:
                studies = [arguments.weightings]
            for study, (copy, kinds) in enumerate(product(range(arguments.copies), studies)):
                first = list(WEIGHTINGS).index(kinds[0])
                rng = np.random.default_rng([arguments.seed, number, copy, first])
                name = _name(subject, study, arguments.together)
                weightings = [WEIGHTINGS[kind] for kind in kinds]
                count = write_implanted(scan, arguments.output, name, weightings, rng, arguments.kind)
                print(f"{name} ({' '.join(kinds)}): {count} lesions")
    except SpinemetsError as error:
        print(f"make_implanted: {error}", file=sys.stderr)
        return 2
    return 0


def _name(subject: str, study: int, together: bool) -> str:
    # Files of one BIDS session are read as one study, and others as a study each.
    return f"sub-{subject}_ses-{study}" if together else f"spider{subject}_study{study}"


if __name__ == "__main__":
    sys.exit(main())
