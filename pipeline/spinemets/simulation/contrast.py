"""The MR signal of a simulated body, from signal equations or at random.

Every tissue is water and fat in one voxel. Water relaxes with the tissue's own times, fat with
those of fat. Times are for 1.5 T to 3 T. Sources: CSF, cord, discs PMC7410772 (synthetic MRI of
32 spines); muscle Stanisz et al., Magn Reson Med 2005;54:507; fat Gold et al., AJR 2004;183:343;
abdominal organs de Bazelaire et al., Radiology 2004;230:652; fat share of marrow by age Blebea
et al., Skeletal Radiol 2007 and Baum et al., J Magn Reson Imaging 2018. Values of ligament,
cortex, flowing blood and lesions are effective ones, chosen to look right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import SpineRegion
from spinemets.simulation.implicit import Waves, draw_waves, smooth_waves, world_points
from spinemets.simulation.rasterisation import PhantomLabels
from spinemets.simulation.tissues import LEVEL_OF_CODE, Tissue
from spinemets.volume import Grid, Weighting

__all__ = [
    "Protocol",
    "TissueProperties",
    "draw_properties",
    "draw_protocol",
    "random_contrast",
    "signal",
]

Array = npt.NDArray[np.float32]
Table = npt.NDArray[np.float64]

_WATER = {  # tissue: T1 ms, T2 ms, proton density %, fat share, gadolinium mmol/L
    Tissue.AIR: (1000, 50, 0.3, 0.0, 0.0),
    Tissue.FAT: (900, 45, 96, 0.93, 0.02),
    Tissue.MUSCLE: (1100, 40, 78, 0.04, 0.12),
    Tissue.VISCERA: (850, 60, 80, 0.08, 0.3),
    Tissue.VESSEL: (1500, 60, 14, 0.0, 0.5),
    Tissue.LUNG: (1200, 30, 9, 0.0, 0.2),
    Tissue.BOWEL_GAS: (1000, 20, 2, 0.0, 0.0),
    Tissue.CORTICAL_BONE: (400, 12, 16, 0.3, 0.0),
    Tissue.BODY_CORTEX: (400, 15, 22, 0.3, 0.0),
    Tissue.BODY_MARROW: (950, 55, 80, 0.42, 0.06),
    Tissue.POSTERIOR_CORTEX: (400, 15, 22, 0.3, 0.0),
    Tissue.POSTERIOR_MARROW: (950, 52, 78, 0.48, 0.05),
    Tissue.NUCLEUS: (1165, 102, 79, 0.0, 0.01),
    Tissue.NUCLEUS_INTERMEDIATE: (850, 68, 62, 0.0, 0.01),
    Tissue.NUCLEUS_DESICCATED: (750, 50, 48, 0.0, 0.02),
    Tissue.ANNULUS: (750, 40, 46, 0.0, 0.02),
    Tissue.CSF: (4273, 1578, 107, 0.0, 0.0),
    Tissue.CORD: (800, 90, 64, 0.0, 0.0),
    Tissue.NERVE_ROOTS: (900, 110, 70, 0.0, 0.0),
    Tissue.EPIDURAL_FAT: (1000, 60, 92, 0.8, 0.1),
    Tissue.LIGAMENT: (700, 22, 42, 0.05, 0.03),
    Tissue.SACRUM_MARROW: (950, 54, 79, 0.48, 0.06),
    Tissue.SACRUM_CORTEX: (400, 15, 22, 0.3, 0.0),
    Tissue.RIB: (950, 50, 80, 0.45, 0.05),
    Tissue.BRAIN: (950, 90, 75, 0.0, 0.01),
    Tissue.SKULL_MARROW: (900, 50, 78, 0.6, 0.05),
    Tissue.FLUID: (3200, 700, 104, 0.0, 0.0),
    Tissue.BASIVERTEBRAL_VEIN: (1300, 140, 88, 0.15, 0.5),
    Tissue.MARROW_OEDEMA: (1250, 95, 92, 0.14, 0.3),
    Tissue.MARROW_FAT: (900, 55, 92, 0.82, 0.03),
    Tissue.HAEMANGIOMA: (1200, 150, 96, 0.6, 0.25),
    Tissue.FORAMINAL_ROOT: (1000, 70, 74, 0.1, 0.05),
    Tissue.BODY_LESION: (1350, 92, 76, 0.02, 0.35),
    Tissue.POSTERIOR_LESION: (1350, 92, 76, 0.02, 0.35),
    Tissue.SACRUM_LESION: (1350, 92, 76, 0.02, 0.35),
    Tissue.EPIDURAL_LESION: (1350, 92, 76, 0.02, 0.35),
    Tissue.SAC_LESION: (1050, 85, 80, 0.0, 0.5),
    Tissue.CORD_LESION: (1400, 130, 74, 0.0, 0.35),
}
_MARROW = (
    Tissue.BODY_MARROW,
    Tissue.POSTERIOR_MARROW,
    Tissue.SACRUM_MARROW,
    Tissue.MARROW_OEDEMA,
    Tissue.MARROW_FAT,
    Tissue.HAEMANGIOMA,
)
_RELAXIVITY = 4.3e-3  # per ms and mmol/L, of common agents at 1.5 T


@dataclass(frozen=True, slots=True, eq=False)
class TissueProperties:
    """What one person's tissues are made of; the same for every sequence of a study.

    Attributes
    ----------
    t1_ms, t2_ms, proton_density, fat_fraction, gadolinium_mmol_l
        Indexed by ``Tissue``.
    level_fat
        What is added to the marrow's fat share, indexed by level code.
    fat_t1_ms, fat_t2_ms
        Of fat; the latter is the long effective time in trains of echoes.
    texture
        Smooth functions of unit deviation, coarse and fine.
    marrow_unevenness
        Standard deviation of the marrow's fat share in one vertebra.
    csf_flow
        Share of the CSF's signal that pulsation can take away.
    """

    t1_ms: Table
    t2_ms: Table
    proton_density: Table
    fat_fraction: Table
    gadolinium_mmol_l: Table
    level_fat: Table
    fat_t1_ms: float
    fat_t2_ms: float
    texture: tuple[Waves, Waves]
    marrow_unevenness: float
    csf_flow: float


@dataclass(frozen=True, slots=True)
class Protocol:
    """Timing of a sequence.

    Attributes
    ----------
    inversion_ms
        0 without an inversion pulse.
    fat_left
        Share of the fat's signal that fat suppression leaves; 1 without suppression.
    water_left
        The same for water; 0 in a Dixon fat image.
    opposed
        Whether fat is subtracted from water.
    """

    weighting: Weighting
    repetition_ms: float
    echo_ms: float
    inversion_ms: float = 0.0
    fat_left: float = 1.0
    water_left: float = 1.0
    opposed: bool = False
    gadolinium: bool = False


def draw_properties(rng: np.random.Generator, age_years: float | None = None) -> TissueProperties:
    """Draw one person's tissues: means from the table, spread as between people and scanners."""
    age = float(rng.uniform(20, 85)) if age_years is None else age_years
    table = np.array([_WATER[tissue] for tissue in Tissue], dtype=float)
    # Lesions keep the table's values, so that a person with and without them draws alike.
    count = int(Tissue.BODY_LESION)
    field = rng.uniform(0.9, 1.2)  # T1 lengthens with field strength
    t1, t2, density, gadolinium = (table[:, column].copy() for column in (0, 1, 2, 4))
    t1[:count] *= np.exp(rng.normal(0, 0.08, count))
    t2[:count] *= np.exp(rng.normal(0, 0.09, count))
    density[:count] *= np.exp(rng.normal(0, 0.04, count))
    # Yellow marrow replaces red with age, by about 5 to 7 % of the volume in ten years.
    shift = 0.0045 * (age - 50) + rng.normal(0, 0.07)
    fat = table[:, 3].copy()
    fat[[Tissue.BODY_MARROW, Tissue.POSTERIOR_MARROW, Tissue.SACRUM_MARROW, Tissue.RIB]] += shift
    density[list(_MARROW)] *= rng.uniform(0.8, 1.08)
    density[Tissue.VESSEL] *= np.exp(rng.normal(0, 0.7))
    density[Tissue.LIGAMENT] *= rng.uniform(0.6, 1.2)
    trend = {SpineRegion.CERVICAL: -0.04, SpineRegion.THORACIC: -0.01, SpineRegion.LUMBAR: 0.03}
    level_fat = np.zeros(len(LEVEL_OF_CODE) + 1)
    for code, level in LEVEL_OF_CODE.items():
        level_fat[code] = trend.get(level.region, 0.04) + rng.normal(0, 0.02)
    gadolinium[:count] *= rng.uniform(0.6, 1.5, count)
    return TissueProperties(
        t1_ms=t1 * field,
        t2_ms=t2,
        proton_density=density,
        fat_fraction=np.clip(fat, 0.0, 0.97),
        gadolinium_mmol_l=gadolinium,
        level_fat=level_fat,
        fat_t1_ms=float(300 * field * np.exp(rng.normal(0, 0.05))),
        fat_t2_ms=float(rng.uniform(70, 150)),
        texture=(draw_waves(rng, (7.0, 25.0), 1.0, 12), draw_waves(rng, (2.5, 6.0), 1.0, 16)),
        marrow_unevenness=float(rng.uniform(0.02, 0.09)),
        csf_flow=float(rng.uniform(0.0, 0.4)),
    )


