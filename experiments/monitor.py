"""Compare what a served model is asked with its validation pictures; exit with 1 on an alarm."""

import sys
import traceback

from tlkit.cli import main
from tlkit.deployment.settings import MonitorSettings
from tlkit.errors import UserError
from tlkit.process import importing


def task(settings: MonitorSettings) -> None:
    try:
        with importing():
            from tlkit.deployment.monitor import run_monitor
        report = run_monitor(settings)
    except UserError:
        raise
    except Exception:  # Python itself would end with 1, which cron would take for an alarm
        traceback.print_exc()
        sys.exit(3)
    print(report.text)
    if report.alarm:
        sys.exit(1)


if __name__ == "__main__":
    main(task, MonitorSettings)
