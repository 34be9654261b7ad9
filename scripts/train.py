"""Train a network: ``python scripts/train.py configs/train/anatomy.yaml --data DIR --output DIR``.

On several GPUs: ``torchrun --nproc-per-node 4 scripts/train.py ...``; every one takes a batch.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from spinemets.errors import SpinemetsError
from spinemets.inference import choose_device
from spinemets.training.distributed import local_device, process_group
from spinemets.training.recipe import load_recipe

try:
    from spinemets.training.loop import TrainingFiles, train
except ModuleNotFoundError as error:
    sys.exit(f"train: {error}; install the extra with pip install 'spinemets[train]'")


def main() -> int:
    """Parse, train, and say how it ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="YAML file of configs/train/")
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder that the recipe's sources are relative to"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="checkpoint and logs; resumed where one is there"
    )
    parser.add_argument(
        "--anatomy", type=Path, help="anatomy network for lesion recipes: a checkpoint or a bundle's folder"
    )
    parser.add_argument(
        "--start", type=Path, help="begin with these weights: a checkpoint or a bundle's folder"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads of the training process")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.threads is not None:
        if arguments.threads < 1:
            parser.error("--threads must be 1 or more")
        torch.set_num_threads(arguments.threads)
    try:
        recipe = load_recipe(arguments.recipe)
        files = TrainingFiles(arguments.data, arguments.output, arguments.anatomy, arguments.start)
        device = local_device(choose_device(arguments.device))
        with process_group(device) as group:
            loss = train(recipe, files, device, group)
    except SpinemetsError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    if loss is None:
        print(f"nothing to do: the checkpoint in {arguments.output} has all {recipe.steps} steps")
    else:
        print(f"mean loss of the last 100 steps: {loss:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
