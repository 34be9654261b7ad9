"""Compare ``spinemets benchmark`` with nnU-Net's predictor on the same volume and the same cores.

nnU-Net needs an environment of its own, for its packages bring another PyTorch::

    python3 -m venv .venv-nnunet
    .venv-nnunet/bin/python -m pip install "nnunetv2>=2.5,<3" --extra-index-url <index of the CPU wheels>

Its network is the default 3d_fullres network that nnU-Net plans for spine MRI, with random
weights: speed does not depend on them. Then::

    .venv-nnunet/bin/python scripts/benchmark.py nnunet --threads 2 -o nnunet.json
    spinemets benchmark --device cpu --case lumbar --json spinemets.json
    python scripts/benchmark.py compare spinemets.json nnunet.json

``nnunet`` needs nothing of spinemets and imports nothing of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

# What nnU-Net v2 plans for sagittal lumbar MRI of 4 × 0.6 × 0.6 mm: its 3d_fullres patch and network.
PATCH = (14, 384, 320)
FEATURES = (32, 64, 128, 256, 320, 320, 320)
STRIDES = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
KERNELS = ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 5)
LUMBAR = (15, 512, 512)
OUTPUTS = 10
TILE_STEP = 0.5


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
    if options.command == "nnunet":
        measured = measure_nnunet(options.threads, mirroring=options.mirroring)
        options.output.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(measured, indent=2))
    else:
        print(comparison(_read(options.spinemets), _read(options.nnunet)))


def measure_nnunet(threads: int, *, mirroring: bool) -> dict[str, Any]:
    """Seconds that nnU-Net's sliding windows take for one lumbar series."""
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    if threads:
        torch.set_num_threads(threads)
    network = PlainConvUNet(
        1,
        len(FEATURES),
        FEATURES,
        torch.nn.Conv3d,
        KERNELS,
        STRIDES,
        2,
        OUTPUTS,
        2,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    ).eval()
    predictor = nnUNetPredictor(
        TILE_STEP, use_gaussian=True, use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.network = network
    predictor.configuration_manager = _Configuration()
    predictor.label_manager = _Labels()
    predictor.allowed_mirroring_axes = (0, 1, 2) if mirroring else None
    image = torch.randn(1, *LUMBAR)
    start = perf_counter()
    with torch.inference_mode():
        predictor.predict_sliding_window_return_logits(image)
    return {
        "seconds": perf_counter() - start,
        "mirroring": mirroring,
        "threads": torch.get_num_threads(),
        "patch": PATCH,
        "volume": LUMBAR,
    }


class _Configuration:
    """What the predictor asks of a plan."""

    patch_size = PATCH


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
