"""The whole story of a detection: from a study to its report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

from spinemets.classification import classify
from spinemets.findings import Provenance, StudyReport
from spinemets.lesions import find_lesions
from spinemets.levels import label_levels, level_cautions
from spinemets.reporting import build_report

if TYPE_CHECKING:
    from spinemets.assembly import Segmenter
    from spinemets.bundles import Bundle
    from spinemets.config import DetectionConfig, SegmentationConfig
    from spinemets.segmented import SpineSegmentation
    from spinemets.volume import Study

__all__ = ["Models", "detect", "interpret", "load_models"]


@dataclass(frozen=True, slots=True)
class Models:
    """What is loaded once and used for every study.

    Attributes
    ----------
    provenance
        Which model it is and where it runs; ``detect`` adds the configuration and the timings.
    """

    segmenter: Segmenter
    provenance: Provenance


def load_models(bundle: Bundle, config: SegmentationConfig) -> Models:
    """Load a bundle's network onto the configured device.

    Raises
    ------
    ModelIncompatibleError
        The weights do not fit the network that the bundle describes.
    DeviceUnavailableError
        This machine does not have the device.
    """
    from spinemets.segmentation import load_segmenter

    segmenter = load_segmenter(bundle, config)
    return Models(segmenter, segmenter.provenance)


def detect(study: Study, models: Models, config: DetectionConfig) -> StudyReport:
    """Find, place and describe the lesions of one study.

    Raises
    ------
    ConfigError
        An anchor contradicts what is seen.
    OutOfMemoryError
        Neither the device nor the CPU has room for the study.
    """
    timings_s: dict[str, float] = {}
    with _timed(timings_s, "segmentation"):
        segmentation = models.segmenter.segment(study)
    return interpret(study, segmentation, replace(models.provenance, timings_s=timings_s), config)


def interpret(
    study: Study, segmentation: SpineSegmentation, provenance: Provenance, config: DetectionConfig
) -> StudyReport:
    """Name the levels and describe the lesions of a segmented study; needs no network.

    Parameters
    ----------
    provenance
        Of the segmentation; the configuration, further timings and how the networks really ran
        are added.

    Raises
    ------
    ConfigError
        An anchor contradicts what is seen.
    """
    timings_s = dict(provenance.timings_s)
    with _timed(timings_s, "levels"):
        vertebrae = label_levels(segmentation, config.levels)
    with _timed(timings_s, "lesions"):
        lesions = find_lesions(segmentation, config.lesions)
    with _timed(timings_s, "classification"):
        findings = tuple(
            classify(lesion, segmentation, vertebrae, config.classification) for lesion in lesions
        )
    if segmentation.execution is not None:
        provenance = replace(provenance, execution=segmentation.execution)
    provenance = replace(provenance, configuration=config.model_dump(mode="json"), timings_s=timings_s)
    cautions = level_cautions(vertebrae, config.levels)
    return build_report(study, segmentation, vertebrae, findings, provenance, cautions)


@contextmanager
def _timed(timings_s: dict[str, float], stage: str) -> Iterator[None]:
    """Record the wall time of a block."""
    start = perf_counter()
    yield
    timings_s[stage] = perf_counter() - start
