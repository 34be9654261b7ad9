"""The training loop: ignite's engine, an average of the weights, and a resume that changes nothing.

Learning rate and samples are functions of the step alone, and a checkpoint holds the rest, so
that a training killed at any moment goes on as if it had not been.
"""

from __future__ import annotations

import io
import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard.writer import SummaryWriter

from spinemets.allocation import keep_all_freed_memory
from spinemets.atomic import atomic_write_bytes, remove_leftovers
from spinemets.errors import ConfigError, OutputError, TrainingError
from spinemets.inference import choose_precision
from spinemets.intensity import lesion_input
from spinemets.network import NetworkDefinition, SpineUNet, build_network
from spinemets.segmentation import cascade_network
from spinemets.training.data import SampleStream, read_sources, read_validation
from spinemets.training.distributed import Group
from spinemets.training.losses import lesion_loss, partial_label_loss
from spinemets.training.pictures import validation_picture
from spinemets.training.recipe import Recipe
from spinemets.training.scans import LabelledScan
from spinemets.training.trained import CHECKPOINT_FAULTS, built, fault_words, read_trained
from spinemets.training.validation import validate_anatomy, validate_lesions

__all__ = ["TrainingFiles", "network_definition", "train"]

_log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class TrainingFiles:
    """Where a training reads and writes.

    Attributes
    ----------
    data
        Folder that the recipe's sources are relative to.
    output
        Checkpoint and TensorBoard events. Phantoms are kept beside it, in ``phantoms``, so that
        an anatomy and a lesion training of one seed can share them.
    anatomy
        Needed for lesions only: the trained anatomy network, as a checkpoint or in a bundle.
    start
        Weights to begin with instead of random ones, as a checkpoint or a bundle. A training that
        has a checkpoint of its own goes on from that.
    """

    data: Path
    output: Path
    anatomy: Path | None = None
    start: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """What is written as the training goes on, and what it goes on from."""
        return self.output / "checkpoint.pt"


def network_definition(recipe: Recipe) -> NetworkDefinition:
    """The network that a recipe trains."""
    return cascade_network(recipe.task, recipe.network.filters)


class _State:
    """Everything that changes while training: weights, their average, the optimizer, the step."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.network = build_network(network_definition(recipe)).to(device)
        self.average = build_network(network_definition(recipe)).to(device)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.step = 0

    def begin_with(self, source: Path, recipe: Recipe) -> None:
        weights = read_trained(source, recipe.task).weights
        if weights.definition != network_definition(recipe):
            raise ConfigError(
                f"{source}: its network has the filters {list(weights.definition.filters)}, "
                f"the recipe's {list(recipe.network.filters)}"
            )
        for network in (self.network, self.average):
            network.load_state_dict(weights.parameters, strict=False)

    def save(self, path: Path) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}
        # Of a full disk PyTorch says but that a position in the file is not the expected one.
        buffer = io.BytesIO()
        torch.save({**state, "step": self.step}, buffer)
        atomic_write_bytes(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            parts = {name: state[name] for name in ("network", "average", "optimizer")}
            step = int(state["step"])
        except CHECKPOINT_FAULTS as error:
            raise ConfigError(
                f"{path}: is no checkpoint that a training can go on from ({fault_words(error)}); "
                "remove it to begin anew, or name another --output"
            ) from error
        try:
            for name, part in parts.items():
                getattr(self, name).load_state_dict(part)
        except CHECKPOINT_FAULTS as error:
            raise ConfigError(
                f"{path}: does not fit the network of the recipe ({_first_line(error)}); go on with the "
                "recipe that it was trained with, or name another --output"
            ) from error
        self.step = step

    def update_average(self, decay: float) -> None:
        # Early on the average follows quickly, or it would remember the first random weights.
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)


def _first_line(error: Exception) -> str:
    """Enough of PyTorch's list of every layer that is missing or of another size."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:2])[:300]


def train(
    recipe: Recipe, files: TrainingFiles, device: torch.device, group: Group | None = None
) -> float | None:
    """Train until the recipe's last step, from the last checkpoint where there is one.

    Parameters
    ----------
    group
        This process among several that train together (``training.distributed``), each on
        ``batch_size`` samples a step; None for one alone.

    Returns
    -------
    float or None
        Mean loss of the last 100 steps; None where the checkpoint has all steps already.

    Raises
    ------
    ConfigError
        The checkpoint to go on from is damaged, of another network or not the same for all
        processes, or a file that the recipe needs is missing.
    OutputError
        The output folder cannot be made, or a checkpoint not be written.
    """
    group = group or Group()
    if device.type == "cpu":
        # Each step asks for the same gigabytes, whose pages the system would clear anew each time.
        keep_all_freed_memory()
    state = _begun(recipe, files, device)
    if group.mean(state.step) != state.step:
        # They would step by the gradients of different networks.
        raise ConfigError(
            f"{files.output}: this process would go on from step {state.step}, others from another; name an "
            "--output that all machines share"
        )
    if state.step >= recipe.steps:
        return None
    anatomy = _anatomy_network(recipe, files, device)
    with group.first_alone():
        pools = read_sources(recipe, files.data, files.output.parent / "phantoms")
    validation = read_validation(recipe, files.data) if group.is_first else []
    limits = state.step * recipe.batch_size, recipe.steps * recipe.batch_size
    loader = DataLoader(
        SampleStream(pools, recipe, *limits, (group.rank, group.size)),
        batch_size=recipe.batch_size,
        num_workers=recipe.workers,
        prefetch_factor=4 if recipe.workers else None,
        pin_memory=device.type == "cuda",
    )
    step = _Step(recipe, state, anatomy, device, group)
    engine = Engine(lambda _, batch: step(batch))
    with _events(files, state.step) if group.is_first else nullcontext() as writer:
        watch = _Watch(recipe, state, anatomy, validation, files.checkpoint, writer)
        engine.add_event_handler(Events.ITERATION_COMPLETED, watch.after_step)
        engine.run(loader, max_epochs=1)
    recent = watch.losses[-100:]
    return sum(recent) / len(recent)


