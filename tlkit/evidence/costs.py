"""What a model costs: to train, to keep, to ask."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tlkit.evidence.gathered import Gathered
from tlkit.serving.classifier import WEIGHTS_FILE
from tlkit.serving.ensemble import Ensemble
from tlkit.tracking.lookup import local_model


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        seconds: of its whole run.
        megabytes: of its weights on disk.
        latency: seconds from a picture's bytes to its probabilities, one at a time, median.
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


def latencies(models: Sequence[Ensemble], files: Sequence[bytes]) -> list[float]:
    """Seconds from the bytes of one picture to its probabilities, the median for each model.

    The models take turns, so that what else the machine does hits all of them.
    """
    taken: list[list[float]] = [[] for _ in models]
    for number, content in enumerate([files[0], *files]):
        for model, seconds in zip(models, taken, strict=True):
            began = time.perf_counter()
            model.classify([model.prepare(content)])
            if number:  # the first one warms up
                seconds.append(time.perf_counter() - began)
    return [median(seconds) for seconds in taken]


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
