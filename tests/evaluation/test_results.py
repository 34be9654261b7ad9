"""Whole result folders against truths: from files to tables, and the script around it."""

import json
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from evaluation_script import run, run_alone
from spinemets.anatomy import Compartment, SpineRegion, Structure
from spinemets.anatomy import VertebralLevel as Level
from spinemets.batch import study_key
from spinemets.errors import GeometryError, NoUsableInputError, UnreadableFileError, UnsupportedInputError
from spinemets.evaluation.files import (
    find_studies,
    folder_beginning,
    read_label_map,
    read_study_result,
    result_named,
)
from spinemets.evaluation.results import FindingFacts, StudyResult, score_exam, summarise
from spinemets.evaluation.tables import mean_row, to_json, to_markdown
from spinemets.volume import Grid

GRID = Grid((4, 20, 20), np.diag([4.0, 1.0, 1.0, 1.0]))
EXTRADURAL = FindingFacts(0.9, Compartment.EXTRADURAL, SpineRegion.LUMBAR)


def maps():
    anatomy = np.zeros(GRID.shape, np.uint8)
    anatomy[:, 2:8, 2:8] = Structure.VERTEBRAL_BODY
    anatomy[:, 12:16, :] = Structure.THECAL_SAC
    lesions = np.zeros(GRID.shape, np.uint8)
    lesions[1:3, 3:6, 3:6] = 1
    lesions[1:3, 13:15, 10:14] = 2
    return anatomy, lesions


def truth_result():
    anatomy, lesions = maps()
    findings = {
        1: EXTRADURAL,
        2: FindingFacts(1.0, Compartment.INTRADURAL_EXTRAMEDULLARY, SpineRegion.LUMBAR),
    }
    return StudyResult("s1", GRID, anatomy, lesions, {Level.L3: (8.0, 5.0, 5.0)}, {}, findings)


def found_result():
    """The sac a row too wide, the vertebra's name right, one lesion missed and one made up."""
    anatomy, lesions = maps()
    anatomy[:, 16, :] = Structure.THECAL_SAC
    lesions[lesions == 2] = 0
    lesions[0, 0, 15:18] = 2
    findings = {1: FindingFacts(0.8, Compartment.INTRAMEDULLARY, SpineRegion.LUMBAR), 2: FindingFacts(0.6)}
    return StudyResult("s1", GRID, anatomy, lesions, {Level.L3: (8.0, 6.0, 5.0)}, {Level.L3: 0.9}, findings)


def test_an_exam_is_scored_in_every_respect():
    score = score_exam(found_result(), truth_result(), "p1")
    assert score.dice["vertebral_body"] == 1.0
    assert score.dice["thecal_sac"] == pytest.approx(2 * 4 / (4 + 5))
    assert score.dice["cord"] is None
    assert score.level_calls == ((0.9, True),)
    assert [lesion.found_by for lesion in score.lesions.lesions] == [1, None]
    assert score.lesions.false_positive_scores == (0.6,)
    assert score.compartment_calls == (("extradural", "intramedullary"),)
    assert score.region_calls == (("lumbar", "lumbar"),)


def test_the_sacrum_and_c1_are_no_levels_that_could_be_missed():
    """A truth may part the sacrum, and C1 has no body; a result names neither so."""
    others = {Level.C1: (8.0, 5.0, 19.0), Level.S1: (8.0, 5.0, 2.0), Level.S2: (8.0, 5.0, 0.0)}
    truth = replace(truth_result(), level_centres_mm={**truth_result().level_centres_mm, **others})
    found = replace(found_result(), level_centres_mm={Level.L3: (8.0, 6.0, 5.0), Level.S1: (8.0, 5.0, 1.0)})
    assert [outcome.is_right for outcome in score_exam(found, truth, "p1").levels] == [True]


