"""Find, audit and split the pictures, and train nothing."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.process import importing


def task(config: Config) -> None:
    with importing():
        from tlkit.runs.data import run_data
        from tlkit.summary import of_classes
        from tlkit.tracking.store import ui_command
    print(of_classes(run_data(config).manifest))
    print(f"Look at it: {ui_command()}")


if __name__ == "__main__":
    main(task, Config)
