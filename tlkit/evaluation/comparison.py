"""Is one classifier better than another one? Both judged on the same pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from tlkit.evaluation.clusters import effective_size, sign_flip_p_values
from tlkit.evaluation.metrics import accuracy_interval


@dataclass(frozen=True)
class PairedComparison:
    """A candidate against a reference; what speaks for the candidate is positive.

    difference: the candidate's accuracy minus the reference's, in -1..1.
    low, high: confidence interval of the difference (Newcombe 1998).
    p_value: exact test of "both are right equally often", two-sided.
    p_better: the same test of "the candidate is right no more often", one-sided.
    groups: how many the pictures fall into; as many as pictures where each stands for itself.
    only_candidate, only_reference, both, neither: how many pictures each got right.
    """

    difference: float
    low: float
    high: float
    p_value: float
    p_better: float
    groups: int
    only_candidate: int
    only_reference: int
    both: int
    neither: int


def compare_paired(
    candidate: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    groups: NDArray[np.int64] | None = None,
    *,
    confidence: float = 0.95,
) -> PairedComparison:
    """Two classifiers on the same n >= 1 pictures.

    The test is McNemar's (1947) in its exact form, with the binomial distribution of the pictures
    that one of the two got right; of pictures that belong together it flips the signs of groups
    (`sign_flip_p_values`). Both p-values are 1 where there is no such picture. The interval is of
    so many pictures as tell as much (`effective_size`).

    Args:
        candidate: bool (n,), whether it was right.
        reference: the same.
        groups: int64 (n,), as by `group_numbers`; None: each picture stands for itself.
    """
    _check(candidate, reference)
    if groups is None:
        groups = np.arange(len(candidate))
    if groups.shape != candidate.shape:
        raise ValueError(f"groups have shape {groups.shape}: needs {candidate.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}: needs 0 < confidence < 1")
    only_candidate = int(np.sum(candidate & ~reference))
    only_reference = int(np.sum(reference & ~candidate))
    both, neither = int(np.sum(candidate & reference)), int(np.sum(~(candidate | reference)))
    differences = candidate.astype(np.int64) - reference
    size = effective_size(differences.astype(np.float64), groups, confidence)
    low, high = _difference_interval(
        only_candidate, only_reference, both, neither, confidence, size
    )
    p_value, p_better = sign_flip_p_values(differences, groups)
    return PairedComparison(
        difference=(only_candidate - only_reference) / len(candidate),
        low=low,
        high=high,
        p_value=p_value,
        p_better=p_better,
        groups=int(groups.max()) + 1,
        only_candidate=only_candidate,
        only_reference=only_reference,
        both=both,
        neither=neither,
    )


def _difference_interval(
    only_candidate: int,
    only_reference: int,
    both: int,
    neither: int,
    confidence: float,
    effective: float,
) -> tuple[float, float]:
    """Newcombe's paired score interval (1998, method 10), within -1..1, of `effective` pictures.

    It puts together Wilson's intervals of the two accuracies, and holds what it promises where few
    pictures differ, or none: a bootstrap of the pictures then has hardly any width.
    """
    if not effective:
        return -1.0, 1.0
    n = only_candidate + only_reference + both + neither
    right, other_right = both + only_candidate, both + only_reference
    accuracy, other = right / n, other_right / n
    low, high = accuracy_interval(right, n, confidence, effective=effective)
    other_low, other_high = accuracy_interval(other_right, n, confidence, effective=effective)
    # Correlation of the answers, with the paper's correction for continuity where they agree.
    covariance: float = both * neither - only_candidate * only_reference
    if covariance > 0:
        # n / 2 for counts that sum to `effective`, in terms of those that sum to n.
        covariance = max(covariance - n**2 / (2 * effective), 0)
    spread = math.sqrt(right * (n - right) * other_right * (n - other_right))
    phi = covariance / spread if spread else 0.0

    def reach(one: float, another: float) -> float:
        return math.sqrt(max(one**2 - 2 * phi * one * another + another**2, 0.0))

    difference = (only_candidate - only_reference) / n
    return (
        difference - reach(accuracy - low, other_high - other),
        difference + reach(other - other_low, high - accuracy),
    )


@dataclass(frozen=True)
class Repeated:
    """A share measured with several seeds.

    deviation: the sample standard deviation. low, high: interval of the mean, within 0..1.
    """

    mean: float
    deviation: float
    low: float
    high: float


def repeated(values: Sequence[float]) -> Repeated:
    """Student's 95 % interval of the mean of n >= 2 independent, roughly normal shares in 0..1."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} values: needs at least 2")
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = float(student.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    # Near an end a normal distribution goes beyond what a share can be.
    return Repeated(mean, deviation, max(0.0, mean - reach), min(1.0, mean + reach))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, adjusted for their number (Holm 1979), in the order given.

    Rejecting those of at most alpha rejects any true hypothesis with probability alpha at most,
    however the tests depend on each other.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"p-value {p}: needs 0 to 1")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _check(candidate: NDArray[np.bool_], reference: NDArray[np.bool_]) -> None:
    if candidate.ndim != 1 or not candidate.size:
        raise ValueError(f"candidate has shape {candidate.shape}: needs (n >= 1,)")
    if reference.shape != candidate.shape:
        raise ValueError(
            f"reference has shape {reference.shape}: needs {candidate.shape}, the candidate's"
        )
    for name, array in (("candidate", candidate), ("reference", reference)):
        if array.dtype != np.bool_:
            raise ValueError(f"{name} is {array.dtype}: needs bool")
