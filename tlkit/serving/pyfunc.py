"""A model as MLflow serves it: bytes of pictures in, classes and probabilities out.

MLflow runs this file when it loads the model, so nothing is unpickled.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException

from tlkit.data.images import UnreadablePicture
from tlkit.serving.classifier import probability_columns
from tlkit.serving.ensemble import Ensemble
from tlkit.serving.guard import guard_server

INPUT_COLUMN = "image"
ABSTAINED = ""

# What a request to a server may hold, decoded. A table in Python or Spark may hold more.
MAX_REQUEST_BYTES = 32 * 2**20
MAX_VIEWS = 64


class PictureModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Takes a column `image` of encoded pictures; MLflow decodes base64 in served requests."""

    def load_context(self, context: Any) -> None:
        """Load the classifiers from the model's artifacts."""
        guard_server()
        self._ensemble = Ensemble.load(Path(context.artifacts["classifier"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row a picture: `predicted`, and `probability_<class>` for each class, in 0..1.

        Args:
            params: `tta`, the views that are averaged; `abstain`, the confidence below which
                `predicted` is empty.

        Raises:
            MlflowException: which a server answers with status 400: no pictures, too many bytes,
                or one that is no picture; the message says which.
        """
        wanted = params or {}
        views, least = int(wanted.get("tta", 1)), float(wanted.get("abstain", 0.0))
        if not 1 <= views <= MAX_VIEWS:
            raise _refused(f"tta={views}; from 1 to {MAX_VIEWS} views are allowed")
        try:
            probabilities = self._ensemble.probabilities(_pictures(model_input), views)
        except UnreadablePicture as error:
            raise _refused(str(error)) from None
        classes = self._ensemble.classes
        table = pd.DataFrame(probabilities, columns=probability_columns(classes))
        predicted = [
            classes[row.argmax()] if row.max() >= least else ABSTAINED for row in probabilities
        ]
        table.insert(0, "predicted", predicted)
        return table


def _pictures(table: pd.DataFrame) -> list[bytes]:
    pictures = [_bytes(cell, number) for number, cell in enumerate(table[INPUT_COLUMN], start=1)]
    if not pictures:
        raise _refused("no pictures; give at least one")
    size = sum(len(picture) for picture in pictures)
    served = bool(_MLFLOW_IS_IN_SERVING_ENVIRONMENT.get())  # type: ignore[no-untyped-call]
    if served and size > MAX_REQUEST_BYTES:
        raise _refused(
            f"{size / 2**20:.0f} MiB of pictures; at most {MAX_REQUEST_BYTES // 2**20} MiB go "
            "into a request: send fewer at a time"
        )
    return pictures


def _bytes(cell: Any, number: int) -> bytes:
    """A file's bytes. MLflow decodes base64 in records; in `inputs` and in CSV it leaves it."""
    if isinstance(cell, str):
        cell = cell.encode()
    if not isinstance(cell, bytes | bytearray):
        raise _refused(
            f"picture {number} is {type(cell).__name__}; the bytes of a picture file wanted, "
            "in base64 where they travel as text"
        )
    try:
        # No picture format consists of base64's letters alone.
        return base64.b64decode(cell, validate=True) or bytes(cell)
    except binascii.Error:
        return bytes(cell)


def _refused(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)  # type: ignore[no-any-return]


mlflow.models.set_model(PictureModel())
