"""Head and baseline on more and more of the training pictures: what transfer is worth in labels."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.evidence.curve import run_curve
from tlkit.tracking.store import ui_command


def task(config: Config) -> None:
    print(run_curve(config))
    print(f"Look at it: {ui_command()}")


if __name__ == "__main__":
    main(task, Config)
