"""The training loop of every phase."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from tlkit.errors import CannotTrainError
from tlkit.training.optimizer import Schedule, learning_rates
from tlkit.training.precision import autocast

Batch = tuple[Tensor, Tensor]

# Batches after which their losses are read. Each reading waits for the card, which has nothing to
# do until the next batch comes; a training whose loss is not finite goes on for so long at most.
_READ = 50

# What chooses the epoch whose weights are kept, moves the rates and stops the training. The loss
# without a temperature rises with a confidence that the temperature of the model will take back,
# long before the classes are told apart best.
CRITERION = "val/calibrated_loss"

# Of a point between the weights before a training, 0, and those of its best epoch, 1.
SHARE = "interpolation"


@dataclass(frozen=True)
class Objective:
    """Cross-entropy and its options.

    Attributes:
        label_smoothing: probability spread evenly over all classes, 0 to 1.
        class_weights: float32 (classes,), on the CPU; None for equal weights.
    """

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over the batch, float32 scalar; divide by `weight` for torch's mean."""
        weights = self.class_weights
        return F.cross_entropy(
            logits.float(),
            labels,
            weight=None if weights is None else weights.to(logits.device, non_blocking=True),
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )

    def weight(self, labels: Tensor) -> float:
        """What the sum is divided by: the pictures, or the weights of their classes."""
        if self.class_weights is None:
            return float(len(labels))
        return float(self.class_weights[labels].sum())


@dataclass(frozen=True)
class Result:
    """What a training leaves.

    Attributes:
        history: one mapping an epoch, of "epoch" and the metrics of the contract.
        best_epoch: the epoch, from 0, with the lowest CRITERION.
        seconds: wall time of training and validation.
        points: between the weights before the training and those of the best epoch, where any were
            tried: a mapping each, of SHARE and the metrics of the validation.
    """

    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    points: list[dict[str, float]] = field(default_factory=list)

    def after(self, metrics: Mapping[str, float], seconds: float) -> "Result":
        """With one epoch more; `seconds` in all."""
        epoch = len(self.history)
        better = not self.history or metrics[CRITERION] < self.best[CRITERION]
        return Result(
            [*self.history, {"epoch": epoch, **metrics}],
            epoch if better else self.best_epoch,
            seconds,
        )

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch."""
        return self.history[self.best_epoch]

    @property
    def line(self) -> list[dict[str, float]]:
        """The points that were tried, and the best epoch as the last; empty where none were."""
        return [*self.points, {**self.best, SHARE: 1.0}] if self.points else []

    @property
    def kept(self) -> dict[str, float]:
        """The metrics, with SHARE, of the weights that were kept: those of the best epoch, unless a
        point before them has a lower CRITERION."""
        best = {**self.best, SHARE: 1.0}
        return min([best, *reversed(self.points)], key=lambda point: point[CRITERION])

    def with_points(self, points: list[dict[str, float]], seconds: float) -> "Result":
        """With points tried, which took so many seconds."""
        return replace(self, points=points, seconds=self.seconds + seconds)


def fit(
    model: nn.Module,
    train_mode: Callable[[], object],
    batches: Callable[[int], Iterable[Batch]],
    validate: Callable[[], Mapping[str, float]],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    epochs: int,
    steps_per_epoch: int,
    objective: Objective,
    accumulate: int,
    early_stopping: int,
    device: torch.device,
    dtype: torch.dtype,
    fast_kernels: bool,
    log: Callable[[Mapping[str, float], int], object],
    keep: Callable[[Result], object],
    description: str,
    begun: Result | None = None,
) -> Result:
    """Train `model` and report every epoch.

    Args:
        model: maps a batch of inputs to logits, float (N, classes).
        train_mode: puts the trained part in training mode and the frozen part in eval mode.
        batches: epoch to its batches of inputs, on any device, and int64 labels, on the CPU.
        validate: gives at least CRITERION; called after each epoch, without gradients.
        schedule: moves the rates of `optimizer`.
        steps_per_epoch: batches an epoch, for the progress bar.
        accumulate: batches whose gradients make one step, equal to one batch of their sum.
        early_stopping: epochs without a lower CRITERION before training ends; 0 is never.
        dtype, fast_kernels: as `precision.autocast` takes them.
        log: receives the metrics of an epoch and its number, from 0.
        keep: called with the result so far after each epoch.
        begun: what the epochs gave that are trained already; `model`, `optimizer` and `schedule`
            are as they left them.

    Raises:
        CannotTrainError: a loss is not finite; names the epoch and the step, at most 50 steps
            later.
    """
    so_far = begun or Result([], 0, 0.0)
    started = time.perf_counter() - so_far.seconds
    done = len(so_far.history)
    with tqdm(
        total=epochs * steps_per_epoch,
        initial=done * steps_per_epoch,
        desc=description,
        unit="batch",
        disable=None,
    ) as progress:
        for epoch in range(done, epochs):
            if early_stopping and epoch - so_far.best_epoch > early_stopping:
                break
            train_mode()
            rates = learning_rates(optimizer)
            loss_sum, weight_sum, seen, step = 0.0, 0.0, 0, 0
            correct = torch.zeros((), dtype=torch.int64, device=device)
            unread: list[Tensor] = []
            for group in _groups(batches(epoch), accumulate):
                group_weight = sum(objective.weight(labels) for _, labels in group)
                optimizer.zero_grad(set_to_none=True)
                for raw_inputs, raw_labels in group:
                    inputs = raw_inputs.to(device, non_blocking=True)
                    labels = raw_labels.to(device, non_blocking=True)
                    with autocast(device, dtype, fast_kernels=fast_kernels):
                        logits = model(inputs)
                    loss = objective.total(logits, labels)
                    (loss / group_weight).backward()  # type: ignore[no-untyped-call]
                    if len(unread) == _READ:
                        loss_sum = _plus(loss_sum, unread, epoch, step)
                    unread.append(loss.detach())
                    step += 1
                    correct += (logits.argmax(1) == labels).sum()
                    seen += len(labels)
                    progress.update()
                weight_sum += group_weight
                optimizer.step()
                schedule.after_step()
            loss_sum = _plus(loss_sum, unread, epoch, step)
            metrics = {
                "train/loss": loss_sum / weight_sum,
                "train/accuracy": int(correct) / seen,
                **validate(),
                **rates,
            }
            _finite(metrics[CRITERION], f"validation loss after epoch {epoch}")
            schedule.after_epoch(metrics[CRITERION])
            log(metrics, epoch)
            so_far = so_far.after(metrics, time.perf_counter() - started)
            keep(so_far)
            progress.set_postfix_str(_summary(metrics))
    return so_far


def _groups(batches: Iterable[Batch], size: int) -> Iterable[Sequence[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _plus(total: float, unread: list[Tensor], epoch: int, step: int) -> float:
    """The sum and, one by one, the losses of the batches before `step`, which leave the list."""
    for number, value in enumerate(torch.stack(unread).cpu().tolist(), step - len(unread)):
        total += _finite(value, f"training loss at epoch {epoch}, step {number}")
    unread.clear()
    return total


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise CannotTrainError(
            f"the {what} is {value}; it must be finite: "
            "lower head_lr, backbone_lr or baseline_lr, or use precision=fp32"
        )
    return value


def _summary(metrics: Mapping[str, float]) -> str:
    shown = ("train/loss", "val/loss", "val/accuracy")
    return " ".join(f"{name}={metrics[name]:.3f}" for name in shown if name in metrics)
