"""What the anatomy network's output channels and its weighting condition mean."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Structure
from spinemets.volume import Weighting

__all__ = ["CONDITIONS", "STRUCTURE_OF_CHANNEL", "Channel", "condition_vector"]


class Channel(IntEnum):
    """Output channels of the anatomy network.

    Vertebral bodies are split by region, which costs nothing and tells the levels apart.
    """

    BACKGROUND = 0
    C2 = 1
    CERVICAL_BODY = 2
    THORACIC_BODY = 3
    LUMBAR_BODY = 4
    SACRUM = 5
    POSTERIOR_ELEMENTS = 6
    DISC = 7
    THECAL_SAC = 8
    CORD = 9


STRUCTURE_OF_CHANNEL: npt.NDArray[np.uint8] = np.array(
    [
        Structure.BACKGROUND,
        *[Structure.VERTEBRAL_BODY] * 4,
        Structure.SACRUM,
        Structure.POSTERIOR_ELEMENTS,
        Structure.DISC,
        Structure.THECAL_SAC,
        Structure.CORD,
    ],
    dtype=np.uint8,
)

CONDITIONS = ("T1", "T2", "fat-suppressed", "gadolinium")

_CONDITIONS_OF: dict[Weighting, tuple[float, float, float, float]] = {
    Weighting.T1: (1, 0, 0, 0),
    Weighting.T2: (0, 1, 0, 0),
    Weighting.T2_FS: (0, 1, 1, 0),
    Weighting.T1_GD: (1, 0, 0, 1),
    Weighting.T1_FS_GD: (1, 0, 1, 1),
    Weighting.PD_FS: (0, 0, 1, 0),
    Weighting.DIXON_WATER: (0, 0, 1, 0),
}


def condition_vector(weighting: Weighting) -> npt.NDArray[np.float32]:
    """The network's condition for a weighting; all zeros where it has none.

    >>> condition_vector(Weighting.T2_FS).tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    return np.array(_CONDITIONS_OF.get(weighting, (0, 0, 0, 0)), dtype=np.float32)
