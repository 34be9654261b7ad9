"""The integers of written label maps, and their names.

Vertebrae follow VerSe (Sekuboyina et al. 2021) as continued by TPTBox and SPINEPS: T13 is 28
and, as 27 is the coccyx there, the sacral levels below S1 are 29 to 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spinemets.anatomy import Compartment, Structure, VertebralLevel

__all__ = ["ANATOMY_LABELS", "COMPARTMENT_LABELS", "LEVEL_LABELS", "VERSE_LABELS"]

_FIRST_VALUES = {"C": 1, "T": 8, "L": 20}
_OTHER_VALUES = {
    VertebralLevel.T13: 28,
    VertebralLevel.S1: 26,
    VertebralLevel.S2: 29,
    VertebralLevel.S3: 30,
    VertebralLevel.S4: 31,
    VertebralLevel.S5: 32,
}

VERSE_LABELS: Mapping[VertebralLevel, int] = MappingProxyType(
    {
        level: _OTHER_VALUES.get(level) or _FIRST_VALUES[level.value[0]] + int(level.value[1:]) - 1
        for level in VertebralLevel
    }
)
"""The value of each vertebra in ``levels.nii.gz``."""

LEVEL_LABELS: Mapping[int, str] = MappingProxyType(
    {value: level.value for level, value in VERSE_LABELS.items()}
)
"""Names for the values of ``levels.nii.gz``."""

ANATOMY_LABELS: Mapping[int, str] = MappingProxyType(
    {
        int(Structure.VERTEBRAL_BODY): "vertebral_body",
        int(Structure.POSTERIOR_ELEMENTS): "posterior_elements",
        int(Structure.DISC): "disc",
        int(Structure.THECAL_SAC): "thecal_sac",
        int(Structure.CORD): "spinal_cord",
        int(Structure.SACRUM): "sacrum",
    }
)
"""Names for the values of ``anatomy.nii.gz``."""

COMPARTMENT_LABELS: Mapping[Compartment, int] = MappingProxyType(
    {
        Compartment.EXTRADURAL: 1,
        Compartment.INTRADURAL_EXTRAMEDULLARY: 2,
        Compartment.INTRAMEDULLARY: 3,
    }
)
"""The value of each compartment in a map that shows lesions by compartment."""
