"""One trial: a finetune run with its head, as far as the validation split."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.features.fill import Report
from tlkit.phases.machine import machine_for
from tlkit.phases.prepare import Phase, prepare_phase
from tlkit.phases.train import train_phase
from tlkit.training.allocator import full_cards_told
from tlkit.training.loop import CRITERION, SHARE

Log = Callable[[Mapping[str, float], int], object]

# The first ones take longer: memory is found, kernels are chosen.
_WARM_UP_PICTURES, _TIMED_PICTURES = 3, 15


@dataclass(frozen=True)
class Score:
    """What a trial amounts to on the validation pictures.

    Attributes:
        loss: CRITERION of the weights that were kept, the lowest.
        accuracy: of the same weights, 0 to 1.
        epoch: the best one, from 0.
        share: how far the weights that were kept are on the way to those of that epoch, 0 to 1.
        seconds: wall time of all of it, with that of the frozen part.
        train_seconds: of training and validation alone, the head's where it trained one: what
            the first trial computes for all others does not make it look dear.
        latency: seconds that the model takes for one picture, the median of several; None where it
            is no objective.
        report: how the outputs of the frozen part came to be, where there are any.
    """

    loss: float
    accuracy: float
    epoch: int
    share: float
    seconds: float
    train_seconds: float
    latency: float | None
    report: Report | None


@full_cards_told()
def train_trial(
    config: Config,
    manifest: Manifest,
    log: Log,
    folder: Path,
    *,
    head: Path | None = None,
    also: Sequence[int] = (),
) -> Score:
    """Train as `-e finetune` does, head first, bit for bit; the test split stays unread.

    Args:
        log: receives the metrics of an epoch of finetune and its number; may raise to stop.
        folder: gets the checkpoints and the result of each phase, in a folder of its name.
        head: a checkpoint to begin from instead of training a head.
        also: depths that other trials may have, whose inputs are stored on the way.

    Raises:
        CannotTrainError: its loss is not finite, or a card's memory is full.
        UserError: the configuration cannot be trained for another reason.
    """
    started = time.perf_counter()
    machine, of_head = machine_for(config), 0.0
    if head is None:
        (folder / "head").mkdir(parents=True)
        head_alone = prepare_phase("head", config, manifest, machine)
        trained = train_phase(head_alone, log=_unheard, checkpoints=folder / "head", also=also)
        of_head = trained.result.seconds
        head = folder / "head" / "best"
    (folder / "finetune").mkdir(parents=True)
    phase = prepare_phase("finetune", config, manifest, machine).begun_from(head, config.init_from)
    trained = train_phase(phase, log=log, checkpoints=folder / "finetune", also=also)
    return Score(
        trained.result.kept[CRITERION],
        trained.result.kept["val/accuracy"],
        trained.result.best_epoch,
        trained.result.kept[SHARE],
        time.perf_counter() - started,
        of_head + trained.result.seconds,
        _latency(phase) if config.second_objective == "latency" else None,
        trained.report,
    )


def _unheard(metrics: Mapping[str, float], epoch: int) -> None:
    """The head's epochs are not the trial's."""


def _latency(phase: Phase) -> float:
    classifier = phase.network.classifier
    shape = tuple(classifier.description.preprocessing["input_size"])
    picture = torch.zeros(1, *shape, device=phase.machine.device)
    seconds = []
    with torch.inference_mode():
        for _ in range(_WARM_UP_PICTURES + _TIMED_PICTURES):
            started = time.perf_counter()
            classifier.model(picture).cpu()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[_WARM_UP_PICTURES:])
