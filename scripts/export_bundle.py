"""Put trained weights into a bundle and register its checksums."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spinemets.bundles import register_bundle
from spinemets.channels import Channel
from spinemets.errors import SpinemetsError
from spinemets.training.export import export_bundle, store_footprint
from spinemets.training.recipe import load_recipe


def main() -> int:
    """Parse, export, register."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/spine_metastasis_mri"))
    parser.add_argument(
        "--footprint-only",
        action="store_true",
        help="keep the bundle's weights; measure the memory of its networks anew, store it and register",
    )
    for part in ("anatomy", "lesion"):
        parser.add_argument(
            f"--{part}",
            type=Path,
            default=Path(f"runs/{part}/checkpoint.pt"),
            help=f"the {part} network: a training's checkpoint or a bundle's folder, by default %(default)s",
        )
    parser.add_argument("--anatomy-recipe", type=Path, default=Path("configs/train/anatomy.yaml"))
    parser.add_argument("--lesion-recipe", type=Path, default=Path("configs/train/lesion.yaml"))
    parser.add_argument(
        "--anatomy-offset",
        type=_offset,
        action="append",
        default=[],
        metavar="CHANNEL=OFFSET",
        help="what is added to a channel's logits, from calibrate.py anatomy; may be repeated",
    )
    arguments = parser.parse_args()
    try:
        if arguments.footprint_only:
            footprints = store_footprint(arguments.bundle)
            if not footprints:
                print("export: memory can be measured on Linux with the GNU C library only", file=sys.stderr)
                return 2
            registry = register_bundle(arguments.bundle)
            print(f"{arguments.bundle}: bytes per voxel {footprints}; checksums in {registry}")
            return 0
        recipes = load_recipe(arguments.anatomy_recipe), load_recipe(arguments.lesion_recipe)
        checkpoints = arguments.anatomy, arguments.lesion
        steps = export_bundle(arguments.bundle, recipes, checkpoints, dict(arguments.anatomy_offset))
        registry = register_bundle(arguments.bundle)
    except SpinemetsError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.bundle}: weights of steps {steps}; checksums in {registry}")
    return 0


def _offset(text: str) -> tuple[Channel, float]:
    name, _, value = text.partition("=")
    try:
        return Channel[name.upper()], float(value)
    except (KeyError, ValueError):
        names = ", ".join(channel.name.lower() for channel in Channel)
        raise argparse.ArgumentTypeError(f"{text!r} is not CHANNEL=OFFSET; channels are {names}") from None


if __name__ == "__main__":
    sys.exit(main())
