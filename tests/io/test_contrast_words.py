"""Contrast agent in words, as departments write it, and the words that only look like it."""

from __future__ import annotations

import pytest

from spinemets.io.contrast_words import stated_contrast
from spinemets.io.plain_words import plain_words


@pytest.mark.parametrize(
    "description",
    [
        "T1c",
        "t1ce",
        "T1 ce sag",
        "SAG T1 +C",
        "SAG T1+C",
        "SAG T1 C+",
        "SAG T1 C+ L-SPINE",
        "SAG T1 +C T-SPINE",
        "SAG T1 + C",
        "SAG T1 L +C",
        "SAG T1 FS T +C",
        "T1 SAG + C LUMBAR",
        "T1 C + LUMBAR",
        "SAG T1 FS C",
        "SAG T1 C FS",
        "T1 SAG POSTCONTRAST",
        "T1 sag postgad",
        "T1 sag Gadavist",
        "SAG T1 POST W/O FS",
    ],
)
def test_contrast_agent_is_read(description):
    assert stated_contrast(plain_words(description)) is True


@pytest.mark.parametrize(
    "description",
    [
        "SAG T1 WO CONTRAST",
        "SAG T1 W/O",
        "SAG T1 W/O C L-SPINE",
        "SAG T1 NON-CON",
        "SAG T1 PRECONTRAST",
        "T1 sag nativ",
        "T1 sag vor KM",
    ],
)
def test_no_contrast_agent_is_read(description):
    assert stated_contrast(plain_words(description)) is False


@pytest.mark.parametrize(
    "description",
    [
        "SAG T1 C SPINE",
        "SAG T1 C-SPINE",
        "T1 C spine sag FS",
        "T1 FS C-SPINE",
        "T1 FS C/T",
        "T1C-SPINE",
        "SAG T1 C+T SPINE",
        "SAG T1 C + T SPINE",
        "SAG T1 T+C SPINE",
        "SAG T1 L+C",
        "SAG T1 L + C",
        "T1 C-Wirbelsäule",
        "T1 C L SPINE",
        "SAG T1 C",
    ],
)
def test_the_cervical_spine_is_no_contrast_agent(description):
    assert stated_contrast(plain_words(description)) is None


@pytest.mark.parametrize(
    "name",
    [
        "L SPINE W/WO CONTRAST",
        "L-SPINE W AND W/O CONTRAST",
        "L-SPINE W/O & W",
        "LUMBAR WITH AND WITHOUT CONTRAST",
        "SPINE WWO",
        "TUMOR SPINE PRE POST",
        "LWS mit und ohne KM",
        "LWS nativ + KM",
        "rachis sans et avec injection",
        "colonna senza e con mdc",
    ],
)
def test_the_name_of_an_examination_with_both_says_nothing(name):
    assert stated_contrast(plain_words(name)) is None


@pytest.mark.parametrize("description", ["T1 sag post-op", "T1 sag pre-op", "T1 sag posterior", "T1 sag"])
def test_surgery_and_sides_say_nothing(description):
    assert stated_contrast(plain_words(description)) is None
