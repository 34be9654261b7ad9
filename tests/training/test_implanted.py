"""Implanted studies as files: what the truth says is in the images."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

import make_implanted
from spinemets.anatomy import Compartment, Structure
from spinemets.channels import Channel
from spinemets.evaluation.files import find_studies, read_study_result
from spinemets.simulation.lesion_places import LesionPlan, PlannedLesion
from spinemets.training import implanted
from spinemets.training.implanted import write_implanted
from spinemets.training.scans import LabelledScan, bit
from spinemets.volume import Weighting


@pytest.fixture(scope="module")
def scan() -> LabelledScan:
    rng = np.random.default_rng(3)
    structures = np.zeros((8, 60, 120), dtype=np.uint8)
    for bottom in range(5, 105, 35):
        structures[1:7, 32:56, bottom : bottom + 26] = Structure.VERTEBRAL_BODY
    structures[2:6, 14:26] = Structure.THECAL_SAC
    levels = {Structure.BACKGROUND: 60, Structure.VERTEBRAL_BODY: 120, Structure.THECAL_SAC: 210}
    image = np.select([structures == s for s in levels], list(levels.values())) + rng.normal(
        0, 4, structures.shape
    )
    allowed = np.full(structures.shape, bit(Channel.BACKGROUND), dtype=np.uint16)
    allowed[structures == Structure.VERTEBRAL_BODY] = bit(Channel.LUMBAR_BODY)
    spacing = (3.0, 1.0, 1.0)
    return LabelledScan("x/1", image.astype(np.float32), allowed, structures, spacing, Weighting.T2)


def test_sequences_of_one_study_show_the_same_lesions(scan, tmp_path):
    weightings = (Weighting.T1, Weighting.T2, Weighting.T2_FS)
    count = write_implanted(scan, tmp_path, "sub-1_ses-0", weightings, np.random.default_rng(1))
    masks = np.asarray(nib.load(tmp_path / "truth" / "sub-1_ses-0_lesions.nii.gz").dataobj)
    facts = json.loads((tmp_path / "truth" / "sub-1_ses-0.json").read_text())["lesions"]
    assert masks.max() == count == len(facts) > 0
    assert sorted(p.name for p in (tmp_path / "studies").iterdir()) == [
        f"sub-1_ses-0_{kind}.nii.gz" for kind in ("STIR", "T1w", "T2w")
    ]
    # On the scan's own contrast, what changed is where the truth says.
    t2 = np.asarray(nib.load(tmp_path / "studies" / "sub-1_ses-0_T2w.nii.gz").dataobj)
    changed = np.abs(t2 - scan.image) > 25
    assert changed[masks > 0].mean() > 0.5
    assert changed[masks == 0].mean() < 0.01


def test_a_single_weighting_names_the_truth_too(scan, tmp_path):
    write_implanted(scan, tmp_path, "case_study0", [Weighting.T1], np.random.default_rng(2))
    assert (tmp_path / "truth" / "case_study0_T1w.json").exists()


def test_a_healthy_scan_is_written_as_it_is_with_an_empty_truth(scan, tmp_path):
    rng = np.random.default_rng(1)
    assert write_implanted(scan, tmp_path, "case_study0", [Weighting.T2], rng, "none") == 0
    written = np.asarray(nib.load(tmp_path / "studies" / "case_study0_T2w.nii.gz").dataobj)
    assert np.array_equal(written, scan.image)
    assert not np.asarray(nib.load(tmp_path / "truth" / "case_study0_T2w_lesions.nii.gz").dataobj).any()
    assert json.loads((tmp_path / "truth" / "case_study0_T2w.json").read_text()) == {"lesions": []}


def test_the_truth_tells_volume_and_region(scan, tmp_path):
    write_implanted(scan, tmp_path, "case_study0", [Weighting.T2], np.random.default_rng(1))
    masks = np.asarray(nib.load(tmp_path / "truth" / "case_study0_T2w_lesions.nii.gz").dataobj)
    (first, *_) = json.loads((tmp_path / "truth" / "case_study0_T2w.json").read_text())["lesions"]
    assert first["volume_mm3"] == pytest.approx((masks == 1).sum() * 3.0)
    assert first["region"] == "lumbar"
    assert first["structure"] in ("vertebral_body", "thecal_sac")
    written = np.asarray(nib.load(tmp_path / "studies" / "case_study0_T2w.nii.gz").dataobj)
    inside = masks == 1
    assert first["signal_ratio"] == {
        "T2w": pytest.approx(np.median(written[inside]) / np.median(scan.image[inside]), abs=0.006)
    }
    (truth,) = find_studies(tmp_path / "truth").values()
    assert read_study_result(truth).findings[1].signal_ratio == first["signal_ratio"]["T2w"]


def test_where_several_weightings_show_it_a_lesion_has_several_signals(scan, tmp_path):
    weightings = [Weighting.T1, Weighting.T2]
    write_implanted(scan, tmp_path, "case_study0", weightings, np.random.default_rng(1))
    (first, *_) = json.loads((tmp_path / "truth" / "case_study0.json").read_text())["lesions"]
    assert list(first["signal_ratio"]) == ["T1w", "T2w"]
    (truth,) = find_studies(tmp_path / "truth").values()
    assert read_study_result(truth).findings[1].signal_ratio is None


@pytest.mark.parametrize(
    ("rows", "columns", "region"),
    [
        (slice(40, 48), slice(12, 20), "lumbar"),  # a body at the foot of the column
        (slice(40, 48), slice(80, 88), "thoracic"),
        (slice(2, 10), slice(20, 28), "lumbar"),  # an arch, whether it hangs down or not
        (slice(2, 10), slice(66, 74), None),  # behind L1, or behind T12 if it hangs down
        (slice(16, 24), slice(40, 56), "lumbar"),  # in the canal
        (slice(16, 24), slice(60, 82), None),  # in the canal, behind the disc between two regions
    ],
)
def test_the_region_is_that_of_the_bone_and_left_open_where_an_arch_may_be_of_two(
    scan, tmp_path, monkeypatch, rows, columns, region
):
    allowed = scan.allowed.copy()
    bodies = scan.structures == Structure.VERTEBRAL_BODY
    bodies[:, :, :75] = False
    allowed[bodies] = bit(Channel.THORACIC_BODY)
    two = LabelledScan(scan.subject, scan.image, allowed, scan.structures, scan.spacing_mm, scan.weighting)
    box = (slice(2, 5), rows, columns)
    masks = np.zeros(scan.structures.shape, dtype=np.uint8)
    masks[box] = 1
    lesion = PlannedLesion(Compartment.EXTRADURAL, box, np.ones(masks[box].shape, dtype=np.float32))
    plan = LesionPlan((lesion,), scan.structures, masks, sclerotic=False)
    monkeypatch.setattr(implanted, "plan_lesions", lambda *_: plan)
    write_implanted(two, tmp_path, "case", [Weighting.T2], np.random.default_rng(1))
    (only,) = json.loads((tmp_path / "truth" / "case_T2w.json").read_text())["lesions"]
    assert only["region"] == region


def test_what_is_written_lies_where_the_scan_lies(scan, tmp_path):
    affine = np.diag((3.0, 1.0, 1.0, 1.0))
    affine[:3, 3] = -40, 12.5, 300
    write_implanted(replace(scan, affine=affine), tmp_path, "a_b", [Weighting.T2], np.random.default_rng(1))
    written = (
        nib.load(tmp_path / "studies" / "a_b_T2w.nii.gz"),
        nib.load(tmp_path / "truth" / "a_b_T2w_lesions.nii.gz"),
    )
    assert all(np.allclose(file.affine, affine) for file in written)
    masks = np.asarray(written[1].dataobj)
    for row in json.loads((tmp_path / "truth" / "a_b_T2w.json").read_text())["lesions"]:
        centre = np.argwhere(masks == row["lesion"]).mean(axis=0)
        assert np.allclose(row["centroid_mm"], nib.affines.apply_affine(affine, centre), atol=0.06)


@pytest.mark.parametrize(
    ("channels", "region"),
    [
        ((Channel.CERVICAL_BODY,), "cervical"),
        ((Channel.C2,), "cervical"),
        # Bodies whose region nobody named.
        ((Channel.CERVICAL_BODY, Channel.THORACIC_BODY, Channel.LUMBAR_BODY), None),
    ],
)
def test_the_region_is_told_where_the_labels_tell_it(scan, tmp_path, channels, region):
    allowed = scan.allowed.copy()
    allowed[scan.structures == Structure.VERTEBRAL_BODY] = bit(*channels)
    allowed[:, 32:56, :5] = bit(Channel.SACRUM)
    structures = scan.structures.copy()
    structures[:, 32:56, :5] = Structure.SACRUM
    labelled = replace(scan, allowed=allowed, structures=structures)
    for seed in range(3):
        write_implanted(labelled, tmp_path, f"c_{seed}", [Weighting.T2], np.random.default_rng(seed))
        masks = np.asarray(nib.load(tmp_path / f"truth/c_{seed}_T2w_lesions.nii.gz").dataobj)
        facts = json.loads((tmp_path / f"truth/c_{seed}_T2w.json").read_text())["lesions"]
        for lesion in facts:
            if (structures[masks == lesion["lesion"]] == Structure.VERTEBRAL_BODY).mean() > 0.5:
                assert lesion["region"] == region


@pytest.mark.parametrize("option", [("--copies", "0"), ("--seed", "-3")])
def test_the_script_refuses_numbers_that_write_nothing(option, tmp_path, monkeypatch, capsys):
    command = ["make_implanted.py", str(tmp_path), "011", "--output", str(tmp_path / "out"), *option]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        make_implanted.main()
    assert ended.value.code == 2
    assert option[0] in capsys.readouterr().err
