from __future__ import annotations

import base64
import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from spinemets.reporting import viewer
from spinemets.reporting.document import report_document
from spinemets.reporting.viewer import encode_nifti, reduction, viewer_data
from spinemets.volume import Grid


def decoded(text):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def centre_mm(image, value):
    indices = np.argwhere(np.asarray(image.dataobj) == value)
    return (indices @ image.affine[:3, :3].T + image.affine[:3, 3]).mean(axis=0)


def test_the_viewer_gets_every_series_and_both_maps_on_the_reference_grid(report):
    data = viewer_data(report, report_document(report))
    assert [image["name"] for image in data["images"]] == ["series 3 (T2 TSE sag)", "series 4 (T1 TSE sag)"]
    for text in (data["images"][0]["nifti"], data["vertebrae"], data["lesions"]):
        image = decoded(text)
        assert image.shape == report.segmentation.grid.shape
        np.testing.assert_allclose(image.affine, report.segmentation.grid.affine, atol=1e-4)
        assert image.get_data_dtype() == np.uint8
    assert data["reduced"] is False


def test_the_maps_in_the_viewer_are_those_of_the_report(report):
    data = viewer_data(report, report_document(report))
    np.testing.assert_array_equal(
        np.asarray(decoded(data["vertebrae"]).dataobj), report.segmentation.vertebrae
    )
    lesions = np.asarray(decoded(data["lesions"]).dataobj)
    for finding in report.findings:
        np.testing.assert_array_equal(lesions == finding.lesion.number, finding.lesion.mask())


def test_a_thinned_map_keeps_its_place(report, monkeypatch):
    monkeypatch.setattr(viewer, "LARGEST_VOXEL_COUNT", 60_000)
    data = viewer_data(report, report_document(report))
    assert data["reduced"] is True
    lesions = decoded(data["lesions"])
    assert np.prod(lesions.shape) <= 60_000 / len(data["images"])
    for finding in report.findings:
        gap = centre_mm(lesions, finding.lesion.number) - finding.lesion.centroid_mm
        assert np.linalg.norm(gap) < 2.5


def test_a_thinned_image_stays_under_its_map(report, monkeypatch):
    monkeypatch.setattr(viewer, "LARGEST_VOXEL_COUNT", 60_000)
    data = viewer_data(report, report_document(report))
    image, lesions = decoded(data["images"][1]["nifti"]), decoded(data["lesions"])
    values, marked = np.asarray(image.dataobj), np.asarray(lesions.dataobj) == 2
    vertebra = (np.asarray(decoded(data["vertebrae"]).dataobj) == 4) & ~marked
    assert np.median(values[marked]) < np.median(values[vertebra]) - 60


@pytest.mark.parametrize("shape", [(1, 3000, 3000), (5, 400, 400), (200, 512, 512)])
def test_the_reduction_is_enough_and_spares_the_coarse_axis(shape):
    grid = Grid(shape, np.diag([4.0, 0.5, 0.5, 1.0]))
    factors = reduction(grid, 3)
    assert 3 * np.prod(np.ceil(np.array(shape) / factors)) <= viewer.LARGEST_VOXEL_COUNT
    assert factors[0] == 1


def test_the_same_image_makes_the_same_bytes():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert encode_nifti(array, np.eye(4)) == encode_nifti(array, np.eye(4))


def test_names_lie_in_front_of_the_bodies_and_jumps_end_inside_the_lesions(report):
    data = viewer_data(report, report_document(report))
    for level in data["levels"]:
        assert level["front"][1] == pytest.approx(15 + 3, abs=2)
        assert level["front"][2] == pytest.approx(level["centre"][2])
    for entry, finding in zip(data["findings"], report.findings, strict=True):
        index = tuple(np.rint(report.segmentation.grid.to_index(entry["centre"])).astype(int))
        assert finding.lesion.mask()[index]


def test_uncertain_levels_are_marked_and_all_is_json(report):
    data = viewer_data(report, report_document(report))
    assert [level["name"] for level in data["levels"]][-2:] == ["L5?", "sacrum"]
    assert json.loads(json.dumps(data)) == data
