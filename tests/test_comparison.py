"""Two classifiers on the same pictures: against formulas, a published example, simulations."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_1samp
from statsmodels.stats.proportion import confint_proportions_2indep

from tlkit.evaluation.comparison import compare_paired, holm, repeated

Answers = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def answers(n: int, seed: int = 0) -> Answers:
    """A better candidate and a reference that err on the same pictures more often than not."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    return hard + 0.1 * rng.random(n) < 0.8, hard + 0.1 * rng.random(n) < 0.75


def from_counts(only_candidate: int, only_reference: int, both: int, neither: int) -> Answers:
    cells = [(True, False), (False, True), (True, True), (False, False)]
    pairs = np.repeat(cells, [only_candidate, only_reference, both, neither], axis=0)
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize(
    ("gained", "lost"), [(9, 2), (2, 9), (5, 5), (1, 0), (0, 6), (60, 40), (0, 0)]
)
def test_p_values_are_sums_of_the_binomial_distribution(gained: int, lost: int) -> None:
    seen = compare_paired(*from_counts(gained, lost, 30, 7))
    n = gained + lost
    at_least = sum(math.comb(n, k) for k in range(gained, n + 1)) / 2**n
    extreme = sum(math.comb(n, k) for k in range(max(gained, lost), n + 1)) / 2**n
    assert seen.p_better == pytest.approx(at_least)
    assert seen.p_value == pytest.approx(min(1, 2 * extreme))
    assert (seen.only_candidate, seen.only_reference) == (gained, lost)
    assert (seen.both, seen.neither) == (30, 7)
    assert seen.difference == pytest.approx((gained - lost) / (n + 37))


def test_difference_is_that_of_the_accuracies_and_inside_the_interval() -> None:
    candidate, reference = answers(500)
    seen = compare_paired(candidate, reference)
    assert seen.difference == pytest.approx(candidate.mean() - reference.mean())
    assert seen.low < seen.difference < seen.high
    other = compare_paired(reference, candidate)
    assert other.difference == -seen.difference
    assert other.p_value == seen.p_value
    assert other.p_better > 0.5 > seen.p_better
    assert (other.low, other.high) == pytest.approx((-seen.high, -seen.low))


def test_interval_is_that_of_a_published_example() -> None:
    # Two media for tubercle bacilli on 50 samples of sputum: Altman, Machin, Bryant and Gardner
    # (2000), Statistics with Confidence, chapter 6, by Newcombe's method.
    seen = compare_paired(*from_counts(12, 2, 20, 16))
    assert (seen.low, seen.high) == pytest.approx((0.056, 0.329), abs=0.0005)


@pytest.mark.parametrize("counts", [(2, 3, 3, 3), (5, 0, 15, 0), (0, 5, 0, 15)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_of_answers_that_are_not_correlated_is_that_of_two_samples(
    counts: tuple[int, int, int, int], confidence: float
) -> None:
    # So few agree that the correction for continuity leaves no correlation, or one model is always
    # right, or always wrong.
    candidate, reference = from_counts(*counts)
    seen = compare_paired(candidate, reference, confidence=confidence)
    right, n = (int(candidate.sum()), int(reference.sum())), len(candidate)
    expected = confint_proportions_2indep(
        right[0], n, right[1], n, method="newcomb", alpha=1 - confidence
    )
    assert (seen.low, seen.high) == pytest.approx(expected)


def test_interval_has_a_width_where_each_model_names_one_class_only() -> None:
    labels = np.repeat([3, 8], [60, 40])
    seen = compare_paired(labels == 3, labels == 8)
    assert seen.difference == pytest.approx(0.2)
    assert seen.high - seen.low > 0.3


@pytest.mark.parametrize("pictures", [50, 200])
@pytest.mark.parametrize("rates", [(0.005, 0.0), (0.01, 0.005), (0.05, 0.03)])
def test_interval_covers_the_true_difference_where_few_pictures_differ(
    rates: tuple[float, float], pictures: int
) -> None:
    shares = [*rates, 0.97 * (1 - sum(rates)), 0.03 * (1 - sum(rates))]
    drawn = np.random.default_rng(3).multinomial(pictures, shares, size=500)
    outcomes, times = np.unique(drawn, axis=0, return_counts=True)
    found = [compare_paired(*from_counts(*outcome)) for outcome in outcomes.tolist()]
    covers = [one.low <= rates[0] - rates[1] <= one.high for one in found]
    # Three standard errors. A bootstrap of the pictures covers 0.63 of the first rates with 200
    # pictures, and 0.39 of the second with 50.
    assert np.average(covers, weights=times) > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 500)


def test_interval_and_test_agree_on_a_few_pictures_of_200() -> None:
    five, six = (compare_paired(*from_counts(gained, 0, 190 - gained, 10)) for gained in (5, 6))
    assert (five.p_value > 0.05, five.low < 0) == (True, True)
    assert (six.p_value < 0.05, six.low > 0) == (True, True)


def test_equal_classifiers_and_a_single_picture() -> None:
    candidate, _ = answers(50)
    same = compare_paired(candidate, candidate)
    assert same.difference == 0
    assert same.low == -same.high < 0
    assert same.p_value == same.p_better == 1
    one = compare_paired(np.array([True]), np.array([False]))
    assert (one.difference, one.p_value, one.p_better) == (1, 1, 0.5)


def test_holm_by_hand() -> None:
    # Ordered 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, and never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.4]) == pytest.approx([0.9, 0.8])
    assert holm([0.7, 0.6]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_lies_between_no_correction_and_that_of_bonferroni() -> None:
    p_values = np.random.default_rng(4).random(40) ** 3
    adjusted = np.array(holm(p_values.tolist()))
    assert (adjusted >= p_values).all()
    assert (adjusted <= np.minimum(1, 40 * p_values)).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()


TRUE = np.ones(3, dtype=bool)


@pytest.mark.parametrize(
    ("candidate", "reference", "message"),
    [
        (TRUE[:0], TRUE[:0], r"candidate has shape \(0,\): needs \(n >= 1,\)"),
        (TRUE[None], TRUE[None], r"candidate has shape \(1, 3\)"),
        (TRUE, TRUE[:2], r"reference has shape \(2,\): needs \(3,\)"),
        (TRUE * 1, TRUE, "candidate is int64: needs bool"),
        (TRUE, TRUE * 0.5, "reference is float64: needs bool"),
    ],
)
def test_refuses_what_are_no_answers(
    candidate: NDArray[np.bool_], reference: NDArray[np.bool_], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(candidate, reference)


def test_refuses_impossible_settings() -> None:
    for confidence in (0, 1, 95, math.nan):
        with pytest.raises(ValueError, match=f"confidence = {confidence}"):
            compare_paired(TRUE, TRUE, confidence=confidence)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"p-value {p}"):
            holm([0.5, p])


def test_the_interval_of_repeats_is_students() -> None:
    values = [0.91, 0.93, 0.90, 0.94, 0.92]
    found = repeated(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.deviation) == pytest.approx((0.92, np.std(values, ddof=1)))
    with pytest.raises(ValueError, match="at least 2"):
        repeated([0.9])


def test_the_interval_of_a_mean_accuracy_ends_at_0_and_1() -> None:
    good, bad = repeated([1.0, 0.99, 0.98]), repeated([0.0, 0.01, 0.02])
    assert (good.low, good.high) == (pytest.approx(0.9652, abs=1e-4), 1.0)
    assert (bad.low, bad.high) == (0.0, pytest.approx(0.0348, abs=1e-4))
