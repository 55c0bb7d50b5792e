"""Which of two arms succeeds more often, looked at any number of times while trials come in.

The interval is a confidence sequence: one may look at it after every trial and stop at any look.
A confidence interval for a fixed number of trials allows a single look.

How it is made. Let p and q be the rates of control and treatment, s of m and t of n their successes
so far. For any two numbers a and b, the tilts,

    exp(a s - m log(1 - p + p e^a)) * exp(b t - n log(1 - q + q e^b))

begins at 1 and keeps its expectation with every trial, whichever arm has it, and so does its mean
over a distribution of tilts: the evidence against (p, q). That is definition 1, with psi_B, and
the mixture of lemma 2 (eq. 3.6) and theorem 2 (discrete, eq. 3.10) of Howard, Ramdas, McAuliffe &
Sekhon 2021, Time-uniform, nonparametric, nonasymptotic confidence sequences, Ann. Statist. 49(2).
The evidence against the true pair ever reaches 1 / alpha with probability alpha at most (Ville
1939). So the pairs with less hold the true one at all times with probability 1 - alpha, and their
differences q - p hold the true difference. Multiplying over arms and taking the least evidence
over the pairs with one difference is what Spertus, Sridhar & Stark 2024, Sequential stratified
inference for the mean, arXiv:2409.06680, do over strata. As the logarithms are concave in p and q,
mean rates stand for rates that change: the evidence against them is only less.
"""

from dataclasses import dataclass
from math import log, nan, sqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

# Tilts are differences of log odds, Cauchy around 0: half of them within 90 % against 93 %, and
# enough far out for an arm that is broken. Spaced geometrically as in eq. 3.9, so that small
# differences find theirs too, after many trials.
_SCALE = 0.4
_SIZES = np.geomspace(1e-6, 8, 75)
_TILTS = np.concatenate([-_SIZES[::-1], _SIZES])
_DENSITY = np.abs(_TILTS) / (1 + (_TILTS / _SCALE) ** 2)
_LOG_WEIGHTS = np.log(_DENSITY / _DENSITY.sum())

# Most of the weight is on pairs of tilts that move the rates apart and leave their level alone; the
# rest, on independent pairs, is evidence against levels far from what was seen.
_CONTRAST = 0.9

# The smallest tilts are of use to differences down to here.
_SMALLEST_DIFFERENCE = 1e-6


class _Counts(NamedTuple):
    """What has been seen, or in planning would be: then no whole numbers."""

    control_successes: float
    control_trials: float
    treatment_successes: float
    treatment_trials: float


@dataclass(frozen=True)
class SequentialTest:
    """Two arms so far: `control` is the champion, `treatment` the challenger.

    difference: the treatment's rate minus the control's; nan while an arm has no trial.
    low, high: the confidence sequence of the difference, in -1..1.
    decided: whether 0 is outside of it; winner: the better arm if so, otherwise None.
    """

    control_successes: int
    control_trials: int
    treatment_successes: int
    treatment_trials: int
    difference: float
    low: float
    high: float
    decided: bool
    winner: Literal["control", "treatment"] | None


def sequential_difference(
    control_successes: int,
    control_trials: int,
    treatment_successes: int,
    treatment_trials: int,
    *,
    alpha: float = 0.05,
    share: float = 0.5,
) -> SequentialTest:
    """The difference of two success rates, from the counts so far, at any number of looks.

    With probability 1 - alpha at least, the true difference is inside the interval at all looks
    together, after few trials as after many. Which arm has the next trial may depend on everything
    before it. An arm's rate may change with time: the difference is then that of the mean rates,
    each over the arm's own trials so far.

    share: the part of the trials planned for the treatment, 0 < share < 1. To be fixed before the
    first trial, not read off the counts. The guarantee holds wherever the trials go; the interval
    is narrowest where they follow the plan.
    """
    arms = (control_successes, control_trials, treatment_successes, treatment_trials)
    for name, successes, trials in (("control", *arms[:2]), ("treatment", *arms[2:])):
        if not 0 <= successes <= trials:
            raise ValueError(f"{name}: {successes} of {trials}: needs 0 <= successes <= trials")
    _check_inside(alpha=alpha, share=share)
    counts, limit = _Counts(*arms), -log(alpha)
    # The evidence against the rates that were seen is at most 1: their difference is inside. It is
    # convex in the difference, so that it reaches the limit once on either side at most.
    control = control_successes / control_trials if control_trials else 0.5
    treatment = treatment_successes / treatment_trials if treatment_trials else 0.5
    seen = treatment - control

    def excess(difference: float) -> float:
        return _log_evidence_against(difference, counts, share) - limit

    low, high = (
        float(brentq(excess, seen, end, xtol=1e-9)) if excess(end) > 0 else end
        for end in (-1.0, 1.0)
    )
    winner: Literal["control", "treatment"] | None = None
    if low > 0 or high < 0:
        winner = "treatment" if low > 0 else "control"
    return SequentialTest(
        *arms,
        difference=seen if control_trials and treatment_trials else nan,
        low=low,
        high=high,
        decided=winner is not None,
        winner=winner,
    )


