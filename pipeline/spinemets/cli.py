"""The command line: its commands under one name, and the one place that exits."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from spinemets import __version__
from spinemets.command_options import device_option, output_folder, study_options
from spinemets.deidentify_command import deidentify
from spinemets.detect_command import COMMANDS as DETECT_COMMANDS
from spinemets.errors import OutputError, SpinemetsError, is_disk_full
from spinemets.exit_codes import DONE, EPILOG, INTERRUPTED, PARTIAL, USAGE, code_of
from spinemets.interruption import terminated_as_interrupted
from spinemets.serve_command import COMMANDS as SERVE_COMMANDS
from spinemets.simulate_command import COMMANDS as SIMULATE_COMMANDS
from spinemets.stderr import complain, refuse, set_up_logging

if TYPE_CHECKING:
    from spinemets.io import StudyListing

__all__ = ["main"]

_log = logging.getLogger(__name__)

_BENCHMARK_CASES = ("lumbar", "three sequences", "whole spine", "isotropic")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    try:
        with terminated_as_interrupted():
            code = spinemets.main(arguments, prog_name="spinemets", standalone_mode=False)
    except click.Abort:
        complain("interrupted")
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except (SpinemetsError, MemoryError) as error:
        _log.debug("stopped by an error", exc_info=True)
        complain(f"error: {error or 'out of memory'}")
        sys.exit(code_of(error))
    except BrokenPipeError:
        # Whoever read the output has closed it, as `head` does.
        _print_nothing_more()
        sys.exit(DONE)
    except OSError as error:
        if not is_disk_full(error):
            raise
        # Of files an OutputError would tell: this is what was to be printed.
        _print_nothing_more()
        complain(f"error: what is printed cannot be written ({error.strerror}); check space")
        sys.exit(code_of(OutputError()))
    sys.exit(code)


def _print_nothing_more() -> None:
    """Let what is still to be printed go nowhere; Python would complain of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="spinemets", message="%(prog)s %(version)s")
def spinemets() -> None:
    """Detect metastases in spine MRI: vertebral level, region, compartment, size and a report."""


for _command in (*DETECT_COMMANDS, *SERVE_COMMANDS, *SIMULATE_COMMANDS):
    spinemets.add_command(_command)
spinemets.add_command(deidentify)


@spinemets.command(epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@study_options
def inspect(
    inputs: tuple[Path, ...],
    as_json: bool,
    identifiers: Literal["keep", "hash"] | None,
    verbose: int,
    quiet: bool,
) -> int:
    """List the studies and series of INPUT, and which of them are used.

    INPUT is a folder, a file (DICOM, NIfTI, NRRD, MetaImage) or a .zip.
    """
    set_up_logging(verbose, quiet)
    from spinemets.io import describe, discover
    from spinemets.terminal import print_listings

    listings: list[StudyListing] = []
    problems: list[SpinemetsError] = []
    for path in inputs:
        try:
            listings += discover(path)
        except SpinemetsError as error:
            problems.append(error)
    if not listings:
        return refuse(problems)
    if as_json:
        # Hashes tell the studies of one patient together, and no more than that.
        key = os.urandom(32)
        studies = [describe(listing, identifiers or "hash", key) for listing in listings]
        click.echo(json.dumps({"studies": studies}, indent=2))
    else:
        print_listings(listings)
    refuse(problems)
    return PARTIAL if problems else DONE


@spinemets.command(epilog=EPILOG)
@click.argument(
    "folders", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(exists=True, path_type=Path)
)
@output_folder("Folder for all results; may be one of FOLDER, to make its tables anew.")
def merge(folders: tuple[Path, ...], out: Path) -> int:
    """Join the results of several output folders, such as those of shards, into OUT."""
    set_up_logging(0, False)
    from spinemets.batch import merge_batches

    count = merge_batches(folders, out)
    click.echo(f"{count} studies in {out}")
    return DONE


@spinemets.command(epilog=EPILOG)
@click.argument("studies", nargs=-1, metavar="[STUDY]...", type=click.Path(exists=True, path_type=Path))
@device_option(default="auto")
@click.option("--model", metavar="NAME|PATH", help="A model bundle.  [default: the one that is included]")
@click.option("--trust-model", metavar="SHA256", help="Checksum of a bundle that is not registered.")
@click.option(
    "--case",
    "cases",
    multiple=True,
    type=click.Choice(_BENCHMARK_CASES),
    help="A synthetic study; may be repeated.  [default: all, or none where a STUDY is given]",
)
@click.option(
    "--repeats", default=3, show_default=True, type=click.IntRange(1), help="Runs; the median counts."
)
@click.option("--no-peers", is_flag=True, help="Leave MONAI's sliding windows out, which take longest.")
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write everything measured.",
)
@click.option("-v", "--verbose", count=True, help="Say more; -vv also shows tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="The table only.")
def benchmark(
    studies: tuple[Path, ...], json_path: Path | None, verbose: int, quiet: bool, **options: Any
) -> int:
    """Measure how fast a detection is on this machine, stage by stage.

    STUDY is a folder or file of one study, measured beside synthetic ones of usual sizes. The
    network is compared with MONAI's SlidingWindowInferer on the same weights.
    """
    set_up_logging(verbose, quiet)
    from spinemets.bundles import load_bundle
    from spinemets.config import DetectionConfig, SegmentationConfig

    bundle = load_bundle(options["model"], options["trust_model"])
    config = DetectionConfig(segmentation=SegmentationConfig(device=options["device"]))
    from spinemets.benchmark import BenchmarkPlan
    from spinemets.benchmark_command import carry_out

    cases = options["cases"] or (() if studies else _BENCHMARK_CASES)
    plan = BenchmarkPlan(cases, studies, options["repeats"], not options["no_peers"])
    return carry_out(bundle, config, plan, json_path, quiet)
