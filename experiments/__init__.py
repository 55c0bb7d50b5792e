"""Entry points: one short module each, run as `python -m experiments.NAME`.

What a task computes with is imported once its settings are read, for that takes seconds.
"""

import os
import sys
from types import TracebackType

from tlkit.process import end, is_entry_point


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C before `main` begins ends as it does later; what nobody has caught, as all else
    ends."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        os._exit(130)
    sys.__excepthook__(kind, error, trace)
    if is_entry_point():
        end(1)


sys.excepthook = _end
