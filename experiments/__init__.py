"""Entry points: one short module each, run as `python -m experiments.NAME`."""

import os
import sys
from types import TracebackType


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while libraries are imported, which takes seconds, ends as it does later."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("interrupted", file=sys.stderr)
    os._exit(130)


sys.excepthook = _end