def test_tables_hold_what_was_scored():
    tables = summarise([score_exam(found_result(), truth_result(), "p1")])
    lesions = {row["lesions"]: row for row in tables["lesions"]}
    assert (lesions["all"]["of"], lesions["all"]["found"]) == (2, 0.5)
    assert (lesions["extradural"]["of"], lesions["extradural"]["found"]) == (1, 1.0)
    assert (lesions["intramedullary"]["of"], lesions["intramedullary"]["found"]) == (0, None)
    assert lesions["false positives per exam"]["found"] == 1.0
    assert [row["sensitivity"] for row in tables["froc"]] == [0.5] * 6
    assert tables["compartments"][0]["called intramedullary"] == 1
    assert tables["levels"][0]["rate"] == 1.0
    calibration = {row["confidence of"]: row["expected calibration error"] for row in tables["calibration"]}
    assert calibration["level names"] == pytest.approx(0.1)
    assert calibration["lesions"] == pytest.approx((0.2 + 0.6) / 2)


def test_a_truth_without_lesions_or_levels_is_scored_for_its_anatomy_alone():
    anatomy, _ = maps()
    tables = summarise([score_exam(found_result(), StudyResult("s1", GRID, anatomy), "p1")])
    assert tables["studies"][0]["vertebral_body Dice"] == 1.0
    assert {"lesions", "levels", "froc", "compartments"}.isdisjoint(tables)


def test_a_result_on_another_grid_is_refused():
    moved = np.array(GRID.affine)
    moved[0, 3] = 4.0
    with pytest.raises(GeometryError, match="elsewhere in space"):
        score_exam(found_result(), StudyResult("s1", Grid(GRID.shape, moved)), "p1")


def write(folder, document_name, result, levels=None):
    folder.mkdir(parents=True)
    for name, array in (("anatomy", result.anatomy), ("lesions", result.lesions), ("levels", levels)):
        if array is not None:
            nibabel.Nifti1Image(array, result.grid.affine).to_filename(folder / f"{name}.nii.gz")
    if document_name:
        document = {
            "levels": [
                {
                    "level": level.value,
                    "centroid_mm": point,
                    "confidence": result.level_confidences.get(level, 1.0),
                }
                for level, point in result.level_centres_mm.items()
            ],
            "findings": [
                {
                    "lesion": number,
                    "confidence": facts.confidence,
                    "compartment": facts.compartment and facts.compartment.value,
                    "region": facts.region and facts.region.value,
                }
                for number, facts in result.findings.items()
            ],
        }
        (folder / document_name).write_text(json.dumps(document))


def test_a_folder_is_read_as_it_was_written(tmp_path):
    write(tmp_path / "s1", "truth.json", truth_result())
    read = read_study_result(find_studies(tmp_path)["s1"])
    assert read.study == "s1"
    assert read.findings == truth_result().findings
    assert read.level_centres_mm == {Level.L3: (8.0, 5.0, 5.0)}
    np.testing.assert_array_equal(read.lesions, truth_result().lesions)


def test_without_a_document_the_places_of_levels_come_from_their_bodies(tmp_path):
    anatomy, _ = maps()
    levels = np.where(anatomy == Structure.VERTEBRAL_BODY, 22, 0).astype(np.uint8)
    levels[:, 18:20, 2:8] = 22
    write(tmp_path / "s1", None, StudyResult("s1", GRID, anatomy), levels)
    assert read_study_result(find_studies(tmp_path)["s1"]).level_centres_mm == {Level.L3: (6.0, 4.5, 4.5)}


def test_files_side_by_side_are_studies_by_their_prefix(tmp_path):
    write(tmp_path / "folder", "truth.json", truth_result())
    for kind in ("anatomy", "lesions"):
        (tmp_path / "folder" / f"{kind}.nii.gz").rename(tmp_path / f"case_1_{kind}.nii.gz")
    document = json.loads((tmp_path / "folder" / "truth.json").read_text())
    document["lesions"] = document.pop("findings")
    (tmp_path / "case_1.json").write_text(json.dumps(document))
    studies = find_studies(tmp_path)
    assert list(studies) == ["case_1"]
    read = read_study_result(studies["case_1"])
    assert read.findings == truth_result().findings
    np.testing.assert_array_equal(read.anatomy, truth_result().anatomy)


def test_a_lesion_without_voxels_is_refused_not_left_out(tmp_path):
    truth = truth_result()
    write(tmp_path / "s1", "truth.json", replace(truth, lesions=np.minimum(truth.lesions, 1)))
    with pytest.raises(
        UnreadableFileError, match=r"truth\.json: tells of lesion 2, of which lesions\.nii\.gz"
    ):
        read_study_result(find_studies(tmp_path)["s1"])


