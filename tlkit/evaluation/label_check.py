"""Which labels are to be doubted: what the other pictures make of each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of the ridge, in parts of the largest variance of a direction.
_RIDGES = np.geomspace(1e-5, 1, 21)
_AT_ONCE = 4096  # rows
# Where pictures belong together, about so many choose the ridge, and more where groups are large:
# each of the 21 is computed.
_MOST_CHOOSING = 5000
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


def doubts(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    groups: NDArray[np.int64],
) -> list[Doubt]:
    """The doubtful labels, the most doubtful first, equals by index; of a class in one group alone
    nothing can be said.

    Each picture is classified by least squares with a ridge, fitted to all pictures but those of
    its group. No network may have learned the features from these labels: it would have learned
    their faults. What such a fit says of features without information, which is the shares of the
    classes without the group, is no doubt: or the pictures of a rare class would be named for being
    rare.

    Args:
        features: (n, d) of a frozen network, n at least 3.
        labels: (n,), of which two differ at least.
        groups: (n,), as by `group_numbers`.
    """
    if not groups.any():
        return []  # of one group without the rest there is nothing to say
    counts = np.bincount(labels, minlength=classes)
    found = []
    for rows, scores in left_out_scores(features, labels, classes, groups):
        given, each = labels[rows], np.arange(len(rows))
        numbers, group = np.unique(groups[rows], return_inverse=True)
        of_group = np.zeros((len(numbers), classes), dtype=np.int64)
        np.add.at(of_group, (group, given), 1)
        others = counts - of_group[group]
        alike = others[each, given]
        others[each, given] = 0
        by_shares = np.maximum(others.max(axis=1) - alike, 0) / (others.sum(axis=1) + alike)
        margins = scores.max(axis=1) - scores[each, given] - by_shares
        best = scores.argmax(axis=1)
        found += [
            Doubt(int(rows[row]), int(best[row]), float(margins[row]))
            for row in np.flatnonzero((margins > _ROUNDING) & (alike > 0))
        ]
    return sorted(found, key=lambda doubt: (-doubt.margin, doubt.index))


def left_out_scores(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    groups: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """What a ridge regression of the classes, 1 and 0, that was fitted without a picture's group
    predicts for it: some indices of pictures and (so many, classes), group by group.

    In one fit: the residuals of a group that is left out are the inverse of 1 minus its block of
    the hat matrix times its residuals (Allen 1974, of one picture). The ridge has the lowest error
    by generalised cross-validation (Golub, Heath and Wahba 1979), or where pictures belong together
    that of these predictions; the intercept has none.
    """
    count = len(labels)
    mean = features.mean(axis=0, dtype=np.float64)
    shares = np.bincount(labels, minlength=classes) / count
    variances, directions = _principal(features, mean)
    towards = np.zeros((len(variances), classes))
    for part in _parts(count):
        targets = np.eye(classes)[labels[part]] - shares
        towards += directions.T @ ((features[part] - mean).T @ targets)
    ridges = _RIDGES * (variances.max() or 1.0)  # where all features are the same any one will do
    fit = _Fit(variances, towards, count)
    if groups.max() + 1 == count:
        ridge = _ridge(fit, shares, ridges)
    else:
        errors = np.zeros(len(ridges))
        chosen = np.flatnonzero(groups % -(-count // _MOST_CHOOSING) == 0)
        for rows in (chosen[part] for part in _whole_groups(groups[chosen])):
            targets = np.eye(classes)[labels[rows]] - shares
            along = (features[rows] - mean) @ directions
            for i, one in enumerate(ridges):
                errors[i] += (_left_out(fit, one, along, targets, groups[rows]) ** 2).sum()
        ridge = float(ridges[errors.argmin()])
    for rows in _whole_groups(groups):
        targets = np.eye(classes)[labels[rows]] - shares
        along = (features[rows] - mean) @ directions
        yield rows, shares + targets - _left_out(fit, ridge, along, targets, groups[rows])


@dataclass(frozen=True)
class _Fit:
    """What a ridge regression of `count` centred rows needs to know of them.

    Attributes:
        variances: the sums of squares along the principal directions, (r,).
        towards: what the targets sum up to along them, (r, classes).
    """

    variances: NDArray[np.float64]
    towards: NDArray[np.float64]
    count: int


def _left_out(
    fit: _Fit,
    ridge: float,
    along: NDArray[np.float64],
    targets: NDArray[np.float64],
    groups: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The residuals (n, classes) of whole groups, each fitted without it.

    Args:
        along: centred features in principal directions, (n, r).
        targets: centred, (n, classes).
        groups: (n,), those of a group in a row.
    """
    shrunk = 1 / (fit.variances + ridge)
    residual: NDArray[np.float64] = targets - along @ (fit.towards * shrunk[:, None])
    leverage = 1 / fit.count + along**2 @ shrunk
    ends = np.flatnonzero(np.diff(groups)) + 1
    for first, last in zip([0, *ends], [*ends, len(groups)], strict=True):
        if last - first > 1:
            own = np.insert(along[first:last] * np.sqrt(shrunk), 0, fit.count**-0.5, axis=1)
            residual[first:last] = _without_block(own, residual[first:last])
        else:
            residual[first] /= 1 - leverage[first]
    return residual


def _without_block(own: NDArray[np.float64], residual: NDArray[np.float64]) -> NDArray[np.floating]:
    """The inverse of 1 - own own' times the residuals, by the smaller of both its sides."""
    rows, size = own.shape
    if rows <= size:
        return np.linalg.solve(np.eye(rows) - own @ own.T, residual)
    return residual + own @ np.linalg.solve(np.eye(size) - own.T @ own, own.T @ residual)


def _whole_groups(groups: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Indices, those of a group together, _AT_ONCE at a time or one group that is larger."""
    order = np.argsort(groups, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(groups[order])) + 1, len(order))
    begin = 0
    while begin < len(order):
        fitting = ends[(ends > begin) & (ends <= begin + _AT_ONCE)]
        end = int(fitting[-1] if len(fitting) else ends[ends > begin][0])
        yield order[begin:end]
        begin = end


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


def _ridge(fit: _Fit, shares: NDArray[np.float64], ridges: NDArray[np.float64]) -> float:
    """The one with the lowest generalised cross-validation error, which needs no pictures."""
    explained, total = (fit.towards**2).sum(axis=1), fit.count * (1 - (shares**2).sum())

    def error(ridge: float) -> float:
        kept = 1 / (fit.variances + ridge)
        residual = total - (explained * kept * (2 - fit.variances * kept)).sum()
        return float(residual / (fit.count - 1 - (fit.variances * kept).sum()) ** 2)

    return float(min(ridges, key=error))
