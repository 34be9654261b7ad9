"""The MONAI Label app alone: stand-ins take the places of MONAI Label and of the program."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

APP = Path(__file__).resolve().parents[1] / "integrations" / "monai_label" / "main.py"
# Called as `detect IMAGE -o OUT ...`: a study is named by its content, as by spinemets.
PROGRAM = """#!/bin/sh
content=$(find "$2" -type f -exec cat {} +) || exit 1
study="$4/study-$content"; mkdir -p "$study"; echo run >> "$4/runs"
echo "{\\"summary\\": {\\"sentences\\": [\\"$content\\"]}, \\"cautions\\": []}" > "$study/report.json"
echo '{"labels": {"1": "lesion"}}' > "$study/lesions.json"
echo "$content" > "$study/lesions.nii.gz"
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")


class Refusal(Exception):
    """MONAILabelException's stand-in."""


@pytest.fixture
def app(monkeypatch) -> ModuleType:
    """The app's module, on a MONAI Label that has nothing but names."""
    contents = {
        "monailabel.interfaces.app": {"MONAILabelApp": object},
        "monailabel.interfaces.exception": {
            "MONAILabelError": SimpleNamespace(INFERENCE_ERROR=1),
            "MONAILabelException": Refusal,
        },
        "monailabel.interfaces.tasks.infer_v2": {
            "InferTask": type("InferTask", (), {"__init__": lambda *_: None}),
            "InferType": SimpleNamespace(SEGMENTATION="segmentation"),
        },
    }
    for name in ("monailabel", "monailabel.interfaces", "monailabel.interfaces.tasks", *contents):
        module = ModuleType(name)
        vars(module).update(contents.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("monai_label_app", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results(tmp_path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


@pytest.fixture
def lesions(app, results, tmp_path, monkeypatch):
    """The model that draws lesions."""
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    (tmp_path / "program").write_text(PROGRAM)
    (tmp_path / "program").chmod(0o755)
    return app.SpineTask("spine_lesions", app.Detector(str(tmp_path / "program"), "cpu", results))


def test_requests_at_once_each_get_the_result_of_their_own_image(lesions, tmp_path):
    images = [tmp_path / name for name in ("first.nii", "second.nii")]
    for image in images:
        image.write_text(image.stem)

    def ask(image: Path) -> tuple[str, str]:
        labels, told = lesions({"image": str(image)})
        assert told["label_names"] == {"lesion": 1}
        return Path(labels).read_text().strip(), told["summary"][0]

    with ThreadPoolExecutor(2) as requests:
        answers = list(requests.map(ask, images * 10))
    assert answers == [("first", "first"), ("second", "second")] * 10


def test_other_content_at_the_same_path_gets_its_own_result(lesions, results, tmp_path):
    image = tmp_path / "image.nii"
    for content in ("before", "after"):
        image.write_text(content)
        assert lesions({"image": str(image)})[1]["summary"] == [content]
    assert [path.name for path in results.glob("study-*")] == ["study-after"]


def test_an_unchanged_image_keeps_its_results(lesions, results, tmp_path):
    (tmp_path / "image.nii").write_text("same")
    for _ in range(2):
        lesions({"image": str(tmp_path / "image.nii")})
    assert (results / "runs").read_text().split() == ["run", "run"]


def test_a_changed_file_of_a_folder_is_other_content(lesions, results, tmp_path):
    (tmp_path / "study").mkdir()
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / "study" / name).write_text(name)
    lesions({"image": str(tmp_path / "study")})
    (tmp_path / "study" / "2.dcm").write_text("corrected")
    (summary,) = lesions({"image": str(tmp_path / "study")})[1]["summary"]
    assert "corrected" in summary
    assert len(list(results.glob("study-*"))) == 1


def test_an_image_that_cannot_be_read_is_refused_and_the_next_is_served(lesions, tmp_path):
    with pytest.raises(Refusal):
        lesions({"image": str(tmp_path / "gone.nii")})
    (tmp_path / "image.nii").write_text("next")
    assert lesions({"image": str(tmp_path / "image.nii")})[1]["summary"] == ["next"]


def test_an_image_that_failed_is_tried_again(lesions, tmp_path):
    """As spinemets does: what failed before is taken up with --retry-failed alone."""
    program = tmp_path / "program"
    done = program.read_text().partition("\n")[2]
    program.write_text(
        '#!/bin/sh\nif [ ! -e "$4/failed" ]; then touch "$4/failed"; echo no memory >&2; exit 6; fi\n'
        'case " $* " in *" --retry-failed "*) ;; *) echo failed before >&2; exit 6 ;; esac\n' + done
    )
    (tmp_path / "image.nii").write_text("same")
    with pytest.raises(Refusal, match="no memory"):
        lesions({"image": str(tmp_path / "image.nii")})
    assert lesions({"image": str(tmp_path / "image.nii")})[1]["summary"] == ["same"]


def test_a_run_that_does_not_end_is_refused_and_the_next_request_is_served(
    app, lesions, tmp_path, monkeypatch
):
    program = tmp_path / "program"
    done = program.read_text()
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "image.nii").write_text("same")
    monkeypatch.setattr(app, "_TIMEOUT_S", 0.5)
    with pytest.raises(Refusal, match="no result within"):
        lesions({"image": str(tmp_path / "image.nii")})
    program.write_text(done)
    assert lesions({"image": str(tmp_path / "image.nii")})[1]["summary"] == ["same"]
