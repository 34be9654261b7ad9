"""Registration and resampling on synthetic tissue whose place in space is known exactly."""

import numpy as np
import pytest
from scipy import ndimage

from moved_grids import reordered, rigid
from spinemets.config import SegmentationConfig
from spinemets.edges import edge_agreement
from spinemets.registration import align
from spinemets.resampling import RigidTransform, coverage, resample
from spinemets.volume import Grid, Series, Study, Volume

AUTO = SegmentationConfig()
ALWAYS = SegmentationConfig(registration="always")
NEVER = SegmentationConfig(registration="never")
T1, T2 = (40.0, 160.0, 90.0, 220.0), (230.0, 60.0, 150.0, 90.0)
SAGITTAL = Grid((13, 96, 96), np.array([[4.0, 0, 0, -24], [0, 2, 0, -95], [0, 0, 2, -95], [0, 0, 0, 1]]))


def tissue_classes(points_mm, seed=3):
    """Four intermingled tissues, 0 to 3, as an exact function of RAS+ mm; irregular, without a period."""
    random = np.random.default_rng(seed)
    waves = random.normal(size=(24, 3)) / random.uniform(6.0, 14.0, size=(24, 1))
    waves[:, 0] /= 2
    field = np.cos(points_mm @ waves.T + random.uniform(0, 2 * np.pi, 24)).sum(axis=-1)
    return np.digitize(field, (-2.5, 0.0, 2.5))


def scan(grid, contrast, *, series, transform=None, seed=3, frame=""):
    """A noisy image of the tissue; with a transform, of a patient who lies elsewhere."""
    points = grid.to_world(np.stack(np.indices(grid.shape), axis=-1))
    if transform is not None:
        inverse = RigidTransform(np.linalg.inv(transform.matrix))
        points = inverse.apply(points)
    noise = np.random.default_rng(len(series)).normal(0, 6, grid.shape)
    intensities = np.array(contrast)[tissue_classes(points, seed)] + noise
    return Volume(
        intensities.astype(np.float32), grid, Series("study", series, series, frame_of_reference_uid=frame)
    )


def shifted(grid, shift_mm):
    affine = np.array(grid.affine)
    affine[:3, 3] += shift_mm
    return Grid(grid.shape, affine)


def study(*volumes):
    return Study("study", volumes)


def errors(found, truth, grid):
    """Largest displacement between two transforms at a grid's centre (mm) and their angle (degrees)."""
    centre = grid.to_world((np.array(grid.shape) - 1) / 2)
    gap = RigidTransform(np.linalg.inv(truth.matrix) @ found.matrix)
    return gap.shift_mm(centre), gap.rotation_degrees


@pytest.mark.parametrize(
    ("shift_mm", "angles_degrees"),
    [((0, 6, -9), (5, 0, 0)), ((3, -12, 22), (-7, 2, 3)), ((-2, 4, -31), (3, -2, -1))],
)
def test_a_known_offset_is_recovered_across_contrasts(shift_mm, angles_degrees):
    truth = rigid(shift_mm, angles_degrees)
    alignment = align(
        study(scan(SAGITTAL, T1, series="a"), scan(SAGITTAL, T2, series="b", transform=truth, frame="2")),
        ALWAYS,
    )
    off_mm, off_degrees = errors(alignment.transforms[1], truth, SAGITTAL)
    assert off_mm < 1.0
    assert off_degrees < 1.0
    assert "was moved by" in alignment.cautions[0]


def test_a_series_that_hardly_meets_the_reference_does_not_end_the_study():
    random = np.random.default_rng(3)
    grid = Grid((15, 80, 80), np.diag([4.0, 2.0, 2.0, 1.0]))
    # Images with nothing in common: the search leaves what overlaps.
    first, second = (
        Volume(
            ndimage.gaussian_filter(random.random(grid.shape), (0.5, 3, 3)).astype(np.float32) * 1000,
            shifted(grid, (shift_mm, 0, 0)),
            Series("study", name, name, frame_of_reference_uid=name),
        )
        for name, shift_mm in (("a", 0), ("b", 44))
    )
    alignment = align(study(first, second), AUTO)
    assert any("could not be aligned" in caution for caution in alignment.cautions)


