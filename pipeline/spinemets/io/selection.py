"""Which series of a study are used, in which order.

1. *Plane.* Sagittal series are used where there are any. Otherwise those of the plane that
   covers the most of the spine from head to foot.
2. *Best first*: T2, T1, STIR/T2FS, T1FS+Gd, T1+Gd, PDFS, PD, Dixon (water, in phase, out of
   phase, fat), unknown; of Dixon images of one kind those of a T2, a T1, a T1 after contrast agent, a
   PD, and then the others; among equals the longest head-foot extent (to 10 mm), the most slices, the
   finest spacing, and then the higher series number, as a repeat follows the series it replaces.
   The first is the reference, on whose grid the results lie. Of each weighting, the series that
   may share its frame of reference come before the others, which may show another station, and
   among these the one that shares most of the reference's extent.
3. *Station.* A series that shares less than a third of the shorter head-foot extent with the
   reference shows another part of the spine and is not fused with it.
4. *Duplicates.* Of the same weighting the best is used and the others are not. Of Dixon images, those
   of a T1 and of a T2 are no duplicates, nor are those of a T1 before and after contrast agent.
5. *Limit.* At most ``ReadingConfig.maximum_series`` are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spinemets.config import ReadingConfig
from spinemets.io.listing import Rejection, SeriesListing
from spinemets.io.weighting import DIXON_WEIGHTINGS
from spinemets.volume import Grid, Plane, Series, Weighting

__all__ = ["head_foot_extent", "select_series", "share_frame"]

_PREFERENCE = (
    Weighting.T2,
    Weighting.T1,
    Weighting.T2_FS,
    Weighting.T1_FS_GD,
    Weighting.T1_GD,
    Weighting.PD_FS,
    Weighting.PD,
    Weighting.DIXON_WATER,
    Weighting.DIXON_IN_PHASE,
    Weighting.DIXON_OUT_OF_PHASE,
    Weighting.DIXON_FAT,
    Weighting.UNKNOWN,
)
# Of what Dixon images are made of, as ``underlying_contrast`` gives it.
_DIXON_PREFERENCE = ("T2", "T1", "T1 Gd", "PD")
_SAME_STATION_SHARE = 1 / 3


def head_foot_extent(grid: Grid) -> tuple[float, float]:
    """Lowest and highest z of a grid's voxel centres, RAS+ mm."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape])).reshape(3, -1).T
    heights = grid.to_world(corners)[:, 2]
    return float(heights.min()), float(heights.max())


def select_series(listings: Sequence[SeriesListing], config: ReadingConfig) -> tuple[SeriesListing, ...]:
    """Choose among the sound series of one study.

    Parameters
    ----------
    listings
        Of one study; those rejected for a fault of their own stay rejected.

    Returns
    -------
    tuple of SeriesListing
        The kept ones, best first, then the rejected ones in the order given.
    """
    candidates = [
        entry for entry in listings if entry.kept or (entry.rejection and entry.rejection.is_choice)
    ]
    faulty = [entry for entry in listings if not any(entry is candidate for candidate in candidates)]
    if not candidates:
        return tuple(faulty)
    plane = _plane_to_use(candidates)
    reference = min(candidates, key=lambda entry: _rank(entry, plane))
    ordered = sorted(candidates, key=lambda entry: _rank(entry, plane, reference))
    kept: list[SeriesListing] = []
    rejected: list[SeriesListing] = []
    for entry in ordered:
        verdict = _objection(entry, kept, plane, config)
        if verdict is None:
            kept.append(entry.accepted())
        else:
            rejected.append(entry.rejected(*verdict))
    return (*kept, *rejected, *faulty)


def _plane_to_use(candidates: Sequence[SeriesListing]) -> Plane:
    if any(entry.series.plane is Plane.SAGITTAL for entry in candidates):
        return Plane.SAGITTAL
    return max(candidates, key=_extent_mm).series.plane


def _rank(entry: SeriesListing, plane: Plane, reference: SeriesListing | None = None) -> tuple[float, ...]:
    near = reference is None or share_frame(entry.series, reference.series)
    return (
        0 if entry.series.plane is plane else 1,
        _PREFERENCE.index(entry.series.weighting),
        _dixon_rank(entry),
        0 if near else 1,
        -_tens_of_mm(_shared_mm(entry, reference)) if near and reference is not None else 0,
        -_tens_of_mm(_extent_mm(entry)),
        -entry.slices,
        round(float(np.prod(entry.spacing_mm)), 3),
        -(entry.series.number or 0),
    )


