"""How far the bone behind a body lies below that body's middle, as a share of the way to the next.

Pedicles and upper articular processes lie above it, spinous processes below: little in the
lumbar spine, most of a vertebra in the thoracic one, whose processes overlap like tiles.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["arch_drop_mm", "pitch_at"]

Array = npt.NDArray[np.float64]

# Read off the labelled arches of one CT, T1 to L5, as shares of the pitch.
_BEHIND_MM = (0.0, 12.0, 25.0)  # the canal's middle
_THORACIC = (-0.2, 0.35, 0.7)
_LUMBAR = (-0.25, 0.2, 0.2)
_PITCH_MM = (24.0, 32.0)  # of thoracic and of lumbar vertebrae; between them both count
_BESIDE = 0.1  # higher, of processes beside the canal
_USUAL_PITCH_MM = 30.0
_PITCH_LIMITS_MM = (10.0, 50.0)


def arch_drop_mm(behind_mm: Array, beside_mm: Array, pitch_mm: Array) -> Array:
    """How far bone lies below the middle of the body that it belongs to; negative for above.

    Parameters
    ----------
    behind_mm, beside_mm
        From the canal's middle, to the back and to either side; shape (n,).
    pitch_mm
        Distance of neighbouring bodies' middles there; shape (n,).

    Examples
    --------
    >>> behind, pitch = np.array([0.0, 30.0, 30.0]), np.array([34.0, 34.0, 22.0])
    >>> arch_drop_mm(behind, np.zeros(3), pitch).round(1).tolist()
    [-8.5, 6.8, 15.4]
    """
    low, high = _PITCH_MM
    lumbar = np.clip((pitch_mm - low) / (high - low), 0.0, 1.0)
    share = (1 - lumbar) * np.interp(behind_mm, _BEHIND_MM, _THORACIC)
    share += lumbar * np.interp(behind_mm, _BEHIND_MM, _LUMBAR)
    processes = np.clip((np.abs(beside_mm) - 8.0) / 8.0, 0.0, 1.0) * np.clip(
        (16.0 - behind_mm) / 6.0, 0.0, 1.0
    )
    return np.asarray(pitch_mm * (share - _BESIDE * processes))


def pitch_at(heights_mm: Array, middles_mm: Array) -> Array:
    """The distance of neighbouring bodies at each height, (n,) to (n,).

    Parameters
    ----------
    middles_mm
        Of the bodies along the canal, head to foot; shape (bodies,).

    Examples
    --------
    >>> pitch_at(np.array([0.0, 30.0]), np.array([0.0, 20.0, 50.0])).tolist()
    [20.0, 28.0]
    """
    if len(middles_mm) < 2:
        return np.full(len(heights_mm), _USUAL_PITCH_MM)
    # Beside the dens, and cut by an image's edge, two bodies may have one height.
    middles_mm = np.maximum.accumulate(middles_mm)
    between = 0.5 * (middles_mm[1:] + middles_mm[:-1])
    return np.clip(np.interp(heights_mm, between, np.diff(middles_mm)), *_PITCH_LIMITS_MM)
