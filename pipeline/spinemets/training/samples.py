"""One training sample from one labelled scan: moved, recontrasted, made ill, and acquired anew.

Every random number comes from the generator given, so sample *i* of a training is the same
sample whenever and wherever it is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from spinemets.anatomy import Structure
from spinemets.channels import Channel, condition_vector
from spinemets.intensity import normalise
from spinemets.simulation.collapse import draw_collapse, moved_image, moved_labels
from spinemets.simulation.lesion_places import ImplantOptions
from spinemets.simulation.lesions import Implanted, Look, implant_lesions
from spinemets.simulation.mimics import add_mimics
from spinemets.simulation.shapes import smooth_noise
from spinemets.training.contrast import recontrast, vary
from spinemets.training.scans import ANY, UNKNOWN_LESION, LabelledScan, bit
from spinemets.volume import PointMm, Weighting

__all__ = ["Sample", "SampleOptions", "draw_sample"]

Array = npt.NDArray[np.float32]

_SUBSLICES = 3
# What is seldom in patients would not be learnt: lesions of the canal and of the arches, those that
# leave the bone, and bright ones on T2 that fill a body. Far more healthy bodies than bodies with
# disease would be half as bright again as the others, for the fall-off of coils.
_IMPLANTS = ImplantOptions(
    mean_number=2.0,
    compartment_weights=(0.62, 0.2, 0.18),
    bone_weights=(0.4, 0.42, 0.18),
    whole_vertebra=0.3,
    epidural_extension=0.3,
    sclerotic=0.2,
)
_LOOK = Look(faintest=0.4, untextured=0.5, moderate=0.5, darker=0.4)


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """What samples look like.

    Attributes
    ----------
    shape
        (slices, rows, columns) of a patch; rows run back to front, columns foot to head.
    slice_spacing_mm
        Range that the patch's slice spacing is drawn from.
    lesion_chance, mimic_chance
        Share of samples with implanted lesions, with simulated normal variants.
    collapse_chance
        Share of samples one of whose vertebrae has lost height, where a whole one is seen.
    real_contrast_chance
        Share of samples that keep the scan's own contrast.
    variation_chance
        Of those, the share whose tissues are a little brighter or darker than the patient's.
    known_weighting_chance
        Share of samples whose weighting the network is told.
    neck_chance
        Share of samples centred on the neck where a scan's labels show one.
    """

    shape: tuple[int, int, int] = (6, 160, 224)
    slice_spacing_mm: tuple[float, float] = (2.6, 5.0)
    lesion_chance: float = 0.6
    mimic_chance: float = 0.7
    collapse_chance: float = 0.15
    real_contrast_chance: float = 0.45
    variation_chance: float = 0.6
    known_weighting_chance: float = 0.6
    neck_chance: float = 0.35


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What the trainer needs of one patch.

    Attributes
    ----------
    image
        float32, (1, slices, rows, columns); normalised.
    condition
        float32, (4,).
    allowed
        int16, (slices, rows, columns): channels each voxel may belong to, as bits.
    lesion
        uint8, same shape: the lesion's number from 1, 0 none, 255 unknown.
    spacing_mm
        Of the three axes.
    """

    image: Tensor
    condition: Tensor
    allowed: Tensor
    lesion: Tensor
    spacing_mm: PointMm


def draw_sample(scan: LabelledScan, options: SampleOptions, rng: np.random.Generator) -> Sample:
    """Cut, deform and alter one patch of a scan."""
    slice_mm = max(float(rng.uniform(*options.slice_spacing_mm)), scan.spacing_mm[0])
    spacing = (slice_mm, 1.0, 1.0)
    image, structures, allowed, lesions, seen = _cut(scan, options, slice_mm, rng)
    # A scan that shows its lesions alone has nowhere to put anything else.
    has_hosts = bool(_hosts(structures, lesions).any())
    bent = rng.random() < options.collapse_chance and has_hosts
    collapse = draw_collapse(structures, spacing, rng) if bent else None
    if collapse is not None:
        image = moved_image(image, collapse)
        seen = moved_labels(seen, collapse) & (collapse <= image.shape[2] - 1)
        structures, allowed = moved_labels(structures, collapse), moved_labels(allowed, collapse)
        lesions = moved_labels(lesions, collapse)
        structures[~seen], allowed[~seen] = Structure.BACKGROUND, ANY
    weighting = scan.weighting
    # Another contrast would show a real lesion in a signal that no lesion has.
    if scan.lesions is None:
        if rng.random() > options.real_contrast_chance:
            image, weighting = recontrast(image, structures, weighting, rng)
        elif rng.random() < options.variation_chance:
            image = vary(image, structures, rng)
    hosts = _hosts(structures, lesions)
    if rng.random() < options.mimic_chance and has_hosts:
        image = np.where(_are_own(lesions), image, add_mimics(image, hosts, spacing, weighting, rng))
    if rng.random() < options.lesion_chance and has_hosts:
        implanted = implant_lesions(image, hosts, spacing, weighting, _IMPLANTS, rng, _LOOK)
        allowed = _allowed_after(allowed, hosts, implanted)
        image, lesions = implanted.image, _joined(lesions, implanted.lesions)
    image = _acquire(image, spacing, rng)
    image[~seen] = 0
    lesions[~seen] = UNKNOWN_LESION
    tensor = normalise(torch.from_numpy(image))
    tensor = tensor * float(rng.uniform(0.8, 1.25)) + float(rng.normal(0, 0.2))
    tensor[torch.from_numpy(~seen)] = 0
    known = rng.random() < options.known_weighting_chance
    condition = condition_vector(weighting if known else Weighting.UNKNOWN)
    return Sample(
        tensor[None].float(),
        torch.from_numpy(condition),
        torch.from_numpy(allowed.astype(np.int16)),
        torch.from_numpy(lesions),
        spacing,
    )


