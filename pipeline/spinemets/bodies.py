"""From voxels labelled body to single vertebral bodies.

Works along the curve of the canal: pieces of one eroded body are joined, blobs of several
bodies are cut. Writes no label map; of the sacrum it is told where it begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.spinal_axis import SpinalAxis
from spinemets.volume import Grid
from spinemets.voxels import voxels_of

__all__ = ["BODY_FRONT_MM", "Bodies", "Piece", "gather_bodies", "height_from_depth_mm", "single_bodies"]

Labels = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

BODY_FRONT_MM = (2.0, 62.0)  # where a body's centre can lie in front of the canal's
_MINIMUM_PIECE_MM3 = 40.0
_MINIMUM_BODY_SHARE = 0.12  # of its neighbours' volume: a collapsed or half destroyed body passes
_BODY_SIDE_MM = 22.0
_COLUMN_MM = 8.0  # to both sides of a middle: where a body's height is measured
_COLUMN_SHARE = 0.2  # of a piece that must lie there
_HEIGHT_PER_DEPTH = 0.75  # of a body, C3 to L5: 0.67-0.83 [Panjabi 1991, 1992]
_DISC_PER_HEIGHT = 0.28
_SLIVER_MM = 4.0  # where bodies are expected to be no higher, nothing seen is a body to cut
_SPLIT_HEIGHT = 1.5  # times the expected height
_JOIN_HEIGHT = 1.3
_DENS_HEIGHT = 3.6  # C2 with its dens against C3's height
_AXIS_DEPTH_MM = 20.0  # at most: of C2, and of the blob that it forms with C3
_AXIS_EXPECTED_MM = 14.5  # a body's expected height next to C2, at most
_AXIS_CUT = 1.2  # times the expected height: a C2 cut by the image's edge may show little of itself
_NECK = 0.5  # a blob's cross-section between two bodies against the lesser of theirs
_DISC_NECK = 0.75  # the same, less the disc's, where a disc lies beside it
_DISC_BESIDE = 0.15  # of the lesser body's cross-section
_DISC_COUNTS = 0.7  # of a disc's cross-section, taken from the bone's where a blob may be cut
_NEAR_PIECES = 7  # a piece and those about it that it is measured against
_WIDE = 0.55  # a body's cross-section against the widest of a blob; the dens has 0.3-0.4 of C2's
_PROFILE_SD_MM = 1.2
_LEAST_WEIGHT = 0.05  # of a voxel labelled body, however improbable


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A candidate body: rows of ``Bodies``' voxels, and its extent.

    Attributes
    ----------
    top_mm, bottom_mm
        Ends along the axis.
    depth_mm
        Front to back.
    front_mm, side_mm
        Its middle, from the canal's centre to the front and to the right.
    """

    rows: npt.NDArray[np.intp]
    top_mm: float
    bottom_mm: float
    depth_mm: float
    front_mm: float
    side_mm: float
    volume_mm3: float

    @property
    def height_mm(self) -> float:
        return self.bottom_mm - self.top_mm

    @property
    def middle_mm(self) -> float:
        return 0.5 * (self.top_mm + self.bottom_mm)


@dataclass(frozen=True, slots=True, eq=False)
class Bodies:
    """Voxels labelled body, and the discs between bodies.

    Attributes
    ----------
    voxels
        Shape (n, 3): indices on the label map's grid.
    where_mm
        Shape (n, 3): the same along and across the axis.
    weight
        Shape (n,): probability of body, kept above 0.
    discs_mm
        Shape (m, 3): discs' voxels before the canal, along and across the axis.
    slack_mm
        The finest spacing: what an extent between voxels' centres lacks.
    """

    voxels: npt.NDArray[np.intp]
    where_mm: Array
    weight: Array
    discs_mm: Array
    voxel_mm3: float
    slack_mm: float


