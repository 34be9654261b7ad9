"""Put trained weights into a bundle and register its checksums."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spinemets.bundles import register_bundle
from spinemets.errors import SpinemetsError
from spinemets.training.calibration import LogitScale
from spinemets.training.export import export_bundle
from spinemets.training.recipe import load_recipe


def main() -> int:
    """Parse, export, register."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/spine_metastasis_mri"))
    parser.add_argument("--anatomy", type=Path, default=Path("runs/anatomy/checkpoint.pt"))
    parser.add_argument("--lesion", type=Path, default=Path("runs/lesion/checkpoint.pt"))
    parser.add_argument("--anatomy-recipe", type=Path, default=Path("configs/train/anatomy.yaml"))
    parser.add_argument("--lesion-recipe", type=Path, default=Path("configs/train/lesion.yaml"))
    parser.add_argument(
        "--lesion-scale",
        type=float,
        nargs=2,
        default=(1.0, 0.0),
        metavar=("SLOPE", "SHIFT"),
        help="calibration of the lesion logits, from calibrate.py",
    )
    arguments = parser.parse_args()
    try:
        recipes = load_recipe(arguments.anatomy_recipe), load_recipe(arguments.lesion_recipe)
        scale = LogitScale(*arguments.lesion_scale)
        steps = export_bundle(arguments.bundle, recipes, (arguments.anatomy, arguments.lesion), scale)
        registry = register_bundle(arguments.bundle)
    except SpinemetsError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.bundle}: weights of steps {steps}; checksums in {registry}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
