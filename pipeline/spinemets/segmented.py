"""A study as the segmentation hands it on: what each voxel shows, and how the networks ran.

    Alignment -> NetworkMaps -> SpineSegmentation

All values are frozen. What is concluded from them is in ``findings``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Structure
from spinemets.errors import GeometryError
from spinemets.volume import Grid, Mask, Volume
from spinemets.voxels import Box

__all__ = ["InstanceEvidence", "NetworkExecution", "NetworkMaps", "SourceMaps", "SpineSegmentation"]


@dataclass(frozen=True, slots=True)
class InstanceEvidence:
    """What the network's signal says about the level of one vertebra instance.

    Attributes
    ----------
    instance
        The instance's label in ``SpineSegmentation.vertebrae``, from 1.
    c2, cervical, thoracic, lumbar, sacral
        Share of the body probabilities in the instance that speaks for C2 (with the dens), C3-C7,
        T1-T13, L1-L6 or the sacrum; they sum to 1. Uniform (0.2 each) where a network has no opinion.
    """

    instance: int
    c2: float = 0.2
    cervical: float = 0.2
    thoracic: float = 0.2
    lumbar: float = 0.2
    sacral: float = 0.2


@dataclass(frozen=True, slots=True)
class NetworkExecution:
    """How the networks really ran for one study, which can differ from what was planned.

    Attributes
    ----------
    device, precision
        Of the last pass: "cuda:0", "cpu", ... and "bfloat16", "float32", ...
    strategy
        "whole volume", or "parts" where a convolution was computed piece by piece.
    passes
        Images that went through a network.
    parts
        Into how many pieces the largest convolution was cut; 1 for a whole volume.
    fallbacks
        What was done instead of what was planned, in order, in plain sentences.
    """

    device: str = "cpu"
    precision: str = "float32"
    strategy: str = "whole volume"
    passes: int = 0
    parts: int = 1
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SourceMaps:
    """What the networks say of each voxel of a series' own grid.

    Attributes
    ----------
    box
        Holds every voxel that is not background.
    channels
        uint8, shape of the box: the likeliest ``Channel`` of the likeliest structure.
    bodies
        float32, shape of the box: probability of vertebral body, of whatever region; 0 far from the
        spine.
    regions
        float16, five times the shape of the box: probabilities of C2, cervical, thoracic and lumbar
        body, and sacrum; likewise.
    lesion_box
        As far from the spine as lesions are wanted.
    lesion
        float32, shape of that box: probability of lesion.
    """

    box: Box
    channels: npt.NDArray[np.uint8]
    bodies: npt.NDArray[np.float32]
    regions: npt.NDArray[np.float16]
    lesion_box: Box
    lesion: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class NetworkMaps:
    """A study as the networks have seen it.

    Attributes
    ----------
    maps
        On the grid of the reference series.
    execution
        How the networks ran.
    """

    maps: SourceMaps
    execution: NetworkExecution


@dataclass(frozen=True, slots=True, eq=False)
class SpineSegmentation:
    """What was found in a study, voxel by voxel, on the grid of its reference series.

    Attributes
    ----------
    grid
        The reference series' own grid.
    anatomy
        uint8, shape ``grid.shape``; values of ``Structure``.
    vertebrae
        uint8, shape ``grid.shape``; 0 or an instance's label 1..n, from head to foot. An
        instance covers body and posterior elements; S1 (or the whole visible sacrum) is the
        last one where it is seen.
    lesion_probability
        float32, shape ``grid.shape``, in [0, 1].
    evidence
        One entry per instance, in the order of the labels.
    volumes
        Every used series resampled onto ``grid``, the reference first and untouched.
    cautions
        What went less than well: a doubtful registration, a fallback to the CPU, ...
    execution
        How the networks ran; None where no network did.
    covered
        One bool array for each volume, shape ``grid.shape``: where its series has values, that is within
        its extent and not in a rim of 0. Empty where each has them everywhere.

    Raises
    ------
    GeometryError
        An array's shape is not the grid's, or evidence and instances do not match.
    """

    grid: Grid
    anatomy: npt.NDArray[np.uint8]
    vertebrae: npt.NDArray[np.uint8]
    lesion_probability: npt.NDArray[np.float32]
    evidence: tuple[InstanceEvidence, ...]
    volumes: tuple[Volume, ...]
    cautions: tuple[str, ...] = ()
    execution: NetworkExecution | None = None
    covered: tuple[Mask, ...] = ()

    def __post_init__(self) -> None:
        for name in ("anatomy", "vertebrae", "lesion_probability"):
            array = getattr(self, name)
            if array.shape != self.grid.shape:
                raise GeometryError(f"{name} of shape {array.shape} does not fit a grid of {self.grid.shape}")
        for volume in self.volumes:
            if not volume.grid.is_close(self.grid):
                raise GeometryError(f"{volume.series.name} is not on the segmentation's grid")
        if self.covered and [mask.shape for mask in self.covered] != [self.grid.shape] * len(self.volumes):
            raise GeometryError(
                "every volume needs a mask of what it covers, of the grid's shape, or none does"
            )
        if int(self.anatomy.max(initial=0)) > max(Structure):
            raise GeometryError(f"anatomy holds the unknown label {int(self.anatomy.max())}")
        labels = [entry.instance for entry in self.evidence]
        if labels != list(range(1, len(labels) + 1)) or int(self.vertebrae.max(initial=0)) > len(labels):
            raise GeometryError("instances must be labelled 1..n, with one entry of evidence each")