def needed_trials(
    rate: float,
    difference: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    share: float = 0.5,
) -> int:
    """Trials of both arms together, from the first one on, until a difference will be shown.

    rate: the control's success rate in 0..1; the treatment's is rate + difference. power: how
    likely it is shown by then, 0.5 <= power < 1. The number solves for the interval of
    `sequential_difference` to leave 0 out where the seen difference falls short of the true one by
    as much as 1 - power of all tests do, in the normal approximation; a test may decide earlier.

    Raises ValueError for a difference within 1e-6 of 0, which counts as none.
    """
    other = rate + difference
    if not (0 <= rate <= 1 and 0 <= other <= 1):
        raise ValueError(f"rates of {rate} and {other}: needs both in 0..1")
    if abs(difference) < _SMALLEST_DIFFERENCE:
        raise ValueError(f"difference = {difference}: needs at least {_SMALLEST_DIFFERENCE}")
    if not 0.5 <= power < 1:
        raise ValueError(f"power = {power}: needs 0.5 <= power < 1")
    _check_inside(alpha=alpha, share=share)
    control_variance = rate * (1 - rate) / (1 - share)
    treatment_variance = other * (1 - other) / share
    variance = control_variance + treatment_variance

    def is_shown(trials: int) -> bool:
        shortfall = float(norm.ppf(power)) * sqrt(variance / trials)
        if shortfall >= abs(difference):
            return False
        # Each arm falls short by its part of the variance: the most likely way to be so unlucky.
        per_variance = np.copysign(shortfall, difference) / max(variance, np.finfo(float).tiny)
        control, treatment = (1 - share) * trials, share * trials
        counts = _Counts(
            control * (rate + per_variance * control_variance),
            control,
            treatment * (other - per_variance * treatment_variance),
            treatment,
        )
        return _log_evidence_against(0.0, counts, share) > -log(alpha)

    enough = 1
    while not is_shown(enough):
        enough *= 2
    short = enough // 2
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if is_shown(middle) else (middle, enough)
    return enough


def _log_evidence_against(difference: float, counts: _Counts, share: float) -> float:
    """The least evidence against any pair of rates with this difference.

    The evidence is log-convex in both rates together, so that there is one minimum to find.
    """
    least = minimize_scalar(
        lambda control: _log_evidence(control, control + difference, counts, share),
        bounds=(max(0.0, -difference), min(1.0, 1.0 - difference)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(least.fun)


def _log_evidence(control: float, treatment: float, counts: _Counts, share: float) -> float:
    s, m, t, n = counts
    # At the planned share these two tilts are orthogonal, in Fisher's information, to a change of
    # both rates by the same amount: nothing is spent on learning their level.
    contrast = _arm(s, m, control, -share * _TILTS) + _arm(t, n, treatment, (1 - share) * _TILTS)
    independent = _mean(_arm(s, m, control, _TILTS)) + _mean(_arm(t, n, treatment, _TILTS))
    return float(np.logaddexp(log(_CONTRAST) + _mean(contrast), log(1 - _CONTRAST) + independent))


def _arm(
    successes: float, trials: float, rate: float, tilts: NDArray[np.float64]
) -> NDArray[np.float64]:
    result: NDArray[np.float64] = tilts * successes - trials * np.log1p(rate * np.expm1(tilts))
    return result


def _mean(log_terms: NDArray[np.float64]) -> float:
    return float(np.logaddexp.reduce(log_terms + _LOG_WEIGHTS))


def _check_inside(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} = {value}: needs 0 < {name} < 1")