def draw_protocol(rng: np.random.Generator, weighting: Weighting, fat_t1_ms: float = 310.0) -> Protocol:
    """Draw the timing of a clinical sequence of a weighting; ``UNKNOWN`` may become any."""
    if weighting is Weighting.UNKNOWN:
        known = [w for w in Weighting if w is not Weighting.UNKNOWN]
        weighting = known[int(rng.integers(len(known)))]
    short = (float(rng.uniform(380, 750)), float(rng.uniform(7, 15)))
    long = (float(rng.uniform(2800, 5500)), float(rng.uniform(80, 125)))
    density = (float(rng.uniform(2200, 3800)), float(rng.uniform(15, 40)))
    suppressed = float(rng.uniform(0.01, 0.15))
    if weighting is Weighting.T1:
        return Protocol(weighting, *short)
    if weighting is Weighting.T2:
        return Protocol(weighting, *long)
    if weighting is Weighting.T2_FS:
        if rng.random() < 0.65:
            inversion = float(np.log(2) * fat_t1_ms * rng.uniform(0.93, 1.07))
            echo = float(rng.uniform(35, 85))
            return Protocol(weighting, long[0], echo, inversion_ms=inversion)
        return Protocol(weighting, long[0], long[1] * 0.8, fat_left=suppressed)
    if weighting in (Weighting.T1_GD, Weighting.T1_FS_GD):
        left = suppressed if weighting is Weighting.T1_FS_GD else 1.0
        return Protocol(weighting, *short, fat_left=left, gadolinium=True)
    if weighting in (Weighting.PD, Weighting.PD_FS):
        return Protocol(weighting, *density, fat_left=suppressed if weighting is Weighting.PD_FS else 1.0)
    timing = long if rng.random() < 0.6 else short
    if weighting is Weighting.DIXON_WATER:
        return Protocol(weighting, *timing, fat_left=0.4 * suppressed)
    if weighting is Weighting.DIXON_FAT:
        return Protocol(weighting, *timing, water_left=0.4 * suppressed)
    return Protocol(weighting, *timing, opposed=weighting is Weighting.DIXON_OUT_OF_PHASE)


