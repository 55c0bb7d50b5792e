"""Several trained models as one: the mean of their probabilities or of their weights."""

from tlkit.cli import main
from tlkit.deployment.settings import EnsembleSettings
from tlkit.process import importing


def task(settings: EnsembleSettings) -> None:
    with importing():
        from tlkit.deployment.ensemble import run_ensemble
    print(run_ensemble(settings))


if __name__ == "__main__":
    main(task, EnsembleSettings)
