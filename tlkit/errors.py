"""The one exception that stands for a user's mistake, and how an error is told on one line."""


class UserError(Exception):
    """What was seen, what is allowed and what to do next, on one line.

    Entry points print it without a traceback and exit with a status that is not 0.
    """


# How a traceback names it: torch hands on an error of a loader's worker as the traceback's text.
_RAISED = f"\n{UserError.__module__}.{UserError.__qualname__}: "


def one_line(error: BaseException) -> str:
    """The message alone, its lines joined by spaces; "" where there is none."""
    message = str(error).rpartition(_RAISED)[2]
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def reason(error: BaseException) -> str:
    """The message on one line, cut to 200 characters, or the error's kind where it has none."""
    return one_line(error)[:200] or type(error).__name__
