"""Let Optuna choose the learning rates, the unfreeze depth, or whatever `search` names."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.process import importing


def task(config: Config) -> None:
    with importing():
        from tlkit.search.tune import run_tune
        from tlkit.summary import table
        from tlkit.tracking.store import ui_command
        from tlkit.tracking.views import TRIALS
    conclusion = run_tune(config)
    if conclusion is None:
        print("The trials are made; another process trains the best configuration.")
        return
    print(conclusion.summary)
    print(table(conclusion.results))
    print(f"Look at it: {ui_command(TRIALS, conclusion.experiment_id)}")


if __name__ == "__main__":
    main(task, Config)