def _dixon_rank(entry: SeriesListing) -> int:
    if entry.series.weighting not in DIXON_WEIGHTINGS:
        return 0
    return (*_DIXON_PREFERENCE, entry.contrast).index(entry.contrast)


def _extent_mm(entry: SeriesListing) -> float:
    return entry.extent_mm[1] - entry.extent_mm[0] if entry.extent_mm else 0.0


def _shared_mm(one: SeriesListing, other: SeriesListing) -> float:
    """The head-foot extent that two series have in common; negative where there is a gap."""
    if one.extent_mm is None or other.extent_mm is None:
        return 0.0
    return min(one.extent_mm[1], other.extent_mm[1]) - max(one.extent_mm[0], other.extent_mm[0])


def _tens_of_mm(extent_mm: float) -> int:
    """Tens of mm; less is no reason to prefer a series. Rounding to 0.01 mm first makes equals equal."""
    return round(round(extent_mm, 2) / 10)


def _objection(
    entry: SeriesListing, kept: Sequence[SeriesListing], plane: Plane, config: ReadingConfig
) -> tuple[Rejection, str] | None:
    """Why this series gives way to those already kept; None where it does not."""
    if entry.series.plane is not plane:
        return Rejection.PLANE, f"{entry.series.plane.value}; the study has {plane.value} series"
    if kept and not _shares_station(entry, kept[0]):
        return Rejection.STATION, (
            f"covers another part of the spine than {kept[0].series.name}; analyse it by itself to see it"
        )
    twin = next((other for other in kept if _same_contrast(other, entry)), None)
    if twin is not None:
        return Rejection.DUPLICATE, (
            f"second {entry.series.weighting.value} series; {twin.series.name} is used: "
            f"{_better_by(twin, entry, kept[0])}"
        )
    if len(kept) >= config.maximum_series:
        return Rejection.LIMIT, f"at most {config.maximum_series} series are used, and better ones are there"
    return None


def _same_contrast(one: SeriesListing, other: SeriesListing) -> bool:
    if one.series.weighting is not other.series.weighting:
        return False
    told = one.series.weighting in DIXON_WEIGHTINGS and one.contrast and other.contrast
    return not told or one.contrast == other.contrast


def _shares_station(entry: SeriesListing, reference: SeriesListing) -> bool:
    known = entry.extent_mm is not None and reference.extent_mm is not None
    if not known or not share_frame(entry.series, reference.series):
        # Nothing says how different frames of reference lie to each other.
        return True
    return _shared_mm(entry, reference) >= _SAME_STATION_SHARE * min(_extent_mm(entry), _extent_mm(reference))


def share_frame(one: Series, other: Series) -> bool:
    """Whether two series may share a coordinate system: not where both say that it is another."""
    frames = {one.frame_of_reference_uid, other.frame_of_reference_uid}
    return "" in frames or len(frames) == 1


def _better_by(twin: SeriesListing, entry: SeriesListing, reference: SeriesListing) -> str:
    if _dixon_rank(twin) < _dixon_rank(entry):
        return f"it is known to be made of {twin.contrast} images"
    near, far = (share_frame(one.series, reference.series) for one in (twin, entry))
    if near and twin is not reference:
        if not far:
            return f"it lies in the frame of reference of {reference.series.name}"
        if _tens_of_mm(_shared_mm(twin, reference)) > _tens_of_mm(_shared_mm(entry, reference)):
            return f"it covers more of what {reference.series.name} covers"
    if _tens_of_mm(_extent_mm(twin)) > _tens_of_mm(_extent_mm(entry)):
        return "it covers more"
    if twin.slices > entry.slices:
        return "it has more slices"
    if np.prod(twin.spacing_mm) < 0.999 * np.prod(entry.spacing_mm):
        return "it is finer"
    if (twin.series.number or 0) > (entry.series.number or 0):
        return "it came later"
    return "nothing tells which is better, so the first"
