"""Vertebrae outlined by hand in the mid-sagittal plane, laid over a scan that labels only the cord."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spinemets.anatomy import Structure
from spinemets.channels import STRUCTURE_OF_CHANNEL, Channel
from spinemets.errors import ConfigError, GeometryError
from spinemets.training.scans import ANY, LabelledScan, bit

__all__ = ["BodyOutline", "PosteriorOutline", "ScanOutlines", "read_outlines", "with_outlines"]

Points = tuple[tuple[float, float], ...]
Depth = npt.NDArray[np.float32]
_BAND_MM = 0.75
"""Half the width of the strip around an outline that either side may own."""
_BAND_GROWTH = 0.15
"""Bodies are rounder and endplates more cupped off the midline: mm of band per mm beyond 3 mm."""
_RECESS_POWER = 1.5
"""How the front recedes from the midline to the half width: between a wedge (1) and a round (2)."""
_AHEAD_MM = (2.0, 15.0)
_LEVEL_MARGIN_MM = 5.0
_RIM = bit(Channel.BACKGROUND, Channel.POSTERIOR_ELEMENTS, Channel.THECAL_SAC)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BodyOutline(_Model):
    """One vertebral body: four edges of (back-front, foot-head) points.

    ``superior`` and ``inferior`` run from back to front, ``front`` and ``back`` from top to bottom
    between them. The outline holds wherever the left-right place is within ``half_width`` of
    ``centre``; the front recedes towards the sides, by ``front_recess`` at the half width. All in
    voxels of the scan in RAS+ order, voxel centres at whole numbers.
    """

    name: Annotated[str, Field(pattern=r"^(dens|C[2-7]|T[1-5])$")]
    centre: float
    half_width: float = Field(gt=0)
    superior: Points = Field(min_length=2)
    inferior: Points = Field(min_length=2)
    front: Points = ()
    back: Points = ()
    front_recess: float = Field(default=0.0, ge=0)

    @property
    def front_edge(self) -> Points:
        """From the upper to the lower front corner."""
        return (self.superior[-1], *self.front, self.inferior[-1])

    @property
    def polygon(self) -> Points:
        """The closed outline, starting at the upper back corner."""
        return (*self.superior, *self.front, *self.inferior[::-1], *self.back[::-1])

    @property
    def channel(self) -> Channel:
        """The network's channel of this body."""
        if self.name in ("C2", "dens"):
            return Channel.C2
        return Channel.CERVICAL_BODY if self.name.startswith("C") else Channel.THORACIC_BODY


class PosteriorOutline(_Model):
    """A spinous process in the same convention."""

    centre: float
    half_width: float = Field(gt=0)
    polygon: Points = Field(min_length=3)


class ScanOutlines(_Model):
    """What is outlined in one 1 mm scan: bodies from the head downwards, without a gap.

    Attributes
    ----------
    file, affine
        The scan and its RAS+ affine, for people.
    shape
        Of the scan in RAS+ order.
    """

    file: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    bodies: tuple[BodyOutline, ...] = Field(min_length=1)
    spinous_processes: tuple[PosteriorOutline, ...] = ()


class _OutlineFile(_Model):
    convention: str
    scans: dict[str, ScanOutlines]


def read_outlines(path: Path) -> dict[str, ScanOutlines]:
    """Outlines by subject.

    Raises
    ------
    ConfigError
        The file cannot be read, or an outline is malformed.
    """
    try:
        return _OutlineFile.model_validate_json(path.read_bytes()).scans
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); pass a JSON file of outlines"
        ) from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error


