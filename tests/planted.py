"""A study full of identifiers that nobody else has, and a search that finds them in whatever was written."""

from __future__ import annotations

import base64
import binascii
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset

from dicom_files import write_classic
from phantoms import add_lesion, draw_phantom
from spinemets.anatomy import Structure
from spinemets.detection import Models
from spinemets.segmented import SpineSegmentation
from standins import TruthSegmenter, models_for

KEY = "a secret that only this test knows: 4f1d"
FOLDER = "BRONISLAWA_KOWALCZYK_1943"
ROOT = "1.2.826.0.1.3680043.8.498.77"
STUDY_UID, SERIES_UID, FRAME_UID = f"{ROOT}.1111", f"{ROOT}.2222", f"{ROOT}.3333"
TEXTS = {
    "PatientName": "Kowalczyk^Bronisława",
    "PatientID": "PAT-ID-5501987",
    "OtherPatientIDs": "OTHERID-660217",
    "OtherPatientNames": "Wisniewska^Bronka",
    "IssuerOfPatientID": "ISSUER-QUARTZ",
    "PatientBirthName": "Zawadzka^Ludmila",
    "PatientMotherBirthName": "Nowakowska^Jadwiga",
    "PatientAddress": "Ulica Glogowa 17",
    "PatientTelephoneNumbers": "+48555019283",
    "PatientComments": "neighbour of Mrs Zielinska",
    "EthnicGroup": "ETHNIC-UMBER",
    "Occupation": "Lamp lighter",
    "MilitaryRank": "Wachtmistrz",
    "PatientReligiousPreference": "RELIGION-TEAL",
    "AdditionalPatientHistory": "fell at Malbork castle",
    "ResponsiblePerson": "Lewandowska^Teodora",
    "PatientAge": "076Y",
    "PatientWeight": "73.51906",
    "SoftwareVersions": "built for Kowalczyk",
    "AccessionNumber": "ACC-8812734",
    "StudyID": "STUDYID-4471",
    "AdmissionID": "ADMISSION-93",
    "RequestedProcedureID": "REQPROC-2718",
    "PerformedProcedureStepID": "PPS-16180",
    "PlacerOrderNumberImagingServiceRequest": "PLACER-31415",
    "FillerOrderNumberImagingServiceRequest": "FILLER-27182",
    "ReferringPhysicianName": "Szymanski^Wlodzimierz",
    "PerformingPhysicianName": "Dabrowski^Kazimierz",
    "NameOfPhysiciansReadingStudy": "Kaminski^Zdzislaw",
    "OperatorsName": "Jankowska^Halina",
    "RequestingPhysician": "Mazurkiewicz^Ireneusz",
    "PhysiciansOfRecord": "Krawczyk^Miroslawa",
    "InstitutionName": "Szpital Bursztynowy",
    "InstitutionAddress": "Aleja Jantarowa 3",
    "InstitutionalDepartmentName": "Oddzial Kregoslupa",
    "StudyDescription": "spine of a ballet dancer",
    "SeriesDescription": "T2 TSE sag VIP-guest",
    "ProtocolName": "protocol-of-Piotrowski",
    "ImageComments": "moved while coughing",
    "RequestedProcedureDescription": "rule out after Grunwald accident",
    "PerformedProcedureStepDescription": "PPSDESC-HELIOTROPE",
    "AcquisitionComments": "ACQ-COMMENT-OCHRE",
    "ReasonForStudy": "REASON-VERMILION",
    "DerivationDescription": "DERIVED-BY-WOJCIK",
    "ContrastBolusAgent": "agent given by Grabowska",
    "PositionReferenceIndicator": "POSREF-MAGENTA",
    "WindowCenterWidthExplanation": "as Pawlowska likes it",
    "BodyPartExamined": "BACK OF KOWALCZYK",
}
DATES = {
    "PatientBirthDate": "19430517",
    "StudyDate": "20190823",
    "SeriesDate": "20190824",
    "AcquisitionDate": "20190825",
    "ContentDate": "20190826",
    "InstanceCreationDate": "20190827",
    "PerformedProcedureStepStartDate": "20190828",
    "StudyTime": "134527.648",
    "SeriesTime": "134838.125",
    "AcquisitionTime": "141319.25",
    "AcquisitionDateTime": "20190829153041",
}
DEVICE = {
    "DeviceSerialNumber": "SERIAL-70707",
    "StationName": "STATION-AUBERG",
    "GantryID": "GANTRY-PUCE",
    "PerformedStationName": "PERFSTATION-FAWN",
    "PerformedStationAETitle": "AET-CELADON",
    "DeviceUID": f"{ROOT}.4444",
}
HIDDEN = (
    "PRIVATE-CREATOR-Q7", "private-text-Wrobel", "private-nested-Stepien", "csa-bytes-Sikora",
    "nested-history-Baran", "nested-nested-Duda", "LOCAL-CODE-MEANING-Zajac", "PUBLIC-CODE-MEANING-Gorski",
    "removed-before-Pawlak",
    "unknown-standard-Kubiak", "90210771", "80214477", "overlay-comment-Kalinowski", "curve-data-Mroz",
    "padding-Lis", "preamble-Witkowska", "SRC-AE-SCARLET", "meta-private-Urban", f"{ROOT}.5555",
    f"{ROOT}.6666",
    f"{ROOT}.8888",
    STUDY_UID, SERIES_UID, FRAME_UID, f"{ROOT}.7.1", "KOWAL_IM",
    "NIFTI-DESCRIP-Olszewska", "nifti-extension-Stachowiak", "MANIFEST-Zygmunt", "ward-Jagiello",
    "Broken-Kowalczyk-file",
)  # fmt: skip