def signal(
    labels: PhantomLabels,
    weighting: Weighting | Protocol,
    rng: np.random.Generator,
    properties: TissueProperties | None = None,
) -> Array:
    """Noise-free magnitude signal of a phantom, float32 of the labels' shape, air near 0.

    Parameters
    ----------
    weighting
        A weighting, whose timing is then drawn, or a protocol.
    properties
        Pass the same ones for every sequence of a study; drawn where None.

    Notes
    -----
    Spin echo: S = PD (1 - exp(-TR / T1)) exp(-TE / T2); with inversion
    S = PD |1 - 2 exp(-TI / T1) + exp(-TR / T1)| exp(-TE / T2).
    """
    properties = properties or draw_properties(rng)
    protocol = (
        weighting if isinstance(weighting, Protocol) else draw_protocol(rng, weighting, properties.fat_t1_ms)
    )
    points = world_points(labels.grid)
    coarse, fine = (smooth_waves(points, waves) for waves in properties.texture)
    tissue = labels.tissue
    fat = properties.fat_fraction.astype(np.float32)[tissue]
    marrow = np.isin(tissue, np.array(_MARROW, dtype=np.uint8))
    fat += marrow * (
        properties.level_fat.astype(np.float32)[labels.vertebra]
        + np.float32(properties.marrow_unevenness) * (0.75 * coarse + 0.65 * fine)
    )
    fat = np.clip(fat, 0.0, 1.0)
    water_signal, fat_signal = _signals_by_tissue(properties, protocol)
    water_part = (1 - fat) * water_signal.astype(np.float32)[tissue]
    fat_part = fat * fat_signal.astype(np.float32)[tissue]
    image = np.abs(water_part - fat_part) if protocol.opposed else np.abs(water_part) + np.abs(fat_part)
    image *= 1 + 0.025 * coarse + 0.02 * fine
    # Organs differ far more from place to place than muscle or marrow do.
    image *= np.exp(0.3 * coarse * (tissue == Tissue.VISCERA))
    if protocol.echo_ms > 60:
        # Pulsating CSF dephases in patches, most on strongly T2-weighted images.
        patches = np.clip(0.5 * coarse + 0.3, 0, 1)
        image *= 1 - np.float32(properties.csf_flow) * patches * (tissue == Tissue.CSF)
    return np.asarray(np.maximum(image, 0.0), dtype=np.float32)