def test_folders_that_cannot_be_read_say_why(tmp_path):
    with pytest.raises(NoUsableInputError, match="holds no study"):
        find_studies(tmp_path)
    write(tmp_path / "bad", "report.json", truth_result())
    files = find_studies(tmp_path)["bad"]
    document = tmp_path / "bad" / "report.json"
    document.write_text('{"levels": [{"level": "L9", "centroid_mm": [0, 0, 0]}]}')
    with pytest.raises(UnreadableFileError, match="wrong"):
        read_study_result(files)
    for wrong in ("-0.5", "1.5", "NaN"):
        document.write_text(f'{{"findings": [{{"lesion": 1, "confidence": {wrong}}}]}}')
        with pytest.raises(UnreadableFileError, match="is no probability"):
            read_study_result(files)
    document.write_text('{"levels": [{"level": "L3", "centroid_mm": [0, NaN, 0]}]}')
    with pytest.raises(UnreadableFileError, match="is no place"):
        read_study_result(files)
    document.write_text("{")
    with pytest.raises(UnreadableFileError, match="not JSON"):
        read_study_result(files)
    document.write_text("[]")
    with pytest.raises(UnreadableFileError, match="no JSON object"):
        read_study_result(files)
    (tmp_path / "bad" / "anatomy.nii.gz").write_bytes(b"not an image")
    with pytest.raises(UnreadableFileError, match="NIfTI"):
        read_label_map(tmp_path / "bad" / "anatomy.nii.gz")


def test_a_label_map_may_have_further_axes_of_length_one_and_no_other(tmp_path):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for shape in ((2, 3, 4, 1), (2, 3, 4, 1, 1)):
        nibabel.Nifti1Image(labels.reshape(shape), np.eye(4)).to_filename(tmp_path / "one.nii.gz")
        found, grid = read_label_map(tmp_path / "one.nii.gz")
        assert np.array_equal(found, labels)
        assert grid.shape == (2, 3, 4)
    for shape in ((2, 3, 2, 2), (6, 4)):
        nibabel.Nifti1Image(labels.reshape(shape), np.eye(4)).to_filename(tmp_path / "two.nii.gz")
        with pytest.raises(UnsupportedInputError, match=r"two.nii.gz.*3-D"):
            read_label_map(tmp_path / "two.nii.gz")


@pytest.mark.parametrize("nothing", [-1.0, float("nan")])
def test_values_below_0_and_no_numbers_in_a_truth_are_no_lesions(tmp_path, nothing):
    anatomy, lesions = maps()
    truth = np.where(lesions == 1, 1.0, nothing).astype(np.float32)
    (tmp_path / "s").mkdir()
    nibabel.Nifti1Image(truth, GRID.affine).to_filename(tmp_path / "s" / "lesions.nii.gz")
    known = read_study_result(find_studies(tmp_path)["s"])
    elsewhere = np.where(lesions == 2, 2, 0)
    outcome = score_exam(StudyResult("s", GRID, anatomy, elsewhere), known, "s").lesions
    assert outcome is not None
    assert [(one.volume_mm3, one.found_by) for one in outcome.lesions] == [(18 * 4.0, None)]
    assert outcome.false_positive_scores == (1.0,)


def test_label_maps_on_different_grids_are_refused(tmp_path):
    write(tmp_path / "s1", None, truth_result())
    nibabel.Nifti1Image(maps()[1], np.eye(4)).to_filename(tmp_path / "s1" / "lesions.nii.gz")
    with pytest.raises(GeometryError, match="different grids"):
        read_study_result(find_studies(tmp_path)["s1"])


