"""From a label map of structures to single vertebrae.

Works along the curve of the canal: eroded bodies give pieces, pieces of one body are joined,
blobs of several bodies are cut, and every bony voxel then goes to one vertebra. Names of
levels are not its business.

C1 has no body. It becomes an instance only where its anterior arch was labelled as a body
of its own beside the dens; its arch behind the canal goes with C2, whose dens is as high.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.arches import arch_drop_mm, pitch_at
from spinemets.islands import clean_anatomy, cores_and_components
from spinemets.spinal_axis import SpinalAxis, fit_spinal_axis
from spinemets.volume import Grid, Mask
from spinemets.voxels import bounding_box, corner, thin_out, voxels_of

__all__ = ["clean_anatomy", "split_vertebrae"]

Labels = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

_MINIMUM_PIECE_MM3 = 40.0
_MINIMUM_BODY_SHARE = 0.12  # of its neighbours' volume: a collapsed or half destroyed body passes
_MINIMUM_SACRUM_MM3 = 800.0
_BODY_FRONT_MM = (2.0, 62.0)  # where a body's centre can lie in front of the canal's
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
_WIDE = 0.55  # a body's cross-section against the widest of a blob; the dens has 0.3-0.4 of C2's
_ARCH_MAJORITY = 0.6
_LEAST_WEIGHT = 0.05  # of a voxel labelled body, however improbable
_MAXIMUM_INSTANCES = 250


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A candidate body: rows of the bony voxel table, and its extent along the axis in mm."""

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
class _Bodies:
    """Voxels labelled body: indices (n, 3), axis coordinates (n, 3) in mm, weight (n,)."""

    voxels: npt.NDArray[np.intp]
    where_mm: Array
    weight: Array
    discs_mm: Array
    voxel_mm3: float
    slack_mm: float


def split_vertebrae(
    anatomy: Labels, body_probability: npt.NDArray[np.float32] | None, grid: Grid
) -> npt.NDArray[np.uint8]:
    """Number the vertebrae of a label map from head to foot.

    Parameters
    ----------
    anatomy
        uint8, shape ``grid.shape``; values of ``Structure``.
    body_probability
        float32 of the same shape, in [0, 1], or None; where given, it helps to find the
        disc space in a blob of two fused bodies.

    Returns
    -------
    npt.NDArray[np.uint8]
        Shape ``grid.shape``: 0, or 1..n from head to foot. An instance holds body and
        posterior elements; the whole visible sacrum is the last one.
    """
    instances = np.zeros(grid.shape, dtype=np.uint8)
    axis = fit_spinal_axis(anatomy, grid)
    if axis is None:
        return instances
    bodies = _gather_bodies(anatomy, body_probability, grid, axis)
    sacrum, sacrum_top_mm = _find_sacrum(anatomy, grid, axis)
    components = cores_and_components(anatomy == Structure.VERTEBRAL_BODY, grid)
    pieces = _single_bodies(bodies, components, sacrum_top_mm)
    _assign_bodies(instances, bodies, pieces, components)
    bounds = _Boundaries.between(pieces, sacrum_top_mm)
    _assign_arches(instances, anatomy, grid, (axis, bounds))
    if sacrum.any() and len(pieces) < _MAXIMUM_INSTANCES:
        instances[sacrum] = len(pieces) + 1
    return instances


def _gather_bodies(
    anatomy: Labels, body_probability: npt.NDArray[np.float32] | None, grid: Grid, axis: SpinalAxis
) -> _Bodies:
    voxels = voxels_of(anatomy == Structure.VERTEBRAL_BODY)
    weight = np.ones(len(voxels)) if body_probability is None else body_probability[tuple(voxels.T)]
    discs = axis.project(grid.to_world(voxels_of(anatomy == Structure.DISC)))
    inside = (np.abs(discs[:, 2]) < _BODY_SIDE_MM) & (discs[:, 1] > 0.0) & (discs[:, 1] < 70.0)
    return _Bodies(
        voxels=voxels,
        where_mm=axis.project(grid.to_world(voxels)),
        weight=np.maximum(weight.astype(np.float64), _LEAST_WEIGHT),
        discs_mm=discs[inside],
        voxel_mm3=grid.voxel_volume_mm3,
        slack_mm=min(grid.spacing_mm),
    )