@pytest.mark.parametrize(("order", "flips"), [((1, 2, 0), (0, 2)), ((2, 0, 1), (1,)), ((2, 1, 0), (0, 1, 2))])
def test_registration_does_not_depend_on_the_axis_order_of_the_array(order, flips):
    truth = rigid((2, 8, -10), (4, 1, -2))
    grid = reordered(SAGITTAL, order, flips)
    alignment = align(
        study(scan(SAGITTAL, T1, series="a"), scan(grid, T2, series="b", transform=truth, frame="2")), ALWAYS
    )
    off_mm, off_degrees = errors(alignment.transforms[1], truth, SAGITTAL)
    assert off_mm < 1.0
    assert off_degrees < 1.0


def test_an_axial_stack_is_registered_to_a_sagittal_reference():
    truth = rigid((3, 7, -8), (4, 0, 2))
    axial = Grid((70, 70, 24), np.array([[1.5, 0, 0, -52], [0, 1.5, 0, -52], [0, 0, 4, -46], [0, 0, 0, 1]]))
    alignment = align(
        study(scan(SAGITTAL, T1, series="a"), scan(axial, T2, series="b", transform=truth)), AUTO
    )
    off_mm, off_degrees = errors(alignment.transforms[1], truth, axial)
    assert off_mm < 1.0
    assert off_degrees < 1.0


def test_the_registered_series_shows_the_same_tissue_as_the_reference():
    reference = scan(SAGITTAL, T1, series="a")
    moved = scan(SAGITTAL, T2, series="b", transform=rigid((0, 8, -14), (5, 0, 0)))
    aligned = align(study(reference, moved), ALWAYS).volumes[1]
    ideal = scan(SAGITTAL, T2, series="c")
    inside = aligned.intensities != 0
    before = np.corrcoef(moved.intensities[inside], ideal.intensities[inside])[0, 1]
    after = np.corrcoef(aligned.intensities[inside], ideal.intensities[inside])[0, 1]
    assert before < 0.3
    assert after > 0.85
    assert aligned.series is moved.series


def test_registration_gives_the_same_result_twice():
    pair = study(
        scan(SAGITTAL, T1, series="a"), scan(SAGITTAL, T2, series="b", transform=rigid((0, 5, 9), (3, 0, 0)))
    )
    first, second = align(pair, ALWAYS), align(pair, ALWAYS)
    assert not first.transforms[1].is_identity
    np.testing.assert_array_equal(first.transforms[1].matrix, second.transforms[1].matrix)
    np.testing.assert_array_equal(first.volumes[1].intensities, second.volumes[1].intensities)


def test_a_shared_frame_of_reference_is_trusted_and_the_reference_is_untouched():
    grid = Grid((10, 80, 80), np.array([[5.0, 0, 0, -22], [0, 2.2, 0, -90], [0, 0, 2.2, -90], [0, 0, 0, 1]]))
    reference, other = scan(SAGITTAL, T1, series="a", frame="1"), scan(grid, T2, series="b", frame="1")
    alignment = align(study(reference, other), AUTO)
    assert alignment.volumes[0] is reference
    assert alignment.transforms[1].is_identity
    assert alignment.cautions == ()
    np.testing.assert_array_equal(alignment.volumes[1].intensities, resample(other, SAGITTAL).intensities)


def test_movement_within_a_shared_frame_of_reference_is_said():
    truth = rigid((0, 0, 6), (0, 0, 0))
    moved = scan(SAGITTAL, T2, series="b", frame="1", transform=truth)
    alignment = align(study(scan(SAGITTAL, T1, series="a", frame="1"), moved), AUTO)
    assert alignment.transforms[1].is_identity
    assert len(alignment.cautions) == 1
    assert "series (b)" in alignment.cautions[0]
    assert "shifted by 6 mm" in alignment.cautions[0]


def long_edges(volume):
    """The image with edges along the patient, as skin and canal are: they match wherever it is shifted."""
    ripples = 40 * np.cos(np.arange(volume.grid.shape[1]) * 1.3)
    return Volume(volume.intensities + ripples[None, :, None], volume.grid, volume.series)


