"""The application of the MONAI Application Package: its options and variables, as `spinemets detect`.

Reads what MONAI Deploy passes (`-i`, `-o`, `-m`, `-w`, `-l`; else the variables HOLOSCAN_*) and
ends with the exit codes of `spinemets`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from spinemets.bundles import DEFAULT_BUNDLE
from spinemets.cli import main as spinemets

_VERBOSITY = {"DEBUG": ["-vv"], "INFO": ["-v"], "WARN": [], "ERROR": ["-q"], "CRITICAL": ["-q"]}


def command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The arguments of `spinemets` for those of the package.

    Parameters
    ----------
    arguments
        Without the program's name; they win over the variables.
    """
    given = _parser(environment).parse_args(arguments)
    detect = ["detect", str(given.input.resolve()), "--output", str(given.output.resolve())]
    if given.model is not None:
        detect += ["--model", str(_bundle(given.model.resolve()))]
    config = environment.get("HOLOSCAN_CONFIG_PATH")
    if config:
        detect += ["--config", config]
    return detect + _VERBOSITY[given.log_level]


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    def variable(name: str, default: str | None) -> Path | None:
        value = environment.get(name) or default
        return Path(value) if value else None

    parser = argparse.ArgumentParser(
        prog="spinemets-map",
        description="Detect metastases in spine MRI. Research use only, not a medical device.",
    )
    parser.add_argument(
        "-i", "--input", type=Path, default=variable("HOLOSCAN_INPUT_PATH", "input"), help="folder of studies"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=variable("HOLOSCAN_OUTPUT_PATH", "output"), help="results"
    )
    parser.add_argument(
        "-m",
        "--model",
        type=Path,
        default=variable("HOLOSCAN_MODEL_PATH", None),
        help="a model bundle, or the folder that holds the default one",
    )
    parser.add_argument(
        "-w",
        "--workdir",
        type=Path,
        default=variable("HOLOSCAN_WORKDIR", None),
        help="taken for the sake of MONAI Deploy; nothing is written there",
    )
    parser.add_argument("-l", "--log-level", type=str.upper, choices=list(_VERBOSITY), default="WARN")
    return parser


def _bundle(model: Path) -> Path:
    """The bundle that a model folder is, or holds under the default name."""
    return model if (model / "configs").is_dir() else model / DEFAULT_BUNDLE


def main() -> NoReturn:
    """Run, and exit with the code of `spinemets`."""
    spinemets(command_line(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