def _single_bodies(
    bodies: _Bodies, components: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]], sacrum_top_mm: float
) -> list[_Piece]:
    """One piece per vertebra, head to foot."""
    core = components[0]
    order = np.argsort(core, kind="stable")
    edges = np.flatnonzero(np.diff(core[order])) + 1
    groups = [rows for rows in np.split(order, edges) if len(rows) and core[rows[0]] > 0]
    pieces = [_measure(bodies, rows) for rows in groups if len(rows) * bodies.voxel_mm3 >= _MINIMUM_PIECE_MM3]
    pieces = [piece for piece in pieces if _can_be_body(piece) and piece.middle_mm < sacrum_top_mm + 8.0]
    pieces.sort(key=lambda piece: piece.middle_mm)
    pieces = _join_fragments(bodies, pieces)
    pieces = [part for piece in pieces for part in _cut(bodies, piece, pieces)]
    return _drop_scraps(sorted(pieces, key=lambda piece: piece.middle_mm))


def _measure(bodies: _Bodies, rows: npt.NDArray[np.intp]) -> _Piece:
    where = bodies.where_mm[rows]
    low, high = min(_extents(where), key=lambda extent: extent[1][0] - extent[0][0])
    margin = 0.03 * (high - low) + bodies.slack_mm / 2
    return _Piece(
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


def _can_be_body(piece: _Piece) -> bool:
    return _BODY_FRONT_MM[0] < piece.front_mm < _BODY_FRONT_MM[1] and abs(piece.side_mm) < _BODY_SIDE_MM


def _expected_height_mm(piece: _Piece, pieces: list[_Piece]) -> float:
    """Height of a whole body about here: the neighbours', held within reach of their depth."""
    sound = _sound_near(piece, pieces)
    from_depth = _height_from_depth_mm(sound)
    heights = [other.height_mm for other in sound if 0.7 < other.height_mm / from_depth < 1.45]
    return float(np.median(heights)) if heights else from_depth


def _sound_near(piece: _Piece, pieces: list[_Piece]) -> list[_Piece]:
    """A piece and those about it, without what is much slimmer than the others."""
    near = sorted(pieces, key=lambda other: abs(other.middle_mm - piece.middle_mm))[:7]
    # By cross-section, so that single bodies stay sound beside a blob of three.
    large = max(other.volume_mm3 / other.height_mm for other in near)
    return [other for other in near if other.volume_mm3 / other.height_mm > 0.3 * large]


def _height_from_depth_mm(pieces: list[_Piece]) -> float:
    """The height that bodies of the pieces' depth have where they are not collapsed."""
    return _HEIGHT_PER_DEPTH * float(np.median([piece.depth_mm for piece in pieces]))


def _join_fragments(bodies: _Bodies, pieces: list[_Piece]) -> list[_Piece]:
    """Join neighbours along the axis that fit into one body with no disc between them."""
    joined: list[_Piece] = []
    expected = {id(piece): _expected_height_mm(piece, pieces) for piece in pieces}
    for piece in pieces:
        if joined and _is_one_body(bodies, joined[-1], piece, expected[id(piece)]):
            joined[-1] = _measure(bodies, np.concatenate([joined[-1].rows, piece.rows]))
        else:
            joined.append(piece)
    return joined


def _is_one_body(bodies: _Bodies, upper: _Piece, lower: _Piece, expected_mm: float) -> bool:
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


def _is_dens(upper: _Piece, lower: _Piece) -> bool:
    """A thin, tall piece close above another and in line with it; C1's arch lies in front."""
    thin = upper.volume_mm3 / upper.height_mm < _WIDE * lower.volume_mm3 / lower.height_mm
    tall = upper.height_mm > upper.depth_mm
    in_line = abs(upper.front_mm - lower.front_mm) < 6.0
    return thin and tall and in_line and lower.top_mm - upper.bottom_mm < 4.0


def _cut(bodies: _Bodies, piece: _Piece, pieces: list[_Piece]) -> list[_Piece]:
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
    upright = max(expected, _height_from_depth_mm(_sound_near(piece, pieces)))
    is_one = axis.height_mm < _DENS_HEIGHT * upright
    parts = [axis] if is_one else _cut_by_height(bodies, axis, expected)
    return parts + [part for other in others for part in _cut_by_height(bodies, other, expected)]


def _may_hold_axis(piece: _Piece, pieces: list[_Piece], expected_mm: float) -> bool:
    """Whether C2 can be in a blob: nothing but C1's arch lies above, and its size is cervical."""
    above = [other for other in pieces if other.middle_mm < piece.middle_mm]
    is_uppermost = all(other.volume_mm3 < 0.5 * piece.volume_mm3 for other in above)
    return is_uppermost and piece.depth_mm < _AXIS_DEPTH_MM and expected_mm < _AXIS_EXPECTED_MM


def _cut_at_necks(bodies: _Bodies, piece: _Piece, expected_mm: float) -> list[_Piece]:
    """Cut where the blob is narrower than above and below, as between two bodies."""
    if piece.height_mm < _AXIS_CUT * expected_mm:
        return [piece]
    edges = np.arange(piece.top_mm, piece.bottom_mm + 1.0)
    along = bodies.where_mm[piece.rows, 0]
    area = ndimage.gaussian_filter1d(np.histogram(along, edges, weights=bodies.weight[piece.rows])[0], 1.2)
    discs = ndimage.gaussian_filter1d(np.histogram(bodies.discs_mm[:, 0], edges)[0].astype(np.float64), 1.2)
    lesser = np.minimum(np.maximum.accumulate(area), np.maximum.accumulate(area[::-1])[::-1])
    with_disc = discs > _DISC_BESIDE * lesser
    bone = np.where(with_disc, area - 0.7 * discs, area)
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


def _cut_by_height(bodies: _Bodies, piece: _Piece, expected: float) -> list[_Piece]:
    """Cut a blob that is too high for one body at its narrowest or most disc-like heights.

    Only the wide part of it counts: the dens makes C2 high, but not two bodies.
    """
    if piece.height_mm < _SPLIT_HEIGHT * expected:
        return [piece]
    edges = np.arange(piece.top_mm, piece.bottom_mm + 1.0)
    along = bodies.where_mm[piece.rows, 0]
    area = np.histogram(along, edges, weights=bodies.weight[piece.rows])[0]
    discs = np.histogram(bodies.discs_mm[:, 0], edges)[0]
    profile = ndimage.gaussian_filter1d(area - 0.7 * discs, 1.2)
    area = ndimage.gaussian_filter1d(area, 1.2)
    cuts = []
    wide = np.flatnonzero(area > _WIDE * np.percentile(area, 85))
    start, stop, pitch = int(wide[0]), int(wide[-1]) + 1, expected * (1.0 + _DISC_PER_HEIGHT)
    while stop - start > _SPLIT_HEIGHT * expected:
        window = np.arange(start + max(1, int(0.6 * pitch)), min(start + int(1.4 * pitch), stop))
        start = int(window[np.argmin(profile[window])])
        cuts.append(piece.top_mm + start + 0.5)
    parts = np.digitize(along, cuts)
    return [
        _measure(bodies, piece.rows[parts == part]) for part in range(len(cuts) + 1) if (parts == part).any()
    ]


def _drop_scraps(pieces: list[_Piece]) -> list[_Piece]:
    """Remove pieces too small to be a body, and those inside another one's extent."""
    kept = []
    for piece in pieces:
        near = sorted(pieces, key=lambda other: abs(other.middle_mm - piece.middle_mm))[:7]
        # Not the median: there may be a scrap beside every body.
        typical = float(np.percentile([other.volume_mm3 for other in near], 75))
        others = [other for other in near if other is not piece and other.volume_mm3 > 2 * piece.volume_mm3]
        inside = any(other.top_mm < piece.middle_mm < other.bottom_mm for other in others)
        is_atlas = piece is pieces[0] or (piece is pieces[1] and len(pieces) > 1)
        small = piece.volume_mm3 < _MINIMUM_BODY_SHARE * typical
        if not small and not (inside and not is_atlas):
            kept.append(piece)
    return kept


def _assign_bodies(
    instances: Labels,
    bodies: _Bodies,
    pieces: list[_Piece],
    components: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]],
) -> None:
    """Write bodies: a core keeps its piece; a rim follows its component, or the nearest height."""
    if not pieces:
        return
    owner = np.zeros(len(bodies.voxels), dtype=np.intp)
    for number, piece in enumerate(pieces, start=1):
        owner[piece.rows] = number
    whole = components[1]
    lowest = np.full(int(whole.max()) + 1, len(pieces) + 1, dtype=np.intp)
    highest = np.zeros(int(whole.max()) + 1, dtype=np.intp)
    owned = owner > 0
    np.minimum.at(lowest, whole[owned], owner[owned])
    np.maximum.at(highest, whole[owned], owner[owned])
    rim = ~owned & (highest[whole] > 0)
    cuts = [0.5 * (upper.bottom_mm + lower.top_mm) for upper, lower in pairwise(pieces)]
    by_height = np.digitize(bodies.where_mm[rim, 0], np.maximum.accumulate(cuts) if cuts else []) + 1
    owner[rim] = np.clip(by_height, lowest[whole[rim]], highest[whole[rim]])
    instances[tuple(bodies.voxels.T)] = owner


