"""`spinemets simulate` writes studies that detect can read and truths that the evaluation can."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

import dataset_files as files
from spinemets.anatomy import Structure
from spinemets.cli import main, spinemets
from spinemets.errors import OutputError
from spinemets.evaluation.files import find_studies, read_study_result
from spinemets.io import discover
from spinemets.training.study_files import write_nifti


def run(*arguments):
    result = CliRunner().invoke(spinemets, ["simulate", *map(str, arguments)], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    run("phantom", "-o", folder, "--seed", 7, "--region", "cervical", "--weighting", "T2", "--lesions", 3)
    return folder


def test_a_phantom_is_a_study_with_its_truth(phantom):
    truth = read_study_result(find_studies(phantom / "truth")["phantom7_T2w"])
    image = nib.load(phantom / "studies/phantom7_T2w.nii.gz")
    assert np.allclose(image.affine, truth.grid.affine)
    assert image.shape == truth.grid.shape
    assert set(truth.findings) == set(np.unique(truth.lesions[truth.lesions > 0]).tolist())
    assert all(facts.compartment and facts.region for facts in truth.findings.values())
    assert {"C2", "C7", "T1"} <= {level.value for level in truth.level_centres_mm}


def test_the_list_of_lesions_names_those_that_the_mask_shows(tmp_path):
    # One of the six lies where none of it shows.
    run("phantom", "-o", tmp_path, "--seed", 4, "--compartment", "intramedullary", "--lesions", 6)
    truth = tmp_path / "truth/phantom4_T2w"
    shown = set(np.unique(np.asarray(nib.load(f"{truth}_lesions.nii.gz").dataobj)).tolist()) - {0}
    rows = Path(f"{truth}_lesions.tsv").read_text().splitlines()[1:]
    assert len(shown) == 5
    assert {int(row.split("\t")[0]) for row in rows} == shown


def test_what_was_written_is_found_as_one_study(phantom):
    (listing,) = discover(phantom / "studies")
    assert [series.series.weighting.value for series in listing.series if series.rejection is None] == ["T2"]


def test_a_folder_that_cannot_be_written_to_exits_with_9(labelled, capsys):
    (labelled / "out").mkdir()
    (labelled / "out/studies").write_text("in the way")
    for command in (
        ["phantom"],
        ["implant", str(labelled / "p01_T2w.nii.gz"), str(labelled / "anatomy.nii.gz")],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["simulate", *command, "-o", str(labelled / "out")])
        assert ended.value.code == 9
        assert "cannot be written (File exists)" in capsys.readouterr().err


def test_an_image_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left"):
        write_nifti(tmp_path / "a_T2w.nii.gz", np.ones((3, 4, 5), dtype=np.int16), np.eye(4))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def labelled(tmp_path):
    """An image, and its labels in three conventions."""
    anatomy, number = files.spine()
    files.write_nifti(tmp_path / "p01_T2w.nii.gz", files.image(anatomy))
    files.write_nifti(tmp_path / "anatomy.nii.gz", anatomy)
    files.write_nifti(tmp_path / "totalspineseg.nii.gz", files.totalspineseg(anatomy, number))
    return tmp_path


@pytest.mark.parametrize("layout", ["anatomy", "totalspineseg"])
def test_lesions_are_implanted_into_a_labelled_scan(labelled, layout):
    image, out = labelled / "p01_T2w.nii.gz", labelled / "out"
    result = run("implant", image, labelled / f"{layout}.nii.gz", "-o", out, "--labels-are", layout, "-n", 2)
    assert "p01_implant0:" in result.output
    truths = find_studies(out / "truth")
    assert list(truths) == ["p01_implant0_T2w", "p01_implant1_T2w"]
    truth = read_study_result(truths["p01_implant0_T2w"])
    assert truth.lesions.any()
    studied = np.asarray(nib.load(out / "studies/p01_implant0_T2w.nii.gz").dataobj)
    assert studied.shape == truth.lesions.shape
    assert studied.std() > 1


def test_several_sequences_show_the_same_lesions(labelled):
    arguments = ("--weighting", "T1", "--weighting", "T2", "--weighting", "STIR")
    run(
        "implant",
        labelled / "p01_T2w.nii.gz",
        labelled / "anatomy.nii.gz",
        "-o",
        labelled / "out",
        *arguments,
    )
    assert sorted(path.name for path in (labelled / "out/studies").iterdir()) == [
        "p01_implant0_STIR.nii.gz", "p01_implant0_T1w.nii.gz", "p01_implant0_T2w.nii.gz",
    ]  # fmt: skip
    assert list(find_studies(labelled / "out/truth")) == ["p01_implant0"]
    facts = json.loads((labelled / "out/truth/p01_implant0.json").read_text())["lesions"]
    assert facts


def test_the_same_seed_gives_the_same_files(labelled):
    for name in ("a", "b"):
        run(
            "implant",
            labelled / "p01_T2w.nii.gz",
            labelled / "anatomy.nii.gz",
            "-o",
            labelled / name,
            "--seed",
            3,
        )
    paths = ("truth/p01_implant3_T2w_lesions.nii.gz", "studies/p01_implant3_T2w.nii.gz")
    for path in paths:
        first, second = (np.asarray(nib.load(labelled / name / path).dataobj) for name in ("a", "b"))
        assert np.array_equal(first, second)


def exit_code(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["simulate", *map(str, arguments)])
    return caught.value.code, capsys.readouterr().err


def test_a_scan_of_unknown_weighting_is_refused_and_may_be_told(labelled, capsys):
    (labelled / "p01_T2w.nii.gz").rename(labelled / "scan.nii.gz")
    arguments = ("implant", labelled / "scan.nii.gz", labelled / "anatomy.nii.gz", "-o", labelled / "out")
    code, message = exit_code(capsys, *arguments)
    assert code != 0
    assert "--scan-weighting" in message
    run(*arguments, "--scan-weighting", "T1")
    assert (labelled / "out/studies/scan_implant0_T1w.nii.gz").exists()


def test_a_scan_of_another_weighting_is_refused_with_the_way_out(labelled, capsys):
    (labelled / "p01_T2w.nii.gz").rename(labelled / "p01_PDw.nii.gz")
    arguments = ("implant", labelled / "p01_PDw.nii.gz", labelled / "anatomy.nii.gz", "-o", labelled / "out")
    code, message = exit_code(capsys, *arguments)
    assert code != 0
    assert "T1, T2 or STIR, not as PD; pass --weighting" in message


def test_labels_of_another_kind_are_refused_by_name(labelled, capsys):
    code, message = exit_code(
        capsys,
        "implant",
        labelled / "p01_T2w.nii.gz",
        labelled / "totalspineseg.nii.gz",
        "-o",
        labelled / "out",
    )
    assert code != 0
    assert "totalspineseg.nii.gz" in message
    assert "anatomy.nii.gz" in message


def test_copies_of_one_scan_are_one_patient_and_keep_their_sessions_apart(labelled):
    for session in ("1", "2"):
        (labelled / f"sub-p01_ses-{session}_T2w.nii.gz").symlink_to(labelled / "p01_T2w.nii.gz")
        image = labelled / f"sub-p01_ses-{session}_T2w.nii.gz"
        run("implant", image, labelled / "anatomy.nii.gz", "-o", labelled / "out")
    names = sorted(find_studies(labelled / "out/truth"))
    assert names == ["p01_ses-1-implant0_T2w", "p01_ses-2-implant0_T2w"]
    assert {name.split("_")[0] for name in names} == {"p01"}


def test_patients_whose_names_have_spaces_stay_different_ones(labelled):
    for patient in ("Patient 01", "Patient 02"):
        image = labelled / f"{patient}_T2w.nii.gz"
        image.symlink_to(labelled / "p01_T2w.nii.gz")
        run("implant", image, labelled / "anatomy.nii.gz", "-o", labelled / "out")
    names = sorted(find_studies(labelled / "out/truth"))
    assert names == ["Patient-01_implant0_T2w", "Patient-02_implant0_T2w"]


def test_levels_beside_the_anatomy_tell_the_regions(labelled):
    anatomy, number = files.spine()
    image = labelled / "p01_T2w.nii.gz"
    regions = {}
    for name in ("without", "with"):
        (labelled / name).mkdir()
        files.write_nifti(labelled / name / "anatomy.nii.gz", anatomy)
        if name == "with":
            # L5 is the lowest of the five.
            levels = np.where(number > 0, 25 - number, 0).astype(np.uint8)
            files.write_nifti(labelled / name / "levels.nii.gz", levels)
        out = labelled / name / "out"
        run("implant", image, labelled / name / "anatomy.nii.gz", "-o", out, "-n", 4)
        truths = [json.loads(path.read_text())["lesions"] for path in sorted((out / "truth").glob("*.json"))]
        regions[name] = [lesion["region"] for lesions in truths for lesion in lesions]
    assert "lumbar" in regions["with"]
    assert set(regions["without"]) <= {None, "sacral"}


def test_no_t1_is_simulated_from_stir(labelled, capsys):
    (labelled / "p01_T2w.nii.gz").rename(labelled / "p01_STIR.nii.gz")
    arguments = ("implant", labelled / "p01_STIR.nii.gz", labelled / "anatomy.nii.gz", "-o", labelled / "out")
    code, message = exit_code(capsys, *arguments, "--weighting", "T1")
    assert code != 0
    assert "T1 and STIR cannot be simulated from STIR/T2FS" in message
    run(*arguments)


def test_no_t2_is_simulated_from_t1_and_nothing_is_left_half_written(labelled, capsys):
    (labelled / "p01_T2w.nii.gz").rename(labelled / "p01_T1w.nii.gz")
    arguments = ("implant", labelled / "p01_T1w.nii.gz", labelled / "anatomy.nii.gz", "-o", labelled / "out")
    code, message = exit_code(capsys, *arguments, "--weighting", "T1", "--weighting", "T2")
    assert code != 0
    assert "p01_T1w: T2 cannot be simulated from T1" in message
    assert not (labelled / "out").exists()


@pytest.mark.parametrize("value", [np.nan, 5.0])
def test_a_scan_that_shows_nothing_is_refused(labelled, capsys, value):
    image = labelled / "p01_T2w.nii.gz"
    files.write_nifti(image, np.full(files.SHAPE, value, np.float32))
    code, message = exit_code(capsys, "implant", image, labelled / "anatomy.nii.gz", "-o", labelled / "out")
    assert code == 3
    assert "p01_T2w.nii.gz: every voxel has the same value" in message
    assert not (labelled / "out").exists()


def test_labels_of_the_cord_alone_tell_no_region(labelled):
    anatomy, _ = files.spine()
    files.write_nifti(
        labelled / "cord.nii.gz", np.where(anatomy == Structure.CORD, anatomy, 0).astype(np.uint8)
    )
    run("implant", labelled / "p01_T2w.nii.gz", labelled / "cord.nii.gz", "-o", labelled / "out")
    facts = json.loads((labelled / "out/truth/p01_implant0_T2w.json").read_text())["lesions"]
    assert {(one["compartment"], one["region"]) for one in facts} == {("intramedullary", None)}


@pytest.mark.parametrize("command", ["phantom", "implant"])
@pytest.mark.parametrize("others", [["T1"], ["T1", "T2"]])
def test_what_another_run_wrote_is_not_mixed_into_a_study(labelled, capsys, command, others):
    out = labelled / "out"
    scan = (labelled / "p01_T2w.nii.gz", labelled / "anatomy.nii.gz") if command == "implant" else ()
    run(command, *scan, "-o", out, "--weighting", "T2")
    before = sorted(path.name for path in out.rglob("*"))
    asked = [word for other in others for word in ("--weighting", other)]
    code, message = exit_code(capsys, command, *scan, "-o", out, *asked)
    assert code == 9
    assert "is there from another run" in message
    assert sorted(path.name for path in out.rglob("*")) == before
    run(command, *scan, "-o", out, "--weighting", "T2")