def gather_bodies(
    anatomy: Labels, body_probability: npt.NDArray[np.float32] | None, grid: Grid, axis: SpinalAxis
) -> Bodies:
    """The voxels labelled body and the discs before the canal, placed along the axis.

    Parameters
    ----------
    anatomy
        uint8, shape ``grid.shape``; values of ``Structure``.
    body_probability
        float32 of the same shape, in [0, 1], or None: all voxels weigh the same.
    """
    voxels = voxels_of(anatomy == Structure.VERTEBRAL_BODY)
    weight = np.ones(len(voxels)) if body_probability is None else body_probability[tuple(voxels.T)]
    discs = axis.project(grid.to_world(voxels_of(anatomy == Structure.DISC)))
    inside = (np.abs(discs[:, 2]) < _BODY_SIDE_MM) & (discs[:, 1] > 0.0) & (discs[:, 1] < 70.0)
    return Bodies(
        voxels=voxels,
        where_mm=axis.project(grid.to_world(voxels)),
        weight=np.maximum(weight.astype(np.float64), _LEAST_WEIGHT),
        discs_mm=discs[inside],
        voxel_mm3=grid.voxel_volume_mm3,
        slack_mm=min(grid.spacing_mm),
    )


def single_bodies(bodies: Bodies, cores: npt.NDArray[np.intp], sacrum_top_mm: float) -> list[Piece]:
    """One piece per vertebra, head to foot.

    Parameters
    ----------
    cores
        Shape (n,): the core that each voxel of ``bodies`` is in, or 0.
    sacrum_top_mm
        Along the axis; what lies well below it is no body.
    """
    order = np.argsort(cores, kind="stable")
    edges = np.flatnonzero(np.diff(cores[order])) + 1
    groups = [rows for rows in np.split(order, edges) if len(rows) and cores[rows[0]] > 0]
    pieces = [_measure(bodies, rows) for rows in groups if len(rows) * bodies.voxel_mm3 >= _MINIMUM_PIECE_MM3]
    pieces = [piece for piece in pieces if _can_be_body(piece) and piece.middle_mm < sacrum_top_mm + 8.0]
    pieces.sort(key=lambda piece: piece.middle_mm)
    pieces = _join_fragments(bodies, pieces)
    pieces = [part for piece in pieces for part in _cut(bodies, piece, pieces)]
    return _drop_scraps(sorted(pieces, key=lambda piece: piece.middle_mm))


def _measure(bodies: Bodies, rows: npt.NDArray[np.intp]) -> Piece:
    where = bodies.where_mm[rows]
    low, high = min(_extents(where), key=lambda extent: extent[1][0] - extent[0][0])
    margin = 0.03 * (high - low) + bodies.slack_mm / 2
    return Piece(
        rows=rows,
        top_mm=float(low[0] - margin[0]),
        bottom_mm=float(high[0] + margin[0]),
        depth_mm=float(high[1] - low[1] + 2 * margin[1]),
        front_mm=float(np.median(where[:, 1])),
        side_mm=float(np.median(where[:, 2])),
        volume_mm3=len(rows) * bodies.voxel_mm3,
    )


def _extents(where_mm: Array) -> list[Array]:
    """Lowest and highest place along the axis and in front of it: (2, 2), measured in two ways.

    About a piece's own middle, as a body may lie beside the canal's; and before the canal, as
    bone of the neighbours may cling to a body's side.
    """
    columns = [
        where_mm[np.abs(where_mm[:, 2] - middle) < _COLUMN_MM] for middle in (np.median(where_mm[:, 2]), 0.0)
    ]
    enough = [column for column in columns if len(column) >= _COLUMN_SHARE * len(where_mm)]
    # Two halves of one body with nothing between them have no column.
    return [np.percentile(column[:, :2], (3, 97), axis=0) for column in enough or [where_mm]]


def _can_be_body(piece: Piece) -> bool:
    return BODY_FRONT_MM[0] < piece.front_mm < BODY_FRONT_MM[1] and abs(piece.side_mm) < _BODY_SIDE_MM


def _expected_height_mm(piece: Piece, pieces: list[Piece]) -> float:
    """Height of a whole body about here: the neighbours', held within reach of their depth."""
    sound = _sound_near(piece, pieces)
    from_depth = height_from_depth_mm(sound)
    heights = [other.height_mm for other in sound if 0.7 < other.height_mm / from_depth < 1.45]
    return float(np.median(heights)) if heights else from_depth


def _near(piece: Piece, pieces: list[Piece]) -> list[Piece]:
    """A piece and those about it, the nearest first."""
    return sorted(pieces, key=lambda other: abs(other.middle_mm - piece.middle_mm))[:_NEAR_PIECES]


