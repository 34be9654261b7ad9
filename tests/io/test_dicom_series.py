"""What one DICOM series is: echoes, Dixon images, repetitions and stray files are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_files import plane_tags
from inputs import only_volume, read
from spinemets.config import ReadingConfig
from spinemets.errors import GeometryError
from spinemets.io import Rejection, discover, read_study
from spinemets.volume import Weighting


def test_enhanced_echoes_become_two_series(tmp_path, dicom):
    voxels = np.concatenate([dicom.noise((6, 8, 8), 1), dicom.noise((6, 8, 8), 2)])
    order = tuple(range(6)) * 2
    path = dicom.enhanced(
        tmp_path / "enhanced.dcm",
        voxels,
        order=order,
        tags={"SeriesDescription": "dual echo"},
        frame_groups=lambda k: {"MREchoSequence": {"EffectiveEchoTime": 15.0 if k < 6 else 95.0}},
    )
    study = read(path)
    assert {volume.series.weighting for volume in study.volumes} == {Weighting.T2, Weighting.PD}
    assert [volume.series.description for volume in study.volumes] == [
        "dual echo [TE 95 ms]",
        "dual echo [TE 15 ms]",
    ]


def test_enhanced_phase_images_are_told_from_the_magnitude_beside_them(tmp_path, dicom):
    magnitude, phase = dicom.noise((6, 8, 8), 1), dicom.noise((6, 8, 8), 2)

    def groups(index: int) -> dict[str, dict[str, object]]:
        component = "MAGNITUDE" if index < 6 else "PHASE"
        kind = {"FrameType": ["ORIGINAL", "PRIMARY", "T2", "NONE"], "ComplexImageComponent": component}
        place = plane_tags(dicom.sagittal, index % 6)["ImagePositionPatient"]
        return {"MRImageFrameTypeSequence": kind, "PlanePositionSequence": {"ImagePositionPatient": place}}

    dicom.enhanced(tmp_path / "enhanced.dcm", np.concatenate([magnitude, phase]), frame_groups=groups)
    (listing,) = discover(tmp_path)
    assert [entry.rejection for entry in listing.series] == [None, Rejection.DERIVED]
    np.testing.assert_array_equal(only_volume(tmp_path).intensities, magnitude)


def test_enhanced_file_of_diffusion_images_and_their_map_says_which_are_computed(tmp_path, dicom):
    def groups(index: int) -> dict[str, dict[str, object]]:
        types = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
        place = plane_tags(dicom.sagittal, index % 6)["ImagePositionPatient"]
        kind = {"FrameType": types[index // 6]}
        return {"MRImageFrameTypeSequence": kind, "PlanePositionSequence": {"ImagePositionPatient": place}}

    path = dicom.enhanced(
        tmp_path / "enhanced.dcm",
        dicom.noise((12, 8, 8)),
        frame_groups=groups,
        tags={"SeriesDescription": "sag isotropic"},
    )
    (listing,) = discover(path)
    assert [entry.rejection for entry in listing.series] == [Rejection.CONTRAST, Rejection.DERIVED]
    assert listing.series[0].reason.startswith("contrast: diffusion-weighted")


def test_classic_phase_image_that_says_so_by_its_component_alone_is_none_to_read(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"ComplexImageComponent": "PHASE"})
    (listing,) = discover(tmp_path)
    assert listing.series[0].reason.startswith("a phase image")


def test_image_of_a_colour_palette_is_refused(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"PhotometricInterpretation": "PALETTE COLOR"})
    (listing,) = discover(tmp_path)
    assert listing.series[0].reason == "a colour image; grey values are needed"


def test_dixon_images_in_one_series_are_parted_by_image_type(tmp_path, dicom):
    voxels = dicom.noise((6, 8, 8))
    for letter in "WF":
        dicom.classic(
            tmp_path / letter,
            voxels,
            tags={"ImageType": ["DERIVED", "PRIMARY", "DIXON", letter], "SeriesInstanceUID": "1.2.3.4"},
        )
    study = read(tmp_path)
    assert [v.series.weighting for v in study.volumes] == [Weighting.DIXON_WATER, Weighting.DIXON_FAT]


@pytest.mark.parametrize("order", [("W", "F", "FF"), ("FF", "F", "W")])
def test_what_can_be_used_of_a_mixed_series_is_used_whichever_file_comes_first(tmp_path, dicom, order):
    for place, letters in enumerate(order):
        dicom.classic(
            tmp_path / str(place),
            dicom.noise((6, 8, 8)),
            tags={"ImageType": ["DERIVED", "PRIMARY", "DIXON", letters], "SeriesInstanceUID": "1.2.3.4"},
        )
    (listing,) = discover(tmp_path)
    assert sorted((entry.series.weighting.value, entry.kept) for entry in listing.series)[:2] == [
        ("Dixon-fat", True),
        ("Dixon-water", True),
    ]
    (refused,) = (entry for entry in listing.series if not entry.kept)
    assert (refused.slices, refused.reason) == (6, "a fat-fraction map, computed from another series")
    weightings = [volume.series.weighting for volume in read(tmp_path).volumes]
    assert weightings == [Weighting.DIXON_WATER, Weighting.DIXON_FAT]


@pytest.mark.parametrize("uid", [None, "1.2.3.4"], ids=["no series UID", "one for all"])
def test_two_sequences_that_no_uid_tells_apart_are_read_as_two(tmp_path, dicom, uid):
    t1, t2 = dicom.noise((6, 10, 10), 1), dicom.noise((6, 8, 8), 2)
    dicom.classic(tmp_path, t2, tags={"SeriesInstanceUID": uid})
    tags = {"SeriesDescription": "T1 TSE sag", "SeriesNumber": 6, "EchoTime": 10, "RepetitionTime": 500}
    for path in dicom.classic(tmp_path / "more", t1, tags={**tags, "SeriesInstanceUID": uid}):
        path.rename(tmp_path / f"t1_{path.name}")
    study = read(tmp_path)
    assert [volume.series.description for volume in study.volumes] == ["T2 TSE sag", "T1 TSE sag"]
    for volume, voxels in zip(study.volumes, (t2, t1), strict=True):
        np.testing.assert_array_equal(volume.intensities, voxels)


@pytest.mark.parametrize("keyword", ["TemporalPositionIdentifier", "AcquisitionNumber"])
def test_repeated_volumes_in_one_series_are_parted(tmp_path, dicom, keyword):
    for number in (1, 2):
        dicom.classic(
            tmp_path / str(number), dicom.noise(), tags={keyword: number, "SeriesInstanceUID": "1.2.3.4"}
        )
    (listing,) = discover(tmp_path)
    assert [entry.slices for entry in listing.series] == [8, 8]
    assert [entry.rejection for entry in listing.series] == [None, Rejection.DUPLICATE]
    assert listing.series[1].reason.endswith("is used: nothing tells which is better, so the first")


def test_two_images_at_one_position_that_nothing_tells_apart_are_refused(tmp_path, dicom):
    for copy in "ab":
        dicom.classic(tmp_path / copy, dicom.noise(), tags={"SeriesInstanceUID": "1.2.3.4"})
    (listing,) = discover(tmp_path)
    assert listing.series[0].rejection is Rejection.GEOMETRY
    with pytest.raises(
        GeometryError, match=r"series 5 \(T2 TSE sag\): 8 images lie at the position of another"
    ):
        read_study(listing, ReadingConfig())


def test_the_same_file_twice_is_read_once_with_a_caution(tmp_path, dicom):
    paths = dicom.classic(tmp_path / "a", dicom.noise())
    for path in paths[:2]:
        (tmp_path / f"copy-{path.name}").write_bytes(path.read_bytes())
    volume = only_volume(tmp_path)
    assert volume.grid.shape[0] == 8
    assert volume.series.cautions == ("2 duplicate images dropped",)


def test_equal_identifiers_of_two_echoes_do_not_mix_them(tmp_path, dicom):
    first, second = dicom.noise(), dicom.noise(seed=8)
    for number, (voxels, echo_time) in enumerate(((first, 100), (second, 20))):
        paths = dicom.classic(
            tmp_path / f"echo{number}",
            voxels,
            tags=lambda index, echo_time=echo_time: {
                "SeriesInstanceUID": "1.2.3.4",
                "SOPInstanceUID": f"1.2.3.4.{index + 1}",
                "EchoTime": echo_time,
            },
        )
        # The names of the second echo come first for every other slice.
        for index, path in enumerate(paths):
            path.rename(tmp_path / f"{index}{(index + number) % 2}.dcm")
    volumes = read(tmp_path).volumes
    assert [volume.series.weighting for volume in volumes] == [Weighting.T2, Weighting.PD]
    np.testing.assert_allclose(volumes[0].intensities, first)
    np.testing.assert_allclose(volumes[1].intensities, second)
    assert "share one SOPInstanceUID" in volumes[0].series.cautions[0]


def test_equal_identifiers_at_different_positions_are_different_images(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"SOPInstanceUID": "1.2.3.4.5"})
    volume = only_volume(tmp_path)
    assert volume.grid.shape[0] == 8
    assert "share one SOPInstanceUID" in volume.series.cautions[0]
