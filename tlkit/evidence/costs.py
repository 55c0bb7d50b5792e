"""What a model costs: to train, to keep, to ask."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from tlkit.evidence.gathered import Gathered
from tlkit.serving.classifier import WEIGHTS_FILE
from tlkit.serving.ensemble import Ensemble
from tlkit.tracking.lookup import local_model

# Of a picture, of which the fastest counts: the others tell of what else the machine did.
TRIES = 3


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        seconds: of its whole run.
        megabytes: of its weights on disk.
        latency: seconds from a picture's bytes to its probabilities, one at a time: of each
            picture the fastest of several, over the pictures the median.
    """

    seconds: float
    trainable: int
    parameters: int
    megabytes: float
    latency: float


def costs_of(
    runs: Sequence[Gathered], models: Sequence[Ensemble], files: Sequence[bytes]
) -> list[Cost]:
    """Of each run, with the latency measured here on these pictures, a file's bytes each."""
    return [
        _cost(one, seconds) for one, seconds in zip(runs, latencies(models, files), strict=True)
    ]


def machine() -> str:
    """The processor and torch's threads here, for a reader of latencies."""
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


def processor() -> str:
    """The name of the one that this machine has."""
    name = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        lines = facts.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    return name


def latencies(models: Sequence[Ensemble], files: Sequence[bytes]) -> list[float]:
    """Seconds from the bytes of one picture to its probabilities for each model: of each picture
    the fastest of TRIES, over the pictures the median.

    The models take turns, so that what else the machine does hits all of them.
    """
    taken: list[list[float]] = [[] for _ in models]
    for number, content in enumerate([files[0], *files]):
        tries: list[list[float]] = [[] for _ in models]
        for _ in range(TRIES if number else 1):  # the first one warms up
            for model, seconds in zip(models, tries, strict=True):
                began = time.perf_counter()
                model.classify([model.prepare(content)])
                seconds.append(time.perf_counter() - began)
        if number:
            for fastest, seconds in zip(taken, tries, strict=True):
                fastest.append(min(seconds))
    return [median(fastest) for fastest in taken]


def _cost(one: Gathered, latency: float) -> Cost:
    with local_model(f"runs:/{one.run_id}/model") as folder:
        size = sum(path.stat().st_size for path in folder.rglob(WEIGHTS_FILE))
    return Cost(
        seconds=one.metrics["time/total_seconds"],
        trainable=int(one.metrics["parameters/trainable"]),
        parameters=int(one.metrics["parameters/total"]),
        megabytes=size / 1e6,
        latency=latency,
    )