def _sound_near(piece: Piece, pieces: list[Piece]) -> list[Piece]:
    """A piece and those about it, without what is much slimmer than the others."""
    near = _near(piece, pieces)
    # By cross-section, so that single bodies stay sound beside a blob of three.
    large = max(other.volume_mm3 / other.height_mm for other in near)
    return [other for other in near if other.volume_mm3 / other.height_mm > 0.3 * large]


def height_from_depth_mm(pieces: list[Piece]) -> float:
    """The height that bodies of the pieces' depth have where they are not collapsed."""
    return _HEIGHT_PER_DEPTH * float(np.median([piece.depth_mm for piece in pieces]))


def _join_fragments(bodies: Bodies, pieces: list[Piece]) -> list[Piece]:
    """Join neighbours along the axis that fit into one body with no disc between them."""
    joined: list[Piece] = []
    expected = {id(piece): _expected_height_mm(piece, pieces) for piece in pieces}
    for piece in pieces:
        if joined and _is_one_body(bodies, joined[-1], piece, expected[id(piece)]):
            joined[-1] = _measure(bodies, np.concatenate([joined[-1].rows, piece.rows]))
        else:
            joined.append(piece)
    return joined


def _is_one_body(bodies: Bodies, upper: Piece, lower: Piece, expected_mm: float) -> bool:
    span = max(upper.bottom_mm, lower.bottom_mm) - min(upper.top_mm, lower.top_mm)
    overlap = min(upper.bottom_mm, lower.bottom_mm) - max(upper.top_mm, lower.top_mm)
    between = (bodies.discs_mm[:, 0] > upper.middle_mm) & (bodies.discs_mm[:, 0] < lower.middle_mm)
    disc_mm3 = int(between.sum()) * bodies.voxel_mm3
    no_disc = disc_mm3 < 0.15 * min(upper.volume_mm3, lower.volume_mm3)
    if span > _JOIN_HEIGHT * expected_mm:
        return no_disc and _is_dens(upper, lower) and span < _DENS_HEIGHT * expected_mm
    if overlap > 0.5 * min(upper.height_mm, lower.height_mm):
        return True
    return no_disc and -overlap < 0.75 * expected_mm


def _is_dens(upper: Piece, lower: Piece) -> bool:
    """A thin, tall piece close above another and in line with it; C1's arch lies in front."""
    thin = upper.volume_mm3 / upper.height_mm < _WIDE * lower.volume_mm3 / lower.height_mm
    tall = upper.height_mm > upper.depth_mm
    in_line = abs(upper.front_mm - lower.front_mm) < 6.0
    return thin and tall and in_line and lower.top_mm - upper.bottom_mm < 4.0


def _cut(bodies: Bodies, piece: Piece, pieces: list[Piece]) -> list[Piece]:
    """Cut a blob that is too high for one body.

    The uppermost cervical one may be C2, as high as three bodies: only what looks like a
    disc divides it.
    """
    expected = _expected_height_mm(piece, pieces)
    if expected < _SLIVER_MM:
        return [piece]
    if not _may_hold_axis(piece, pieces, expected):
        return _cut_by_height(bodies, piece, expected)
    axis, *others = _cut_at_necks(bodies, piece, expected)
    # Beside collapsed bodies, which keep their depth, C2 is no lower than elsewhere.
    upright = max(expected, height_from_depth_mm(_sound_near(piece, pieces)))
    is_one = axis.height_mm < _DENS_HEIGHT * upright
    parts = [axis] if is_one else _cut_by_height(bodies, axis, expected)
    return parts + [part for other in others for part in _cut_by_height(bodies, other, expected)]


def _may_hold_axis(piece: Piece, pieces: list[Piece], expected_mm: float) -> bool:
    """Whether C2 can be in a blob: nothing but C1's arch lies above, and its size is cervical."""
    above = [other for other in pieces if other.middle_mm < piece.middle_mm]
    is_uppermost = all(other.volume_mm3 < 0.5 * piece.volume_mm3 for other in above)
    return is_uppermost and piece.depth_mm < _AXIS_DEPTH_MM and expected_mm < _AXIS_EXPECTED_MM


