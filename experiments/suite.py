"""Baseline, head and finetune on the same pictures, as children of one run."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.process import importing


def task(config: Config) -> None:
    with importing():
        from tlkit.runs.suite import run_suite
        from tlkit.summary import table
        from tlkit.tracking.store import ui_command
        from tlkit.tracking.views import MODELS
    print(table(run_suite(config)))
    print(f"Look at it: {ui_command(MODELS)}")


if __name__ == "__main__":
    main(task, Config)
