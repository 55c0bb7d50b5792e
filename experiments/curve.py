"""Head and baseline on more and more of the training pictures: what transfer is worth in labels."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.process import importing


def task(config: Config) -> None:
    with importing():
        from tlkit.evidence.curve import run_curve
        from tlkit.tracking.store import ui_command
    print(run_curve(config))
    print(f"Look at it: {ui_command()}")


if __name__ == "__main__":
    main(task, Config)
