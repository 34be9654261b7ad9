"""The configuration: every file in configs/ loads, and what means nothing is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from spinemets.anatomy import VertebralLevel
from spinemets.config import DetectionConfig, load_config, parse_anchor
from spinemets.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "detect.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_detection_configuration_loads(path):
    assert isinstance(load_config(path), DetectionConfig)


def test_detect_yaml_holds_the_defaults():
    assert load_config(CONFIGS / "detect.yaml") == DetectionConfig()


def test_detect_yaml_is_what_the_script_writes(tmp_path):
    script = CONFIGS.parent / "scripts/write_detect_config.py"
    subprocess.run([sys.executable, script, tmp_path / "new.yaml"], check=True)
    assert (CONFIGS / "detect.yaml").read_text() == (tmp_path / "new.yaml").read_text()


def test_every_setting_says_what_it_means():
    for branch in DetectionConfig.model_fields:
        for name, field in type(getattr(DetectionConfig(), branch)).model_fields.items():
            assert field.description, f"{branch}.{name}"


def test_absent_keys_take_their_defaults(tmp_path):
    config = load_config(written(tmp_path, "lesions: {threshold: 0.3}"))
    assert config.lesions.threshold == 0.3
    assert config.lesions.minimum_volume_mm3 == DetectionConfig().lesions.minimum_volume_mm3
    assert load_config(written(tmp_path, "")) == DetectionConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lesion: {threshold: 0.3}", "lesion: there is no such setting; did you mean lesions?"),
        ("lesions: {treshold: 0.3}", r"lesions\.treshold: there is no such setting; did you mean threshold?"),
        ("lesions: {gamma: 0.3}", r"lesions\.gamma: there is no such setting; known are threshold, "),
        ("levels: {anchors: [{level: L5, plac: lowest}]}", r"levels\.anchors\.0\.plac: .* mean place?"),
        ("lesions: {threshold: 1.5}", r"lesions\.threshold"),
        ("lesions: {minimum_volume_mm3: .inf}", r"lesions\.minimum_volume_mm3"),
        ("segmentation: {device: gpu}", r"segmentation\.device"),
        ("levels: {anchors: [{level: L7, place: lowest}]}", r"levels\.anchors\.0\.level"),
        ("[1, 2]", "dictionary"),
        ("a: [", "is not YAML"),
        ("a: \x00", "is not YAML"),
    ],
)
def test_what_means_nothing_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, text))


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_configuration_cannot_be_changed():
    with pytest.raises(ValidationError):
        DetectionConfig().lesions.threshold = 0.1


@pytest.mark.parametrize(
    ("text", "place"),
    [("l5=lowest", "lowest"), (" L5=highest", "highest"), ("L5=1,-2.5,3", (1.0, -2.5, 3.0))],
)
def test_anchor_is_read_as_given(text, place):
    anchor = parse_anchor(text)
    assert (anchor.level, anchor.place) == (VertebralLevel.L5, place)


@pytest.mark.parametrize(
    "text", ["L5", "L7=lowest", "L5=low", "L5=1,2", "L5=1,2,3,4", "L5=nan,0,0", "=lowest", ""]
)
def test_anchor_that_means_nothing_is_refused(text):
    with pytest.raises(ConfigError, match="expected LEVEL=lowest"):
        parse_anchor(text)
