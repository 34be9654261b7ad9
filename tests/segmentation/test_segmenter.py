"""Segmentations lie on the source's grid, in any orientation, and show what the networks see."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from spinemets import inference
from spinemets.anatomy import Structure
from spinemets.channels import Channel, condition_vector
from spinemets.config import SegmentationConfig
from spinemets.execution import FusedNetwork
from spinemets.inference import Engine
from spinemets.intensity import LESION_INPUTS
from spinemets.network import build_network
from spinemets.segmentation import CascadeSegmenter
from spinemets.volume import Grid, Study, Volume, Weighting
from stand_in_networks import (
    ANATOMY,
    CPU,
    GREY,
    LESION,
    PROVENANCE,
    SPACING,
    BrightOrByWeighting,
    Reader,
    below_middle,
    picture,
    segmenter_of,
    series,
)


@pytest.fixture(scope="module")
def random_segmenter():
    torch.manual_seed(6)
    engines = tuple(Engine(build_network(d), CPU, torch.float32) for d in (ANATOMY, LESION))
    return CascadeSegmenter(engines, SPACING, SegmentationConfig(), PROVENANCE)


def reoriented(volume, order, flips):
    """The same image stored along other axes: its world is unchanged."""
    affine = np.array(volume.grid.affine)[:, [*order, 3]]
    array = volume.intensities.transpose(order)
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
    return Volume(array, Grid(array.shape, affine), volume.series)


def stored_like(array, order, flips):
    array = array.transpose(order)
    return np.flip(array, [axis for axis, flip in enumerate(flips) if flip])


def test_a_fall_back_is_told_in_the_cautions_and_in_how_the_networks_ran(monkeypatch, spine):
    class Without:
        """A GPU that has no room, and a processor that has."""

        def __init__(self, network, device, precision):
            self.network, self.there = FusedNetwork(network, CPU, precision), device.type == "cpu"
            self.definition = network.definition

        def run(self, image, condition, _part_bytes=None):
            if not self.there:
                raise torch.OutOfMemoryError
            return self.network.run(image, condition)

    monkeypatch.setattr(inference, "FusedNetwork", Without)
    monkeypatch.setattr(inference, "_free_bytes", lambda _: 1e12)
    engines = [Engine(build_network(d), torch.device("mps"), torch.bfloat16) for d in (ANATOMY, LESION)]
    monkeypatch.setattr(Engine, "device", CPU)  # where this machine can put the images
    segmenter = CascadeSegmenter((engines[0], engines[1]), SPACING, SegmentationConfig(), PROVENANCE)
    found = segmenter.segment(Study("study", (picture(spine),)))
    ran = found.execution
    assert (ran.device, ran.precision, ran.passes) == ("cpu", "float32", 2)
    assert ran.fallbacks == ("mps ran out of memory; this study was computed on the CPU",)
    assert set(ran.fallbacks) <= set(found.cautions)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_everything_lies_on_the_source_s_grid(random_segmenter, order):
    rng = np.random.default_rng(2)
    shape = np.array((5, 40, 52))[list(order)]
    spacing = np.array((4.0, 0.8, 0.9))[list(order)]
    volume = Volume(rng.gamma(2, 50, shape), Grid(tuple(shape), np.diag([*spacing, 1.0])), series())
    found = random_segmenter.segment(Study("study", (volume,)))
    assert found.grid is volume.grid
    for array in (found.anatomy, found.vertebrae, found.lesion_probability):
        assert array.shape == tuple(shape)
    assert found.lesion_probability.dtype == np.float32
    assert 0 <= found.lesion_probability.min() <= found.lesion_probability.max() <= 1
    assert found.volumes == (volume,)


def test_a_structure_is_found_where_it_is(spine):
    found = segmenter_of(Reader(), BrightOrByWeighting()).segment(Study("s", (picture(spine),)))
    for structure in (Structure.VERTEBRAL_BODY, Structure.THECAL_SAC, Structure.DISC):
        assert dice(found.anatomy == structure, spine.anatomy == structure) > 0.9
    assert len(found.evidence) == 3
    assert all(entry.lumbar > 0.9 for entry in found.evidence)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, True, False), (True, False, True)])
def test_another_storage_order_of_the_same_image_changes_nothing(spine, order, flips):
    segmenter = segmenter_of(Reader(), BrightOrByWeighting())
    volume = picture(spine)
    turned = reoriented(volume, order, flips)
    first, second = (segmenter.segment(Study("s", (v,))) for v in (volume, turned))
    assert (second.anatomy == stored_like(first.anatomy, order, flips)).mean() > 0.999
    assert (second.vertebrae == stored_like(first.vertebrae, order, flips)).mean() > 0.999
    expected = stored_like(first.lesion_probability, order, flips)
    assert np.abs(second.lesion_probability - expected).mean() < 1e-3
    # The lesion is on the patient's right, whichever way the array runs.
    x = turned.grid.to_world(np.argwhere(second.lesion_probability > 0.5))[:, 0]
    assert x.min() > turned.grid.to_world((np.array(turned.grid.shape) - 1) / 2)[0] - 4.0


@pytest.mark.parametrize("flips", [(True, False, False), (False, True, True)])
def test_random_networks_see_the_same_in_another_storage_order(random_segmenter, flips):
    order = (2, 0, 1)
    rng = np.random.default_rng(4)
    grid = Grid((5, 48, 64), np.diag([4.0, 0.8, 0.8, 1.0]))
    volume = Volume(rng.gamma(2, 50, grid.shape), grid, series())
    first, second = (
        random_segmenter.segment(Study("s", (v,))) for v in (volume, reoriented(volume, order, flips))
    )
    assert (second.anatomy == stored_like(first.anatomy, order, flips)).mean() > 0.999
    expected = stored_like(first.lesion_probability, order, flips)
    assert np.abs(second.lesion_probability - expected).max() < 1e-3


def test_lesions_far_from_the_spine_are_not_reported(spine):
    everywhere = BrightOrByWeighting({Weighting.T2: 8.0})
    found = segmenter_of(Reader(), everywhere).segment(Study("s", (picture(spine),)))
    far = np.abs(np.indices(spine.grid.shape)[1] - np.argwhere(spine.anatomy)[:, 1].min()) > 20
    far &= np.indices(spine.grid.shape)[1] < np.argwhere(spine.anatomy)[:, 1].min()
    assert not found.lesion_probability[far].any()
    assert found.lesion_probability[spine.anatomy == Structure.VERTEBRAL_BODY].min() > 0.99


def test_nothing_is_found_in_an_empty_rim(spine):
    rim = below_middle(spine.grid).copy()
    rim[-1] = False  # so that the networks see it
    half = Volume(np.where(rim, 0, GREY[spine.anatomy] + 10), spine.grid, series())

    class Fooled(Reader):
        def run(self, image, condition, report):
            return super().run(image, condition, report)[..., spine_rows]

    spine_rows = np.maximum(np.arange(spine.grid.shape[2]), spine.grid.shape[2] // 2)
    found = segmenter_of(Fooled(), BrightOrByWeighting({Weighting.T2: 8.0})).segment(Study("s", (half,)))
    assert found.anatomy[~rim].any()
    assert not found.anatomy[rim].any()
    assert not found.vertebrae[rim].any()
    assert found.lesion_probability[~rim].max() > 0.9
    assert not found.lesion_probability[rim].any()


@pytest.mark.parametrize(("axis", "margins"), [(1, (30, 12)), (2, (0, 25)), (0, (1, 2))])
def test_zeros_around_an_image_change_nothing(random_segmenter, axis, margins):
    rng = np.random.default_rng(2)
    shape = (7, 40, 52)
    plain = Volume(rng.gamma(2, 50, shape) + 1, Grid(shape, np.diag([4.0, 0.8, 0.9, 1.0])), series())
    added = [margins if other == axis else (0, 0) for other in range(3)]
    affine = np.array(plain.grid.affine)
    affine[:3, 3] = plain.grid.to_world([-before for before, _ in added])
    padded = np.pad(plain.intensities, added)
    around = Volume(padded, Grid(padded.shape, affine), series())
    first, second = (random_segmenter.segment(Study("study", (volume,))) for volume in (plain, around))
    inner = tuple(slice(a, size - b) for (a, b), size in zip(added, padded.shape, strict=True))
    for name in ("anatomy", "vertebrae", "lesion_probability"):
        np.testing.assert_array_equal(getattr(second, name)[inner], getattr(first, name))
        assert np.count_nonzero(getattr(second, name)) == np.count_nonzero(getattr(first, name))


def test_an_image_without_a_spine_has_no_lesions():
    grid = Grid((5, 40, 40), np.diag([4.0, 1.0, 1.0, 1.0]))
    volume = Volume(np.zeros(grid.shape), grid, series())

    class Nothing(Reader):
        def run(self, image, _condition, _report):
            logits = torch.zeros(1, len(Channel), *image.shape[2:])
            logits[:, Channel.BACKGROUND] = 9
            return logits

    found = segmenter_of(Nothing(), BrightOrByWeighting({Weighting.T2: 8.0})).segment(Study("s", (volume,)))
    assert not found.anatomy.any()
    assert not found.lesion_probability.any()
    assert found.evidence == ()


@pytest.mark.parametrize(
    "weighting", [Weighting.T1, Weighting.T2, Weighting.T2_FS, Weighting.T1_FS_GD, Weighting.UNKNOWN]
)
def test_the_weighting_reaches_both_networks(spine, weighting):
    reader, lesion = Reader(), BrightOrByWeighting({weighting: 3.0})
    found = segmenter_of(reader, lesion).segment(Study("s", (picture(spine, weighting),)))
    assert reader.conditions == [condition_vector(weighting).tolist()]
    assert found.lesion_probability.max() == pytest.approx(1 / (1 + np.exp(-3.0)), abs=1e-4)


def test_the_lesion_network_sees_the_image_and_the_anatomy(spine):
    lesion = BrightOrByWeighting()
    segmenter_of(Reader(), lesion).segment(Study("s", (picture(spine),)))
    planes = dict(zip(LESION_INPUTS, lesion.seen[0][0], strict=True))
    assert float((planes["disc"] > 0.9).sum()) > 100
    assert float(planes["body"].max()) == pytest.approx(1, abs=1e-3)


def test_a_fallback_of_the_engine_becomes_a_caution(spine):
    class OutOfRoom(Reader):
        def run(self, image, condition, report):
            report.fallbacks.append("cuda ran out of memory; this study was computed on the CPU")
            return super().run(image, condition, report)

    study = Study("s", (picture(spine), picture(spine, Weighting.T1, "2")))
    found = segmenter_of(OutOfRoom(), BrightOrByWeighting()).segment(study)
    assert [c for c in found.cautions if "out of memory" in c] == [
        "cuda ran out of memory; this study was computed on the CPU"
    ]


def test_the_lesion_network_is_shown_the_spine_and_its_surroundings_only(spine):
    """A scan that is mostly belly: the anatomy's rows plus 32 mm, and no lesion beyond."""
    belly = 120
    image = np.pad(GREY[spine.anatomy], ((0, 0), (0, belly), (0, 0)))
    volume = Volume(image, Grid(image.shape, spine.grid.affine), series())
    lesion = BrightOrByWeighting({Weighting.T2: 8.0})
    found = segmenter_of(Reader(), lesion).segment(Study("s", (volume,)))
    rows = np.nonzero(spine.anatomy.any(axis=(0, 2)))[0]
    shown = lesion.seen[0].shape[3]
    assert np.ptp(rows) < shown <= np.ptp(rows) + 1 + 2 * 32
    assert found.lesion_probability[spine.anatomy.nonzero()].min() > 0.99
    assert found.lesion_probability[:, rows.max() + 40 :].max() < 1e-3
