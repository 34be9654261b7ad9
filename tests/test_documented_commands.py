"""The commands of the documents on simulation and evaluation, run as they stand there."""

from __future__ import annotations

import logging
import re
import runpy
import shlex
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from spinemets.cli import spinemets
from spinemets.evaluation.files import find_studies, read_study_result
from spinemets.segmented import SpineSegmentation
from standins import models_for

ROOT = Path(__file__).resolve().parents[1]


class KnowsTheTruth:
    """A segmenter that answers with the anatomy of a study's truth."""

    def __init__(self, truths: Path) -> None:
        self._truths = truths

    def segment(self, study):
        grid = study.reference.grid
        (truth,) = find_studies(self._truths).values()
        anatomy = read_study_result(truth).anatomy.astype(np.uint8)
        assert anatomy.shape == grid.shape
        nothing = np.zeros(grid.shape, dtype=np.uint8)
        return SpineSegmentation(grid, anatomy, nothing, nothing.astype(np.float32), (), study.volumes)


def commands(document: str, first_word: str) -> list[list[str]]:
    """The lines of the block of a document that holds a command, as a shell reads them."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / document).read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if first_word in block]
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, logging.getLogger("spinemets").level
    monkeypatch.chdir(tmp_path)
    load_models = partial(lambda segmenter, *_: models_for(segmenter), KnowsTheTruth(tmp_path / "sim/truth"))
    monkeypatch.setattr("spinemets.detection.load_models", load_models)
    monkeypatch.setattr("spinemets.bundles.load_bundle", lambda *_: SimpleNamespace(sha256="0" * 64))

    def run(command: list[str]) -> str:
        if command[0] == "python":
            monkeypatch.setattr("sys.argv", command[1:])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(ROOT / command[1]), run_name="__main__")
            printed = capsys.readouterr()
            assert not ended.value.code, printed.err
            return printed.out
        assert command[0] == "spinemets"
        done = CliRunner().invoke(spinemets, command[1:], standalone_mode=False)
        assert done.exception is None, done.output
        assert done.return_value == 0, done.output
        return done.output

    yield run
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("spinemets").setLevel(own)


def test_commands_of_simulation_and_evaluation_work_one_after_the_other(run, tmp_path):
    for command in commands("simulation.md", "simulate phantom"):
        printed = run(command)
    assert "phantom11" in printed

    for name, source in (("scans", "studies"), ("truths", "truth")):
        shutil.copytree(tmp_path / "sim" / source, tmp_path / name)
    shutil.rmtree(tmp_path / "results")
    for command in commands("evaluation.md", "results results truths"):
        printed = run(command)
    assert "phantom11" in printed

    shutil.copy(tmp_path / "scans/phantom11_T2w.nii.gz", tmp_path / "scan_T2w.nii.gz")
    for command in commands("simulation.md", "simulate implant"):
        run(command)
    assert (tmp_path / "sim/truth/scan_implant0.json").is_file()