def identifiers(*, device_is_kept: bool = False) -> dict[str, tuple[str, ...]]:
    """Every planted identifier by itself, with the ways it may be written."""
    found: dict[str, tuple[str, ...]] = {}
    for value in (*TEXTS.values(), *(() if device_is_kept else DEVICE.values()), *HIDDEN):
        parts = [part for part in re.split(r"\^", value) if len(part) > 4]
        for part in (value, *parts):
            found[part] = (part,)
    for value in DATES.values():
        found[value] = (value, *_written(value))
    return found


def _written(text: str) -> Iterator[str]:
    if re.fullmatch(r"\d{8}.*", text) and text[:2] in ("19", "20"):
        year, month, day = text[:4], text[4:6], text[6:8]
        for separator in "-./_ ":
            yield separator.join((year, month, day))
            yield separator.join((day, month, year))
    elif re.fullmatch(r"\d{6}.*", text):
        yield f"{text[:2]}:{text[2:4]}:{text[4:6]}"


@lru_cache
def planted_truth() -> SpineSegmentation:
    """T11 to the sacrum with a lesion, in the order of axes that sagittal DICOM images have."""
    phantom = draw_phantom(
        highest="T11", network_evidence=True, axis_order=(0, 2, 1), flips=(False, True, True)
    )
    bone = phantom.point("L2", phantom.body_front_mm("L2"))
    truth = add_lesion(phantom.segmentation, bone, (9.0, 8.0, 8.0))
    return replace(truth, vertebrae=truth.vertebrae.astype(np.uint8))


def truth_models(*_: object) -> Models:
    """Models that know the truth; to be loaded in any process."""
    return models_for(TruthSegmenter(planted_truth()))


def write_planted_study(parent: Path, truth: SpineSegmentation) -> Path:
    """DICOM files with every identifier of this module but those of the NIfTI file and the manifest."""
    grey = np.full(len(Structure), 150, dtype=np.uint16)
    grey[Structure.VERTEBRAL_BODY], grey[Structure.THECAL_SAC], grey[Structure.CORD] = 400, 800, 300
    voxels = grey[truth.anatomy] + np.random.default_rng(3).integers(0, 20, truth.anatomy.shape, np.uint16)
    folder = parent / FOLDER
    paths = write_classic(folder, voxels, truth.grid.affine, tags={"PatientName": "x"})
    for number, path in enumerate(sorted(paths), start=1):
        dataset = pydicom.dcmread(path)
        _plant(dataset, number)
        path.unlink()
        target = folder / f"KOWAL_IM{number:03d}.dcm"
        dataset.preamble = b"preamble-Witkowska".ljust(128, b"\0")
        dataset.save_as(target, enforce_file_format=True)
    return folder


def _plant(dataset: Dataset, number: int) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in {**TEXTS, **DATES, **DEVICE}.items():
        if pydicom.datadict.dictionary_VR(keyword) == "CS":
            # Too long for a code string, as careless software writes them.
            with pydicom.config.disable_value_validation():
                setattr(dataset, keyword, value)
        else:
            setattr(dataset, keyword, value)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY_UID, SERIES_UID
    dataset.FrameOfReferenceUID = FRAME_UID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.7.{number}"
    dataset.Manufacturer, dataset.PatientSex, dataset.Laterality = "Scanner Maker", "F", ""
    dataset.PatientPosition, dataset.SequenceVariant, dataset.ScanOptions = "HFS", "SK", ""
    dataset.MRAcquisitionType, dataset.EchoTrainLength = "2D", 17
    block = dataset.private_block(0x0029, "PRIVATE-CREATOR-Q7", create=True)
    block.add_new(0x10, "LO", "private-text-Wrobel")
    block.add_new(0x11, "OB", b"\0\1csa-bytes-Sikora\0")
    inner = Dataset()
    inner.PatientComments = "private-nested-Stepien"
    block.add_new(0x12, "SQ", [inner])
    _plant_sequences(dataset)
    dataset.add_new(0x00102ABD, "LO", "unknown-standard-Kubiak")
    dataset.add_new(0x00102ABC, "IS", "90210771")
    # A code string by the standard.
    dataset.add_new(0x00102298, "IS", "80214477")
    dataset.add_new(0x60004000, "LT", "overlay-comment-Kalinowski")
    dataset.add_new(0x50003000, "OW", b"curve-data-Mroz ")
    dataset.add_new(0xFFFCFFFC, "OB", b"padding-Lis ")
    dataset.PixelData = dataset.PixelData + b"padding-Lis "
    dataset.file_meta.SourceApplicationEntityTitle = "SRC-AE-SCARLET"
    dataset.file_meta.PrivateInformationCreatorUID = f"{ROOT}.5555"
    dataset.file_meta.PrivateInformation = b"meta-private-Urban"


