"""Temperature scaling, reliability bins and abstaining, against scikit-learn and by hand."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from tlkit.evaluation.calibration import (
    HIGHEST,
    calibrated_loss,
    coverage,
    fit_temperature,
    reliability,
    rescale,
)
from tlkit.evaluation.calibration_figure import calibration_figure
from tlkit.evaluation.metrics import expected_calibration_error


def overconfident(n: int = 2000, factor: float = 3.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Logits that are `factor` times what the labels were drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (n, 3))
    labels = np.array([generator.choice(3, p=row) for row in softmax(logits, axis=1)])
    return factor * logits, labels


class Logits(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose decision function is its input."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Logits":
        self.classes_ = np.unique(y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return x


@pytest.mark.parametrize("factor", [0.2, 3.0, 10.0])
def test_the_temperature_is_found_and_is_scikit_learns(factor: float) -> None:
    logits, labels = overconfident(factor=factor)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(factor, rel=0.1)
    frozen = FrozenEstimator(Logits().fit(logits, labels))
    theirs = CalibratedClassifierCV(frozen, method="temperature").fit(logits, labels)
    np.testing.assert_allclose(
        softmax(logits / temperature, axis=1), theirs.predict_proba(logits), atol=2e-3
    )


def test_scaling_lowers_the_calibration_error_of_other_pictures_and_no_prediction() -> None:
    temperature = fit_temperature(*overconfident(seed=1))
    logits, labels = overconfident(seed=2)
    before = softmax(logits, axis=1)
    after = rescale(before, temperature)
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    assert expected_calibration_error(before, labels) > 0.15
    assert expected_calibration_error(after, labels) < 0.05


def test_rescaling_undoes_itself() -> None:
    logits, _ = overconfident(50)
    before = softmax(logits, axis=1)
    np.testing.assert_allclose(rescale(rescale(before, 2.5), 1 / 2.5), before, atol=1e-12)


def test_a_confidence_that_a_temperature_takes_back_costs_nothing() -> None:
    logits, labels = overconfident(factor=1.0)
    for factor in (1.0, 0.3):  # what is missing is not given
        expected = log_loss(labels, softmax(factor * logits, 1))
        assert calibrated_loss(factor * logits, labels) == pytest.approx(expected)
    for factor in (3.0, 10.0):
        # In float64, over a fine grid of temperatures.
        temperatures = factor * np.linspace(0.8, 1.2, 401)
        losses = [log_loss(labels, softmax(factor * logits / t, 1)) for t in temperatures]
        found = calibrated_loss(factor * logits, labels)
        assert found == pytest.approx(min(losses), abs=1e-7)
        assert found < log_loss(labels, softmax(factor * logits, 1)) - 0.05


def test_without_a_mistake_nothing_is_fitted_and_without_a_clue_the_bound_is() -> None:
    logits, _ = overconfident(100)
    assert fit_temperature(logits, logits.argmax(axis=1)) == 1.0
    assert fit_temperature(logits, logits.argmin(axis=1)) == pytest.approx(HIGHEST, rel=1e-3)


def test_a_temperature_that_few_pictures_suggest_is_rarely_believed() -> None:
    fitted = [fit_temperature(*overconfident(60, factor=1.0, seed=seed)) for seed in range(100)]
    changed = sum(temperature != 1.0 for temperature in fitted)
    assert changed <= 5 + 2 * np.sqrt(100 * 0.05 * 0.95)


def test_a_temperature_is_believed_where_the_likelihood_ratio_tells_it_from_1() -> None:
    believed = []
    for seed in range(40):
        logits, labels = overconfident(60, factor=1.5, seed=seed)
        scaled = logits / np.exp(np.linspace(-2, 2, 801))[:, None, None]
        of_truth = log_softmax(scaled, axis=2)[:, np.arange(60), labels].sum(axis=1)
        # 801 temperatures, the one in the middle of which is 1. Chi-square, one degree, 5 %.
        believed.append(2 * (of_truth.max() - of_truth[400]) > 3.841)
        assert (fit_temperature(logits, labels) != 1.0) == believed[-1]
    assert 10 < sum(believed) < 30


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((4, 2), (3,)), ((0, 2), (0,))])
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="needs"):
        fit_temperature(np.zeros(shapes[0]), np.zeros(shapes[1], dtype=int))


def test_abstaining_by_hand() -> None:
    rows = np.array([[0.99, 0.01], [0.4, 0.6], [0.85, 0.15], [0.55, 0.45]])
    found = coverage(rows, np.array([0, 0, 0, 1]), (0.0, 0.8, 1.0))
    assert [(row.answered, row.accuracy) for row in found[:2]] == [(1.0, 0.5), (0.5, 1.0)]
    assert found[2].answered == 0
    assert np.isnan(found[2].accuracy)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_threshold_that_nobody_reaches_and_a_class_that_is_ruled_out() -> None:
    rows, labels = np.array([[1.0, 0.0], [0.2, 0.8]]), np.array([0, 1])
    found = coverage(rows, labels)
    assert [row.threshold for row in found] == [0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
    assert [row.answered for row in found] == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5]  # 0.8 is enough
    assert np.isnan(coverage(rows[1:], labels[1:], (0.9,))[0].accuracy)
    np.testing.assert_allclose(rescale(rows, 2.0), [[1, 0], [1 / 3, 2 / 3]], atol=1e-12)


def test_bins_of_the_calibration_error_by_hand() -> None:
    rows = np.array([[0.2, 0.8], [0.75, 0.25], [0.6, 0.4], [1.0, 0.0]])
    found = reliability(rows, np.array([1, 1, 0, 0]), bins=5)
    np.testing.assert_array_equal(found.count, [0, 0, 1, 2, 1])  # 0.6 and 0.8 end their bins
    np.testing.assert_allclose(found.confidence, [np.nan, np.nan, 0.6, 0.775, 1.0])
    np.testing.assert_allclose(found.accuracy, [np.nan, np.nan, 1.0, 0.5, 1.0])
    assert len(reliability(rows, np.array([1, 1, 0, 0])).count) == 15


@pytest.mark.parametrize(
    ("temperature", "said", "panels"),
    [(1.0, "no temperature was fitted", 2), (2.0, "temperature 2.00, fitted on the validation", 3)],
)
def test_the_figure_says_whether_a_temperature_was_fitted(
    temperature: float, said: str, panels: int
) -> None:
    logits, labels = overconfident(50)
    figure = calibration_figure(softmax(logits, axis=1), labels, temperature, "confidence")
    assert [said in text.get_text() for text in figure.texts].count(True) == 1
    assert len(figure.axes) == panels


def test_the_figure_of_a_mean_claims_no_temperature() -> None:
    logits, labels = overconfident(50)
    figure = calibration_figure(softmax(logits, axis=1), labels, None, "confidence")
    assert "not calibrated again" in " ".join(text.get_text() for text in figure.texts)
    assert [ax.get_title().split(" ")[0] for ax in figure.axes] == ["calibration", "answering"]


@pytest.mark.parametrize("n", [1, 200])
def test_the_figure_draws(n: int) -> None:
    logits, labels = overconfident(n)
    figure = calibration_figure(softmax(logits, axis=1), labels, 2.0, "confidence")
    assert len(figure.axes) == 3
    figure.canvas.draw()