def _find_sacrum(anatomy: Labels, grid: Grid, axis: SpinalAxis) -> tuple[Mask, float]:
    """The sacrum's largest component and those as large as a tenth of it; the largest's top."""
    mask = anatomy == Structure.SACRUM
    empty = np.zeros(grid.shape, dtype=np.bool_)
    box = bounding_box(mask)
    if box is None:
        return empty, float("inf")
    islands = cc3d.connected_components(np.ascontiguousarray(mask[box]), connectivity=18)
    counts = np.bincount(islands.ravel())
    counts[0] = 0
    if counts.max() * grid.voxel_volume_mm3 < _MINIMUM_SACRUM_MM3:
        return empty, float("inf")
    empty[box] = (counts > 0.1 * counts.max())[islands]
    largest = voxels_of(islands == int(counts.argmax())) + corner(box)
    where = axis.project(grid.to_world(thin_out(largest)))
    front = where[where[:, 1] > _BODY_FRONT_MM[0]]
    return empty, float(np.percentile(front[:, 0] if len(front) else where[:, 0], 2))


@dataclass(frozen=True, slots=True, eq=False)
class _Boundaries:
    """Heights along the axis, in mm, at which one vertebra ends and the next begins, and of their middles."""

    start_mm: float
    between_mm: tuple[float, ...]
    stop_mm: float
    middles_mm: tuple[float, ...] = ()

    @classmethod
    def between(cls, pieces: list[_Piece], sacrum_top_mm: float) -> _Boundaries:
        if not pieces:
            return cls(0.0, (), 0.0)
        cuts = [0.5 * (upper.bottom_mm + lower.top_mm) for upper, lower in pairwise(pieces)]
        first, last = pieces[0], pieces[-1]
        reach = 0.5 * min(first.height_mm, _HEIGHT_PER_DEPTH * first.depth_mm)
        stop = min(last.bottom_mm + 0.5 * last.height_mm, sacrum_top_mm + 5.0)
        between = tuple(np.maximum.accumulate(cuts)) if cuts else ()
        return cls(first.top_mm - reach, between, stop, tuple(piece.middle_mm for piece in pieces))


