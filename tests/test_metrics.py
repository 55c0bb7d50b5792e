"""Metrics against scikit-learn, or against the formula written out where it has none."""

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from tlkit import outcome
from tlkit.evaluation.calibration import rescale
from tlkit.evaluation.metrics import (
    accuracy_interval,
    classification_metrics,
    confusion,
    confusion_json,
    expected_calibration_error,
    per_class_report,
)

Predictions = tuple[NDArray[np.float64], NDArray[np.int64]]


def predictions(n: int, classes: int, seed: int = 0) -> Predictions:
    """Probabilities that are right more often than not, on classes of unequal size."""
    rng = np.random.default_rng(seed)
    frequencies = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    labels = rng.choice(classes, n, p=frequencies)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.5
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_metrics_equal_scikit_learn(classes: int) -> None:
    probabilities, labels = predictions(300, classes)
    predicted = probabilities.argmax(axis=1)
    seen = classification_metrics(probabilities, labels)

    assert list(seen) == [
        "accuracy", "balanced_accuracy", "precision", "recall", "f1", "loss", "ece", "auroc"
    ]  # fmt: skip
    assert all(type(value) is float for value in seen.values())
    average = {"average": "weighted", "zero_division": 0}
    assert seen["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    balanced = sk.balanced_accuracy_score(labels, predicted)
    assert seen["balanced_accuracy"] == pytest.approx(balanced)
    assert seen["precision"] == pytest.approx(sk.precision_score(labels, predicted, **average))
    assert seen["recall"] == pytest.approx(sk.recall_score(labels, predicted, **average))
    assert seen["f1"] == pytest.approx(sk.f1_score(labels, predicted, **average))
    assert seen["loss"] == pytest.approx(
        sk.log_loss(labels, probabilities, labels=list(range(classes)))
    )
    scores = probabilities[:, 1] if classes == 2 else probabilities
    assert seen["auroc"] == pytest.approx(
        sk.roc_auc_score(labels, scores, multi_class="ovr", average="weighted")
    )


def test_a_run_computes_its_test_metrics_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, labels = predictions(300, 3)
    before = classification_metrics(rescale(probabilities, 1 / 1.7), labels)
    computed = []

    def counted(*data: NDArray[np.generic]) -> dict[str, float]:
        computed.append(data)
        return classification_metrics(*data)

    monkeypatch.setattr(outcome, "classification_metrics", counted)
    tested = outcome.Outcome([], probabilities, labels, ["a", "b", "c"], 1.7)
    for name in ("loss", "ece"):
        assert tested.metrics[f"test/{name}_uncalibrated"] == pytest.approx(before[name])
        assert tested.metrics[f"test/{name}"] != pytest.approx(before[name])
    assert len(computed) == 1
    mean = outcome.Outcome([], probabilities, labels, ["a", "b", "c"], None)
    assert set(tested.metrics) - set(mean.metrics) == {
        "temperature", "test/loss_uncalibrated", "test/ece_uncalibrated"
    }  # fmt: skip


def test_weighted_averages_by_hand() -> None:
    # Three of class 0 (two found), one of class 1 (found); class 1 is predicted twice.
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    seen = classification_metrics(probabilities, np.array([0, 0, 0, 1]))
    assert seen["accuracy"] == pytest.approx(3 / 4)
    assert seen["precision"] == pytest.approx(3 / 4 * 1 + 1 / 4 * 1 / 2)
    assert seen["recall"] == pytest.approx(3 / 4 * 2 / 3 + 1 / 4 * 1)
    assert seen["f1"] == pytest.approx(3 / 4 * 4 / 5 + 1 / 4 * 2 / 3)
    assert seen["loss"] == pytest.approx(-math.log(0.9 * 0.8 * 0.3 * 0.6) / 4)
    assert seen["auroc"] == pytest.approx(2 / 3)


def test_auroc_with_absent_classes_is_the_weighted_mean_over_those_present() -> None:
    probabilities, labels = predictions(200, 5)
    keep = np.isin(labels, [1, 3, 4])
    probabilities, labels = probabilities[keep], labels[keep]
    expected = sum(
        np.mean(labels == k) * sk.roc_auc_score(labels == k, probabilities[:, k]) for k in (1, 3, 4)
    )
    assert classification_metrics(probabilities, labels)["auroc"] == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_one_class_present_gives_no_auroc_and_breaks_nothing_else() -> None:
    probabilities, _ = predictions(20, 3)
    labels = np.full(20, 2)
    seen = classification_metrics(probabilities, labels)
    assert math.isnan(seen.pop("auroc"))
    assert all(math.isfinite(value) for value in seen.values())
    assert 0 < seen["balanced_accuracy"] == seen["accuracy"]  # of the classes that are there
    assert confusion(probabilities, labels).sum() == 20
    neither = per_class_report(np.eye(3)[[1, 2, 2]], np.array([1, 1, 2]), ["a", "b", "c"])
    assert [neither[name]["support"] for name in "abc"] == [0, 2, 1]
    assert per_class_report(probabilities, labels, ["a", "b", "c"])["a"]["support"] == 0


@pytest.mark.filterwarnings("error")
def test_class_that_is_never_predicted_counts_0_without_a_warning() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    labels = np.array([0, 1])
    seen = classification_metrics(probabilities, labels)
    assert seen["precision"] == pytest.approx(1 / 4)
    assert per_class_report(probabilities, labels, ["a", "b"])["b"]["precision"] == 0


def test_certain_and_wrong_costs_much_but_not_everything() -> None:
    seen = classification_metrics(np.array([[1.0, 0.0]]), np.array([1]))
    assert 30 < seen["loss"] < 40
    sure = classification_metrics(np.array([[1.0, 0.0]]), np.array([0]))
    assert sure["loss"] == 0
    assert sure["ece"] == 0


def reference_ece(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int
) -> float:
    """Guo et al. 2017, eq. 3, picture by picture and bin by bin."""
    error = 0.0
    for m in range(1, bins + 1):
        inside, right, confidence = 0, 0, 0.0
        for row, label in zip(probabilities, labels, strict=True):
            highest = max(row)
            if (m - 1) / bins < highest <= m / bins:
                inside += 1
                right += int(list(row).index(highest) == label)
                confidence += float(highest)
        if inside:
            gap = abs(right / inside - confidence / inside)
            error += inside / len(labels) * gap
    return error


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_equals_the_formula(classes: int, bins: int) -> None:
    probabilities, labels = predictions(200, classes, seed=bins)
    # Confidences on the edges of bins belong to the lower one.
    probabilities[:3] = 0
    probabilities[:3, 0] = [0.5, 0.75, 1.0]
    probabilities[:3, 1] = [0.5, 0.25, 0.0]
    expected = reference_ece(probabilities, labels, bins)
    assert expected > 0.01
    seen = expected_calibration_error(probabilities, labels, bins)
    assert seen == pytest.approx(expected, abs=1e-12)


def test_calibration_error_uses_15_bins_and_stands_among_the_metrics() -> None:
    probabilities, labels = predictions(100, 4)
    expected = reference_ece(probabilities, labels, 15)
    assert classification_metrics(probabilities, labels)["ece"] == pytest.approx(expected)


def test_interval_equals_the_formula_of_wilson() -> None:
    for correct, total, z in ((482, 500, 1.959963984540054), (0, 10, 1.959963984540054)):
        share = correct / total
        centre = (share + z * z / (2 * total)) / (1 + z * z / total)
        half = (
            z
            / (1 + z * z / total)
            * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
        )
        low, high = accuracy_interval(correct, total)
        assert low == pytest.approx(centre - half, abs=1e-12)
        assert high == pytest.approx(centre + half, abs=1e-12)
    assert accuracy_interval(482, 500, 0.5)[0] > accuracy_interval(482, 500, 0.95)[0]
    assert accuracy_interval(10, 10)[1] == 1


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (-1, 3), (4, 3)])
def test_interval_refuses_impossible_counts(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"{correct} correct of {total}"):
        accuracy_interval(correct, total)


