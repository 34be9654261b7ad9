"""Implanted lesions lie in the compartment they are said to be in, with the signal of their weighting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from phantoms import draw_phantom
from spinemets.anatomy import Compartment, Structure
from spinemets.simulation.lesion_places import ImplantOptions
from spinemets.simulation.lesions import Look, implant_lesions
from spinemets.simulation.references import measure_references
from spinemets.volume import Weighting

SPACING_MM = (4.0, 1.0, 1.0)
BONE = (Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS, Structure.SACRUM)
CANAL = (Structure.THECAL_SAC, Structure.CORD)
WEIGHTS = {
    Compartment.EXTRADURAL: (1.0, 0.0, 0.0),
    Compartment.INTRADURAL_EXTRAMEDULLARY: (0.0, 1.0, 0.0),
    Compartment.INTRAMEDULLARY: (0.0, 0.0, 1.0),
}
# Grey values in the order of ``Structure``: background (fat), body, posterior, disc, sac, cord, sacrum.
GREY = {
    Weighting.T1: (300, 170, 170, 90, 40, 100, 170),
    Weighting.T2: (250, 130, 130, 90, 280, 110, 130),
    Weighting.T2_FS: (60, 50, 50, 90, 300, 130, 50),
    Weighting.T1_FS_GD: (60, 70, 70, 90, 40, 100, 70),
}
NOISE = 6.0
CLEAR = Look()
SEEDS = range(12)
ONE_IN_ARCHES = ImplantOptions(
    mean_number=0.0,
    compartment_weights=WEIGHTS[Compartment.EXTRADURAL],
    bone_weights=(0.0, 1.0, 0.0),
    whole_vertebra=0.0,
    epidural_extension=0.0,
)


@pytest.fixture(scope="module")
def structures():
    return draw_phantom(highest="T12", lowest="L2", conus="L2", spacing_mm=SPACING_MM).segmentation.anatomy


def picture(structures, weighting):
    grey = np.array(GREY[weighting], dtype=np.float32)[structures]
    noise = np.random.default_rng(1).normal(0, NOISE, structures.shape)
    return np.maximum(grey + noise, 0).astype(np.float32)


def implant(structures, compartment, weighting=Weighting.T1, seed=0, look=CLEAR, **options):
    options = {"mean_number": 0.0, "epidural_extension": 0.0, **options}
    chosen = ImplantOptions(compartment_weights=WEIGHTS[compartment], **options)
    image = picture(structures, weighting)
    return image, implant_lesions(
        image, structures, SPACING_MM, weighting, chosen, np.random.default_rng(seed), look
    )


def each_implant(structures, compartment, weighting=Weighting.T1, **options):
    """Implants of several seeds that drew at least one lesion."""
    drawn = [implant(structures, compartment, weighting, seed, **options) for seed in SEEDS]
    drawn = [(image, ill) for image, ill in drawn if ill.compartments]
    assert len(drawn) > len(SEEDS) / 2
    return drawn


def test_an_intramedullary_lesion_is_cord(structures):
    for _, ill in each_implant(structures, Compartment.INTRAMEDULLARY):
        assert set(ill.compartments) == {Compartment.INTRAMEDULLARY}
        assert (ill.structures[ill.lesions > 0] == Structure.CORD).all()
        before = structures[ill.lesions > 0]
        assert np.isin(before, CANAL).all()
        assert (before == Structure.CORD).any()


def test_the_cord_may_swell_but_keeps_what_it_had(structures):
    swollen = 0
    for _, ill in each_implant(structures, Compartment.INTRAMEDULLARY):
        changed = ill.structures != structures
        assert (ill.lesions[changed] > 0).all()
        assert (structures[changed] == Structure.THECAL_SAC).all()
        swollen += changed.any()
    assert swollen


def test_an_intradural_lesion_lies_in_the_sac_and_leaves_its_name(structures):
    for _, ill in each_implant(structures, Compartment.INTRADURAL_EXTRAMEDULLARY):
        assert set(ill.compartments) == {Compartment.INTRADURAL_EXTRAMEDULLARY}
        assert (structures[ill.lesions > 0] == Structure.THECAL_SAC).all()
        assert np.array_equal(ill.structures, structures)


def test_an_extradural_lesion_lies_in_bone_and_leaves_its_name(structures):
    for _, ill in each_implant(structures, Compartment.EXTRADURAL):
        assert set(ill.compartments) == {Compartment.EXTRADURAL}
        assert np.isin(structures[ill.lesions > 0], BONE).all()
        assert np.array_equal(ill.structures, structures)


def test_epidural_growth_takes_the_sac_s_place_and_stays_near_bone(structures):
    into_canal = 0
    to_bone = ndimage.distance_transform_edt(~np.isin(structures, BONE), sampling=SPACING_MM)
    for _, ill in each_implant(
        structures, Compartment.EXTRADURAL, epidural_extension=1.0, whole_vertebra=0.0
    ):
        lesion = ill.lesions > 0
        assert (to_bone[lesion] < 7).all()
        assert not (structures[lesion] == Structure.DISC).any()
        displaced = lesion & np.isin(structures, CANAL)
        assert (ill.structures[displaced] == Structure.BACKGROUND).all()
        assert np.array_equal(ill.structures[~displaced], structures[~displaced])
        into_canal += displaced.any()
    assert into_canal


def test_a_whole_vertebra_is_one_body_for_the_most_part(structures):
    for _, ill in each_implant(structures, Compartment.EXTRADURAL, whole_vertebra=1.0):
        assert (structures[ill.lesions > 0] == Structure.VERTEBRAL_BODY).all()
        bodies, _ = ndimage.label(structures == Structure.VERTEBRAL_BODY)
        (hit,) = np.unique(bodies[ill.lesions > 0])
        assert (ill.lesions[bodies == hit] > 0).mean() > 0.5


@pytest.mark.parametrize(
    ("weighting", "side"), [(Weighting.T1, -1), (Weighting.T2_FS, 1), (Weighting.T1_FS_GD, 1)]
)
def test_lytic_marrow_disease_is_dark_on_t1_and_bright_where_fat_is_suppressed(structures, weighting, side):
    lytic = 0
    for image, ill in each_implant(structures, Compartment.EXTRADURAL, weighting, radius_mm=(6.0, 12.0)):
        lesion = ill.lesions > 0
        marrow = np.median(image[(structures == Structure.VERTEBRAL_BODY) & ~lesion])
        shift = np.median(ill.image[lesion]) - marrow
        if side * shift > 2 * NOISE:
            lytic += 1
        else:
            # What is left is sclerotic: dark on everything.
            assert shift < -0.8 * NOISE
    assert lytic >= 0.5 * len(SEEDS)


@pytest.mark.parametrize("grey", [110, 300])
def test_disease_stands_out_from_the_bone_it_lies_in_whatever_bodies_look_like(structures, grey):
    seen = 0
    for seed in SEEDS:
        image = picture(structures, Weighting.T1)
        arches = structures == Structure.POSTERIOR_ELEMENTS
        image[arches] += grey - GREY[Weighting.T1][Structure.POSTERIOR_ELEMENTS]
        ill = implant_lesions(
            image, structures, SPACING_MM, Weighting.T1, ONE_IN_ARCHES, np.random.default_rng(seed)
        )
        within = ill.lesions > 0
        if not within.any() or arches[within].mean() < 0.9:
            continue
        seen += 1
        assert np.median(ill.image[within]) < grey - 1.5 * NOISE
    assert seen > len(SEEDS) / 3


def test_disease_of_arches_stands_out_from_how_arches_differ_among_themselves(structures):
    arches = structures == Structure.POSTERIOR_ELEMENTS
    # Every 12 mm of arches has a signal of its own, while bodies are as even as ever.
    steps = np.random.default_rng(2).normal(0, 5 * NOISE, structures.shape[2] // 12 + 1)
    image = picture(structures, Weighting.T1)
    image += arches * np.repeat(steps, 12)[: structures.shape[2]].astype(np.float32)
    shifts = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        ill = implant_lesions(image, structures, SPACING_MM, Weighting.T1, ONE_IN_ARCHES, rng)
        within = ill.lesions > 0
        if within.any() and arches[within].mean() > 0.9:
            shifts.append(float(np.median(image[within]) - np.median(ill.image[within])))
    assert len(shifts) > len(SEEDS) / 3
    assert min(shifts) > 5 * NOISE


def contrasts(structures, look):
    drawn = each_implant(structures, Compartment.EXTRADURAL, look=look, sclerotic=0.0)
    return [abs(np.median(ill.image[ill.lesions > 0]) - GREY[Weighting.T1][1]) for _, ill in drawn]


def test_faint_disease_stands_out_by_less(structures):
    clear, faint = contrasts(structures, CLEAR), contrasts(structures, Look(faintest=0.3))
    assert NOISE / 2 < min(faint) < 0.8 * min(clear)


def test_moderate_disease_on_t2_is_neither_black_nor_as_bright_as_fluid(structures):
    image, marrow = picture(structures, Weighting.T2), GREY[Weighting.T2][1]
    image = np.where(np.isin(structures, CANAL), 4 * image, image)
    options = ImplantOptions(compartment_weights=WEIGHTS[Compartment.EXTRADURAL], epidural_extension=0.0)

    def contrasts_on_t2(look):
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            ill = implant_lesions(image, structures, SPACING_MM, Weighting.T2, options, rng, look)
            if ill.compartments:
                yield abs(float(np.median(ill.image[ill.lesions > 0])) - marrow)

    assert max(contrasts_on_t2(CLEAR)) > 1.5 * marrow
    moderate = list(contrasts_on_t2(Look(moderate=1.0)))
    assert min(moderate) > 2 * NOISE
    assert max(moderate) < 1.2 * marrow


@pytest.mark.parametrize(("chance", "brighter"), [(0.0, True), (1.0, False)])
def test_disease_on_t2_is_as_seldom_darker_as_is_asked_for(structures, chance, brighter):
    image, marrow = picture(structures, Weighting.T2), GREY[Weighting.T2][1]
    options = ImplantOptions(compartment_weights=WEIGHTS[Compartment.EXTRADURAL], sclerotic=0.0)
    medians = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        ill = implant_lesions(image, structures, SPACING_MM, Weighting.T2, options, rng, Look(darker=chance))
        if ill.compartments:
            medians.append(float(np.median(ill.image[ill.lesions > 0])))
    assert len(medians) > len(SEEDS) / 2
    assert all((median > marrow) is brighter for median in medians)


def test_disease_without_texture_is_smoother(structures):
    def roughness(look):
        options = {"radius_mm": (10.0, 12.0), "sclerotic": 0.0}
        drawn = each_implant(structures, Compartment.EXTRADURAL, look=look, **options)
        cores = [ndimage.binary_erosion(ill.lesions > 0, np.ones((1, 3, 3))) for _, ill in drawn]
        return np.median([ill.image[core].std() for (_, ill), core in zip(drawn, cores, strict=True)])

    assert roughness(Look(untextured=1.0)) < 0.8 * roughness(CLEAR)


@pytest.mark.parametrize("weighting", list(GREY))
def test_sclerotic_disease_is_dark_on_everything(structures, weighting):
    dark = []
    for image, ill in each_implant(
        structures, Compartment.EXTRADURAL, weighting, radius_mm=(6.0, 12.0), sclerotic=1.0
    ):
        lesion = ill.lesions > 0
        marrow = np.median(image[(structures == Structure.VERTEBRAL_BODY) & ~lesion])
        dark.append(np.median(ill.image[lesion]) < marrow)
    assert all(dark)


@pytest.mark.parametrize("weighting", list(GREY))
def test_an_intradural_nodule_stands_out_against_its_fluid(structures, weighting):
    for image, ill in each_implant(structures, Compartment.INTRADURAL_EXTRAMEDULLARY, weighting):
        lesion = ill.lesions > 0
        fluid = np.median(image[(structures == Structure.THECAL_SAC) & ~lesion])
        assert abs(np.median(ill.image[lesion]) - fluid) > 1.5 * NOISE


def test_what_enhances_in_the_sac_is_brighter_than_marrow_without_its_fat(structures):
    signals = []
    for image, ill in each_implant(
        structures, Compartment.INTRADURAL_EXTRAMEDULLARY, Weighting.T1_FS_GD, mean_number=3.0
    ):
        marrow = np.median(image[structures == Structure.VERTEBRAL_BODY])
        signals.append(np.median(ill.image[ill.lesions > 0]) / marrow)
    assert np.median(signals) > 1.3
    assert max(signals) < 3.0


def test_a_cord_lesion_is_bright_on_t2(structures):
    for image, ill in each_implant(structures, Compartment.INTRAMEDULLARY, Weighting.T2):
        lesion = ill.lesions > 0
        assert np.median(ill.image[lesion]) > np.median(image[structures == Structure.CORD]) + NOISE


INVADED = {
    Compartment.EXTRADURAL: BONE,
    Compartment.INTRADURAL_EXTRAMEDULLARY: (Structure.THECAL_SAC,),
    Compartment.INTRAMEDULLARY: CANAL,
}


@pytest.mark.parametrize("compartment", list(Compartment))
def test_nothing_changes_beyond_a_lesion_s_edge(structures, compartment):
    for image, ill in each_implant(structures, compartment):
        changed, lesion = ill.image != image, ill.lesions > 0
        assert changed[lesion].mean() > 0.9
        # Partly filled voxels belong to the edge, and the edge to the same tissue.
        assert np.isin(structures[changed], INVADED[compartment]).all()
        reach = ndimage.distance_transform_edt(~lesion, sampling=SPACING_MM)
        assert np.percentile(reach[changed], 95) <= max(SPACING_MM) + 1
        assert reach[changed].max() < 4 * max(SPACING_MM)


@pytest.mark.parametrize("weighting", [Weighting.T1, Weighting.T2, Weighting.T2_FS])
def test_a_nodule_stands_out_where_a_canal_is_labelled_without_its_cord(structures, weighting):
    canal = np.where(structures == Structure.CORD, Structure.THECAL_SAC, structures).astype(np.uint8)
    for _, ill in each_implant(canal, Compartment.INTRADURAL_EXTRAMEDULLARY, weighting):
        csf = ill.image[(canal == Structure.THECAL_SAC) & (ill.lesions == 0)]
        marrow = ill.image[canal == Structure.VERTEBRAL_BODY]
        contrast = abs(np.median(ill.image[ill.lesions > 0]) - np.median(csf))
        assert contrast > 0.15 * abs(np.median(csf) - np.median(marrow))


@pytest.mark.parametrize("compartment", list(Compartment))
def test_what_is_given_is_not_changed(structures, compartment):
    image, labels = picture(structures, Weighting.T2), structures.copy()
    image.setflags(write=False)
    labels.setflags(write=False)
    options = ImplantOptions(compartment_weights=WEIGHTS[compartment])
    implant_lesions(image, labels, SPACING_MM, Weighting.T2, options, np.random.default_rng(3))
    assert np.array_equal(labels, structures)
    assert np.array_equal(image, picture(structures, Weighting.T2))


def test_the_seed_decides_everything(structures):
    options = ImplantOptions()
    image = picture(structures, Weighting.T2)
    first, second, other = (
        implant_lesions(
            image, structures, SPACING_MM, Weighting.UNKNOWN, options, np.random.default_rng(seed)
        )
        for seed in (5, 5, 6)
    )
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.lesions, second.lesions)
    assert first.compartments == second.compartments
    assert not np.array_equal(first.image, other.image)


def test_several_lesions_are_numbered_and_do_not_overlap(structures):
    _, ill = implant(structures, Compartment.EXTRADURAL, mean_number=6.0, radius_mm=(3.0, 6.0))
    assert len(ill.compartments) > 2
    assert sorted(np.unique(ill.lesions)) == list(range(len(ill.compartments) + 1))


def test_without_cord_and_sac_every_lesion_is_extradural(structures):
    labels = np.where(np.isin(structures, CANAL), Structure.BACKGROUND, structures).astype(np.uint8)
    image = picture(labels, Weighting.T1)
    for seed in SEEDS:
        options = ImplantOptions(compartment_weights=(0.2, 0.4, 0.4))
        ill = implant_lesions(image, labels, SPACING_MM, Weighting.T1, options, np.random.default_rng(seed))
        assert set(ill.compartments) <= {Compartment.EXTRADURAL}


def test_without_any_spine_nothing_is_implanted():
    labels = np.zeros((6, 40, 40), dtype=np.uint8)
    image = np.random.default_rng(2).normal(100, 5, labels.shape).astype(np.float32)
    ill = implant_lesions(image, labels, SPACING_MM, Weighting.T1, ImplantOptions(), np.random.default_rng(0))
    assert ill.compartments == ()
    assert np.array_equal(ill.image, image)


@pytest.mark.parametrize("weighting", list(GREY))
def test_references_are_the_tissues_medians(structures, weighting):
    found = measure_references(picture(structures, weighting), structures)
    fat, body, _, disc, sac, cord, _ = GREY[weighting]
    assert found.marrow == pytest.approx(body, abs=2)
    assert found.spread == pytest.approx(NOISE, rel=0.15)
    assert found.cord == pytest.approx(cord, abs=2)
    assert found.csf == pytest.approx(sac, abs=2 * NOISE)
    assert found.soft_tissue == pytest.approx(disc, abs=0.5 * NOISE)
    assert found.fat == pytest.approx(fat, abs=2 * NOISE)
