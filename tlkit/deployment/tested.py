"""What runs said of their test pictures, for a comparison on those that they share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlkit.data.manifest import read
from tlkit.errors import UserError
from tlkit.evaluation.clusters import group_numbers
from tlkit.tracking.lookup import downloaded

_NAMES = ("path", "label", "predicted")


@dataclass(frozen=True)
class Tested:
    """The test pictures of a run, by the sha256 of their content: true and predicted class, and
    the group of those that have one."""

    run_id: str
    said: dict[str, tuple[str, str]]
    groups: dict[str, str] = field(default_factory=dict)


def tested(run_id: str) -> Tested:
    """What the run left in `predictions.csv` and `data/manifest.csv`.

    Raises:
        UserError: no such run, or one that left neither.
    """
    with downloaded(run_id, "data/manifest.csv") as path:
        test = {picture.path: picture for picture in read(path, Path()).of("test")}
    rows = predictions(run_id, _NAMES).itertuples(index=False)
    return Tested(
        run_id,
        {test[row.path].sha256: (row.label, row.predicted) for row in rows},
        {picture.sha256: picture.group for picture in test.values() if picture.group},
    )


def predictions(run_id: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A run's `predictions.csv`, all of it or these columns: names as text, probabilities as the
    very numbers that are written there.

    Raises:
        UserError: no such run, or one that left none.
    """
    with downloaded(run_id, "predictions.csv") as path:
        return pd.read_csv(
            path,
            usecols=columns,
            dtype=dict.fromkeys(_NAMES, str),  # a class may be called 01,
            keep_default_na=False,  # or NA
        )


@dataclass(frozen=True)
class Shared:
    """Two runs on the test pictures that both have.

    Attributes:
        names: sha256 of each picture.
        candidate: bool (n,), whether the first run was right.
        reference: bool (n,), whether the second one was.
        groups: int64 (n,), by the first run's groups, or the second's where it has none.
        left_out: how many test pictures only one of them has.
    """

    names: tuple[str, ...]
    candidate: NDArray[np.bool_]
    reference: NDArray[np.bool_]
    groups: NDArray[np.int64]
    left_out: int


def shared(candidate: Tested, reference: Tested) -> Shared:
    """Both runs on the pictures that neither was trained or chosen on.

    Raises:
        UserError: no test picture in common, or one that they do not put into the same class.
    """
    names = tuple(sorted(set(candidate.said) & set(reference.said)))
    if not names:
        raise UserError(
            f"runs {candidate.run_id} and {reference.run_id} share no test picture; "
            "train the candidate on data whose test split holds the champion's"
        )
    if any(candidate.said[name][0] != reference.said[name][0] for name in names):
        raise UserError(
            f"runs {candidate.run_id} and {reference.run_id} give a picture to different classes; "
            "models of the same classes wanted"
        )

    def right(of: Tested) -> NDArray[np.bool_]:
        return np.array([of.said[name][0] == of.said[name][1] for name in names])

    groups = candidate.groups or reference.groups
    return Shared(
        names,
        right(candidate),
        right(reference),
        group_numbers([groups.get(name, "") for name in names]),
        len(set(candidate.said) ^ set(reference.said)),
    )
