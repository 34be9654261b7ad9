"""``spinemets detect`` and ``plan``: their options, and what these settle before a batch begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spinemets.command_options import device_option, output_folder, study_options, together
from spinemets.deidentify_command import DETECT_OPTIONS, keep_quiet
from spinemets.errors import ConfigError, SpinemetsError
from spinemets.exit_codes import EPILOG
from spinemets.stderr import refuse, set_up_logging

if TYPE_CHECKING:
    from spinemets.batch import PlannedStudy
    from spinemets.bundles import Bundle
    from spinemets.config import DetectionConfig

__all__ = ["COMMANDS"]

_analysis = together(
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

_deidentification = together(*DETECT_OPTIONS)

_batch = together(
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


@click.command(epilog=EPILOG)
@click.option("--dry-run", is_flag=True, help="Show what would be done, as plan does; do nothing.")
@_analysis
@_deidentification
@_batch
@study_options
def detect(inputs: tuple[Path, ...], out: Path, verbose: int, quiet: bool, **options: Any) -> int:
    """Find and describe the lesions of the studies in INPUT.

    INPUT is a folder with one or several studies (DICOM, BIDS or plain files), a file (DICOM,
    NIfTI, NRRD, MetaImage), a .zip, or a manifest: a .csv or .parquet table with the columns
    study and path. The findings are printed, and each study gets OUT/<name>/ with report.html,
    report.json, overlays and label maps. OUT/index.html, OUT/summary.csv and OUT/findings.csv
    list what OUT holds. The same command again does only what is missing or has changed.
    """
    set_up_logging(verbose, quiet)
    config, bundle, studies = _prepared(inputs, options)
    from spinemets.batch_command import carry_out, show_plan

    if options["dry_run"]:
        return show_plan(studies, out, bundle, config, options)
    problems = [study.found for study in studies if isinstance(study.found, SpinemetsError)]
    # Their messages name files; of studies that are to be de-identified, records do not.
    speaks = not config.deidentification.enabled
    if len(problems) == len(studies) and options["shard"] is None and speaks:
        hides = config.report.identifiers == "hash"
        return refuse(_nameless(studies, inputs) if hides else problems)
    return carry_out(studies, out, bundle, config, {**options, "quiet": quiet})


@click.command(epilog=EPILOG)
@click.option(
    "--manifest",
    metavar="CSV",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the studies found into a manifest, for detect and its --shard.",
)
@_analysis
@_deidentification
@_batch
@study_options
def plan(
    inputs: tuple[Path, ...], out: Path, manifest: Path | None, verbose: int, quiet: bool, **options: Any
) -> int:
    """Show what detect would do with INPUT and OUT; no study is analysed."""
    set_up_logging(verbose, quiet)
    config, bundle, studies = _prepared(inputs, options)
    from spinemets.batch_command import show_plan, write_manifest

    if manifest is not None and config.deidentification.enabled:
        raise ConfigError("--manifest names the sources; make it without --deidentify, then detect with it")
    if manifest is not None:
        write_manifest(manifest, studies, out, config.report.identifiers, options["salt"])
    return show_plan(studies, out, bundle, config, options)


COMMANDS = (detect, plan)
"""What this module adds to the command line."""


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
