"""Classify files one batch at a time: as many as there are, in the memory that a few take."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tlkit.data.images import UnreadablePicture, read_bytes
from tlkit.data.threads import done_ahead
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
    size = pictures_a_batch(views)

    def prepare(path: Path) -> tuple[Path, Prepared | str]:
        return path, _prepare(ensemble, path, views)

    prepared = done_ahead(prepare, paths, threads=workers, ahead=2 * size)
    while batch := list(islice(prepared, size)):
        rows = iter(ensemble.classify([said for _, said in batch if not isinstance(said, str)]))
        for path, said in batch:
            if isinstance(said, str):
                yield Prediction(path, None, said)
            else:
                yield Prediction(path, next(rows))


def _prepare(ensemble: Ensemble, path: Path, views: int) -> Prepared | str:
    try:
        return ensemble.prepare(read_bytes(path, ensemble.max_pixels), views)
    except UnreadablePicture as error:
        return str(error)
