"""What a network makes of a validation scan, as a picture for TensorBoard."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spinemets.anatomy import Structure
from spinemets.channels import STRUCTURE_OF_CHANNEL, condition_vector
from spinemets.intensity import lesion_input, normalise
from spinemets.network import SpineUNet
from spinemets.training.scans import LabelledScan

__all__ = ["validation_picture"]

Picture = npt.NDArray[np.uint8]

_SLICES = 6
_SLICE_MM = 3.0
# Background, body, posterior elements, disc, sac, cord, sacrum.
_COLOURS = np.array(
    [(0, 0, 0), (230, 120, 30), (70, 170, 70), (60, 110, 220), (240, 220, 70), (220, 40, 60), (160, 80, 200)],
    dtype=np.float32,
)
_LESION = np.array((255, 40, 40), dtype=np.float32)


def validation_picture(network: SpineUNet, anatomy: SpineUNet | None, scan: LabelledScan) -> Picture:
    """The middle slice of a scan, the labels it has, and what the network finds, side by side.

    Parameters
    ----------
    anatomy
        The network that a lesion network builds on; None where anatomy itself is trained.

    Returns
    -------
    Picture
        uint8, (3, rows, 3 x columns); the head is up.
    """
    image, structures, spacing = _slab(scan)
    device = next(network.parameters()).device
    tensor = normalise(torch.from_numpy(image))[None, None].to(device)
    condition = torch.from_numpy(condition_vector(scan.weighting))[None].to(device)
    middle = image.shape[0] // 2
    grey = _grey(image[middle])
    with torch.no_grad():
        found = _padded(network if anatomy is None else anatomy, tensor, condition)
        names = STRUCTURE_OF_CHANNEL[found[0].argmax(dim=0).cpu().numpy()][middle]
        overlay = _tinted(grey, _COLOURS[names], names != Structure.BACKGROUND)
        if anatomy is not None:
            stacked = lesion_input(tensor, torch.softmax(found.float(), dim=1), spacing)
            lesion = torch.sigmoid(_padded(network, stacked, condition))[0, 0, middle].cpu().numpy()
            overlay = _tinted(grey, np.broadcast_to(_LESION, (*lesion.shape, 3)), lesion > 0.5)
    truth = _tinted(grey, _COLOURS[structures[middle]], structures[middle] != Structure.BACKGROUND)
    panels = [np.repeat(grey[..., None], 3, axis=2), truth, overlay]
    # Rows run back to front and columns foot to head: turned, so that the head is up.
    joined = np.concatenate([panel.transpose(1, 0, 2)[::-1] for panel in panels], axis=1)
    return np.ascontiguousarray(joined.clip(0, 255).astype(np.uint8).transpose(2, 0, 1))


def _slab(
    scan: LabelledScan,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], tuple[float, float, float]]:
    """The slices in the middle, of about 3 mm."""
    factor = max(1, round(_SLICE_MM / scan.spacing_mm[0]))
    count = min(_SLICES, scan.image.shape[0] // factor)
    start = (scan.image.shape[0] - count * factor) // 2
    chosen = slice(start, start + count * factor)
    image = np.asarray(scan.image[chosen], dtype=np.float32)
    image = image.reshape(count, factor, *image.shape[1:]).mean(axis=1)
    structures = scan.structures[chosen][factor // 2 :: factor]
    return image, structures, (scan.spacing_mm[0] * factor, scan.spacing_mm[1], scan.spacing_mm[2])


def _padded(network: SpineUNet, image: Tensor, condition: Tensor) -> Tensor:
    """Logits of an image of any size: rows and columns are filled up to what the network halves."""
    multiple = network.definition.in_plane_multiple
    rows, columns = image.shape[-2:]
    extra = (-columns % multiple, -rows % multiple)
    filled = torch.nn.functional.pad(image, (0, extra[0], 0, extra[1]))
    return network(filled, condition)[..., :rows, :columns]  # type: ignore[no-any-return]


def _grey(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = np.percentile(plane, (1, 99.5))
    return np.asarray((plane - low) / max(high - low, 1e-3) * 255, dtype=np.float32).clip(0, 255)


def _tinted(
    grey: npt.NDArray[np.float32], colours: npt.NDArray[np.float32], where: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """The grey picture with colours at half strength where they apply."""
    base = np.repeat(grey[..., None], 3, axis=2)
    return np.where(where[..., None], 0.5 * base + 0.5 * colours, base)
