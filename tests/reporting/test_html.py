from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import pytest

from spinemets.reporting.document import report_document
from spinemets.reporting.html import Pictures, render_html
from spinemets.reporting.viewer import viewer_data

HOSTILE = """</script><script>document.body.innerHTML='owned'</script><img src=x onerror="alert(1)">'\"&"""


class Page(HTMLParser):
    """Elements, attributes, and the text outside scripts and styles."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.ids, self.scripts, self.words, self._inside = [], [], [], [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, text):
        if self._inside == "script":
            self.scripts.append(text)
        elif not self._inside:
            self.words.append(text)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(report, identifiers="hash"):
    document = report_document(report, identifiers)
    pictures = Pictures(b"overview", {finding.lesion.number: b"lesion" for finding in report.findings})
    return render_html(document, pictures, viewer_data(report, document))


@pytest.fixture(scope="module")
def source(report):
    return page_of(report)


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_every_lesion_has_a_row_a_card_and_a_picture(report, page):
    for finding in report_document(report).findings:
        assert f"lesion-{finding.lesion}" in page.ids
        assert f"Lesion {finding.lesion}: " in page.text
        assert any(f"Lesion {finding.lesion} at" in image["alt"] for image in page.of("img"))
        assert f"{finding.volume_mm3 / 1000:.2f} mL" in page.text


def test_the_numbers_of_the_page_are_those_of_the_document(report, page):
    document = report_document(report)
    for sentence in document.summary.sentences:
        assert sentence in page.text
    for finding in document.findings:
        assert f"{finding.longest_diameter_mm:.1f} mm" in page.text
        assert f"{100 * finding.confidence:.0f} %" in page.text


def test_the_disclaimer_and_the_cautions_come_before_the_findings(page):
    assert page.text.index("Research use only. Not a medical device.") < page.text.index("Summary")
    assert page.text.index("the study holds no post-contrast series") < page.text.index("Summary")


def test_reasons_for_review_are_given_in_words(page):
    assert page.text.count("It lies on the border of the dura") >= 2


def test_a_lesion_says_that_its_level_s_name_is_uncertain(report):
    finding = next(finding for finding in report.findings if finding.main_level is not None)
    unsure = tuple(
        replace(vertebra, confidence=0.75) if vertebra.level is finding.main_level else vertebra
        for vertebra in report.vertebrae
    )
    for vertebrae, marked in ((report.vertebrae, False), (unsure, True)):
        page = page_of(replace(report, vertebrae=vertebrae))
        card = page.split(f'id="lesion-{finding.lesion.number}"')[1].split("</article>")[0]
        assert ("uncertain" in card.split("Level's name")[1].split("</dd>")[0]) is marked


def test_an_uncertain_level_is_marked_wherever_a_finding_is_named(report):
    # L5 is uncertain, and lesion 4 lies in it.
    source = page_of(report)
    row = source.split('<a href="#lesion-4">4</a>')[-1].split("</tr>")[0]
    title = source.split('id="lesion-4-title">')[1].split("</h3>")[0]
    button = source.split('data-finding="3">')[1].split("</button>")[0]
    assert "<strong>L5?</strong>" in row
    assert title.startswith("Lesion 4: L5?, ")
    assert button == "4 · L5?"
    assert "L2?" not in source


def test_a_badge_says_what_a_reader_must_decide(page):
    assert "needs review: compartment" in page.text


def test_doubtful_lesions_are_counted_apart(report):
    first, *others = report.findings
    unsure = replace(first, lesion=replace(first.lesion, confidence=0.2))
    assert (
        "Lesions 3 likely, 1 doubtful Total"
        in Page(page_of(replace(report, findings=(unsure, *others)))).text
    )
    assert "Lesions 4 Total" in Page(page_of(report)).text


def test_a_card_says_where_in_the_series_to_look(source):
    card = source.split('id="lesion-2"')[1].split("</article>")[0]
    assert "slices 3-7 of 15, left of the midline" in card
    assert "<dt>Probability that it is a lesion</dt><dd>77" in card


def test_levels_series_and_rejections_are_listed(page):
    for words in (
        "T11",
        "S1",
        "L6 37 %",
        "series 4 (T1 TSE sag)",
        "not used: a localiser",
        "cut off by the edge",
    ):
        assert words in page.text


def test_hostile_descriptions_stay_text(make_report):
    page = Page(page_of(make_report(description=HOSTILE)))
    assert len(page.of("script")) == 3
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "document.body.innerHTML" in page.text
    data = next(json.loads(text) for text in page.scripts if text.startswith("{"))
    assert HOSTILE in data["images"][0]["name"]


@pytest.mark.parametrize("secret", ["PATIENT-4711", "20240229", "1.2.840.99", "DOE_JANE"])
def test_the_page_holds_no_identifier_unless_kept(report, source, secret):
    assert secret not in source
    assert "PATIENT-4711" in page_of(report, "keep")
    assert "1.2.840.99.1" in page_of(report, "keep")


def test_the_page_refers_to_nothing_outside_itself(page):
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not page.of("link")


def test_only_the_pages_own_scripts_and_style_may_run(source, page):
    policy = next(meta["content"] for meta in page.of("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    bodies = re.findall(r"<script>(.*?)</script>|<style>(.*?)</style>", source, flags=re.DOTALL)
    assert len(bodies) == 3
    for body in ("".join(pair) for pair in bodies):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_links_within_the_page_lead_somewhere_and_no_id_is_used_twice(page):
    assert len(page.ids) == len(set(page.ids))
    for link in page.of("a"):
        assert link["href"].removeprefix("#") in page.ids


def test_pictures_have_alternative_texts_and_headings_follow_each_other(page):
    assert all(len(image["alt"]) > 20 for image in page.of("img"))
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert page.of("html")[0]["lang"] == "en"


def test_without_scripts_the_page_says_where_to_look(page):
    assert "The viewer needs JavaScript" in page.text


def test_a_page_without_lesions_says_so(make_report):
    page = Page(page_of(make_report(lesions=False)))
    assert "No lesion was found among the recognised vertebrae, T11 to sacrum." in page.text
    assert "not proof" in page.text
    assert "lesions" not in page.ids


def test_the_overview_of_a_page_without_vertebrae_is_not_said_to_show_a_spine(make_report):
    page = Page(page_of(replace(make_report(lesions=False), vertebrae=())))
    (overview,) = [image["alt"] for image in page.of("img")]
    assert overview.startswith("Sagittal view, without and with lesion outlines; no vertebra was recognised.")


def test_the_vendored_viewer_is_the_file_whose_checksum_is_noted():
    assets = resources.files("spinemets.reporting").joinpath("assets")
    noted = json.loads(assets.joinpath("niivue.json").read_text(encoding="utf-8"))
    content = assets.joinpath(noted["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == noted["sha256"]
    assert b"</script" not in content
    assert b"<!--" not in content


def test_the_viewers_licence_travels_with_the_page(source):
    assert "BSD 2-Clause License" in source
    assert "Copyright (c) 2021, Niivue" in source


def test_links_to_lesions_in_the_column_are_named_and_in_nothing_that_is_one_picture(source):
    """A picture's parts are not told to those who hear the page."""
    (column,) = re.findall(r'<svg class="column-map".*?</svg>', source, flags=re.DOTALL)
    page = Page(column)
    assert page.of("svg")[0]["role"] == "group"
    links = page.of("a")
    assert [link["href"] for link in links] == ["#lesion-1", "#lesion-2", "#lesion-3", "#lesion-4"]
    assert all(link["aria-label"].startswith("lesion ") for link in links)
