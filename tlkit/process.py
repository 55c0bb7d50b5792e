"""How the process of an entry point imports and ends: by default either takes seconds too many.

The libraries that are imported make more than half a million objects, nearly all of which stay.
Python would look through them again and again while they are made, with each full collection
later, and several times at the end (docs/LOG.md).
"""

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


def is_entry_point() -> bool:
    """Whether this process was begun by `python -m experiments.NAME`: not by a test, a profiler or
    a debugger, which have work of their own at its end."""
    option, name = (*sys.orig_argv, "", "")[1:3]
    return option == "-m" and name.startswith("experiments.")


@contextmanager
def importing() -> Iterator[None]:
    """Around what a task imports: no garbage is collected meanwhile, nor what is there then looked
    through later. SIGTERM ends the process at once, for nothing is open yet, and what is imported
    may swallow an interrupt. Where an import fails the process is at its end."""
    if not is_entry_point():
        yield
        return
    gc.disable()
    # Not by default, which the first process of a container is spared.
    closing = signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    yield
    signal.signal(signal.SIGTERM, closing)
    gc.freeze()
    gc.enable()


def end(status: int) -> NoReturn:
    """Exit as `multiprocessing` ends its processes: threads are waited for, what was registered
    for the end is done, and objects are left to the system. mypy ends the same way. Ctrl-C ends
    the waiting alone, as it does in Python's own end."""
    if is_entry_point():
        with suppress(KeyboardInterrupt):
            threading._shutdown()  # type: ignore[attr-defined]
        with suppress(KeyboardInterrupt):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
