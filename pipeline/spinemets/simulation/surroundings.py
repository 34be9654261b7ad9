"""What lies around the bones: the canal's contents, muscles, fat, organs and the skin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spinemets.simulation.implicit import Coordinates, Waves, smooth_waves
from spinemets.simulation.profile import AxialProfile
from spinemets.simulation.tissues import Tissue
from spinemets.volume import Mask

__all__ = ["paint_canal", "paint_surroundings"]

Labels = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]


def paint_canal(
    tissue: Labels,
    free: Mask,
    points: Coordinates,
    profile: AxialProfile,
    fields: tuple[Waves, ...],
) -> None:
    """Paint ligaments, epidural fat, sac, roots and cord into a tissue map, in place.

    Parameters
    ----------
    free
        Where neither body nor disc will be.
    """
    x, y, z = points
    rows = profile.index_of(z)
    across = (y - profile.canal_y_mm[rows]) * profile.cosine[rows]
    aside = x - profile.canal_x_mm[rows]
    near = free & (np.abs(aside) < 32) & (np.abs(across) < 22)
    rows, u, v, height = rows[near], across[near], aside[near], z[near]
    picked = (x[near], y[near], z[near])
    local = tissue[near]

    canal = _ellipse(v, u, profile.canal_width_mm[rows], profile.canal_depth_mm[rows], 2.4)
    spine = height < profile.landmarks_mm["skull_base"]
    # The yellow ligaments close the canal behind, the longitudinal one lines it in front.
    behind = (canal < 1.0 + 5.0 / profile.canal_depth_mm[rows]) & (u < 0) & (np.abs(v) < 11) & spine
    soft = np.isin(local, (Tissue.MUSCLE, Tissue.FAT, Tissue.LIGAMENT))
    local[behind & soft] = Tissue.LIGAMENT
    foramen = _ellipse(v, u - 1, profile.canal_width_mm[rows] + 17, profile.canal_depth_mm[rows], 2.2) < 1
    local[foramen & soft & spine] = Tissue.EPIDURAL_FAT
    # A pad of fat fills the angle between the laminae, thickest in the lumbar spine.
    pad = np.interp(height, (-20, 10, 130, 230), (1.0, 4.5, 4.0, 1.5)) - 0.5 * np.abs(v)
    padded = (u < 0) & (-u < 0.5 * profile.canal_depth_mm[rows] + pad) & (np.abs(v) < 9)
    local[padded & soft & spine] = Tissue.EPIDURAL_FAT
    inner = (canal < 1) & spine
    local[inner] = Tissue.EPIDURAL_FAT
    local[inner & (u > 0.42 * profile.canal_depth_mm[rows]) & (np.abs(v) < 5)] = Tissue.LIGAMENT

    sac_u = u - profile.sac_shift_mm[rows]
    ripple = 0.03 * smooth_waves(picked, fields[1])
    sac = _ellipse(v, sac_u, profile.sac_width_mm[rows], profile.sac_depth_mm[rows], 2.0) + ripple
    in_sac = (sac < 1) & (canal < 1.02) & spine
    local[in_sac] = Tissue.CSF
    cord_u = sac_u - profile.cord_shift_mm[rows]
    below = height < profile.landmarks_mm["conus"] + 25
    strands = _strands(v, sac_u, height, fields[2])
    hanging = np.clip((profile.landmarks_mm["conus"] + 25 - height) / 40, 0, 1)
    rear = sac_u < profile.sac_depth_mm[rows] * 0.1
    local[in_sac & below & rear & (sac < 0.94) & (strands < 0.9 * hanging - 0.5)] = Tissue.NERVE_ROOTS
    cord = _ellipse(v, cord_u, profile.cord_width_mm[rows], profile.cord_depth_mm[rows], 2.0)
    local[in_sac & (cord < 1)] = Tissue.CORD
    tissue[near] = local


def _ellipse(v: Array, u: Array, width: Array, depth: Array, power: float) -> Array:
    """1 on an ellipse (or a squarer oval), less inside; far outside where it has no width."""
    radius = (np.abs(v) / np.maximum(width / 2, 1e-3)) ** power
    radius += (np.abs(u) / np.maximum(depth / 2, 1e-3)) ** power
    return np.asarray(radius ** (1 / power), dtype=np.float32)


def _strands(v: Array, u: Array, height: Array, field: Waves) -> Array:
    """A pattern that is constant along the canal and changes across it, like hanging roots."""
    return smooth_waves((v * 3.0, u * 3.0, height * 0.04), field)


def paint_surroundings(
    tissue: Labels, points: Coordinates, profile: AxialProfile, fields: tuple[Waves, ...]
) -> None:
    """Fill an empty tissue map with everything that is neither spine nor air, in place."""
    x, y, z = points
    rows = profile.index_of(z)
    side = np.abs(x - 0.5 * profile.canal_x_mm[rows])
    behind = profile.canal_y_mm[rows] - y
    coarse, fine = smooth_waves(points, fields[0]), smooth_waves(points, fields[1])
    inside = _torso(side, behind, profile, rows) & (z < profile.landmarks_mm["skull_base"] + 110)
    tissue[inside] = Tissue.FAT
    muscle_width = profile.muscle_half_width_mm[rows] * (1 + 0.06 * coarse)
    muscle = (side / muscle_width) ** 2 + (behind / profile.muscle_back_mm[rows]) ** 2 < 1
    muscle &= inside & (behind > -12)
    tissue[muscle] = Tissue.MUSCLE
    _paint_muscle_detail(tissue, muscle, (side, behind, z), fields)
    ahead = y - profile.front_y_mm[rows]
    front = inside & ~muscle & (behind < 8)
    tissue[front] = _organs((x, ahead, z), (side, rows), (coarse, fine), profile)[front]
    _paint_vessels(tissue, front, (x, ahead, z), profile)
    _paint_head(tissue, inside, points, profile, fine)


def _torso(side: Array, behind: Array, profile: AxialProfile, rows: npt.NDArray[np.intp]) -> Mask:
    back, front = profile.skin_back_mm[rows], profile.skin_front_mm[rows]
    middle, half = (back - front) / 2, (back + front) / 2
    # Squarer than an ellipse, so that the back is nearly flat.
    oval = (side / profile.skin_half_width_mm[rows]) ** 3 + (np.abs(behind - middle) / half) ** 3
    return np.asarray(oval < 1)


def _paint_muscle_detail(
    tissue: Labels, muscle: Mask, place: tuple[Array, Array, Array], fields: tuple[Waves, ...]
) -> None:
    side, behind, z = (axis[muscle] for axis in place)
    # Fat runs between and in the bundles, along the spine, more of it near the sacrum.
    streaks = smooth_waves((side, behind, z * 0.2), fields[2])
    planes = smooth_waves((side * 0.8, behind * 0.8, z * 0.1), fields[0])
    fatty = np.interp(z, (-60, 40, 150, 500), (-1.0, -1.5, -1.9, -1.7))
    local = tissue[muscle]
    local[(streaks < fatty) | (np.abs(planes) < 0.06)] = Tissue.FAT
    midline = (side < 2.5) & (behind > 8)
    between = smooth_waves((side, behind, z), fields[1])[midline]
    local[midline] = np.select(
        (between > 0.5, between > -0.6), (Tissue.LIGAMENT, Tissue.MUSCLE), default=Tissue.FAT
    )
    tissue[muscle] = local


def _organs(
    place: tuple[Array, Array, Array],
    rows: tuple[Array, npt.NDArray[np.intp]],
    noise: tuple[Array, Array],
    profile: AxialProfile,
) -> Labels:
    """Neck muscles and airway, lungs and mediastinum, or the belly's mixture of organs and fat."""
    x, ahead, z = place
    side, index = rows
    coarse, fine = noise
    neck, belly = profile.neck[index], profile.belly[index]
    organ = np.full(x.shape, Tissue.FAT, dtype=np.uint8)
    abdomen = (z < profile.landmarks_mm["diaphragm"] - 0.1 * ahead) & (neck < 0.5)
    mixture = coarse + 0.35 * fine
    organ[abdomen & (mixture > 0.1)] = Tissue.VISCERA
    organ[abdomen & (mixture > 1.35) & (ahead > 30)] = Tissue.BOWEL_GAS
    organ[abdomen & (mixture < -1.9) & (z < -20)] = Tissue.FLUID
    psoas = ((side - 36) / 20) ** 2 + ((ahead + 20) / 24) ** 2 < 1
    organ[abdomen & psoas & (belly > 0.5)] = Tissue.MUSCLE
    chest = ~abdomen & (neck < 0.5)
    middle = side < 26 + 6 * coarse + np.clip(ahead - 25, 0, 40) * 0.8
    organ[chest & ~middle] = Tissue.LUNG
    organ[chest & middle & (mixture > 0.4)] = Tissue.MUSCLE
    heart = chest & (ahead > 28) & (z < profile.landmarks_mm["c7"] - 110) & middle
    organ[heart] = np.where(mixture[heart] > -0.3, Tissue.MUSCLE, Tissue.VESSEL)
    throat = neck >= 0.5
    organ[throat & (mixture > -0.7)] = Tissue.MUSCLE
    gullet = (np.abs(x) < 9) & (np.abs(ahead - 9) < 4)
    organ[(throat | chest) & gullet] = Tissue.MUSCLE
    airway_depth = np.where(chest, 7.0, 5.5 + 1.6 * coarse)
    airway = (x / (9.0 + fine)) ** 2 + ((ahead - 20 - 2 * coarse) / np.maximum(airway_depth, 1.5)) ** 2 < 1
    organ[airway & (z > profile.landmarks_mm["c7"] - 85) & (neck + chest > 0.5)] = Tissue.BOWEL_GAS
    organ[(np.abs(ahead - 1.5) < 2) & (side < 20) & (mixture < 0.8) & ~throat] = Tissue.FAT
    organ[(ahead < 0) & (side < 45) & (side > 26) & (belly > 0.5)] = Tissue.MUSCLE
    return organ


