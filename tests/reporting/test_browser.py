"""The page as a reviewer meets it: opened from the disk in a browser, without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinemets.config import ReportConfig
from spinemets.findings import SequenceSignal
from spinemets.reporting import write_report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="tool missing: chromium"),
    pytest.mark.xdist_group("browser"),
]
SOFTWARE_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")

# What a reader would do, once the viewer is ready; what came of it goes into the page.
INTERACTION = """
const poll = setInterval(() => {
  const state = document.getElementById("viewer").dataset.viewer;
  if (state !== "ready") return;
  clearInterval(poll);
  const seen = {};
  seen.cut = [...document.querySelectorAll(".scroll")].map((one) => one.scrollWidth - one.clientWidth);
  const names = () => [...document.querySelectorAll("#viewer-labels .before")].map((one) => one.textContent);
  const say = () => document.getElementById("viewer-readout").textContent;
  const set = (id, change) => {
    const control = document.getElementById("viewer-" + id);
    change(control);
    control.dispatchEvent(new Event("input", { bubbles: true }));
    control.dispatchEvent(new Event("change", { bubbles: true }));
  };
  seen.before = say();
  seen.labels = [...document.querySelectorAll("#viewer-labels .before")].map(
    (label) => [label.textContent, label.getBoundingClientRect().top]);
  const press = (code) => {
    for (const kind of ["keydown", "keyup"]) {
      const key = new KeyboardEvent(kind, { code: code, key: code, bubbles: true, cancelable: true });
      document.getElementById("viewer-canvas").dispatchEvent(key);
    }
  };
  for (const code of ["KeyV", "KeyC"]) press(code);
  seen.unkeyed = names();
  seen.keyed = ["PageUp", "ArrowLeft", "ArrowUp", "PageDown", "ArrowRight", "ArrowDown"].map((code) => {
    press(code);
    return say();
  });
  document.querySelector("[data-finding='2']").click();
  seen.third = say();
  set("names", (box) => { box.checked = false; });
  seen.hidden = names();
  set("names", (box) => { box.checked = true; });
  set("vertebrae", (box) => { box.checked = true; });
  set("series", (list) => { list.value = "1"; });
  document.querySelector("[data-finding='1']").click();
  seen.second = say();
  seen.names = names();
  set("vertebrae", (box) => { box.checked = false; });
  const box = document.getElementById("viewer-canvas").getBoundingClientRect();
  seen.canvas = [box.left, box.top, box.right, box.bottom].map(Math.round);
  document.body.dataset.seen = JSON.stringify(seen);
}, 20);
"""


@dataclass(frozen=True)
class Visit:
    """The page's elements after its scripts ran, and what the window showed."""

    dom: str
    screenshot: Path


def visit(page: Path, folder: Path, flags: tuple[str, ...]) -> Visit:
    """Open a page in a fresh headless browser and wait until its scripts have come to rest."""
    screenshot = folder / "window.png"
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1240,3000",
        "--virtual-time-budget=20000",
        f"--screenshot={screenshot}",
        "--dump-dom",
        *flags,
        page.as_uri(),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return Visit(finished.stdout, screenshot)


def with_script(page: Path, script: str) -> Path:
    """The page with another script, which its policy admits beside its own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    source = page.read_text(encoding="utf-8").replace(
        "script-src ", f"script-src &#39;sha256-{digest}&#39; ", 1
    )
    # NiiVue's own text holds the closing tags too; the last ones are the page's.
    before, _, after = source.rpartition("</body>")
    page.write_text(f"{before}<script>{script}</script></body>{after}", encoding="utf-8")
    return page


def seen_in(used: Visit) -> str:
    """What a test's script has noted in the page."""
    return unescape(re.search(r'data-seen="([^"]*)"', used.dom).group(1))


@pytest.fixture(scope="module")
def page(make_report, tmp_path_factory):
    """Of an oblique study, whose slices and coordinates do not run along each other."""
    report = make_report(order=(1, 2, 0), flips=(True, True, False), turn_degrees=(8.0, -5.0, 10.0))
    stir = SequenceSignal("series 5 (STIR)", "STIR/T2FS", 23.9, "bright")
    findings = tuple(
        replace(finding, lesion=replace(finding.lesion, signals=(*finding.lesion.signals, stir)))
        for finding in report.findings
    )
    report = replace(report, findings=findings)
    return write_report(report, tmp_path_factory.mktemp("page"), ReportConfig(formats=("html",))).html


@pytest.fixture(scope="module")
def used(page, tmp_path_factory):
    """The page after a reader's clicks."""
    folder = tmp_path_factory.mktemp("used")
    copy = folder / "report.html"
    shutil.copy(page, copy)
    return visit(with_script(copy, INTERACTION), folder, SOFTWARE_WEBGL)


@pytest.fixture(scope="module")
def seen(used):
    return json.loads(seen_in(used))


@pytest.fixture(scope="module")
def canvas(used, seen):
    with Image.open(used.screenshot) as image:
        return np.asarray(image.convert("RGB").crop(tuple(seen["canvas"])), dtype=int)


def test_the_viewer_starts_under_the_pages_own_policy(used):
    assert 'data-viewer="ready"' in used.dom


def test_no_table_is_cut_in_a_window_as_wide_as_the_page(seen):
    assert seen["cut"]
    assert max(seen["cut"]) == 0


