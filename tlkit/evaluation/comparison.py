"""Is one classifier better than another one? Both judged on the same pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from scipy.stats import t as student


@dataclass(frozen=True)
class PairedComparison:
    """A candidate against a reference; what speaks for the candidate is positive.

    difference: the candidate's accuracy minus the reference's, in -1..1.
    low, high: confidence interval of the difference.
    p_value: McNemar's exact test of "both are right equally often", two-sided.
    p_better: the same test of "the candidate is right no more often", one-sided.
    only_candidate, only_reference, both, neither: how many pictures each got right.
    """

    difference: float
    low: float
    high: float
    p_value: float
    p_better: float
    only_candidate: int
    only_reference: int
    both: int
    neither: int


def compare_paired(
    candidate: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    confidence: float = 0.95,
    repeats: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """Two classifiers on the same n >= 1 pictures.

    candidate, reference: bool (n,), whether each was right. The interval is the percentile
    bootstrap (Efron & Tibshirani 1993, section 13.3) of all pictures, both answers to a picture
    kept together; drawn within their classes, it would be far too narrow for classes of few
    pictures. It is approximate, and without width where no picture tells the two apart. The tests
    are exact (McNemar 1947, with the binomial distribution of the pictures that one of the two got
    right); both p-values are 1 where there is none.
    """
    _check(candidate, reference)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}: needs 0 < confidence < 1")
    if repeats < 1:
        raise ValueError(f"repeats = {repeats}: needs at least 1")
    n = len(candidate)
    gains = candidate.astype(np.int64) - reference
    # The pictures that only the reference got right, that both or neither did, and that only the
    # candidate did. Drawing pictures with replacement draws these three counts.
    counts = np.bincount(gains + 1, minlength=3)
    worse, _, better = np.random.default_rng(seed).multinomial(n, counts / n, size=repeats).T
    tail = (1 - confidence) / 2
    low, high = np.quantile((better - worse) / n, [tail, 1 - tail])

    only_reference, _, only_candidate = (int(count) for count in counts)
    discordant = only_candidate + only_reference
    p_value = p_better = 1.0
    if discordant:
        p_value = float(binomtest(only_candidate, discordant).pvalue)
        p_better = float(binomtest(only_candidate, discordant, alternative="greater").pvalue)
    return PairedComparison(
        difference=(only_candidate - only_reference) / n,
        low=float(low),
        high=float(high),
        p_value=p_value,
        p_better=p_better,
        only_candidate=only_candidate,
        only_reference=only_reference,
        both=int(np.sum(candidate & reference)),
        neither=int(np.sum(~(candidate | reference))),
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


def repeated(values: Sequence[float], confidence: float = 0.95) -> Repeated:
    """Student's interval of the mean of n >= 2 independent, roughly normal shares in 0..1."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} values: needs at least 2")
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = (
        float(student.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / len(values) ** 0.5
    )
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
