"""Whoever reads a NIfTI file names the one that is damaged, whatever the damage."""

from __future__ import annotations

import pytest

from damaged_files import DAMAGES, damaged_nifti
from spinemets.errors import UnreadableFileError
from spinemets.evaluation.files import read_label_map
from spinemets.io.files import read_image
from spinemets.training.images import load


@pytest.mark.parametrize("reader", [read_image, load, read_label_map])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(tmp_path, reader, damage):
    path = damaged_nifti(tmp_path, damage)
    with pytest.raises(UnreadableFileError, match=path.name):
        reader(path)
