"""Unfreeze the top of the backbone and train it with a small rate; with several seeds, average."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.deployment.settings import EnsembleSettings
from tlkit.process import importing


def task(config: Config) -> None:
    with importing():
        from tlkit.deployment.ensemble import run_ensemble
        from tlkit.runs.suite import run_repeats
        from tlkit.summary import report
        from tlkit.tracking.store import ui_command
        from tlkit.tracking.views import MODELS
    results = run_repeats("finetune", config)
    print(report(results))
    if len(results) > 1:
        models = ",".join(f"runs:/{result.run_id}/model" for result in results)
        print(run_ensemble(EnsembleSettings(models=models)))
    print(f"Look at it: {ui_command(MODELS)}")


if __name__ == "__main__":
    main(task, Config)