def _cut(
    scan: LabelledScan, options: SampleOptions, slice_mm: float, rng: np.random.Generator
) -> tuple[
    Array, npt.NDArray[np.uint8], npt.NDArray[np.uint16], npt.NDArray[np.uint8], npt.NDArray[np.bool_]
]:
    """A deformed patch around a random place of the spine: image, structures, allowed, lesions, seen."""
    shape = options.shape
    points = _patch_points(scan, shape, slice_mm, _random_place(scan, options.neck_chance, rng), rng)
    size = torch.tensor(scan.image.shape, dtype=torch.float32)
    # grid_sample wants (x, y, z) = (last axis, ..., first axis), scaled to -1..1.
    scaled = ((points + 0.5) / size * 2 - 1).flip(-1)[None]
    source = torch.from_numpy(np.asarray(scan.image, dtype=np.float32))[None, None]
    image = F.grid_sample(source, scaled, mode="bilinear", padding_mode="border", align_corners=False)
    image = image.reshape(shape[0], _SUBSLICES, *shape[1:]).mean(dim=1)
    middle = scaled[:, _SUBSLICES // 2 :: _SUBSLICES]
    known = np.zeros_like(scan.structures) if scan.lesions is None else scan.lesions
    labels = torch.from_numpy(np.stack([scan.structures, scan.allowed, known]).astype(np.float32))[None]
    labels = F.grid_sample(labels, middle, mode="nearest", padding_mode="border", align_corners=False)[0]
    seen = (middle[0].abs() <= 1.0).all(dim=-1).numpy()
    structures = labels[0].numpy().astype(np.uint8)
    allowed = labels[1].numpy().astype(np.uint16)
    structures[~seen] = Structure.BACKGROUND
    allowed[~seen] = ANY
    return image.numpy(), structures, allowed, labels[2].numpy().astype(np.uint8), seen


def _are_own(lesions: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where a scan has lesions of its own, those that are unknown left out."""
    return np.asarray((lesions > 0) & (lesions < UNKNOWN_LESION))


def _hosts(structures: npt.NDArray[np.uint8], lesions: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The structures that may change: what a lesion lies in takes no other, nor a benign change."""
    return np.where(_are_own(lesions), np.uint8(Structure.BACKGROUND), structures)


def _joined(own: npt.NDArray[np.uint8], implanted: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The scan's own lesions and the implanted ones in one map; the latter lie on top, with numbers above."""
    highest = int(own[own != UNKNOWN_LESION].max(initial=0))
    numbers = np.minimum(implanted.astype(np.uint16) + highest, 254).astype(np.uint8)
    return np.where(implanted > 0, numbers, own)


def _random_place(
    scan: LabelledScan, neck_chance: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A voxel of the spine; every height is as likely, or small vertebrae would be seen seldom."""
    heights = np.flatnonzero((scan.structures > 0).any(axis=(0, 1)))
    if rng.random() < neck_chance:
        neck = np.isin(scan.allowed, (bit(Channel.C2), bit(Channel.CERVICAL_BODY))).any(axis=(0, 1))
        heights = np.flatnonzero(neck) if neck.any() else heights
    height = int(rng.choice(heights))
    around = np.argwhere(scan.structures[:, :, height] > 0)
    if not len(around):
        around = np.array([scan.structures.shape[:2]]) // 2
    return np.array([*around[rng.integers(len(around))], height], dtype=float)


def _patch_points(
    scan: LabelledScan,
    shape: tuple[int, int, int],
    slice_mm: float,
    centre: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> Tensor:
    """Voxel places in the scan of every subslice sample: (slices x 3, rows, columns, 3)."""
    extent_mm = scan.image.shape[0] * scan.spacing_mm[0]
    slack = max(0.0, extent_mm - shape[0] * slice_mm) / 2
    centre_mm = centre * scan.spacing_mm
    centre_mm[0] = (extent_mm - scan.spacing_mm[0]) / 2 + rng.uniform(-slack, slack)
    # Farther to the front: what lies before a spine must be seen, or a spine is seen in it.
    centre_mm[1:] += rng.uniform((-30, -30), (60, 30))
    # Patches mostly full of scan: a quarter of one may hang over the edge.
    reach = np.array(shape[1:]) / 4
    size_mm = np.array(scan.image.shape[1:]) * scan.spacing_mm[1:]
    centre_mm[1:] = np.clip(
        centre_mm[1:], np.minimum(reach, size_mm / 2), np.maximum(size_mm - reach, size_mm / 2)
    )
    turn = _rotation(rng.normal(0, (0.02, 0.03, 0.15)))
    zoom = np.diag(1 / np.exp(rng.normal(0, (0.05, 0.14, 0.14))))
    zoom[0, 0] *= rng.choice((-1, 1))
    step = slice_mm / _SUBSLICES
    axes = [
        (torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * s
        for n, s in zip((shape[0] * _SUBSLICES, *shape[1:]), (step, 1.0, 1.0), strict=True)
    ]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    points = offsets @ torch.from_numpy((turn @ zoom).T.astype(np.float32))
    for axis in (1, 2):
        bend = smooth_noise(points.shape[:3], (step, 1.0, 1.0), rng.uniform(25, 60), rng)
        points[..., axis] += torch.from_numpy(bend) * float(rng.uniform(0, 2.5))
    points += torch.from_numpy(centre_mm.astype(np.float32))
    return points / torch.tensor(scan.spacing_mm)


def _rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turns about foot-head, back-front and left-right, in radians, one after the other."""
    z, y, x = angles
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    return np.asarray(about_z @ about_y @ about_x)


def _allowed_after(
    allowed: npt.NDArray[np.uint16], before: npt.NDArray[np.uint8], implanted: Implanted
) -> npt.NDArray[np.uint16]:
    """The truth once lesions have displaced the sac or swollen the cord."""
    changed = (before != implanted.structures) & (allowed != ANY)
    allowed = allowed.copy()
    allowed[changed & (implanted.structures == Structure.BACKGROUND)] = bit(Channel.BACKGROUND)
    allowed[changed & (implanted.structures == Structure.CORD)] = bit(Channel.CORD)
    return allowed


def _acquire(image: Array, spacing: PointMm, rng: np.random.Generator) -> Array:
    """Coil fall-off, blur, noise, and a gamma, as scanners differ in them."""
    low, high = np.percentile(image[:, ::4, ::4], (1, 99))
    scaled = np.clip((image - low) / max(high - low, 1e-3), 0, 1.3)
    if rng.random() < 0.3:
        scaled = scaled ** np.exp(rng.normal(0, 0.25))
    if rng.random() < 0.6:
        bias = smooth_noise(image.shape, spacing, rng.uniform(60, 140), rng)
        rows = np.linspace(-0.5, 0.5, image.shape[1], dtype=np.float32)[None, :, None]
        scaled = scaled * np.exp(rng.uniform(0, 0.25) * bias - rng.uniform(0, 1.2) * rows)
    if rng.random() < 0.35:
        scaled = _blur(scaled, float(rng.uniform(0.3, 1.1)))
    if rng.random() < 0.6:
        sigma = rng.uniform(0.005, 0.06)
        real = scaled + sigma * rng.standard_normal(scaled.shape, dtype=np.float32)
        imaginary = sigma * rng.standard_normal(scaled.shape, dtype=np.float32)
        scaled = np.hypot(real, imaginary)
    return np.asarray(scaled, dtype=np.float32)


def _blur(image: Array, sigma: float) -> Array:
    """In-plane Gaussian blur, sigma in pixels."""
    places = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = kernel / kernel.sum()
    tensor = torch.from_numpy(image.astype(np.float32))[:, None]
    tensor = F.conv2d(tensor, kernel[None, None, :, None], padding=(3, 0))
    return np.asarray(F.conv2d(tensor, kernel[None, None, None, :], padding=(0, 3))[:, 0].numpy())
