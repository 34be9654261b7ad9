"""Interpolating the spine's box slice by slice gives what interpolating everything would."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.channels import STRUCTURE_OF_CHANNEL, Channel
from spinemets.interpolation import to_source
from spinemets.sampling import network_frame
from spinemets.volume import Grid

REACH = (2, 9, 7)


def everything(tensor, frame):
    """Every channel on the whole source grid, by the frame's own matrices in float64."""
    array = tensor.double().numpy()
    for axis, matrix in enumerate(frame.up, start=1):
        array = np.moveaxis(np.moveaxis(array, axis, -1) @ matrix.T.astype(np.float64), -1, axis)
    flips = [axis + 1 for axis, flip in enumerate(frame.flipped) if flip]
    return np.flip(array, flips).transpose(0, *(np.argsort(frame.order) + 1))


def probabilities(shape, seed=3):
    """Smooth noise with background all around a box in the middle."""
    rng = np.random.default_rng(seed)
    logits = ndimage.gaussian_filter(rng.normal(size=(len(Channel), *shape)), (0, 0.5, 2, 2)) * 20
    middle = tuple(slice(size // 3, size - size // 4) for size in shape)
    logits[Channel.BACKGROUND] += 30
    logits[(Channel.BACKGROUND, *middle)] -= 30
    return torch.softmax(torch.from_numpy(logits), dim=0).float()


def case(spacing_mm, shape, order=(0, 1, 2), flips=(False, False, False)):
    shape, spacing = (tuple(np.array(values)[list(order)]) for values in (shape, spacing_mm))
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for array_axis, world_axis in enumerate(order):
        affine[world_axis, array_axis] = -spacing[array_axis] if flips[array_axis] else spacing[array_axis]
    frame = network_frame(Grid(shape, affine))
    anatomy = probabilities(frame.grid.shape)
    lesion = torch.rand(frame.grid.shape, generator=torch.Generator().manual_seed(5))
    return frame, anatomy, lesion


def likeliest(probabilities):
    """The likeliest channel of the likeliest structure, canal being one, and where that is no near tie."""
    group = np.where(STRUCTURE_OF_CHANNEL == Structure.CORD, Structure.THECAL_SAC, STRUCTURE_OF_CHANNEL)
    structures = np.stack([probabilities[group == s].sum(axis=0) for s in range(len(Structure))])
    one = group[:, None, None, None] == structures.argmax(axis=0)
    within = np.where(one, probabilities, -1.0)
    ties = [np.diff(np.sort(values, axis=0)[-2:], axis=0)[0] < 1e-5 for values in (structures, within)]
    return within.argmax(axis=0), ~(ties[0] | ties[1])


def whole(maps, shape):
    """Channels, bodies and lesion probability in zeros of a whole volume's shape."""
    volumes = [np.zeros(shape) for _ in range(3)]
    for volume, box, part in zip(
        volumes, (maps.box, maps.box, maps.lesion_box), (maps.channels, maps.bodies, maps.lesion), strict=True
    ):
        volume[box] = part
    return volumes


def check(frame, anatomy, lesion):
    reach = [REACH[frame.order.index(axis)] for axis in range(3)]
    maps = to_source(anatomy, lesion, frame, reach)
    expected = everything(anatomy, frame)
    channels, bodies, lesions = whole(maps, expected.shape[1:])
    names, clear = likeliest(expected)
    assert clear.mean() > 0.99
    assert np.array_equal(channels[clear], names[clear])
    spine = names != Channel.BACKGROUND
    assert 0.02 < spine.mean() < 0.5
    assert np.allclose(bodies[spine], expected[Channel.C2 : Channel.SACRUM].sum(axis=0)[spine], atol=1e-5)
    regions = expected[Channel.C2 : Channel.SACRUM + 1]
    inside = spine[maps.box]
    assert inside.sum() == spine.sum()
    assert np.allclose(maps.regions[:, inside], regions[(slice(None), *maps.box)][:, inside], atol=1e-3)
    near = ndimage.maximum_filter(spine, size=[2 * r + 1 for r in reach])
    wanted = everything(lesion[None], frame)[0]
    assert np.allclose(lesions[near], wanted[near], atol=1e-5)
    assert (lesions == 0).mean() > 0.1


@pytest.mark.parametrize(
    ("spacing_mm", "shape"),
    [
        ((4.0, 0.6, 0.6), (7, 80, 90)),  # thick slices, as most
        ((4.0, 1.4, 1.3), (7, 40, 44)),  # coarser than the network's grid
        ((1.0, 1.0, 1.0), (21, 48, 40)),  # thin slices, averaged for the network
        ((0.9, 0.47, 0.47), (20, 90, 84)),
    ],
)
def test_the_box_around_the_spine_is_as_good_as_everything(spacing_mm, shape):
    check(*case(spacing_mm, shape))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_storage_order_and_direction(order):
    check(*case((4.0, 0.7, 0.6), (7, 60, 70), order, (True, False, True)))


def test_without_any_spine_there_is_nothing():
    frame, anatomy, lesion = case((4.0, 0.6, 0.6), (7, 80, 90))
    anatomy[Channel.BACKGROUND] = 2.0
    maps = to_source(anatomy, lesion, frame, REACH)
    assert not any(part.any() for part in whole(maps, (7, 80, 90)))
    assert maps.regions.size == 0


def test_a_spine_at_the_edge_of_the_image_is_kept_whole():
    frame, anatomy, lesion = case((4.0, 0.6, 0.6), (7, 80, 90))
    anatomy[:] = 0
    anatomy[Channel.CORD] = 1
    maps = to_source(anatomy, lesion, frame, REACH)
    assert (maps.channels == Channel.CORD).all()
    assert np.allclose(maps.lesion, everything(lesion[None], frame)[0], atol=1e-5)


def test_doubt_about_the_region_does_not_make_a_body_background():
    frame, anatomy, lesion = case((4.0, 0.6, 0.6), (7, 80, 90))
    anatomy[:] = 0
    anatomy[Channel.BACKGROUND] = 0.4
    anatomy[Channel.THORACIC_BODY], anatomy[Channel.LUMBAR_BODY] = 0.28, 0.32
    maps = to_source(anatomy, lesion, frame, REACH)
    assert (maps.channels == Channel.LUMBAR_BODY).all()
    assert np.allclose(maps.bodies, 0.6, atol=1e-5)
