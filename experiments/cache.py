"""Show what is stored of frozen parts, audits and cut-off trainings; delete it with clear=yes."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.runs.cache import run_cache


def task(config: Config) -> None:
    print(run_cache(config))


if __name__ == "__main__":
    main(task, Config)
