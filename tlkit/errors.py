"""The one exception that stands for a user's mistake, and how an error is told on one line."""

import re
import unicodedata
from collections.abc import Mapping

# Embeddings, overrides and isolates, which would put the text around them into another order.
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# The password of an address, and one in its query. A password may hold an @ that is not escaped.
_PASSWORD = re.compile(r"(://[^:/?#@]*:).*(?=@)|([?&]\w*passw(?:or)?d=)[^&]*", re.IGNORECASE)


class UserError(Exception):
    """What was seen, what is allowed and what to do next, on one line.

    Entry points print it without a traceback and exit with a status that is not 0.

    Args:
        artifacts: what is too long for a line, by the name under which the run that ends by this
            keeps it: texts.
    """

    def __init__(self, message: str, artifacts: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.artifacts = dict(artifacts or {})


class CannotTrainError(UserError):
    """What a configuration is to blame for: its loss is not finite, a card's memory is full."""


# How a traceback names it: torch hands on an error of a loader's worker as the traceback's text.
_RAISED = f"\n{UserError.__module__}.{UserError.__qualname__}: "


def printable_line(text: str) -> str:
    """`text` with line breaks and runs of spaces as one space, what cannot be printed as "?"."""
    return " ".join(_printable(text).split())


def _printable(text: str) -> str:
    """Without what moves a terminal's cursor, reorders a line, or cannot be written as UTF-8."""
    return "".join(character if _harmless(character) else "?" for character in text)


def _harmless(character: str) -> bool:
    # Of what has no glyph, joiners and the like are part of a word: Persian is not written without.
    unseen = unicodedata.category(character) == "Cf" and character not in _REORDERING
    return character.isprintable() or character.isspace() or unseen


def one_line(error: BaseException) -> str:
    """The message alone, its lines joined by spaces, what cannot be printed as "?"; "" where there
    is none. Other spaces stay as they are: they may be part of a name."""
    message = str(error).rpartition(_RAISED)[2]
    return _printable(" ".join(line.strip() for line in message.splitlines() if line.strip()))


def without_password(text: str) -> str:
    """An address as it may be shown and logged, any other text as it is.

    By its letters, for an address that nothing else can read shall not show its password either.
    """
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}***", text)


def reason(error: BaseException) -> str:
    """The message on one line, cut to 200 characters, or the error's kind where it has none."""
    return one_line(error)[:200] or type(error).__name__
