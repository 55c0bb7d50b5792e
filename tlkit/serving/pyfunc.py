"""The classifier as an MLflow model from code: bytes of pictures in, probabilities out.

MLflow runs this file when it loads the model, so nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from tlkit.serving.classifier import Classifier, probability_columns

INPUT_COLUMN = "image"


class PictureModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Takes a column `image` of encoded pictures; MLflow decodes base64 in served requests."""

    def load_context(self, context: Any) -> None:
        """Load the classifier from the model's artifacts."""
        self._classifier = Classifier.load(Path(context.artifacts["classifier"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row a picture: `predicted`, and `probability_<class>` for each class, in 0..1."""
        classes = self._classifier.description.classes
        probabilities = self._classifier.probabilities(list(model_input[INPUT_COLUMN]))
        table = pd.DataFrame(probabilities, columns=probability_columns(classes))
        table.insert(0, "predicted", [classes[best] for best in probabilities.argmax(axis=1)])
        return table


mlflow.models.set_model(PictureModel())
