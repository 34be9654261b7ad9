from __future__ import annotations

from dataclasses import replace

import pytest

from spinemets.anatomy import Compartment, VertebralLevel
from spinemets.findings import ReviewTopic
from spinemets.reporting import build_report, summary_lines
from spinemets.reporting.document import report_document
from spinemets.reporting.words import finding_label, percent, review_text, summary_sentences


def test_several_lesions_are_counted_by_compartment(report):
    first, largest, review, level = report_document(report).summary.sentences
    assert first == (
        "4 lesions were found among the recognised vertebrae, T11 to sacrum, 5.11 mL in total: "
        "1 intramedullary, 2 extradural and 1 intradural-extramedullary."
    )
    assert largest == "The largest is lesion 2: extradural at L2, 3.09 mL, longest diameter 18 mm."
    assert review == "Lesion 4 needs a reader's decision."
    assert level == "The level name L5 is uncertain."


def test_one_lesion_is_described_in_one_sentence(report):
    document = report_document(report)
    sentences = summary_sentences(document.findings[2:3], document.levels[:6])
    assert sentences == (
        "One lesion was found among the recognised vertebrae, T11 to L4: intradural-extramedullary "
        "at L3 and L4, 0.53 mL, longest diameter 10 mm.",
    )


def sure(report, *confidences):
    """The document's findings, as sure as is said, and its levels."""
    document = report_document(report)
    findings = [
        finding.model_copy(update={"confidence": confidence})
        for finding, confidence in zip(document.findings, confidences, strict=False)
    ]
    return findings, document.levels


def test_likely_and_doubtful_lesions_are_told_apart(report):
    first, compartments, largest, *_ = summary_sentences(*sure(report, 0.8, 0.3, 0.2, 0.9))
    assert first == (
        "4 possible lesions were found among the recognised vertebrae, T11 to sacrum: "
        "2 likely (1.49 mL) and 2 doubtful (confidence below 50 %; 3.61 mL)."
    )
    assert compartments == ("By compartment: 1 intramedullary, 2 extradural and 1 intradural-extramedullary.")
    assert largest.startswith("The largest likely one is lesion 4: extradural at L5?, ")


def test_a_single_likely_lesion_is_the_likely_one(report):
    first, _, largest, *_ = summary_sentences(*sure(report, 0.8, 0.3))
    assert "1 likely (0.53 mL) and 1 doubtful (confidence below 50 %; 3.09 mL)." in first
    assert largest.startswith("The likely one is lesion 1: intramedullary at T12, ")


def test_lesions_that_are_all_doubtful_are_called_so(report):
    (several, *_), (one, *_) = (
        summary_sentences(*sure(report, *confidences)) for confidences in ((0.3, 0.4), (0.3,))
    )
    assert several.startswith("2 doubtful lesions (confidence below 50 %) were found among ")
    assert one.startswith("One doubtful lesion (confidence 30 %) was found among ")


def test_doubtful_lesions_are_counted(report):
    unsure = tuple(
        replace(finding, lesion=replace(finding.lesion, confidence=0.2)) for finding in report.findings[:3]
    )
    document = report_document(replace(report, findings=(*unsure, report.findings[3])))
    assert (document.summary.lesions, document.summary.lesions_doubtful) == (4, 3)


@pytest.mark.parametrize("exact", [0.99997, 0.00003, 0.99496, 1.0, 0.0, 1 - 1e-12, 1e-12])
def test_a_rounded_probability_reads_like_the_exact_one(report, exact):
    finding = replace(
        report.findings[0],
        compartment_probabilities={Compartment.EXTRADURAL: exact},
        lesion=replace(report.findings[0].lesion, confidence=exact),
        level_confidence=exact,
    )
    (record,) = report_document(replace(report, findings=(finding,))).findings
    written = (
        record.compartment_probabilities[Compartment.EXTRADURAL], record.confidence, record.level_confidence
    )  # fmt: skip
    for probability in written:
        assert percent(probability) == percent(exact)
        assert (probability in (0, 1)) is (min(exact, 1 - exact) < 1e-9)


def test_review_says_what_it_is_about(report):
    topics = (ReviewTopic.LEVEL, ReviewTopic.EVIDENCE)
    asked = replace(report.findings[0], needs_review=True, review_topics=topics)
    document = report_document(replace(report, findings=(asked, report.findings[1])))
    assert [review_text(finding) for finding in document.findings] == ["needs review: level, evidence", ""]


