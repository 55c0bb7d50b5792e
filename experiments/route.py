"""Put two models behind one address, for an A/B test."""

from tlkit.cli import main
from tlkit.deployment.settings import RouteSettings
from tlkit.process import importing


def task(settings: RouteSettings) -> None:
    with importing():
        from tlkit.deployment.route import run_route
    print(run_route(settings))


if __name__ == "__main__":
    main(task, RouteSettings)
