"""Phantoms as training scans."""

from __future__ import annotations

import numpy as np

from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.training.phantoms import with_open_edges
from spinemets.training.scans import bit


def test_the_rim_of_a_structure_may_be_background_and_its_core_may_not():
    structures = np.zeros((2, 9, 9), dtype=np.uint8)
    structures[:, 2:7, 2:7] = Structure.DISC
    allowed = np.where(structures > 0, bit(Channel.DISC), bit(Channel.BACKGROUND)).astype(np.uint16)
    opened = with_open_edges(allowed, structures)
    assert (opened[:, 3:6, 3:6] == bit(Channel.DISC)).all()
    rim = structures > 0
    rim[:, 3:6, 3:6] = False
    assert (opened[rim] == bit(Channel.DISC, Channel.BACKGROUND)).all()
    assert (opened[structures == 0] == bit(Channel.BACKGROUND)).all()


def test_the_border_of_cord_and_sac_stays_closed():
    structures = np.full((1, 6, 6), Structure.THECAL_SAC, dtype=np.uint8)
    structures[:, 2:4] = Structure.CORD
    allowed = np.full(structures.shape, bit(Channel.CORD), dtype=np.uint16)
    assert np.array_equal(with_open_edges(allowed, structures), allowed)
