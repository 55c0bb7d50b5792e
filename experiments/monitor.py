"""Compare what a served model is asked with its validation pictures; exit with 1 on an alarm."""

import sys

from tlkit.cli import main
from tlkit.deployment.monitor import run_monitor
from tlkit.deployment.settings import MonitorSettings


def task(settings: MonitorSettings) -> None:
    report = run_monitor(settings)
    print(report.text)
    if report.alarm:
        sys.exit(1)


if __name__ == "__main__":
    main(task, MonitorSettings)
