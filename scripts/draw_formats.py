"""Draw what readers of others make of a result in every format, for docs/interoperability.md.

    spinemets detect data_samples/dicom -o OUT --formats json,nifti,pdf,bids,fhir,\
dicom-seg,dicom-sr,dicom-pdf,dicom-sc,dicom-rtstruct
    python scripts/draw_formats.py OUT/<study> data_samples/dicom/2_T2_TSE_sag docs/images

Needs the extra ``dev`` and, of Debian, dcmtk and poppler-utils.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
COLOURS = ((236, 160, 30), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
LARGEST_BYTES = 60_000
HEIGHT = 430
SHOWN_PAGES = 3
SHOWN_LESIONS = 2
SHOWN_KEY_IMAGES = 4


def main() -> None:
    """Draw every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("result", type=Path, help="a study's folder in OUT")
    parser.add_argument("source", type=Path, help="folder of its reference series, as DICOM")
    parser.add_argument("images", type=Path, help="folder for the pictures")
    arguments = parser.parse_args()
    result, source, images = arguments.result, arguments.source, arguments.images
    for needed in (result, source, images):
        if not needed.is_dir():
            parser.error(f"{needed}: no such folder")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save(images / "format-nifti.webp", nifti_picture(result, source))
        save(images / "format-bids.webp", bids_picture(result))
        save(images / "format-fhir.webp", fhir_picture(result))
        save(images / "format-pdf.webp", pages(result / "report.pdf", work / "pdf"))
        save(images / "format-dicom-seg.webp", segmentation_picture(result, source, work))
        save(images / "format-dicom-sr.webp", structured_report_picture(result, work))
        save(images / "format-dicom-pdf.webp", encapsulated_picture(result, work))
        save(images / "format-dicom-sc.webp", capture_picture(result))
        save(images / "format-dicom-rtstruct.webp", contour_picture(result, source, work))


def save(path: Path, picture: Image.Image) -> None:
    """As WebP, as good as fits."""
    for quality in range(90, 20, -10):
        picture.save(path, quality=quality, method=6)
        if path.stat().st_size <= LARGEST_BYTES:
            return
    raise SystemExit(f"{path.name} takes {path.stat().st_size} bytes")


def tool(name: str, *arguments: object) -> str:
    """What a program prints; it may lie beside this Python."""
    beside = Path(sys.executable).with_name(name)
    program = str(beside) if beside.is_file() else shutil.which(name)
    if program is None:
        raise SystemExit(f"{name} is not installed")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)
    told = done.stdout.decode(errors="replace")
    if done.returncode:
        raise SystemExit(f"{name} failed: {told}{done.stderr.decode(errors='replace')}")
    return told


def source_image(source: Path) -> SimpleITK.Image:
    """The reference series as SimpleITK reads it."""
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(source))
    return SimpleITK.Cast(SimpleITK.ReadImage(names), SimpleITK.sitkFloat32)


