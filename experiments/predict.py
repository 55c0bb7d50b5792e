"""Classify pictures with a trained model, or with several."""

from tlkit.cli import main
from tlkit.deployment.settings import PredictSettings
from tlkit.process import importing


def task(settings: PredictSettings) -> None:
    with importing():
        from tlkit.deployment.predict import run_predict
    print(run_predict(settings))


if __name__ == "__main__":
    main(task, PredictSettings)
