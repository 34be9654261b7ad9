"""Bundles are found, trusted and read, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from spinemets import bundles
from spinemets.bundles import (
    bundles_folder,
    file_checksums,
    load_bundle,
    reading_checksum,
    register_bundle,
)
from spinemets.errors import ModelIncompatibleError, ModelNotFoundError, ModelNotTrustedError
from spinemets.volume import Weighting

REPOSITORY = Path(__file__).resolve().parents[1]

FACTS = {
    "format": 1,
    "network": {"type": "spinemets-unet", "features": [8, 16]},
    "spacing_mm": {"in_plane": 1.0, "slice_min": 2.5, "slice_target": 3.0},
    "channels": ["background", "vertebral_body"],
    "weightings": ["T1", "STIR/T2FS"],
}
METADATA = {
    "schema": "https://example.org/meta_schema.json",
    "version": "0.2.1",
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "task": "a task",
    "description": "a description",
    "network_data_format": {"inputs": {}, "outputs": {}},
    "spinemets": FACTS,
}


def make_bundle(folder: Path, metadata: dict | None = None) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs/metadata.json").write_text(json.dumps(metadata or METADATA))
    (folder / "configs/inference.json").write_text('{"run": "$__import__(\'os\').abort()"}')
    (folder / "models/model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """An empty folder that stands for the one of the bundles that come with spinemets."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(bundles, "bundles_folder", lambda: folder)
    return folder


def test_registered_bundle_loads_by_name_and_by_path(shipped):
    path = make_bundle(shipped / "tiny")
    register_bundle(path)
    for given in ("tiny", path, str(path)):
        bundle = load_bundle(given)
        assert bundle.name == "tiny"
        assert bundle.version == "0.2.1"
        assert bundle.facts.network["features"] == [8, 16]
        assert bundle.facts.weightings == (Weighting.T1, Weighting.T2_FS)
        assert bundle.weights == path / "models/model.safetensors"
        assert bundle.sha256 == hashlib.sha256(b"\x02\0\0\0\0\0\0\0{}").hexdigest()


@pytest.mark.parametrize("footprint", [{}, {"anatomy": {"bfloat16": 63, "float32": 110.5}}])
@pytest.mark.usefixtures("shipped")
def test_a_bundle_may_tell_the_memory_that_its_networks_take(tmp_path, footprint):
    told = {"footprint_bytes_per_voxel": footprint} if footprint else {}
    path = make_bundle(tmp_path / "mine", METADATA | {"spinemets": FACTS | told})
    assert load_bundle(path, reading_checksum(path)).facts.footprint_bytes_per_voxel == footprint


def test_no_name_means_the_default_bundle(shipped):
    register_bundle(make_bundle(shipped / bundles.DEFAULT_BUNDLE))
    assert load_bundle().name == bundles.DEFAULT_BUNDLE


def test_unknown_name_is_not_found_and_the_known_ones_are_named(shipped):
    register_bundle(make_bundle(shipped / "tiny"))
    with pytest.raises(ModelNotFoundError, match=r"'huge'.*tiny"):
        load_bundle("huge")


@pytest.mark.parametrize("missing", ["configs/metadata.json", "models/model.safetensors"])
def test_folder_without_metadata_or_weights_is_no_bundle(shipped, missing):
    path = make_bundle(shipped / "tiny")
    (path / missing).unlink()
    with pytest.raises(ModelNotFoundError, match=missing):
        load_bundle("tiny")


@pytest.mark.parametrize(
    "file", ["models/model.safetensors", "configs/metadata.json", "configs/inference.json"]
)
def test_registered_bundle_with_a_changed_file_is_refused(shipped, file):
    path = make_bundle(shipped / "tiny")
    register_bundle(path)
    with (path / file).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(ModelNotTrustedError, match=f"{file} has changed"):
        load_bundle("tiny")


def test_registered_bundle_with_a_missing_file_is_refused(shipped):
    path = make_bundle(shipped / "tiny")
    register_bundle(path)
    (path / "configs/inference.json").unlink()
    with pytest.raises(ModelNotTrustedError, match=r"inference\.json is missing"):
        load_bundle("tiny")


@pytest.mark.usefixtures("shipped")
def test_unregistered_bundle_needs_its_checksum(tmp_path):
    path = make_bundle(tmp_path / "mine")
    with pytest.raises(ModelNotTrustedError, match=f"--trust-model {reading_checksum(path)}"):
        load_bundle(path)
    assert load_bundle(path, reading_checksum(path)).name == "mine"
    with pytest.raises(ModelNotTrustedError, match="not the trusted"):
        load_bundle(path, "0" * 64)


def test_a_checksum_that_is_given_counts_for_a_registered_bundle_too(shipped):
    path = make_bundle(shipped / "tiny")
    register_bundle(path)
    assert load_bundle("tiny", reading_checksum(path).upper()).name == "tiny"
    with pytest.raises(ModelNotTrustedError, match="not the trusted"):
        load_bundle("tiny", "0" * 64)


