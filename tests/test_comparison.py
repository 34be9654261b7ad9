"""Bodies against their neighbours: what is raised, and what is left as it was."""

from __future__ import annotations

import numpy as np
import pytest

from spinemets.anatomy import Structure
from spinemets.comparison import BodyCells, raise_where_unlike
from spinemets.volume import Grid, Series, Volume, Weighting

SHAPE = (14, 70, 190)
AFFINE = np.diag([3.0, 1.0, 1.0, 1.0])
HEIGHT, PITCH, BODIES = 24, 31, 6
MARROW = 200.0


def spine(bodies: int = BODIES) -> tuple[np.ndarray, np.ndarray, Grid]:
    """A straight spine of boxes, foot to head along the third axis: anatomy, vertebrae, grid."""
    anatomy, vertebrae = np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=np.uint8)
    anatomy[5:9, 12:26, :] = Structure.THECAL_SAC
    for number in range(1, bodies + 1):
        anatomy[place_of(number)] = Structure.VERTEBRAL_BODY
        vertebrae[place_of(number)] = number
    return anatomy, vertebrae, Grid(SHAPE, AFFINE)


def place_of(number: int) -> tuple[slice, slice, slice]:
    """The box of a body; the first is the highest."""
    top = SHAPE[2] - 2 - (number - 1) * PITCH
    return slice(1, 13), slice(28, 60), slice(top - HEIGHT, top)


