"""Show what is stored of frozen parts, audits and cut-off trainings; delete it with clear=yes."""

from tlkit.cli import main
from tlkit.config import Config
from tlkit.process import importing


def task(config: Config) -> None:
    with importing():
        from tlkit.runs.cache import run_cache
    print(run_cache(config))


if __name__ == "__main__":
    main(task, Config)
