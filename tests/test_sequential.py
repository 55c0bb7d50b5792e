"""The sequential test: its guarantee, exactly and by simulation, and how much it needs."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from tlkit.evaluation import sequential
from tlkit.evaluation.sequential import needed_trials, sequential_difference

Array = NDArray[Any]
TILTS, WEIGHTS = sequential._TILTS, np.exp(sequential._LOG_WEIGHTS)
LIMIT = math.log(20)


def arm_terms(successes: Array, trials: Array, rate: float | Array, tilts: Array) -> Array:
    """(..., tilts): the log likelihood of a rate moved by each tilt, less that of the rate."""
    rate = np.asarray(rate)[..., None]
    moved = rate * np.exp(tilts) / (1 - rate + rate * np.exp(tilts))
    failures = (trials - successes)[..., None]
    won = successes[..., None] * np.log(moved / rate)
    return np.asarray(won + failures * np.log((1 - moved) / (1 - rate)))


def log_evidence(
    counts: Array, control: float | Array, treatment: float | Array, share: float
) -> Array:
    """The evidence against a pair of rates, 0 < rate < 1, written as ratios of likelihoods.

    counts: (..., 4), successes and trials of control, then of treatment.
    """
    s, m, t, n = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)

    def mean(terms: Array) -> Array:
        top = terms.max(axis=-1, keepdims=True)
        return np.asarray(top[..., 0] + np.log(np.exp(terms - top) @ WEIGHTS))

    contrast = mean(
        arm_terms(s, m, control, -share * TILTS) + arm_terms(t, n, treatment, (1 - share) * TILTS)
    )
    independent = mean(arm_terms(s, m, control, TILTS)) + mean(arm_terms(t, n, treatment, TILTS))
    return np.asarray(np.logaddexp(math.log(0.9) + contrast, math.log(0.1) + independent))


def simulate(
    control: float, treatment: float, share: float, repeats: int, looks: Array, seed: int
) -> Array:
    """Counts (repeats, looks, 4) of tests whose trials go to the treatment by chance."""
    rng = np.random.default_rng(seed)
    steps = np.diff(looks, prepend=0)
    treated = rng.binomial(steps, share, (repeats, len(looks)))
    parts = (
        rng.binomial(steps - treated, control),
        steps - treated,
        rng.binomial(treated, treatment),
        treated,
    )
    return np.stack(parts, axis=-1).cumsum(axis=1)


def every_outcome(m: int, n: int, control: float, treatment: float) -> tuple[Array, Array]:
    """All counts (outcomes, 4) of two arms of m and n trials, and their probabilities."""
    s, t = (grid.ravel() for grid in np.meshgrid(np.arange(m + 1), np.arange(n + 1)))
    counts = np.stack([s, np.full_like(s, m), t, np.full_like(s, n)], axis=-1)
    return counts, binom.pmf(s, m, control) * binom.pmf(t, n, treatment)


def test_evidence_is_the_mean_of_likelihood_ratios_and_1_in_expectation() -> None:
    # What Ville's inequality asks for. It holds in any order of the trials: what a trial multiplies
    # a pair of tilts by depends on its own arm and outcome alone.
    for m, n, control, treatment, share in ((9, 5, 0.5, 0.5, 0.5), (6, 8, 0.97, 0.4, 0.1)):
        counts, probabilities = every_outcome(m, n, control, treatment)
        expected = log_evidence(counts, control, treatment, share)
        assert probabilities @ np.exp(expected) == pytest.approx(1, abs=1e-9)
        seen = [
            sequential._log_evidence(control, treatment, sequential._Counts(*row), share)
            for row in counts
        ]
        assert seen == pytest.approx(expected.tolist(), abs=1e-9)


@pytest.mark.parametrize(
    ("arms", "share", "lowest"),
    [((90, 100, 118, 120), 0.5, 0.6), ((270, 300, 12, 30), 0.1, 0.0), ((4, 9, 2, 3), 0.3, 0.0)],
)
def test_interval_is_that_of_all_pairs_of_rates_with_little_evidence(
    arms: tuple[int, int, int, int], share: float, lowest: float
) -> None:
    seen = sequential_difference(*arms, share=share)
    step = (1 - lowest) / 120
    rates = lowest + step * (np.arange(120) + 0.5)
    control, treatment = np.meshgrid(rates, rates)
    inside = log_evidence(np.array(arms), control, treatment, share) < LIMIT
    differences = (treatment - control)[inside]
    assert differences.min() - 2 * step < seen.low < differences.min()
    assert differences.max() < seen.high < differences.max() + 2 * step


def suspicious(counts: Array, rate: float, share: float) -> Array:
    """Where a test of two equal rates can have decided: evidence against all equal pairs is no
    more than against the true one and against the mean rate seen."""
    found = log_evidence(counts, rate, rate, share) > LIMIT
    s, m, t, n = counts[found].T
    pooled = (s + t + 0.01) / (m + n + 0.02)
    found[found] = log_evidence(counts[found], pooled, pooled, share) > LIMIT
    return found


def at_most(rate: float, happened: Array) -> bool:
    """Whether the share that happened is the rate or less, give or take two standard errors."""
    return bool(np.mean(happened) <= rate + 2 * math.sqrt(rate * (1 - rate) / len(happened)))


LOOKS = np.arange(100, 10_001, 100)


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("rate", [0.5, 0.9, 0.98])
def test_equal_arms_rarely_raise_an_alarm_in_100_looks(rate: float, share: float) -> None:
    counts = simulate(rate, rate, share, repeats=200, looks=LOOKS, seed=round(100 * rate))
    alarms = [
        any(sequential_difference(*map(int, row), share=share).decided for row in test[looks])
        for test, looks in zip(counts, suspicious(counts, rate, share), strict=True)
    ]
    assert at_most(0.05, np.asarray(alarms))

    # The same looks through an interval for a fixed number of trials: what this test is for.
    s, m, t, n = np.moveaxis(counts, -1, 0)
    pooled = (s + t) / (m + n)
    z = (t / n - s / m) / np.sqrt(pooled * (1 - pooled) * (1 / m + 1 / n) + 1e-12)
    assert np.mean((np.abs(z) > 1.96).any(axis=1)) > 0.2


def test_true_rates_stay_inside_where_the_better_arm_so_far_has_the_next_trials() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros((400, 80, 4), dtype=int)
    now = np.zeros((400, 4), dtype=int)
    for look in range(80):
        s, m, t, n = now.T
        treated = (t + 1) / (n + 2) > (s + 1) / (m + 2) if look else rng.random(400) < 0.5
        successes = rng.binomial(10, np.where(treated, 0.8, 0.75))
        now[~treated] += np.stack([successes, np.full(400, 10), 0 * s, 0 * s], axis=-1)[~treated]
        now[treated] += np.stack([0 * s, 0 * s, successes, np.full(400, 10)], axis=-1)[treated]
        counts[:, look] = now
    missed = (log_evidence(counts, 0.75, 0.8, 0.5) >= LIMIT).any(axis=1)
    assert at_most(0.05, np.asarray(missed))


def test_mean_rates_stay_inside_where_rates_change_with_time() -> None:
    rng = np.random.default_rng(0)
    rates = np.repeat([0.95, 0.3, 0.8, 0.99], 20)[:, None] - [0.0, 0.2]
    trials = 25 * np.arange(1, 81)
    means = rates.cumsum(axis=0) / np.arange(1, 81)[:, None]
    successes = rng.binomial(25, rates, (400, 80, 2)).cumsum(axis=1)
    counts = np.stack(
        np.broadcast_arrays(successes[..., 0], trials, successes[..., 1], trials), axis=-1
    )
    missed = (log_evidence(counts, means[:, 0], means[:, 1], 0.5) >= LIMIT).any(axis=1)
    assert at_most(0.05, np.asarray(missed))


def test_coverage_at_a_single_look() -> None:
    # Over all outcomes but the least likely ones, which count as missed.
    for control, treatment in ((0.5, 0.5), (0.9, 0.95), (0.7, 0.2)):
        counts, probabilities = every_outcome(25, 15, control, treatment)
        covered = 0.0
        for row, probability in zip(counts, probabilities, strict=True):
            if probability > 5e-4:
                arms = sequential._Counts(*row)
                against = sequential._log_evidence_against(treatment - control, arms, 0.4)
                covered += probability * (against <= LIMIT)
        assert covered > 0.95


def test_a_real_difference_is_found_before_the_end_and_the_right_arm_named() -> None:
    half = np.array([5000])
    seen = [
        sequential_difference(*map(int, row))
        for row in simulate(0.90, 0.95, 0.5, repeats=10, looks=half, seed=1)[:, 0]
    ]
    assert all(test.decided and test.winner == "treatment" and test.low > 0 for test in seen)
    worse = simulate(0.95, 0.90, 0.1, repeats=6, looks=2 * half, seed=2)[:, 0]
    found = [sequential_difference(*map(int, row), share=0.1) for row in worse]
    assert all(test.decided and test.winner == "control" and test.high < 0 for test in found)


def test_a_broken_treatment_is_found_within_a_few_trials() -> None:
    assert sequential_difference(270, 285, 0, 15, share=0.05).winner == "control"
    assert sequential_difference(14, 15, 0, 15).winner == "control"


def test_arms_can_be_exchanged() -> None:
    one = sequential_difference(450, 500, 95, 100, share=0.2)
    other = sequential_difference(95, 100, 450, 500, share=0.8)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-7)
    assert other.difference == -one.difference == pytest.approx(-0.05)


def test_interval_narrows_with_trials_and_with_alpha() -> None:
    few, many = (sequential_difference(90 * k, 100 * k, 92 * k, 100 * k) for k in (1, 10))
    assert few.low < many.low < 0.02 < many.high < few.high
    loose = sequential_difference(90, 100, 92, 100, alpha=0.5)
    assert few.low < loose.low < 0.02 < loose.high < few.high


def test_few_trials_or_none_decide_nothing() -> None:
    none = sequential_difference(0, 0, 0, 0)
    assert (none.low, none.high, none.decided, none.winner) == (-1, 1, False, None)
    assert math.isnan(none.difference)
    one_arm = sequential_difference(50, 50, 0, 0)
    assert one_arm.low == -1
    # All that is known is that the control can hardly be beaten.
    assert 0 < one_arm.high < 0.3
    assert math.isnan(one_arm.difference)
    tiny = sequential_difference(0, 1, 1, 1)
    assert tiny.low < -0.9
    assert (tiny.high, tiny.difference, tiny.decided) == (1, 1, False)


def test_interval_is_found_where_no_trial_failed_and_after_very_many() -> None:
    perfect = sequential_difference(1000, 1000, 1000, 1000)
    assert -0.02 < perfect.low < 0 < perfect.high < 0.02
    assert not perfect.decided
    k = 10**8
    huge = sequential_difference(90 * k, 100 * k, 90 * k + k // 1000, 100 * k)
    # Between three and six of its standard errors on either side.
    error = math.sqrt(2 * 0.9 * 0.1 / (100 * k))
    assert 3 * error < 1e-5 - huge.low < 6 * error
    assert 3 * error < huge.high - 1e-5 < 6 * error


def test_needed_trials_grow_as_the_difference_shrinks_and_the_demands_rise() -> None:
    for rate, sign, share in ((0.9, 1, 0.5), (0.9, -1, 0.1), (0.5, 1, 0.2)):
        sizes = [0.1, 0.08, 0.03, 0.001]
        needed = [needed_trials(rate, sign * size, share=share) for size in sizes]
        assert needed == sorted(set(needed))
    usual = needed_trials(0.9, 0.05)
    assert needed_trials(0.9, 0.05, power=0.5) < usual < needed_trials(0.9, 0.05, power=0.95)
    # Where the seen difference may be the other way round, by so much that it would be shown.
    assert needed_trials(0.5, 0.05, power=0.9999) > needed_trials(0.5, 0.05, power=0.99)
    assert usual < needed_trials(0.9, 0.05, alpha=0.01)
    assert usual < needed_trials(0.9, 0.05, share=0.1)
    # A single look needs this many; any number of looks costs up to three times as much.
    single = 2 * (1.96 + 0.84) ** 2 * (0.9 * 0.1 + 0.95 * 0.05) / 0.05**2
    assert single < usual < 3 * single
    assert needed_trials(0.0, 1.0) < 40
    assert needed_trials(1.0, -0.01) == needed_trials(0.0, 0.01)


@pytest.mark.parametrize(
    ("control", "treatment", "share"), [(0.90, 0.95, 0.5), (0.6, 0.5, 0.3), (0.98, 0.96, 0.1)]
)
def test_needed_trials_show_the_difference_as_often_as_asked(
    control: float, treatment: float, share: float
) -> None:
    trials = needed_trials(control, treatment - control, share=share, power=0.8)
    counts = simulate(control, treatment, share, 150, np.array([trials]), seed=3)[:, 0]
    shown = [
        sequential._log_evidence_against(0.0, sequential._Counts(*row), share) > LIMIT
        for row in counts
    ]
    # Two and a half standard errors of 150 tests.
    assert np.mean(shown) == pytest.approx(0.8, abs=2.5 * math.sqrt(0.8 * 0.2 / 150))


def test_refuses_impossible_counts_and_settings() -> None:
    for arms, message in (
        ((3, 2, 1, 1), "control: 3 of 2: needs 0 <= successes <= trials"),
        ((-1, 2, 1, 1), "control: -1 of 2"),
        ((1, 2, 2, 1), "treatment: 2 of 1"),
    ):
        with pytest.raises(ValueError, match=message):
            sequential_difference(*arms)
    for value in (0, 1, -0.5, math.nan):
        with pytest.raises(ValueError, match=f"alpha = {value}: needs 0 < alpha < 1"):
            sequential_difference(1, 2, 1, 2, alpha=value)
        with pytest.raises(ValueError, match=f"share = {value}: needs 0 < share < 1"):
            sequential_difference(1, 2, 1, 2, share=value)
        with pytest.raises(ValueError, match=f"share = {value}: needs 0 < share < 1"):
            needed_trials(0.5, 0.1, share=value)


def test_refuses_to_plan_for_what_cannot_be_shown() -> None:
    for difference in (0, 1e-9, -1e-9):
        with pytest.raises(ValueError, match=f"difference = {difference}: needs at least 1e-06"):
            needed_trials(0.9, difference)
    with pytest.raises(ValueError, match=r"rates of 0\.9 and 1\.1: needs both in 0\.\.1"):
        needed_trials(0.9, 0.2)
    for power in (0.4, 1.0, math.nan):
        with pytest.raises(ValueError, match=f"power = {power}: needs 0.5 <= power < 1"):
            needed_trials(0.9, 0.05, power=power)
