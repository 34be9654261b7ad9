"""The settings of a server: which are sound, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spinemets.errors import ConfigError
from spinemets.serving.server import prepare
from spinemets.serving.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
WEB = {"web": {"kind": "dicomweb", "url": "http://localhost"}}


def test_example_of_settings_is_sound():
    settings = load_settings(ROOT / "configs/serve/example.yaml")
    assert set(settings.nodes) == {"pacs", "archive"}
    assert settings.detection().report.formats == settings.analysis.formats


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"receve": {}}, "receve: there is no such setting; did you mean receive?"),
        ({"receive": {"callers": "any", "prot": 1}}, "did you mean port?"),
        ({"receive": {"callers": "any", "tls": {"kay": "a"}}}, "receive.tls.kay: .* did you mean key?"),
        ({"pull": [{"node": "web", "dais": 1}], "nodes": WEB}, "pull.0.dais: .* did you mean days?"),
        ({"nodes": {"host": {"kind": "dimse", "hots": "x"}}}, "did you mean host?"),
        ({"nodes": {"web": {**WEB["web"], "tls": {"kay": "a"}}}}, "tls.kay: .* did you mean key?"),
        ({"nodes": {"web": {**WEB["web"], "zzz": 1}}}, "known are kind, url, user"),
        ({"receive": {}}, "receive.callers"),
        ({"receive": {"callers": ["A TITLE THAT IS TOO LONG"]}}, "receive.callers"),
        ({"receive": {"callers": "any", "tls": {"authority": "ca.pem"}}}, "needs a certificate"),
        ({"send": {"to": ["nowhere"]}}, "nodes has no nowhere"),
        ({"send": {"to": ["web", "web"]}, "nodes": WEB}, "names a node twice"),
        ({"pull": [{"node": "web"}], "nodes": WEB, "limits": {"keep_days": 1}}, "keep_days"),
        ({"nodes": {"web": {"kind": "dicomweb", "url": "ftp://x"}}}, "nodes.web"),
        ({"nodes": {"web": {"kind": "dicomweb", "url": "https://x", "user": "me"}}}, "password_variable"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, change, message):
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"folder": "work", "receive": {"callers": "any"}, **change}))
    with pytest.raises(ConfigError, match=message):
        load_settings(path)


def test_paths_in_the_settings_begin_at_their_file(tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text("folder: work\nreceive: {callers: any}\n")
    assert load_settings(path).folder == tmp_path / "work"


def test_server_refuses_to_deidentify_what_it_sends_back(tmp_path):
    (tmp_path / "detect.yaml").write_text("deidentification: {enabled: true}\n")
    (tmp_path / "serve.yaml").write_text(
        "folder: work\nreceive: {callers: any}\nanalysis: {config: detect.yaml}\n"
    )
    with pytest.raises(ConfigError, match="another study of another patient"):
        prepare(load_settings(tmp_path / "serve.yaml"))
