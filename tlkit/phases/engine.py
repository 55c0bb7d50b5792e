"""What the loop trains, and on what: `cached` and `plain`."""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tlkit.data.manifest import Picture
from tlkit.evaluation.calibration import calibrated_loss
from tlkit.features.fill import Report, evaluation_outputs, stored_inputs
from tlkit.features.inputs import Inputs, Outputs, PictureInputs, StoredInputs
from tlkit.features.prefix import Frozen, NoPrefix, Prefix
from tlkit.features.store import Store
from tlkit.files import cache_folder
from tlkit.models.backbones import to_channels_last
from tlkit.models.cut import suffix
from tlkit.models.freezing import train_mode, train_suffix
from tlkit.models.units import units
from tlkit.phases.machine import Machine
from tlkit.phases.prepare import Phase
from tlkit.training.batches import plain_batches
from tlkit.training.loop import CRITERION, Objective
from tlkit.training.precision import autocast

_MOST_FEATURES = 50_000  # of 1,280 numbers each, a quarter of a gigabyte, thrice while it is read


@dataclass(frozen=True)
class Engine:
    """What the loop trains, and on what.

    Attributes:
        trained: the suffix, or the whole network; shares its parameters with the network.
        train_mode: puts what trains into training mode and what is frozen into eval mode.
        report: how the outputs of the frozen part came to be, where there are any.
    """

    trained: nn.Module
    train_mode: Callable[[], object]
    inputs: Inputs
    report: Report | None = None


def start_engine(phase: Phase, epochs: int, also: Sequence[int] = ()) -> Engine:
    """Have the outputs of the frozen part at hand (`cached`), or not (`plain`).

    Args:
        epochs: how many will train; with 0 there are validation pictures alone.
        also: depths at which other runs will cut the same network.
    """
    config, network, machine = phase.config, phase.network, phase.machine
    model = network.classifier.model.to(machine.device)
    moving = config.batch_norm == "moving"
    mode: Callable[[], object] = model.train
    if network.depth is not None:
        mode = partial(train_mode, model, network.depth, moving_statistics=moving)
    if config.engine == "plain":
        return Engine(model, mode, PictureInputs(phase.pictures))
    to_channels_last(model)
    trained = model
    part: Frozen = NoPrefix(phase.pictures.views.preprocessing)
    if frozen := _frozen_part(phase, machine.dtype, also):
        trained, part = suffix(model, frozen.depth), frozen
        mode = partial(train_suffix, trained, moving_statistics=moving)
    inputs, report = stored_inputs(
        open_store(config.store_gigabytes),
        part,
        phase.pictures,
        epochs,
        config.compile,
        epochs_to_come=config.finetune_epochs,
        sharing=config.workers,
    )
    return Engine(trained, mode, inputs, report)


def _frozen_part(phase: Phase, dtype: torch.dtype, also: Sequence[int]) -> Prefix | None:
    """The units below the cut, computing in `dtype`; None where the whole network trains."""
    config, network, machine = phase.config, phase.network, phase.machine
    model, depth = network.classifier.model, network.depth
    if depth is None or depth == len(units(model)):
        return None
    shallower = tuple(other for other in also if depth < other < len(units(model)))
    facts = {"backbone": config.backbone}
    return Prefix(model, depth, shallower, facts, machine.device, dtype)


def frozen_features(
    phase: Phase, engine: Engine
) -> tuple[list[Picture], NDArray[np.float32]] | None:
    """The features of a backbone that is frozen whole, float32 (n, d), and the pictures that they
    are of: the training pictures, the mean of their views, and the validation pictures; of more
    than _MOST_FEATURES so many, spread evenly. None in another phase than `head`, and where not all
    of them are stored: to compute them again would take as long as an epoch.
    """
    inputs = engine.inputs
    if phase.name != "head" or not isinstance(inputs, StoredInputs):
        return None
    if any(outputs.rows.missing for outputs in (*inputs.views, inputs.val)):
        return None
    train, val = (phase.manifest.of(split) for split in ("train", "val"))
    count = len(train) + len(val)
    chosen = np.linspace(0, count - 1, min(count, _MOST_FEATURES)).astype(int).tolist()
    of_train = [index for index in chosen if index < len(train)]
    of_val = [index - len(train) for index in chosen if index >= len(train)]

    def rows(outputs: Outputs, indices: list[int]) -> torch.Tensor:
        batches = plain_batches(len(indices), phase.config.batch_size)
        parts = outputs.batches([[indices[place] for place in batch] for batch in batches])
        return torch.cat([part.float().cpu().flatten(1) for part in parts])

    mean = rows(inputs.views[0], of_train)
    for view in inputs.views[1:]:
        mean += rows(view, of_train)
    features = torch.cat([mean / len(inputs.views), rows(inputs.val, of_val)])
    pictures = (*train, *val)
    return [pictures[index] for index in chosen], features.numpy()


