"""Lesions placed in analytic spines, and what is found of them where the names of levels are known."""

from __future__ import annotations

from dataclasses import replace

from phantoms import add_lesion, draw_phantom
from spinemets.anatomy import Structure, VertebralLevel
from spinemets.classification import classify
from spinemets.config import ClassificationConfig, LesionConfig, LevelConfig
from spinemets.lesions import find_lesions
from spinemets.levels import label_levels

LESIONS = LesionConfig()
SPINES = {
    "C5": {"lowest": "T2"},
    "T6": {"highest": "T3", "lowest": "T10"},
    "L3": {"highest": "T11"},
    "S1": {"highest": "L2"},
}


def spine_of(level, spacing=(4.0, 1.2, 1.2)):
    return draw_phantom(spacing_mm=spacing, seed=1, **SPINES[level])


def truly_named(phantom, segmentation):
    """The true names, so that only the compartment is on trial."""
    vertebrae = label_levels(segmentation, LevelConfig())
    instances = {number: VertebralLevel(name) for number, name in enumerate(phantom.names, start=1)}
    return tuple(
        replace(vertebra, level=instances[vertebra.instance], confidence=1.0, alternatives=())
        for vertebra in vertebrae
    )


def finding(phantom, segmentation, config=LESIONS):
    (lesion,) = find_lesions(segmentation, config)
    vertebrae = truly_named(phantom, segmentation)
    return classify(lesion, segmentation, vertebrae, ClassificationConfig())


def placed(phantom, centre, radii, hidden_as=Structure.BACKGROUND):
    return finding(phantom, add_lesion(phantom.segmentation, centre, radii, hidden_as))