def with_outlines(scan: LabelledScan, outlines: ScanOutlines) -> LabelledScan:
    """The scan with its outlined bodies, the discs between them, and what lies ahead of them.

    A strip around every edge may be either neighbour. Cord and sac stay as they were. Nothing is
    said beside the bodies but the regions that cannot be there: no lumbar spine in a neck.

    Raises
    ------
    GeometryError
        The outlines were drawn on a scan of another shape.
    """
    if scan.image.shape != outlines.shape:
        raise GeometryError(
            f"{scan.subject}: shape {scan.image.shape} is not that of the outlined scan, {outlines.shape}"
        )
    allowed, structures = scan.allowed.copy(), scan.structures.copy()
    _exclude_regions(allowed, outlines.bodies)
    flat = _FlatOutlines(outlines)
    kept = np.isin(scan.allowed, (bit(Channel.CORD), bit(Channel.THECAL_SAC)))
    for x in range(scan.image.shape[0]):
        seen, marked = flat.at(x)
        free = ~kept[x]
        known = free & (seen != ANY)
        allowed[x][known] = seen[known]
        body_or_disc = free & (marked != Structure.BACKGROUND)
        structures[x][body_or_disc] = marked[body_or_disc]
    return replace(scan, allowed=allowed, structures=structures)


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """One outlined structure: depth below its outline, and distance from its front edge."""

    channel: Channel
    centre: float
    half_width: float
    depth: Depth
    front_distance: Depth | None = None
    front_recess: float = 0.0