def _assign_arches(
    instances: Labels, anatomy: Labels, grid: Grid, guide: tuple[SpinalAxis, _Boundaries]
) -> None:
    """Write posterior elements to the vertebra whose body lies where theirs should.

    A component that belongs mostly to one vertebra goes to it as a whole.
    """
    axis, bounds = guide
    mask = anatomy == Structure.POSTERIOR_ELEMENTS
    box = bounding_box(mask)
    if box is None or bounds.stop_mm <= bounds.start_mm:
        return
    voxels = voxels_of(mask)
    where = axis.project(grid.to_world(voxels))
    pitch = pitch_at(where[:, 0], np.array(bounds.middles_mm))
    height = where[:, 0] - arch_drop_mm(-where[:, 1], where[:, 2], pitch)
    owner = np.digitize(height, bounds.between_mm) + 1
    owner[(height < bounds.start_mm) | (height > bounds.stop_mm)] = 0
    owner[(np.abs(where[:, 2]) > 60.0) | (where[:, 1] < -75.0) | (where[:, 1] > 45.0)] = 0
    islands = cc3d.connected_components(np.ascontiguousarray(mask[box]), connectivity=6)
    island = islands[mask[box]].astype(np.intp)
    kinds = int(owner.max()) + 1
    votes = np.bincount(island * kinds + owner, minlength=(int(island.max()) + 1) * kinds).reshape(-1, kinds)
    winner, share = votes.argmax(axis=1), votes.max(axis=1) / np.maximum(votes.sum(axis=1), 1)
    owner = np.where(share[island] >= _ARCH_MAJORITY, winner[island], owner)
    instances[tuple(voxels.T)] = owner
