"""From a study to its segmentation: every series through the networks, fused, on the source's grid.

Two networks run on each series, told its weighting: one names the anatomy, the other finds
lesions from the image, its marrow score and that anatomy. Series are fused voxel by voxel:
anatomy by its mean probability, lesions by a soft maximum of their log odds, so that what one
series shows plainly is not lost among others that show nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spinemets import __version__
from spinemets.allocation import keep_freed_memory
from spinemets.assembly import assemble, lesion_reach
from spinemets.bundles import Bundle, SpacingMm
from spinemets.channels import CONDITIONS, Channel, condition_vector
from spinemets.config import SegmentationConfig
from spinemets.errors import ModelIncompatibleError
from spinemets.execution import NetworkWeights, parameter_shapes
from spinemets.findings import Provenance
from spinemets.inference import Engine, EngineReport, choose_precision, usable_device
from spinemets.intensity import LESION_INPUTS, lesion_input, normalise
from spinemets.interpolation import to_source
from spinemets.network import NetworkDefinition
from spinemets.registration import Alignment, align, shown_by
from spinemets.sampling import NetworkFrame, network_frame
from spinemets.segmented import NetworkExecution, NetworkMaps, SourceMaps, SpineSegmentation
from spinemets.volume import Grid, Study, Volume
from spinemets.voxels import Box, bounding_box, corner

__all__ = ["CascadeSegmenter", "Part", "cascade_network", "load_segmenter", "read_networks"]

Part = Literal["anatomy", "lesion"]

_NETWORK_TYPE = "spinemets-cascade"
_NETWORKS: tuple[Part, ...] = ("anatomy", "lesion")
# The lesion network sees the spine and this much around it; elsewhere its log odds are those of no lesion.
_LESION_MARGIN_MM = 32
_NO_LESION = -10.0
_LEAST_EMPTY = 0.05  # of an axis; what less does is next to nothing, and the networks learnt with it
# Log odds of several series: the mean of their exponentials at a third, between mean and maximum.
_SOFTNESS = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class _SeriesOpinion:
    """What the networks say of one series, on the network's grid.

    Attributes
    ----------
    anatomy
        (channels, slices, rows, columns): probabilities of every ``Channel``.
    lesion_log_odds
        (slices, rows, columns).
    """

    anatomy: Tensor
    lesion_log_odds: Tensor


class CascadeSegmenter:
    """The released segmenter: an anatomy network, then a lesion network, on each series.

    Parameters
    ----------
    engines
        The anatomy and the lesion network's, on one device.
    spacing
        What the networks were trained on.
    config
        Registration of the series.
    provenance
        Which model it is and where it runs.
    """

    def __init__(
        self,
        engines: tuple[Engine, Engine],
        spacing: SpacingMm,
        config: SegmentationConfig,
        provenance: Provenance,
    ) -> None:
        self._anatomy, self._lesion = engines
        self._spacing = spacing
        self._config = config
        self.provenance = provenance

    @property
    def engines(self) -> tuple[Engine, Engine]:
        """The anatomy and the lesion network's."""
        return self._anatomy, self._lesion

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return self._anatomy.device

    def segment(self, study: Study) -> SpineSegmentation:
        """Label maps and lesion probabilities on the grid of the study's reference series.

        Raises
        ------
        OutOfMemoryError
            Neither the device nor the CPU has room for the study.
        """
        alignment = align(study, self._config)
        return assemble(alignment, self.run_networks(alignment))

    def run_networks(self, alignment: Alignment) -> NetworkMaps:
        """The part of it that needs the device.

        Parameters
        ----------
        alignment
            The study's series on the reference's grid.

        Raises
        ------
        OutOfMemoryError
            Neither the device nor the CPU has room for the study.
        """
        box = _shown_box(alignment.volumes)
        alignment = _part(alignment, box)
        grid = alignment.volumes[0].grid
        frame = network_frame(
            grid, self._spacing.in_plane, self._spacing.slice_min, self._spacing.slice_target
        )
        report = self._anatomy.new_report()
        with torch.inference_mode():
            anatomy, lesion = self._fused(alignment, frame, report)
            maps = to_source(anatomy, lesion, frame, lesion_reach(grid))
        return NetworkMaps(_moved(maps, box), report.execution())

    def _fused(
        self, alignment: Alignment, frame: NetworkFrame, report: EngineReport
    ) -> tuple[Tensor, Tensor]:
        """Anatomy's mean and a soft maximum of lesion, over the series that have values there.

        A metastasis that is plain on STIR is often like marrow on T2, so that a series without
        a trace of it says little against it.

        Returns
        -------
        tuple of Tensor
            Probabilities: of every ``Channel``, (channels, slices, rows, columns); of lesion, (slices,
            rows, columns).
        """
        if len(alignment.volumes) == 1:
            only = self._one_series(alignment.volumes[0], frame, report)
            return only.anatomy, torch.sigmoid(only.lesion_log_odds)
        anatomy = total = torch.zeros(())
        lesion = torch.tensor(-torch.inf)
        for rank, volume in enumerate(alignment.volumes):
            seen = shown_by(alignment, rank)
            weight, box = torch.ones(()), None
            if not seen.all():
                weight = _to_network(seen.astype(np.float32), frame, self._anatomy.device)[0, 0]
                box = _worth_cutting((bounding_box((weight > 0.5).cpu().numpy()),), tuple(weight.shape))
            weight = weight + 1e-3
            one = self._one_series(volume, frame, report, box)
            device = one.anatomy.device
            weight = weight.to(device)
            anatomy = anatomy.to(device) + one.anatomy * weight
            lesion = torch.logaddexp(lesion.to(device), one.lesion_log_odds / _SOFTNESS + weight.log())
            total = total.to(device) + weight
        return anatomy / total, torch.sigmoid(_SOFTNESS * (lesion - total.log()))

    def _one_series(
        self, volume: Volume, frame: NetworkFrame, report: EngineReport, box: Box | None = None
    ) -> _SeriesOpinion:
        """The networks' opinion of one series; outside of a box that it lies in, that nothing is there."""
        image = _to_network(volume.intensities, frame, self._anatomy.device)
        if box is not None and image[0, 0][box].shape != image.shape[2:]:
            slices, rows, columns = box
            inner = self._opinion_of(image[..., slices, rows, columns], volume, frame, report)
            anatomy = inner.anatomy.new_zeros((len(inner.anatomy), *image.shape[2:]))
            anatomy[Channel.BACKGROUND] = 1.0
            logits = torch.full_like(anatomy[0], _NO_LESION)
            anatomy[:, slices, rows, columns] = inner.anatomy
            logits[box] = inner.lesion_log_odds
            return _SeriesOpinion(anatomy, logits)
        return self._opinion_of(image, volume, frame, report)

    def _opinion_of(
        self, image: Tensor, volume: Volume, frame: NetworkFrame, report: EngineReport
    ) -> _SeriesOpinion:
        """What the networks say of a series' image, or of a part of it; (1, 1, slices, rows, columns)."""
        image = normalise(image)
        condition = torch.from_numpy(condition_vector(volume.series.weighting))[None]
        anatomy = torch.softmax(self._anatomy.run(image, condition, report), dim=1)
        rows, columns = _spine_box(anatomy)
        part = (..., rows, columns)
        stacked = lesion_input(image.to(anatomy.device)[part], anatomy[part], frame.grid.spacing_mm)
        logits = torch.full_like(anatomy[0, 0], _NO_LESION)
        logits[part] = self._lesion.run(stacked, condition, report)[0, 0].to(anatomy.device)
        return _SeriesOpinion(anatomy[0], logits)


