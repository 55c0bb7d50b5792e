"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """What was seen, what is allowed and what to do next, on one line.

    Entry points print it without a traceback and exit with a status that is not 0.
    """
