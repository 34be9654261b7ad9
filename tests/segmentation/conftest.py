"""What the tests of segmentation share: a short spine, and one thread."""

from __future__ import annotations

import pytest
import torch

from phantoms import draw_phantom


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def spine():
    return draw_phantom(highest="L2", lowest="L4", spacing_mm=(4.0, 1.0, 1.0)).segmentation
