"""Single rules of de-identification; that nothing at all gets through is tested in tests/deidentification."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import timedelta

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    JPEGLSLossless,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from dicom_files import noise, write_classic, write_enhanced
from spinemets.errors import ConfigError
from spinemets.io import discover
from spinemets.io.deidentification import Deidentifier, Pseudonyms, deidentified_copy, load_secret
from spinemets.io.deidentification.burned_in import burned_in_reason
from spinemets.io.deidentification.dates import shift_dates
from spinemets.io.deidentification.listing import _WEIGHTING_WORDS
from spinemets.io.dicom_headers import lenient_headers
from spinemets.io.weighting import weighting_from_name
from spinemets.volume import Plane, Weighting

NAMES = Pseudonyms(b"another secret of more than thirty-two bytes")


def copied(folder, target, **changes):
    (listing,) = discover(folder)
    return deidentified_copy(listing, target, Deidentifier(NAMES), **changes)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "no acquired MR image"),
        ({"BurnedInAnnotation": "YES"}, "its header says"),
        ({"ConversionType": "WSD"}, "converted picture"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "SCREEN SAVE"),
        ({"SamplesPerPixel": 3}, "colour"),
    ],
)
def test_image_that_may_show_text_is_refused(tags, words):
    dataset = Dataset()
    dataset.SOPClassUID = MRImageStorage
    assert burned_in_reason(dataset) == ""
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    assert words in burned_in_reason(dataset)


def test_overlay_within_the_pixels_is_refused():
    dataset = Dataset()
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.add_new(0x60000100, "US", 16)
    assert "overlay" in burned_in_reason(dataset)


def test_series_with_text_in_its_pixels_is_left_out_of_the_study(tmp_path):
    write_classic(tmp_path / "in/a", noise(), tags={"SeriesDescription": "T2 sag"})
    write_classic(
        tmp_path / "in/b",
        noise(),
        tags={"SeriesDescription": "T1 sag", "EchoTime": 10, "BurnedInAnnotation": "YES"},
    )
    copy = copied(tmp_path / "in", tmp_path / "out")
    assert [entry.series.description for entry in copy.series if entry.kept] == ["T2 sagittal"]
    assert [entry.reason for entry in copy.series if not entry.kept] == [
        "its header says that text is burned into its pixels"
    ]


def test_series_with_one_image_that_may_show_text_leaves_nothing_behind(tmp_path):
    write_classic(tmp_path / "in/a", noise(), tags={"SeriesDescription": "T2 sag"})
    write_classic(
        tmp_path / "in/b",
        noise(),
        tags=lambda index: {
            "SeriesDescription": "T1 sag",
            "EchoTime": 10,
            "SeriesInstanceUID": "1.2.3.77",
            "BurnedInAnnotation": "YES" if index == 4 else "NO",
        },
    )
    copy = copied(tmp_path / "in", tmp_path / "out", everything=True)
    (kept,) = [entry for entry in copy.series if entry.series.files]
    assert kept.series.description == "T2 sagittal"
    found = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == set(kept.series.files)
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_dates_and_times_move_together_and_keep_their_precision():
    dataset = Dataset()
    dataset.StudyDate, dataset.StudyTime = "20240301", "0130"
    dataset.AcquisitionDateTime = "20240301013005.25+0100"
    dataset.SeriesDate, dataset.ContentTime = "20240302", "0100"
    with lenient_headers():
        dataset.AcquisitionDate = "March"
    shift_dates(dataset, -timedelta(days=1, hours=2))
    assert (dataset.StudyDate, dataset.StudyTime) == ("20240228", "2330")
    assert dataset.AcquisitionDateTime == "20240228233005.25+0100"
    assert (dataset.SeriesDate, dataset.ContentTime) == ("20240301", "2300")
    assert dataset.AcquisitionDate == ""


def test_shift_and_names_are_the_patients_own():
    assert NAMES.shift("anna") == NAMES.shift("anna") != NAMES.shift("bert")
    assert timedelta(days=-3652) < NAMES.shift("anna") <= timedelta(days=-1)
    assert NAMES.patient("anna") != Pseudonyms(b"x" * 32).patient("anna")
    assert "secret" not in repr(NAMES)


def test_text_in_the_place_of_a_number_is_removed(tmp_path):
    malformed = {
        "AcquisitionNumber": b"Kowalczyk ",
        "MagneticFieldStrength": b"Bronka",
        "FlipAngle": b"90\\Bronka",
    }
    for path in write_classic(tmp_path / "in/a", noise(), tags={"SeriesDescription": "T2 sag"}):
        dataset = pydicom.dcmread(path)
        for keyword, value in malformed.items():
            tag = pydicom.tag.Tag(keyword)
            vr = pydicom.datadict.dictionary_VR(tag)
            # As careless software writes them; pydicom would not take them as values.
            dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        dataset.PercentSampling, dataset.EchoTrainLength = "80.5", None
        dataset.save_as(path)
    copied(tmp_path / "in", tmp_path / "out")
    paths = list((tmp_path / "out").rglob("*.dcm"))
    assert paths
    for path in paths:
        assert not re.search(b"Kowalczyk|Bronka", path.read_bytes())
        written = pydicom.dcmread(path)
        assert not set(malformed) & set(written.dir())
        assert (written.PercentSampling, written.EchoTrainLength) == (80.5, None)


@pytest.mark.parametrize("weighting", list(Weighting))
def test_new_description_is_read_as_the_weighting_it_stands_for(weighting):
    for plane in Plane:
        words = f"{_WEIGHTING_WORDS.get(weighting, weighting.value)} {plane.value}"
        assert weighting_from_name(words) is weighting


def test_copy_is_read_as_its_source_was(tmp_path):
    for folder, description in (
        ("a", "T2 TSE sag"),
        ("b", "Localizer"),
        ("c", "T2 sag MIP"),
        ("d", "ep2d_diff"),
    ):
        write_classic(tmp_path / "in" / folder, noise(), tags={"SeriesDescription": f"{description} of Mary"})
    (before,) = discover(tmp_path / "in")
    copied(tmp_path / "in", tmp_path / "out", everything=True)
    (after,) = discover(tmp_path / "out")
    described = [
        sorted(
            (entry.kept, str(entry.rejection), entry.series.weighting.value, entry.shape)
            for entry in one.series
        )
        for one in (before, after)
    ]
    assert described[0] == described[1]
    assert not any("Mary" in entry.series.description for entry in after.series)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"SeriesDescription": "T1 TSE SPIR sag", "EchoTime": 10, "RepetitionTime": 600}, "T1 FS native"),
        ({"SeriesDescription": "T1 FS sag pre", "EchoTime": 10, "RepetitionTime": 600}, "T1 FS native"),
        (
            {"SeriesDescription": "sag", "ProtocolName": "T1 FS", "EchoTime": 10, "RepetitionTime": 600},
            "T1 FS native",
        ),
        (
            {
                "SeriesDescription": "mFFE sag",
                "ScanningSequence": "GR",
                "EchoTime": 7,
                "RepetitionTime": 40,
                "FlipAngle": 25,
            },
            "T2star",
        ),
        (
            {
                "SeriesDescription": "SAG MERGE",
                "ScanningSequence": "GR",
                "EchoTime": 6,
                "RepetitionTime": 45,
                "FlipAngle": 20,
            },
            "T2star",
        ),
        ({"SeriesDescription": "sag", "EchoTime": None, "RepetitionTime": None}, ""),
    ],
)
def test_copy_of_a_series_of_unknown_weighting_is_unknown_too(tmp_path, tags, words):
    write_classic(tmp_path / "in", noise(), tags=tags)
    copy = copied(tmp_path / "in", tmp_path / "out")
    assert [entry.series.description for entry in copy.series] == [f"{words} sagittal".strip()]
    for folder in ("in", "out"):
        (listing,) = discover(tmp_path / folder)
        assert [(entry.kept, entry.series.weighting) for entry in listing.series] == [
            (True, Weighting.UNKNOWN)
        ], folder


def test_copies_of_dixon_images_of_a_t1_and_of_a_t2_are_no_duplicates(tmp_path):
    for words in ("T1 mDIXON sag", "T2 mDIXON sag"):
        kind = {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"], "EchoTime": None}
        write_classic(tmp_path / "in" / words, noise(), tags={"SeriesDescription": words, **kind})
    copied(tmp_path / "in", tmp_path / "out")
    (listing,) = discover(tmp_path / "out")
    assert [entry.kept for entry in listing.series] == [True, True]
    assert {entry.series.weighting for entry in listing.series} == {Weighting.DIXON_WATER}


T1_GROUPS = {
    "MREchoSequence": {"EffectiveEchoTime": 10.0},
    "MRTimingAndRelatedParametersSequence": {"RepetitionTime": 600.0},
}


def agent_code():
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-B0322", "SRT", "Gadolinium"
    return [code]


@pytest.mark.parametrize(
    ("description", "agent", "written", "weighting"),
    [
        ("T1 TSE sag", {"ContrastBolusAgent": ""}, "", Weighting.T1),
        ("T1 TSE sag", {"ContrastBolusAgent": "NO"}, "", Weighting.T1),
        ("T1 TSE sag", {"ContrastBolusAgent": "Dotarem"}, "ANONYMIZED", Weighting.T1_GD),
        ("T1 TSE sag ohne KM", {"ContrastBolusAgent": "Dotarem"}, "ANONYMIZED", Weighting.T1),
        ("T1 TSE sag", {"ContrastBolusAgentSequence": agent_code()}, None, Weighting.T1_GD),
        ("T1 TSE sag ohne KM", {"ContrastBolusAgentSequence": agent_code()}, None, Weighting.T1),
    ],
)
def test_copy_of_an_enhanced_t1_says_no_more_of_contrast_agent_than_its_source(
    tmp_path, description, agent, written, weighting
):
    write_enhanced(
        tmp_path / "in/multi.dcm",
        noise(),
        frame_groups=lambda _: T1_GROUPS,
        tags={"SeriesDescription": description, **agent},
    )
    copied(tmp_path / "in", tmp_path / "out")
    for folder in ("in", "out"):
        (listing,) = discover(tmp_path / folder)
        assert [entry.series.weighting for entry in listing.series] == [weighting], folder
    (path,) = (tmp_path / "out").rglob("*.dcm")
    assert pydicom.dcmread(path).get("ContrastBolusAgent") == written


def test_compressed_pixels_are_decoded_and_stay_as_they_are(tmp_path):
    voxels = noise()
    write_classic(tmp_path / "in", voxels, syntax=JPEGLSLossless)
    copied(tmp_path / "in", tmp_path / "out")
    images = sorted(
        map(pydicom.dcmread, (tmp_path / "out").rglob("*.dcm")), key=lambda image: image.InstanceNumber
    )
    assert np.array_equal([image.pixel_array for image in images], voxels)


@pytest.mark.parametrize(("bits", "vr"), [(8, "OB"), (8, "OW"), (16, "OW"), (32, "OW")])
def test_big_endian_pixels_stay_as_they_are(tmp_path, bits, vr):
    words = vr == "OW"
    for path in write_classic(tmp_path / "in", noise((8, 23, 21)), tags={"SeriesDescription": "T2 sag"}):
        dataset = pydicom.dcmread(path)
        pixels = (dataset.pixel_array % 251).astype(f">u{bits // 8}").tobytes()
        pixels += b"\0" * (len(pixels) % 2)
        if bits == 8 and words:
            pixels = np.frombuffer(pixels, ">u2").astype("<u2").tobytes()
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset.add_new("PixelData", vr, pixels)
        swapped = Dataset({element.tag: element for element in dataset})
        swapped.file_meta = dataset.file_meta
        swapped.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        pydicom.dcmwrite(path, swapped, implicit_vr=False, little_endian=False, enforce_file_format=True)
    copy = copied(tmp_path / "in", tmp_path / "out")
    sources = {int(one.InstanceNumber): one for one in map(pydicom.dcmread, (tmp_path / "in").iterdir())}
    written = [pydicom.dcmread(path) for path in copy.series[0].series.files]
    assert len(written) == len(sources) == 8
    for one in written:
        assert np.array_equal(one.pixel_array, sources[int(one.InstanceNumber)].pixel_array)


def test_enhanced_image_stays_conformant(tmp_path):
    write_enhanced(
        tmp_path / "in/multi.dcm",
        noise(),
        frame_groups=lambda index: {
            "FrameContentSequence": {"FrameAcquisitionDateTime": f"2024010203040{index}"}
        },
        tags={"ContentDate": "20240102", "ContentTime": "030405", "AcquisitionDateTime": "20240102030405"},
    )
    copied(tmp_path / "in", tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.dcm")
    image = pydicom.dcmread(path)
    assert image.ContentDate == "19000101"
    contents = [frame.FrameContentSequence[0] for frame in image.PerFrameFunctionalGroupsSequence]
    assert {content.FrameAcquisitionDateTime for content in contents} == {"19000101000000"}
    (stack,) = {content.StackID for content in contents}
    assert stack != "1"
    dciodvfy = shutil.which("dciodvfy")
    if dciodvfy is None:
        pytest.skip("tool missing: dciodvfy")
    errors = []
    for file in (tmp_path / "in/multi.dcm", path):
        done = subprocess.run([dciodvfy, file], capture_output=True, text=True, check=False)
        errors.append({line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")})
    assert errors[1] <= errors[0], "none that the source does not have"


def test_image_files_of_one_study_stay_together(tmp_path):
    for name in ("T1", "T2", "acq-fs_T1", "T2star"):
        image = nibabel.Nifti1Image(noise((8, 24, 20)).astype(np.int16), np.diag([4.0, 1, 1, 1]))
        image.set_qform(image.affine, code=1)
        (tmp_path / "in").mkdir(exist_ok=True)
        nibabel.save(image, tmp_path / f"in/sub-01_{name}w.nii.gz")
    copied(tmp_path / "in", tmp_path / "out")
    (listing,) = discover(tmp_path / "out")
    weightings = sorted(entry.series.weighting.value for entry in listing.series)
    assert weightings == ["T1", "T2", "unknown", "unknown"]


@pytest.mark.parametrize("fault", ["changed", "gone"])
def test_image_file_that_cannot_be_copied_costs_only_itself(tmp_path, fault):
    for name in ("T1", "T2"):
        image = nibabel.Nifti1Image(noise((8, 24, 20)).astype(np.int16), np.diag([4.0, 1, 1, 1]))
        nibabel.save(image, tmp_path / f"case_{name}.nii.gz")
    (listing,) = discover(tmp_path)
    damaged = tmp_path / "case_T2.nii.gz"
    content = bytearray(damaged.read_bytes())
    # The checksum, which ends the file with its length.
    content[-8] ^= 1
    damaged.write_bytes(content)
    if fault == "gone":
        damaged.unlink()
    copy = deidentified_copy(listing, tmp_path / "out", Deidentifier(NAMES))
    kept = {entry.series.weighting: entry.reason for entry in copy.series}
    assert kept == {Weighting.T1: "", Weighting.T2: "its file is damaged"}


def test_key_that_others_may_read_is_refused(tmp_path):
    key = tmp_path / "key"
    key.write_text("k" * 64)
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_secret(key)


def test_key_that_is_short_or_lies_among_the_results_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SPINEMETS_DEID_KEY", "short")
    with pytest.raises(ConfigError, match="at least 32"):
        load_secret()
    with pytest.raises(ConfigError, match="among the results"):
        load_secret(tmp_path / "out/key", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
