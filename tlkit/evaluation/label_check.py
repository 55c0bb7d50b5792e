"""Which labels are to be doubted: what the other pictures make of each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of the ridge, in parts of the largest variance of a direction.
_RIDGES = np.geomspace(1e-5, 1, 21)
_AT_ONCE = 4096  # rows
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Doubt:
    """A label that the other pictures contradict.

    Attributes:
        index: of the picture.
        looks_like: the class with the highest score.
        margin: by how much more that is above the score of its label than the numbers of pictures
            alone would have it; above 0.
    """

    index: int
    looks_like: int
    margin: float


def doubts(features: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> list[Doubt]:
    """The doubtful labels, the most doubtful first, equals by index; of a class with one picture
    nothing can be said.

    Each picture is classified by least squares with a ridge, fitted to all pictures but itself. No
    network may have learned the features from these labels: it would have learned their faults.
    What such a fit says of features without information, which is the shares of the classes without
    the picture, is no doubt: or the pictures of a rare class would be named for being rare.

    Args:
        features: (n, d) of a frozen network, n at least 3.
        labels: (n,), of which two differ at least.
    """
    counts = np.bincount(labels, minlength=classes)
    others = np.array([np.delete(counts, label).max() for label in range(classes)])
    by_shares = np.maximum(others - (counts - 1), 0) / (len(labels) - 1)
    found, first = [], 0
    for scores in left_out_scores(features, labels, classes):
        given = labels[first : first + len(scores)]
        own = scores[np.arange(len(scores)), given]
        margins = scores.max(axis=1) - own - by_shares[given]
        best = scores.argmax(axis=1)
        found += [
            Doubt(first + int(row), int(best[row]), float(margins[row]))
            for row in np.flatnonzero((margins > _ROUNDING) & (counts[given] > 1))
        ]
        first += len(scores)
    return sorted(found, key=lambda doubt: -doubt.margin)


def left_out_scores(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int
) -> Iterator[NDArray[np.float64]]:
    """What a ridge regression of the classes, 1 and 0, that was fitted without a picture predicts
    for it: (n, classes), some rows at a time.

    In one fit: the residual of a picture that is left out is its residual over 1 minus its leverage
    (Allen 1974). The ridge has the lowest error by generalised cross-validation (Golub, Heath and
    Wahba 1979); the intercept has none.
    """
    count = len(labels)
    mean = features.mean(axis=0, dtype=np.float64)
    shares = np.bincount(labels, minlength=classes) / count
    variances, directions = _principal(features, mean)
    towards = np.zeros((len(variances), classes))
    for part in _parts(count):
        targets = np.eye(classes)[labels[part]] - shares
        towards += directions.T @ ((features[part] - mean).T @ targets)
    shrunk = 1 / (variances + _ridge(variances, towards, shares, count))
    for part in _parts(count):
        targets = np.eye(classes)[labels[part]] - shares
        along = (features[part] - mean) @ directions
        leverage = 1 / count + along**2 @ shrunk
        residual = targets - along @ (towards * shrunk[:, None])
        yield shares + targets - residual / (1 - leverage)[:, None]


def _parts(count: int) -> list[slice]:
    return [slice(begin, begin + _AT_ONCE) for begin in range(0, count, _AT_ONCE)]


def _principal(
    features: NDArray[np.float32], mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums of squares (r,) along the principal directions, and these (d, r)."""
    count, size = features.shape
    if count <= size:
        _, singular, directions = np.linalg.svd(features - mean, full_matrices=False)
        return singular**2, directions.T
    product = np.zeros((size, size))
    for part in _parts(count):
        centred = features[part] - mean
        product += centred.T @ centred
    variances, directions = np.linalg.eigh(product)
    return variances.clip(min=0), directions


def _ridge(
    variances: NDArray[np.float64],
    towards: NDArray[np.float64],
    shares: NDArray[np.float64],
    count: int,
) -> float:
    """The one with the lowest generalised cross-validation error, which needs no pictures."""
    explained, total = (towards**2).sum(axis=1), count * (1 - (shares**2).sum())

    def error(ridge: float) -> float:
        kept = 1 / (variances + ridge)
        residual = total - (explained * kept * (2 - variances * kept)).sum()
        return float(residual / (count - 1 - (variances * kept).sum()) ** 2)

    # Where all features are the same, any ridge gives the shares of the classes.
    return float(min((variances.max() or 1.0) * _RIDGES, key=error))