def _cut_at_necks(bodies: Bodies, piece: Piece, expected_mm: float) -> list[Piece]:
    """Cut where the blob is narrower than above and below, as between two bodies."""
    if piece.height_mm < _AXIS_CUT * expected_mm:
        return [piece]
    along = bodies.where_mm[piece.rows, 0]
    area, discs = (_smooth(profile) for profile in _profiles(bodies, piece))
    lesser = np.minimum(np.maximum.accumulate(area), np.maximum.accumulate(area[::-1])[::-1])
    with_disc = discs > _DISC_BESIDE * lesser
    bone = np.where(with_disc, area - _DISC_COUNTS * discs, area)
    least = np.where(with_disc, _DISC_NECK, _NECK) * lesser
    # Where nothing lies above or below there is no neck.
    neck = np.divide(bone, least, out=np.full_like(bone, np.inf), where=least > 0)
    # Above, the image's edge may have left little of C2; below lies a body.
    inner = neck[2 : len(neck) - max(2, int(0.5 * expected_mm))]
    if not len(inner) or inner.min() >= 1.0:
        return [piece]
    lower = along > piece.top_mm + 2.5 + float(np.argmin(inner))
    if lower.all() or not lower.any():
        # A disc beyond the blob's end is no neck of it.
        return [piece]
    parts = [_measure(bodies, piece.rows[side]) for side in (~lower, lower)]
    return [part for half in parts for part in _cut_at_necks(bodies, half, expected_mm)]


def _profiles(bodies: Bodies, piece: Piece) -> tuple[Array, Array]:
    """Of each millimetre along a piece, head to foot: weight of its own voxels, and count of the discs'."""
    edges = np.arange(piece.top_mm, piece.bottom_mm + 1.0)
    rows = piece.rows
    bone = np.histogram(bodies.where_mm[rows, 0], edges, weights=bodies.weight[rows])[0]
    return bone, np.histogram(bodies.discs_mm[:, 0], edges)[0].astype(np.float64)


def _smooth(profile: Array) -> Array:
    return np.asarray(ndimage.gaussian_filter1d(profile, _PROFILE_SD_MM))


def _cut_by_height(bodies: Bodies, piece: Piece, expected_mm: float) -> list[Piece]:
    """Cut a blob that is too high for one body at its narrowest or most disc-like heights.

    Only the wide part of it counts: the dens makes C2 high, but not two bodies.
    """
    if piece.height_mm < _SPLIT_HEIGHT * expected_mm:
        return [piece]
    along = bodies.where_mm[piece.rows, 0]
    area, discs = _profiles(bodies, piece)
    profile, area = _smooth(area - _DISC_COUNTS * discs), _smooth(area)
    cuts = []
    wide = np.flatnonzero(area > _WIDE * np.percentile(area, 85))
    start, stop, pitch = int(wide[0]), int(wide[-1]) + 1, expected_mm * (1.0 + _DISC_PER_HEIGHT)
    while stop - start > _SPLIT_HEIGHT * expected_mm:
        window = np.arange(start + max(1, int(0.6 * pitch)), min(start + int(1.4 * pitch), stop))
        start = int(window[np.argmin(profile[window])])
        cuts.append(piece.top_mm + start + 0.5)
    parts = np.digitize(along, cuts)
    return [
        _measure(bodies, piece.rows[parts == part]) for part in range(len(cuts) + 1) if (parts == part).any()
    ]


def _drop_scraps(pieces: list[Piece]) -> list[Piece]:
    """Remove pieces too small to be a body, and those inside another one's extent."""
    kept = []
    for piece in pieces:
        near = _near(piece, pieces)
        # Not the median: there may be a scrap beside every body.
        typical = float(np.percentile([other.volume_mm3 for other in near], 75))
        others = [other for other in near if other is not piece and other.volume_mm3 > 2 * piece.volume_mm3]
        inside = any(other.top_mm < piece.middle_mm < other.bottom_mm for other in others)
        is_atlas = piece is pieces[0] or (piece is pieces[1] and len(pieces) > 1)
        small = piece.volume_mm3 < _MINIMUM_BODY_SHARE * typical
        if not small and not (inside and not is_atlas):
            kept.append(piece)
    return kept