def _events(files: TrainingFiles, step: int) -> SummaryWriter:
    """What TensorBoard shows; steps that a training cut short showed and goes over again give way."""
    return SummaryWriter(str(files.output / "events"), purge_step=step + 1)


def _begun(recipe: Recipe, files: TrainingFiles, device: torch.device) -> _State:
    """The state to go on from: the last checkpoint's, or one with the weights to begin with."""
    try:
        files.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{files.output}: cannot be made ({error.strerror}); choose another") from error
    remove_leftovers(files.output, files.checkpoint.name)
    state = _State(recipe, device)
    if files.checkpoint.exists():
        state.load(files.checkpoint)
        _log.info("resuming at step %d", state.step)
    elif files.start is not None:
        state.begin_with(files.start, recipe)
        _log.info("beginning with the weights of %s", files.start)
    return state


class _Watch:
    """What is kept, told and measured after a step; the first process alone writes.

    Parameters
    ----------
    writer
        None in the processes beside the first.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: _State,
        anatomy: SpineUNet | None,
        validation: list[LabelledScan],
        checkpoint: Path,
        writer: SummaryWriter | None,
    ) -> None:
        self._recipe, self._state, self._anatomy = recipe, state, anatomy
        self._validation, self._checkpoint, self._writer = validation, checkpoint, writer
        self.losses: list[float] = []

    def after_step(self, engine: Engine) -> None:
        recipe, step = self._recipe, self._state.step
        self.losses.append(float(engine.state.output))  # type: ignore[arg-type]
        if not math.isfinite(self.losses[-1]):
            raise TrainingError(
                f"the loss is {self.losses[-1]} at step {step}; the checkpoint before it is kept: "
                "lower the learning rate and go on from there"
            )
        if self._writer is None:
            return
        if step % 20 == 0:
            recent = sum(self.losses[-20:]) / len(self.losses[-20:])
            self._writer.add_scalar("loss", recent, step)
            _log.info("step %d of %d: loss %.4f", step, recipe.steps, recent)
        if step % recipe.save_every == 0 or step == recipe.steps:
            self._state.save(self._checkpoint)
        if self._validation and (step % recipe.validate_every == 0 or step == recipe.steps):
            self._validate(self._writer)

    def _validate(self, writer: SummaryWriter) -> None:
        average, step = self._state.average, self._state.step
        for name, value in _validate(average, self._anatomy, self._validation).items():
            writer.add_scalar(f"validation/{name}", value, step)
            _log.info("step %d: validation %s %.4f", step, name, value)
        for number, scan in enumerate(self._validation[:2]):
            picture = validation_picture(average, self._anatomy, scan)
            writer.add_image(f"validation/scan {number}", np.asarray(picture), step)


def _learning_rate(recipe: Recipe, step: int) -> float:
    warm = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    progress = min(1.0, step / recipe.steps)
    return recipe.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the device computes in it, else float32; the losses of float16 would need scaling."""
    if choose_precision("auto", device) is torch.bfloat16:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


class _Step:
    """One optimisation step."""

    def __init__(
        self,
        recipe: Recipe,
        state: _State,
        anatomy: SpineUNet | None,
        device: torch.device,
        group: Group,
    ) -> None:
        self._recipe, self._state, self._anatomy, self._device = recipe, state, anatomy, device
        self._group = group

    def __call__(self, batch: Batch) -> float:
        state, recipe = self._state, self._recipe
        image, condition, allowed, lesion, spacing = (part.to(self._device) for part in batch)
        for group in state.optimizer.param_groups:
            group["lr"] = _learning_rate(recipe, state.step)
        state.network.train()
        with _precision(self._device):
            if self._anatomy is not None:
                image = self._with_anatomy(self._anatomy, image, condition, spacing)
            logits = state.network(image, condition)
        loss = partial_label_loss(logits, allowed) if self._anatomy is None else lesion_loss(logits, lesion)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._group.average_gradients(state.network)
        nn.utils.clip_grad_norm_(state.network.parameters(), recipe.gradient_clip)
        state.optimizer.step()
        state.step += 1
        state.update_average(recipe.ema_decay)
        return self._group.mean(float(loss.detach()))

    @staticmethod
    def _with_anatomy(network: SpineUNet, image: Tensor, condition: Tensor, spacing: Tensor) -> Tensor:
        """The lesion network's input, from what the anatomy network makes of the same image."""
        with torch.no_grad():
            anatomy = torch.softmax(network(image, condition).float(), dim=1)
            parts = [
                lesion_input(image[i : i + 1], anatomy[i : i + 1], (float(x), float(y), float(z)))
                for i, (x, y, z) in enumerate(spacing.tolist())
            ]
        return torch.cat(parts)


def _anatomy_network(recipe: Recipe, files: TrainingFiles, device: torch.device) -> SpineUNet | None:
    """The trained anatomy network that lesions build on; None where anatomy is what is trained."""
    if recipe.task == "anatomy":
        return None
    if files.anatomy is None:
        raise ConfigError("a lesion recipe needs the trained anatomy network: pass --anatomy")
    return built(read_trained(files.anatomy, "anatomy").weights).to(device)


def _validate(network: SpineUNet, anatomy: SpineUNet | None, scans: list[LabelledScan]) -> dict[str, float]:
    network.eval()
    if anatomy is None:
        return validate_anatomy(network, scans)
    return validate_lesions(network, anatomy, scans)
