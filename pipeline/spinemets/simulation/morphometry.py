"""Adult spine dimensions by level, as tables that other numbers of vertebrae interpolate.

Vertebral bodies and canal: rounded from Panjabi et al., Spine 1991;16:861 (cervical),
1991;16:888 (thoracic), 1992;17:299 (lumbar). Cord: Frostell et al., Front Neurol 2016;7:238.
Disc heights: Koeller et al., Eur Spine J 1986 and Kunkel et al., J Anat 2011 (thoracic).
Sagittal alignment: Roussouly and Pinheiro-Franco, Eur Spine J 2011;20:609. Processes were
set by eye against public label maps of CT scans; they carry no published value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import SpineRegion

__all__ = ["COCCYX", "Row", "region_rows"]


@dataclass(frozen=True, slots=True)
class Row:
    """Mean adult dimensions of one vertebra and of the canal behind it.

    Attributes
    ----------
    tilt_deg
        Lean of the body's upward axis towards the front, supine.
    spinous_slope_deg
        How far the spinous process points down.
    transverse_tip_mm
        Distance of a transverse process' tip from the midline.
    """

    width_mm: float
    depth_mm: float
    height_mm: float
    disc_below_mm: float
    canal_depth_mm: float
    canal_width_mm: float
    sac_depth_mm: float
    sac_width_mm: float
    cord_depth_mm: float
    cord_width_mm: float
    tilt_deg: float
    pedicle_width_mm: float
    pedicle_height_mm: float
    lamina_height_mm: float
    spinous_length_mm: float
    spinous_slope_deg: float
    spinous_height_mm: float
    transverse_tip_mm: float


_Table = npt.NDArray[np.float64]

_CERVICAL: _Table = np.array(
    [  # W   D    H     disc cAP  cW  sAP  sW   dAP  dW   tilt pw  ph  lh  sl  ss  sh  tp
        (20, 12, 11, 2.0, 20, 28, 16, 22, 8.5, 12.0, 0, 6, 8, 7, 8, 10, 7, 38),
        (17, 15.6, 20, 4.8, 19, 24, 14.5, 20, 8.2, 12.2, -4, 7, 8, 10, 22, 20, 12, 27),
        (17, 15.4, 13.2, 5.2, 16.0, 23, 12.8, 19, 8.0, 12.8, -2, 5.5, 7, 10, 14, 18, 8, 26),
        (17.5, 15.6, 12.8, 5.4, 16.0, 24, 12.6, 19.5, 7.9, 13.5, 2, 5.5, 7, 10, 14, 18, 8, 26),
        (18.5, 16.5, 12.6, 5.4, 16.0, 24, 12.6, 20, 7.7, 13.7, 8, 5.8, 7, 10, 17, 20, 8, 27),
        (20.5, 17.3, 12.8, 5.5, 16.0, 24.5, 12.8, 19.5, 7.5, 13.2, 14, 6.2, 7, 11, 22, 22, 9, 28),
        (22.5, 17.5, 14.3, 5.0, 15.6, 23.5, 13.0, 18.5, 7.0, 11.8, 20, 7, 7.5, 13, 30, 25, 10, 33),
    ]
)
_THORACIC: _Table = np.array(
    [
        (26, 19, 15.5, 4.0, 15.8, 21, 13.2, 17.0, 6.6, 9.8, 23, 8.5, 9, 16, 30, 28, 11, 35),
        (26, 20.6, 16.6, 3.8, 15.4, 19, 13.0, 15.5, 6.4, 9.0, 22, 7.5, 11, 17, 28, 35, 11, 33),
        (25.3, 23, 17, 3.7, 15.6, 18, 13.0, 15.0, 6.2, 8.5, 19, 6.5, 12, 18, 27, 42, 12, 31),
        (25.3, 24, 17.4, 3.7, 15.7, 17.5, 13.0, 14.7, 6.2, 8.4, 15, 5.8, 12, 19, 27, 50, 13, 30),
        (26, 25, 17.8, 3.8, 15.8, 17.2, 13.0, 14.6, 6.2, 8.3, 11, 5.6, 12, 19, 27, 57, 14, 30),
        (27.2, 26.5, 18.4, 4.0, 15.8, 17.2, 13.0, 14.6, 6.2, 8.2, 6, 5.8, 12, 20, 27, 60, 14, 31),
        (28.5, 28, 19, 4.2, 15.8, 17.2, 13.0, 14.6, 6.2, 8.2, 1, 6.0, 12, 20, 27, 60, 14, 31),
        (30, 28.7, 19.6, 4.5, 15.8, 17.5, 13.0, 14.8, 6.3, 8.2, -4, 6.5, 12.5, 20, 26, 57, 14, 31),
        (31.8, 30.2, 20.3, 4.9, 15.9, 17.8, 13.2, 15.0, 6.5, 8.4, -9, 7.0, 13.5, 20, 25, 50, 14, 30),
        (33.6, 31, 21.2, 5.3, 15.9, 18.4, 13.4, 15.4, 6.9, 8.7, -13, 7.8, 14.5, 20, 24, 40, 14, 28),
        (37, 31.9, 22.4, 5.8, 16.4, 19.6, 13.8, 16.0, 7.5, 9.3, -16, 8.8, 16, 20, 22, 28, 15, 25),
        (40.5, 33, 23.8, 6.5, 17.5, 21.8, 14.6, 17.0, 7.9, 9.4, -17, 8.6, 16, 20, 22, 18, 17, 23),
    ]
)
_LUMBAR: _Table = np.array(
    [
        (42.3, 34.7, 25.2, 7.8, 17.8, 23, 15.0, 17.8, 6.5, 8.0, -15, 8.5, 15.5, 20, 26, 12, 19, 36),
        (44, 34.8, 26, 9.0, 17.4, 23.2, 15.0, 18.2, 5.0, 6.0, -11, 9, 15, 20, 27, 10, 21, 40),
        (46, 35, 26.2, 10.0, 17.2, 23.8, 14.8, 18.4, 4.0, 5.0, -4, 10.5, 14.5, 19, 28, 8, 22, 44),
        (48, 34.8, 26, 10.8, 17.4, 25, 14.4, 18.0, 3.0, 4.0, 6, 13, 15, 18, 26, 8, 20, 42),
        (48.5, 34.2, 25.2, 10.2, 17.8, 27, 13.2, 17.0, 3.0, 4.0, 20, 16, 15, 16, 20, 12, 15, 42),
    ]
)
_SACRAL: _Table = np.array(
    [
        (49, 31, 29, 3.2, 15, 28, 11.0, 14.5, 3, 4, 39, 14, 20, 18, 14, 25, 14, 50),
        (36, 21, 25, 2.2, 11, 24, 7.5, 10.0, 3, 4, 46, 13, 18, 18, 12, 20, 13, 46),
        (28, 15.5, 20, 2.0, 8.5, 20, 5, 6, 3, 4, 34, 12, 15, 15, 10, 15, 12, 40),
        (23, 12, 17, 1.8, 6.5, 16, 4, 5, 3, 4, 12, 10, 12, 12, 7, 10, 10, 32),
        (19, 9.5, 14, 3.0, 5, 12, 3, 4, 3, 4, -10, 8, 10, 8, 3, 5, 8, 22),
    ]
)
COCCYX = ((13.0, 8.5, 11.0, -32.0), (10.0, 7.0, 9.0, -48.0), (7.0, 5.5, 8.0, -60.0))
"""Width, depth, height in mm and tilt in degrees of the coccygeal segments."""

_TABLES = {
    SpineRegion.CERVICAL: _CERVICAL,
    SpineRegion.THORACIC: _THORACIC,
    SpineRegion.LUMBAR: _LUMBAR,
    SpineRegion.SACRAL: _SACRAL,
}


def region_rows(region: SpineRegion, count: int) -> tuple[Row, ...]:
    """Dimensions of a region of ``count`` vertebrae, head to foot.

    A supernumerary or missing vertebra stretches or squeezes the region's usual progression,
    so that the last thoracic vertebra always looks like one.

    >>> [row.height_mm for row in region_rows(SpineRegion.LUMBAR, 6)][-1]
    25.2
    """
    table = _TABLES[region]
    usual = np.linspace(0.0, 1.0, len(table))
    wanted = np.linspace(0.0, 1.0, count)
    columns = [np.interp(wanted, usual, table[:, column]) for column in range(table.shape[1])]
    return tuple(Row(*(float(value) for value in values)) for values in zip(*columns, strict=True))
