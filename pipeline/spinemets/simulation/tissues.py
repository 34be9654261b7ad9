"""The tissues that a simulated voxel can hold, and the structure that each belongs to."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Structure, VertebralLevel

__all__ = ["LEVEL_OF_CODE", "Tissue", "code_of_level", "structure_of_tissue"]

TissueMap = npt.NDArray[np.uint8]


class Tissue(IntEnum):
    """What one voxel of a simulated body is made of; the integers are working values only."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    VISCERA = 3
    VESSEL = 4
    LUNG = 5
    BOWEL_GAS = 6
    CORTICAL_BONE = 7
    BODY_CORTEX = 8
    BODY_MARROW = 9
    POSTERIOR_CORTEX = 10
    POSTERIOR_MARROW = 11
    NUCLEUS = 12
    NUCLEUS_INTERMEDIATE = 13
    NUCLEUS_DESICCATED = 14
    ANNULUS = 15
    CSF = 16
    CORD = 17
    NERVE_ROOTS = 18
    EPIDURAL_FAT = 19
    LIGAMENT = 20
    SACRUM_MARROW = 21
    SACRUM_CORTEX = 22
    RIB = 23
    BRAIN = 24
    SKULL_MARROW = 25
    FLUID = 26
    BASIVERTEBRAL_VEIN = 27
    MARROW_OEDEMA = 28
    MARROW_FAT = 29
    HAEMANGIOMA = 30
    FORAMINAL_ROOT = 31
    BODY_LESION = 32
    POSTERIOR_LESION = 33
    SACRUM_LESION = 34
    EPIDURAL_LESION = 35
    SAC_LESION = 36
    CORD_LESION = 37


_STRUCTURES = {
    Structure.VERTEBRAL_BODY: (
        Tissue.BODY_CORTEX,
        Tissue.BODY_MARROW,
        Tissue.BASIVERTEBRAL_VEIN,
        Tissue.MARROW_OEDEMA,
        Tissue.MARROW_FAT,
        Tissue.HAEMANGIOMA,
        Tissue.BODY_LESION,
    ),
    Structure.POSTERIOR_ELEMENTS: (
        Tissue.POSTERIOR_CORTEX,
        Tissue.POSTERIOR_MARROW,
        Tissue.POSTERIOR_LESION,
    ),
    Structure.DISC: (
        Tissue.NUCLEUS,
        Tissue.NUCLEUS_INTERMEDIATE,
        Tissue.NUCLEUS_DESICCATED,
        Tissue.ANNULUS,
    ),
    Structure.THECAL_SAC: (Tissue.CSF, Tissue.NERVE_ROOTS, Tissue.SAC_LESION),
    Structure.CORD: (Tissue.CORD, Tissue.CORD_LESION),
    Structure.SACRUM: (Tissue.SACRUM_MARROW, Tissue.SACRUM_CORTEX, Tissue.SACRUM_LESION),
}
_STRUCTURE_TABLE = np.zeros(max(Tissue) + 1, dtype=np.uint8)
for _structure, _tissues in _STRUCTURES.items():
    _STRUCTURE_TABLE[list(_tissues)] = _structure

LEVEL_OF_CODE = dict(enumerate(VertebralLevel, start=1))


def structure_of_tissue(tissue: TissueMap) -> TissueMap:
    """The ``Structure`` of every voxel of a tissue map, as uint8 of the same shape.

    The thecal sac is CSF and nerve roots; epidural fat lies outside it. A lesion leaves its host
    what it was, except in the epidural space, where it is background.

    >>> structure_of_tissue(np.array([Tissue.CSF, Tissue.EPIDURAL_FAT], dtype=np.uint8)).tolist()
    [4, 0]
    """
    return np.asarray(_STRUCTURE_TABLE[tissue])


def code_of_level(level: VertebralLevel) -> int:
    """The integer that stands for a level in a simulated vertebra map, from 1 for C1.

    >>> LEVEL_OF_CODE[code_of_level(VertebralLevel.T12)].value
    'T12'
    """
    return level.position + 1
