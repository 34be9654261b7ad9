"""Compare ``spinemets benchmark`` with nnU-Net's predictor on the same volume and the same cores.

nnU-Net needs an environment of its own, for its packages bring another PyTorch::

    python3 -m venv .venv-nnunet
    .venv-nnunet/bin/python -m pip install "nnunetv2>=2.5,<3" --extra-index-url <index of the CPU wheels>

Its network and its patch are those that nnU-Net's own planner chooses for 3d_fullres by default, told
of a data set of lumbar series of that size and spacing; weights are random, for speed does not depend on
them. Then::

    .venv-nnunet/bin/python scripts/benchmark.py nnunet --threads 2 -o nnunet.json
    spinemets benchmark --device cpu --case lumbar --json spinemets.json
    python scripts/benchmark.py compare spinemets.json nnunet.json

``nnunet`` needs nothing of spinemets and imports nothing of it.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

LUMBAR = (15, 512, 512)
SPACING_MM = (4.0, 0.6, 0.6)
OUTPUTS = 10
SUBJECTS = 200  # only the batch in training depends on it
TILE_STEP = 0.5
DATASET = "Dataset001_Lumbar"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("nnunet", help="measure nnU-Net's predictor, in its own environment")
    measure.add_argument("--threads", type=int, default=0, help="cores to use; 0: all")
    measure.add_argument(
        "--mirroring", action="store_true", help="with its default mirroring: eight times as much"
    )
    measure.add_argument("-o", "--output", type=Path, required=True)
    compare = commands.add_parser("compare", help="put the results beside each other")
    compare.add_argument("spinemets", type=Path)
    compare.add_argument("nnunet", type=Path)
    options = parser.parse_args()
    needed = [options.output.parent] if options.command == "nnunet" else [options.spinemets, options.nnunet]
    for path in needed:
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    if options.command == "nnunet":
        measured = measure_nnunet(options.threads, mirroring=options.mirroring)
        options.output.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(measured, indent=2))
    else:
        print(comparison(_read(options.spinemets), _read(options.nnunet)))


def measure_nnunet(threads: int, *, mirroring: bool) -> dict[str, Any]:
    """Seconds that nnU-Net's sliding windows take for one lumbar series."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    plan = plan_of_nnunet()
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = plan["architecture"]
    predictor = nnUNetPredictor(
        TILE_STEP, use_gaussian=True, use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        input_channels=1,
        output_channels=OUTPUTS,
        deep_supervision=False,
    )
    patch = tuple(int(size) for size in plan["patch_size"])
    predictor.configuration_manager = _Configuration(patch)
    predictor.label_manager = _Labels()
    predictor.allowed_mirroring_axes = (0, 1, 2) if mirroring else None
    image = torch.randn(1, *LUMBAR)
    start = perf_counter()
    predictor.predict_sliding_window_return_logits(image)
    return {
        "seconds": perf_counter() - start,
        "mirroring": mirroring,
        "threads": torch.get_num_threads(),
        "nnunetv2": version("nnunetv2"),
        "torch": torch.__version__,
        "patch": patch,
        "features": list(architecture["arch_kwargs"]["features_per_stage"]),
        "volume": LUMBAR,
    }


def plan_of_nnunet() -> dict[str, Any]:
    """What nnU-Net's default planner plans as 3d_fullres for lumbar series."""
    labels = {"background": 0, **{f"structure {label}": label for label in range(1, OUTPUTS)}}
    described = {"channel_names": {"0": "T2"}, "labels": labels, "file_ending": ".nii.gz"}
    fingerprint = {
        "spacings": [SPACING_MM],
        "shapes_after_crop": [LUMBAR],
        "median_relative_size_after_cropping": 1.0,
    }
    with TemporaryDirectory() as folder:
        for kind in ("raw", "preprocessed", "results"):
            # nnU-Net reads these when it is imported.
            os.environ[f"nnUNet_{kind}"] = str(Path(folder, kind))
            Path(folder, kind, DATASET).mkdir(parents=True)
        for images in ("imagesTr", "labelsTr"):
            Path(folder, "raw", DATASET, images).mkdir()
        Path(folder, "raw", DATASET, "dataset.json").write_text(json.dumps(described), encoding="utf-8")
        found = Path(folder, "preprocessed", DATASET, "dataset_fingerprint.json")
        found.write_text(json.dumps(fingerprint), encoding="utf-8")
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
            ExperimentPlanner,
        )

        planner = ExperimentPlanner(DATASET)
        spacing = planner.determine_fullres_target_spacing()
        voxels = float(SUBJECTS * prod(LUMBAR))
        plan: dict[str, Any] = planner.get_plans_for_configuration(spacing, LUMBAR, "3d_fullres", voxels, {})
    return plan


class _Configuration:
    """What the predictor asks of a plan."""

    def __init__(self, patch: tuple[int, ...]) -> None:
        self.patch_size = patch


class _Labels:
    """What the predictor asks of a data set."""

    num_segmentation_heads = OUTPUTS


def comparison(own: dict[str, Any], nnunet: dict[str, Any]) -> str:
    """One sentence, from what the two benchmarks wrote."""
    if own["machine"]["threads"] != nnunet["threads"]:
        return (
            f"not comparable: spinemets ran on {own['machine']['threads']} threads, "
            f"nnU-Net on {nnunet['threads']}; measure both on the same"
        )
    seconds = own["cases"]["lumbar"]["seconds"]["network"]
    kind = "with" if nnunet["mirroring"] else "without"
    return (
        f"one lumbar series: networks of spinemets {seconds:.2f} s, nnU-Net {kind} mirroring "
        f"{nnunet['seconds']:.1f} s, {nnunet['seconds'] / seconds:.0f} times as long"
    )


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    main()
