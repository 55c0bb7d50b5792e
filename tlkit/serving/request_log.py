"""What a served model was asked and said: where it is kept, and how it is opened."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.lib import ArrowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from tlkit.errors import without_password
from tlkit.serving.log_address import LOG_FORMS, is_log
from tlkit.serving.parquet_log import ParquetLog
from tlkit.serving.sql_log import SqlLog

# Where a server logs to, as `open_log` takes it; unset: nowhere, and for a router its default.
LOG_VARIABLE = "TLKIT_REQUEST_LOG"
NOWHERE = "none"
# "1" where the pictures themselves are to be logged too.
PICTURES_VARIABLE = "TLKIT_LOG_PICTURES"

RequestLog = SqlLog | ParquetLog
# What a log raises that cannot be opened, read or written.
LOG_FAULTS = (SQLAlchemyError, ArrowException, OSError, ImportError, ValueError, TypeError)


def open_log(address: str) -> RequestLog:
    """The log at an SQLAlchemy address of SQLite or PostgreSQL, or in a parquet:///FOLDER.

    Raises one of LOG_FAULTS where the address is none, or its driver is not installed.
    """
    if not is_log(address):
        raise ValueError(f"{without_password(address)} is no request log; {LOG_FORMS} wanted")
    url = make_url(address)
    if url.drivername == "parquet":
        return ParquetLog(Path(url.database or "."))
    return SqlLog(address)


def log_of_environment(default: str = NOWHERE) -> RequestLog | None:
    """The log that TLKIT_REQUEST_LOG names, or the default; None where that is "none"."""
    address = os.environ.get(LOG_VARIABLE) or default
    return None if address == NOWHERE else open_log(address)


@contextmanager
def unlogged() -> Iterator[None]:
    """Log nothing for as long as the block lasts: MLflow asks a model that it logs its example."""
    before = os.environ.get(LOG_VARIABLE)
    os.environ[LOG_VARIABLE] = NOWHERE
    try:
        yield
    finally:
        if before is None:
            del os.environ[LOG_VARIABLE]
        else:
            os.environ[LOG_VARIABLE] = before