def _shown_box(volumes: Sequence[Volume]) -> Box:
    """Where any series has a value, along each axis; the whole axis where hardly any of it is empty.

    Zeros around an image, as scanners fill a rectangular field of view to a square, would otherwise
    count as air in its normalisation, and its edges as those of the body.
    """
    boxes = [bounding_box(volume.intensities != 0) for volume in volumes]
    return _worth_cutting(boxes, volumes[0].grid.shape)


def _worth_cutting(boxes: Sequence[Box | None], shape: Sequence[int]) -> Box:
    """What holds all boxes that there are, along each axis; the whole axis where hardly any is outside."""
    edges = []
    for axis, size in enumerate(shape):
        start = min((box[axis].start for box in boxes if box is not None), default=0)
        stop = max((box[axis].stop for box in boxes if box is not None), default=size)
        edges.append(slice(start, stop) if size - (stop - start) > _LEAST_EMPTY * size else slice(0, size))
    return tuple(edges)


def _part(alignment: Alignment, box: Box) -> Alignment:
    """The same series within a box of the reference's grid."""
    whole = alignment.volumes[0].grid
    i, j, k = (edge.stop - edge.start for edge in box)
    if (i, j, k) == whole.shape:
        return alignment
    affine = np.array(whole.affine)
    affine[:3, 3] = whole.to_world(corner(box))
    grid = Grid((i, j, k), affine)
    volumes = tuple(Volume(volume.intensities[box], grid, volume.series) for volume in alignment.volumes)
    return replace(alignment, volumes=volumes)