def _paint_vessels(
    tissue: Labels, front: Mask, place: tuple[Array, Array, Array], profile: AxialProfile
) -> None:
    x, ahead, z = place
    c7, diaphragm = profile.landmarks_mm["c7"], profile.landmarks_mm["diaphragm"]
    split = profile.landmarks_mm["bifurcation"]
    # The aorta lies left of the midline (negative x), the vena cava right.
    left = np.interp(z, (split, diaphragm, c7 - 90), (-6, -10, -20))
    gap = np.interp(z, (split, diaphragm, c7 - 90), (11, 10, 4))
    aorta = ((x - left) / 9.5) ** 2 + ((ahead - gap) / 9.5) ** 2 < 1
    tissue[front & aorta & (z > split) & (z < c7 - 80)] = Tissue.VESSEL
    cava = ((x - 17) / 10) ** 2 + ((ahead - 10) / 7.5) ** 2 < 1
    tissue[front & cava & (z > split - 8) & (z < diaphragm + 20)] = Tissue.VESSEL
    spread = np.clip(split - z, 0, 120) * 0.32
    for sign in (-1.0, 1.0):
        iliac = ((x - sign * (6 + spread)) / 7) ** 2 + ((ahead - 10) / 7) ** 2 < 1
        tissue[front & iliac & (z <= split) & (z > split - 110)] = Tissue.VESSEL
        carotid = ((x - sign * 24) / 4) ** 2 + ((ahead - 6) / 4) ** 2 < 1
        tissue[front & carotid & (z > c7)] = Tissue.VESSEL


