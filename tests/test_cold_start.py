"""The command line comes to its network without importing what is slow and not needed on the way.

How long it takes is measured by ``scripts/cold_start.py``; what is asked here does not depend on
the machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cold_start import cold_start

STUDY = Path(__file__).resolve().parents[1] / "data_samples/nifti/cervicothoracic_T2w.nii.gz"
# 1982 with PyTorch 2.13, of which 766 are PyTorch's own. MONAI alone would bring more than 1000.
MOST_MODULES = 2400


@pytest.fixture(scope="module")
def start():
    return cold_start(STUDY)


def test_the_network_is_reached_on_the_way_of_the_command_line(start):
    assert {"spinemets.cli", "spinemets.batch.run", "spinemets.segmentation", "torch"} <= start.modules
    assert start.seconds > 0


@pytest.mark.parametrize(
    "module",
    [
        "monai",
        "torch._dynamo",
        "torch._inductor",
        "torch.utils.tensorboard",
        "scipy.stats",
        "pydicom.sr",
        "highdicom",
        "weasyprint",
        "matplotlib",
        "pandas",
        "pyarrow",
        "ray",
        "fastapi",
        "sympy",
        "spinemets.training",
        "spinemets.simulation",
        "spinemets.evaluation",
        "spinemets.benchmark",
        "spinemets.serving",
    ],
)
def test_what_is_slow_and_not_needed_is_not_imported(module, start):
    assert module not in start.modules


def test_the_number_of_modules_does_not_creep_up(start):
    assert len(start.modules) < MOST_MODULES
