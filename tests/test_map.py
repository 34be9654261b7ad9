"""The MONAI Application Package, without a container engine: manifests, Dockerfiles, tools, application."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import spinemets
from spinemets.bundles import DEFAULT_BUNDLE
from spinemets.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "integrations" / "map"
DOCKERFILES = [PACKAGE / "Dockerfile.cpu", PACKAGE / "Dockerfile.gpu"]
MEMORY = re.compile(r"\d+(\.\d)?[MG]i")
# Of the specification's table of environment variables.
VARIABLES = {
    "HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH", "HOLOSCAN_WORKDIR", "HOLOSCAN_MODEL_PATH",
    "HOLOSCAN_CONFIG_PATH", "HOLOSCAN_APP_MANIFEST_PATH", "HOLOSCAN_PKG_MANIFEST_PATH",
}  # fmt: skip


def read_json(name: str) -> dict:
    return json.loads((PACKAGE / name).read_text())


@pytest.fixture(scope="module")
def application() -> ModuleType:
    spec = importlib.util.spec_from_file_location("map_application", PACKAGE / "app" / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_application_manifest_says_what_the_specification_asks():
    manifest = read_json("app.json")
    assert manifest["type"] == "application"
    assert manifest["command"].split()[-1] == manifest["environment"]["HOLOSCAN_APPLICATION"]
    assert set(manifest["environment"]) >= VARIABLES
    assert all(value.startswith("/") for value in manifest["environment"].values())
    assert manifest["input"]["formats"] == manifest["output"]["formats"] == ["file"]
    assert isinstance(manifest["output"]["format"], dict)
    assert manifest["readiness"]["type"] == "command"
    assert manifest["version"] == spinemets.__version__
    assert manifest["workingDirectory"].startswith("/")


@pytest.mark.parametrize(("name", "gpus"), [("pkg.cpu.json", 0), ("pkg.gpu.json", 1)])
def test_package_manifest_names_the_model_and_what_it_needs(name, gpus):
    manifest = read_json(name)
    environment = read_json("app.json")["environment"]
    assert manifest["applicationRoot"] == environment["HOLOSCAN_APPLICATION"]
    assert manifest["modelRoot"] == environment["HOLOSCAN_MODEL_PATH"]
    assert [model["name"] for model in manifest["models"]] == [DEFAULT_BUNDLE]
    assert manifest["resources"]["gpu"] == gpus
    sizes = {key: value for key, value in manifest["resources"].items() if key.endswith("emory")}
    assert all(MEMORY.fullmatch(value) for value in sizes.values())
    assert ("gpuMemory" in sizes) == bool(gpus)
    assert manifest["version"] == spinemets.__version__


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
def test_dockerfile_agrees_with_the_manifests_and_copies_what_there_is(path):
    lines = path.read_text().replace("\\\n", " ").splitlines()
    (environment,) = (line for line in lines if line.startswith("ENV "))
    set_here = dict(pair.split("=", 1) for pair in environment.split()[1:])
    assert read_json("app.json")["environment"].items() <= set_here.items()
    copies = [line.split()[1:] for line in lines if line.startswith("COPY ")]
    assert all((ROOT / source).exists() for *sources, _ in copies for source in sources)
    placed = {target: sources for *sources, target in copies}
    assert placed["/etc/holoscan/app.json"] == ["integrations/map/app.json"]
    assert placed["/etc/holoscan/pkg.json"] == [f"integrations/map/pkg{path.suffix}.json"]
    (label,) = (line for line in lines if line.startswith("LABEL "))
    assert f'org.opencontainers.image.version="{spinemets.__version__}"' in label
    assert "org.opencontainers.image.title=" in label
    assert "USER 1000:1000" in lines


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
def test_hadolint_has_no_complaint(path):
    beside = Path(sys.executable).with_name("hadolint")
    linter = str(beside) if beside.is_file() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("tool missing: hadolint")
    done = subprocess.run([linter, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_options_win_over_variables_and_a_model_folder_holds_the_default_bundle(application, tmp_path):
    environment = {"HOLOSCAN_INPUT_PATH": "/a", "HOLOSCAN_OUTPUT_PATH": "/b", "HOLOSCAN_CONFIG_PATH": "/c"}
    line = application.command_line(["-o", "/d", "-m", str(tmp_path), "-l", "debug"], environment)
    bundle = tmp_path.resolve() / DEFAULT_BUNDLE
    assert line == ["detect", "/a", "--output", "/d", "--model", str(bundle), "--config", "/c", "-vv"]
    (tmp_path / "configs").mkdir()
    assert str(tmp_path.resolve()) in application.command_line(["-m", str(tmp_path)], environment)


def in_container(tmp_path: Path) -> dict[str, str]:
    """The variables of the container, with its places below a folder."""
    paths = {
        "HOLOSCAN_APPLICATION": PACKAGE / "app",
        "HOLOSCAN_INPUT_PATH": tmp_path / "input",
        "HOLOSCAN_OUTPUT_PATH": tmp_path / "output",
        "HOLOSCAN_WORKDIR": tmp_path,
        "HOLOSCAN_MODEL_PATH": ROOT / "models",
        "HOLOSCAN_CONFIG_PATH": PACKAGE / "app.yaml",
        "HOLOSCAN_APP_MANIFEST_PATH": PACKAGE / "app.json",
        "HOLOSCAN_PKG_MANIFEST_PATH": PACKAGE / "pkg.cpu.json",
        "HOLOSCAN_DOCS_PATH": PACKAGE,
        "HOLOSCAN_EXPORT_PATH": tmp_path / "export",
    }
    (tmp_path / "input").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **{name: str(value) for name, value in paths.items()}}


def run_tools(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PACKAGE / "tools", *arguments],
        env=environment,
        cwd=environment["HOLOSCAN_WORKDIR"],
        capture_output=True,
        text=True,
        check=False,
        timeout=850,
    )


@pytest.mark.timeout(900)
def test_a_dicom_study_in_the_input_folder_is_reported_in_the_output_folder(tmp_path):
    environment = in_container(tmp_path)
    shutil.copytree(ROOT / "data_samples" / "dicom" / "2_T2_TSE_sag", tmp_path / "input" / "study")
    done = run_tools(environment)
    assert done.returncode == 0, done.stderr
    (report,) = (tmp_path / "output").glob("*/report.json")
    assert json.loads(report.read_text())["provenance"]["model"] == DEFAULT_BUNDLE
    objects = {path.name for path in (report.parent / "dicom").iterdir()}
    assert objects >= {"levels.seg.dcm", "anatomy.seg.dcm", "findings.sr.dcm", "report.pdf.dcm"}
    assert "dicom-sr" in load_config(PACKAGE / "app.yaml").report.formats


@pytest.mark.parametrize(
    ("changed", "code"),
    [({}, 3), ({"HOLOSCAN_INPUT_PATH": "nowhere"}, 2), ({"HOLOSCAN_MODEL_PATH": "/nowhere"}, 5)],
)
def test_exit_codes_are_those_of_the_command_line(tmp_path, changed, code):
    done = run_tools({**in_container(tmp_path), **changed})
    assert done.returncode == code, done.stderr


def test_manifests_are_shown_and_extracted(tmp_path):
    environment = in_container(tmp_path)
    assert json.loads(run_tools(environment, "show", "pkg").stdout) == read_json("pkg.cpu.json")
    assert run_tools(environment, "extract").returncode == 2
    (tmp_path / "export" / "config").mkdir(parents=True)
    assert run_tools(environment, "extract").returncode == 0
    names = {str(path.relative_to(tmp_path / "export")) for path in (tmp_path / "export").rglob("*.*")}
    assert names == {"config/app.json", "config/pkg.json", "config/app.yaml"}
