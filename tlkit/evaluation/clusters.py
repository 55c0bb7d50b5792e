"""Pictures that belong together, such as those of one patient, tell less than as many others.

What is right or wrong about one of them is so about the others more often than by chance, so a
formula for independent pictures gives intervals that are too narrow and p-values that are too
small. Where each picture stands for itself, all here comes to what it is for independent pictures.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, norm
from scipy.stats import t as student


def group_numbers(groups: Sequence[str]) -> NDArray[np.int64]:
    """A number for each name, int64 (n,); of those called "" each has one of its own."""
    found: dict[str | int, int] = {}
    names = (group or index for index, group in enumerate(groups))
    return np.array([found.setdefault(name, len(found)) for name in names], dtype=np.int64)


def effective_size(
    values: NDArray[np.floating], groups: NDArray[np.int64], confidence: float = 0.95
) -> float:
    """How many independent pictures would tell as much of the mean of `values`, 0..n.

    n over the design effect, 1 + (m - 1) ICC (Kish 1965), m being the mean size of the group that a
    picture is in, and ICC the correlation within groups by an analysis of variance (Donner 1986),
    0..1. With G groups, times (z / t)^2, quantiles of the normal distribution and of Student's with
    G - 1 degrees of freedom (Korn and Graubard 1998). Only groups with another value than the most
    common one tell of the correlation, and where they are few, as with few mistakes, it comes out
    as 0 too often. So it is averaged with 1/2, which counts as one such group (docs/LOG.md has the
    simulations). A single group tells nothing of others: 0.

    Args:
        values: float (n,), n >= 1; of any range, as 0 and 1, or -1 to 1.
        groups: a number for each, from 0 on, without gaps.
    """
    n, sizes = len(values), np.bincount(groups)
    count = len(sizes)
    if count == n:
        return float(n)
    if count == 1:
        return 0.0
    size = float((sizes**2).sum() / n)
    common = max(Counter(values.tolist()).items(), key=lambda item: (item[1], item[0]))[0]
    telling = len(np.unique(groups[values != common]))
    correlation = (telling * _correlation(values, groups, sizes, size) + 0.5) / (telling + 1)
    effect = 1 + (size - 1) * correlation
    half = (1 + confidence) / 2
    return n / effect * float(norm.ppf(half) / student.ppf(half, count - 1)) ** 2


def _correlation(
    values: NDArray[np.floating],
    groups: NDArray[np.int64],
    sizes: NDArray[np.int64],
    mean_size: float,
) -> float:
    """The intraclass correlation, 0..1."""
    n, count = len(values), len(sizes)
    means = np.bincount(groups, weights=values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (count - 1)
    within = float(((values - means[groups]) ** 2).sum()) / (n - count)
    usual_size = (n - mean_size) / (count - 1)
    spread = between + (usual_size - 1) * within
    # All values are equal where there is no spread.
    return min(max((between - within) / spread, 0.0), 1.0) if spread else 0.0


def sign_flip_p_values(
    differences: NDArray[np.integer], groups: NDArray[np.int64]
) -> tuple[float, float]:
    """Exact p-values of the sum of `differences` if each group's sum had either sign by chance
    (Fisher 1935): two-sided, and that of a sum so large.

    Of pictures that each stand for themselves this is McNemar's exact test.

    Args:
        differences: integers (n,).
        groups: a number for each, from 0 on, without gaps.
    """
    sums = np.bincount(groups, weights=differences).round().astype(np.int64)
    sizes = Counter(np.abs(sums[sums != 0]).tolist())
    if not sizes:
        return 1.0, 1.0
    if len(sizes) == 1:
        ahead, number = int((sums > 0).sum()), sizes.total()
        better = binomtest(ahead, number, alternative="greater")
        return float(binomtest(ahead, number).pvalue), float(better.pvalue)
    chances = np.ones(1)  # of the sums -reach, -reach + 2, ..., reach
    for size, count in sizes.items():
        # So many with their sum ahead, in steps of twice the size, of which half a step is one.
        spread = np.zeros(size * count + 1)
        spread[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, spread)
    reach, seen = len(chances) - 1, int(sums.sum())
    ahead_by = 2 * np.arange(reach + 1) - reach
    two_sided = chances[np.abs(ahead_by) >= abs(seen)].sum()
    return min(1.0, float(two_sided)), min(1.0, float(chances[ahead_by >= seen].sum()))