def on_source(mask: SimpleITK.Image, source: SimpleITK.Image) -> npt.NDArray[np.bool_]:
    """A mask on the source's grid; shape (slices, rows, columns)."""
    placed = SimpleITK.Resample(mask, source, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    return np.asarray(SimpleITK.GetArrayFromImage(placed) > 0)


def outlined(source: SimpleITK.Image, masks: Sequence[npt.NDArray[np.bool_]], title: str) -> Image.Image:
    """The slices that hold most of the first and of the last mask, with every mask coloured."""
    voxels = SimpleITK.GetArrayFromImage(source)
    grey = np.clip(voxels / np.percentile(voxels, 99.5), 0, 1) * 255
    places = [int(mask.sum(axis=(1, 2)).argmax()) for mask in (masks[0], masks[-1])]
    panels = [_coloured(grey[place], [mask[place] for mask in masks]) for place in places]
    scale = HEIGHT / grey.shape[1]
    size = (round(grey.shape[2] * scale), HEIGHT)
    picture = Image.new("RGB", (2 * size[0] + 6, HEIGHT + 24), "white")
    ImageDraw.Draw(picture).text((2, 4), title, fill="black", font=_font(13))
    for number, panel in enumerate(panels):
        picture.paste(Image.fromarray(panel).resize(size), (number * (size[0] + 6), 24))
    return picture


def _coloured(grey: npt.NDArray[np.float64], masks: Sequence[npt.NDArray[np.bool_]]) -> Pixels:
    picture = np.repeat(grey[..., None], 3, axis=2)
    for number, mask in enumerate(masks):
        picture[mask] = 0.5 * picture[mask] + 0.5 * np.array(COLOURS[number % len(COLOURS)])
    return picture.astype(np.uint8)


def _font(size: int, name: str = "DejaVuSans.ttf") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(name, size)


def text_picture(lines: Sequence[str], width: int = 760) -> Image.Image:
    """Lines of a program's output, broken where they are long."""
    lines = [part for line in lines for part in textwrap.wrap(line, 92, subsequent_indent="    ") or [""]]
    picture = Image.new("RGB", (width, 17 * len(lines) + 16), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((8, 8 + 17 * number), line, fill="black", font=_font(13, "DejaVuSansMono.ttf"))
    return picture


def nifti_picture(result: Path, source: Path) -> Image.Image:
    """The levels, read by SimpleITK over the series, read by it from the DICOM files."""
    labels = SimpleITK.ReadImage(str(result / "levels.nii.gz"))
    values = np.unique(SimpleITK.GetArrayFromImage(labels))[1:]
    scan = source_image(source)
    masks = [on_source(labels == int(value), scan) for value in values]
    return outlined(scan, masks, "levels.nii.gz over the source series (SimpleITK)")


def bids_picture(result: Path) -> Image.Image:
    """The files of the dataset, and the validator's last words."""
    root = result / "bids"
    told = json.loads(_validator(root))["issues"]["issues"]
    kinds = {kind: sum(issue.get("severity") == kind for issue in told) for kind in ("error", "warning")}
    image = nibabel.load(next(root.rglob("*desc-levels_dseg.nii.gz")))
    return text_picture(
        [
            *(str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()),
            "",
            f"nibabel: desc-levels is {image.shape}, {image.get_data_dtype()}",
            f"bids-validator: {kinds['error']} errors, {kinds['warning']} warnings",
        ]
    )


def _validator(root: Path) -> str:
    program = str(Path(sys.executable).with_name("bids-validator-deno"))
    return subprocess.run([program, "--json", root], capture_output=True, text=True, check=False).stdout


def fhir_picture(result: Path) -> Image.Image:
    """The bundle's first resources as fhir.resources reads them."""
    from fhir.resources.R4B.bundle import Bundle

    bundle = Bundle.model_validate_json((result / "report.fhir.json").read_text())
    lines = []
    resources: list[Any] = [entry.resource for entry in bundle.entry or []]
    # The report and the study come before the lesions.
    for resource in resources[: 2 + SHOWN_LESIONS]:
        lines.append(type(resource).__name__)
        for component in getattr(resource, "component", None) or []:
            quantity = component.valueQuantity
            concept = component.valueCodeableConcept
            value = f"{quantity.value} {quantity.unit}" if quantity else concept and concept.text
            plain = (component.valueString, component.valueInteger, component.valueBoolean)
            value = value or next(one for one in plain if one is not None)
            lines.append(f"    {component.code.text}: {value}")
        if getattr(resource, "bodySite", None):
            coding = resource.bodySite.coding[0]
            lines.append(f"    body site: {coding.display} ({coding.system} {coding.code})")
        if getattr(resource, "conclusion", None):
            lines.append(f"    {resource.conclusion}")
    return text_picture(lines)


def pages(pdf: Path, folder: Path) -> Image.Image:
    """The first pages of a PDF side by side, by poppler."""
    folder.mkdir()
    tool("pdftoppm", "-r", 45, "-l", SHOWN_PAGES, "-png", pdf, folder / "page")
    drawn = [Image.open(path).convert("RGB") for path in sorted(folder.glob("page*.png"))]
    picture = Image.new("RGB", (sum(page.width + 6 for page in drawn) - 6, drawn[0].height), "#888888")
    for number, page in enumerate(drawn):
        picture.paste(page, (number * (drawn[0].width + 6), 0))
    return picture


def segmentation_picture(result: Path, source: Path, work: Path) -> Image.Image:
    """Levels and lesions as dcmqi reads them."""
    scan = source_image(source)
    masks = []
    for name in ("levels", "lesions"):
        (work / name).mkdir()
        tool(
            "segimage2itkimage", "--inputDICOM", result / f"dicom/{name}.seg.dcm",
            "--outputDirectory", work / name, "--outputType", "nifti", "--prefix", "segment",
        )  # fmt: skip
        files = sorted((work / name).glob("*.nii.gz"), key=lambda path: (len(path.name), path.name))
        masks += [on_source(SimpleITK.ReadImage(str(path)), scan) for path in files]
    return outlined(scan, masks, "levels.seg.dcm and lesions.seg.dcm over the source (dcmqi)")


def structured_report_picture(result: Path, work: Path) -> Image.Image:
    """The measurements of the first lesions as dcmqi reads them."""
    tool(
        "tid1500reader", "--inputDICOM", result / "dicom/findings.sr.dcm",
        "--outputMetadata", work / "sr.json",
    )  # fmt: skip
    told = json.loads((work / "sr.json").read_text())
    lines = [f"CompletionFlag {told['CompletionFlag']}, VerificationFlag {told['VerificationFlag']}"]
    for group in told["Measurements"][:SHOWN_LESIONS]:
        lines += ["", f"{group['TrackingIdentifier']}: {group['Finding']['CodeMeaning']}"]
        lines.append(f"    finding site: {group['FindingSite']['CodeMeaning']}")
        lines.append(f"    referenced segment: {group['ReferencedSegment']}")
        for item in group["measurementItems"]:
            unit = item["units"]["CodeValue"]
            lines.append(f"    {item['quantity']['CodeMeaning']}: {item['value']} {unit}")
        for item in group.get("qualitativeEvaluations", []):
            value = item["conceptValue"]
            told_value = value["CodeMeaning"] if isinstance(value, dict) else value
            lines.append(f"    {item['conceptCode']['CodeMeaning']}: {told_value}")
    return text_picture(lines, 520)


def encapsulated_picture(result: Path, work: Path) -> Image.Image:
    """The PDF that DCMTK takes out of the object."""
    tool("dcm2pdf", result / "dicom/report.pdf.dcm", work / "taken-out.pdf")
    return pages(work / "taken-out.pdf", work / "taken-out")


def capture_picture(result: Path) -> Image.Image:
    """The first key images side by side, as SimpleITK reads them."""
    paths = sorted((result / "dicom").glob("key-image-*.sc.dcm"))[:SHOWN_KEY_IMAGES]
    read = [SimpleITK.ReadImage(str(path)) for path in paths]
    drawn = [Image.fromarray(SimpleITK.GetArrayFromImage(image)[0]) for image in read]
    picture = Image.new("RGB", (sum(one.width + 6 for one in drawn), max(one.height for one in drawn)))
    left = 0
    for one in drawn:
        picture.paste(one, (left, 0))
        left += one.width + 6
    return picture


def contour_picture(result: Path, source: Path, work: Path) -> Image.Image:
    """The contours as plastimatch fills them."""
    tool(
        "plastimatch", "convert", "--input", result / "dicom/contours.rtstruct.dcm",
        "--referenced-ct", source, "--output-prefix", work / "filled", "--prefix-format", "nii.gz",
    )  # fmt: skip
    scan = source_image(source)
    files = sorted((work / "filled").glob("*.nii.gz"), key=lambda path: "lesion" in path.name)
    masks = [on_source(SimpleITK.ReadImage(str(path)), scan) for path in reversed(files)]
    return outlined(scan, masks[::-1], "contours.rtstruct.dcm filled (plastimatch)")


if __name__ == "__main__":
    main()
