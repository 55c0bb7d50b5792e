"""What a model said of its validation pictures: what later requests are compared with."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

REFERENCE_FILE = "reference.safetensors"

# Principal directions that a request's features are summed up in.
DIRECTIONS = 8


@dataclass(frozen=True)
class Reference:
    """Validation pictures, a row each, and how features are summed up.

    Attributes:
        mean: float64 (d,), of the features.
        directions: float64 (d, k), orthonormal: the principal directions of the features.
        predicted: int64 (n,).
        confidence: float64 (n,) in 0..1, after calibration.
        embedding: float64 (n, k).
        light: float64 (m, 2), brightness and contrast of m <= n of the pictures.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    embedding: NDArray[np.float64]
    light: NDArray[np.float64]

    def project(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Features (n, d) as embeddings, float64 (n, k)."""
        result: NDArray[np.float64] = (features - self.mean) @ self.directions
        return result

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        save_file(
            {name: np.ascontiguousarray(value) for name, value in vars(self).items()},
            folder / REFERENCE_FILE,
        )

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        """Read what `save` wrote."""
        return cls(**load_file(folder / REFERENCE_FILE))


def identity(folder: Path) -> str:
    """What a request log calls the model whose reference lies in a folder.

    16 hex digits of a hash of the file. Requests are compared with it, so those of models that have
    the same one can be; another training gives another one.
    """
    return hashlib.sha256((folder / REFERENCE_FILE).read_bytes()).hexdigest()[:16]


def reference(
    features: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    light: NDArray[np.float64],
) -> Reference:
    """For features (n, d), calibrated probabilities (n, classes), and light (m, 2)."""
    rows = np.asarray(features, dtype=np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    # The product, (d, d), has the same directions: less work where there are more pictures.
    directions = (
        np.linalg.eigh(centred.T @ centred).eigenvectors[:, ::-1].T
        if len(rows) > len(mean)
        else np.linalg.svd(centred, full_matrices=False).Vh
    )
    # The sign of a direction is free; fixed, the same training gives the same file.
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    kept = (directions * np.where(signs == 0, 1, signs)[:, None])[:DIRECTIONS].T
    return Reference(
        mean,
        kept,
        probabilities.argmax(axis=1).astype(np.int64),
        probabilities.max(axis=1).astype(np.float64),
        centred @ kept,
        light,
    )