def test_copy_with_other_weights_is_not_covered_by_the_registered_name(shipped, tmp_path):
    register_bundle(make_bundle(shipped / "tiny"))
    copy = make_bundle(tmp_path / "tiny")
    assert load_bundle(copy).path == copy
    (copy / "models/model.safetensors").write_bytes(b"other")
    with pytest.raises(ModelNotTrustedError, match="differs from the registered one"):
        load_bundle(copy)


def test_reading_checksum_is_what_sha256sum_prints(tmp_path):
    path = make_bundle(tmp_path / "mine")
    command = "sha256sum configs/metadata.json models/model.safetensors | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=path, capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == reading_checksum(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "new"}, "version"),
        ({"spinemets": None}, "spinemets"),
        ({"spinemets": FACTS | {"format": 2}}, r"spinemets\.format"),
        ({"spinemets": FACTS | {"network": {}}}, "needs a 'type'"),
        ({"spinemets": FACTS | {"weightings": ["T9"]}}, r"weightings\.0"),
        ({"spinemets": FACTS | {"colour": 1}}, r"spinemets\.colour"),
        *(
            (
                {"spinemets": FACTS | {"footprint_bytes_per_voxel": {"anatomy": {"float32": wrong}}}},
                r"footprint_bytes_per_voxel\.anatomy\.float32: Input should be " + message,
            )
            for wrong, message in [
                (0, "greater than 0"),
                (-63.5, "greater than 0"),
                (float("nan"), ""),
                (float("inf"), "a finite number"),
                ("110.5", "a valid number"),
                (True, "a valid number"),
                (None, "a valid number"),
            ]
        ),
    ],
)
@pytest.mark.usefixtures("shipped")
def test_metadata_that_this_version_cannot_run_are_named(tmp_path, change, message):
    path = make_bundle(tmp_path / "mine", METADATA | change)
    with pytest.raises(ModelIncompatibleError, match=message):
        load_bundle(path, reading_checksum(path))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]"])
@pytest.mark.usefixtures("shipped")
def test_metadata_that_are_not_json_are_refused(tmp_path, content):
    path = make_bundle(tmp_path / "mine")
    (path / "configs/metadata.json").write_bytes(content)
    with pytest.raises(ModelIncompatibleError, match=r"metadata\.json"):
        load_bundle(path, reading_checksum(path))


def test_damaged_registry_trusts_nothing(shipped):
    register_bundle(make_bundle(shipped / "tiny"))
    (shipped / "registry.json").write_text('{"format": 1}')
    with pytest.raises(ModelNotTrustedError, match=r"registry\.json is not a registry"):
        load_bundle("tiny")


def test_registering_twice_keeps_other_bundles_and_is_stable(tmp_path):
    one, two = make_bundle(tmp_path / "one"), make_bundle(tmp_path / "two")
    registry = register_bundle(two)
    register_bundle(one)
    first = registry.read_text()
    register_bundle(two)
    assert registry.read_text() == first
    assert list(json.loads(first)["bundles"]) == ["one", "two"]


def test_hidden_files_and_caches_are_not_registered(tmp_path):
    path = make_bundle(tmp_path / "mine")
    (path / ".DS_Store").write_text("x")
    (path / "__pycache__").mkdir()
    (path / "__pycache__/x.pyc").write_text("x")
    assert set(file_checksums(path)) == {
        "configs/inference.json",
        "configs/metadata.json",
        "models/model.safetensors",
    }


def test_script_registers_a_bundle(tmp_path):
    path = make_bundle(tmp_path / "mine")
    script = REPOSITORY / "scripts/register_bundle.py"
    done = subprocess.run([sys.executable, script, path], capture_output=True, text=True, check=True)
    assert reading_checksum(path) in done.stdout
    assert json.loads((tmp_path / "registry.json").read_text())["bundles"]["mine"]["version"] == "0.2.1"


def test_every_bundle_of_the_repository_loads_as_registered():
    folders = sorted(path for path in (REPOSITORY / "models").iterdir() if path.is_dir())
    assert bundles_folder() == REPOSITORY / "models"
    assert [load_bundle(path.name).path for path in folders] == folders


def test_importing_bundles_does_not_import_torch():
    code = "import sys, spinemets.bundles; sys.exit(not {'torch', 'monai'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wheel_ships_the_bundles_and_finds_them(tmp_path):
    """The one mechanism works from an installed wheel too, without the checkout."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    target = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    code = (
        "from spinemets.bundles import bundles_folder, load_bundle\n"
        "folder = bundles_folder()\n"
        "print(folder)\n"
        "[print(load_bundle(path.name).name) for path in sorted(folder.iterdir()) if path.is_dir()]\n"
    )
    environment = os.environ | {"PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found, *names = done.stdout.split()
    assert Path(found) == target / "spinemets/bundled_models"
    assert names == sorted(path.name for path in (REPOSITORY / "models").iterdir() if path.is_dir())