def evaluation_inputs(
    phase: Phase, also: Sequence[int] = ()
) -> tuple[nn.Module, Iterator[torch.Tensor], Report | None]:
    """What reads the test pictures, once training has ended.

    The outputs of the frozen part are kept for them too: in float32 and by the same code as those
    of a model that is served, which gives the same numbers.

    Args:
        also: as `start_engine` takes it.

    Returns:
        The network, or what of it trains; what that takes, batch by batch in the manifest's order;
        and how the outputs of the frozen part came to be, where they are kept.
    """
    config, model = phase.config, phase.network.classifier.model
    pictures = replace(phase.pictures, by_threads=True)
    batches = plain_batches(len(phase.manifest.of("test")), config.batch_size)
    part = None if config.engine == "plain" else _frozen_part(phase, torch.float32, also)
    if part is None:
        device = phase.machine.device
        plain = (
            inputs.to(device, memory_format=torch.channels_last, non_blocking=True)
            for inputs, _ in pictures.plain("test", batches)
        )
        return model, plain, None
    outputs, report = evaluation_outputs(open_store(config.store_gigabytes), part, pictures)
    return suffix(model, part.depth), outputs.batches(batches), report


def open_store(gigabytes: int | str) -> Store:
    """The store of prefix outputs; the same object for a process, which remembers what it checked.

    Args:
        gigabytes: what its entries may take; "auto" for half of the disk that is free or theirs.
    """
    return _store(cache_folder() / "features", gigabytes)


@lru_cache
def _store(folder: Path, gigabytes: int | str) -> Store:
    if gigabytes == "auto":
        taken = sum(entry.size for entry in Store(folder, 0).entries())
        return Store(folder, (taken + shutil.disk_usage(folder.parent).free) // 2)
    return Store(folder, int(gigabytes) * 10**9)


def validation_metrics(
    engine: Engine, batches: list[list[int]], machine: Machine
) -> dict[str, float]:
    """`val/loss`, cross-entropy without smoothing or class weights, `val/calibrated_loss`, the same
    without the overconfidence that a temperature takes back, and `val/accuracy`."""
    objective, seen = Objective(), []
    loss = torch.zeros((), dtype=torch.float64, device=machine.device)
    correct = torch.zeros((), dtype=torch.int64, device=machine.device)
    for logits, labels in validate(engine, batches, machine):
        loss += objective.total(logits, labels)
        correct += (logits.argmax(1) == labels).sum()
        seen.append((logits.float(), labels))
    rows, truth = (torch.cat(parts).cpu().numpy() for parts in zip(*seen, strict=True))
    mean = float(loss) / len(truth)
    return {
        "val/loss": mean,
        # What is not finite ends the training, with its own message.
        CRITERION: calibrated_loss(rows, truth) if math.isfinite(mean) else mean,
        "val/accuracy": int(correct) / len(truth),
    }


def validate(
    engine: Engine, batches: list[list[int]], machine: Machine
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits and labels of the validation pictures, on the device."""
    engine.trained.eval()
    for raw_inputs, raw_labels in engine.inputs.validation(batches):
        inputs = raw_inputs.to(machine.device, non_blocking=True)
        labels = raw_labels.to(machine.device, non_blocking=True)
        # Not around the loop: a generator's caller would run without gradients too.
        kernels = machine.fast_kernels
        with torch.no_grad(), autocast(machine.device, machine.dtype, fast_kernels=kernels):
            logits = engine.trained(inputs)
        yield logits, labels
