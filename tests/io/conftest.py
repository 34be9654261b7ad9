"""The writers of DICOM files, as one fixture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dicom_files import SAGITTAL, STUDY_UID, new_dataset, noise, save, write_classic, write_enhanced


class DicomFiles:
    """The writers above, as one fixture."""

    sagittal = SAGITTAL
    study_uid = STUDY_UID
    noise = staticmethod(noise)
    classic = staticmethod(write_classic)
    enhanced = staticmethod(write_enhanced)
    new_dataset = staticmethod(new_dataset)
    save = staticmethod(save)


@pytest.fixture(scope="session")
def dicom() -> type[DicomFiles]:
    return DicomFiles


def _oblique(
    permutation: tuple[int, int, int], signs: tuple[int, int, int], angles_deg: tuple[float, float]
) -> np.ndarray:
    """A rigid affine: axes permuted and flipped, then turned about z and x; spacings 4, 1.25, 1.5 mm."""
    turn_z, turn_x = np.radians(angles_deg)
    about_z = np.array([[np.cos(turn_z), -np.sin(turn_z), 0], [np.sin(turn_z), np.cos(turn_z), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(turn_x), -np.sin(turn_x)], [0, np.sin(turn_x), np.cos(turn_x)]])
    axes = np.eye(3)[:, permutation] * np.array(signs)
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ axes * np.array([4.0, 1.25, 1.5])
    affine[:3, 3] = (-31.0, 17.5, -120.25)
    return affine


@pytest.fixture(scope="session")
def oblique_affine() -> Callable[..., np.ndarray]:
    return _oblique
