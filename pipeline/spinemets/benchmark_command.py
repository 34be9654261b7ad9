"""What ``spinemets benchmark`` does: measure, print a table, write JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spinemets.atomic import atomic_write_text
from spinemets.benchmark import BenchmarkPlan, run_benchmark
from spinemets.exit_codes import DONE

if TYPE_CHECKING:
    from spinemets.bundles import Bundle
    from spinemets.config import DetectionConfig

__all__ = ["carry_out"]

_STAGES = ("read", "preprocess", "network", "postprocess", "write", "total")


def carry_out(
    bundle: Bundle, config: DetectionConfig, plan: BenchmarkPlan, json_path: Path | None, quiet: bool
) -> int:
    """Run the benchmark; print a table, and write everything measured where a path is given."""
    result = run_benchmark(bundle, config, plan, lambda what: _tell(what, quiet))
    # First, so that minutes of measuring are not lost with a file that cannot be written.
    click.echo(_table(result))
    if json_path is not None:
        atomic_write_text(json_path, json.dumps(result, indent=2) + "\n")
    return DONE


def _tell(what: str, quiet: bool) -> None:
    if not quiet:
        click.echo(f"measuring: {what}", err=True)


def _table(result: Mapping[str, Any]) -> str:
    machine, peak = result["machine"], result["peak"]
    cases: Mapping[str, Any] = result["cases"]
    width = max(map(len, cases), default=0)
    lines = [
        f"{machine['processor']}, {machine['device']}, {machine['threads']} threads, {result['precision']}; "
        f"matrix product {peak['matmul_gflop_per_s']:.0f} GFLOP/s, copy {peak['copy_gb_per_s']:.1f} GB/s",
        f"{'seconds':{width}}"
        + "".join(f"{stage:>13}" for stage in _STAGES)
        + "   GFLOP  of peak  memory MB",
    ]
    for name, case in cases.items():
        seconds = "".join(f"{case['seconds'][stage]:13.2f}" for stage in _STAGES)
        lines.append(
            f"{name:{width}}{seconds}{case['gflop']:8.0f}{case['share_of_matmul_peak']:9.0%}"
            f"{case['peak_memory_mb']:11.0f}"
        )
    if "ratios" in result:
        ratio, agreed = result["ratios"]["monai_sliding_window"], result["agreement_with_float32"]
        lines.append(
            f"network against MONAI's sliding windows: {ratio:.1f} times as fast; "
            f"the same name as in float32 for {agreed['argmax']:.4f} of the voxels"
        )
    lines.append(f"time grows with the voxels to the power {result['scaling']['exponent']:.2f}")
    return "\n".join(lines)
