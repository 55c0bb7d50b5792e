"""Whether a window of served predictions is like the predictions on the validation pictures.

Each quantity is tested alone and the family is corrected, after Rabanser, Günnemann and Lipton,
"Failing Loudly" (2019), who find univariate tests on few dimensions, corrected by Bonferroni, as
good as multivariate ones. The tests take the rows of both samples as independent: pictures of one
burst or film are not, and alarm too often.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, ks_2samp

from tlkit.evaluation.comparison import holm

CLASS_MIX, CONFIDENCE = "class mix", "confidence"
LIGHT = ("brightness", "contrast")

# Pearson's statistic follows its limit far out in the tail, where a corrected family looks, only
# from about here on; 5, the usual rule, gave up to 1.4 times the stated rate at p = 0.001.
_LEAST_EXPECTED = 20
# A permutation test ends once so many draws are as far off as what was seen: the p-value is known
# to a tenth of itself.
_ENOUGH = 100
_CHUNK = 1_000
_SEED = 0

# Of confidence, brightness and contrast. Engines and batch sizes differ by less. Unrounded, a model
# whose confidences crowd below 1 would alarm for the engine that it is served with.
_DECIMALS = 4


@dataclass(frozen=True, eq=False)
class Sample:
    """What was said of n pictures, one row each.

    predicted: integer (n,). confidence: float (n,) in 0..1, of the predicted class. embedding:
    float (n, k), the pooled features along the first k principal directions of the validation
    features; k may be 0. light: float (m, 2) in 0..1, brightness and contrast of m of the pictures.

    Raises ValueError where these do not fit or are not finite.
    """

    predicted: NDArray[np.integer]
    confidence: NDArray[np.floating]
    embedding: NDArray[np.floating]
    light: NDArray[np.floating]

    def __post_init__(self) -> None:
        n = len(self)
        if self.predicted.ndim != 1 or not np.issubdtype(self.predicted.dtype, np.integer):
            seen = f"{self.predicted.dtype} {self.predicted.shape}"
            raise ValueError(f"predicted classes are {seen}: needs integers (n,)")
        if self.confidence.shape != (n,):
            raise ValueError(f"confidences have shape {self.confidence.shape}: needs ({n},)")
        if self.embedding.ndim != 2 or len(self.embedding) != n:
            raise ValueError(f"embeddings have shape {self.embedding.shape}: needs ({n}, k)")
        bad = np.flatnonzero(~((self.confidence >= 0) & (self.confidence <= 1)))
        if bad.size:
            seen = f"{self.confidence[bad[0]]:g}"
            raise ValueError(f"confidence of row {bad[0]} is {seen}: needs 0 to 1")
        bad = np.flatnonzero(~np.isfinite(self.embedding).all(axis=1))
        if bad.size:
            raise ValueError(f"embedding of row {bad[0]} is not finite")
        if self.light.ndim != 2 or self.light.shape[1] != len(LIGHT) or len(self.light) > n:
            shape = self.light.shape
            raise ValueError(f"light has shape {shape}: needs (m, {len(LIGHT)}), m at most {n}")
        bad = np.flatnonzero(~((self.light >= 0) & (self.light <= 1)).all(axis=1))
        if bad.size:
            raise ValueError(f"light of row {bad[0]} is {self.light[bad[0]]}: needs 0 to 1")

    def __len__(self) -> int:
        return len(self.predicted)

    @property
    def directions(self) -> int:
        """k, the number of principal directions."""
        return int(self.embedding.shape[1])


@dataclass(frozen=True)
class Finding:
    """One quantity compared.

    name: "class mix", "confidence", "brightness", "contrast" or "embedding 0", .... psi:
    population stability index. statistic: Pearson's chi-square for the class mix, otherwise the
    largest distance between the two distribution functions, 0..1. p_value: of this test alone.
    adjusted_p_value: after Holm. alarm: whether the latter is at most alpha.
    """

    name: str
    psi: float
    statistic: float
    p_value: float
    adjusted_p_value: float
    alarm: bool


def drift(reference: Sample, window: Sample, classes: int, *, alpha: float = 0.01) -> list[Finding]:
    """Class mix, confidence, brightness, contrast and embedding of `window` against `reference`.

    classes: predictions are 0..classes-1. alpha: without drift, the highest rate of looks with any
    alarm at all, 0.001..0.5. The rate is a mean over references: looks at one and the same
    reference share its luck, the more so the smaller it is beside the window: of 20 references of
    200 rows the worst alarmed in 5 % of windows of 50 and in 18 % of windows of 1000 at 0.01.

    The class mix is compared by Pearson's chi-square test of homogeneity, by its permutation
    version (seeded, hence repeatable) where a count below 20 is expected; the others by the
    two-sample Kolmogorov-Smirnov test, all but the embedding rounded to 4 decimals. Holm's
    correction (1979) raises an alarm in the same looks as Bonferroni's and names more of what
    moved.

    The alarm goes by the tests. The PSI says how much moved, but not whether: without drift it is
    about (bins - 1) (1/n + 1/m) (Yurdakul 2018), 0.2 for 10 bins and 200 against 50.

    Raises ValueError where a sample is empty or the two do not fit.
    """
    _check(reference, window, classes, alpha)
    pairs = numeric_pairs(reference, window)
    tests = 1 + len(pairs)
    # A permutation's p-value is at least 1 / draws: far enough below what raises an alarm.
    draws = math.ceil(20 * tests / alpha)
    was, now = (np.bincount(s.predicted, minlength=classes) for s in (reference, window))
    rows = [(CLASS_MIX, population_stability_index(was, now), *_homogeneity(was, now, draws))]
    for name, old, new in pairs:
        with warnings.catch_warnings():
            # Of samples that are almost the same; the limit, which it goes over to, is 1 as well.
            warnings.filterwarnings("ignore", "ks_2samp: Exact", RuntimeWarning)
            result = ks_2samp(old, new)
        psi = quantile_stability_index(old, new)
        rows.append((name, psi, float(result.statistic), float(result.pvalue)))
    adjusted = holm([p for *_, p in rows])
    return [Finding(*row, p, p <= alpha) for row, p in zip(rows, adjusted, strict=True)]


def numeric_pairs(
    reference: Sample, window: Sample
) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Name, reference values and window values of each numeric quantity, as they are compared."""

    def numbers(sample: Sample) -> dict[str, NDArray[np.float64]]:
        columns = np.asarray(sample.embedding, dtype=np.float64).T
        rounded = {
            CONFIDENCE: sample.confidence,
            **dict(zip(LIGHT, sample.light.T, strict=True)),
        }
        return {
            **{k: np.round(v.astype(np.float64), _DECIMALS) for k, v in rounded.items()},
            **{f"embedding {k}": column for k, column in enumerate(columns)},
        }

    old, new = numbers(reference), numbers(window)
    return [(name, old[name], new[name]) for name in old]


