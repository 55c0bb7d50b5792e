"""Unfreeze the top of the backbone and train it with a small rate."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.runs import run_phase
from tlkit.summary import table
from tlkit.tracking import ui_command


def task(config: Config) -> None:
    result = run_phase("finetune", config)
    print(table([result]))
    print(f"Look at it: {ui_command()}")


if __name__ == "__main__":
    main(task, Config)
