"""Classify pictures with a trained model, or with several."""

from tlkit.cli import main
from tlkit.deployment.predict import run_predict
from tlkit.deployment.settings import PredictSettings


def task(settings: PredictSettings) -> None:
    print(run_predict(settings))


if __name__ == "__main__":
    main(task, PredictSettings)
