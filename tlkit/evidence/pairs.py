"""Every two of several runs on the same test pictures, and the verdict on the best one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from tlkit.evaluation.comparison import PairedComparison, compare_paired, holm
from tlkit.evidence.gathered import Gathered

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Pair:
    """Two of the runs: what speaks for `candidate` is positive.

    Attributes:
        p_holm: p-value of the exact test, corrected for the number of pairs (Holm 1979).
        agreement: share of the test pictures that both put into the same class.
        kappa: Cohen's, agreement beyond chance; nan where both know one class only.
    """

    candidate: str
    reference: str
    found: PairedComparison
    p_holm: float
    agreement: float
    kappa: float

    @property
    def told_apart(self) -> bool:
        """Whether the difference is significant at 5 % over all pairs together."""
        return self.p_holm <= SIGNIFICANCE


def compare_all(runs: Sequence[Gathered], groups: NDArray[np.int64] | None = None) -> list[Pair]:
    """Every two of the runs, the later one as the candidate.

    groups: of the test pictures, int64 (n,); None: each stands for itself.
    """
    twos = list(combinations(runs, 2))
    found = [compare_paired(b.right, a.right, groups) for a, b in twos]
    adjusted = holm([each.p_value for each in found])
    return [
        Pair(
            candidate=b.name,
            reference=a.name,
            found=each,
            p_holm=p,
            agreement=float((a.predicted == b.predicted).mean()),
            kappa=_kappa(a.predicted, b.predicted),
        )
        for (a, b), each, p in zip(twos, found, adjusted, strict=True)
    ]


def _kappa(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    if len(set(one) | set(other)) == 1:
        return float("nan")  # scikit-learn divides by zero, with a warning
    return float(cohen_kappa_score(one, other))


def verdict(runs: Sequence[Gathered], pairs: Sequence[Pair]) -> str:
    """What the pairs say of the run with the highest test accuracy, in a sentence."""
    best = max(runs, key=lambda one: one.right.mean())
    apart: list[str] = []
    alike: list[str] = []
    for pair in pairs:
        if best.name not in (pair.candidate, pair.reference):
            continue
        ahead = pair.candidate == best.name
        other = pair.reference if ahead else pair.candidate
        found = pair.found
        low, high = (found.low, found.high) if ahead else (-found.high, -found.low)
        gain = found.difference if ahead else -found.difference
        said = (
            f"{other} ({points(gain)} points, 95 % interval {points(low)} to {points(high)}, "
            f"p = {pair.p_holm:.2g})"
        )
        (apart if pair.told_apart else alike).append(said)
    parts = []
    if apart:
        parts.append(f"is better than {_and(apart)}")
    if alike:
        parts.append(f"is not told apart from {_and(alike)}")
    right = int(best.right.sum())
    return (
        f"{best.name}, right on {right} of {len(best.labels)} test pictures, {' and '.join(parts)}."
    )


def points(share: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # -0.0 + 0.0 is 0.0


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
