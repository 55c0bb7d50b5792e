"""Put two models behind one address, for an A/B test."""

from tlkit.cli import main
from tlkit.deployment.route import run_route
from tlkit.deployment.settings import RouteSettings


def task(settings: RouteSettings) -> None:
    print(run_route(settings))


if __name__ == "__main__":
    main(task, RouteSettings)
