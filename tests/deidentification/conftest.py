"""Planted studies as inputs, and command lines that are run on them in this process."""

from __future__ import annotations

import csv
import io
import logging
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest

from planted import KEY, planted_truth, truth_models, write_planted_image, write_planted_study
from spinemets.cli import main


@pytest.fixture(scope="module")
def truth():
    return planted_truth()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, truth):
    """A manifest of a DICOM study, an image of the same patient, and a file that is damaged."""
    folder = tmp_path_factory.mktemp("in")
    study = write_planted_study(folder, truth)
    image = write_planted_image(folder / "MANIFEST-Zygmunt/Kowalczyk_Bronka_T2.nii.gz", truth)
    broken = folder / "Broken-Kowalczyk-file.nii"
    broken.write_bytes(b"no image of PAT-ID-5501987")
    manifest = folder / "list.csv"
    with manifest.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerows([["study", "path", "ward"], ["MANIFEST-Zygmunt", str(study), "ward-Jagiello"]])
    return SimpleNamespace(study=study, image=image, broken=broken, manifest=manifest)


@pytest.fixture(scope="module")
def call():
    """Run a command line here, with the truth for a network; gives its exit code and what it printed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("spinemets", "spinemets.io")}

    def run(*arguments: object) -> tuple[object, str]:
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed), pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, printed.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPINEMETS_DEID_KEY", KEY)
        patch.setattr("spinemets.detection.load_models", truth_models)
        patch.setattr("spinemets.bundles.load_bundle", lambda *_: SimpleNamespace(sha256="0" * 64))
        yield run
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, own in levels.items():
        logging.getLogger(name).setLevel(own)