def _paint_head(
    tissue: Labels, inside: Mask, points: Coordinates, profile: AxialProfile, fine: Array
) -> None:
    base = profile.landmarks_mm["skull_base"]
    x, y, z = points
    if float(z.max()) < base - 12:
        return
    rows = profile.index_of(z)
    u, v, up = y - profile.canal_y_mm[rows], x - profile.canal_x_mm[rows], z - base
    vault = (v / 62) ** 2 + ((u + 20) / 72) ** 2 + ((up - 62) / 66) ** 2
    shell = 6.0 * (1 + 0.15 * fine)
    scalp = (np.sqrt(vault) < 1 + (shell + 7) / 66) & (up > 0) & (tissue == Tissue.AIR)
    tissue[scalp] = Tissue.FAT
    inside = inside | scalp | ((vault < 1.3) & (up > 0))
    opening = (v / 15) ** 2 + (u / 17) ** 2 < 1
    tissue[inside & (np.sqrt(vault) < 1 + shell / 66) & (up > -6)] = Tissue.CORTICAL_BONE
    tissue[
        inside & (np.sqrt(vault) < 1 + (shell - 1.2) / 66) & (np.sqrt(vault) > 1 + 1.2 / 66) & (up > -5)
    ] = Tissue.SKULL_MARROW
    clivus = (np.abs(v) < 11) & (np.abs(u - 10 - 0.75 * up) < 6) & (up > -1) & (up < 48)
    tissue[inside & clivus] = Tissue.SKULL_MARROW
    hollow = ((vault < 1) & (u < 5 + 0.75 * up)) | (opening & (up > -1) & (up < 12))
    tissue[inside & hollow & (up > -2)] = Tissue.FLUID
    stem_radius = np.interp(up, (-5, 12, 22, 42, 60), (5.5, 7.5, 13, 14, 20))
    stem = (v / (1.25 * stem_radius)) ** 2 + ((u - 0.25 * up) / stem_radius) ** 2 < 1
    little_brain = (v / 50) ** 2 + ((u + 36) / 28) ** 2 + ((up - 36) / 27) ** 2 < 1 + 0.06 * fine
    great_brain = (vault < 0.92) & (up > 62 + 4 * fine)
    tissue[inside & (up > -2) & (stem | little_brain | great_brain)] = Tissue.BRAIN