class _FlatOutlines:
    """Depths below every outline, computed once, read off at any left-right place."""

    def __init__(self, outlines: ScanOutlines) -> None:
        size = outlines.shape[1:]
        self._pieces = [_body_piece(body, size) for body in outlines.bodies]
        column = [body for body in outlines.bodies if body.name != "dens"]
        self._pieces += [_disc_piece(upper, lower, size) for upper, lower in pairwise(column)]
        self._pieces += [
            _Piece(
                Channel.POSTERIOR_ELEMENTS,
                process.centre,
                process.half_width,
                polygon_depth(process.polygon, size),
            )
            for process in outlines.spinous_processes
        ]
        self._column_depth = polygon_depth(_column_polygon(column), size)
        nearest = np.argmax([polygon_depth(body.polygon, size) for body in column], axis=0)
        self._centre = np.array([body.centre for body in column])[nearest]
        self._half_width = np.array([body.half_width for body in column])[nearest]
        self._ahead = self._in_front() & (nearest > 0)

    def _in_front(self) -> npt.NDArray[np.bool_]:
        rows = np.arange(self._column_depth.shape[0])[:, None]
        front = np.where(self._column_depth > 0, rows, -1).max(axis=0)
        return np.asarray((rows > front[None]) & (front[None] >= 0))

    def at(self, x: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
        """Allowed channels and structures of the slice; ANY and background where nothing is said."""
        seen = np.zeros(self._column_depth.shape, dtype=np.uint16)
        marked = np.zeros(seen.shape, dtype=np.uint8)
        deepest = np.zeros(seen.shape, dtype=np.float32)
        unsure, receded = np.zeros((2, *seen.shape), dtype=bool)
        for piece in self._pieces:
            offset = abs(x - piece.centre)
            if offset > piece.half_width:
                continue
            band = _BAND_MM + _BAND_GROWTH * max(0.0, offset - 3)
            possible, inside = piece.depth > -band, piece.depth > 0
            seen[possible] |= bit(piece.channel)
            if piece.front_distance is not None:
                recess = piece.front_recess * (offset / piece.half_width) ** _RECESS_POWER
                receded |= possible & (piece.front_distance < recess + band)
                inside = inside & (piece.front_distance >= recess)
            marked[inside & (piece.depth >= deepest)] = STRUCTURE_OF_CHANNEL[piece.channel]
            deepest = np.maximum(deepest, piece.depth)
            unsure |= np.abs(piece.depth) <= band
        offset_map = np.abs(x - self._centre)
        band_map = _BAND_MM + _BAND_GROWTH * np.clip(offset_map - 3, 0, None)
        # Between a body and its disc nothing else is; at the column's rim anything may begin.
        rim = unsure & ((self._column_depth < band_map) | (seen & bit(Channel.POSTERIOR_ELEMENTS) > 0))
        seen[rim & (deepest < band_map)] |= _RIM
        seen[receded] |= bit(Channel.BACKGROUND)
        beyond = -self._column_depth
        ahead = (
            self._ahead
            & (offset_map <= self._half_width)
            & (beyond > _AHEAD_MM[0] + band_map)
            & (beyond < _AHEAD_MM[1])
        )
        seen[ahead & (seen == 0)] = bit(Channel.BACKGROUND)
        seen[seen == 0] = ANY
        return seen, marked


def _body_piece(body: BodyOutline, size: tuple[int, int]) -> _Piece:
    depth, front = polygon_depth(body.polygon, size), _line_distance(body.front_edge, size)
    return _Piece(body.channel, body.centre, body.half_width, depth, front, body.front_recess)


def _disc_piece(upper: BodyOutline, lower: BodyOutline, size: tuple[int, int]) -> _Piece:
    depth = polygon_depth((*upper.inferior, *lower.superior[::-1]), size)
    front = _line_distance((upper.inferior[-1], lower.superior[-1]), size)
    centre, half_width = (upper.centre + lower.centre) / 2, min(upper.half_width, lower.half_width)
    recess = max(upper.front_recess, lower.front_recess)
    return _Piece(Channel.DISC, centre, half_width, depth, front, recess)


def _column_polygon(bodies: Sequence[BodyOutline]) -> Points:
    front = [point for body in bodies for point in body.front_edge]
    back = [point for body in bodies for point in (body.superior[0], *body.back, body.inferior[0])]
    return (*bodies[0].superior, *front[1:], *bodies[-1].inferior[-2:0:-1], *back[:0:-1])


def _exclude_regions(allowed: npt.NDArray[np.uint16], bodies: Sequence[BodyOutline]) -> None:
    """No lumbar spine or sacrum anywhere, no region's body far beyond that region's own ends."""
    heights = np.arange(allowed.shape[2])
    allowed &= ANY & ~bit(Channel.LUMBAR_BODY, Channel.SACRUM)
    for channel in (Channel.C2, Channel.CERVICAL_BODY, Channel.THORACIC_BODY):
        ends = [z for body in bodies if body.channel == channel for _, z in body.polygon]
        if not ends:
            continue
        outside = np.zeros(heights.shape, dtype=bool)
        if channel != Channel.THORACIC_BODY:
            outside |= heights < min(ends) - _LEVEL_MARGIN_MM
        if channel != Channel.C2:
            outside |= heights > max(ends) + _LEVEL_MARGIN_MM
        allowed[:, :, outside] &= ANY & ~bit(channel)


def polygon_depth(polygon: Points, size: tuple[int, int]) -> Depth:
    """Distance to a polygon's edge, positive inside.

    Parameters
    ----------
    polygon
        Corners in voxels.
    size
        Rows and columns of the grid whose voxel centres are asked.

    Returns
    -------
    float32, shape ``size``, in voxels.

    Examples
    --------
    >>> float(polygon_depth(((1, 1), (5, 1), (5, 5), (1, 5)), (4, 4))[3, 3])
    2.0
    """
    rows, columns = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in size], indexing="ij")
    inside = np.zeros(size, dtype=bool)
    for (y0, z0), (y1, z1) in pairwise((*polygon, polygon[0])):
        if z0 != z1:
            crosses = (columns >= min(z0, z1)) & (columns < max(z0, z1))
            inside ^= crosses & (rows < y0 + (columns - z0) * (y1 - y0) / (z1 - z0))
    nearest = _line_distance((*polygon, polygon[0]), size)
    return np.where(inside, nearest, -nearest).astype(np.float32)


def _line_distance(points: Points, size: tuple[int, int]) -> Depth:
    """Distance to the line through these points."""
    rows, columns = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in size], indexing="ij")
    nearest = np.full(size, np.inf, dtype=np.float32)
    for (y0, z0), (y1, z1) in pairwise(points):
        dy, dz = y1 - y0, z1 - z0
        along = ((rows - y0) * dy + (columns - z0) * dz) / max(dy * dy + dz * dz, 1e-9)
        along = np.clip(along, 0, 1)
        nearest = np.minimum(nearest, np.hypot(rows - y0 - along * dy, columns - z0 - along * dz))
    return nearest.astype(np.float32)
