"""The last stage: findings, levels and every caution gathered into one report value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spinemets.channels import condition_vector
from spinemets.findings import LesionFinding, Provenance, StudyReport, Vertebra
from spinemets.reporting.extent import extent_cautions
from spinemets.reporting.places import lesion_places
from spinemets.segmented import SpineSegmentation
from spinemets.spinal_axis import fit_spinal_axis
from spinemets.volume import Study, Weighting

__all__ = ["NO_LESION", "build_report"]

NO_LESION = "No lesion was found. That is not proof that there is none."
NO_VERTEBRA = "No vertebra was recognised, so no finding has a level; check that this is a spine MRI."
UNTOLD = "{}: {}, so the networks were told no weighting; what they find there is less sure."
T2_ALONE = (
    "T2 without fat suppression is all that was read. Disease of the marrow may look like marrow there: "
    "more is missed than with T1 or STIR."
)
DUPLICATED = "The level {} was given to more than one vertebra; check the numbering of the whole column."


def build_report(
    study: Study,
    segmentation: SpineSegmentation,
    vertebrae: Iterable[Vertebra],
    findings: Iterable[LesionFinding],
    provenance: Provenance,
    cautions: Iterable[str] = (),
) -> StudyReport:
    """Gather what the stages found, with every caution that a reader must see, each once.

    Vertebrae and findings keep the order they come in: head to foot. ``cautions`` are those
    that no value carries yet, such as an uncertain numbering; they come first.
    """
    vertebrae, findings = tuple(vertebrae), tuple(findings)
    axis = fit_spinal_axis(segmentation.anatomy, segmentation.grid)
    extent = extent_cautions(segmentation, vertebrae, axis)
    gathered = (*cautions, *_cautions(study, segmentation, vertebrae), *extent)
    if not findings:
        gathered = (*gathered, NO_LESION)
    places = lesion_places(findings, segmentation, study.reference.series, axis)
    return StudyReport(
        study, segmentation, vertebrae, findings, tuple(dict.fromkeys(gathered)), provenance, places
    )


def _cautions(
    study: Study, segmentation: SpineSegmentation, vertebrae: tuple[Vertebra, ...]
) -> Iterator[str]:
    yield from study.cautions
    for volume in study.volumes:
        for caution in volume.series.cautions:
            yield f"{volume.series.name}: {caution}"
        if not condition_vector(volume.series.weighting).any():
            yield UNTOLD.format(volume.series.name, _untold(volume.series.weighting))
    if all(volume.series.weighting is Weighting.T2 for volume in study.volumes):
        yield T2_ALONE
    yield from segmentation.cautions
    if not vertebrae:
        yield NO_VERTEBRA
    names = [vertebra.level for vertebra in vertebrae]
    for level in dict.fromkeys(names):
        if names.count(level) > 1:
            yield DUPLICATED.format(level.value)


def _untold(weighting: Weighting) -> str:
    """Why the networks' condition cannot say what a series is weighted by."""
    if weighting is Weighting.UNKNOWN:
        return "its weighting was not recognised"
    return f"the networks know no {weighting.value} weighting"
