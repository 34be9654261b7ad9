"""Images whose pixels may show text, which no change of a header takes away."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

__all__ = ["burned_in_reason"]

_ACQUIRED = frozenset({MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage})
_TEXT_PICTURES = frozenset({
    "SCREEN SAVE", "SCREENSAVE", "SCREENSHOT", "CAPTURE", "SECONDARY CAPTURE", "SC", "REPORT", "CSA REPORT",
    "PROTOCOL", "EXAM PROTOCOL", "TEXT", "POSDISP", "FILMED", "PATIENT INFO", "DOSE", "SCANNED",
})  # fmt: skip


def burned_in_reason(dataset: Dataset) -> str:
    """Why an image may show text; empty for an acquired MR image that gives no sign of it.

    The signs are those of the header: the object's kind, Burned In Annotation, Conversion Type,
    the values of Image Type, colour, and overlays kept in the pixels' unused bits. Pixels are
    not looked at.
    """
    if dataset.get("SOPClassUID") not in _ACQUIRED:
        return "it is no acquired MR image, so text may be burned into its pixels"
    if str(dataset.get("BurnedInAnnotation") or "").upper() == "YES":
        return "its header says that text is burned into its pixels"
    if dataset.get("ConversionType"):
        return "it is a converted picture, so text may be burned into its pixels"
    kinds = dataset.get("ImageType") or []
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    found = next((kind for kind in map(str.upper, map(str, kinds)) if kind in _TEXT_PICTURES), None)
    if found is not None:
        return f"its image type is {found}, so text may be burned into its pixels"
    if int(dataset.get("SamplesPerPixel") or 1) > 1:
        return "it is in colour, so text may be burned into its pixels"
    for tag in list(dataset.keys()):
        if 0x6000 <= tag.group <= 0x60FF and tag.elem == 0x0100 and int(dataset[tag].value or 1) > 1:
            return "an overlay is kept within its pixels"
    return ""
