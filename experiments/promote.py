"""Make a candidate champion where it is better on the same test pictures, or undo that."""

from tlkit.cli import main
from tlkit.deployment.settings import PromoteSettings
from tlkit.process import importing


def task(settings: PromoteSettings) -> None:
    with importing():
        from tlkit.deployment.promote import run_promote
    print(run_promote(settings))


if __name__ == "__main__":
    main(task, PromoteSettings)
