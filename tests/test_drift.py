"""Drift: each number against scipy or a hand-worked value, and how often it alarms for nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, hypergeom, ks_2samp
from sklearn.decomposition import PCA
from test_figures import AWKWARD, assert_legible, words

from tlkit.evaluation.drift import (
    Sample,
    drift,
    population_stability_index,
    psi_reading,
    quantile_stability_index,
)
from tlkit.evaluation.drift_figure import drift_figure
from tlkit.serving.reference import DIRECTIONS
from tlkit.serving.reference import reference as reference_of

CLASSES = 5
LOOKS = 200


def sample(n: int, seed: int, classes: int = CLASSES, k: int = 3) -> Sample:
    """Classes of unequal size, confidences of which a tenth is exactly 1, wide tails."""
    rng = np.random.default_rng(seed)
    frequencies = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    confidence = np.minimum(1, rng.beta(8, 1, n) * 1.012)
    return Sample(
        rng.choice(classes, n, p=frequencies),
        confidence.astype(np.float32),
        rng.standard_t(4, (n, k)).astype(np.float32),
        np.column_stack([rng.beta(4, 4, n), rng.beta(8, 24, n)]),
    )


def rows(of: Sample, chosen: NDArray[np.integer]) -> Sample:
    return Sample(
        of.predicted[chosen], of.confidence[chosen], of.embedding[chosen], of.light[chosen]
    )


@pytest.mark.parametrize("pictures", [400, 25])
def test_a_reference_sums_features_up_in_their_principal_directions(
    pictures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.random.default_rng(0).normal(size=(pictures, 40)) * np.geomspace(100, 1, 40)
    expected = PCA(DIRECTIONS, svd_solver="full").fit(features).components_
    tall = []
    plain = np.linalg.svd

    def svd(matrix: NDArray[np.float64], **options: bool) -> object:
        tall.append(len(matrix) > matrix.shape[1])
        return plain(matrix, **options)

    monkeypatch.setattr(np.linalg, "svd", svd)
    found = reference_of(features, np.full((pictures, 2), 0.5), np.zeros((0, 2)))
    np.testing.assert_allclose(np.abs(found.directions.T @ expected.T), np.eye(8), atol=1e-9)
    np.testing.assert_array_equal(found.embedding, found.project(features))
    largest = np.abs(found.directions).argmax(axis=0)
    assert (found.directions[largest, np.arange(DIRECTIONS)] > 0).all()
    assert tall == ([] if pictures > 40 else [False])  # thousands of pictures would take minutes


@pytest.mark.parametrize("pictures", [1, 30])
def test_a_reference_of_features_that_are_all_the_same(pictures: int) -> None:
    found = reference_of(np.ones((pictures, 20)), np.full((pictures, 2), 0.5), np.zeros((0, 2)))
    kept = found.directions.shape[1]
    np.testing.assert_allclose(found.directions.T @ found.directions, np.eye(kept), atol=1e-12)
    assert not found.embedding.any()


def alarms(reference: Sample, window: Sample, classes: int = CLASSES) -> list[str]:
    return [finding.name for finding in drift(reference, window, classes) if finding.alarm]


def test_psi_by_hand() -> None:
    # With half a count in each of 2 bins: shares of 50.5 / 101 against 80.5 / 101 and the rest.
    up, down = 80.5 / 101, 20.5 / 101
    expected = (up - 0.5) * math.log(up / 0.5) + (down - 0.5) * math.log(down / 0.5)
    assert population_stability_index([50, 50], [80, 20]) == pytest.approx(expected)
    # The formula without smoothing, where the counts are large.
    plain = 0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5)
    assert plain == pytest.approx(0.41589, abs=1e-5)
    large = population_stability_index([50_000_000] * 2, [80_000_000, 20_000_000])
    assert large == pytest.approx(plain, abs=1e-6)


def test_psi_of_equal_empty_and_unfit_counts() -> None:
    assert population_stability_index([3, 0, 5], [3, 0, 5]) == 0
    assert population_stability_index([3, 0, 5], [6, 0, 1]) == pytest.approx(
        population_stability_index([3, 5], [6, 1])
    )
    assert 1 < population_stability_index([10, 0], [0, 10]) < math.inf
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(1,\)"):
        population_stability_index([1, 1], [1])
    with pytest.raises(ValueError, match="sums 2 and 0"):
        population_stability_index([1, 1], [0, 0])


def test_psi_of_numbers_is_that_of_the_references_deciles() -> None:
    reference, window = np.arange(100.0), np.arange(30.0, 130.0)
    expected = population_stability_index([10] * 10, [0, 0, 0, *[10] * 6, 40])
    assert quantile_stability_index(reference, window) == pytest.approx(expected)


def test_value_that_fills_a_bin_is_told_from_those_just_below() -> None:
    constant = np.ones(100)
    assert quantile_stability_index(constant, np.ones(50)) == 0
    assert quantile_stability_index(constant, np.full(50, 0.99)) > 1
    assert quantile_stability_index(constant, np.full(50, 1.01)) > 1


def test_psi_reads_as_usual() -> None:
    assert [psi_reading(psi) for psi in (0, 0.099, 0.1, 0.25, 0.26)] == [
        "none",
        "none",
        "some",
        "some",
        "large",
    ]


def test_findings_equal_scipy() -> None:
    reference, window = sample(2000, 1), sample(1500, 2)
    mix, confidence, *light, first, second, third = drift(reference, window, CLASSES)
    counts = [np.bincount(s.predicted, minlength=CLASSES) for s in (reference, window)]
    expected = chi2_contingency(np.stack(counts), correction=False)
    assert expected.expected_freq.min() >= 20
    assert (mix.name, confidence.name) == ("class mix", "confidence")
    assert (mix.statistic, mix.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert mix.psi == population_stability_index(*counts)
    expected = ks_2samp(*(np.round(s.confidence.astype(float), 4) for s in (reference, window)))
    assert (confidence.statistic, confidence.p_value) == (expected.statistic, expected.pvalue)
    assert [finding.name for finding in light] == ["brightness", "contrast"]
    for k, finding in enumerate(light):
        old, new = (np.round(s.light[:, k], 4) for s in (reference, window))
        expected = ks_2samp(old, new)
        assert (finding.statistic, finding.p_value) == (expected.statistic, expected.pvalue)
        assert finding.psi == pytest.approx(quantile_stability_index(old, new))
    for k, finding in enumerate((first, second, third)):
        # scipy keeps float32 from 1.18 on.
        old, new = (s.embedding[:, k].astype(float) for s in (reference, window))
        expected = ks_2samp(old, new)
        assert finding.name == f"embedding {k}"
        assert (finding.statistic, finding.p_value) == (expected.statistic, expected.pvalue)
        assert finding.psi == pytest.approx(quantile_stability_index(old, new))


def two_classes(zeros: int, ones: int) -> Sample:
    n = zeros + ones
    return Sample(
        np.repeat([0, 1], [zeros, ones]), np.full(n, 0.9), np.zeros((n, 0)), np.full((n, 2), 0.5)
    )


@pytest.mark.parametrize("window", [(12, 0), (9, 3), (7, 5), (5, 7), (2, 10)])
def test_small_class_mix_is_permuted(window: tuple[int, int]) -> None:
    reference = (18, 2)
    mix = drift(two_classes(*reference), two_classes(*window), 2)[0]
    ones, n = reference[1] + window[1], sum(window)

    def statistic(of_window: int) -> float:
        table = [[20 - ones + of_window, ones - of_window], [n - of_window, of_window]]
        return float(chi2_contingency(table, correction=False).statistic)

    # Every table with these margins, by its probability.
    tables = range(min(ones, n) + 1)
    seen = statistic(window[1])
    exact = sum(hypergeom.pmf(i, 32, ones, n) for i in tables if statistic(i) >= seen - 1e-9)
    assert mix.statistic == pytest.approx(seen)
    assert mix.p_value == pytest.approx(exact, rel=0.3, abs=5e-4)
    assert mix == drift(two_classes(*reference), two_classes(*window), 2)[0]


@pytest.mark.parametrize("size", [15, 60])
def test_a_class_mix_of_one_class_in_both_is_no_drift(size: int) -> None:
    same = Sample(np.zeros(size, dtype=np.int64), np.linspace(0.5, 1, size), np.empty((size, 0)),
                  np.full((size, 2), 0.5))  # fmt: skip
    mix, *_ = drift(same, same, classes=2)
    assert (mix.name, mix.statistic, mix.p_value, mix.alarm) == ("class mix", 0, 1, False)


@pytest.mark.parametrize(("reference", "window"), [((15, 15), (300, 200)), ((300, 200), (15, 15))])
def test_a_class_mix_is_permuted_where_either_sample_is_small(
    reference: tuple[int, int], window: tuple[int, int]
) -> None:
    mix, *_ = drift(two_classes(*reference), two_classes(*window), 2)
    by_the_limit = chi2_contingency([reference, window], correction=False)
    assert mix.statistic == pytest.approx(by_the_limit.statistic)
    zeros = np.arange(31)
    small = reference if sum(reference) == 30 else window
    chances = hypergeom.pmf(zeros, 530, 315, 30)
    as_far = np.abs(zeros - 30 * 315 / 530) >= abs(small[0] - 30 * 315 / 530) - 1e-9
    exact = chances[as_far].sum()
    assert mix.p_value == pytest.approx(exact, rel=0.25)
    assert abs(mix.p_value - exact) < abs(mix.p_value - by_the_limit.pvalue)


def test_no_permutation_gives_a_p_value_of_0() -> None:
    mix, *_ = drift(two_classes(200, 0), two_classes(0, 10), 2)
    assert 0 < mix.p_value < 1e-3


def test_family_is_corrected_after_holm() -> None:
    reference, window = sample(200, 1), sample(200, 2)
    window = replace(window, confidence=window.confidence * np.float32(0.99))
    findings = sorted(drift(reference, window, CLASSES), key=lambda finding: finding.p_value)
    highest = 0.0
    for tests_left, finding in zip(range(len(findings), 0, -1), findings, strict=True):
        highest = max(highest, min(1, tests_left * finding.p_value))
        assert finding.adjusted_p_value == pytest.approx(highest)
    cut = findings[0].adjusted_p_value
    assert 0.002 < cut < 0.5
    assert any(finding.alarm for finding in drift(reference, window, CLASSES, alpha=cut))
    assert not any(finding.alarm for finding in drift(reference, window, CLASSES, alpha=cut * 0.99))


def highest_share(rate: float, looks: int) -> float:
    """Two standard errors above a rate."""
    return rate + 2 * math.sqrt(rate * (1 - rate) / looks)


@pytest.mark.parametrize("size", [50, 200])
def test_windows_of_the_reference_alarm_no_more_than_stated(size: int) -> None:
    reference, rng = sample(200, 0), np.random.default_rng(1)
    windows = [rows(reference, rng.integers(0, 200, size)) for _ in range(100)]
    alarmed = sum(bool(alarms(reference, window)) for window in windows)
    assert alarmed / 100 <= highest_share(0.01, 100)


@pytest.mark.parametrize("size", [50, 200])
def test_fresh_windows_alarm_no_more_than_stated(size: int) -> None:
    # A reference of their own each: the rate is a mean over references.
    lowest = np.array(
        [
            min(
                finding.adjusted_p_value
                for finding in drift(sample(200, 2 * i), sample(size, 2 * i + 1), CLASSES)
            )
            for i in range(LOOKS)
        ]
    )
    for alpha in (0.01, 0.05, 0.2):
        assert np.mean(lowest <= alpha) <= highest_share(alpha, LOOKS)
    # The correction is not so strict that nothing could ever alarm.
    assert np.mean(lowest <= 0.5) > 0.1


def test_what_moved_alarms_and_nothing_else() -> None:
    reference, window = sample(200, 1), sample(100, 2)
    assert alarms(reference, window) == []
    mix = np.where(np.arange(100) < 40, 0, window.predicted)
    assert alarms(reference, replace(window, predicted=mix)) == ["class mix"]
    lower = window.confidence * np.float32(0.85)
    assert alarms(reference, replace(window, confidence=lower)) == ["confidence"]
    moved = window.embedding + np.array([0, 1.5, 0])
    assert alarms(reference, replace(window, embedding=moved)) == ["embedding 1"]
    darker = window.light * np.array([0.6, 1])
    assert alarms(reference, replace(window, light=darker)) == ["brightness"]
    flatter = window.light * np.array([1, 0.6])
    assert alarms(reference, replace(window, light=flatter)) == ["contrast"]


def test_the_light_of_some_pictures_is_enough() -> None:
    reference, window = sample(200, 1), sample(100, 2)
    few = drift(replace(reference, light=reference.light[:150]), window, CLASSES)
    expected = ks_2samp(*(np.round(s.light[:, 0], 4) for s in (rows(reference, np.arange(150)),
                                                                window)))  # fmt: skip
    assert few[2].p_value == expected.pvalue


def test_confidences_that_only_the_engine_tells_apart_are_no_drift() -> None:
    reference = replace(sample(200, 1), confidence=np.full(200, 1.0))
    window = replace(sample(200, 2), confidence=np.full(200, 1 - 1e-6))
    assert alarms(reference, window) == []
    assert drift(reference, window, CLASSES)[1].psi == 0


@pytest.mark.filterwarnings("error")
def test_almost_the_same_pictures_are_compared_without_a_warning() -> None:
    reference = sample(200, 0)
    moved = reference.embedding + np.random.default_rng(1).normal(0, 1e-6, (200, 3))
    for finding in drift(reference, replace(reference, embedding=moved), CLASSES):
        assert finding.p_value == pytest.approx(1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1, 2, 5, 19])
def test_small_windows_are_judged(size: int) -> None:
    for reference in (sample(200, 1), sample(1, 1)):
        findings = drift(reference, sample(size, 2), CLASSES)
        assert len(findings) == 7
        for finding in findings:
            assert 0 <= finding.p_value <= finding.adjusted_p_value <= 1
            assert math.isfinite(finding.psi)
            assert math.isfinite(finding.statistic)
            assert not finding.alarm


def test_refuses_what_cannot_be_compared() -> None:
    full, empty = sample(20, 1), sample(0, 1)
    with pytest.raises(ValueError, match="the window is empty: needs at least 1 prediction"):
        drift(full, empty, CLASSES)
    with pytest.raises(ValueError, match="the reference is empty"):
        drift(empty, full, CLASSES)
    with pytest.raises(ValueError, match="of the window run from 7 to 7: needs 0 to 4"):
        drift(full, replace(full, predicted=np.full(20, 7)), CLASSES)
    with pytest.raises(ValueError, match="window have 2 directions: needs the 3"):
        drift(full, sample(20, 1, k=2), CLASSES)
    with pytest.raises(ValueError, match="alpha = 0: needs"):
        drift(full, full, CLASSES, alpha=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"predicted": np.zeros(3)}, r"float64 \(3,\): needs integers"),
        ({"confidence": np.ones(2)}, r"confidences have shape \(2,\): needs \(3,\)"),
        ({"confidence": np.array([0.5, np.nan, 1])}, "confidence of row 1 is nan: needs 0 to 1"),
        ({"confidence": np.array([0.5, 1, 1.1])}, "confidence of row 2 is 1.1: needs 0 to 1"),
        ({"embedding": np.zeros(3)}, r"embeddings have shape \(3,\): needs \(3, k\)"),
        ({"embedding": np.full((3, 1), np.inf)}, "embedding of row 0 is not finite"),
        ({"light": np.ones((3, 1))}, r"light has shape \(3, 1\): needs \(m, 2\), m at most 3"),
        ({"light": np.ones((4, 2))}, r"light has shape \(4, 2\)"),
        ({"light": np.array([[0, 1], [0.5, 1.1]])}, "light of row 1 is .*: needs 0 to 1"),
        ({"light": np.array([[np.nan, 1]])}, "light of row 0 is .*: needs 0 to 1"),
    ],
)
def test_refuses_what_is_no_sample(changed: dict[str, NDArray[np.floating]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(sample(3, 1), **changed)  # type: ignore[arg-type]


def class_names(n: int) -> list[str]:
    return [*AWKWARD, *(f"wirehaired fox terrier {i}" for i in range(n))][:n]


@pytest.mark.parametrize(
    ("classes", "k", "size"), [(2, 0, 50), (2, 1, 1), (15, 2, 50), (40, 3, 50), (40, 8, 200)]
)
@pytest.mark.filterwarnings("error")
def test_figure_is_legible(classes: int, k: int, size: int) -> None:
    reference = sample(200, 1, classes, k)
    window = sample(size, 2, classes, k)
    window = replace(window, confidence=window.confidence / 2)
    findings = drift(reference, window, classes)
    figure = drift_figure(reference, window, findings, class_names(classes), "a long title " * 12)
    assert_legible(figure)
    assert len(figure.axes) == 4 + min(k, 6)
    seen = words(figure)
    assert {"reference", "window"} <= set(seen)
    said = "Of 8 embedding directions the 6 that differ most are drawn."
    assert (said in seen) == (k == 8)
    many = [text for text in seen if text.startswith("Of 40 classes the 12 that differ most are")]
    assert len(many) == (classes == 40)
    # The widest bar is a class, and not what the classes without one have together.
    counts = [np.bincount(s.predicted) / len(s) for s in (reference, window)]
    assert figure.axes[0].get_xlim()[1] < 1.1 * max(share.max() for share in counts)


def test_figure_draws_the_directions_that_differ_most() -> None:
    reference, window = sample(200, 1, 2, 8), sample(200, 2, 2, 8)
    moved = window.embedding.copy()
    moved[:, 7] += 2 * moved[:, 7].std()
    window = replace(window, embedding=moved)
    findings = drift(reference, window, 2)
    figure = drift_figure(reference, window, findings, ["cat", "dog"], "title")
    titles = [ax.get_title() for ax in figure.axes if ax.get_title().startswith("embedding")]
    assert len(titles) == 6
    assert titles[-1].startswith("embedding 7: ALARM")


def test_figure_says_what_alarms_without_colour() -> None:
    reference, window = sample(200, 1), sample(100, 2)
    window = replace(window, confidence=window.confidence / 2)
    findings = drift(reference, window, CLASSES)
    figure = drift_figure(reference, window, findings, class_names(CLASSES), "$t_{")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[1] == (
        f"confidence: ALARM\nadjusted p < 0.0001, PSI {findings[1].psi:.2f} (large)"
    )
    assert [title.split("\n")[0] for title in titles] == [
        "class mix: ok",
        "confidence: ALARM",
        "brightness: ok",
        "contrast: ok",
        "embedding 0: ok",
        "embedding 1: ok",
        "embedding 2: ok",
    ]
    assert any(
        text.startswith("ALARM in 1 of 7 tests: confidence; reference n = 200")
        for text in words(figure)
    )
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    of_reference, of_window = bars[:CLASSES], bars[CLASSES:]
    assert {bar.get_hatch() for bar in of_reference} == {None}
    assert None not in {bar.get_hatch() for bar in of_window}
    assert {line.get_linestyle() for line in figure.axes[1].lines} == {"--", "-"}
    for drawn in (of_reference, of_window):
        assert sum(bar.get_width() for bar in drawn) == pytest.approx(1)