def test_confusion_has_true_classes_as_rows_and_a_place_for_absent_ones() -> None:
    probabilities = np.eye(4)[[1, 1, 2, 0]]
    matrix = confusion(probabilities, np.array([0, 1, 2, 2]))
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_confusion_json_has_a_row_a_line() -> None:
    written = confusion_json(np.array([[3, 1], [0, 2]]), ("cat", '"dog"'))
    assert "\n    [3, 1],\n    [0, 2]\n" in written
    assert json.loads(written) == {
        "classes": ["cat", '"dog"'],
        "matrix": [[3, 1], [0, 2]],
        "rows": "true",
        "columns": "predicted",
    }


def test_report_equals_scikit_learn_and_survives_json() -> None:
    probabilities, labels = predictions(120, 3)
    predicted = probabilities.argmax(axis=1)
    report = json.loads(json.dumps(per_class_report(probabilities, labels, ["a", "b", "c"])))
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, predicted)
    for k, name in enumerate("abc"):
        assert report[name] == pytest.approx(
            {
                "precision": precision[k],
                "recall": recall[k],
                "f1-score": f1[k],
                "support": support[k],
            }
        )
    assert report["accuracy"] == pytest.approx(np.mean(predicted == labels))
    assert report["weighted avg"]["f1-score"] == pytest.approx(np.average(f1, weights=support))


def test_class_named_like_a_summary_row_keeps_its_own_row() -> None:
    probabilities, labels = predictions(60, 2)
    for name in ("macro avg", "weighted avg", "accuracy"):
        report = per_class_report(probabilities, labels, [name, "dog"])
        assert report[f"{name} (class)"]["support"] == np.sum(labels == 0)
    assert report["accuracy"] == pytest.approx(np.mean(probabilities.argmax(axis=1) == labels))


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones((3,)), np.zeros(3, int), r"probabilities have shape \(3,\)"),
        (np.ones((3, 1)), np.zeros(3, int), r"probabilities have shape \(3, 1\)"),
        (np.ones((0, 2)), np.zeros(0, int), r"probabilities have shape \(0, 2\)"),
        (np.eye(2), np.zeros(3, int), r"labels have shape \(3,\): needs \(2,\)"),
        (np.eye(2), np.zeros(2), "labels are float64: needs integers"),
        (np.eye(2), np.array([0, 2]), "labels run from 0 to 2: needs 0 to 1"),
        (np.eye(2), np.array([-1, 1]), "labels run from -1 to 1: needs 0 to 1"),
        (np.array([[0.5, 0.5], [0.5, 0.4]]), np.array([0, 1]), "row 1 sum to 0.9: needs 1"),
        (np.array([[1.5, -0.5]]), np.array([0]), "smallest probability is -0.5"),
        (np.array([[np.nan, 1.0]]), np.array([0]), "row 0 are not finite"),
    ],
)
def test_refuses_what_are_no_predictions(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], message: str
) -> None:
    for function in (classification_metrics, confusion, expected_calibration_error):
        with pytest.raises(ValueError, match=message):
            function(probabilities, labels)


def test_refuses_names_that_do_not_fit_and_a_calibration_without_bins() -> None:
    probabilities, labels = predictions(10, 3)
    with pytest.raises(ValueError, match="2 class names for 3 columns"):
        per_class_report(probabilities, labels, ["a", "b"])
    with pytest.raises(ValueError, match="bins = 0"):
        expected_calibration_error(probabilities, labels, bins=0)
