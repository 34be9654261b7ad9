"""The command line: the one place that prints, and that decides an exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from spinemets import __version__
from spinemets.command_options import device_option, output_folder
from spinemets.deidentify_command import DETECT_OPTIONS, deidentify, keep_quiet
from spinemets.errors import ConfigError, SpinemetsError
from spinemets.exit_codes import DONE, EPILOG, INTERRUPTED, PARTIAL, USAGE, code_of, common_code
from spinemets.interruption import terminated_as_interrupted
from spinemets.serve_command import COMMANDS as SERVE_COMMANDS
from spinemets.simulate_command import COMMANDS as SIMULATE_COMMANDS

if TYPE_CHECKING:
    from spinemets.batch import PlannedStudy
    from spinemets.bundles import Bundle
    from spinemets.config import DetectionConfig
    from spinemets.io import StudyListing

__all__ = ["main"]

_log = logging.getLogger(__name__)

_Command = Callable[..., int]

_BENCHMARK_CASES = ("lumbar", "three sequences", "whole spine", "isotropic")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    try:
        with terminated_as_interrupted():
            code = spinemets.main(arguments, prog_name="spinemets", standalone_mode=False)
    except click.Abort:
        _complain("interrupted")
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except (SpinemetsError, MemoryError) as error:
        _log.debug("stopped by an error", exc_info=True)
        _complain(f"error: {error or 'out of memory'}")
        sys.exit(code_of(error))
    except BrokenPipeError:
        # Whoever read the output has closed it, as `head` does; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    sys.exit(code)


def _complain(message: str) -> None:
    click.echo(f"spinemets: {message}", err=True)


def _set_up_logging(verbose: int, quiet: bool) -> None:
    from spinemets.terminal import log_handler

    handler = log_handler()
    if not verbose:
        # What libraries warn of is for developers.
        handler.addFilter(logging.Filter("spinemets"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.ERROR if quiet else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.getLogger("spinemets").setLevel(level)
    logging.captureWarnings(True)


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Several options under one name, listed in this order."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_common = _options(
    click.argument(
        "inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path(exists=True, path_type=Path)
    ),
    click.option(
        "--identifiers",
        type=click.Choice(["keep", "hash"]),
        help="Write names, UIDs, patient ID and date as they are, or hash or omit them.  [default: hash]",
    ),
    click.option("-v", "--verbose", count=True, help="Say more; -vv also shows tracebacks."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings."),
)

_analysis = _options(
    output_folder("Folder for the results; each study gets a folder of its own in it."),
    device_option(),
    click.option(
        "--deterministic",
        is_flag=True,
        help="The same result bit by bit on every run, at some cost in speed.",
    ),
    click.option("--model", metavar="NAME|PATH", help="A model bundle.  [default: the one that is included]"),
    click.option(
        "--trust-model",
        metavar="SHA256",
        help="Checksum of a bundle that is not registered; a refusal prints it.",
    ),
    click.option(
        "--config",
        "config_path",
        metavar="YAML",
        type=click.Path(path_type=Path),
        help="Settings, as in configs/detect.yaml; options given here win.",
    ),
    click.option(
        "--anchor",
        "anchors",
        multiple=True,
        metavar="LEVEL=PLACE",
        help="A level you are sure of; PLACE is highest or lowest (fully visible vertebra, the sacrum aside) "
        "or a point X,Y,Z in RAS+ mm inside the vertebra. May be repeated.",
    ),
    click.option(
        "--allow-missing", is_flag=True, help="Interpolate missing slices instead of refusing the series."
    ),
    click.option(
        "--formats",
        metavar="NAME,...",
        help="What to write: json, html, nifti, png, pdf, bids, fhir; for DICOM studies also dicom-seg, "
        "dicom-sr, dicom-pdf, dicom-sc and dicom-rtstruct, which carry the patient's name.  "
        "[default: json,html,nifti,png]",
    ),
    click.option(
        "--seg-type",
        type=click.Choice(["binary", "labelmap"]),
        help="Kind of dicom-seg: binary is read everywhere, labelmap is smaller.  [default: binary]",
    ),
    click.option(
        "--save-probabilities", is_flag=True, help="Also write the lesion probability of every voxel."
    ),
)

_deidentification = _options(*DETECT_OPTIONS)

_batch = _options(
    click.option(
        "--workers",
        type=click.IntRange(0, 256),
        metavar="N",
        help="On a CPU, processes that take a study each through everything; on a GPU, processes that "
        "read and write beside the network. 0 does one study after the other.  [default: one for each "
        "processor, or half as many beside a GPU, at most 4; 0 for a few studies]",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Give a study up whose reading, network or writing takes longer.  [default: no limit]",
    ),
    click.option(
        "--max-memory",
        type=click.FloatRange(min=0, min_open=True),
        metavar="GIB",
        help="Begin no study that would take the run beyond this: its processes, at 0.35 GiB each and 1.5 "
        "for a network, and the arrays of the studies under way.",
    ),
    click.option(
        "--progress",
        type=click.Choice(["auto", "rich", "plain", "json"]),
        default="auto",
        help="A live view (rich), a line now and then (plain), or every event as a line of JSON on stdout "
        "instead of the findings.  [default: rich on a terminal, else plain]",
    ),
    click.option(
        "--shard",
        metavar="I/N",
        help="Do only the I-th of N equal parts, told by the names of the studies; see merge.",
    ),
    click.option(
        "--salt",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Salt of the studies' names, for several output folders to share, as those of shards; made "
        "where it is missing.  [default: OUT/private/salt]",
    ),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        help="Processes of this machine, or a Ray cluster (extra ray), with a model on each device of it.  "
        "[default: local]",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="A running cluster, as HOST:PORT, or auto for that of this machine.  "
        "[default: RAY_ADDRESS, or a cluster of this machine alone that ends with the run]",
    ),
    click.option("--retry-failed", is_flag=True, help="Also do again what failed in an earlier run."),
    click.option("--rerun", is_flag=True, help="Do everything again, also what is done and unchanged."),
)


@click.group(
    epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="spinemets", message="%(prog)s %(version)s")
def spinemets() -> None:
    """Detect metastases in spine MRI: vertebral level, region, compartment, size and a report."""


for _command in (*SERVE_COMMANDS, *SIMULATE_COMMANDS):
    spinemets.add_command(_command)
spinemets.add_command(deidentify)


@spinemets.command(epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@_common
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
    _set_up_logging(verbose, quiet)
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
        return _refuse(problems)
    if as_json:
        # Hashes tell the studies of one patient together, and no more than that.
        key = os.urandom(32)
        studies = [describe(listing, identifiers or "hash", key) for listing in listings]
        click.echo(json.dumps({"studies": studies}, indent=2))
    else:
        print_listings(listings)
    _refuse(problems)
    return PARTIAL if problems else DONE


@spinemets.command(epilog=EPILOG)
@click.option("--dry-run", is_flag=True, help="Show what would be done, as plan does; do nothing.")
@_analysis
@_deidentification
@_batch
@_common
def detect(inputs: tuple[Path, ...], out: Path, verbose: int, quiet: bool, **options: Any) -> int:
    """Find and describe the lesions of the studies in INPUT.

    INPUT is a folder with one or several studies (DICOM, BIDS or plain files), a file (DICOM,
    NIfTI, NRRD, MetaImage), a .zip, or a manifest: a .csv or .parquet table with the columns
    study and path. The findings are printed, and each study gets OUT/<name>/ with report.html,
    report.json, overlays and label maps. OUT/index.html, OUT/summary.csv and OUT/findings.csv
    list what OUT holds. The same command again does only what is missing or has changed.
    """
    _set_up_logging(verbose, quiet)
    config, bundle, studies = _prepared(inputs, options)
    from spinemets.batch_command import carry_out, show_plan

    if options["dry_run"]:
        return show_plan(studies, out, bundle, config, options)
    problems = [study.found for study in studies if isinstance(study.found, SpinemetsError)]
    # Their messages name files; of studies that are to be de-identified, records do not.
    speaks = not config.deidentification.enabled
    if len(problems) == len(studies) and options["shard"] is None and speaks:
        hides = config.report.identifiers == "hash"
        return _refuse(_nameless(studies, inputs) if hides else problems)
    return carry_out(studies, out, bundle, config, {**options, "quiet": quiet})


@spinemets.command(epilog=EPILOG)
@click.option(
    "--manifest",
    metavar="CSV",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the studies found into a manifest, for detect and its --shard.",
)
@_analysis
@_deidentification
@_batch
@_common
def plan(
    inputs: tuple[Path, ...], out: Path, manifest: Path | None, verbose: int, quiet: bool, **options: Any
) -> int:
    """Show what detect would do with INPUT and OUT; no study is analysed."""
    _set_up_logging(verbose, quiet)
    config, bundle, studies = _prepared(inputs, options)
    from spinemets.batch_command import show_plan, write_manifest

    if manifest is not None and config.deidentification.enabled:
        raise ConfigError("--manifest names the sources; make it without --deidentify, then detect with it")
    if manifest is not None:
        write_manifest(manifest, studies, out, config.report.identifiers, options["salt"])
    return show_plan(studies, out, bundle, config, options)


@spinemets.command(epilog=EPILOG)
@click.argument(
    "folders", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(exists=True, path_type=Path)
)
@output_folder("Folder for all results; may be one of FOLDER, to make its tables anew.")
def merge(folders: tuple[Path, ...], out: Path) -> int:
    """Join the results of several output folders, such as those of shards, into OUT."""
    _set_up_logging(0, False)
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
    _set_up_logging(verbose, quiet)
    from spinemets.bundles import load_bundle
    from spinemets.config import DetectionConfig, SegmentationConfig

    bundle = load_bundle(options["model"], options["trust_model"])
    config = DetectionConfig(segmentation=SegmentationConfig(device=options["device"]))
    from spinemets.benchmark import BenchmarkPlan
    from spinemets.benchmark_command import carry_out

    cases = options["cases"] or (() if studies else _BENCHMARK_CASES)
    plan = BenchmarkPlan(cases, studies, options["repeats"], not options["no_peers"])
    return carry_out(bundle, config, plan, json_path, quiet)


def _prepared(
    inputs: tuple[Path, ...], options: dict[str, Any]
) -> tuple[DetectionConfig, Bundle, tuple[PlannedStudy, ...]]:
    """The settings, the model's files and the studies that a command line names."""
    config = _effective_config(options)
    if config.deidentification.enabled:
        keep_quiet()
    hides = config.deidentification.enabled or config.report.identifiers == "hash"
    if hides:
        for handler in logging.getLogger().handlers:
            # Libraries quote headers.
            handler.addFilter(logging.Filter("spinemets"))
    from spinemets.batch import Shard, plan_batch
    from spinemets.batch.redaction import redacted_logs
    from spinemets.bundles import load_bundle

    shard = Shard(1, 1) if options["shard"] is None else Shard.parse(options["shard"])
    bundle = load_bundle(options["model"], options["trust_model"])
    with redacted_logs() if hides else nullcontext():
        studies = plan_batch(inputs, config.reading, shard)
    return config, bundle, studies


