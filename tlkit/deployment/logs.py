"""The request log as entry points read it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy.engine import make_url

from tlkit.errors import UserError, without_password
from tlkit.serving.request_log import LOG_FAULTS, RequestLog, open_log


def seconds_of(since: str) -> float:
    """Seconds since 1970 of an ISO time, in the machine's own zone where it names none; 0 for
    "none". Raises UserError for what is no time."""
    try:
        return 0.0 if since == "none" else datetime.fromisoformat(since).timestamp()
    except ValueError:
        raise UserError(f"since={since} is no time; such as 2026-11-23T08:00 wanted") from None


@contextmanager
def opened(address: str) -> Iterator[RequestLog]:
    """The log at an address; a UserError for one that cannot be read while the block lasts."""
    url = without_password(address)
    try:
        file = make_url(address).database if address.startswith("sqlite") else None
        if file and not file.startswith((":memory:", "file:")) and not Path(file).exists():
            raise FileNotFoundError(f"no such file: {file}")  # opening would make one
        yield open_log(address)
    except LOG_FAULTS as error:
        # The database's own words, without the query and its values.
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise UserError(
            f"log={url} cannot be read ({reason}); the address that "
            "TLKIT_REQUEST_LOG had when the model was served wanted"
        ) from error
