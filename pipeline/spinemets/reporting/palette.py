"""One fixed colour for each thing that is drawn, told apart by colour-blind readers too.

The compartments' colours are those of Okabe and Ito (2008), bright enough for grey images.
"""

from __future__ import annotations

from spinemets.anatomy import Compartment

__all__ = [
    "COMPARTMENT_COLOURS",
    "CORD_COLOUR",
    "LEVEL_COLOUR",
    "SAC_COLOUR",
    "UNCERTAIN_COLOUR",
    "hex_colour",
]

Colour = tuple[int, int, int]

COMPARTMENT_COLOURS: dict[Compartment, Colour] = {
    Compartment.EXTRADURAL: (240, 160, 0),
    Compartment.INTRADURAL_EXTRAMEDULLARY: (86, 190, 255),
    Compartment.INTRAMEDULLARY: (255, 110, 190),
}
SAC_COLOUR: Colour = (120, 220, 150)
CORD_COLOUR: Colour = (245, 235, 120)
LEVEL_COLOUR: Colour = (255, 255, 255)
UNCERTAIN_COLOUR: Colour = (255, 205, 80)


def hex_colour(colour: Colour) -> str:
    """A colour as CSS writes it.

    >>> hex_colour((240, 160, 0))
    '#f0a000'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)
