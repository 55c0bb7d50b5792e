"""A phase without its bookkeeping: from configuration to network, and from network to trained."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.data.transforms import AUGMENTATION_REVISION, Preprocessing, Views
from tlkit.errors import UserError
from tlkit.features.fill import Report, stored_inputs
from tlkit.features.inputs import Inputs, PictureInputs, Pictures
from tlkit.features.prefix import Frozen, NoPrefix, Prefix, package_versions
from tlkit.features.store import Store
from tlkit.files import cache_folder
from tlkit.models.backbones import create_model, data_config, to_channels_last
from tlkit.models.cut import split
from tlkit.models.features import last_features, stacked
from tlkit.models.freezing import freeze, train_mode, train_suffix, trained_names
from tlkit.models.units import units
from tlkit.models.weights import load_weights
from tlkit.serving.classifier import Classifier, Description
from tlkit.training.allocator import keep_freed_memory
from tlkit.training.batches import epoch_batches, plain_batches
from tlkit.training.checkpoints import (
    load_checkpoint,
    load_result,
    save_checkpoint,
    save_result,
)
from tlkit.training.loop import Objective, Result, fit
from tlkit.training.optimizer import Schedule, adamw
from tlkit.training.precision import autocast, resolve_device, resolve_precision
from tlkit.training.progress import Progress, Training
from tlkit.training.seeding import available_cores, seed_everything

PHASES = ("baseline", "head", "finetune")

# What a head depends on, besides the data and the weights: runs that agree in these have the same
# head, and finetune may begin from either.
HEAD_KEYS = (
    "image_size",
    "augment",
    "views",
    "backbone",
    "dropout",
    "head_epochs",
    "head_lr",
    "weight_decay",
    "label_smoothing",
    "class_weights",
    "batch_size",
    "accumulate",
    "schedule",
    "warmup_epochs",
    "early_stopping",
    "engine",
    "compile",
    "threads",
    "seed",
    "pictures_seed",
)

# What an interrupted training may go on without: it changes no number. What `init_from` gave is in
# the weights.
_WITHOUT_EFFECT = ("init_from", "loader_workers", "store_gigabytes")


@dataclass(frozen=True)
class Machine:
    """Where, and in which numbers, a run computes.

    Attributes:
        dtype: in which layers compute during training.
        fast_kernels: whether a CPU computes by tlkit's own kernels.
        threads: of torch.
        workers: processes that decode pictures.
    """

    device: torch.device
    dtype: torch.dtype
    fast_kernels: bool
    threads: int
    workers: int

    @property
    def numbers(self) -> str:
        """The kind of device, and the format it computes in: another one gives other digits."""
        return f"{self.device.type}, {self.dtype}"


def machine_for(config: Config) -> Machine:
    """Resolve every `auto` that depends on the machine."""
    device = resolve_device(config.device)
    cores = available_cores()
    return Machine(
        device,
        resolve_precision("fp32" if config.engine == "plain" else config.precision, device),
        fast_kernels=config.engine != "plain",
        threads=cores if config.threads == "auto" else int(config.threads),
        workers=min(8, cores) if config.loader_workers == "auto" else int(config.loader_workers),
    )


@dataclass(frozen=True)
class Network:
    """A classifier, and how much of it trains.

    Attributes:
        depth: units from the top that train, with the head; None: the whole network.
        weights: hash of the weights before any training; "none" for the baseline, which has none.
        head: names of the parameters that learn at the head's rate.
        trained: names of the state that training may change.
        begun: names of the state that another training has changed.
    """

    classifier: Classifier
    depth: int | None
    weights: str
    head: frozenset[str]
    trained: frozenset[str]
    begun: frozenset[str] = frozenset()

    def parameters(self, *, trainable: bool) -> int:
        """How many numbers the network has, or how many of them train."""
        return sum(
            parameter.numel()
            for name, parameter in self.classifier.model.named_parameters()
            if name in self.trained or not trainable
        )

    @property
    def image_size(self) -> int:
        """Side in pixels of what it takes."""
        return int(self.classifier.description.preprocessing["input_size"][-1])

    def state(self) -> dict[str, torch.Tensor]:
        """What this or another training may have changed, by name."""
        every, changed = self.classifier.model.state_dict(), self.trained | self.begun
        return {name: value for name, value in every.items() if name in changed}

    def origin(self) -> dict[str, Any]:
        """What must agree for one network's trained state to fit into another; JSON-able."""
        description = self.classifier.description
        return {
            "backbone": description.backbone,
            "weights": self.weights,
            "classes": list(description.classes),
        }


