"""Codes for levels, structures, lesions and measurements, from pydicom's dictionary of the standard.

What no standard code says is coded in this project's own scheme, ``99SPINEMETS``, whose
meanings speak for themselves.
"""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from spinemets.anatomy import Compartment, SpineRegion, Structure, VertebralLevel

__all__ = [
    "LESION",
    "OWN_SCHEME",
    "REGIONS",
    "STRUCTURES",
    "compartment_concept",
    "level_concept",
    "own_concept",
    "probability_concept",
]

OWN_SCHEME = "99SPINEMETS"

STRUCTURES: dict[Structure, tuple[Code, Code]] = {
    Structure.VERTEBRAL_BODY: (codes.SCT.AnatomicalStructure, codes.SCT.Vertebra),
    Structure.POSTERIOR_ELEMENTS: (codes.SCT.AnatomicalStructure, codes.SCT.ArchOfVertebra),
    # The dictionary codes each disc by its level, but not the discs together.
    Structure.DISC: (codes.SCT.Tissue, codes.cid7166.Cartilage),
    Structure.THECAL_SAC: (codes.SCT.AnatomicalStructure, codes.SCT.SpinalCanalStructure),
    Structure.CORD: (codes.SCT.AnatomicalStructure, codes.SCT.SpinalCord),
    Structure.SACRUM: (codes.SCT.AnatomicalStructure, codes.SCT.Sacrum),
}
"""Category and type of each labelled structure."""

LESION: Code = codes.SCT.Lesion
"""What every finding is coded as: whether it is a metastasis, a reader says."""

REGIONS: dict[SpineRegion, Code] = {
    SpineRegion.CERVICAL: codes.SCT.CervicalSpine,
    SpineRegion.THORACIC: codes.SCT.ThoracicSpine,
    SpineRegion.LUMBAR: codes.SCT.LumbarSpine,
    SpineRegion.SACRAL: codes.SCT.Sacrum,
}

_COMPARTMENT_VALUES = {
    Compartment.EXTRADURAL: "extradural",
    Compartment.INTRADURAL_EXTRAMEDULLARY: "intradural-em",
    Compartment.INTRAMEDULLARY: "intramedullary",
}


def level_concept(level: VertebralLevel) -> Code:
    """The code of a vertebra; the general one for T13 and L6, which have none of their own.

    >>> level_concept(VertebralLevel.L5).meaning, level_concept(VertebralLevel.L6).meaning
    ('L5 vertebra', 'Vertebra')
    >>> level_concept(VertebralLevel.S1).meaning
    'Sacrum'
    """
    keyword = "Vertebra" if level.is_supernumerary else f"{level.value}Vertebra"
    concept: Code = getattr(codes.SCT, "Sacrum" if level.region is SpineRegion.SACRAL else keyword)
    return concept


def own_concept(value: str, meaning: str) -> CodedConcept:
    """A concept of this project's own scheme; the value has 16 characters at most."""
    return CodedConcept(value, OWN_SCHEME, meaning)


def compartment_concept(compartment: Compartment) -> CodedConcept:
    """The compartment that a lesion lies in.

    >>> compartment_concept(Compartment.INTRADURAL_EXTRAMEDULLARY).value
    'intradural-em'
    """
    return own_concept(_COMPARTMENT_VALUES[compartment], compartment.value)


def probability_concept(compartment: Compartment) -> CodedConcept:
    """The probability that a lesion lies in a compartment."""
    return own_concept(f"p-{_COMPARTMENT_VALUES[compartment]}", f"Probability: {compartment.value}")
