"""Make a candidate champion where it is better on the same test pictures, or undo that."""

from tlkit.cli import main
from tlkit.deployment.promote import run_promote
from tlkit.deployment.settings import PromoteSettings


def task(settings: PromoteSettings) -> None:
    print(run_promote(settings))


if __name__ == "__main__":
    main(task, PromoteSettings)
