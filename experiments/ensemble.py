"""Several trained models as one: the mean of their probabilities or of their weights."""

from tlkit.cli import main
from tlkit.deployment.ensemble import run_ensemble
from tlkit.deployment.settings import EnsembleSettings


def task(settings: EnsembleSettings) -> None:
    print(run_ensemble(settings))


if __name__ == "__main__":
    main(task, EnsembleSettings)