def _effective_config(options: dict[str, Any]) -> DetectionConfig:
    """The configuration file, or the defaults, with the command line's own settings on top."""
    from spinemets.config import DetectionConfig, load_config, parse_anchor, parse_formats

    path = options["config_path"]
    config = DetectionConfig() if path is None else load_config(path)
    changes: dict[str, dict[str, object]] = {
        "reading": {"allow_missing": options["allow_missing"] or None},
        "segmentation": {
            "device": options["device"],
            "deterministic": options["deterministic"] or None,
        },
        "levels": {"anchors": tuple(map(parse_anchor, options["anchors"])) or None},
        "report": {
            "formats": parse_formats(options["formats"]) if options["formats"] is not None else None,
            "segmentation_type": options["seg_type"],
            "save_probabilities": options["save_probabilities"] or None,
            "identifiers": options["identifiers"],
        },
        "deidentification": {
            "enabled": options.get("deidentify") or None,
            "retain": options.get("deid_retain") or None,
            "key_file": options.get("deid_key"),
        },
    }
    branches = {
        branch: getattr(config, branch).model_copy(
            update={name: value for name, value in values.items() if value is not None}
        )
        for branch, values in changes.items()
    }
    return config.model_copy(update=branches)


def _nameless(studies: Sequence[PlannedStudy], inputs: Sequence[Path]) -> list[SpinemetsError]:
    """Why inputs cannot be used, by their number on the command line or their name in a manifest."""
    from spinemets.batch.redaction import redact_message

    problems = []
    for study in studies:
        if isinstance(study.found, SpinemetsError):
            place = f"input {inputs.index(study.source) + 1}" if study.source in inputs else "an input"
            message = redact_message(str(study.found), replace(study, hidden_source="hidden"))
            problems.append(type(study.found)(f"{study.name or place}: {message}"))
    return problems


def _refuse(problems: Sequence[SpinemetsError]) -> int:
    """Say why no input can be used, without loading a model for it."""
    for problem in problems:
        _complain(f"error: {problem}")
    return common_code(code_of(problem) for problem in problems)
