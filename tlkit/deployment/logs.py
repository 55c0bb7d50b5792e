"""The request log as entry points read it."""

from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from tlkit.errors import UserError
from tlkit.serving.request_log import Entry, RequestLog


def read_log(url: str, since: str, last: int | None = None) -> list[Entry]:
    """Entries of a log, oldest first.

    Args:
        since: "none", or an ISO time, in the machine's own zone where it names none.
        last: how many of the newest.

    Raises:
        UserError: no such log, no entries, or no time.
    """
    try:
        begin = 0.0 if since == "none" else datetime.fromisoformat(since).timestamp()
    except ValueError:
        raise UserError(f"since={since} is no time; such as 2026-11-23T08:00 wanted") from None
    try:
        entries = RequestLog(url).read(since=begin, last=last)
    except (SQLAlchemyError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"log={url} cannot be read ({reason}); the address that TLKIT_REQUEST_LOG had when "
            "the model was served wanted"
        ) from error
    if not entries:
        raise UserError(f"log={url} holds no requests since {since}")
    return entries