def build_network(phase: str, config: Config, classes: tuple[str, ...]) -> Network:
    """The network of a phase before training, frozen as far as the phase wants.

    Raises:
        UserError: an unknown backbone, weights that do not fit or cannot be had, a depth beyond
            the backbone's units.
    """
    size = None if config.image_size == "auto" else int(config.image_size)
    backbone = create_model(
        config.backbone, num_classes=len(classes), dropout=config.dropout, image_size=size
    )
    description = Description(
        backbone=config.backbone,
        image_size=size,
        dropout=config.dropout,
        classes=classes,
        preprocessing=data_config(backbone),
        max_pixels=config.max_pixels,
        augment=config.augment,
    )
    if phase == "baseline":
        side = config.baseline_image_size
        # The same crop of the picture as the backbone sees, in fewer pixels.
        preprocessing = {**description.preprocessing, "input_size": [3, side, side]}
        description = replace(
            description, backbone="baseline", image_size=side, preprocessing=preprocessing
        )
        model = description.build()
        names = frozenset(model.state_dict())
        return Network(Classifier(model, description), None, "none", names, names)
    depth = config.unfreeze_depth if phase == "finetune" else 0
    freeze(backbone, depth)
    weights = load_weights(backbone, config.backbone, config.weights)
    return Network(
        Classifier(backbone, description),
        depth,
        weights,
        head=trained_names(backbone, 0),
        trained=trained_names(backbone, depth),
    )


