"""Outlined bodies say what is certain inside them, leave their edges open, and touch nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.errors import ConfigError, GeometryError
from spinemets.training.data import read_sources
from spinemets.training.outlines import polygon_depth, read_outlines, with_outlines
from spinemets.training.recipe import load_recipe
from spinemets.training.samples import SampleOptions, draw_sample
from spinemets.training.scans import bit, read_sct

REPOSITORY = Path(__file__).parents[2]
OUTLINES = REPOSITORY / "configs/train/labels/sct_bodies.json"
BACK, FRONT, CENTRE, HALF_WIDTH = 105, 121, 20, 6
TOPS = {"C6": 58, "C7": 40, "T1": 22}
HEIGHT = 12


def body(name, top):
    return {
        "name": name,
        "centre": CENTRE,
        "half_width": HALF_WIDTH,
        "superior": [[BACK, top], [FRONT, top]],
        "inferior": [[BACK, top - HEIGHT], [FRONT, top - HEIGHT]],
    }


def outline_text(shape=(40, 180, 60), **changes):
    scan = {
        "file": "tiny_T2w.nii.gz",
        "shape": list(shape),
        "affine": np.eye(4).tolist(),
        "bodies": [body(name, top) for name, top in TOPS.items()],
        "spinous_processes": [{"centre": CENTRE, "half_width": 2, "polygon": [[60, 20], [70, 20], [70, 30]]}],
    }
    return json.dumps({"convention": "", "scans": {"tiny": {**scan, **changes}}})


@pytest.fixture
def written(tmp_path):
    def write(**changes):
        path = tmp_path / "outlines.json"
        path.write_text(outline_text(**changes))
        return path

    return write


@pytest.fixture
def outlined(tiny, written):
    return with_outlines(tiny.sct(), read_outlines(written())["tiny"])


def test_the_middle_of_a_body_is_its_region(outlined):
    middle = (BACK + FRONT) // 2
    for name, channel in (
        ("C6", Channel.CERVICAL_BODY),
        ("C7", Channel.CERVICAL_BODY),
        ("T1", Channel.THORACIC_BODY),
    ):
        place = (CENTRE, middle, TOPS[name] - HEIGHT // 2)
        assert outlined.allowed[place] == bit(channel)
        assert outlined.structures[place] == Structure.VERTEBRAL_BODY


def test_between_two_bodies_is_disc(outlined):
    place = (CENTRE, 113, TOPS["C7"] + 3)
    assert outlined.allowed[place] == bit(Channel.DISC)
    assert outlined.structures[place] == Structure.DISC


def test_an_endplate_may_be_body_or_disc_but_nothing_else(outlined):
    assert outlined.allowed[CENTRE, 113, TOPS["C7"]] == bit(Channel.CERVICAL_BODY, Channel.DISC)


def test_the_front_edge_may_be_body_or_background(outlined):
    edge = int(outlined.allowed[CENTRE, FRONT, TOPS["C7"] - 6])
    assert edge & bit(Channel.CERVICAL_BODY)
    assert edge & bit(Channel.BACKGROUND)
    assert not edge & bit(Channel.DISC, Channel.THORACIC_BODY)


def test_what_lies_ahead_of_the_bodies_is_background_up_to_15_mm(outlined):
    row = outlined.allowed[CENTRE, :, TOPS["C7"] - 6]
    assert (row[FRONT + 3 : FRONT + 15] == bit(Channel.BACKGROUND)).all()
    assert row[FRONT + 17] != bit(Channel.BACKGROUND)
    assert row[BACK - 5] != bit(Channel.BACKGROUND)


def test_beside_the_outlined_width_only_regions_that_cannot_be_there_are_ruled_out(tiny, outlined):
    beside = CENTRE + HALF_WIDTH + 1
    before = tiny.sct()
    # Beside C7, where T1 is too far below.
    elsewhere = bit(Channel.LUMBAR_BODY, Channel.SACRUM, Channel.THORACIC_BODY)
    place = (beside, 113, TOPS["C7"] - 6)
    assert outlined.allowed[place] == int(before.allowed[place]) & ~elsewhere
    assert outlined.structures[place] == before.structures[place]


def test_a_round_front_recedes_towards_the_sides(tiny, written):
    rounded = [{**body("C7", 40), "front_recess": 6}]
    scan = with_outlines(tiny.sct(), read_outlines(written(bodies=rounded))["tiny"])
    height, row = 34, FRONT - 4
    assert scan.allowed[CENTRE, row, height] == bit(Channel.CERVICAL_BODY)
    assert scan.structures[CENTRE, row, height] == Structure.VERTEBRAL_BODY
    side = CENTRE + HALF_WIDTH
    assert scan.allowed[side, row, height] == bit(Channel.CERVICAL_BODY, Channel.BACKGROUND)
    assert scan.structures[side, row, height] == Structure.BACKGROUND
    assert scan.allowed[side, FRONT - 9, height] == bit(Channel.CERVICAL_BODY)


def test_cord_and_sac_stay_as_they_were(tiny, written):
    scan = tiny.sct()
    known = np.isin(scan.allowed, (bit(Channel.CORD), bit(Channel.THECAL_SAC)))
    wide = [{**body("C7", 40), "superior": [[60, 40], [FRONT, 40]], "inferior": [[60, 28], [FRONT, 28]]}]
    outlined = with_outlines(scan, read_outlines(written(bodies=wide))["tiny"])
    assert known.any()
    np.testing.assert_array_equal(outlined.allowed[known], scan.allowed[known])
    np.testing.assert_array_equal(outlined.structures[known], scan.structures[known])


def test_a_neck_holds_no_lumbar_body_and_no_sacrum(outlined):
    assert not (outlined.allowed & bit(Channel.LUMBAR_BODY, Channel.SACRUM)).any()


def test_no_thoracic_body_far_above_t1_and_no_cervical_one_far_below_c7(outlined):
    assert not (outlined.allowed[:, :, TOPS["T1"] + 6 :] & bit(Channel.THORACIC_BODY)).any()
    below = TOPS["C7"] - HEIGHT - 6
    assert not (outlined.allowed[:, :, : below + 1] & bit(Channel.CERVICAL_BODY)).any()


def test_a_spinous_process_is_posterior(outlined):
    assert outlined.allowed[CENTRE, 68, 23] == bit(Channel.POSTERIOR_ELEMENTS)
    assert outlined.structures[CENTRE, 68, 23] == Structure.POSTERIOR_ELEMENTS


def test_dens_and_body_of_c2_are_one_bone(tiny, written):
    c2 = body("C2", 40)
    dens = {
        **body("dens", 58),
        "half_width": 3,
        "superior": [[107, 58], [115, 58]],
        "inferior": [[107, 36], [115, 36]],
    }
    scan = with_outlines(tiny.sct(), read_outlines(written(bodies=[c2, dens]))["tiny"])
    assert (scan.allowed[CENTRE, 111, 30:57] == bit(Channel.C2)).all()
    assert scan.allowed[CENTRE + 5, 111, 50] != bit(Channel.C2)


def test_no_voxel_is_left_without_a_channel(outlined):
    assert (outlined.allowed > 0).all()


def test_outlines_of_another_scan_are_refused(tiny, written):
    with pytest.raises(GeometryError, match="outlined scan"):
        with_outlines(tiny.sct(), read_outlines(written(shape=(40, 180, 61)))["tiny"])


@pytest.mark.parametrize("changes", [{"bodies": []}, {"bodies": [body("L1", 40)]}, {"shape": [1, 2]}])
def test_a_malformed_outline_is_refused(written, changes):
    with pytest.raises(ConfigError, match=r"outlines\.json"):
        read_outlines(written(**changes))


def test_a_missing_outline_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json"):
        read_outlines(tmp_path / "none.json")


def recipe(folder, subjects, **sources):
    path = folder / "recipe.yaml"
    sources = {"sct": "sct", "sct_subjects": subjects, "shares": {"sct": 1.0}, **sources}
    path.write_text(yaml.safe_dump({"task": "anatomy", "steps": 1, "sources": sources}))
    return load_recipe(path)


def test_a_recipe_finds_its_outlines_beside_itself(tiny, tmp_path, written):
    written()
    with_them = recipe(tmp_path, ["tiny"], sct_outlines="outlines.json")
    (scan,) = read_sources(with_them, tiny.folder, tmp_path)["sct"]
    assert (scan.structures == Structure.VERTEBRAL_BODY).any()


def test_without_outlines_a_scan_is_read_as_before(tiny, tmp_path):
    (scan,) = read_sources(recipe(tmp_path, ["tiny"]), tiny.folder, tmp_path)["sct"]
    np.testing.assert_array_equal(scan.allowed, tiny.sct().allowed)


def test_a_subject_without_outlines_is_named(tiny, tmp_path, written):
    written()
    text = (tmp_path / "outlines.json").read_text().replace('"tiny"', '"other"')
    (tmp_path / "outlines.json").write_text(text)
    with pytest.raises(ConfigError, match="no outlines of tiny"):
        read_sources(recipe(tmp_path, ["tiny"], sct_outlines="outlines.json"), tiny.folder, tmp_path)


def test_a_training_sample_is_drawn_from_an_outlined_scan(outlined):
    options = SampleOptions(shape=(4, 64, 64), lesion_chance=1.0)
    sample = draw_sample(outlined, options, np.random.default_rng(1))
    assert sample.image.shape == (1, 4, 64, 64)
    assert ((sample.allowed & bit(Channel.CERVICAL_BODY)) > 0).any()


def test_the_depth_below_a_slanted_edge_is_the_distance_to_it():
    depth = polygon_depth(((0, 0), (20, 0), (0, 20)), (20, 20))
    assert depth[5, 5] == pytest.approx(5)
    assert depth[9, 9] == pytest.approx(np.sqrt(2))
    assert depth[15, 15] == pytest.approx(-10 / np.sqrt(2))


@pytest.mark.parametrize("subject", ["errsm_11", "errsm_21"])
def test_shipped_outlines_name_every_body_once_from_the_head_downwards(subject):
    bodies = read_outlines(OUTLINES)[subject].bodies
    names = [b.name for b in bodies if b.name != "dens"]
    assert names == ["C2", "C3", "C4", "C5", "C6", "C7", "T1", "T2", "T3", "T4", "T5"]
    heights = [np.mean(b.polygon, axis=0)[1] for b in bodies if b.name != "dens"]
    assert (np.diff(heights) < -10).all()


def test_no_test_subject_is_outlined():
    assert set(read_outlines(OUTLINES)) == {"errsm_11", "errsm_21"}


@pytest.mark.skipif(
    not os.environ.get("SPINEMETS_REAL_DATA"), reason="SPINEMETS_REAL_DATA names no folder of real scans"
)
@pytest.mark.parametrize("subject", ["errsm_11", "errsm_21"])
def test_on_the_real_scans_discs_shine_or_darken_against_bodies_and_the_cord_is_spared(subject):
    root = Path(os.environ["SPINEMETS_REAL_DATA"]) / "sct"
    before = read_sct(root / f"{subject}_T2w.nii.gz", root / f"{subject}_cord.nii.gz", subject)
    outlines = read_outlines(OUTLINES)[subject]
    scan = with_outlines(before, outlines)
    for channel in (Channel.CORD, Channel.THECAL_SAC):
        np.testing.assert_array_equal(scan.allowed == bit(channel), before.allowed == bit(channel))
    # Sac and cord run behind the bodies: hardly a body voxel was already known to be either.
    polygons = np.max([polygon_depth(b.polygon, outlines.shape[1:]) for b in outlines.bodies], axis=0) > 0.75
    middle = round(outlines.bodies[0].centre)
    taken = np.isin(before.allowed[middle], (bit(Channel.CORD), bit(Channel.THECAL_SAC))) & polygons
    assert taken.sum() < 0.01 * polygons.sum()
    # Cortical endplates are darker than the marrow between them.
    marrow = np.median(scan.image[np.isin(scan.allowed, (bit(Channel.C2), bit(Channel.CERVICAL_BODY)))])
    plates = np.median(scan.image[scan.allowed == bit(Channel.CERVICAL_BODY, Channel.DISC)])
    assert plates < 0.9 * marrow
