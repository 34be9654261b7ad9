"""Figures of an evaluation as PNG files; needs matplotlib (extra ``evaluation``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion
from spinemets.evaluation.lesions import ExamOutcome
from spinemets.evaluation.results import ExamScore
from spinemets.evaluation.statistics import FrocCurve, confusion_matrix, froc, reliability
from spinemets.evaluation.summary import confidence_calls, diameter_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["save_plots"]

_BLUE, _ORANGE, _GREY = "#2166ac", "#d6604d", "#999999"
_DRAWS = 200
_LOWEST_RATE, _HIGHEST_RATE = 0.02, 8.0


def save_plots(scores: Sequence[ExamScore], folder: Path) -> list[Path]:
    """Draw whatever was scored: FROC, sensitivity by size, confusions, calibration, Dice.

    Returns
    -------
    list of Path
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exams = [score.lesions for score in scores if score.lesions is not None]
    figures: dict[str, Figure] = {}
    if any(exam.lesions for exam in exams):
        figures["froc"] = _froc_figure(exams)
        figures["sensitivity_by_diameter"] = _diameter_figure(exams)
    for name, words, pairs in (
        ("compartments", [c.value for c in Compartment], [p for s in scores for p in s.compartment_calls]),
        ("regions", [r.value for r in SpineRegion], [p for s in scores for p in s.region_calls]),
    ):
        if pairs:
            figures[f"confusion_{name}"] = _confusion_figure(name, words, pairs)
    if any(confidence_calls(scores).values()):
        figures["calibration"] = _calibration_figure(scores)
    if any(value is not None for score in scores for value in score.dice.values()):
        figures["dice"] = _dice_figure(scores)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of its own, apart from pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _froc_figure(exams: Sequence[ExamOutcome]) -> Figure:
    figure, (axes,) = _figure(5.2, 4.0)
    patients = sorted({exam.patient for exam in exams})
    # As in the tables, one patient alone has no interval.
    if len({exam.patient for exam in exams if exam.lesions}) > 1:
        drawn = _drawn_again(exams, patients)
        rates = _rates_of_steps(drawn)
        low, high = np.quantile([_sensitivities(curve, rates) for curve in drawn], (0.025, 0.975), axis=0)
        axes.fill_between(
            rates, low, high, step="post", color=_BLUE, alpha=0.2, linewidth=0, label="95 % interval"
        )
    curve = froc(exams)
    rates = _rates_of_steps([curve])
    axes.plot(rates, _sensitivities(curve, rates), color=_BLUE, drawstyle="steps-post", label="sensitivity")
    axes.set(xscale="log", xlim=(_LOWEST_RATE, _HIGHEST_RATE), ylim=(0, 1.02))
    axes.set(xlabel="false positives per exam", ylabel="sensitivity")
    axes.set_xticks([0.03, 0.125, 0.5, 2, 8], ["0.03", "0.125", "0.5", "2", "8"])
    count = sum(len(exam.lesions) for exam in exams)
    axes.set_title(f"FROC: {count} lesions, {len(exams)} exams, {len(patients)} patients", fontsize=10)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _drawn_again(exams: Sequence[ExamOutcome], patients: Sequence[str]) -> list[FrocCurve]:
    """The curve of every draw of the patients with replacement that has a lesion."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(_DRAWS):
        chosen = [patients[i] for i in random.integers(len(patients), size=len(patients))]
        sample = [exam for patient in chosen for exam in exams if exam.patient == patient]
        if any(exam.lesions for exam in sample):
            drawn.append(froc(sample))
    return drawn


def _rates_of_steps(curves: Sequence[FrocCurve]) -> npt.NDArray[np.float64]:
    """Every rate in view at which one of the curves rises, between both ends of the view."""
    rates = np.unique(np.concatenate([curve.false_positives_per_exam for curve in curves]))
    within = rates[(rates > _LOWEST_RATE) & (rates < _HIGHEST_RATE)]
    return np.concatenate(([_LOWEST_RATE], within, [_HIGHEST_RATE]))


def _sensitivities(curve: FrocCurve, rates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The best sensitivity at every rate."""
    # Of a lower threshold neither figure is lower.
    affordable = np.searchsorted(curve.false_positives_per_exam, rates, side="right")
    return np.concatenate(([0.0], curve.sensitivities))[affordable]


def _diameter_figure(exams: Sequence[ExamOutcome]) -> Figure:
    figure, (axes,) = _figure(5.2, 3.6)
    rows = [row for row in diameter_rows(exams) if row["of"]]
    places = np.arange(len(rows))
    values = np.array([float(row["found"] or 0) for row in rows])
    axes.bar(places, values, color=_BLUE, width=0.6)
    for place, row in enumerate(rows):
        low, high = row["low"], row["high"]
        if isinstance(low, float) and isinstance(high, float):
            middle, half = (low + high) / 2, (high - low) / 2
            axes.errorbar(place, middle, yerr=half, fmt="none", ecolor="black", capsize=4)
    axes.set_xticks(places, [f"{row['diameter']}\n{row['of']} lesions" for row in rows])
    axes.set(ylim=(0, 1.05), ylabel="sensitivity", title="by diameter of the sphere of equal volume")
    return figure


def _confusion_figure(name: str, words: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Figure:
    classes = [*words, "none"]
    counts = confusion_matrix([p[0] for p in pairs], [p[1] for p in pairs], classes)[: len(words)]
    if not counts[:, -1].any():
        counts, classes = counts[:, :-1], list(words)
    figure, (axes,) = _figure(1.2 + 1.25 * len(classes), 1.2 + 0.8 * len(words))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    short = [word.replace("intradural-extramedullary", "intradural-\nextramedullary") for word in classes]
    axes.set_xticks(range(len(classes)), short, fontsize=8)
    axes.set_yticks(range(len(words)), short[: len(words)], fontsize=8)
    axes.set(xlabel="called", ylabel="is", title=f"{name} of lesions found")
    return figure


def _calibration_figure(scores: Sequence[ExamScore]) -> Figure:
    groups = {name: calls for name, calls in confidence_calls(scores).items() if calls}
    figure, axes = _figure(3.4 * len(groups), 3.6, len(groups))
    for place, (name, calls) in zip(axes, groups.items(), strict=True):
        means, shares, counts = reliability([c[0] for c in calls], [c[1] for c in calls])
        place.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
        place.scatter(means, shares, s=12 + 120 * counts / counts.max(), color=_ORANGE, alpha=0.8)
        place.plot(means, shares, color=_ORANGE, linewidth=1)
        place.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="confidence", title=f"{name} ({len(calls)})")
    axes[0].set_ylabel("share that is right")
    return figure


def _dice_figure(scores: Sequence[ExamScore]) -> Figure:
    names = list(dict.fromkeys(name for score in scores for name in score.dice))
    values = [[v for s in scores if (v := s.dice.get(name)) is not None] for name in names]
    kept = [(name, found) for name, found in zip(names, values, strict=True) if found]
    figure, (axes,) = _figure(1.5 + 1.1 * len(kept), 3.6)
    random = np.random.default_rng(0)
    for place, (_, found) in enumerate(kept):
        axes.scatter(place + random.uniform(-0.12, 0.12, len(found)), found, s=14, color=_BLUE, alpha=0.6)
        axes.plot((place - 0.25, place + 0.25), [float(np.mean(found))] * 2, color="black")
    axes.set_xticks(range(len(kept)), [name.replace("_", "\n") for name, _ in kept], fontsize=8)
    axes.set(ylim=(0, 1.02), ylabel="Dice", title="every exam, and the mean")
    return figure