def test_no_lesion_is_said_to_be_found_not_to_be_absent(make_report):
    clean = make_report(lesions=False)
    (sentence, *_) = report_document(clean).summary.sentences
    assert sentence == "No lesion was found among the recognised vertebrae, T11 to sacrum."
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


@pytest.mark.parametrize("others", [0, 1])
def test_a_lesion_without_a_level_is_not_said_to_lie_among_the_vertebrae(report, others):
    away = replace(report.findings[0], levels=(), main_level=None, region=None)
    findings = (away, *report.findings[1 : 1 + others])
    rebuilt = build_report(report.study, report.segmentation, report.vertebrae, findings, report.provenance)
    first = report_document(rebuilt).summary.sentences[0]
    assert "found in these images" in first
    assert "among the recognised vertebrae" not in first


def test_when_all_levels_are_uncertain_they_are_not_listed(report):
    doubtful = tuple(replace(vertebra, confidence=0.4) for vertebra in report.vertebrae)
    rebuilt = build_report(report.study, report.segmentation, doubtful, (), report.provenance)
    first, last = report_document(rebuilt).summary.sentences
    assert first == "No lesion was found among the recognised vertebrae, T11? to sacrum?."
    assert last == "The names of all recognised levels are uncertain."


def test_an_uncertain_sacrum_is_called_the_sacrum(report):
    doubtful = (*report.vertebrae[:-1], replace(report.vertebrae[-1], confidence=0.4))
    rebuilt = build_report(report.study, report.segmentation, doubtful, (), report.provenance)
    assert report_document(rebuilt).summary.sentences[-1] == "The level names L5 and sacrum are uncertain."


def test_a_label_in_a_viewer_calls_the_sacrum_the_sacrum_too(report):
    finding = report.findings[0]
    assert finding_label(replace(finding, main_level=VertebralLevel.S1)) == "lesion 1, sacrum, intramedullary"
    assert finding_label(replace(finding, main_level=None)) == "lesion 1, no level, intramedullary"


def test_uncertain_levels_in_a_row_are_one_span(report):
    confidences = (0.4, 0.4, 0.4, 0.99, 0.4, 0.99, 0.99, 0.99)
    doubtful = tuple(
        replace(vertebra, confidence=confidence)
        for vertebra, confidence in zip(report.vertebrae, confidences, strict=True)
    )
    rebuilt = build_report(report.study, report.segmentation, doubtful, (), report.provenance)
    assert report_document(rebuilt).summary.sentences[-1] == "The level names T11 to L1 and L3 are uncertain."


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((1, 2, 3, 4), "All lesions need a reader's decision."),
        ((1, 2), "Lesions 1 and 2 need a reader's decision."),
        ((1, 2, 4), "Lesions 1, 2 and 4 need a reader's decision."),
        ((2, 3, 4), "Lesions 2 to 4 need a reader's decision."),
    ],
)
def test_lesions_to_be_reviewed_are_not_counted_out_one_by_one(report, asked, said):
    document = report_document(report)
    findings = [
        finding.model_copy(update={"needs_review": finding.lesion in asked}) for finding in document.findings
    ]
    assert said in summary_sentences(findings, document.levels)


def test_the_command_line_gets_a_line_for_each_lesion_each_caution_and_the_disclaimer(report):
    lines = summary_lines(report)
    assert sum("mm  confidence" in line for line in lines) == 4
    doubtful = next(line for line in lines if "needs review" in line)
    assert doubtful.split()[:2] == ["4", "L5?"]
    assert doubtful.endswith("  needs review: compartment")
    assert "Caution: the study holds no post-contrast series" in lines
    assert lines[-1] == "Research use only. Not a medical device."


def test_no_line_of_the_summary_names_the_patient(report):
    assert not any("PATIENT" in line or "1.2.840" in line for line in summary_lines(report))


def test_supernumerary_levels_are_named(report):
    extra = replace(report.vertebrae[6], level=VertebralLevel.L6, confidence=0.99)
    rebuilt = build_report(report.study, report.segmentation, (extra,), (), report.provenance)
    assert "L6" in report_document(rebuilt).summary.sentences[0]
