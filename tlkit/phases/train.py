"""From a network to a trained one."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tlkit.data.manifest import Picture
from tlkit.features.fill import Report
from tlkit.models.backbones import undecayed
from tlkit.models.features import last_features, stacked
from tlkit.phases.engine import (
    Engine,
    frozen_features,
    start_engine,
    validate,
    validation_metrics,
)
from tlkit.phases.prepare import Phase
from tlkit.training.batches import epoch_batches, plain_batches
from tlkit.training.checkpoints import (
    load_checkpoint,
    load_result,
    save_checkpoint,
    save_result,
)
from tlkit.training.interpolation import State, between, judged
from tlkit.training.loop import SHARE, Objective, Result, fit
from tlkit.training.optimizer import Schedule, adamw
from tlkit.training.progress import Progress, Training
from tlkit.training.seeding import seed_everything


@dataclass(frozen=True)
class Trained:
    """What training leaves besides the weights.

    Attributes:
        result: of the loop, and of the points between that were tried.
        report: how the outputs of the frozen part came to be, where there are any.
        validation: computes logits, float64 (pictures, classes), and the features behind them,
            float64 (pictures, d), of the best weights, in the manifest's order.
        frozen: reads what `frozen_features` gives.
    """

    result: Result
    report: Report | None
    validation: Callable[[], tuple[NDArray[np.float64], NDArray[np.float64]]]
    frozen: Callable[[], tuple[list[Picture], NDArray[np.float32]] | None]


def train_phase(
    phase: Phase,
    *,
    log: Callable[[Mapping[str, float], int], object],
    checkpoints: Path,
    also: Sequence[int] = (),
    progress: Progress | None = None,
) -> Trained:
    """Train the network in place and leave it with the weights of its best epoch, or with those
    of a point between the ones it began with and these.

    Args:
        log: receives the metrics of an epoch and its number; of those first that are not trained
            again.
        checkpoints: folder for `best`, the weights that are kept, `last` and the result; a training
            whose result is there already is not repeated.
        also: as `start_engine` takes it.
        progress: where an interrupted training goes on, and where this one is kept.
    """
    config, machine, model = phase.config, phase.machine, phase.network.classifier.model
    # Again, so that nothing depends on what was computed before.
    seed_everything(config.seed, machine.threads, machine.device)
    result = load_result(checkpoints)
    engine = start_engine(phase, 0 if result else phase.epochs, also)
    validation = plain_batches(len(phase.manifest.of("val")), config.batch_size)
    if result is None:
        begun: State = {}
        if phase.name == "finetune" and config.interpolation:
            begun = {name: t.to("cpu", copy=True) for name, t in phase.network.state().items()}
        result = _fit(phase, engine, validation, log, checkpoints, progress)
        if begun:
            result = _interpolated(result, phase, engine, validation, begun, checkpoints)
        save_result(checkpoints, result)
    else:
        _log_again(result, log)
    best, _ = load_checkpoint(checkpoints / "best")
    model.load_state_dict(best, strict=False)
    model.eval()

    def look() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        with last_features(engine.trained) as features:
            logits = [logits for logits, _ in validate(engine, validation, machine)]
        return stacked(logits).numpy(), stacked(features).numpy()

    return Trained(result, engine.report, look, partial(frozen_features, phase, engine))


def _log_again(result: Result, log: Callable[[Mapping[str, float], int], object]) -> None:
    for metrics in result.history:
        values = dict(metrics)
        epoch = int(values.pop("epoch"))
        log(values, epoch)


def _fit(
    phase: Phase,
    engine: Engine,
    validation: list[list[int]],
    log: Callable[[Mapping[str, float], int], object],
    checkpoints: Path,
    progress: Progress | None,
) -> Result:
    config, machine, manifest = phase.config, phase.machine, phase.manifest
    count = len(manifest.of("train"))

    def batches(epoch: int) -> list[list[int]]:
        return epoch_batches(count, config.batch_size, config.seed, epoch, manifest.passes)

    steps = len(batches(0))
    training = _training(phase, engine, steps)
    write = partial(_write_checkpoint, checkpoints, phase)
    begun = None
    if progress is not None and (kept := progress.restore(training)) is not None:
        begun = kept.result
        done = f"epoch {len(begun.history)} of {phase.epochs}"
        print(f"{phase.name}: goes on after {done}, where run {kept.run_id} ended", file=sys.stderr)
        write("best", kept.best, begun.best)
        write("last", training.state(), begun.history[-1])
        _log_again(begun, log)

    def keep(so_far: Result) -> None:
        last = so_far.history[-1]
        if last is so_far.best:
            write("best", training.state(), last)
        write("last", training.state(), last)
        if progress is not None:
            progress.save(so_far, training, best=checkpoints / "best")

    result = fit(
        engine.trained,
        engine.train_mode,
        lambda epoch: engine.inputs.training(epoch, batches(epoch)),
        lambda: validation_metrics(engine, validation, machine),
        training.optimizer,
        training.schedule,
        epochs=phase.epochs,
        steps_per_epoch=steps,
        objective=Objective(config.label_smoothing, _class_weights(phase)),
        accumulate=config.accumulate,
        # The rate of a cosine falls to 0 at its last epoch: it is for all of them.
        early_stopping=0 if _schedule(phase) == "cosine" else config.early_stopping,
        device=machine.device,
        dtype=machine.dtype,
        fast_kernels=machine.fast_kernels,
        log=log,
        keep=keep,
        description=phase.name,
        begun=begun,
    )
    if progress is not None:  # for the test and the figures can be interrupted too
        progress.save(result, training, best=checkpoints / "best", now=True)
    return result


def _interpolated(
    result: Result,
    phase: Phase,
    engine: Engine,
    validation: list[list[int]],
    begun: State,
    checkpoints: Path,
) -> Result:
    """With points tried between the weights `begun` with and those of the best epoch; the best of
    them all is the checkpoint `best`."""
    started = time.perf_counter()
    ended, _ = load_checkpoint(checkpoints / "best")
    points = judged(
        begun,
        ended,
        phase.config.interpolation,
        partial(phase.network.classifier.model.load_state_dict, strict=False),
        lambda: validation_metrics(engine, validation, phase.machine),
    )
    result = result.with_points(list(points), time.perf_counter() - started)
    if (share := result.kept[SHARE]) < 1:
        kept = {**result.kept, "epoch": result.best_epoch}
        _write_checkpoint(checkpoints, phase, "best", between(begun, ended, share), kept)
    return result


def _training(phase: Phase, engine: Engine, steps_per_epoch: int) -> Training:
    """As it stands before the first epoch of so many batches."""
    config, network = phase.config, phase.network
    model = network.classifier.model
    optimizer = adamw(
        model.named_parameters(),
        network.head,
        head_lr=config.baseline_lr if phase.name == "baseline" else config.head_lr,
        backbone_lr=config.backbone_lr,
        weight_decay=config.weight_decay,
        undecayed=undecayed(model),
    )
    schedule = Schedule(
        optimizer,
        _schedule(phase),
        epochs=phase.epochs,
        steps_per_epoch=-(-steps_per_epoch // config.accumulate),
        warmup_epochs=config.warmup_epochs,
    )
    return Training(
        network.state,
        partial(model.load_state_dict, strict=False),
        optimizer,
        schedule,
        phase.machine.device,
        json.dumps(engine.inputs.key(), sort_keys=True),
    )


def _schedule(phase: Phase) -> str:
    return str(getattr(phase.config, f"{phase.name}_schedule"))


def _write_checkpoint(
    checkpoints: Path,
    phase: Phase,
    name: str,
    state: Mapping[str, torch.Tensor],
    epoch_and_metrics: Mapping[str, float],
) -> None:
    metrics = dict(epoch_and_metrics)
    epoch = int(metrics.pop("epoch"))
    origin = {**phase.network.origin(), "image_size": phase.network.image_size}
    facts = {"phase": phase.name, **origin, "epoch": epoch, "metrics": metrics}
    save_checkpoint(checkpoints / name, state, facts)


def _class_weights(phase: Phase) -> torch.Tensor | None:
    if phase.config.class_weights == "none":
        return None
    counts = torch.tensor(list(phase.manifest.counts()["train"].values()), dtype=torch.float32)
    # As scikit-learn's "balanced": the mean weight of a picture is 1.
    weights = counts.sum() / (len(counts) * counts)
    # Each batch takes them to the card, which is not to be waited for.
    return weights.pin_memory() if phase.machine.device.type == "cuda" else weights
