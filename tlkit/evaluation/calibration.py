"""Confidence that means what it says: temperature scaling, reliability, and abstaining."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import chi2

# A temperature outside of this says that the model knows nothing, or that there is nothing to fit.
LOWEST, HIGHEST = 0.05, 20.0
# A few validation pictures say little of a temperature, and a wrong one makes confidences worse.
SIGNIFICANCE = 0.05


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The T for which softmax(logits / T) fits the labels best (Guo et al. 2017, section 4.2).

    T minimises the mean negative log-likelihood within LOWEST..HIGHEST. It is 1 where the data do
    not tell it from 1: where the likelihood ratio test does not at 5 % (Wilks 1938), and where
    every label is the largest logit, so that the likelihood only grows as T falls.

    Args:
        logits: float (n, c), n >= 1; log-probabilities do as well.
        labels: integer (n,) in 0..c-1, of pictures that the weights were not trained on.
    """
    rows = np.asarray(logits, dtype=np.float64)
    truth = np.asarray(labels)
    if rows.ndim != 2 or truth.shape != rows.shape[:1] or len(rows) == 0:
        raise ValueError(f"logits {rows.shape} and labels {truth.shape}: needs (n, c) and (n,)")
    if bool((rows.argmax(axis=1) == truth).all()):
        return 1.0

    def loss(log_temperature: float) -> float:
        return _loss(rows / np.exp(log_temperature), truth)

    found = minimize_scalar(
        loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-6}
    )
    gain = 2 * len(truth) * (loss(0.0) - float(found.fun))
    return float(np.exp(found.x)) if chi2.sf(gain, df=1) < SIGNIFICANCE else 1.0


def calibrated_loss(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The mean negative log-likelihood after the temperature that `fit_temperature` gives the same
    pictures, where that is above 1.

    It tells how well the classes are told apart, whereas the loss without temperature also grows
    with a confidence that a temperature takes back (Berta et al. 2025, "Rethinking Early Stopping:
    Refine, Then Calibrate"). A temperature below 1 is not taken: more training makes a network
    surer by itself, and one that is right but unsure would look as if it had nothing to learn.
    Arguments and errors as in `fit_temperature`.
    """
    rows = np.asarray(logits, dtype=np.float64)
    return _loss(rows / max(1.0, fit_temperature(rows, labels)), np.asarray(labels))


def _loss(logits: NDArray[np.float64], labels: NDArray[np.integer]) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def rescale(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """softmax(logits / temperature) of the logits behind `probabilities`, float64 (n, c)."""
    # Logits and log-probabilities differ by a constant a row, which softmax takes away.
    least = np.finfo(np.float64).tiny
    result: NDArray[np.float64] = softmax(
        np.log(np.maximum(probabilities, least)) / temperature, axis=1
    )
    return result


@dataclass(frozen=True)
class Reliability:
    """Pictures in bins of equal width over confidence 0..1, empty bins included.

    Attributes:
        count: int64 (bins,).
        confidence: mean confidence, float64 (bins,), nan where a bin is empty.
        accuracy: share that was right, float64 (bins,), nan where a bin is empty.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap between confidence and accuracy of a bin, by
        its share of the pictures (Guo et al. 2017, eq. 3)."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(self.count * gaps) / self.count.sum())


def reliability(
    probabilities: NDArray[np.float64], labels: NDArray[np.integer], bins: int = 15
) -> Reliability:
    """The bins behind the expected calibration error: ((m - 1) / M, m / M] for m = 1..M."""
    confidences = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    bin_of = np.digitize(confidences, np.arange(1, bins) / bins, right=True)
    count = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            count,
            np.bincount(bin_of, weights=confidences, minlength=bins) / count,
            np.bincount(bin_of, weights=hits, minlength=bins) / count,
        )


@dataclass(frozen=True)
class Coverage:
    """What abstaining below a confidence costs and gains.

    Attributes:
        threshold: least confidence that is answered.
        answered: share of the pictures that are.
        accuracy: among those; nan where none is.
    """

    threshold: float
    answered: float
    accuracy: float


def coverage(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.integer],
    thresholds: tuple[float, ...] = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
) -> list[Coverage]:
    """Selective accuracy by threshold (El-Yaniv and Wiener 2010, their risk-coverage trade-off)."""
    confidences = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    found = []
    for threshold in thresholds:
        kept = confidences >= threshold
        accuracy = float(hits[kept].mean()) if kept.any() else float("nan")
        found.append(Coverage(threshold, float(kept.mean()), accuracy))
    return found