def test_every_visible_level_is_named_over_the_sagittal_slice_from_head_to_foot(seen):
    assert [name for name, _ in seen["labels"]] == ["T11", "T12", "L1", "L2", "L3", "L4", "L5?", "sacrum"]
    heights = [height for _, height in seen["labels"]]
    assert heights == sorted(heights)


def test_the_viewer_has_drawn_images(canvas):
    height, width, _ = canvas.shape
    sagittal = canvas[:, : width // 2]
    axial, coronal = canvas[: height // 2, width // 2 :], canvas[height // 2 :, width // 2 :]
    for tile in (sagittal, axial, coronal):
        assert tile.mean(axis=-1).std() > 15
        assert len(np.unique(tile)) > 30


def test_a_click_on_a_finding_goes_there_and_reads_out_level_and_lesion(seen):
    assert seen["before"].endswith("Lesion 1, intramedullary")
    assert "Lesion 3, intradural-extramedullary" in seen["third"]
    assert seen["second"].startswith("L 1")
    assert seen["second"].endswith("L2 · Lesion 2, extradural")


def rightward_front_upward_mm(words):
    parts = words.split(" ·")[0].split(", ")
    return [int(part.split()[1]) * (1 if part[0] in "RAH" else -1) for part in parts]


def test_keys_move_the_crosshair_and_none_leaves_the_three_slices(seen):
    places = [rightward_front_upward_mm(words) for words in (seen["before"], *seen["keyed"])]
    moved = [places[rank + 1][rank % 3] - places[rank][rank % 3] for rank in range(6)]
    assert np.sign(moved).tolist() == [1, 1, 1, -1, -1, -1]
    assert seen["keyed"][-1] == seen["before"]
    assert len(seen["unkeyed"]) == 8


def test_the_page_tells_how_the_viewer_is_used(used):
    assert "Page Up and Page Down" in re.sub(r"\s+", " ", used.dom)


def test_level_names_can_be_hidden_and_come_back(seen):
    assert seen["hidden"] == []
    assert len(seen["names"]) == 8


def test_the_patients_left_is_on_the_right_of_the_viewers_axial_slice(canvas):
    height, width, _ = canvas.shape
    axial = canvas[: height // 2, width // 2 :]
    orange = (axial[..., 0] - axial[..., 2] > 60) & (axial[..., 0] > axial[..., 1] + 15)
    assert orange.sum() > 50
    assert np.nonzero(orange)[1].mean() > 0.52 * axial.shape[1]


def test_the_front_is_on_the_left_of_the_viewers_sagittal_slice(canvas):
    sagittal = canvas[:, : canvas.shape[1] // 2]
    orange = (sagittal[..., 0] - sagittal[..., 2] > 60) & (sagittal[..., 0] > sagittal[..., 1] + 15)
    # The lesion lies in the body, 17 mm in front of the middle of the image from front to back.
    assert np.nonzero(orange)[1].mean() < 0.48 * sagittal.shape[1]


def test_without_webgl_the_page_says_so_and_keeps_its_pictures(page, tmp_path):
    dom = visit(page, tmp_path, ("--disable-3d-apis", "--disable-gpu")).dom
    assert 'data-viewer="unavailable"' in dom
    assert "no WebGL 2" in dom
    assert dom.count('<img class="picture"') == 5


# How far the page reaches beyond its window, and where two words of its heading stand from left to right.
MEASUREMENT = """
const place = (text) => {
  const words = document.createTreeWalker(document.querySelector(".study"), NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const start = words.currentNode.data.indexOf(text);
    if (start < 0) continue;
    const range = document.createRange();
    range.setStart(words.currentNode, start);
    range.setEnd(words.currentNode, start + text.length);
    return range.getBoundingClientRect().left;
  }
};
const wide = document.documentElement;
const beyond = wide.scrollWidth - wide.clientWidth;
document.body.dataset.seen = JSON.stringify([beyond, place("77"), place("20240229")]);
"""


def measured(report, folder):
    path = write_report(report, folder, ReportConfig(formats=("html",), identifiers="keep")).html
    return json.loads(seen_in(visit(with_script(path, MEASUREMENT), folder, SOFTWARE_WEBGL)))


def test_words_without_end_do_not_widen_the_page(report, tmp_path):
    word = "T2_TSE_" * 40
    study = replace(report.study, description=word)
    beyond, *_ = measured(replace(report, study=study, cautions=(f"{word}: a slice is missing",)), tmp_path)
    assert beyond == 0


def test_a_name_written_from_right_to_left_keeps_to_its_place(report, tmp_path):
    study = replace(report.study, patient_id="\u05d0\u05d1\u05d2 77", description="\u202eT2")
    _, patient, date = measured(replace(report, study=study), tmp_path)
    assert patient < date


def test_each_lesion_is_printed_on_one_page(page, tmp_path):
    reader = shutil.which("pdftotext")
    if reader is None:
        pytest.skip("tool missing: pdftotext")
    printed = tmp_path / "printed.pdf"
    visit(page, tmp_path, (f"--print-to-pdf={printed}", "--no-pdf-header-footer"))
    text = subprocess.run([reader, printed, "-"], capture_output=True, text=True, check=True).stdout
    pages = text.split("\f")
    for number in (1, 2, 3, 4):
        (card,) = [one for one in pages if f"Lesion {number}:" in one]
        assert "series 5 (STIR)" in card
