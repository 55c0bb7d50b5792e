"""Numbers that judge a classifier, from its probabilities and the true labels.

Every function takes `probabilities`, float (n, c) with rows that sum to 1, and `labels`, integer
(n,) in 0..c-1, with n >= 1 and c >= 2, and raises ValueError with what it saw otherwise. The
predicted class is the most probable one, the first of equals.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import (
    classification_report,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from tlkit.evaluation.calibration import reliability

ROW_SUM_TOLERANCE = 1e-3
SUMMARY_ROWS = ("accuracy", "macro avg", "weighted avg")


def classification_metrics(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> dict[str, float]:
    """Accuracy, balanced_accuracy, precision, recall, f1, loss, ece and auroc, in this order.

    Precision, recall and F1 are averaged over classes with the classes' frequencies as weights,
    which makes that recall the accuracy; a class that is never predicted counts 0. The balanced
    accuracy is the mean of the recalls of the classes that the labels hold. `loss` is the mean
    negative log-likelihood in nats. `auroc` is nan where the labels hold a single class: it is not
    defined there.
    """
    probabilities, labels = _checked(probabilities, labels)
    return {
        **metrics_of_confusion(confusion(probabilities, labels)),
        "loss": log_loss(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels),
        "auroc": _auroc(probabilities, labels),
    }


def accuracy_interval(
    correct: int, total: int, confidence: float = 0.95, *, effective: float | None = None
) -> tuple[float, float]:
    """Wilson score interval of an accuracy of `correct` out of `total`, both ends in 0..1.

    `effective` is how many independent pictures tell as much as these, 0..total; None: all do.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}: needs 0 <= correct <= total, total >= 1")
    n = total if effective is None else effective
    share, z = correct / total, float(norm.ppf((1 + confidence) / 2))
    middle = (n * share + z**2 / 2) / (n + z**2)
    reach = z * math.sqrt(n * share * (1 - share) + z**2 / 4) / (n + z**2)
    # At 0 and 1 the ends are those, but for rounding.
    return (middle - reach if correct else 0.0), (middle + reach if correct < total else 1.0)


def confusion(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> NDArray[np.int64]:
    """How often class i (row) was predicted as class j (column): int64 (c, c)."""
    probabilities, labels = _checked(probabilities, labels)
    classes = np.arange(probabilities.shape[1])
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=classes)
    return np.asarray(matrix, dtype=np.int64)


def confusion_json(matrix: NDArray[np.integer], classes: Sequence[str]) -> str:
    """The confusion matrix as JSON, with the meaning of its axes; a row a line, for 1,000 classes
    have a million counts."""
    rows = ",\n    ".join(json.dumps(row) for row in matrix.tolist())
    return f"""{{
  "classes": {json.dumps(list(classes))},
  "matrix": [
    {rows}
  ],
  "rows": "true",
  "columns": "predicted"
}}
"""


def metrics_of_confusion(matrix: NDArray[np.integer]) -> dict[str, float]:
    """Accuracy, balanced_accuracy, precision, recall and f1 as `classification_metrics` gives them,
    of counts alone.

    Args:
        matrix: true (rows) and predicted (columns), integer (c, c), with a sum of 1 or more.
    """
    classes = np.arange(len(matrix))
    true, predicted = np.repeat(classes, len(classes)), np.tile(classes, len(classes))
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, predicted, average="weighted", zero_division=0, sample_weight=matrix.ravel()
    )
    counts = matrix.sum(axis=1)
    recalls = np.diag(matrix)[counts > 0] / counts[counts > 0]
    return {
        "accuracy": float(np.trace(matrix) / matrix.sum()),
        "balanced_accuracy": float(recalls.mean()),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def per_class_report(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], classes: Sequence[str]
) -> dict[str, Any]:
    """scikit-learn's classification_report as a dict, with a row for every class.

    A class without pictures has support 0 and counts as 0 in "macro avg". A class called as one
    of the summary rows ("accuracy", ...) appears as "accuracy (class)".
    """
    probabilities, labels = _checked(probabilities, labels)
    if len(classes) != probabilities.shape[1]:
        raise ValueError(f"{len(classes)} class names for {probabilities.shape[1]} columns")
    names = [f"{name} (class)" if name in SUMMARY_ROWS else name for name in classes]
    report: dict[str, Any] = classification_report(
        labels,
        probabilities.argmax(axis=1),
        labels=np.arange(len(names)),
        target_names=names,
        output_dict=True,
        zero_division=0,
    )
    return report


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, in 0..1 (Guo et al. 2017, eq. 3).

    Bin m of M holds the confidences in ((m - 1) / M, m / M]; each bin's gap |accuracy - mean
    confidence| counts by its share of the pictures.
    """
    if bins < 1:
        raise ValueError(f"bins = {bins}: needs at least 1")
    return reliability(*_checked(probabilities, labels), bins).error


def log_loss(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean negative log-likelihood, in nats."""
    probabilities, labels = _checked(probabilities, labels)
    of_truth = probabilities[np.arange(len(labels)), labels]
    # A probability of 0 would make one picture's loss infinite, and the mean with it.
    return float(-np.log(np.clip(of_truth, np.finfo(np.float64).eps, 1.0)).mean())


def _auroc(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Class 1 against class 0 for two classes; otherwise the mean over the classes present of
    one class against the rest, weighted by the class's frequency."""
    present, counts = np.unique(labels, return_counts=True)
    if len(present) == 1:
        return float("nan")
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels == 1, probabilities[:, 1]))
    areas = [roc_auc_score(labels == k, probabilities[:, k]) for k in present]
    return float(np.average(areas, weights=counts))


def _checked(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rows = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(labels)
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 2:
        raise ValueError(f"probabilities have shape {rows.shape}: needs (n >= 1, classes >= 2)")
    n, classes = rows.shape
    if truth.shape != (n,):
        raise ValueError(f"labels have shape {truth.shape}: needs ({n},), one for each row")
    if not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"labels are {truth.dtype}: needs integers")
    if truth.min() < 0 or truth.max() >= classes:
        raise ValueError(
            f"labels run from {truth.min()} to {truth.max()}: needs 0 to {classes - 1}"
        )
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise ValueError(f"probabilities of row {bad[0]} are not finite")
    if rows.min() < 0:
        raise ValueError(f"the smallest probability is {rows.min():g}: needs 0 or more")
    sums = rows.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > ROW_SUM_TOLERANCE:
        raise ValueError(f"probabilities of row {worst} sum to {sums[worst]:g}: needs 1")
    return rows, truth.astype(np.int64)
