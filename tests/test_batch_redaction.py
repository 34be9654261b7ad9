"""What a batch says of a study hides names, and no other word."""

from __future__ import annotations

import pydicom
import pytest

from batch_faults import run_planned
from dicom_files import noise, write_classic
from planted import planted_truth, write_planted_study
from spinemets.batch import RecordBook, State, plan_batch, settle_names
from spinemets.batch.planning import PlannedStudy
from spinemets.batch.redaction import redact_message
from spinemets.errors import NoUsableInputError
from standins import TruthSegmenter, table_rows


def test_names_of_dicom_files_are_hidden_in_messages(tmp_path):
    paths = write_classic(tmp_path / "in", noise(), tags={"PatientName": "Li^Wei", "PatientID": "8"})
    named = [path.rename(path.with_name(f"LiWei_1.2.840.7.{place}.dcm")) for place, path in enumerate(paths)]
    with RecordBook(tmp_path / "out") as book:
        (study,) = settle_names(plan_batch([tmp_path / "in"]), book, "hash")
    told = redact_message(f"{named[3].name}: its pixels cannot be decoded; 3 of 15 slices", study)
    assert told == "[hidden]: its pixels cannot be decoded; 3 of 15 slices"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("ct", "modality CT; only MR is analysed", None),
        ("L5", "largest at L5", None),
        ("missing", "1 of 9 slices is missing; pass --allow-missing", None),
        ("T2_sag", "no T2_sag", "no [hidden]"),
        ("T2", "second T2 series; series 3 (T2 sagittal) is used", None),
        ("series", "no sagittal series: the axial one is used", None),
        ("ct", "ct: no usable series (2 slices; at least 5 are needed)", "[hidden]: no usable series (2 sl"),
        ("ct", "NoUsableInputError: ct: no usable series", "NoUsableInputError: [hidden]: no usable"),
        ("ct", "no image is in ct.zip or 'ct'", "no image is in [hidden].zip or '[hidden]'"),
        ("Li", "Li: modality CT; as Li says, only MR", "[hidden]: modality CT; as [hidden] says, only MR"),
        ("T2_Jane", "T2_Jane is a T2 series", "[hidden] is a T2 series"),
        ("4711", "4711 is no study", "[hidden] is no study"),
    ],
)
def test_names_of_own_words_hide_no_word_of_a_sentence(tmp_path, name, text, told):
    study = PlannedStudy("k", tmp_path / name, NoUsableInputError(""), hidden_source="source")
    assert redact_message(text, study).startswith(told or text)
    path = f"{tmp_path / name}/{name}"
    assert redact_message(f"{path}: no usable series", study) == "[hidden]: no usable series"


@pytest.mark.parametrize(
    ("below", "told"),
    [
        ("/DOE JANE/x.dcm: damaged", "[hidden]: damaged"),
        ("/A/DOE JANE.nii.gz: damaged", "[hidden]: damaged"),
        ("/DOE JANE/B C/anna li.dcm: 3 of 4", "[hidden]: 3 of 4"),
        ("/x.dcm is damaged", "[hidden] is damaged"),
        (" is empty: no study", "[hidden] is empty: no study"),
    ],
)
def test_names_with_spaces_below_an_unread_folder_are_hidden(tmp_path, below, told):
    study = PlannedStudy("k", tmp_path / "in", NoUsableInputError(""), hidden_source="source")
    assert redact_message(f"{tmp_path / 'in'}{below}", study) == told


def test_a_patient_s_identifier_that_is_a_level_hides_no_level(tmp_path):
    truth = planted_truth()
    study = write_planted_study(tmp_path / "in", truth)
    for path in study.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "L2"
        dataset.save_as(path)
    planned = plan_batch([tmp_path / "in"])
    (record,) = run_planned(planned, tmp_path / "out", TruthSegmenter(truth))
    assert record.state is State.DONE, record.reason
    (finding,) = table_rows(tmp_path / "out/findings.csv")
    assert finding["level"] == "L2"
    assert "L2" in table_rows(tmp_path / "out/summary.csv")[0]["levels_seen"].split()
