"""Finished runs against one another on the same test pictures, with a report to read."""

from tlkit.cli import main
from tlkit.evidence.settings import CompareSettings
from tlkit.process import importing


def task(settings: CompareSettings) -> None:
    with importing():
        from tlkit.evidence.compare import run_compare
        from tlkit.tracking.store import ui_command
    print(run_compare(settings))
    print(f"Look at it: {ui_command()}")


if __name__ == "__main__":
    main(task, CompareSettings)
