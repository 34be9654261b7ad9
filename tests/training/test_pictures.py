"""A validation picture shows the scan, its labels and what the network finds, with the head up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spinemets.anatomy import Structure
from spinemets.channels import CONDITIONS, Channel
from spinemets.intensity import LESION_INPUTS
from spinemets.network import NetworkDefinition, SpineUNet
from spinemets.training.pictures import validation_picture


@pytest.fixture(scope="module")
def scan(tiny):
    return tiny.spider()


def network(inputs, outputs):
    torch.manual_seed(0)
    return SpineUNet(NetworkDefinition(inputs, len(CONDITIONS), outputs, (4, 6, 8))).eval()


def test_three_panels_of_the_middle_slice_stand_side_by_side(scan):
    picture = validation_picture(network(1, len(Channel)), None, scan)
    rows, columns = scan.image.shape[2], scan.image.shape[1]
    assert picture.shape == (3, rows, 3 * columns)
    assert picture.dtype == np.uint8
    grey, truth = picture[:, :, :columns].astype(int), picture[:, :, columns : 2 * columns].astype(int)
    assert (np.ptp(grey, axis=0) == 0).all()
    assert (np.ptp(truth, axis=0) > 30).mean() > 0.05


def test_the_head_is_up_and_the_back_is_left(scan):
    picture = validation_picture(network(1, len(Channel)), None, scan).astype(int)
    columns = scan.image.shape[1]
    truth = picture[:, :, columns : 2 * columns]
    tint = np.ptp(truth, axis=0) > 30
    middle = scan.structures.shape[0] // 2
    known = np.isin(scan.structures[middle], [part for part in Structure if part is not Structure.BACKGROUND])
    assert (tint == known.T[::-1]).mean() > 0.97


def test_lesions_found_are_shown_over_the_scan(scan):
    lesions, anatomy = network(len(LESION_INPUTS), 1), network(1, len(Channel))
    columns = scan.image.shape[1]
    with torch.no_grad():
        for name, parameter in lesions.named_parameters():
            parameter.fill_(5.0 if name.startswith("body.output_block") and name.endswith("bias") else 0.0)
    picture = validation_picture(lesions, anatomy, scan).astype(int)[:, :, 2 * columns :]
    assert (picture[0] > picture[2]).mean() > 0.9
