"""The command line of every entry point: `--key value`, one line for an error, no traceback."""

import _thread
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

from tlkit.errors import UserError, one_line
from tlkit.files import expanded, temporary_folder
from tlkit.keys import Settings
from tlkit.process import end

# Seconds after which an interrupt that was lost comes again: until then its object is deleted.
_LATER = 0.1

S = TypeVar("S", bound=Settings)


def main(
    task: Callable[[S], None], kind: type[S], arguments: Sequence[str] | None = None
) -> NoReturn:
    """Read the settings, do the task, and exit: 0, 2 for a user's mistake, 130 for Ctrl-C, 143 for
    SIGTERM.

    Args:
        kind: the dataclass of keys that the task takes.
        arguments: `--config FILE` and `--key value` or `--key=value`; by default the process's.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _printing():
            if {"-h", "--help"} & set(words):
                print(_help(task, kind))
            else:
                flags = parse_flags(words)
                file = flags.pop("config", None)
                with _interruptible():
                    _do(task, kind.load(expanded(file) if file else None, flags))
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        end(2)
    except KeyboardInterrupt as interrupt:
        print(kind.interrupted, file=sys.stderr)
        if interrupt.args == (signal.SIGTERM,):
            end(143)
        end(130)
    except SystemExit as asked:  # by the task, which gives a number
        end(int(asked.code or 0))
    end(0)


def _do(task: Callable[[S], None], settings: S) -> None:
    try:
        task(settings)
    except FileNotFoundError:
        temporary_folder()  # tells what Python did not find, if it was that
        raise


def _help(task: Callable[[S], None], kind: type[S]) -> str:
    """A usage line, what the entry point's module says of itself, and the keys."""
    module = getattr(task, "__globals__", {})
    name = getattr(module.get("__spec__"), "name", "experiments.NAME")
    lines = [
        f"usage: python -m {name} [--config FILE] [--key value ...]",
        *("", (module.get("__doc__") or "").strip(), ""),
        "--config FILE\n    a YAML file of these keys; a flag beats the file, the file the default",
    ]
    for key, default, meaning, allowed in kind.describe():
        lines.append(f"--{key} {default}\n    {meaning}" + (f" ({allowed})" if allowed else ""))
    return "\n".join(lines)


@contextmanager
def _printing() -> Iterator[None]:
    """Let no task fail that is done, because its result cannot be printed: a name that the
    terminal has no letters for, a reader such as `head` that has read enough, or no place at all,
    as a service may be started."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 (for good)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
    except BrokenPipeError:
        if _is_read("\n"):  # it was another pipe
            raise
    finally:
        _is_read("")


def _is_read(text: str) -> bool:
    """Print it and all that waits; where nobody reads it, nor is it to be tried again later."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, which containers and schedulers send, end a task as Ctrl-C does: its run is
    closed, and what lies in scratch folders goes."""

    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        # `mlflow run` sends it after Ctrl-C as well, which must not cut the closing off.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        came.append(number)
        raise KeyboardInterrupt(came[0])

    def ignored(what: "sys.UnraisableHookArgs") -> None:
        # Python drops what is raised while an object is deleted, an interrupt too.
        if came and isinstance(what.exc_value, KeyboardInterrupt):
            later = threading.Timer(_LATER, _thread.interrupt_main)
            later.daemon = True
            later.start()
        else:
            hook(what)

    hook, sys.unraisablehook = sys.unraisablehook, ignored
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    except Exception as error:
        if came:  # it also ended processes of ours, and what waits for one of them fails
            raise KeyboardInterrupt(came[0]) from error
        raise
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def parse_flags(words: Sequence[str]) -> dict[str, str]:
    """`--key value` and `--key=value` to a mapping.

    Raises:
        UserError: a word that is no flag, or a flag without a value.
    """
    flags: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"{word!r} is not expected here; give settings as --key value")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise UserError(f"--{name} has no value; give it as --{name} VALUE")
            value = rest.pop(0)
        flags[name.replace("-", "_")] = value
    return flags
