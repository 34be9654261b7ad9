"""``spinemets deidentify``, and the options of ``detect`` that concern de-identification."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spinemets.command_options import output_folder
from spinemets.errors import NoUsableInputError, OutputError, SpinemetsError
from spinemets.exit_codes import DONE, EPILOG, PARTIAL, code_of, common_code
from spinemets.stderr import complain

if TYPE_CHECKING:
    from spinemets.batch import PlannedStudy
    from spinemets.io import StudyListing
    from spinemets.io.deidentification import Deidentifier

__all__ = ["DETECT_OPTIONS", "deidentify", "keep_quiet"]

_RETAIN = click.Choice(["dates", "device"])
_KEY_HELP = (
    "File of the secret key from which pseudonyms follow; made where it is missing.  "
    "[default: $SPINEMETS_DEID_KEY, else ~/.config/spinemets/deidentification.key]"
)
_RETAIN_HELP = "Keep dates, shifted by the same for all studies of a patient, or the device's identity."
_LINKAGE_HELP = "Write which name stands for which study; keep this file to yourself."
_FILE = click.Path(dir_okay=False, path_type=Path)

DETECT_OPTIONS = (
    click.option(
        "--deidentify",
        is_flag=True,
        help="De-identify each study first (PS3.15 Annex E), so that nothing written names anybody.",
    ),
    click.option("--deid-retain", multiple=True, type=_RETAIN, help=_RETAIN_HELP),
    click.option("--deid-key", metavar="FILE", type=_FILE, help=_KEY_HELP),
    click.option("--deid-linkage", metavar="CSV", type=_FILE, help=_LINKAGE_HELP),
)
"""Of ``detect`` and ``plan``."""


def keep_quiet() -> None:
    """Let the reading of headers say nothing: what it remarks on names files."""
    logging.getLogger("spinemets.io").setLevel(logging.CRITICAL)


@click.command(epilog=EPILOG)
@click.argument(
    "inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path(exists=True, path_type=Path)
)
@output_folder("Folder for the copies; each study gets a folder of its own in it.")
@click.option("--retain", multiple=True, type=_RETAIN, help=_RETAIN_HELP)
@click.option("--key", "key_file", metavar="FILE", type=_FILE, help=_KEY_HELP)
@click.option("--linkage", metavar="CSV", type=_FILE, help=_LINKAGE_HELP)
def deidentify(
    inputs: tuple[Path, ...], out: Path, retain: tuple[Any, ...], key_file: Path | None, linkage: Path | None
) -> int:
    """Copy the MR images in INPUT without what identifies (PS3.15 Annex E).

    With the same key, the objects that detect --deidentify writes refer to these copies, so a
    viewer loads both together. Series whose pixels may show text are left out; where detect could
    have used one, the exit code is 7.
    """
    keep_quiet()
    from spinemets.batch import plan_batch
    from spinemets.batch.deidentified import deidentifier_of, pseudonymous, write_linkage
    from spinemets.config import DeidentificationConfig

    config = DeidentificationConfig(enabled=True, retain=retain, key_file=key_file)
    deidentifier = deidentifier_of(config, out)
    planned = plan_batch(inputs)
    studies = pseudonymous(planned, deidentifier)
    if linkage is not None:
        write_linkage(linkage, planned, studies, out)
    problems: list[SpinemetsError] = []
    is_whole = True
    for study in studies:
        try:
            line, lost = _copy(study, out, deidentifier)
            click.echo(line)
            is_whole = is_whole and not lost
        except SpinemetsError as error:
            complain(f"{study.key}: {error}")
            problems.append(error)
    if len(problems) == len(studies):
        return common_code(code_of(problem) for problem in problems)
    return DONE if is_whole and not problems else PARTIAL


def _copy(study: PlannedStudy, out: Path, deidentifier: Deidentifier) -> tuple[str, int]:
    """Copy one study; what to say of it, and how many of its usable series were left out."""
    from spinemets.atomic import atomic_folder, remove_leftovers
    from spinemets.batch.deidentified import general_reasons
    from spinemets.io.deidentification import deidentified_copy

    if isinstance(study.found, SpinemetsError):
        raise study.found
    folder = out / study.key
    if folder.exists() and not folder.is_dir():
        raise OutputError("something else than a folder has its name; choose another output folder")
    if folder.exists() and any(not path.name.startswith("series-") for path in folder.iterdir()):
        raise OutputError("its folder exists and holds more than a copy; choose another output folder")
    # Other runs may be copying other studies to the same place.
    remove_leftovers(out, study.key)
    with atomic_folder(folder) as temporary:
        with general_reasons():
            copy = deidentified_copy(study.found, temporary, deidentifier, everything=True)
        if not any(entry.series.files for entry in copy.series):
            raise NoUsableInputError(f"nothing is copied ({_left_out(copy)})")
    count = sum(bool(entry.series.files) for entry in copy.series)
    left_out = _left_out(copy)
    line = f"{study.key}: {count} of {len(copy.series)} series"
    lost = sum(
        before.is_sound and not after.series.files
        for before, after in zip(study.found.series, copy.series, strict=True)
    )
    return (f"{line}; left out: {left_out}" if left_out else line), lost


def _left_out(copy: StudyListing) -> str:
    reasons = Counter(entry.reason for entry in copy.series if not entry.series.files)
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
