"""Posterior elements and ribs as rods in their vertebra's frame."""

from __future__ import annotations

import numpy as np

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.simulation.implicit import Capsule
from spinemets.simulation.morphometry import Row

__all__ = ["canal_middle_mm", "posterior_elements", "ribs"]


def canal_middle_mm(row: Row, level: VertebralLevel) -> float:
    """Distance from a body's centre to the middle of the canal behind it, along its own depth."""
    if level is VertebralLevel.C1:
        # Behind the dens and the transverse ligament.
        return 7.0 * row.width_mm / 20 + row.canal_depth_mm / 2
    return row.depth_mm / 2 + 0.4 + row.canal_depth_mm / 2


def posterior_elements(level: VertebralLevel, row: Row, rng: np.random.Generator) -> tuple[Capsule, ...]:
    """The arch with its processes; of the sacrum, its wings, plate and crest."""
    if level.region is SpineRegion.SACRAL:
        return _sacral_elements(level, row, rng)
    if level is VertebralLevel.C1:
        return _ring(row)
    parts: list[Capsule] = []
    for side in (-1.0, 1.0):
        parts += _half_arch(level, row, side, rng)
    parts.append(_spinous(level, row, rng))
    return tuple(parts)


def _half_arch(level: VertebralLevel, row: Row, side: float, rng: np.random.Generator) -> list[Capsule]:
    region = level.region
    wall = -row.depth_mm / 2
    rear = wall - row.canal_depth_mm
    half_canal = row.canal_width_mm / 2
    scale = row.height_mm / {"cervical": 13.0, "thoracic": 19.0, "lumbar": 26.0}[region.value]
    lift = {"cervical": 0.0, "thoracic": 0.24, "lumbar": 0.16}[region.value] * row.height_mm
    pedicle_x = half_canal + row.pedicle_width_mm / 2
    hinge = wall - 0.7 * row.canal_depth_mm
    drop = row.height_mm * (0.1 if region is SpineRegion.CERVICAL else 0.32)
    pedicle = Capsule(
        (side * (pedicle_x - 0.5), wall + 3, lift),
        (side * (pedicle_x + 0.5), hinge, lift),
        (row.pedicle_width_mm / 2, 3.0 * scale, row.pedicle_height_mm / 2),
    )
    lamina = Capsule(
        (side * (half_canal + 1.5), hinge - 2, lift - 0.35 * drop),
        (0.0, rear - 3.4 * scale, lift - drop),
        (2.8, 2.8 * scale, row.lamina_height_mm / 2),
    )
    tip_y, tip_z = {
        SpineRegion.CERVICAL: (wall + 5.0, -1.0),
        SpineRegion.THORACIC: (rear + 2.0, lift + 2.0),
        SpineRegion.LUMBAR: (wall - 8.0, lift - 3.0),
    }[region]
    transverse = Capsule(
        (side * (pedicle_x + 1), hinge + 2, lift),
        (side * (row.transverse_tip_mm - 3), tip_y + rng.normal(0, 1), tip_z + rng.normal(0, 1)),
        (4.0 * scale, 4.0 * scale, 4.6 * scale),
    )
    facet_x = half_canal + (5.0 if region is not SpineRegion.THORACIC else 2.0) * scale
    upper = Capsule(
        (side * facet_x, hinge - 1.5, lift),
        (side * (facet_x + 0.5), hinge - 1.0, 0.5 * row.height_mm + 3.0 * scale),
        (4.5 * scale, 3.2 * scale, 3.5 * scale),
    )
    lower = Capsule(
        (side * (facet_x - 3.0 * scale), rear - 1.0, lift - drop),
        (side * (facet_x - 2.0 * scale), rear - 2.5, -0.5 * row.height_mm - 5.0 * scale),
        (4.0 * scale, 3.0 * scale, 4.0 * scale),
    )
    return [pedicle, lamina, transverse, upper, lower]