def _plant_sequences(dataset: Dataset) -> None:
    middle, outer, code = Dataset(), Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "121320", "DCM"
    code.CodeMeaning = "PUBLIC-CODE-MEANING-Gorski"
    code.TextComments = "nested-nested-Duda"
    middle.ReferencedSOPClassUID, middle.ReferencedSOPInstanceUID = dataset.SOPClassUID, f"{ROOT}.6666"
    middle.ReferencedFrameOfReferenceUID = f"{ROOT}.8888"
    middle.SeriesDescription = "nested-history-Baran"
    middle.PurposeOfReferenceCodeSequence = [code]
    dataset.SourceImageSequence = [middle]
    outer.CodeValue, outer.CodingSchemeDesignator = "L-7", "99LOCAL"
    outer.CodeMeaning = "LOCAL-CODE-MEANING-Zajac"
    dataset.AnatomicRegionSequence = [outer]
    before = Dataset()
    before.PatientName = "removed-before-Pawlak"
    original = Dataset()
    original.ModifiedAttributesSequence = [before]
    dataset.OriginalAttributesSequence = [original]


def write_planted_archive(path: Path, study: Path) -> Path:
    """The planted study as a .zip, whose name and folder are the patient's too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(study.rglob("*.dcm")):
            archive.write(file, f"Kowalczyk_Bronka/{file.name}")
    return path


def write_planted_image(path: Path, truth: SpineSegmentation) -> Path:
    """A NIfTI image whose name, header and extension tell of the patient."""
    image = nibabel.Nifti1Image(
        np.random.default_rng(1).normal(300, 80, truth.grid.shape).astype(np.int16), truth.grid.affine
    )
    image.header["descrip"] = b"NIFTI-DESCRIP-Olszewska"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"nifti-extension-Stachowiak"))
    image.set_qform(truth.grid.affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def leaks(roots: Iterable[Path], wanted: dict[str, tuple[str, ...]], *texts: str) -> dict[str, set[str]]:
    """The identifiers found in names and contents of files, and in further texts, with where.

    Packed content is unpacked: gzip and zlib streams (so PDF, PNG and deflated DICOM), archives,
    Parquet tables and base64. Text is sought in UTF-8 and both orders of UTF-16, in any case of letters.
    """
    needles = {form.casefold().encode(): name for name, forms in wanted.items() for form in forms}
    pattern = re.compile(b"|".join(map(re.escape, sorted(needles, key=len, reverse=True))))
    # Where a whole name is found, so are its parts.
    within = {long: {needles[short] for short in needles if short in long} for long in needles}
    found: dict[str, set[str]] = {}
    places = [(path.relative_to(root).as_posix(), path) for root in roots for path in root.rglob("*")]
    contents = [("names", "\n".join(name for name, _ in places).encode())]
    contents += [(f"text {rank}", text.encode()) for rank, text in enumerate(texts)]
    contents += [(name, path.read_bytes()) for name, path in places if path.is_file()]
    for name, content in contents:
        for layer in unpacked(content):
            for match in pattern.finditer(_text_of(layer)):
                for identifier in within[match.group()]:
                    found.setdefault(identifier, set()).add(name)
    return found


def _text_of(content: bytes) -> bytes:
    """Everything in some bytes that may be text, in small letters; UTF-16 as if it were ASCII.

    Base64 is unpacked instead: in a megabyte of it, four letters such as an age come up by chance.
    """
    plain = re.sub(rb"[A-Za-z0-9+/]{256,}", b" ", content.replace(b"\0", b""))
    runs = re.findall(rb"[\x20-\x7e\xc5\x82]{4,}", plain)
    return b"\n".join(run for run in runs if len(run) < 4096 or b" " in run).lower()


def unpacked(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes themselves, and whatever is packed within them."""
    yield content
    if depth == 4:
        return
    if content[:4] == b"PAR1":
        import pyarrow.parquet

        yield str(pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict()).encode()
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield member.encode()
                yield from unpacked(archive.read(member), depth + 1)
    for match in re.finditer(rb"\x1f\x8b\x08|x[\x01\x5e\x9c\xda]", content):
        inner = _inflated(memoryview(content)[match.start() :], 47)
        if len(inner) > 8:
            yield from unpacked(inner, depth + 1)
    if content[128:132] == b"DICM" and b"1.2.840.10008.1.2.1.99" in content[:400]:
        meta = pydicom.filereader.read_file_meta_info(io.BytesIO(content))
        yield from unpacked(_inflated(content[144 + meta.FileMetaInformationGroupLength :], -15), depth + 1)
    for match in re.finditer(rb"[A-Za-z0-9+/]{64,}={0,2}", content):
        try:
            yield from unpacked(base64.b64decode(match.group()), depth + 1)
        except binascii.Error:
            continue


def _inflated(content: bytes | memoryview, window: int) -> bytes:
    try:
        return zlib.decompressobj(window).decompress(content)
    except zlib.error:
        return b""