def _moved(maps: SourceMaps, box: Box) -> SourceMaps:
    """Maps of a part of a grid as maps of the whole."""
    start = corner(box)
    box, lesion_box = (
        tuple(slice(int(edge.start + by), int(edge.stop + by)) for edge, by in zip(one, start, strict=True))
        for one in (maps.box, maps.lesion_box)
    )
    return replace(maps, box=box, lesion_box=lesion_box)


def load_segmenter(
    bundle: Bundle, config: SegmentationConfig, engine: type[Engine] = Engine
) -> CascadeSegmenter:
    """Put a bundle's networks on the configured device.

    Parameters
    ----------
    engine
        What runs them.

    Raises
    ------
    ModelIncompatibleError
        The weights do not fit the networks that the bundle describes.
    DeviceUnavailableError
        This machine does not have the device, or it cannot compute.
    """
    device = usable_device(config.device)
    precision = choose_precision(config.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    arithmetic = str(precision).removeprefix("torch.")
    footprints = bundle.facts.footprint_bytes_per_voxel
    anatomy, lesion = (
        engine(network, device, precision, config.deterministic, footprints.get(name, {}).get(arithmetic))
        for name, network in zip(_NETWORKS, read_networks(bundle), strict=True)
    )
    provenance = Provenance(
        version=__version__,
        model=bundle.name,
        model_version=bundle.version,
        model_sha256=bundle.sha256,
        execution=NetworkExecution(str(device), arithmetic),
    )
    return CascadeSegmenter((anatomy, lesion), bundle.facts.spacing_mm, config, provenance)


def cascade_network(part: Part, filters: tuple[int, ...]) -> NetworkDefinition:
    """The cascade's anatomy or lesion network, of some size: what goes in and comes out is fixed."""
    if part == "anatomy":
        return NetworkDefinition(1, len(CONDITIONS), len(Channel), filters)
    return NetworkDefinition(len(LESION_INPUTS), len(CONDITIONS), 1, filters)


def read_networks(bundle: Bundle) -> tuple[NetworkWeights, NetworkWeights]:
    """The anatomy and the lesion network of a bundle.

    Raises
    ------
    ModelIncompatibleError
        The bundle is of another type, its channels have other names, a network takes or gives another
        number of channels, or the weights do not fit or are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = bundle.facts.network
    if network.get("type") != _NETWORK_TYPE:
        raise ModelIncompatibleError(
            f"{bundle.name}: network type {network.get('type')!r} is not {_NETWORK_TYPE!r}"
        )
    expected = tuple(channel.name.lower() for channel in Channel)
    if bundle.facts.channels != expected:
        raise ModelIncompatibleError(f"{bundle.name}: output channels are not {', '.join(expected)}")
    try:
        stored = load_file(bundle.weights)
    except SafetensorError as error:
        raise ModelIncompatibleError(
            f"{bundle.weights} is no sound safetensors file ({error}); copy it again from where it was made"
        ) from error
    anatomy, lesion = (_weights(bundle, network, stored, part) for part in _NETWORKS)
    return anatomy, lesion


def _weights(
    bundle: Bundle, network: dict[str, object], stored: dict[str, Tensor], part: Part
) -> NetworkWeights:
    described = network.get(part)
    if not isinstance(described, dict):
        raise ModelIncompatibleError(f"{bundle.name}: its metadata describe no {part} network")
    definition = NetworkDefinition.from_mapping(cast(dict[str, object], described))
    expected = cascade_network(part, definition.filters)
    if definition != expected:
        raise ModelIncompatibleError(
            f"{bundle.name}: the {part} network is {definition}, expected {expected}; use a bundle made for "
            "this version, or the version of spinemets that the bundle was made for"
        )
    own = {k.removeprefix(f"{part}."): v.float() for k, v in stored.items() if k.startswith(f"{part}.")}
    if parameter_shapes(definition) != {name: tuple(value.shape) for name, value in own.items()}:
        raise ModelIncompatibleError(
            f"{bundle.name}: the {part} weights do not fit the network that its metadata describe"
        )
    return NetworkWeights(definition, own)


def _to_network(array: npt.NDArray[np.float32], frame: NetworkFrame, device: torch.device) -> Tensor:
    """An array on the source grid as (1, 1, slices, rows, columns) on the network's grid."""
    canonical = np.transpose(array, frame.order)
    flips = tuple(axis for axis, flip in enumerate(frame.flipped) if flip)
    # A copy: torch does not take a volume's read-only array.
    tensor = torch.from_numpy(np.flip(canonical, flips).copy())
    if device.type == "cuda":
        # From page-locked memory the driver copies while Python goes on.
        tensor = tensor.pin_memory()
    tensor = tensor.to(device, non_blocking=True)
    return _apply(tensor[None], frame.down)[None]


def _apply(tensor: Tensor, matrices: Sequence[npt.NDArray[np.float32]]) -> Tensor:
    """One resampling matrix along each of the last three axes."""
    for axis, matrix in enumerate(matrices, start=1):
        if matrix.shape[0] == matrix.shape[1] and np.allclose(matrix, np.eye(len(matrix)), atol=1e-6):
            continue
        weights = torch.from_numpy(matrix).to(tensor.device)
        tensor = torch.movedim(torch.movedim(tensor, axis, -1) @ weights.T, -1, axis)
    return tensor


def _spine_box(anatomy: Tensor) -> tuple[slice, slice]:
    """The rows and columns that show spine, with the surroundings that patches in training had.

    Parameters
    ----------
    anatomy
        (1, channels, slices, rows, columns); rows and columns are 1 mm apart.
    """
    spine = (anatomy[0, Channel.BACKGROUND] < 0.5).sum(dim=0, dtype=torch.int32).cpu().numpy()
    edges = []
    for axis in (1, 0):
        counts = spine.sum(axis=axis)
        # A line with a few stray voxels does not belong to the spine.
        shown = np.flatnonzero(counts > 0.02 * counts.max())
        low, high = (int(shown[0]), int(shown[-1])) if len(shown) else (0, len(counts))
        edges.append(slice(max(0, low - _LESION_MARGIN_MM), min(len(counts), high + 1 + _LESION_MARGIN_MM)))
    return edges[0], edges[1]
