"""Pictures of what was missed and made up: the worst first, on the right slice, from the right scans."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from evaluation_script import run
from spinemets.errors import NoUsableInputError
from spinemets.evaluation.failures import made_up, missed, save_failures
from spinemets.evaluation.files import find_studies
from spinemets.evaluation.lesions import match_lesions

# Left-right, back-front, foot-head in RAS+; the lesions lie in slices 1 and 6.
SHAPE, AFFINE = (8, 60, 80), np.diag([4.0, 1.0, 1.0, 1.0])
SMALL, LARGE = np.s_[1:2, 10:14, 60:64], np.s_[5:7, 30:40, 20:30]
ELSEWHERE = np.s_[3:4, 40:50, 60:70]


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(array, AFFINE).to_filename(path)


def labels(*places):
    array = np.zeros(SHAPE, np.uint8)
    for number, place in enumerate(places, start=1):
        array[place] = number
    return array


@pytest.fixture
def study(tmp_path):
    """One study whose two lesions are missed, with a finding elsewhere, and two scans of it."""
    write(tmp_path / "truth" / "s 1" / "lesions.nii.gz", labels(SMALL, LARGE))
    write(tmp_path / "out" / "s_1" / "lesions.nii.gz", labels(ELSEWHERE))
    scan = np.random.default_rng(0).uniform(50, 60, SHAPE).astype(np.float32)
    for name in ("s 1_T1w", "s 1_T2w", "s 10_T1w"):
        write(tmp_path / "scans" / f"{name}.nii.gz", scan)
    return tmp_path


def outcome():
    return match_lesions(
        ("s", "s 1"),
        labels(ELSEWHERE),
        labels(SMALL, LARGE),
        voxel_volume_mm3=4.0,
        confidences={1: 0.7},
        known={},
    )


def failures_of(study):
    found = outcome()
    truth, result = (find_studies(study / name) for name in ("truth", "out"))
    return {"missed": missed(found, truth["s 1"]), "made_up": made_up(found, result["s_1"])}


def orange(picture):
    """Where the outline is drawn."""
    red, green, blue = (np.asarray(picture.convert("RGB"), dtype=int)[..., c] for c in range(3))
    return (red > 200) & (green < 150) & (blue < 120)


def test_failures_tell_their_lesion_and_how_grave_they_are(study):
    failures = failures_of(study)
    assert [(one.number, one.weight) for one in failures["missed"]] == [(1, 64.0), (2, 800.0)]
    assert [(one.number, one.weight) for one in failures["made_up"]] == [(1, 0.7)]
    assert "confidence 0.70" in failures["made_up"][0].caption


def test_the_largest_missed_lesion_comes_first_and_is_outlined_where_it_lies(study):
    missed_path, made_up_path = save_failures(failures_of(study), study / "scans", study)
    assert (missed_path.name, made_up_path.name) == ("missed.png", "made_up.png")
    sheet = Image.open(missed_path)
    tile = sheet.width // 2
    areas = [orange(sheet.crop((rank * tile, 0, (rank + 1) * tile, sheet.height))) for rank in (0, 1)]
    assert areas[0].sum() > 1.5 * areas[1].sum() > 0
    # Two scans, then the outline about the middle of the third picture.
    rows, columns = np.nonzero(areas[0])
    side = tile // 3
    assert columns.mean() == pytest.approx(2.5 * side, abs=0.05 * side)
    assert rows.mean() == pytest.approx(24 + side / 2, abs=0.05 * side)
    # Ten millimetres of the hundred that a picture shows.
    assert np.ptp(columns) == pytest.approx(side / 10, abs=0.03 * side)


def test_a_kind_without_failures_has_no_sheet(study):
    assert save_failures({"missed": [], "made_up": []}, study / "scans", study) == []
    assert not (study / "missed.png").exists()


@pytest.mark.parametrize("name", ["s 1_T1w.nii.gz", "s 10_T1w.nii.gz"])
def test_scans_on_another_grid_or_of_another_study_are_not_taken(study, name):
    scans = study / "others"
    array = np.random.default_rng(1).uniform(1, 2, (8, 60, 70 if "10" not in name else 80))
    write(scans / name, array.astype(np.float32))
    with pytest.raises(NoUsableInputError, match="no image called s 1 on the grid of its labels"):
        save_failures(failures_of(study), scans, study)


def test_the_script_adds_the_pictures_to_its_report(study):
    folders = "results", study / "out", study / "truth"
    done = run(*folders, "--report", study / "report", "--scans", study / "scans")
    assert done.returncode == 0, done.stderr
    text = (study / "report" / "report.md").read_text()
    assert "![missed](missed.png)" in text
    assert "![made_up](made_up.png)" in text
    assert {"missed.png", "made_up.png"} <= {path.name for path in (study / "report").iterdir()}


def test_scans_without_a_report_are_refused(study):
    done = run("results", study / "out", study / "truth", "--scans", study / "scans")
    assert (done.returncode, "--report" in done.stderr) == (2, True)
