"""A MONAI Label app: levels, anatomy and lesions of a spine MRI, by the command line of spinemets.

MONAI Label finds ``SpinemetsApp`` in this file. spinemets runs as a program of its own, in its own
environment: MONAI Label needs an older pydicom than spinemets. Research use only, not a medical
device.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

_log = logging.getLogger(__name__)

_TIMEOUT_S = 1800
_LEVELS = [*(f"C{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 14)), *(f"L{n}" for n in range(1, 7))]
_ANATOMY = ["vertebral_body", "posterior_elements", "disc", "thecal_sac", "spinal_cord", "sacrum"]
# Name of the model in the client: the map of a result, the labels announced, a description.
_MODELS = {
    "spine_levels": ("levels", [*_LEVELS, "S1"], "Vertebrae by name (VerSe numbers)"),
    "spine_anatomy": ("anatomy", _ANATOMY, "Bodies, arches, discs, thecal sac, cord, sacrum"),
    "spine_lesions": ("lesions", ["lesion"], "Suspected metastases; research use only"),
}


class Detector:
    """Runs spinemets on an image, and remembers the last result: three models cost one run.

    Parameters
    ----------
    program
        The command ``spinemets``.
    device
        As its option ``--device``.
    results
        An empty folder for the results.
    """

    # No dataclass: MONAI Label loads this file under a name that is in no list of modules.
    def __init__(self, program: str, device: str, results: Path) -> None:
        self.program = program
        self._device = device
        self._results = results
        self._lock = threading.Lock()

    @contextmanager
    def result(self, image: Path) -> Iterator[Path]:
        """The folder of the result of an image file, or of a folder with one DICOM study.

        Other requests wait until the caller has read it, as the next image takes its place.

        Raises
        ------
        MONAILabelException
            It cannot be analysed; the message is that of spinemets.
        """
        command = [
            *(self.program, "detect", str(image), "-o", str(self._results)),
            *("--device", self._device, "--formats", "json,nifti", "--workers", "0", "-q"),
            # What failed for want of memory may go well now.
            "--retry-failed",
        ]
        with self._lock:
            self._keep_only(image)
            # The same image again, unchanged, is known to spinemets by its content.
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
                )
            except subprocess.TimeoutExpired as error:
                reason = f"no result within {_TIMEOUT_S} s"
                raise MONAILabelException(MONAILabelError.INFERENCE_ERROR, reason) from error
            reports = list(self._results.glob("*/report.json"))
            if done.returncode or len(reports) != 1:
                reason = done.stderr.strip() or f"{len(reports)} studies were found where one is needed"
                raise MONAILabelException(MONAILabelError.INFERENCE_ERROR, reason)
            yield reports[0].parent

    def _keep_only(self, image: Path) -> None:
        """Empty the results where they are of another image, or of other content at its path."""
        last, state = self._results / ".image", _state(image)
        if not last.is_file() or last.read_text(encoding="utf-8") != state:
            shutil.rmtree(self._results)
            self._results.mkdir()
            last.write_text(state, encoding="utf-8")


def _state(image: Path) -> str:
    """What differs as soon as a file of the image is another, or has been written again."""
    files = {path: path.stat() for path in sorted([image, *image.rglob("*")]) if path.is_file()}
    return json.dumps([str(image), *([str(path), at.st_size, at.st_mtime_ns] for path, at in files.items())])


class SpineTask(InferTask):  # type: ignore[misc]
    """One of the three maps of a result, as a model of the server."""

    def __init__(self, name: str, detector: Detector) -> None:
        self._map, labels, description = _MODELS[name]
        super().__init__(InferType.SEGMENTATION, labels, 3, description)
        self._detector = detector

    def is_valid(self) -> bool:
        """Whether the program is there."""
        return shutil.which(self._detector.program) is not None

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Label the image that a request names; MONAI Label removes the file when it is sent."""
        with self._detector.result(Path(request["image"])) as result:
            report = json.loads((result / "report.json").read_text(encoding="utf-8"))
            names = json.loads((result / f"{self._map}.json").read_text(encoding="utf-8"))["labels"]
            copy = Path(tempfile.mkdtemp(prefix="spinemets-")) / "labels.nii.gz"
            shutil.copy(result / f"{self._map}.nii.gz", copy)
        _log.info("%s drawn", self._map)
        return str(copy), {
            "label_names": {name: int(number) for number, name in names.items()},
            "summary": report["summary"]["sentences"],
            "cautions": report["cautions"],
        }


class SpinemetsApp(MONAILabelApp):  # type: ignore[misc]
    """The app that the server starts.

    Of ``--conf``: ``spinemets`` (the command, by default the one on the path) and ``device``.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._results = tempfile.TemporaryDirectory(prefix="spinemets-")
        self._detector = Detector(
            conf.get("spinemets", "spinemets"),
            conf.get("device", "auto"),
            Path(self._results.name),
        )
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="spinemets",
            description="Levels, anatomy and suspected metastases in spine MRI; research use only",
            version="0.1.0",
        )

    def init_infers(self) -> dict[str, InferTask]:
        """The models that the server offers."""
        return {name: SpineTask(name, self._detector) for name in _MODELS}
