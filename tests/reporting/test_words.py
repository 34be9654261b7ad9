from __future__ import annotations

from dataclasses import replace

from spinemets.anatomy import VertebralLevel
from spinemets.reporting import build_report, summary_lines
from spinemets.reporting.document import report_document
from spinemets.reporting.words import summary_sentences


def test_several_lesions_are_counted_by_compartment(report):
    first, largest, review, level = report_document(report).summary.sentences
    assert first == (
        "4 lesions were found in the visible spine, T11 to S1, 5.11 mL in total: "
        "1 intramedullary, 2 extradural and 1 intradural-extramedullary."
    )
    assert largest == "The largest is lesion 2: extradural at L2, 3.09 mL, longest diameter 18 mm."
    assert review == "Lesion 4 needs a reader's decision."
    assert level == "The level name L5 is uncertain."


def test_one_lesion_is_described_in_one_sentence(report):
    document = report_document(report)
    sentences = summary_sentences(document.findings[2:3], document.levels[:6])
    assert sentences == (
        "One lesion was found in the visible spine, T11 to L4: intradural-extramedullary at L3 and L4, "
        "0.53 mL, longest diameter 10 mm.",
    )


def test_no_lesion_is_said_to_be_found_not_to_be_absent(make_report):
    clean = make_report(lesions=False)
    assert (
        report_document(clean).summary.sentences[0] == "No lesion was found in the visible spine, T11 to S1."
    )
    assert any("not proof" in line for line in summary_lines(clean))


def test_images_without_a_vertebra_are_not_said_to_be_clean(report):
    nothing = build_report(report.study, report.segmentation, (), (), report.provenance)
    (sentence,) = report_document(nothing).summary.sentences
    assert sentence == "No vertebra was recognised in these images, so that no lesion was found says nothing."


def test_a_lesion_far_from_any_vertebra_is_said_to_have_no_level(report):
    finding = replace(report.findings[0], levels=(), main_level=None, region=None)
    alone = build_report(report.study, report.segmentation, (), (finding,), report.provenance)
    sentences = report_document(alone).summary.sentences
    assert sentences[0].startswith(
        "One lesion was found in these images: intramedullary, with no recognised vertebra"
    )


def test_when_all_levels_are_uncertain_they_are_not_listed(report):
    doubtful = tuple(replace(vertebra, confidence=0.4) for vertebra in report.vertebrae)
    rebuilt = build_report(report.study, report.segmentation, doubtful, (), report.provenance)
    assert report_document(rebuilt).summary.sentences[-1] == "The names of all visible levels are uncertain."


def test_the_command_line_gets_a_line_for_each_lesion_each_caution_and_the_disclaimer(report):
    lines = summary_lines(report)
    assert sum("mm  confidence" in line for line in lines) == 4
    assert next(line for line in lines if "needs review" in line).split()[:2] == ["4", "L5"]
    assert "Caution: the study holds no post-contrast series" in lines
    assert lines[-1] == "Research use only. Not a medical device."


def test_no_line_of_the_summary_names_the_patient(report):
    assert not any("PATIENT" in line or "1.2.840" in line for line in summary_lines(report))


def test_supernumerary_levels_are_named(report):
    extra = replace(report.vertebrae[6], level=VertebralLevel.L6, confidence=0.99)
    rebuilt = build_report(report.study, report.segmentation, (extra,), (), report.provenance)
    assert "L6" in report_document(rebuilt).summary.sentences[0]
