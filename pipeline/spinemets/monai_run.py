"""What ``python -m monai.bundle run`` calls: the bundle's own configuration names these classes."""

from __future__ import annotations

import logging
from pathlib import Path

from spinemets.batch import (
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
from spinemets.errors import ConfigError

__all__ = ["BundleDetector", "BundleTrainer"]

_log = logging.getLogger(__name__)


class _LoggingWatcher:
    """Tells the log, which MONAI's runner shows, how the batch proceeds."""

    def moved(self, study: PlannedStudy, stage: Stage) -> None:
        _log.info("%s: %s", study.key, stage.value)

    def ended(self, record: BatchRecord, lines: tuple[str, ...]) -> None:
        _log.info("%s: %s %s", record.study, record.state.value, record.reason or "; ".join(lines))


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
        return sum(record.state is State.DONE for record in records)


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
