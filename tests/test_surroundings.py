from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from phantoms import add_lesion, draw_phantom
from spinemets.anatomy import Structure
from spinemets.config import LesionConfig
from spinemets.findings import Lesion
from spinemets.lesions import find_lesions
from spinemets.surroundings import labels_about

BODY, CORD = Structure.VERTEBRAL_BODY, Structure.CORD


@pytest.fixture(scope="module")
def spine():
    return draw_phantom(highest="T11", lowest="L3", spacing_mm=(4.0, 1.0, 1.0))


def test_what_a_lesion_hides_is_told_by_what_surrounds_it(spine):
    centre = spine.point("L1", spine.body_front_mm("L1"))
    segmentation = add_lesion(spine.segmentation, centre, (6, 5, 5), Structure.CORD)
    (lesion,) = find_lesions(segmentation, LesionConfig())
    own, around = labels_about(lesion, segmentation)
    assert Counter(own.tolist()) == {CORD: len(lesion.voxels)}
    assert set(around.tolist()) == {BODY}


def test_a_lesion_that_fills_its_image_has_nothing_around_it(spine):
    whole = np.argwhere(np.ones(spine.segmentation.grid.shape, dtype=bool)).astype(np.int32)
    lesion = Lesion(1, whole, spine.segmentation.grid, (0.0, 0.0, 0.0), 1.0, 1.0, 1.0)
    own, around = labels_about(lesion, spine.segmentation)
    assert (len(own), len(around)) == (spine.segmentation.anatomy.size, 0)