@pytest.mark.parametrize("shift_mm", [-30, 20])
def test_movement_by_a_vertebra_is_said_though_long_edges_still_match(shift_mm):
    moved = scan(SAGITTAL, T2, series="b", frame="1", transform=rigid((0, 0, shift_mm), (0, 0, 0)))
    reference = scan(SAGITTAL, T1, series="a", frame="1")
    (caution,) = align(study(long_edges(reference), long_edges(moved)), AUTO).cautions
    assert f"shifted by {abs(shift_mm)} mm" in caution


@pytest.mark.parametrize("size", [1, 3])
def test_a_reference_of_a_few_millimetres_has_nowhere_to_be_shifted(size):
    narrow = Grid((13, 96, size), SAGITTAL.affine)
    pair = scan(narrow, T1, series="a", frame="1"), scan(SAGITTAL, T2, series="b", frame="1")
    assert len(align(study(*pair), AUTO).volumes) == 2


def test_a_patient_put_back_on_the_table_is_registered_though_the_settings_are_the_same():
    truth = rigid((0, 5, -12), (3, 0, 0))
    moved = scan(SAGITTAL, T2, series="b", frame="2", transform=truth)
    found = align(study(scan(SAGITTAL, T1, series="a", frame="1"), moved), AUTO).transforms[1]
    assert errors(found, truth, SAGITTAL)[0] < 1.0


def test_always_corrects_movement_within_a_shared_frame_of_reference():
    truth = rigid((0, 0, 6), (0, 0, 0))
    moved = scan(SAGITTAL, T2, series="b", frame="1", transform=truth)
    alignment = align(study(scan(SAGITTAL, T1, series="a", frame="1"), moved), ALWAYS)
    assert errors(alignment.transforms[1], truth, SAGITTAL)[0] < 1.0


def test_never_takes_the_coordinates_and_says_so():
    moved = scan(SAGITTAL, T2, series="b", frame="2", transform=rigid((0, 9, 20), (5, 0, 0)))
    grid = shifted(SAGITTAL, (0.5, 0, 0))
    other = Volume(moved.intensities, grid, moved.series)
    alignment = align(study(scan(SAGITTAL, T1, series="a", frame="1"), other), NEVER)
    assert alignment.transforms[1].is_identity
    assert "by its coordinates" in alignment.cautions[0]


def test_identical_grids_without_a_frame_of_reference_are_not_interpolated():
    other = scan(SAGITTAL, T2, series="b")
    alignment = align(study(scan(SAGITTAL, T1, series="a"), other), AUTO)
    np.testing.assert_array_equal(alignment.volumes[1].intensities, other.intensities)
    assert alignment.cautions == ()


@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (1,)), ((2, 0, 1), ()), ((1, 2, 0), (0, 2))])
def test_the_order_of_the_same_voxels_does_not_decide_whether_a_series_is_registered(order, flips):
    other = scan(SAGITTAL, T2, series="b", transform=rigid((0, 0, 6), (0, 0, 0)))
    stored = np.flip(other.intensities, flips).transpose(order)
    again = Volume(stored, reordered(SAGITTAL, order, flips), other.series)
    usual, alike = (align(study(scan(SAGITTAL, T1, series="a"), one), AUTO) for one in (other, again))
    assert alike.transforms[1].is_identity
    assert alike.cautions == usual.cautions
    np.testing.assert_allclose(alike.volumes[1].intensities, usual.volumes[1].intensities, rtol=1e-5)


def test_aligned_files_without_a_frame_of_reference_keep_their_coordinates():
    grid = Grid((12, 90, 90), np.array([[4.2, 0, 0, -23], [0, 2.1, 0, -93], [0, 0, 2.1, -93], [0, 0, 0, 1]]))
    alignment = align(study(scan(SAGITTAL, T1, series="a"), scan(grid, T2, series="b")), AUTO)
    assert errors(alignment.transforms[1], RigidTransform.identity(), SAGITTAL)[0] < 1.0
    assert alignment.cautions == ()