def _signals_by_tissue(properties: TissueProperties, protocol: Protocol) -> tuple[Table, Table]:
    """Signal of pure water and of pure fat of every tissue, by the equations of ``signal``."""
    rate = 1 / properties.t1_ms
    if protocol.gadolinium:
        rate = rate + _RELAXIVITY * properties.gadolinium_mmol_l
    water = _spin_echo(1 / rate, properties.t2_ms, protocol) * properties.proton_density
    fat_t1 = np.full_like(properties.t1_ms, properties.fat_t1_ms)
    fat_t2 = np.full_like(fat_t1, properties.fat_t2_ms)
    fat = _spin_echo(fat_t1, fat_t2, protocol) * properties.proton_density
    return water * protocol.water_left, fat * protocol.fat_left


def _spin_echo(t1_ms: Table, t2_ms: Table, protocol: Protocol) -> Table:
    recovered = 1 - np.exp(-protocol.repetition_ms / t1_ms)
    if protocol.inversion_ms:
        recovered = recovered + 2 * (
            np.exp(-protocol.repetition_ms / t1_ms) - np.exp(-protocol.inversion_ms / t1_ms)
        )
    return np.asarray(np.abs(recovered) * np.exp(-protocol.echo_ms / t2_ms))


def random_contrast(labels: npt.NDArray[np.uint8], grid: Grid, rng: np.random.Generator) -> Array:
    """An image in which every label has a random mean and texture, whatever the labels mean.

    The means of neighbours are unrelated, as no real sequence's are: a network trained on it
    learns shapes rather than signals (after Billot et al., Med Image Anal 2023;86:102789).

    Returns
    -------
    Array
        float32 of the labels' shape, in about 0..1; label 0 is dark half of the time.
    """
    count = int(labels.max()) + 1
    means = rng.uniform(0.05, 1.0, count)
    if rng.random() < 0.5:
        means[0] = rng.uniform(0.0, 0.05)
    spreads = rng.uniform(0.005, 0.08, count)
    points = world_points(grid)
    texture = sum(
        share * smooth_waves(points, draw_waves(rng, limits, 1.0, 12))
        for share, limits in ((0.7, (6.0, 30.0)), (0.7, (2.5, 6.0)))
    )
    image = means.astype(np.float32)[labels] + spreads.astype(np.float32)[labels] * texture
    return np.asarray(np.maximum(image, 0.0), dtype=np.float32)
