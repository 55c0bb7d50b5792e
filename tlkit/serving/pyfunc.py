"""A model as MLflow serves it: bytes of pictures in, classes and probabilities out.

MLflow runs this file when it loads the model, so nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from tlkit.serving.answer import Served, question
from tlkit.serving.guard import guard_server


class PictureModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Takes a column `image` of encoded pictures; MLflow decodes base64 in served requests."""

    def load_context(self, context: Any) -> None:
        """Load the classifiers from the model's artifacts."""
        guard_server()
        self._served = Served.load(Path(context.artifacts["classifier"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row a picture: `predicted`, and `probability_<class>` for each class, in 0..1.

        Args:
            params: `tta`, the views that are averaged; `abstain`, the confidence below which
                `predicted` is empty.

        Raises:
            MlflowException: as `question` and `Served.answer`.
        """
        return self._served.answer(question(model_input, params))


mlflow.models.set_model(PictureModel())
