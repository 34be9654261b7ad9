"""A training, said in full by one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from spinemets.config import read_settings
from spinemets.errors import ConfigError
from spinemets.network import NetworkDefinition

__all__ = ["DatasetSettings", "NetworkSettings", "Recipe", "SourceSettings", "load_recipe"]


_Share = Annotated[float, Field(ge=0)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DatasetSettings(_Settings):
    """A data set in the layout that it is published in (``spinemets.training.datasets``)."""

    kind: Literal[
        "spider", "spine_generic", "whole_spine", "verse", "mrspineseg", "datalist", "own_masks"
    ] = Field(description="the layout")
    folder: Path = Field(description="relative to --data; the JSON file of a datalist")
    split: Path | None = Field(
        default=None,
        description="file of scripts/make_splits.py, relative to the recipe; else the data set's own subsets",
    )
    share: float = Field(default=1.0, gt=0, description="how often a sample comes from it, as in shares")
    validation_scans: int = Field(default=4, ge=0, description="at most so many of its validation part")


class SourceSettings(_Settings):
    """Where training scans come from; folders are relative to ``--data``."""

    spider: Path | None = Field(
        default=None, description="folder of sub-<id>_T2w.nii.gz and sub-<id>_dseg.nii.gz"
    )
    spider_subjects: tuple[str, ...] = ()
    spider_validation: tuple[str, ...] = ()
    sct: Path | None = Field(default=None, description="folder of <id>_T2w.nii.gz and <id>_cord.nii.gz")
    sct_subjects: tuple[str, ...] = ()
    sct_outlines: Path | None = Field(
        default=None, description="JSON file of vertebrae outlined in the sct scans; relative to the recipe"
    )
    phantoms: int = Field(default=0, ge=0, description="simulated spines, drawn before training starts")
    diseased_phantoms: int = Field(default=0, ge=0, description="the same with lesions that are tissue")
    shares: dict[Literal["spider", "sct", "phantom", "diseased_phantom"], _Share] = Field(
        default={"spider": 1.0}, description="how often a sample comes from each source"
    )
    datasets: tuple[DatasetSettings, ...] = Field(default=(), description="beside the sources above")


class NetworkSettings(_Settings):
    """The network's size."""

    filters: tuple[PositiveInt, ...] = Field(default=(24, 48, 96, 128, 160), min_length=3)


class Recipe(_Settings):
    """Everything that decides a training's outcome."""

    task: Literal["anatomy", "lesion"]
    seed: int = Field(default=0, ge=0)
    steps: int = Field(gt=0)
    batch_size: int = Field(default=2, gt=0)
    learning_rate: float = Field(default=1.5e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    gradient_clip: float = Field(default=5.0, gt=0)
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] = (6, 160, 224)
    lesion_chance: float = Field(default=0.6, ge=0, le=1)
    mimic_chance: float = Field(default=0.7, ge=0, le=1)
    slice_spacing_mm: tuple[float, float] = Field(
        default=(2.6, 5.0), description="samples have slices this far apart, or as far as their scan's"
    )
    real_contrast_chance: float = Field(
        default=0.45, ge=0, le=1, description="share of samples in the contrast that was scanned"
    )
    save_every: int = Field(default=100, gt=0)
    validate_every: int = Field(default=500, gt=0)
    workers: int = Field(default=1, ge=0)
    network: NetworkSettings = NetworkSettings()
    sources: SourceSettings

    @field_validator("slice_spacing_mm")
    @classmethod
    def _is_range(cls, limits_mm: tuple[float, float]) -> tuple[float, float]:
        if not 0 < limits_mm[0] <= limits_mm[1]:
            raise ValueError(f"{limits_mm[0]} to {limits_mm[1]} is no range above 0")
        return limits_mm


def load_recipe(path: Path) -> Recipe:
    """Read a training recipe.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds an unknown key or a bad value, or its patch does not fit its
        network.
    """
    recipe = read_settings(path, Recipe)
    multiple = NetworkDefinition(1, 0, 1, recipe.network.filters).in_plane_multiple
    if any(size % multiple for size in recipe.patch[1:]):
        raise ConfigError(
            f"{path}: patch: {list(recipe.patch)} does not fit a network of {len(recipe.network.filters)} "
            f"filters; the last two must be multiples of {multiple}"
        )
    return recipe.model_copy(update={"sources": _resolved(recipe.sources, path.parent)})


def _resolved(sources: SourceSettings, folder: Path) -> SourceSettings:
    """The sources with what is relative to the recipe made relative to where we are."""
    changes: dict[str, object] = {
        "datasets": tuple(
            one if one.split is None else one.model_copy(update={"split": folder / one.split})
            for one in sources.datasets
        )
    }
    if sources.sct_outlines is not None:
        changes["sct_outlines"] = folder / sources.sct_outlines
    return sources.model_copy(update=changes)
