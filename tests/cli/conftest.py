"""Command lines in this process, with a stand-in for the network."""

from __future__ import annotations

import logging
import subprocess
from functools import partial
from types import SimpleNamespace

import pytest

from spinemets.cli import main
from standins import TruthSegmenter, load_models_for, models_for, write_scan


@pytest.fixture(scope="module")
def scan(tmp_path_factory, truth):
    return write_scan(tmp_path_factory.mktemp("scan") / "anna.nii.gz", truth)


@pytest.fixture
def lean(tmp_path):
    """Settings without pictures and pages, which have tests of their own, and with plain names."""
    path = tmp_path / "lean.yaml"
    path.write_text("report: {formats: [json, nifti], identifiers: keep}\n")
    return path


@pytest.fixture(autouse=True)
def logging_restored():
    """What a command sets up is undone."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, logging.getLogger("spinemets").level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("spinemets").setLevel(own)


@pytest.fixture
def run(monkeypatch, truth, lean):
    """`spinemets detect` in this process, with a stand-in for the network."""

    def run(
        *arguments: object, segmenter: object = None, problem: Exception | None = None, spread: bool = False
    ) -> int:
        def load_models(_bundle, config):
            run.device = config.device
            if problem:
                raise problem
            return models_for(segmenter or TruthSegmenter(truth))

        # Another process must be able to find it; it cannot find a function within this one.
        loader = partial(load_models_for, segmenter or TruthSegmenter(truth)) if spread else load_models
        monkeypatch.setattr("spinemets.detection.load_models", loader)
        monkeypatch.setattr("spinemets.bundles.load_bundle", lambda *_: SimpleNamespace(sha256="0" * 64))
        with pytest.raises(SystemExit) as ended:
            main(["detect", "--config", str(lean), *map(str, arguments)])
        return ended.value.code

    return run


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Any command line in this process, as the installed command would answer it."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, printed.out, printed.err)

    return call
