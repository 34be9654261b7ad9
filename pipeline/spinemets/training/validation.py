"""How good a network is on whole scans that it is not trained on, while training goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spinemets.anatomy import Structure
from spinemets.channels import Channel, condition_vector
from spinemets.evaluation.lesions import match_lesions
from spinemets.inference import Engine, choose_precision
from spinemets.intensity import lesion_input, normalise
from spinemets.network import SpineUNet
from spinemets.simulation.lesion_places import ImplantOptions
from spinemets.simulation.lesions import implant_lesions
from spinemets.training.datasets.labels import BODIES
from spinemets.training.scans import LabelledScan, bit
from spinemets.volume import PointMm
from spinemets.voxels import islands_of

__all__ = ["validate_anatomy", "validate_lesions"]

_SLICE_MM = 3.0
_IMPLANTS_PER_SCAN = 4
_COUNTS_FROM_MM3 = 500.0
_GROUPS = {
    "vertebra": BODIES | bit(Channel.POSTERIOR_ELEMENTS),
    "disc": bit(Channel.DISC),
    "canal": bit(Channel.THECAL_SAC, Channel.CORD),
}


def validate_anatomy(network: SpineUNet, scans: Sequence[LabelledScan]) -> dict[str, float]:
    """Mean Dice of vertebra, disc and canal over the scans that show them by their labels.

    A voxel counts for a group where its label tells whether it belongs to it. A group that no scan
    has is absent.
    """
    engine = _engine(network)
    scores: dict[str, list[float]] = {name: [] for name in _GROUPS}
    for scan in scans:
        image, structures, allowed, _ = _thick(scan)
        probabilities = _anatomy(engine, normalise(torch.from_numpy(image))[None, None], scan)
        found = probabilities[0].argmax(dim=0).cpu().numpy()
        # Where S1 is but a stand-in (SPIDER), the network need not agree with it.
        sacrum = (structures == Structure.SACRUM) | (allowed == bit(Channel.SACRUM))
        counted = ~sacrum & (found != Channel.SACRUM)
        for name, channels in _GROUPS.items():
            inside = counted & ((allowed & ~np.uint16(channels)) == 0)
            outside = counted & ((allowed & channels) == 0)
            if inside.any():
                own = (channels >> found & 1).astype(np.bool_)
                hits, total = (own & inside).sum(), (own & (inside | outside)).sum() + inside.sum()
                scores[name].append(float(2 * hits / total))
    return {name: float(np.mean(values)) for name, values in scores.items() if values}


def validate_lesions(
    network: SpineUNet, anatomy: SpineUNet, scans: Sequence[LabelledScan]
) -> dict[str, float]:
    """Sensitivity to lesions of at least 0.5 mL, and false positives on the scans as they are.

    The lesions are a scan's own where it has such, and implanted ones elsewhere.
    """
    engines = _engine(anatomy), _engine(network)
    found, total, false_alarms = 0, 0, 0
    for index, scan in enumerate(scans):
        image, structures, _, spacing = _thick(scan)
        components = islands_of(_lesions(engines, image, scan, spacing) > 0.5)
        outcome = match_lesions(
            ("", scan.subject),
            components,
            np.zeros_like(structures) if scan.lesions is None else scan.lesions[_middles(scan)],
            voxel_volume_mm3=float(np.prod(spacing)),
            confidences={},
            known={},
        )
        false_alarms += len(outcome.false_positive_scores)
        if scan.lesions is not None:
            own = [lesion for lesion in outcome.lesions if lesion.volume_mm3 >= _COUNTS_FROM_MM3]
            total += len(own)
            found += sum(lesion.found_by is not None for lesion in own)
            continue
        for implant in range(_IMPLANTS_PER_SCAN):
            rng = np.random.default_rng([77, index, implant])
            ill = implant_lesions(image, structures, spacing, scan.weighting, ImplantOptions(), rng)
            probability = _lesions(engines, ill.image, scan, spacing)
            for number in range(1, len(ill.compartments) + 1):
                lesion = ill.lesions == number
                if lesion.sum() * np.prod(spacing) >= _COUNTS_FROM_MM3:
                    total += 1
                    found += bool((probability[lesion] > 0.5).mean() > 0.1)
    return {
        "sensitivity": found / max(1, total),
        "false positives per scan": float(false_alarms) / max(1, len(scans)),
    }


def _engine(network: SpineUNet) -> Engine:
    """For whole scans, where the network is."""
    device = next(network.parameters()).device
    return Engine(network, device, choose_precision("auto", device))


def _lesions(
    engines: tuple[Engine, Engine], image: npt.NDArray[np.float32], scan: LabelledScan, spacing: PointMm
) -> npt.NDArray[np.float32]:
    anatomy, lesions = engines
    tensor = normalise(torch.from_numpy(image))[None, None]
    probabilities = _anatomy(anatomy, tensor, scan)
    stacked = lesion_input(tensor.to(probabilities.device), probabilities, spacing)
    logits = lesions.run(stacked, _condition(scan), lesions.new_report())
    return np.asarray(torch.sigmoid(logits[0, 0]).cpu().numpy())


def _anatomy(engine: Engine, image: Tensor, scan: LabelledScan) -> Tensor:
    return torch.softmax(engine.run(image, _condition(scan), engine.new_report()), dim=1)


def _condition(scan: LabelledScan) -> Tensor:
    return torch.from_numpy(condition_vector(scan.weighting))[None]


def _thick(
    scan: LabelledScan,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.uint16], PointMm]:
    """The scan with its slices averaged to about 3 mm; labels of each middle slice."""
    factor = _thickness(scan)
    count = scan.image.shape[0] // factor
    image = np.asarray(scan.image[: count * factor], dtype=np.float32)
    image = image.reshape(count, factor, *image.shape[1:]).mean(axis=1)
    middle = _middles(scan)
    spacing = (scan.spacing_mm[0] * factor, scan.spacing_mm[1], scan.spacing_mm[2])
    return image, scan.structures[middle], scan.allowed[middle], spacing


def _middles(scan: LabelledScan) -> slice:
    """The middle one of every group of slices."""
    factor = _thickness(scan)
    return slice(factor // 2, scan.image.shape[0] // factor * factor, factor)


def _thickness(scan: LabelledScan) -> int:
    """How many slices are averaged into one."""
    return max(1, round(_SLICE_MM / scan.spacing_mm[0]))
