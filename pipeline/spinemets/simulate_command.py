"""The commands of ``spinemets simulate``: phantoms, and lesions implanted into labelled scans.

This module knows their options; ``training.simulated`` does the work and is imported when one runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spinemets.anatomy import Compartment
from spinemets.command_options import output_folder
from spinemets.errors import OutputError
from spinemets.exit_codes import DONE, EPILOG

if TYPE_CHECKING:
    from spinemets.volume import Weighting

__all__ = ["COMMANDS"]

# By name: the values would import numpy for every --help.
_WEIGHTINGS = {"T1": "T1", "T2": "T2", "STIR": "T2_FS", "T1Gd": "T1_GD", "T1fsGd": "T1_FS_GD"}
_SCAN_WEIGHTINGS = ("T1", "T2", "STIR")
_LABELS = ("anatomy", "spider", "spider-joined", "totalspineseg", "mrspineseg")
_OUT = output_folder("Folder for OUT/studies and OUT/truth.")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(epilog=EPILOG)
def simulate() -> None:
    """Make studies whose truth is known: phantoms, or real scans with lesions implanted.

    Images go to OUT/studies, for `spinemets detect`; label maps and lesions to OUT/truth, which
    scripts/evaluate.py scores results against. Equal seeds give equal files.
    """


@simulate.command(epilog=EPILOG)
@_OUT
@click.option(
    "-n", "--number", default=1, show_default=True, type=click.IntRange(1), help="How many studies."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the first study.")
@click.option(
    "--region",
    default="lumbar",
    show_default=True,
    type=click.Choice(["cervical", "thoracic", "lumbar", "whole"]),
)
@click.option(
    "--weighting",
    "weightings",
    multiple=True,
    default=["T2"],
    show_default=True,
    type=click.Choice(list(_WEIGHTINGS)),
    help="A sequence; may be repeated for a study of several, which show the same spine.",
)
@click.option(
    "--lesions", default=2, show_default=True, type=click.IntRange(0, 50), help="How many are drawn."
)
@click.option(
    "--compartment",
    "compartments",
    multiple=True,
    type=click.Choice([one.value for one in Compartment]),
    help="Where lesions may lie; may be repeated.  [default: all three]",
)
@click.option(
    "--numbering",
    type=click.Choice(["usual", "T13", "L6", "no T12", "no L5"]),
    help="The number of vertebrae.  [default: drawn, mostly usual]",
)
def phantom(out: Path, number: int, seed: int, **options: Any) -> int:
    """Write simulated spines, drawn from published dimensions and scanned by signal equations."""
    from spinemets.simulation.phantom import PhantomOptions
    from spinemets.simulation.studies import StudyOptions
    from spinemets.training.simulated import write_phantoms

    chosen = StudyOptions(
        region=options["region"],
        weightings=_weightings(options["weightings"]),
        lesions=options["lesions"],
        compartments=tuple(map(Compartment, options["compartments"])) or tuple(Compartment),
        phantom=PhantomOptions(numbering=options["numbering"]),
    )
    return _told(write_phantoms(out, range(seed, seed + number), chosen), out)


@simulate.command(epilog=EPILOG)
@click.argument("image", type=_FILE)
@click.argument("labels", type=_FILE)
@_OUT
@click.option(
    "--labels-are",
    "layout",
    default="anatomy",
    show_default=True,
    type=click.Choice(_LABELS),
    help="What LABELS hold: anatomy.nii.gz as detect writes it, SPIDER as published or joined into three "
    "classes, or the values of TotalSpineSeg or MRSpineSeg.",
)
@click.option(
    "-n", "--number", default=1, show_default=True, type=click.IntRange(1), help="How many studies."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the first study.")
@click.option(
    "--weighting",
    "weightings",
    multiple=True,
    type=click.Choice(_SCAN_WEIGHTINGS),
    help="May be repeated; T1 and STIR can be simulated from the labels.  [default: the scan's own]",
)
@click.option(
    "--scan-weighting",
    type=click.Choice(_SCAN_WEIGHTINGS),
    help="The scan's own, where its name does not tell it.",
)
def implant(image: Path, labels: Path, out: Path, number: int, seed: int, **options: Any) -> int:
    """Implant lesions into IMAGE, whose anatomy LABELS show.

    The result has the place of IMAGE, 1 mm in plane, and its slices; those closer than 1.5 mm are
    joined to about 2 mm, but for the labels spider-joined.
    """
    from spinemets.io.file_names import parse_file_name
    from spinemets.io.weighting import weighting_from_name
    from spinemets.training.simulated import read_labelled, write_implants

    stated = options["scan_weighting"]
    weighting = _weighting(stated) if stated else weighting_from_name(image.name)
    scan = read_labelled(image, labels, options["layout"], weighting)
    name = parse_file_name(image)
    # Of BIDS the parts behind the subject stay apart; what precedes the first underscore is the patient.
    parts = [part.replace(" ", "-") for part in name.study[1:] if part] or [name.title.replace(" ", "-")]
    # Not "sub-": files of one BIDS subject would be read as one study.
    stem = "_".join(parts).removeprefix("sub-")
    wanted = _weightings(options["weightings"])
    return _told(write_implants(scan, out, stem, wanted, range(seed, seed + number)), out)


def _told(written: Iterator[tuple[str, int]], out: Path) -> int:
    """Say of every study, as it is written, how many lesions it has."""
    while True:
        try:
            study = next(written, None)
        except OSError as error:
            raise OutputError.at(out, error) from error
        if study is None:
            return DONE
        click.echo("{}: {} lesions".format(*study))


def _weighting(word: str) -> Weighting:
    from spinemets.volume import Weighting

    return Weighting[_WEIGHTINGS[word]]


def _weightings(words: tuple[str, ...]) -> tuple[Weighting, ...]:
    return tuple(dict.fromkeys(_weighting(word) for word in words))


COMMANDS: tuple[click.Command, ...] = (simulate,)
