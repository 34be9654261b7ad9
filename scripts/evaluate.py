"""Score results of ``spinemets detect`` against a truth, as Markdown on screen and JSON in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from spinemets.anatomy import Structure
from spinemets.atomic import atomic_write_text
from spinemets.command_options import device_option
from spinemets.errors import (
    ConfigError,
    GeometryError,
    OutputError,
    SpinemetsError,
)
from spinemets.evaluation.failures import Failure, made_up, missed, save_failures
from spinemets.evaluation.files import (
    find_studies,
    folder_beginning,
    read_label_map,
    read_spider_prediction,
    read_study_result,
    result_named,
)
from spinemets.evaluation.lesions import UNKNOWN
from spinemets.evaluation.levels import LevelOutcome, identification_rates, studies_all_right
from spinemets.evaluation.overlap import dice, share_near
from spinemets.evaluation.phantoms import KINDS, PhantomVerdict, all_studies, judge, phantom_tables
from spinemets.evaluation.results import ExamScore, StudyResult, score_exam, summarise
from spinemets.evaluation.spider import SpiderScore, score_spider
from spinemets.evaluation.tables import Row, mean_row, to_json, to_markdown

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_BORDER_MM = 2.0  # what differs by less is the same border, drawn otherwise


def _not_markdown(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix == ".md":
        raise click.BadParameter(f"{path.name}: name the JSON file; the Markdown is written beside it")
    return path


OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_not_markdown,
    help="Write the tables as JSON, and as Markdown beside it.",
)


@click.group()
def main() -> None:
    """Score results of `spinemets detect` against a truth."""


@main.command()
@click.argument("results", type=FOLDER)
@click.argument("truths", type=FOLDER)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write report.md, scores.json and the plots into this folder; needs the extra `evaluation`.",
)
@click.option(
    "--scans",
    type=FOLDER,
    help="With --report: the image files that detect was given; adds pictures of the largest lesions that "
    "were missed and of the surest findings that are none.",
)
@OUTPUT
def results(
    results: Path, truths: Path, report: Path | None, scans: Path | None, output: Path | None
) -> None:
    """Score every study of TRUTHS against the study of the same name in RESULTS.

    Run detect with `--identifiers keep`, so that results have the names of their scans. A single
    result is that of a single truth, whatever their names.

    A truth has the form of a result: a folder with any of anatomy.nii.gz, levels.nii.gz and
    lesions.nii.gz, and truth.json with `levels` and `findings` as in report.json; or files side
    by side, as in case_anatomy.nii.gz with case.json. What is absent is not scored. A study's patient
    is the sub-<id> in its name, else what precedes the first underscore.
    """
    if scans is not None and report is None:
        raise click.UsageError("--scans adds pictures to a report; give its folder with --report")
    try:
        found = find_studies(results)
        scores = []
        failures: dict[str, list[Failure]] = {"missed": [], "made_up": []}
        unscored: dict[str, list[str]] = {"anatomy": [], "lesions": []}
        unknown: list[str] = []
        known = find_studies(truths)
        for name, truth in known.items():
            # Where there is but one of each, a folder's name need not be a scan's.
            only = next(iter(found.values())) if len(found) == len(known) == 1 else None
            result = only or result_named(name, found, results)
            true = read_study_result(truth)
            score = score_exam(read_study_result(result), true, patient=_patient(name))
            scores.append(score)
            unknown += [name] * _knows_no_lesion(true)
            for kind in (unscored.keys() & truth.maps.keys()) - result.maps.keys():
                unscored[kind].append(name)
            if score.lesions is not None:
                failures["missed"] += missed(score.lesions, truth)
                failures["made_up"] += made_up(score.lesions, result)
        tables = summarise(scores)
        _tell_unscored(unscored, unknown)
        _show(tables, output)
        if report is not None:
            text = _write_report(scores, tables, report)
            if scans is not None:
                _add_failures(text, failures, scans, report)
    except SpinemetsError as error:
        raise click.ClickException(str(error)) from error


def _write_report(scores: Sequence[ExamScore], tables: Mapping[str, Sequence[Row]], folder: Path) -> str:
    """Write the report; its text."""
    from spinemets.evaluation.plots import save_plots

    try:
        paths = save_plots(scores, folder)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--report: {error}; install the extra with pip install 'spinemets[evaluation]'"
        ) from error
    except OSError as error:
        raise OutputError.at(folder, error) from error
    pictures = "\n".join(f"![{path.stem}]({path.name})" for path in paths)
    text = f"# Evaluation\n\n{pictures}\n\n{_markdown(tables)}"
    atomic_write_text(folder / "report.md", text)
    atomic_write_text(folder / "scores.json", to_json(tables))
    return text


def _add_failures(text: str, failures: Mapping[str, Sequence[Failure]], scans: Path, folder: Path) -> None:
    titles = {"missed": "Largest lesions missed", "made_up": "Surest findings that are no lesion"}
    paths = save_failures(failures, scans, folder)
    pictures = "\n\n".join(f"## {titles[path.stem]}\n\n![{path.stem}]({path.name})" for path in paths)
    if pictures:
        atomic_write_text(folder / "report.md", f"{text}\n{pictures}\n")


def _markdown(tables: Mapping[str, Sequence[Row]]) -> str:
    return "\n".join(f"## {name}\n\n{to_markdown(rows)}\n" for name, rows in tables.items())


def _knows_no_lesion(truth: StudyResult) -> bool:
    """Whether all that a truth shows of lesions is unknown, as a mask of 0 and 255 says."""
    if truth.lesions is None or UNKNOWN in truth.findings:
        return False
    return set(np.unique(truth.lesions).tolist()) - {0} == {UNKNOWN}


def _tell_unscored(unscored: Mapping[str, Sequence[str]], unknown: Sequence[str]) -> None:
    if unknown:
        click.echo(
            f"lesions of {', '.join(unknown)}: all that the truth shows is 255, where nothing is known; "
            "lesions are numbered from 1",
            err=True,
        )
    for kind, studies in unscored.items():
        if studies:
            names = ", ".join(studies)
            click.echo(f"{kind} of {names}: not scored, the result has no {kind}.nii.gz", err=True)


def _patient(study: str) -> str:
    # A result that was corrected and made a truth has a data set's name in front.
    subject = re.search(r"(?:^|_)(sub-[^_]+)", study)
    return subject[1] if subject else study.split("_")[0]


@main.command()
@click.argument("results", type=FOLDER)
@click.argument("spider", type=FOLDER)
@click.argument("subjects", nargs=-1, required=True)
@OUTPUT
def spider(results: Path, spider: Path, subjects: tuple[str, ...], output: Path | None) -> None:
    """Score SUBJECTS (as in 007) of a SPIDER folder against their results.

    SPIDER holds sub-007_dseg.nii.gz and so on; the result of a subject is the folder sub-007 of
    RESULTS, or the one whose name begins so.
    """
    try:
        scores = [_score_spider(results, spider, subject) for subject in subjects]
        rows = [score.row() for score in scores]
        tables: dict[str, Sequence[Row]] = {"subjects": [*rows, mean_row(rows)]}
        outcomes = [outcome for score in scores for outcome in score.levels]
        if outcomes:
            tables["levels"] = _level_rows(outcomes)
        _show(tables, output)
    except SpinemetsError as error:
        raise click.ClickException(str(error)) from error


def _score_spider(results: Path, spider: Path, subject: str) -> SpiderScore:
    name = f"sub-{subject.removeprefix('sub-')}"
    folder = folder_beginning(results, name)
    truth, grid = read_label_map(spider / f"{name}_dseg.nii.gz")
    prediction, found_grid = read_spider_prediction(folder)
    if not found_grid.is_close(grid):
        raise GeometryError(f"{name}: the result does not lie on the grid of the truth")
    return score_spider(name, prediction, truth, grid)


@main.command()
@click.argument("results", type=FOLDER)
@click.argument(
    "masks", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--structure",
    "structures",
    multiple=True,
    required=True,
    type=click.Choice([structure.name.lower() for structure in Structure]),
    help="What the masks show; several are taken together.",
)
@OUTPUT
def structure(
    results: Path, masks: tuple[Path, ...], structures: tuple[str, ...], output: Path | None
) -> None:
    """Score one structure against MASKS of it, each named after its study: case1_cord.nii.gz.

    Every value of a mask above 0 counts. Its folder in RESULTS has the mask's name up to the last
    underscore, or is the one whose name begins so. `found` is the share of the mask's voxels
    that carry the structure; it is the fair figure where a mask shows only a part of it. `within
    2 mm` is the share that has a voxel of the structure so near: what is left is missed, whereas
    borders may be drawn otherwise.
    """
    values = [Structure[name.upper()] for name in structures]
    try:
        rows = [_score_mask(results, mask, values) for mask in masks]
        _show({"+".join(structures): [*rows, mean_row(rows)]}, output)
    except SpinemetsError as error:
        raise click.ClickException(str(error)) from error


def _score_mask(results: Path, mask: Path, values: Sequence[Structure]) -> Row:
    name = mask.name.removesuffix(".nii.gz").rpartition("_")[0]
    if not name:
        raise ConfigError(f"{mask}: does not tell its study; name it as in case1_cord.nii.gz")
    folder = folder_beginning(results, name)
    truth, grid = read_label_map(mask)
    anatomy, found_grid = read_label_map(folder / "anatomy.nii.gz")
    if not found_grid.is_close(grid):
        raise GeometryError(f"{mask}: does not lie on the grid of {folder}")
    inside, found = truth > 0, np.isin(anatomy, values)
    shown = int(inside.sum())
    share = int((inside & found).sum()) / shown if shown else None
    near = share_near(inside, found, grid.spacing_mm, _BORDER_MM)
    return {"study": name, "dice": dice(found, inside), "found": share, f"within {_BORDER_MM:g} mm": near}


@main.command()
@click.option(
    "-n", "--number", default=25, show_default=True, type=click.IntRange(1), help="Studies of each kind."
)
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="One kind only; may be repeated."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--model", metavar="NAME|PATH", help="A model bundle.  [default: the one that is included]")
@click.option("--trust-model", metavar="SHA256", help="Checksum of a bundle that is not registered.")
@device_option(default="auto")
@OUTPUT
def phantoms(
    number: int, kinds: tuple[str, ...], seed: int, output: Path | None, **options: str | None
) -> None:
    """Measure level naming on simulated studies, with the real network.

    The kinds are thoracolumbar with the sacrum in view, neither sacrum nor C2 in view, and the
    whole spine; thoracolumbar and whole also with a T13 or an L6. `right or flagged` counts
    studies with every level right, or with every wrong one marked uncertain and none missed.
    """
    from spinemets.bundles import load_bundle
    from spinemets.config import DetectionConfig, SegmentationConfig
    from spinemets.detection import detect, load_models

    try:
        config = DetectionConfig(segmentation=SegmentationConfig(device=options["device"] or "auto"))
        models = load_models(load_bundle(options["model"], options["trust_model"]), config.segmentation)
        verdicts = []
        for study in all_studies(number, kinds or KINDS, seed):
            report = detect(study.study, models, config)
            verdicts.append(judge(study, report, config.levels.review_confidence))
            click.echo(f"{study.name}: {_verdict(verdicts[-1])}", err=True)
        _show(phantom_tables(verdicts), output)
    except SpinemetsError as error:
        raise click.ClickException(str(error)) from error


def _verdict(verdict: PhantomVerdict) -> str:
    if verdict.right:
        return "right"
    return f"{verdict.wrong} wrong, {verdict.missed} missed" + (", flagged" if verdict.flagged else "")


def _level_rows(outcomes: Sequence[LevelOutcome]) -> list[Row]:
    rates = [studies_all_right(outcomes), *identification_rates(outcomes, lambda one: one.truth.value)]
    return [{"group": row.group, "right": row.right, "of": row.total, "rate": row.rate} for row in rates]


def _show(tables: Mapping[str, Sequence[Row]], output: Path | None) -> None:
    click.echo(_markdown(tables))
    if output is not None:
        atomic_write_text(output, to_json(tables))
        atomic_write_text(output.with_suffix(".md"), _markdown(tables))


if __name__ == "__main__":
    main()
