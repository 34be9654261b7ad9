"""Simulated studies show the region and the compartments asked for, and their truth says what they show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spinemets.anatomy import Compartment
from spinemets.anatomy import VertebralLevel as Level
from spinemets.simulation import studies
from spinemets.simulation.phantom import PhantomOptions, draw_spine
from spinemets.simulation.rasterisation import rasterise
from spinemets.simulation.studies import StudyOptions, draw_lesions, draw_study, field_of_view, truth_record
from spinemets.simulation.tissues import code_of_level, structure_of_tissue
from spinemets.volume import Grid, Weighting

QUIET = PhantomOptions(numbering="usual", scoliosis_deg=1.0)


@pytest.fixture(scope="module")
def phantom():
    return draw_spine(np.random.default_rng(4), QUIET)


@pytest.mark.parametrize(
    ("region", "inside", "outside"),
    [
        ("cervical", (Level.C1, Level.C7, Level.T3), (Level.T6, Level.L1)),
        ("thoracic", (Level.C7, Level.T6, Level.L1), (Level.C3, Level.L4)),
        ("lumbar", (Level.T11, Level.L5, Level.S3), (Level.T8, Level.C5)),
        ("whole", (Level.C1, Level.T8, Level.S5), ()),
    ],
)
def test_a_region_shows_its_levels_and_not_the_next_one(phantom, region, inside, outside):
    grid = field_of_view(phantom, region)
    upper = np.array(grid.shape) - 1

    def is_seen(level):
        place = grid.to_index(phantom.centroids_mm()[level])
        return bool(((place >= 0) & (place <= upper)).all())

    assert all(map(is_seen, inside))
    assert not any(map(is_seen, outside))


@pytest.mark.parametrize("compartment", Compartment)
def test_lesions_lie_in_their_compartment_and_in_view(phantom, compartment):
    grid = field_of_view(phantom, "thoracic")
    lesions = draw_lesions(phantom, grid, 4, (compartment,), np.random.default_rng(1))
    assert [lesion.compartment for lesion in lesions] == [compartment] * 4
    upper = np.array(grid.shape) - 1
    for lesion in lesions:
        assert ((grid.to_index(lesion.centre_mm) >= 0) & (grid.to_index(lesion.centre_mm) <= upper)).all()


def test_where_there_is_no_cord_nothing_is_put_into_it(phantom):
    grid = field_of_view(phantom, "lumbar")
    below = np.array(grid.affine)
    low = Grid((13, 210, 60), below)
    assert draw_lesions(phantom, low, 3, (Compartment.INTRAMEDULLARY,), np.random.default_rng(0)) == ()


def test_the_record_says_what_the_maps_show(phantom):
    grid = Grid((13, 105, 100), field_of_view(phantom, "thoracic").affine @ np.diag([1, 2, 3, 1.0]))
    lesions = draw_lesions(phantom, grid, 5, tuple(Compartment), np.random.default_rng(2))
    ill = replace(phantom, lesions=lesions)
    labels = rasterise(ill, grid)
    record = truth_record(ill, labels)
    assert {one["lesion"] for one in record["lesions"]} == set(
        np.unique(labels.lesion[labels.lesion > 0]).tolist()
    )
    for one in record["lesions"]:
        mask = labels.lesion == one["lesion"]
        assert one["volume_mm3"] == pytest.approx(mask.sum() * grid.voxel_volume_mm3, rel=0.01)
        structures = structure_of_tissue(labels.tissue)[mask]
        assert (structures == 5).any() == (one["compartment"] == "intramedullary")
    assert {"T4", "T12"} <= {one["level"] for one in record["levels"]}


def test_a_lesions_region_is_that_of_the_level_that_holds_most_of_it(phantom):
    grid = Grid((13, 105, 100), field_of_view(phantom, "thoracic").affine @ np.diag([1, 2, 3, 1.0]))
    (drawn,) = draw_lesions(phantom, grid, 1, (Compartment.EXTRADURAL,), np.random.default_rng(2))
    labels = rasterise(replace(phantom, lesions=(drawn,)), grid)
    lesion = np.zeros_like(labels.lesion)
    t12, l1 = (np.argwhere(labels.vertebra == code_of_level(level)) for level in (Level.T12, Level.L1))
    lesion[tuple(l1[:60].T)] = lesion[tuple(t12[:2].T)] = 1
    record = truth_record(replace(phantom, lesions=(drawn,)), replace(labels, lesion=lesion))
    (only,) = record["lesions"]
    assert only["region"] == "lumbar"
    assert only["levels"] == ["L1"]


def test_a_lesion_of_the_sac_has_the_level_that_it_lies_behind(phantom):
    grid = field_of_view(phantom, "lumbar")
    profile, bodies = phantom.profile, phantom.centroids_mm()
    heights = profile.bottom_mm + 0.5 * np.arange(len(profile.cosine))
    middles = zip(profile.canal_x_mm, profile.canal_y_mm, heights, strict=True)
    canal = np.array([phantom.deformed(point) for point in middles])
    # 8 mm above its middle is still behind its body.
    behind = canal[np.linalg.norm(canal - np.array(bodies[Level.S1]), axis=1).argmin() + 16]
    assert min(bodies, key=lambda level: abs(bodies[level][2] - behind[2])) is Level.L5
    compartments = (Compartment.INTRADURAL_EXTRAMEDULLARY,)
    (drawn,) = draw_lesions(phantom, grid, 1, compartments, np.random.default_rng(2))
    labels = rasterise(replace(phantom, lesions=(drawn,)), grid)
    lesion = np.zeros_like(labels.lesion)
    lesion[tuple(np.rint(grid.to_index(behind)).astype(int))] = 1
    record = truth_record(replace(phantom, lesions=(drawn,)), replace(labels, lesion=lesion))
    (only,) = record["lesions"]
    assert only["levels"] == ["S1"]
    assert only["region"] == "sacral"


def test_every_sequence_shows_the_same_spine_and_equal_seeds_give_equal_studies(monkeypatch):
    def scan(phantom, grid, _weighting, rng, _properties):
        labels = type("Labels", (), {"grid": grid, "phantom": phantom})
        return np.full(grid.shape, rng.random(), np.float32), labels

    monkeypatch.setattr(studies, "acquire", scan)
    options = StudyOptions("cervical", (Weighting.T1, Weighting.T2), 3, phantom=QUIET)
    first, again, other = (draw_study(options, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert list(first.images) == [Weighting.T1, Weighting.T2]
    assert np.array_equal(first.images[Weighting.T2], again.images[Weighting.T2])
    assert [one.centre_mm for one in first.phantom.lesions] == [
        one.centre_mm for one in again.phantom.lesions
    ]
    assert first.phantom.lesions[0].centre_mm != other.phantom.lesions[0].centre_mm
    with pytest.raises(ValueError, match="weighting"):
        draw_study(replace(options, weightings=()), np.random.default_rng(1))
