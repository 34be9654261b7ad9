"""The index page of a batch: what it shows, and that it can be searched, filtered and sorted."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from spinemets.reporting.batch_page import BatchEntry, render_batch_page, write_thumbnail

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

INTERACTION = """
const seen = {};
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
set("search", (box) => { box.value = ""; });
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
    """Four studies, one of them with a picture and a hostile name."""
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
        entry(tmp_path, "many", lesions=12, needs_review=0, total_volume_mm3=100.0),
        entry(tmp_path, "none", lesions=0, needs_review=0, total_volume_mm3=0.0),
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
        "all": [hostile, "broken", "many", "none"],
        "upwards": ["none", hostile, "many", "broken"],
        "downwards": ["many", hostile, "none", "broken"],
        "searched": ["broken"],
        "filtered": ["many", hostile],
        "shown": "2 of 4 studies shown",
    }
