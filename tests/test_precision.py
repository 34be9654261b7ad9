"""The released networks name the same structures in bfloat16 as in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spinemets.assembly import assemble
from spinemets.bundles import load_bundle
from spinemets.config import ReadingConfig, SegmentationConfig
from spinemets.errors import ModelNotFoundError
from spinemets.inference import choose_precision
from spinemets.io import discover, read_study
from spinemets.registration import align
from spinemets.segmentation import load_segmenter

CPU = torch.device("cpu")
# Beside another process of tests, emulated bfloat16 may take more than the usual five minutes.
pytestmark = pytest.mark.timeout(900)
SAMPLES = Path(__file__).resolve().parents[1] / "data_samples"


@pytest.fixture(scope="module", params=["nifti", "dicom"])
def found(request):
    """The cervicothoracic sample, and the lumbar one of three sequences."""
    try:
        bundle = load_bundle()
    except ModelNotFoundError as error:
        pytest.skip(f"no default model: {error}")
    torch.set_num_threads(1)
    if request.param == "dicom" and choose_precision("auto", CPU) != torch.bfloat16:
        pytest.skip("emulating bfloat16 takes minutes here; the other sample is compared")
    study = read_study(discover(SAMPLES / request.param)[0], ReadingConfig())
    alignment = align(study, SegmentationConfig())
    found = []
    for precision in ("float32", "bfloat16"):
        segmenter = load_segmenter(bundle, SegmentationConfig(device="cpu", precision=precision))
        # What is compared comes from the anatomy network alone.
        segmenter.engines[1].run = no_lesion
        found.append(assemble(alignment, segmenter.run_networks(alignment)))
    return found


def no_lesion(image: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.full((1, 1, *image.shape[2:]), -20.0)


def test_almost_every_voxel_has_the_same_name(found):
    exact, short = (segmentation.anatomy for segmentation in found)
    assert exact.any()
    assert (exact == short).mean() >= 0.995


def test_every_structure_is_where_it_is_in_float32(found):
    exact, short = (segmentation.anatomy for segmentation in found)
    for structure in np.unique(exact):
        a, b = exact == structure, short == structure
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.998, structure
