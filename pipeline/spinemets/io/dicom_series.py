"""DICOM instances to series: duplicates dropped, mixed stacks parted, each kept or rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spinemets.config import ReadingConfig
from spinemets.errors import GeometryError
from spinemets.io.dicom_geometry import SliceHeader, SliceStack, build_stack
from spinemets.io.dicom_headers import InstanceHeader
from spinemets.io.dicom_stacks import contrast_of, split_slices
from spinemets.io.exclusions import exclusion
from spinemets.io.listing import Rejection, SeriesListing
from spinemets.io.selection import head_foot_extent
from spinemets.io.weighting import underlying_contrast, weighting_from_header
from spinemets.volume import Series

__all__ = ["list_dicom_series", "missing_reason"]

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SPECTROSCOPY = "1.2.840.10008.5.1.4.1.1.4.2"


def list_dicom_series(instances: Sequence[InstanceHeader], config: ReadingConfig) -> list[SeriesListing]:
    """List the volumes that the instances of one series UID make up; mostly one.

    Parameters
    ----------
    instances
        All of one study and series UID, in any order.
    """
    with_images = [instance for instance in instances if instance.slices]
    # Magnitude and phase, or water, fat and their ratio, may share one series: each is judged.
    usable: list[InstanceHeader] = []
    refused: dict[tuple[Rejection, str], list[InstanceHeader]] = {}
    for instance in with_images or instances:
        verdict = _exclusion(instance)
        (usable if verdict is None else refused.setdefault(verdict, [])).append(instance)
    listings = []
    for verdict, excluded in refused.items():
        count = sum(len(instance.slices) for instance in excluded)
        listings.append(SeriesListing(_series(excluded[0], excluded), slices=count).rejected(*verdict))
    slices, cautions = _without_duplicates([header for instance in usable for header in instance.slices])
    without_pixels = len(instances) - len(with_images)
    if usable and without_pixels:
        cautions += (f"{without_pixels} of the series' files hold no image and were passed over",)
    acquisitions = {instance.path: instance for instance in usable}
    for words, stack in split_slices(slices) if slices else ():
        own = acquisitions[stack[0].path]
        series = _series(own, usable)
        description = f"{series.description} [{words}]" if words else series.description
        part = replace(series, description=description, cautions=cautions)
        listings.append(_list_stack(part, stack, own, config))
    return listings


def _series(instance: InstanceHeader, instances: Sequence[InstanceHeader]) -> Series:
    """What one of some instances says of their series."""
    return Series(
        study_uid=instance.study_uid,
        series_uid=instance.series_uid,
        description=instance.description,
        number=instance.series_number,
        weighting=weighting_from_header(instance.acquisition),
        frame_of_reference_uid=instance.frame_of_reference_uid,
        modality=instance.modality or "MR",
        source=instance.path if len(instances) == 1 else instance.path.parent,
        files=tuple(sorted({instance.path for instance in instances})),
    )


def _exclusion(instance: InstanceHeader) -> tuple[Rejection, str] | None:
    """Why no image of this file can be used.

    Frames of several kinds in one file are judged when they have been parted.
    """
    acquisition = instance.acquisition
    if len({header.image_type for header in instance.slices}) > 1:
        acquisition = replace(acquisition, image_type=())
    if instance.sop_class.startswith(_SECONDARY_CAPTURE):
        return (
            Rejection.DERIVED,
            "a secondary capture (screenshot or scanned document), not an acquired image",
        )
    if instance.modality not in ("MR", ""):
        return Rejection.MODALITY, f"modality {instance.modality}; only MR is analysed"
    if instance.sop_class == _SPECTROSCOPY:
        return Rejection.NOT_AN_IMAGE, "MR spectroscopy, not an image"
    if not instance.slices:
        return Rejection.NOT_AN_IMAGE, "no pixels in its files"
    if instance.samples > 1:
        return Rejection.UNSUPPORTED, "a colour image; grey values are needed"
    return exclusion(acquisition)


def _without_duplicates(slices: Sequence[SliceHeader]) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Each image once; equal identifiers at different positions, or of another echo, are different images."""
    seen: dict[object, SliceHeader] = {}
    uids: dict[tuple[str, int | None], int] = {}
    for header in slices:
        identity = (header.sop_uid or header.path, header.frame, header.position_mm, *contrast_of(header))
        if identity not in seen:
            seen[identity] = header
            uids[header.sop_uid, header.frame] = uids.get((header.sop_uid, header.frame), 0) + 1
    cautions = []
    dropped = len(slices) - len(seen)
    if dropped:
        cautions.append(f"{dropped} duplicate image{'s' if dropped > 1 else ''} dropped")
    if any(count > 1 for (uid, _), count in uids.items() if uid):
        cautions.append("different images share one SOPInstanceUID; they were told apart by their headers")
    return list(seen.values()), tuple(cautions)


def _list_stack(
    series: Series, slices: Sequence[SliceHeader], instance: InstanceHeader, config: ReadingConfig
) -> SeriesListing:
    header = slices[0]
    acquisition = replace(
        instance.acquisition,
        image_type=header.image_type or instance.acquisition.image_type,
        echo_time_ms=header.echo_time_ms or instance.acquisition.echo_time_ms,
        inversion_time_ms=header.inversion_time_ms or instance.acquisition.inversion_time_ms,
    )
    series = replace(series, weighting=weighting_from_header(acquisition))
    listing = SeriesListing(
        series,
        (header.rows, header.columns),
        header.pixel_spacing_mm or (),
        len(slices),
        contrast=underlying_contrast(acquisition),
    )
    verdict = exclusion(acquisition)
    if verdict:
        return listing.rejected(*verdict)
    if len(slices) < config.minimum_slices:
        return listing.rejected(Rejection.TOO_FEW_SLICES, too_few_reason(len(slices), config))
    try:
        stack = build_stack(slices)
    except GeometryError as error:
        return listing.rejected(Rejection.GEOMETRY, str(error))
    listing = replace(
        listing,
        series=_with_stack(series, stack),
        shape=stack.grid.shape,
        spacing_mm=stack.grid.spacing_mm,
        extent_mm=head_foot_extent(stack.grid),
        stack=stack,
    )
    if stack.missing and not config.allow_missing:
        return listing.rejected(Rejection.MISSING_SLICES, missing_reason(stack))
    return listing


def _with_stack(series: Series, stack: SliceStack) -> Series:
    headers = [header for header in stack.slices if header is not None]
    files = tuple(dict.fromkeys(header.path for header in headers))
    frames = tuple(header.frame for header in headers if header.frame is not None)
    cautions = series.cautions + stack.cautions
    return replace(series, plane=stack.grid.plane, files=files, frames=frames, cautions=cautions)


def missing_reason(stack: SliceStack) -> str:
    """The refusal of a stack with holes, naming them."""
    return f"{stack.gaps}; pass --allow-missing to interpolate {'it' if len(stack.missing) == 1 else 'them'}"


def too_few_reason(count: int, config: ReadingConfig) -> str:
    """The refusal of a thin stack."""
    return f"{count} slice{'s' if count != 1 else ''}; at least {config.minimum_slices} are needed"