def head_settings(config: Config, network: Network, machine: Machine) -> str:
    """A hash over all that a head depends on besides the data."""
    values = {key: getattr(config, key) for key in HEAD_KEYS}
    values |= {"weights": network.weights, "numbers": machine.numbers}
    if config.augment != "none":
        values["augmentation_revision"] = AUGMENTATION_REVISION
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def training_key(
    phase: str, config: Config, network: Network, manifest: Manifest, machine: Machine
) -> str:
    """A hash over all that a training depends on: whoever has the same may go on with it."""
    begun = hashlib.sha256()
    for name, value in sorted(network.state().items()):
        begun.update(name.encode())
        begun.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    facts = {
        "phase": phase,
        "config": {key: v for key, v in config.as_dict().items() if key not in _WITHOUT_EFFECT},
        "data": manifest.digest,
        "weights": network.weights,
        "begun": begun.hexdigest(),
        "numbers": [machine.numbers, machine.threads, machine.fast_kernels],
        "packages": package_versions(),
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache
def _code_digest() -> str:
    """Of tlkit as it is here: other code may train another way."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def begin_from(network: Network, checkpoint: Path, run_id: str) -> Network:
    """The network with the state that another run trained, loaded in place.

    Raises:
        UserError: that run had another backbone, other weights or other classes.
    """
    state, facts = load_checkpoint(checkpoint)
    for name, own in network.origin().items():
        if facts[name] != own:
            theirs = facts[name]
            if name == "weights":  # which follow the size where a network embeds positions
                theirs = f"{theirs} at image_size {facts.get('image_size', 'unknown')}"
                own = f"{own} at image_size {network.image_size}"
            raise UserError(
                f"init_from={run_id} was trained with {name} {theirs} and this run has {own}; "
                "make them agree, or use init_from=auto"
            )
    network.classifier.model.load_state_dict(state, strict=False)
    return replace(network, begun=network.begun | frozenset(state))


def prepare_phase(
    phase: str, config: Config, manifest: Manifest, machine: Machine
) -> tuple[Network, Pictures]:
    """A phase's network before training, always the same for a seed, and the pictures for it.

    Raises UserError as `build_network` does.
    """
    keep_freed_memory()
    seed_everything(config.seed, machine.threads, machine.device)
    network = build_network(phase, config, manifest.classes)
    return network, pictures_for(config, manifest, network, machine)


def pictures_for(
    config: Config, manifest: Manifest, network: Network, machine: Machine
) -> Pictures:
    """The pictures as this network wants them."""
    preprocessing = Preprocessing(network.classifier.description.preprocessing)
    return Pictures(
        manifest=manifest,
        views=Views(preprocessing, config.augment, config.pictures_seed),
        count=config.views,
        max_pixels=config.max_pixels,
        workers=machine.workers,
        for_gpu=machine.device.type == "cuda",
    )


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


def start_engine(
    config: Config,
    network: Network,
    pictures: Pictures,
    machine: Machine,
    epochs: int,
    also: Sequence[int] = (),
) -> Engine:
    """Have the outputs of the frozen part at hand (`cached`), or not (`plain`).

    Args:
        epochs: how many will train; with 0 there are validation pictures alone.
        also: depths at which other runs will cut the same network.
    """
    model = network.classifier.model.to(machine.device)
    moving = config.batch_norm == "moving"
    mode: Callable[[], object] = model.train
    frozen: nn.Module = nn.Identity()
    trained = model
    if network.depth is not None:
        frozen, trained = split(model, network.depth)
        mode = partial(train_mode, model, network.depth, moving_statistics=moving)
    if config.engine == "plain":
        return Engine(model, mode, PictureInputs(pictures))
    to_channels_last(model)
    part: Frozen = NoPrefix(pictures.views.preprocessing)
    if network.depth is not None and not isinstance(frozen, nn.Identity):
        mode = partial(train_suffix, trained, moving_statistics=moving)
        part = Prefix(
            model,
            network.depth,
            tuple(depth for depth in also if network.depth < depth < len(units(model))),
            {"backbone": config.backbone},
            machine.device,
            machine.dtype,
        )
    store = open_store(cache_folder() / "features", config.store_gigabytes)
    inputs, report = stored_inputs(
        store,
        part,
        pictures,
        epochs,
        config.compile,
        epochs_to_come=config.finetune_epochs,
        sharing=config.workers,
    )
    return Engine(trained, mode, inputs, report)


@lru_cache
def open_store(folder: Path, gigabytes: int | str) -> Store:
    """The store of prefix outputs; the same object for a process, which remembers what it checked.

    Args:
        gigabytes: what its entries may take; "auto" for half of the disk that is free or theirs.
    """
    if gigabytes == "auto":
        taken = sum(entry.size for entry in Store(folder, 0).entries())
        return Store(folder, (taken + shutil.disk_usage(cache_folder()).free) // 2)
    return Store(folder, int(gigabytes) * 10**9)


@dataclass(frozen=True)
class Trained:
    """What training leaves besides the weights.

    Attributes:
        result: of the loop.
        report: how the outputs of the frozen part came to be, where there are any.
        validation: computes logits, float64 (pictures, classes), and the features behind them,
            float64 (pictures, d), of the best weights, in the manifest's order.
    """

    result: Result
    report: Report | None
    validation: Callable[[], tuple[NDArray[np.float64], NDArray[np.float64]]]


def train_phase(
    phase: str,
    config: Config,
    network: Network,
    pictures: Pictures,
    machine: Machine,
    *,
    log: Callable[[Mapping[str, float], int], object],
    checkpoints: Path,
    also: Sequence[int] = (),
    progress: Progress | None = None,
) -> Trained:
    """Train the network in place and leave it with the weights of its best epoch.

    Args:
        log: receives the metrics of an epoch and its number; of those first that are not trained
            again.
        checkpoints: folder for `best`, `last` and the result; a training whose result is there
            already is not repeated.
        also: as `start_engine` takes it.
        progress: where an interrupted training goes on, and where this one is kept.
    """
    # Again, so that nothing depends on what was computed before.
    seed_everything(config.seed, machine.threads, machine.device)
    result = load_result(checkpoints)
    epochs = 0 if result else getattr(config, f"{phase}_epochs")
    engine = start_engine(config, network, pictures, machine, epochs, also)
    validation = plain_batches(len(pictures.manifest.of("val")), config.batch_size)
    if result is None:
        result = _fit(
            phase, config, network, pictures, machine, engine, validation, epochs,
            log=log, checkpoints=checkpoints, progress=progress,
        )  # fmt: skip
        save_result(checkpoints, result)
    else:
        _log_again(result, log)
    model = network.classifier.model
    best, _ = load_checkpoint(checkpoints / "best")
    model.load_state_dict(best, strict=False)
    model.eval()

    def look() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        with last_features(engine.trained) as features:
            logits = [logits for logits, _ in _validate(engine, validation, machine)]
        return stacked(logits).numpy(), stacked(features).numpy()

    return Trained(result, engine.report, look)


def _log_again(result: Result, log: Callable[[Mapping[str, float], int], object]) -> None:
    for metrics in result.history:
        values = dict(metrics)
        epoch = int(values.pop("epoch"))
        log(values, epoch)


def _fit(
    phase: str,
    config: Config,
    network: Network,
    pictures: Pictures,
    machine: Machine,
    engine: Engine,
    validation: list[list[int]],
    epochs: int,
    *,
    log: Callable[[Mapping[str, float], int], object],
    checkpoints: Path,
    progress: Progress | None,
) -> Result:
    model = network.classifier.model
    manifest = pictures.manifest
    count = len(manifest.of("train"))

    def batches(epoch: int) -> list[list[int]]:
        return epoch_batches(count, config.batch_size, config.seed, epoch, manifest.passes)

    steps = len(batches(0))
    optimizer = adamw(
        model.named_parameters(),
        network.head,
        head_lr=config.baseline_lr if phase == "baseline" else config.head_lr,
        backbone_lr=config.backbone_lr,
        weight_decay=config.weight_decay,
    )
    schedule = Schedule(
        optimizer,
        config.schedule,
        epochs=epochs,
        steps_per_epoch=-(-steps // config.accumulate),
        warmup_epochs=config.warmup_epochs,
    )
    training = Training(
        network.state,
        partial(model.load_state_dict, strict=False),
        optimizer,
        schedule,
        machine.device,
    )
    write = partial(_write_checkpoint, checkpoints, phase, network)
    begun = None
    if progress is not None and (found := progress.restore(training)) is not None:
        begun, best = found
        print(
            f"{phase}: goes on after epoch {len(begun.history)} of {epochs}, where run "
            f"{progress.interrupted} was interrupted",
            file=sys.stderr,
        )
        write("best", best, begun.best)
        write("last", network.state(), begun.history[-1])
        _log_again(begun, log)

    def keep(so_far: Result) -> None:
        last = so_far.history[-1]
        if last is so_far.best:
            write("best", network.state(), last)
        write("last", network.state(), last)
        if progress is not None:
            progress.save(so_far, training, best=checkpoints / "best")

    result = fit(
        engine.trained,
        engine.train_mode,
        lambda epoch: engine.inputs.training(epoch, batches(epoch)),
        lambda: validation_metrics(engine, validation, machine),
        optimizer,
        schedule,
        epochs=epochs,
        steps_per_epoch=steps,
        objective=Objective(config.label_smoothing, _class_weights(config, manifest)),
        accumulate=config.accumulate,
        early_stopping=config.early_stopping,
        device=machine.device,
        dtype=machine.dtype,
        fast_kernels=machine.fast_kernels,
        log=log,
        keep=keep,
        description=phase,
        begun=begun,
    )
    if progress is not None:  # for the test and the figures can be interrupted too
        progress.save(result, training, best=checkpoints / "best", now=True)
    return result


def _write_checkpoint(
    checkpoints: Path,
    phase: str,
    network: Network,
    name: str,
    state: Mapping[str, torch.Tensor],
    epoch_and_metrics: Mapping[str, float],
) -> None:
    metrics = dict(epoch_and_metrics)
    epoch = int(metrics.pop("epoch"))
    origin = {**network.origin(), "image_size": network.image_size}
    facts = {"phase": phase, **origin, "epoch": epoch, "metrics": metrics}
    save_checkpoint(checkpoints / name, state, facts)


def validation_metrics(
    engine: Engine, batches: list[list[int]], machine: Machine
) -> dict[str, float]:
    """`val/loss`, cross-entropy without smoothing or class weights, and `val/accuracy`."""
    objective, seen = Objective(), 0
    loss = torch.zeros((), dtype=torch.float64, device=machine.device)
    correct = torch.zeros((), dtype=torch.int64, device=machine.device)
    for logits, labels in _validate(engine, batches, machine):
        loss += objective.total(logits, labels)
        correct += (logits.argmax(1) == labels).sum()
        seen += len(labels)
    return {"val/loss": float(loss) / seen, "val/accuracy": int(correct) / seen}


def _validate(
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


def _class_weights(config: Config, manifest: Manifest) -> torch.Tensor | None:
    if config.class_weights == "none":
        return None
    counts = torch.tensor(list(manifest.counts()["train"].values()), dtype=torch.float32)
    # As scikit-learn's "balanced": the mean weight of a picture is 1.
    return counts.sum() / (len(counts) * counts)
