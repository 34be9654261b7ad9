"""The index page of a batch: what it shows, and that it can be searched, filtered and sorted."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from spinemets.reporting.batch_page import BatchEntry, render_batch_page, write_thumbnail
from spinemets.reporting.tables import report_row

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

INTERACTION = """
const seen = {};
const sorted = document.querySelector("th[aria-sort]");
seen.sorted = `${sorted.textContent} ${sorted.ariaSort}`;
const shownRows = () => [...document.querySelectorAll("tbody tr:not([hidden]) th")];
const names = () => shownRows().map((cell) => cell.textContent);
const set = (id, change) => {
  const control = document.getElementById(id);
  change(control);
  control.dispatchEvent(new Event("input", { bubbles: true }));
};
const head = (text) => [...document.querySelectorAll("thead button")].find((one) => one.textContent === text);
seen.all = names();
head("Lesions").click();
seen.upwards = names();
head("Lesions").click();
seen.downwards = names();
set("search", (box) => { box.value = "damaged"; });
seen.searched = names();
for (const word of ["t1", "T12", "c7", "study-3c7", "extradural"]) {
  set("search", (box) => { box.value = word; });
  seen[word] = names();
}
set("search", (box) => { box.value = ""; });
set("with-review", (box) => { box.checked = true; });
seen.review = names();
set("with-review", (box) => { box.checked = false; });
set("state", (list) => { list.value = "done"; });
set("with-lesions", (box) => { box.checked = true; });
seen.filtered = names();
seen.shown = document.getElementById("shown").textContent;
document.body.dataset.seen = JSON.stringify(seen);
"""


def entry(folder: Path, study: str, state: str = "done", reason: str = "", **summary: object) -> BatchEntry:
    return BatchEntry(
        study, state, reason, summary, "logs/x.log" if state == "failed" else "", folder / study
    )


@pytest.fixture
def page(tmp_path):
    """Five studies, one of them with a picture and a hostile name."""
    hostile = tmp_path / "<b>&'\"#1"
    hostile.mkdir()
    (hostile / "report.html").write_text("report")
    Image.new("RGB", (800, 600), "red").save(hostile / "overview.png")
    write_thumbnail(hostile)
    entries = [
        entry(
            tmp_path, hostile.name, lesions=2, needs_review=1, total_volume_mm3=2500.0, levels_involved="L2"
        ),
        entry(tmp_path, "broken", "failed", "<i>damaged</i>"),
        entry(
            tmp_path,
            "many",
            lesions=12,
            lesions_doubtful=2,
            lesions_extradural=12,
            needs_review=0,
            highest_confidence=0.874,
            total_volume_mm3=100.0,
            levels_involved="T1 T10",
        ),
        entry(tmp_path, "none", lesions=0, needs_review=0, total_volume_mm3=0.0, levels_uncertain="L5"),
        entry(tmp_path, "study-3c7e2", lesions=0, levels_involved="T12", cautions=2, caution_texts="A. | B."),
    ]
    path = tmp_path / "index.html"
    path.write_text(render_batch_page(entries), encoding="utf-8")
    return path


def test_page_holds_its_pictures_and_links_the_reports(page):
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 1
    assert 'href="%3Cb%3E%26%27%22%231/report.html"' in text
    assert 'href="logs/x.log"' in text
    assert "<b>" not in text
    assert "<i>damaged" not in text
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    with Image.open(page.parent / "<b>&'\"#1/overview_small.jpg") as small:
        assert small.size == (213, 160)


def test_page_tells_doubtful_lesions_compartments_and_cautions(page):
    rows = page.read_text().split("<tr ")
    many, unsure = (next(row for row in rows if f">{name}<" in row) for name in ("many", "study-3c7e2"))
    assert (
        '<td data-value="12">10 likely, 2 doubtful<br><span class="muted">12 extradural</span></td>' in many
    )
    assert ">87 %</td>" in many
    assert 'data-value="2">2<br><span class="muted">A.</span><br><span class="muted">B.</span></td>' in unsure


def test_the_sacrum_goes_by_its_name_and_is_found_by_both(tmp_path):
    page = render_batch_page([entry(tmp_path, "low", lesions=1, levels_involved="L5 S1")])
    assert "<td>L5 sacrum</td>" in page
    assert 'data-levels="l5 s1 l5 sacrum"' in page


def test_what_is_to_be_reviewed_is_said_of_lesions_and_of_levels(page):
    text = page.read_text()
    assert '<td data-value="1">1 lesion</td>' in text
    assert '<td data-value="0">0 lesions<br><span class="muted">names of levels</span></td>' in text


def test_a_study_without_a_recognised_vertebra_is_to_be_reviewed(make_report, tmp_path):
    bare = replace(make_report(lesions=False), vertebrae=())
    seen, unseen = (
        entry(tmp_path, name, **report_row(report))
        for name, report in (("spine", make_report(lesions=False)), ("noise", bare))
    )
    assert not seen.is_without_spine
    assert unseen.is_for_review
    assert render_batch_page([seen, unseen]).count("no vertebra recognised") == 1
    assert not entry(tmp_path, "broken", "failed").is_for_review


def test_that_no_lesion_was_found_is_no_caution_of_a_study(make_report):
    row = report_row(make_report(lesions=False))
    assert (row["cautions"], row["caution_texts"]) == (1, "the study holds no post-contrast series")
    assert row["highest_confidence"] is None
    assert report_row(make_report())["highest_confidence"] == 0.87


@pytest.mark.skipif(CHROMIUM is None, reason="tool missing: chromium")
@pytest.mark.xdist_group("browser")
def test_page_is_searched_filtered_and_sorted_under_its_own_policy(page, tmp_path):
    digest = base64.b64encode(hashlib.sha256(INTERACTION.encode()).digest()).decode()
    source = page.read_text().replace("script-src ", f"script-src &#39;sha256-{digest}&#39; ", 1)
    page.write_text(source.replace("</body>", f"<script>{INTERACTION}</script></body>"))
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-background-networking", "--no-first-run"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    seen = json.loads(unescape(re.search(r'data-seen="([^"]*)"', done.stdout).group(1)))
    hostile = "<b>&'\"#1"
    assert seen == {
        "sorted": "Study ascending",
        "all": [hostile, "broken", "many", "none", "study-3c7e2"],
        "upwards": ["none", "study-3c7e2", hostile, "many", "broken"],
        "downwards": ["many", hostile, "none", "study-3c7e2", "broken"],
        "searched": ["broken"],
        "t1": ["many"],
        "T12": ["study-3c7e2"],
        "c7": [],
        "study-3c7": ["study-3c7e2"],
        "extradural": ["many"],
        "review": [hostile, "none"],
        "filtered": ["many", hostile],
        "shown": "2 of 5 studies shown",
    }
