"""Lesions as part of a phantom, so that every sequence of a study shows the same ones.

(``lesions`` puts lesions into any labelled scan; here they are tissue, with relaxation times.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment
from spinemets.simulation.implicit import Coordinates, Waves, smooth_waves
from spinemets.simulation.tissues import Tissue
from spinemets.volume import PointMm

__all__ = ["PhantomLesion", "paint_lesions"]

Labels = npt.NDArray[np.uint8]

_BONE = {
    Tissue.BODY_CORTEX: Tissue.BODY_LESION,
    Tissue.BODY_MARROW: Tissue.BODY_LESION,
    Tissue.BASIVERTEBRAL_VEIN: Tissue.BODY_LESION,
    Tissue.MARROW_OEDEMA: Tissue.BODY_LESION,
    Tissue.MARROW_FAT: Tissue.BODY_LESION,
    Tissue.HAEMANGIOMA: Tissue.BODY_LESION,
    Tissue.POSTERIOR_CORTEX: Tissue.POSTERIOR_LESION,
    Tissue.POSTERIOR_MARROW: Tissue.POSTERIOR_LESION,
    Tissue.SACRUM_CORTEX: Tissue.SACRUM_LESION,
    Tissue.SACRUM_MARROW: Tissue.SACRUM_LESION,
}
_CANAL = dict.fromkeys(
    (Tissue.EPIDURAL_FAT, Tissue.LIGAMENT, Tissue.CSF, Tissue.NERVE_ROOTS), Tissue.EPIDURAL_LESION
)
_HOSTS = {
    Compartment.EXTRADURAL: _BONE,
    Compartment.INTRADURAL_EXTRAMEDULLARY: {
        Tissue.CSF: Tissue.SAC_LESION,
        Tissue.NERVE_ROOTS: Tissue.SAC_LESION,
    },
    Compartment.INTRAMEDULLARY: {Tissue.CORD: Tissue.CORD_LESION, Tissue.CSF: Tissue.CORD_LESION},
}


@dataclass(frozen=True, slots=True, eq=False)
class PhantomLesion:
    """A rough ellipsoid of disease that stays in the tissues its compartment allows.

    Attributes
    ----------
    centre_mm
        RAS+ mm, in the world.
    radii_mm
        Along x, y and z.
    unevenness
        A smooth function of about 0.1 to 0.2: the surface's relative distance.
    epidural
        Whether a lesion of bone grows on into the canal. The sac gives way, the cord does not.

    Notes
    -----
    An intramedullary lesion may swell the cord into the CSF; its radii limit by how much.
    """

    compartment: Compartment
    centre_mm: PointMm
    radii_mm: PointMm
    unevenness: Waves
    epidural: bool = False


def paint_lesions(tissue: Labels, points: Coordinates, lesions: tuple[PhantomLesion, ...]) -> Labels:
    """Paint lesions into a tissue map in place.

    Parameters
    ----------
    points
        World coordinates in mm of every voxel, each broadcastable to the map's shape.

    Returns
    -------
    Labels
        0 or the lesion's number, from 1; shape of the map.
    """
    numbers = np.zeros(tissue.shape, dtype=np.uint8)
    for number, lesion in enumerate(lesions, start=1):
        squared = sum(
            ((axis - centre) / radius) ** 2
            for axis, centre, radius in zip(points, lesion.centre_mm, lesion.radii_mm, strict=True)
        )
        near = np.broadcast_to(squared < 4.0, tissue.shape)
        if not near.any():
            continue
        place = tuple(np.broadcast_to(axis, tissue.shape)[near] for axis in points)
        level = np.sqrt(np.broadcast_to(squared, tissue.shape)[near])
        level = level + smooth_waves((place[0], place[1], place[2]), lesion.unevenness)
        becomes = np.arange(max(Tissue) + 1, dtype=np.uint8)
        hosts = _HOSTS[lesion.compartment] | (_CANAL if lesion.epidural else {})
        for host, diseased in hosts.items():
            becomes[host] = diseased
        local, numbered = tissue[near], numbers[near]
        changed = (level < 1) & (becomes[local] != local)
        local[changed] = becomes[local[changed]]
        numbered[changed] = number
        tissue[near], numbers[near] = local, numbered
    return numbers
