"""Classify files one batch at a time: as many as there are, in the memory that a few take."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tlkit.data.images import UnreadablePicture, read_bytes
from tlkit.serving.ensemble import Ensemble, pictures_a_batch

Prepared = tuple[Tensor, ...]


@dataclass(frozen=True)
class Prediction:
    """One file.

    Attributes:
        probabilities: float64 (classes,), or None where the file is no picture.
        reason: why it is none, else "".
    """

    path: Path
    probabilities: NDArray[np.float64] | None
    reason: str = ""


def classify_files(
    ensemble: Ensemble, paths: Iterable[Path], *, views: int = 1, workers: int = 2
) -> Iterator[Prediction]:
    """The predictions in the order of `paths`; at most three batches are in memory.

    Args:
        workers: threads that read and decode while the network runs.
    """
    remaining, size = iter(paths), pictures_a_batch(views)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        ahead: deque[tuple[Path, Future[Prepared | str]]] = deque()

        def fill() -> None:
            for path in islice(remaining, 3 * size - len(ahead)):
                ahead.append((path, pool.submit(_prepare, ensemble, path, views)))

        fill()
        while ahead:
            batch = [ahead.popleft() for _ in range(min(size, len(ahead)))]
            results = [(path, future.result()) for path, future in batch]
            fill()
            rows = iter(ensemble.classify([r for _, r in results if not isinstance(r, str)]))
            for path, result in results:
                if isinstance(result, str):
                    yield Prediction(path, None, result)
                else:
                    yield Prediction(path, next(rows))


def _prepare(ensemble: Ensemble, path: Path, views: int) -> Prepared | str:
    try:
        return ensemble.prepare(read_bytes(path, ensemble.max_pixels), views)
    except UnreadablePicture as error:
        return str(error)
