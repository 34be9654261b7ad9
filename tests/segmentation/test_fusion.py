"""Several series of a study: each counts where it sees something."""

from __future__ import annotations

import numpy as np
import pytest

from spinemets.anatomy import Structure
from spinemets.volume import Grid, Series, Study, Volume, Weighting
from stand_in_networks import GREY, BrightOrByWeighting, Reader, below_middle, picture, segmenter_of, series


def test_a_series_that_covers_a_part_is_seen_as_if_it_were_alone(spine):
    full = Volume(GREY[spine.anatomy] + 10, spine.grid, series())
    half = spine.grid.shape[2] // 2
    part = Volume(full.intensities[:, :, :half], Grid((*spine.grid.shape[:2], half), spine.grid.affine),
                  series(Weighting.T1, "2"))  # fmt: skip
    images = []

    class Watched(Reader):
        def run(self, image, condition, report):
            images.append(image)
            return super().run(image, condition, report)

    segmenter = segmenter_of(Watched(), BrightOrByWeighting({Weighting.T2: -1.0, Weighting.T1: 3.0}))
    segmenter.segment(Study("s", (part,)))
    segmenter.segment(Study("s", (full, part)))
    alone, _, among = images
    assert among.shape[-1] == pytest.approx(alone.shape[-1], abs=1)
    rows = min(among.shape[-1], alone.shape[-1]) - 2
    assert (among[..., :rows] - alone[..., :rows]).abs().mean() < 0.05


def test_a_series_has_no_vote_in_its_empty_rim(spine):
    rim = below_middle(spine.grid)
    full = GREY[spine.anatomy] + 10
    reference = Volume(np.where(rim, 0, full), spine.grid, series())
    other = Volume(full, spine.grid, series(Weighting.T1, "2"))
    segmenter = segmenter_of(Reader(), BrightOrByWeighting({Weighting.T2: -8.0, Weighting.T1: 2.0}))
    found = segmenter.segment(Study("s", (reference, other)))
    body = rim & (spine.anatomy == Structure.VERTEBRAL_BODY)
    body[:, :, spine.grid.shape[2] // 2 - 3 :] = False
    assert (found.anatomy[body] == Structure.VERTEBRAL_BODY).mean() > 0.9
    assert np.median(found.lesion_probability[body]) == pytest.approx(1 / (1 + np.exp(-2.0)), abs=0.01)


def test_two_series_vote_where_both_see_and_one_decides_where_it_is_alone(spine):
    """Log odds of 3 and -1 make 1.62; the second series shows the upper half only."""
    full = picture(spine)
    half = np.array(spine.grid.shape) // (1, 1, 2)
    affine = np.array(spine.grid.affine)
    affine[:3, 3] = spine.grid.to_world((0, 0, spine.grid.shape[2] - half[2]))
    upper_grid = Grid(tuple(half), affine)
    upper = Volume(full.intensities[:, :, -half[2] :], upper_grid, series(Weighting.T1, "2"))
    segmenter = segmenter_of(Reader(), BrightOrByWeighting({Weighting.T2: -1.0, Weighting.T1: 3.0}))
    found = segmenter.segment(Study("s", (full, upper)))
    body = found.anatomy == Structure.VERTEBRAL_BODY
    body[:, :, : -half[2]], top = False, body.copy()
    top[:, :, : -half[2] + 3] = False
    low = found.anatomy == Structure.VERTEBRAL_BODY
    low[:, :, -half[2] - 3 :] = False
    both = 3 * np.log((np.exp(-1 / 3) + np.exp(1)) / 2)
    assert np.median(found.lesion_probability[top]) == pytest.approx(1 / (1 + np.exp(-both)), abs=0.01)
    assert np.median(found.lesion_probability[low]) == pytest.approx(1 / (1 + np.exp(1.0)), abs=0.01)
    assert len(found.volumes) == 2
    assert found.volumes[0] is full
    whole, part = found.covered
    assert whole[body | low].all()
    assert not part[:, :, : -half[2] - 1].any()
    assert part[top].all()


@pytest.mark.parametrize("silent", [-4.0, -8.0])
def test_a_lesion_plain_on_one_series_outweighs_two_without_a_trace(spine, silent):
    """As a metastasis does that is bright on STIR and like marrow on T2 and T1; the mean would lose it."""
    full = picture(spine)
    others = [
        Volume(full.intensities, spine.grid, series(weighting, name))
        for weighting, name in ((Weighting.T1, "2"), (Weighting.T2_FS, "3"))
    ]
    odds = {Weighting.T2: silent, Weighting.T1: silent, Weighting.T2_FS: 6.0}
    found = segmenter_of(Reader(), BrightOrByWeighting(odds)).segment(Study("s", (full, *others)))
    body = found.anatomy == Structure.VERTEBRAL_BODY
    assert np.median(found.lesion_probability[body]) > 0.9
    odds[Weighting.T2_FS] = silent
    found = segmenter_of(Reader(), BrightOrByWeighting(odds)).segment(Study("s", (full, *others)))
    assert np.median(found.lesion_probability[body]) == pytest.approx(1 / (1 + np.exp(-silent)), abs=0.01)


def test_two_parts_of_one_series_each_count_over_their_own_extent(spine):
    """Two volumes of one DICOM series share a UID; each must keep its own coverage."""
    full = picture(spine)
    count = spine.grid.shape[2] // 2
    affine = np.array(spine.grid.affine)
    affine[:3, 3] = spine.grid.to_world((0, 0, spine.grid.shape[2] - count))
    part_series = Series("study", "1", description="part", weighting=Weighting.T1,
                         frame_of_reference_uid="frame")  # fmt: skip
    part = Volume(full.intensities[:, :, -count:], Grid((*spine.grid.shape[:2], count), affine), part_series)
    segmenter = segmenter_of(Reader(), BrightOrByWeighting({Weighting.T2: -1.0, Weighting.T1: 3.0}))
    found = segmenter.segment(Study("s", (full, part)))
    low = found.anatomy == Structure.VERTEBRAL_BODY
    low[:, :, -count - 3 :] = False
    assert np.median(found.lesion_probability[low]) == pytest.approx(1 / (1 + np.exp(1.0)), abs=0.01)