def middle_of(number: int) -> tuple[slice, slice, slice]:
    """A body's box without its outer fifths."""
    return tuple(
        slice(edge.start + (edge.stop - edge.start) // 5, edge.stop - (edge.stop - edge.start) // 5)
        for edge in place_of(number)
    )


def image(**factors: float) -> np.ndarray:
    """Marrow with noise, a vein in every body, and the fall-off of a coil; ``b3=1.6`` is brighter."""
    rng = np.random.default_rng(5)
    made = rng.normal(MARROW, 12.0, SHAPE)
    for number in range(1, BODIES + 1):
        rows, columns, slices = place_of(number)
        made[4:9, columns.start : columns.start + 8, slices.start + 9 : slices.start + 15] *= 2.0
        made[rows, columns, slices] *= factors.get(f"b{number}", 1.0)
    return (made * np.linspace(0.7, 1.4, SHAPE[2])).astype(np.float32)


def raised(
    *images: np.ndarray,
    before: np.ndarray | None = None,
    covered: tuple[np.ndarray, ...] = (),
    weightings: tuple[Weighting, ...] = (),
) -> np.ndarray:
    anatomy, vertebrae, grid = spine()
    if before is None:
        before = np.full(SHAPE, 0.02, dtype=np.float32)
    volumes = [
        Volume(one, grid, Series("study", str(place), weighting=weighting))
        for place, (one, weighting) in enumerate(
            zip(images, weightings or [Weighting.T2] * len(images), strict=True)
        )
    ]
    return raise_where_unlike(before, volumes, covered, anatomy, vertebrae)


@pytest.mark.parametrize("factor", [0.55, 1.6])
def test_a_body_that_is_darker_or_brighter_throughout_is_raised_and_no_other(factor):
    result = raised(image(b3=factor))
    assert np.median(result[middle_of(3)]) > 0.6
    for number in (1, 2, 4, 5, 6):
        assert (result[place_of(number)] == np.float32(0.02)).all()


@pytest.mark.parametrize("weighting", [Weighting.T1, Weighting.T2_FS, Weighting.UNKNOWN])
def test_what_is_not_t2_alone_is_left_as_it_is(weighting):
    assert (raised(image(b3=0.55), weightings=(weighting,)) == np.float32(0.02)).all()
    beside_t2 = raised(image(b3=0.55), image(b3=0.55), weightings=(Weighting.T2, weighting))
    assert (beside_t2 == np.float32(0.02)).all()


def test_what_neighbours_share_raises_nothing():
    assert (raised(image()) == np.float32(0.02)).all()


def test_a_step_between_two_kinds_of_marrow_raises_nothing():
    assert (raised(image(b1=1.6, b2=1.6, b3=1.3)) == np.float32(0.02)).all()


@pytest.mark.parametrize("number", [1, BODIES])
@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_an_end_body_is_raised_where_it_stands_out_far_from_the_next_two(number, factor):
    result = raised(image(**{f"b{number}": factor}))
    assert np.median(result[middle_of(number)]) > 0.6
    for other in set(range(1, BODIES + 1)) - {number}:
        assert (result[place_of(other)] == np.float32(0.02)).all()


@pytest.mark.parametrize("number", [1, BODIES])
def test_an_end_body_that_stands_out_a_little_is_left_as_it_was(number):
    assert (raised(image(**{f"b{number}": 1.35}))[place_of(number)] == np.float32(0.02)).all()


def test_what_grows_towards_an_end_raises_nothing_there():
    steep = image() * np.linspace(0.3, 1.7, SHAPE[2], dtype=np.float32)
    assert (raised(steep) == np.float32(0.02)).all()


def test_beside_two_ill_bodies_the_ends_are_compared_with_the_next_two():
    before = np.full(SHAPE, 0.02, dtype=np.float32)
    before[place_of(2)] = 0.9
    result = raised(image(b1=2.2, b2=2.2), before=before)
    assert np.median(result[middle_of(1)]) > 0.6


def test_an_ill_neighbour_is_passed_over_for_the_next():
    before = np.full(SHAPE, 0.02, dtype=np.float32)
    before[place_of(3)] = 0.9
    result = raised(image(b3=2.2, b4=2.2), before=before)
    assert np.median(result[middle_of(4)]) > 0.6
    assert (result >= before).all()


def test_what_a_lesion_fills_of_a_neighbour_is_no_measure():
    scan, before = image(), np.full(SHAPE, 0.02, dtype=np.float32)
    rows, columns, slices = place_of(3)
    corner = (rows, columns, slice(slices.start, slices.start + 7))
    for number in (2, 4):
        shift = (3 - number) * PITCH
        ill = (rows, columns, slice(corner[2].start + shift, corner[2].stop + shift))
        scan[ill] *= 0.4
        before[ill] = 0.9
    assert (raised(scan, before=before)[place_of(3)] == np.float32(0.02)).all()


def test_a_place_within_a_body_is_raised_alone():
    scan = image()
    rows, columns, slices = place_of(3)
    place = (slice(4, 10), slice(40, 56), slice(slices.start + 5, slices.start + 19))
    scan[place] *= 2.0
    result = raised(scan)
    assert np.median(result[5:9, 44:52, slices.start + 9 : slices.start + 15]) > 0.6
    assert result[rows, columns.start : columns.start + 6, slices].max() < 0.25


def test_what_is_never_seen_by_the_networks_is_never_certain():
    assert raised(image(b3=3.0)).max() <= 0.67


def test_a_certain_lesion_stays_as_certain():
    before = np.full(SHAPE, 0.02, dtype=np.float32)
    before[middle_of(3)] = 0.98
    assert (raised(image(b3=1.8), before=before)[middle_of(3)] == np.float32(0.98)).all()


def test_one_series_of_two_says_less_than_both():
    plain, ill = image(), image(b3=1.6)
    one, both = raised(plain, ill), raised(ill, ill)
    assert 0.02 < np.median(one[middle_of(3)]) < np.median(both[middle_of(3)])


def test_where_a_series_has_no_values_it_says_nothing():
    scan = image()
    shown = np.ones(SHAPE, dtype=np.bool_)
    shown[place_of(3)] = False
    scan[place_of(3)] = 0.0
    assert (raised(scan, covered=(shown,)) == np.float32(0.02)).all()


def test_images_of_mean_zero_are_compared_too():
    scan = image(b3=1.8)
    scan[0] = 0.0  # air
    result = raised((scan - scan.mean()) / scan.std())
    assert np.median(result[middle_of(3)]) > 0.5
    assert (result[place_of(5)] == np.float32(0.02)).all()


def test_axes_in_another_order_and_direction_give_the_same():
    anatomy, vertebrae, grid = spine()
    scan, before = image(b3=1.6), np.full(SHAPE, 0.02, dtype=np.float32)
    expected = raised(scan)
    turned = np.zeros((4, 4))
    turned[2, 0], turned[0, 1], turned[1, 2], turned[3, 3] = -1.0, 3.0, 1.0, 1.0
    turned[2, 3] = SHAPE[2] - 1
    other = Grid((SHAPE[2], SHAPE[0], SHAPE[1]), turned)

    def moved(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.transpose(2, 0, 1)[::-1])

    assert np.allclose(other.to_world([0, 0, 0]), grid.to_world([0, 0, SHAPE[2] - 1]))
    volume = Volume(moved(scan), other, Series("study", "other", weighting=Weighting.T2))
    result = raise_where_unlike(moved(before), [volume], (), moved(anatomy), moved(vertebrae))
    assert np.allclose(result, moved(expected), atol=1e-5)


@pytest.mark.parametrize("bodies", [0, 1, 2])
def test_fewer_than_three_bodies_are_not_compared(bodies):
    anatomy, vertebrae, grid = spine(bodies)
    assert BodyCells.of(anatomy, vertebrae, grid) is None
    before = np.full(SHAPE, 0.02, dtype=np.float32)
    volume = Volume(image(b2=2.0), grid, Series("study", "one", weighting=Weighting.T2))
    assert raise_where_unlike(before, [volume], (), anatomy, vertebrae) is before


def test_nothing_labelled_is_not_compared():
    grid, nothing = Grid(SHAPE, AFFINE), np.zeros(SHAPE, dtype=np.uint8)
    assert BodyCells.of(nothing, nothing, grid) is None
