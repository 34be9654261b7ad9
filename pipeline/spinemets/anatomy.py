"""The words of spinal anatomy: regions, levels, compartments and the structures a network labels.

Knows nothing of files or label integers of any format; those belong to ``io``.
"""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = ["Compartment", "SpineRegion", "Structure", "VertebralLevel"]


class SpineRegion(Enum):
    """The four regions that a lesion is assigned to."""

    CERVICAL = "cervical"
    THORACIC = "thoracic"
    LUMBAR = "lumbar"
    SACRAL = "sacral"


class Compartment(Enum):
    """Where a lesion lies relative to the dura and the cord.

    The dura is the border of the thecal sac, seen on MRI as the outline of the CSF.
    """

    EXTRADURAL = "extradural"
    INTRADURAL_EXTRAMEDULLARY = "intradural-extramedullary"
    INTRAMEDULLARY = "intramedullary"


class Structure(IntEnum):
    """What one voxel of an anatomy label map shows.

    The integers are this package's own working values, not those of a file format.
    """

    BACKGROUND = 0
    VERTEBRAL_BODY = 1
    POSTERIOR_ELEMENTS = 2
    DISC = 3
    THECAL_SAC = 4
    CORD = 5
    SACRUM = 6


class VertebralLevel(Enum):
    """A vertebra by name, from C1 to S5, with the supernumerary T13 and L6.

    Iteration runs from head to foot.

    >>> VertebralLevel.L5.region
    <SpineRegion.LUMBAR: 'lumbar'>
    >>> VertebralLevel.T13.is_supernumerary
    True
    >>> VertebralLevel.T12 < VertebralLevel.T13 < VertebralLevel.L1
    True
    """

    C1 = "C1"
    C2 = "C2"
    C3 = "C3"
    C4 = "C4"
    C5 = "C5"
    C6 = "C6"
    C7 = "C7"
    T1 = "T1"
    T2 = "T2"
    T3 = "T3"
    T4 = "T4"
    T5 = "T5"
    T6 = "T6"
    T7 = "T7"
    T8 = "T8"
    T9 = "T9"
    T10 = "T10"
    T11 = "T11"
    T12 = "T12"
    T13 = "T13"
    L1 = "L1"
    L2 = "L2"
    L3 = "L3"
    L4 = "L4"
    L5 = "L5"
    L6 = "L6"
    S1 = "S1"
    S2 = "S2"
    S3 = "S3"
    S4 = "S4"
    S5 = "S5"

    @property
    def position(self) -> int:
        """Rank from head to foot, 0 for C1; T13 and L6 hold ranks of their own."""
        return _POSITIONS[self]

    @property
    def region(self) -> SpineRegion:
        """The region that the level belongs to."""
        return _REGIONS[self.value[0]]

    @property
    def is_supernumerary(self) -> bool:
        """True for T13 and L6, which most people do not have."""
        return self in (VertebralLevel.T13, VertebralLevel.L6)

    def __lt__(self, other: object) -> bool:
        """Head before foot."""
        if not isinstance(other, VertebralLevel):
            return NotImplemented
        return self.position < other.position


_REGIONS = {
    "C": SpineRegion.CERVICAL,
    "T": SpineRegion.THORACIC,
    "L": SpineRegion.LUMBAR,
    "S": SpineRegion.SACRAL,
}
_POSITIONS = {level: rank for rank, level in enumerate(VertebralLevel)}
