"""The stream of training samples: sample *i* is the same however often training is interrupted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spinemets.errors import ConfigError
from spinemets.training.datasets import LAYOUTS, Case
from spinemets.training.datasets.cases import Subset
from spinemets.training.outlines import read_outlines, with_outlines
from spinemets.training.packing import pack
from spinemets.training.phantoms import draw_diseased_phantom, draw_phantom_scan
from spinemets.training.recipe import DatasetSettings, Recipe, SourceSettings
from spinemets.training.samples import SampleOptions, draw_sample
from spinemets.training.scans import LabelledScan, read_sct, read_spider
from spinemets.training.splits import read_split

__all__ = ["SampleStream", "read_sources", "read_validation"]

_log = logging.getLogger(__name__)

Pools = dict[str, Sequence[LabelledScan]]


class SampleStream(Dataset[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]):
    """Samples numbered from ``start`` to ``stop``; each draws its own generator from its number.

    Parameters
    ----------
    group
        (rank, size) of this process among those that train together: of every step's samples
        each takes a batch of its own.
    """

    def __init__(
        self, pools: Pools, recipe: Recipe, start: int, stop: int, group: tuple[int, int] = (0, 1)
    ) -> None:
        self._sources = [name for name in sorted(pools) if pools[name]]
        shares: dict[str, float] = {str(name): share for name, share in recipe.sources.shares.items()}
        shares |= {_pool_name(place, one): one.share for place, one in enumerate(recipe.sources.datasets)}
        weights = np.array([shares.get(name, 0.0) for name in self._sources])
        if not weights.sum() > 0:
            raise ConfigError("the recipe's shares name no source that has scans")
        self._weights = weights / weights.sum()
        self._pools, self._recipe, self._start, self._stop = pools, recipe, start, stop
        self._rank, self._size = group

    def __len__(self) -> int:
        """Samples that are left."""
        return self._stop - self._start

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """image, condition, allowed, lesion, spacing of one sample."""
        if torch.utils.data.get_worker_info() is not None:
            torch.set_num_threads(1)
        step, place = divmod(self._start + index, self._recipe.batch_size)
        number = (step * self._size + self._rank) * self._recipe.batch_size + place
        rng = np.random.default_rng([self._recipe.seed, number])
        source = self._sources[int(rng.choice(len(self._sources), p=self._weights))]
        pool = self._pools[source]
        options = SampleOptions(
            shape=self._recipe.patch,
            lesion_chance=self._recipe.lesion_chance,
            mimic_chance=self._recipe.mimic_chance,
            slice_spacing_mm=self._recipe.slice_spacing_mm,
            real_contrast_chance=self._recipe.real_contrast_chance,
        )
        sample = draw_sample(pool[int(rng.integers(len(pool)))], options, rng)
        return sample.image, sample.condition, sample.allowed, sample.lesion, torch.tensor(sample.spacing_mm)


def read_sources(recipe: Recipe, folder: Path, cache: Path) -> Pools:
    """Every training scan of a recipe, by source.

    Phantoms are drawn once and kept in ``cache``, data sets prepared once and kept beside it.
    """
    sources = recipe.sources
    # Before phantoms are drawn, which takes minutes, a data set that is not there is refused.
    cases = [_cases(dataset, folder, "train") for dataset in sources.datasets]
    pools: Pools = {"spider": _spider(sources, folder, sources.spider_subjects), "sct": [], "phantom": []}
    if sources.sct is not None:
        pools["sct"] = _sct(sources, folder / sources.sct)
    if sources.phantoms:
        pools["phantom"] = _phantoms(draw_phantom_scan, recipe.seed, sources.phantoms, cache)
    if sources.diseased_phantoms:
        pools["diseased_phantom"] = _phantoms(
            draw_diseased_phantom, recipe.seed, sources.diseased_phantoms, cache
        )
    for place, dataset in enumerate(sources.datasets):
        scans = pack(LAYOUTS[dataset.kind], cases[place], cache.parent / "scans" / dataset.kind)
        pools[_pool_name(place, dataset)] = scans
    _log.info("training scans: %s", ", ".join(f"{len(scans)} {name}" for name, scans in pools.items()))
    return pools


def read_validation(recipe: Recipe, folder: Path) -> list[LabelledScan]:
    """The real scans that choose between checkpoints; no test subject is among them."""
    scans = _spider(recipe.sources, folder, recipe.sources.spider_validation)
    for dataset in recipe.sources.datasets:
        cases = _cases(dataset, folder, "validation")[: dataset.validation_scans]
        scans += [LAYOUTS[dataset.kind].read(case) for case in cases]
    return scans


def _pool_name(place: int, dataset: DatasetSettings) -> str:
    return f"datasets[{place}] {dataset.kind}"


def _cases(dataset: DatasetSettings, folder: Path, part: Subset) -> list[Case]:
    """The cases of one part, by the split or by the data set's own subsets.

    Raises
    ------
    ConfigError
        Nothing is to be trained on.
    """
    cases = LAYOUTS[dataset.kind].find(folder / dataset.folder)
    if dataset.split is None:
        chosen = [case for case in cases if _own_part(case) == part]
        parts = {(case.patient, _own_part(case)) for case in cases}
        torn = sum(count > 1 for count in Counter(patient for patient, _ in parts).values())
        if torn and part == "train":
            _log.warning(
                "%s: %d patients have images in more than one of the data set's own parts, so that some are "
                "trained and measured on; make a split with scripts/make_splits.py (in a datalist, `patient` "
                "names them)",
                dataset.kind,
                torn,
            )
    else:
        split = read_split(dataset.split)
        wanted = split.part(part)
        chosen = [case for case in cases if case.patient in wanted]
        strange = {case.patient for case in cases} - split.train - split.validation - split.test
        if strange and part == "train":
            _log.warning(
                "%s: %d patients are in no part of the split and left out", dataset.kind, len(strange)
            )
    if part == "train" and not chosen:
        where = "the data set" if dataset.split is None else str(dataset.split)
        raise ConfigError(
            f"{folder / dataset.folder}: none of its {len(cases)} cases is to be trained on by {where}; "
            "make a split with scripts/make_splits.py"
        )
    return chosen


def _own_part(case: Case) -> Subset:
    return case.subset or "train"


def _spider(sources: SourceSettings, folder: Path, subjects: Sequence[str]) -> list[LabelledScan]:
    if sources.spider is None:
        return []
    root = folder / sources.spider
    return [
        read_spider(root / f"sub-{s}_T2w.nii.gz", root / f"sub-{s}_dseg.nii.gz", f"spider/{s}")
        for s in subjects
    ]


def _sct(sources: SourceSettings, root: Path) -> list[LabelledScan]:
    scans = [
        read_sct(root / f"{subject}_T2w.nii.gz", root / f"{subject}_cord.nii.gz", f"sct/{subject}")
        for subject in sources.sct_subjects
    ]
    if sources.sct_outlines is None:
        return scans
    outlines = read_outlines(sources.sct_outlines)
    missing = sorted(set(sources.sct_subjects) - set(outlines))
    if missing:
        raise ConfigError(f"{sources.sct_outlines}: no outlines of {', '.join(missing)}")
    return [
        with_outlines(scan, outlines[subject])
        for scan, subject in zip(scans, sources.sct_subjects, strict=True)
    ]


def _phantoms(
    draw: Callable[[int, int, Path], LabelledScan], seed: int, count: int, cache: Path
) -> list[LabelledScan]:
    cache.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(max_workers=2) as pool:
        return list(pool.map(draw, [seed] * count, range(count), [cache] * count))
