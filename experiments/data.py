"""Find, audit and split the pictures, and train nothing."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.runs.data import run_data
from tlkit.tracking.store import ui_command


def task(config: Config) -> None:
    run_data(config)
    print(f"Look at it: {ui_command()}")


if __name__ == "__main__":
    main(task, Config)