def test_a_series_that_cannot_be_registered_is_kept_and_flagged():
    grid = shifted(SAGITTAL, (0.3, 0, 0))
    other = scan(SAGITTAL, T2, series="someone else", seed=99)
    alignment = align(
        study(scan(SAGITTAL, T1, series="a"), Volume(other.intensities, grid, other.series)), AUTO
    )
    assert len(alignment.volumes) == 2
    assert alignment.transforms[1].is_identity
    assert "series (someone else) could not be aligned" in alignment.cautions[0]


@pytest.mark.parametrize("config", [AUTO, NEVER])
def test_a_series_that_matches_nowhere_near_its_coordinates_is_said(config):
    turned = scan(SAGITTAL, T2, series="turned", frame="1", transform=rigid((0, 0, 0), (0, 0, 180)))
    alignment = align(study(scan(SAGITTAL, T1, series="a", frame="1"), turned), config)
    assert alignment.transforms[1].is_identity
    (caution,) = alignment.cautions
    assert caution.startswith("series (turned) hardly matches the reference series")


@pytest.mark.parametrize("degrees", [2, 3, 4])
def test_a_shift_beside_a_turn_is_said_however_far_it_is_turned(degrees):
    moved = scan(SAGITTAL, T2, series="b", frame="1", transform=rigid((0, 6, 0), (degrees, 0, 0)))
    (caution,) = align(study(scan(SAGITTAL, T1, series="a", frame="1"), moved), AUTO).cautions
    assert "shifted by 6 mm" in caution or "check its place" in caution


def test_series_without_common_coordinates_are_aligned_by_content_and_flagged():
    truth = rigid((0, 400, 900), (4, 0, 0))
    far = shifted(SAGITTAL, (0, 400, 900))
    alignment = align(study(scan(SAGITTAL, T1, series="a"), scan(far, T2, series="b", transform=truth)), AUTO)
    assert errors(alignment.transforms[1], truth, SAGITTAL)[0] < 1.0
    assert "by its content alone" in alignment.cautions[0]


@pytest.mark.parametrize("config", [AUTO, NEVER])
def test_a_series_of_another_part_of_the_body_is_left_out(config):
    below = shifted(SAGITTAL, (0, 0, -160))
    alignment = align(
        study(scan(SAGITTAL, T1, series="a", frame="1"), scan(below, T2, series="b", frame="1")), config
    )
    assert len(alignment.volumes) == len(alignment.transforms) == 1
    assert "series (b) was left out" in alignment.cautions[0]


def test_a_small_overlap_is_said():
    below = shifted(SAGITTAL, (0, 0, -120))
    alignment = align(
        study(scan(SAGITTAL, T1, series="a", frame="1"), scan(below, T2, series="b", frame="1")), AUTO
    )
    assert len(alignment.volumes) == 2
    assert "only 38% of its extent" in alignment.cautions[0]


def test_beyond_its_extent_a_standardised_series_is_as_dark_as_air():
    below = scan(shifted(SAGITTAL, (0, 0, -90)), T2, series="b", frame="1")
    values = below.intensities
    standardised = Volume((values - values.mean()) / values.std(), below.grid, below.series)
    reference = scan(SAGITTAL, T1, series="a", frame="1")
    usual, other = (align(study(reference, one), AUTO).volumes[1] for one in (below, standardised))
    empty = ~coverage(below.grid, SAGITTAL)
    assert empty.any()
    assert not usual.intensities[empty].any()
    assert not other.intensities[empty].any()
    assert other.intensities.min() == 0


def test_edges_agree_for_another_contrast_of_the_same_tissue_only():
    everywhere = np.ones(SAGITTAL.shape, bool)
    first = scan(SAGITTAL, T1, series="a")
    same = edge_agreement(first, scan(SAGITTAL, T2, series="b"), everywhere)
    other = edge_agreement(first, scan(SAGITTAL, T2, series="b", seed=99), everywhere)
    constant = edge_agreement(first, Volume(np.ones(SAGITTAL.shape), SAGITTAL, first.series), everywhere)
    assert same > 0.4
    assert abs(other) < 0.1
    assert constant == 0.0
