"""How the process of an entry point begins and ends: by default either takes seconds of its own.

The libraries that are imported make more than half a million objects, nearly all of which stay.
Python would look through them again and again while they are made, with each full collection
later, and several times at the end (docs/LOG.md).
"""

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def is_entry_point() -> bool:
    """Whether this process was begun by `python -m experiments.NAME`: not by a test, a profiler or
    a debugger, which have work of their own at its end."""
    option, name = (*sys.orig_argv, "", "")[1:3]
    return option == "-m" and name.startswith("experiments.")


def begin() -> None:
    """Before the imports: collect no garbage until `imported`."""
    if is_entry_point():
        gc.disable()


def imported() -> None:
    """After the imports: collect garbage, but never look through what is there now."""
    if is_entry_point():
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
