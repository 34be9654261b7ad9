"""`spinemets detect` in which studies of certain names meet a fault; prove_batch.py runs it.

    python scripts/faulty_detect.py [--stand-in] ARGUMENTS OF DETECT

With --stand-in, something that finds a sac in every study takes the place of the networks.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spinemets import detection
from spinemets.batch import PlannedStudy, stages
from spinemets.batch import run as batch
from spinemets.bundles import Bundle
from spinemets.cli import main
from spinemets.config import DetectionConfig, SegmentationConfig
from spinemets.detection import Models
from spinemets.errors import OutOfMemoryError
from spinemets.findings import Provenance
from spinemets.segmented import SpineSegmentation
from spinemets.volume import Study

if TYPE_CHECKING:
    from spinemets.assembly import Segmenter

_FOREVER_S = 100_000.0
# Within this process, both would be replaced by what is below.
_real_load, _real_finish, _real_load_models = stages.load, stages.finish, detection.load_models


def load(study: PlannedStudy, config: DetectionConfig, out: Path) -> stages.LoadedStudy:
    """As ``stages.load``; two kinds of studies kill or hang the process that reads them."""
    if study.key.endswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if study.key.endswith("hung"):
        time.sleep(_FOREVER_S)
    return _real_load(study, config, out)


def finish(
    job: tuple[str, stages.LoadedStudy, stages.SegmentedStudy], config: DetectionConfig, out: Path
) -> stages.StudyResult:
    """As ``stages.finish``; the disk is full for one kind of studies."""
    if job[0].endswith("diskfull"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return _real_finish(job, config, out)


class Faulty:
    """A segmenter that hangs, or finds no memory, for two kinds of studies."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def segment(self, study: Study) -> SpineSegmentation:
        """What the segmenter makes of it, if it gets to see it."""
        name = study.reference.series.source.name
        if "stuck" in name:
            time.sleep(_FOREVER_S)
        if "gpumemory" in name:
            raise OutOfMemoryError("neither the device nor the CPU has room for the study")
        return self._segmenter.segment(study)


class StandIn:
    """Takes a moment and finds a sac."""

    def segment(self, study: Study) -> SpineSegmentation:
        """A made-up segmentation of the right size."""
        time.sleep(0.02)
        grid = study.reference.grid
        anatomy = np.zeros(grid.shape, dtype=np.uint8)
        anatomy[5:7, 40:50, 10:-10] = 4
        empty = np.zeros(grid.shape, dtype=np.uint8)
        return SpineSegmentation(grid, anatomy, empty, empty.astype(np.float32), (), study.volumes)


def load_models(bundle: Bundle, config: SegmentationConfig) -> Models:
    """The networks, behind the faults."""
    models = _real_load_models(bundle, config)
    return Models(Faulty(models.segmenter), models.provenance)


def load_stand_in(_bundle: Bundle, _config: SegmentationConfig) -> Models:
    """The stand-in, behind the faults."""
    return Models(Faulty(StandIn()), Provenance("0.0.0", "stand-in", "1.0.0", "0" * 64))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    stands_in = arguments[0] == "--stand-in"
    # Workers find these functions by this script's name.
    vars(batch).update(load=load, finish=finish)
    vars(detection).update(load_models=load_stand_in if stands_in else load_models)
    main(["detect", *arguments[stands_in:]])