def test_the_script_scores_folders_and_writes_json(tmp_path):
    write(tmp_path / "out" / "s1", "report.json", found_result())
    write(tmp_path / "truth" / "s1", "truth.json", truth_result())
    done = run_alone("results", tmp_path / "out", tmp_path / "truth", "-o", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    assert "| extradural | 1 | 1.000 | – | – |" in done.stdout
    scores = json.loads((tmp_path / "scores.json").read_text())
    (tmp_path / "truth" / "s1").rename(tmp_path / "truth" / "s2")
    only = run("results", tmp_path / "out", tmp_path / "truth")
    assert only.returncode == 0, "a single result is that of a single truth"
    write(tmp_path / "truth" / "s1", "truth.json", truth_result())
    missing = run("results", tmp_path / "out", tmp_path / "truth")
    assert missing.returncode == 1
    assert "holds no result for s2" in missing.stderr
    assert scores["studies"][0]["thecal_sac Dice"] == pytest.approx(8 / 9)


def test_a_result_without_a_label_map_that_its_truth_has_is_named(tmp_path):
    for name in ("s1", "s2"):
        write(tmp_path / "out" / name, "report.json", found_result())
        write(tmp_path / "truth" / name, "truth.json", truth_result())
    assert run("results", tmp_path / "out", tmp_path / "truth").stderr == ""
    (tmp_path / "out" / "s2" / "lesions.nii.gz").unlink()
    done = run("results", tmp_path / "out", tmp_path / "truth")
    assert (done.returncode, done.stderr) == (
        0,
        "lesions of s2: not scored, the result has no lesions.nii.gz\n",
    )


def test_a_truth_of_0_and_255_is_told_as_one_that_shows_no_lesion(tmp_path):
    truth = truth_result()
    drawn = replace(truth, lesions=np.where(truth.lesions > 0, 255, 0).astype(np.uint8), findings={})
    for name, shown in (("s1", truth), ("s2", drawn)):
        write(tmp_path / "out" / name, "report.json", found_result())
        write(tmp_path / "truth" / name, "truth.json", shown)
    done = run("results", tmp_path / "out", tmp_path / "truth")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("lesions of s2: all that the truth shows is 255")
    shutil.rmtree(tmp_path / "truth" / "s2")
    write(tmp_path / "truth" / "s2", "truth.json", replace(drawn, findings={255: EXTRADURAL}))
    assert run("results", tmp_path / "out", tmp_path / "truth").stderr == ""


def test_results_that_became_truths_are_of_their_subjects_not_of_their_data_set(tmp_path):
    for name in ("set_sub-1_ses-1", "set_sub-1_ses-2", "set_sub-2"):
        write(tmp_path / "out" / name, "report.json", found_result())
        write(tmp_path / "truth" / name, "truth.json", truth_result())
    done = run("results", tmp_path / "out", tmp_path / "truth", "-o", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    patients = json.loads((tmp_path / "scores.json").read_text())["patients"]
    assert [(row["patient"], row["exams"]) for row in patients] == [("sub-1", 2), ("sub-2", 1)]


def test_the_script_scores_a_spider_subject(tmp_path):
    anatomy, lesions = maps()
    result = StudyResult("sub-007_T2w", GRID, anatomy, np.zeros_like(lesions))
    write(tmp_path / "out" / "sub-007_T2w", None, result, np.zeros_like(lesions))
    (tmp_path / "spider").mkdir()
    truth = np.where(anatomy == Structure.VERTEBRAL_BODY, 1, 0) + np.where(
        anatomy == Structure.THECAL_SAC, 3, 0
    )
    nibabel.Nifti1Image(truth.astype(np.uint8), GRID.affine).to_filename(
        tmp_path / "spider" / "sub-007_dseg.nii.gz"
    )
    done = run("spider", tmp_path / "out", tmp_path / "spider", "007")
    assert done.returncode == 0, done.stderr
    assert "| sub-007 | 1.000 | – | 1.000 |" in done.stdout
    missing = run("spider", tmp_path / "out", tmp_path / "spider", "011")
    assert missing.returncode == 1
    assert "0 folders that begin with sub-011" in missing.stderr


def test_a_result_is_told_from_one_whose_name_goes_on(tmp_path):
    folders = ("case1", "case10", "case1_T2w", "case2_T1w", "case20_T1w", "case2a", "case30", "case4", "b5x")
    for name in folders:
        (tmp_path / name).mkdir()
    expected = {"case1": "case1", "case2": "case2_T1w", "case4": "case4", "case10": "case10", "b5": "b5x"}
    for name, folder in expected.items():
        assert folder_beginning(tmp_path, name) == tmp_path / folder
    for name, count in (("case3", 0), ("case", 8), ("", 9)):
        with pytest.raises(NoUsableInputError, match=f"holds {count} folders"):
            folder_beginning(tmp_path, name)


def test_a_study_without_a_result_does_not_take_one_whose_name_goes_on(tmp_path):
    write(tmp_path / "sub-1_ses-2", None, found_result())
    write(tmp_path / "set_sub-2", None, found_result())
    found = find_studies(tmp_path)
    assert result_named("sub-1_ses-2", found, tmp_path).study == "sub-1_ses-2"
    assert result_named("sub-2", found, tmp_path).study == "set_sub-2"
    with pytest.raises(NoUsableInputError, match="holds no result for sub-1,"):
        result_named("sub-1", found, tmp_path)


@pytest.mark.parametrize("scan", ["Patient 01_T2w", "Wirbelsäule_T2", "case 1 (T2)"])
def test_a_result_is_found_whose_folder_cannot_have_the_scan_s_name(tmp_path, scan):
    own = study_key(tmp_path / f"{scan}.nii.gz")
    assert own != scan
    for name in (own, "another"):
        write(tmp_path / name, None, found_result())
    assert result_named(scan, find_studies(tmp_path), tmp_path).study == own
    assert folder_beginning(tmp_path, scan) == tmp_path / own


def test_the_script_scores_masks_of_studies_whose_names_begin_alike(tmp_path):
    anatomy, lesions = maps()
    for name in ("case1", "case10"):
        write(tmp_path / "out" / name, None, StudyResult(name, GRID, anatomy, lesions), lesions)
        mask = nibabel.Nifti1Image((anatomy == Structure.THECAL_SAC).astype(np.uint8)[..., None], GRID.affine)
        mask.to_filename(tmp_path / f"{name}_sac.nii.gz")
    masks = sorted(tmp_path.glob("case*_sac.nii.gz"))
    done = run("structure", tmp_path / "out", *masks, "--structure", "thecal_sac")
    assert done.returncode == 0, done.stderr
    assert "| case1 | 1.000 | 1.000 | 1.000 |" in done.stdout
    write(tmp_path / "out" / "case2", None, StudyResult("case2", GRID, anatomy, lesions), lesions)
    nothing = tmp_path / "case2_disc.nii.gz"
    nibabel.Nifti1Image(np.zeros_like(anatomy), GRID.affine).to_filename(nothing)
    empty = run("structure", tmp_path / "out", masks[0], nothing, "--structure", "disc")
    assert "| case2 | – | – | – |" in empty.stdout, "an empty mask has nothing to be found"
    shutil.rmtree(tmp_path / "out" / "case10")
    masks[0].rename(tmp_path / "sac.nii.gz")
    done = run("structure", tmp_path / "out", tmp_path / "sac.nii.gz", "--structure", "thecal_sac")
    assert (done.returncode, "does not tell its study" in done.stderr) == (1, True), done.stdout


def test_tables_show_absent_values_as_dashes_and_leave_them_out_of_means():
    rows = [{"study": "a", "dice": 0.5, "note": None}, {"study": "b", "dice": None, "volume": 1234.56}]
    assert to_markdown(rows).splitlines()[2:] == ["| a | 0.500 | – | – |", "| b | – | – | 1234.6 |"]
    assert mean_row(rows) == {"study": "mean", "dice": 0.5, "note": None, "volume": 1234.56}
    assert json.loads(to_json({"t": rows}))["t"][0]["dice"] == 0.5


def test_the_script_writes_a_report_with_its_plots(tmp_path):
    write(tmp_path / "out" / "s1", "report.json", found_result())
    write(tmp_path / "truth" / "s1", "truth.json", truth_result())
    done = run("results", tmp_path / "out", tmp_path / "truth", "--report", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report" / "report.md").read_text()
    assert "![froc](froc.png)" in text
    assert "## calibration" in text
    assert {path.suffix for path in (tmp_path / "report").iterdir()} == {".md", ".json", ".png"}


def test_the_script_says_what_keeps_it_from_writing(tmp_path):
    write(tmp_path / "out" / "s1", "report.json", found_result())
    write(tmp_path / "truth" / "s1", "truth.json", truth_result())
    (tmp_path / "taken").write_text("a file")
    folders = ("results", tmp_path / "out", tmp_path / "truth")
    done = run(*folders, "--report", tmp_path / "taken" / "report")
    assert (done.returncode, "cannot be written (Not a directory)" in done.stderr) == (1, True)
    done = run(*folders, "-o", tmp_path / "scores.md")
    assert (done.returncode, "name the JSON file" in done.stderr) == (2, True)