def population_stability_index(reference_counts: ArrayLike, window_counts: ArrayLike) -> float:
    """PSI (Siddiqi 2006): sum over bins of (w - r) ln(w / r), with r and w the bins' shares.

    Both counts are integer (bins,). Half a count is added to each bin, so that an empty one does
    not make the index infinite; a bin empty in both is left out. 0 for equal counts; see
    `psi_reading`.
    """
    old, new = (np.asarray(c, dtype=np.float64) for c in (reference_counts, window_counts))
    if old.shape != new.shape or old.ndim != 1 or min(old.sum(), new.sum()) < 1:
        raise ValueError(
            f"counts have shapes {old.shape} and {new.shape}, sums {old.sum():g} and "
            f"{new.sum():g}: needs (bins,) twice and at least 1 in each"
        )
    used = old + new > 0
    r, w = (c[used] + 0.5 for c in (old, new))
    r, w = r / r.sum(), w / w.sum()
    return float(np.sum((w - r) * np.log(w / r)))


def quantile_stability_index(
    reference: NDArray[np.floating], window: NDArray[np.floating]
) -> float:
    """PSI of float (n,) against float (m,), in 10 bins that hold equal shares of the reference.

    A value that fills a bin by itself, as a confidence of 1 may, has a bin of its own: what lies
    just below must not count as the same.
    """
    edges = np.quantile(reference, np.arange(1, 10) / 10)
    repeated = edges[1:][np.diff(edges) == 0]
    edges = np.unique(np.concatenate([edges, np.nextafter(repeated, -np.inf)]))
    old, new = (
        np.bincount(np.digitize(values, edges, right=True), minlength=len(edges) + 1)
        for values in (reference, window)
    )
    return population_stability_index(old, new)


def psi_reading(psi: float) -> str:
    """The usual words: "none" below 0.1, "large" above 0.25, "some" between.

    They take no account of the sample size: a small window reads "some" or "large" by chance.
    """
    return "none" if psi < 0.1 else "large" if psi > 0.25 else "some"


def _homogeneity(
    old: NDArray[np.integer], new: NDArray[np.integer], draws: int
) -> tuple[float, float]:
    """Statistic and p-value of the hypothesis that both counts come of one distribution."""
    pooled = (old + new)[old + new > 0]
    window = new[old + new > 0]
    if len(pooled) == 1:  # all of one class, in both: nothing that could differ
        return 0.0, 1.0
    expected = pooled * (new.sum() / pooled.sum())
    weights = 1 / expected + 1 / (pooled - expected)

    def statistic(drawn: NDArray[np.integer]) -> NDArray[np.float64]:
        # Both samples miss what is expected by the same number, with opposite signs.
        return np.asarray((drawn - expected) ** 2 @ weights, dtype=np.float64)

    seen = float(statistic(window))
    if min(expected.min(), (pooled - expected).min()) >= _LEAST_EXPECTED:
        return seen, float(chi2.sf(seen, len(pooled) - 1))
    # To permute which sample each row belongs to is to draw the window from the pool without
    # putting back. The p-value is that of Besag and Clifford, "Sequential Monte Carlo p-values"
    # (1991). Equal tables may differ in the last digits, hence the tolerance.
    rng = np.random.default_rng(_SEED)
    as_far = np.empty(0, dtype=np.int64)
    for start in range(0, draws, _CHUNK):
        drawn = rng.multivariate_hypergeometric(pooled, int(new.sum()), min(_CHUNK, draws - start))
        found = start + 1 + np.flatnonzero(statistic(drawn) >= seen * (1 - 1e-9))
        as_far = np.concatenate([as_far, found])
        if len(as_far) >= _ENOUGH:
            return seen, _ENOUGH / int(as_far[_ENOUGH - 1])
    return seen, (1 + len(as_far)) / (1 + draws)


def _check(reference: Sample, window: Sample, classes: int, alpha: float) -> None:
    if not 0.001 <= alpha <= 0.5:
        raise ValueError(f"alpha = {alpha:g}: needs 0.001 to 0.5")
    for name, sample in (("reference", reference), ("window", window)):
        if not len(sample):
            raise ValueError(f"the {name} is empty: needs at least 1 prediction")
        low, high = sample.predicted.min(), sample.predicted.max()
        if low < 0 or high >= classes:
            raise ValueError(
                f"predictions of the {name} run from {low} to {high}: needs 0 to {classes - 1}"
            )
    if reference.directions != window.directions:
        raise ValueError(
            f"embeddings of the window have {window.directions} directions: needs the "
            f"{reference.directions} of the reference"
        )
