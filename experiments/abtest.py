"""Which of a router's two models does better, as far as its log tells."""

from tlkit.cli import main
from tlkit.deployment.settings import AbtestSettings
from tlkit.process import importing


def task(settings: AbtestSettings) -> None:
    with importing():
        from tlkit.deployment.abtest import run_abtest
    print(run_abtest(settings))


if __name__ == "__main__":
    main(task, AbtestSettings)
