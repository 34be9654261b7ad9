"""A scan on disk and a segmenter that knows its truth, for tests of what lies around the network."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from phantoms import add_lesion, draw_phantom
from spinemets.anatomy import Structure
from spinemets.detection import Models
from spinemets.findings import Provenance
from spinemets.segmented import SpineSegmentation
from spinemets.volume import Study

# T2-like grey values: fat and marrow bright, disc and cord grey, CSF brightest, lesion dark.
_GREY = {
    Structure.BACKGROUND: 150,
    Structure.VERTEBRAL_BODY: 400,
    Structure.POSTERIOR_ELEMENTS: 350,
    Structure.DISC: 250,
    Structure.THECAL_SAC: 800,
    Structure.CORD: 300,
    Structure.SACRUM: 400,
}


def table_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that a run wrote."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def lumbar_truth() -> SpineSegmentation:
    """T11 to the sacrum with an extradural lesion in L2 and an intramedullary one at T11."""
    phantom = draw_phantom(highest="T11", network_evidence=True)
    bone = phantom.point("L2", phantom.body_front_mm("L2"))
    truth = add_lesion(phantom.segmentation, bone, (9.0, 8.0, 8.0))
    return add_lesion(truth, phantom.point("T11", 0.0), (4.5, 3.0, 6.0), hidden_as=Structure.CORD)


def without_lesions(truth: SpineSegmentation) -> SpineSegmentation:
    """The same spine in health."""
    return replace(truth, lesion_probability=np.zeros_like(truth.lesion_probability))


def write_scan(path: Path, truth: SpineSegmentation) -> Path:
    """A NIfTI image of the spine, with noise from a fixed seed."""
    grey = np.zeros(len(Structure), dtype=np.float32)
    for structure, value in _GREY.items():
        grey[structure] = value
    image = grey[truth.anatomy] - 200 * (truth.lesion_probability > 0.5)
    image += np.random.default_rng(7).normal(0, 12, image.shape)
    nifti = nibabel.Nifti1Image(image.astype(np.int16), truth.grid.affine)
    nifti.set_sform(truth.grid.affine, code=1)
    nifti.set_qform(truth.grid.affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nifti, path)
    return path


def healthy_scan(path: Path, truth: SpineSegmentation) -> Path:
    """A scan whose content is no other one's of the tests."""
    return write_scan(path, without_lesions(truth))


class TruthSegmenter:
    """Answers every study of the right size with the truth it was given."""

    def __init__(self, truth: SpineSegmentation) -> None:
        self._truth = truth

    def segment(self, study: Study) -> SpineSegmentation:
        """The truth, on the study's own grid."""
        return replace(self._truth, grid=study.reference.grid, volumes=study.volumes)


def models_for(segmenter: object) -> Models:
    """Models as the batch expects them, around any segmenter."""
    return Models(segmenter, Provenance("0.0.0", "stand-in", "1.0.0", "0" * 64))


def load_models_for(segmenter: object, _bundle: object, _config: object) -> Models:
    """In the place of ``detection.load_models``, where a process of its own must find it."""
    return models_for(segmenter)
