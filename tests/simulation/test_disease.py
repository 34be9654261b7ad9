"""Lesions of a phantom: each stays in its compartment and keeps its signal in every sequence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spinemets.anatomy import Compartment, Structure, VertebralLevel
from spinemets.simulation.contrast import draw_properties, signal
from spinemets.simulation.disease import PhantomLesion, paint_lesions
from spinemets.simulation.implicit import draw_waves
from spinemets.simulation.rasterisation import rasterise
from spinemets.simulation.tissues import Tissue, structure_of_tissue
from spinemets.volume import Weighting

EVEN = draw_waves(np.random.default_rng(0), (10.0, 20.0), 0.0)


def with_lesion(usual, compartment, tissue, epidural=False, radius_mm=8.0):
    phantom, labels = usual
    places = labels.grid.to_world(np.argwhere(labels.tissue == tissue))
    level = np.array(phantom.centroids_mm()[VertebralLevel.T8])
    centre = places[np.linalg.norm(places - level, axis=1).argmin()]
    lesion = PhantomLesion(compartment, tuple(centre), (radius_mm,) * 3, EVEN, epidural)
    return rasterise(replace(phantom, lesions=(lesion,)), labels.grid)


@pytest.mark.parametrize(
    ("compartment", "tissue", "structures"),
    [
        (
            Compartment.EXTRADURAL,
            Tissue.BODY_MARROW,
            {Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS},
        ),
        (Compartment.INTRADURAL_EXTRAMEDULLARY, Tissue.CSF, {Structure.THECAL_SAC}),
        (Compartment.INTRAMEDULLARY, Tissue.CORD, {Structure.CORD}),
    ],
)
def test_lesion_stays_in_its_compartment(usual, compartment, tissue, structures):
    labels = with_lesion(usual, compartment, tissue)
    found = structure_of_tissue(labels.tissue)[labels.lesion == 1]
    assert found.size > 20
    assert set(found) <= structures


def test_epidural_growth_displaces_the_sac_and_spares_the_cord(usual):
    phantom, plain = usual
    confined = with_lesion(usual, Compartment.EXTRADURAL, Tissue.BODY_MARROW, radius_mm=24.0)
    grown = with_lesion(usual, Compartment.EXTRADURAL, Tissue.BODY_MARROW, epidural=True, radius_mm=24.0)
    sac, cord = (
        [(structure_of_tissue(labels.tissue) == kind).sum() for labels in (confined, grown)]
        for kind in (Structure.THECAL_SAC, Structure.CORD)
    )
    assert sac[1] < sac[0]
    assert cord[1] == cord[0]
    assert (grown.tissue == Tissue.EPIDURAL_LESION).any()
    assert phantom.lesions == ()
    assert not plain.lesion.any()


def test_marrow_lesion_is_dark_on_t1_and_bright_on_fat_suppressed_t2(usual):
    labels = with_lesion(usual, Compartment.EXTRADURAL, Tissue.BODY_MARROW)
    properties = draw_properties(np.random.default_rng(1), 65.0)
    lesion, marrow = labels.tissue == Tissue.BODY_LESION, labels.tissue == Tissue.BODY_MARROW
    t1, stir = (
        signal(labels, weighting, np.random.default_rng(2), properties)
        for weighting in (Weighting.T1, Weighting.T2_FS)
    )
    assert np.median(t1[lesion]) < 0.85 * np.median(t1[marrow])
    assert np.median(stir[lesion]) > 1.5 * np.median(stir[marrow])


def test_lesion_out_of_view_paints_nothing():
    tissue = np.full((4, 4, 4), Tissue.BODY_MARROW, dtype=np.uint8)
    points = tuple(np.zeros((4, 4, 4), dtype=np.float32) for _ in range(3))
    lesion = PhantomLesion(Compartment.EXTRADURAL, (500.0, 0.0, 0.0), (5.0, 5.0, 5.0), EVEN)
    assert not paint_lesions(tissue, points, (lesion,)).any()
    assert (tissue == Tissue.BODY_MARROW).all()
