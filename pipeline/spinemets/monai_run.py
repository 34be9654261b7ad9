"""What ``python -m monai.bundle run`` calls: the bundle's own configuration names these classes."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from spinemets.batch import (
    SUMMARY_NAME,
    BatchRecord,
    ModelSource,
    PlannedStudy,
    RecordBook,
    Stage,
    State,
    plan_batch,
    run_batch,
    settle_names,
    stamp_of,
    what_to_do,
)
from spinemets.batch.redaction import redacted_logs
from spinemets.bundles import load_bundle
from spinemets.config import DetectionConfig, SegmentationConfig
from spinemets.detection import load_models
from spinemets.errors import ConfigError, SpinemetsError

__all__ = ["BundleDetector", "BundleTrainer"]

_log = logging.getLogger(__name__)


class _LoggingWatcher:
    """Tells the log how the batch proceeds; what is not done as a warning, which MONAI's runner shows."""

    def moved(self, study: PlannedStudy, stage: Stage) -> None:
        _log.info("%s: %s", study.key, stage.value)

    def ended(self, record: BatchRecord, lines: tuple[str, ...]) -> None:
        level = logging.INFO if record.state is State.DONE else logging.WARNING
        told = record.reason or "; ".join(lines)
        _log.log(level, "%s: %s: %s", record.study, record.state.value, told)


class BundleDetector:
    """Runs a bundle on studies, as ``spinemets detect`` does.

    Parameters
    ----------
    bundle_root
        The bundle's folder; its files must be those of the registry beside it.
    device
        "auto", "cpu", "cuda", "cuda:N" or "mps".
    """

    def __init__(self, bundle_root: str, device: str = "auto") -> None:
        self._config = DetectionConfig(segmentation=SegmentationConfig(device=device))
        self._models = load_models(load_bundle(Path(bundle_root).resolve()), self._config.segmentation)

    def run(self, source: str, output: str) -> int:
        """Analyse every study of a file or folder into ``output``; return how many are done.

        Raises
        ------
        ConfigError
            No input was named.
        SpinemetsError
            A study failed, or none could be used; those that are done are written.
        """
        if not source:
            raise ConfigError("no input; add --input PATH")
        with redacted_logs():
            studies = plan_batch([Path(source)], self._config.reading)
        model = ModelSource(self._models.provenance.model_sha256, lambda: self._models)
        with RecordBook(Path(output)) as book:
            studies = settle_names(studies, book, self._config.report.identifiers)
            todo = what_to_do(
                studies,
                book.records,
                book.folder,
                lambda study: stamp_of(study, model.sha256, self._config),
                "all",
            )
            records = run_batch(todo, book, model, self._config, _LoggingWatcher())
        count = Counter(record.state for record in records)
        if count[State.FAILED] or not count[State.DONE]:
            missing = ", ".join(f"{count[state]} {state.value}" for state in State if count[state])
            raise SpinemetsError(f"{len(records)} studies: {missing}; {Path(output) / SUMMARY_NAME} says why")
        return count[State.DONE]


class BundleTrainer:
    """Trains one of a bundle's networks from a recipe, as ``scripts/train.py`` does."""

    def __init__(
        self, recipe: str, data: str, output: str, anatomy_checkpoint: str = "", device: str = "auto"
    ) -> None:
        self._recipe, self._data, self._output = Path(recipe), Path(data), Path(output)
        self._anatomy = Path(anatomy_checkpoint) if anatomy_checkpoint else None
        self._device = device

    def run(self) -> float | None:
        """Train to the recipe's last step; return the mean loss of the last 100 steps, None without any."""
        from spinemets.inference import choose_device
        from spinemets.training.loop import TrainingFiles, train
        from spinemets.training.recipe import load_recipe

        files = TrainingFiles(self._data, self._output, self._anatomy)
        return train(load_recipe(self._recipe), files, choose_device(self._device))
