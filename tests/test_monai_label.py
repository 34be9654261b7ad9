"""The MONAI Label app in MONAI Label's own server, spoken to as a viewer does.

MONAI Label needs an environment of its own; the variable MONAI_LABEL_PYTHON names its Python.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data_samples" / "nifti" / "cervicothoracic_T2w.nii.gz"
STARTING_S = 300

PYTHON = os.environ.get("MONAI_LABEL_PYTHON", "")

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="MONAI_LABEL_PYTHON is not set"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """The address of a server that offers the sample."""
    folder = tmp_path_factory.mktemp("label")
    (folder / "studies").mkdir()
    shutil.copy(SAMPLE, folder / "studies")
    shutil.copytree(ROOT / "integrations" / "monai_label", folder / "app")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        *(PYTHON, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"),
        *("--port", str(port), "--app", str(folder / "app"), "--studies", str(folder / "studies")),
        *("--conf", "device", "cpu"),
        *("--conf", "spinemets", str(Path(sys.executable).with_name("spinemets"))),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/info/", process, folder / "log")
            yield address
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTING_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            ask(url)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


def ask(url: str, form: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=form), timeout=1500) as answer:
        return answer.read()


def test_server_offers_three_models(server):
    offered = json.loads(ask(f"{server}/info/"))["models"]
    assert set(offered) >= {"spine_levels", "spine_anatomy", "spine_lesions"}
    assert "T1" in offered["spine_levels"]["labels"]


def test_levels_are_drawn_on_the_grid_of_the_image_and_named(server, tmp_path):
    name = SAMPLE.name.removesuffix(".nii.gz")
    told = json.loads(ask(f"{server}/infer/spine_levels?image={name}&output=json", b"params={}"))
    (tmp_path / "labels.nii.gz").write_bytes(
        ask(f"{server}/infer/spine_levels?image={name}&output=image", b"params={}")
    )
    image, labels = nibabel.load(SAMPLE), nibabel.load(tmp_path / "labels.nii.gz")
    values = set(np.unique(np.asarray(labels.dataobj)).tolist()) - {0}
    assert values
    assert values <= set(told["label_names"].values())
    assert told["label_names"]["T1"] == 8
    assert labels.shape == image.shape
    assert np.allclose(labels.affine, image.affine, atol=1e-4)