def _spinous(level: VertebralLevel, row: Row, rng: np.random.Generator) -> Capsule:
    rear = -row.depth_mm / 2 - row.canal_depth_mm
    lift = -0.12 * row.height_mm
    slope = np.radians(row.spinous_slope_deg + rng.normal(0, 3))
    half = row.spinous_height_mm / 2
    # The rod's rounded end adds its own half-thickness to the length.
    reach = max(row.spinous_length_mm * rng.uniform(0.9, 1.08) - 5.0, 1.0)
    tip = (float(rng.normal(0, 1)), rear - 4 - reach * np.cos(slope), lift - 2 - reach * np.sin(slope))
    thickness = 2.6 if level.region is SpineRegion.THORACIC else 3.2
    return Capsule((0.0, rear - 3, lift - 2), tip, (thickness, 4.5, half))


def _ring(row: Row) -> tuple[Capsule, ...]:
    scale = row.width_mm / 20
    rear = -canal_middle_mm(row, VertebralLevel.C1) - row.canal_depth_mm / 2 - 3.0
    parts = []
    for side in (-1.0, 1.0):
        parts.append(Capsule((side * 17 * scale, -8, 0), (side * 12 * scale, rear + 6, 0), (3, 3, 4)))
        parts.append(Capsule((side * 12 * scale, rear + 6, 0), (0, rear, 0), (3, 3, 4.2)))
        parts.append(
            Capsule((side * 18 * scale, -2, -1), (side * (row.transverse_tip_mm - 3), -3, -1), (4, 4, 4))
        )
    return tuple(parts)


def _sacral_elements(level: VertebralLevel, row: Row, rng: np.random.Generator) -> tuple[Capsule, ...]:
    wall = -row.depth_mm / 2
    rear = wall - row.canal_depth_mm
    half = row.canal_width_mm / 2
    number = int(level.value[1])
    parts = []
    for side in (-1.0, 1.0):
        wing_mm = (0.0, 48.0, 42.0, 33.0, 24.0, 12.0)[number] * row.width_mm / (0, 49, 36, 28, 23, 19)[number]
        thick = (0.0, 13.0, 11.0, 8.0, 6.0, 4.5)[number]
        parts.append(
            Capsule(
                (side * row.width_mm * 0.35, -2, 0),
                (side * max(wing_mm - thick / 2, row.width_mm * 0.4), wall, -2),
                (thick / 2, thick, row.height_mm * 0.52),
            )
        )
        parts.append(
            Capsule(
                (side * (half + 2), wall, 0),
                (0, rear - 1.5, -2),
                (2.2, 2.2, row.lamina_height_mm / 2 * (0.6 if number == 5 else 1.0)),
            )
        )
    if number < 5:
        tip = rear - max(row.spinous_length_mm - 5, 1) * rng.uniform(0.7, 1.1)
        parts.append(Capsule((0, rear - 2, -2), (0, tip, -5), (2.4, 3, row.spinous_height_mm / 2)))
    return tuple(parts)


def ribs(row: Row, level: VertebralLevel, rng: np.random.Generator) -> tuple[Capsule, ...]:
    """The rear part of both ribs of a thoracic vertebra, from the costovertebral joint outwards."""
    number = int(level.value[1:])
    length = 75.0 if number < 11 else {11: 62.0, 12: 45.0, 13: 26.0}[number]
    length *= rng.uniform(0.85, 1.1)
    head_z = (0.46 if 1 < number < 11 else 0.1) * row.height_mm
    rear = -row.depth_mm / 2 - row.canal_depth_mm
    parts = []
    for side in (-1.0, 1.0):
        head = (side * (row.width_mm / 2 + 4), -row.depth_mm * 0.42, head_z)
        neck = (side * (row.transverse_tip_mm + 2), rear + 6, head_z - 1.0)
        angle = (side * length, rear - 4.0, head_z - 0.22 * length)
        parts.append(Capsule(head, neck, (3.6, 3.6, 5.0)))
        parts.append(Capsule(neck, angle, (3.4, 3.6, 6.0)))
        if number < 11:
            end = (side * (length + 40), rear + 40.0, head_z - 0.55 * length)
            parts.append(Capsule(angle, end, (3.4, 3.6, 6.0)))
    return tuple(parts)
