"""Train a small CNN from scratch."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.process import importing


def task(config: Config) -> None:
    with importing():
        from tlkit.runs.suite import run_repeats
        from tlkit.summary import report
        from tlkit.tracking.store import ui_command
        from tlkit.tracking.views import MODELS
    print(report(run_repeats("baseline", config)))
    print(f"Look at it: {ui_command(MODELS)}")


if __name__ == "__main__":
    main(task, Config)
