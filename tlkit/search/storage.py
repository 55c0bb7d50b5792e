"""Where a study is kept, and how processes take turns at it."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from tlkit.errors import UserError, one_line, reason, without_password

# A worker that was killed is noticed after this long, and its trial is tried again once.
HEARTBEAT_SECONDS, GRACE_SECONDS = 5, 20
retry_once = RetryHeartbeatStaleTrialCallback(max_retry=1)
# What a database raises that fails while we work with it, through Optuna or directly.
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)


class Busy(Exception):
    """Another process holds the lock."""


Lock = Callable[..., contextlib.AbstractContextManager[None]]


def locks(address: str) -> Lock:
    """Locks between all processes that use the database at `address`.

    Returns:
        `lock(name, wait=True)`, a context manager; it raises Busy where `wait` is false and
        another process is inside. A killed process lets go.

    Raises:
        UserError: the address is none, or nobody answers there.
    """
    url = _url(address)
    if url.get_backend_name() == "sqlite":
        return _file_locks(url)
    try:
        engine = sqlalchemy.create_engine(url, pool_pre_ping=True)
    except (SQLAlchemyError, ImportError) as error:  # its driver is not installed
        raise _unreachable(address, error) from error
    _connect(engine).close()  # now, before anything is computed
    take, leave = _SERVER_LOCKS[url.get_backend_name()]

    @contextlib.contextmanager
    def lock(name: str, wait: bool = True) -> Iterator[None]:
        # Held by the connection, so that a killed process lets go.
        with _connect(engine) as connection:
            taken = connection.execute(
                sqlalchemy.text(take[wait]), {"key": _number(name), "name": f"tlkit-{name}"}
            ).scalar()
            if taken in (0, False):
                raise Busy(name)
            try:
                yield
            finally:
                connection.execute(
                    sqlalchemy.text(leave), {"key": _number(name), "name": f"tlkit-{name}"}
                )

    return lock


def _connect(engine: Engine) -> Connection:
    try:
        return engine.connect()
    except SQLAlchemyError as error:
        raise _unreachable(engine.url.render_as_string(hide_password=False), error) from error


# SQL to take a lock, without and with waiting, and to leave it.
_SERVER_LOCKS = {
    "postgresql": (
        ("SELECT pg_try_advisory_lock(:key)", "SELECT 1 FROM pg_advisory_lock(:key)"),
        "SELECT pg_advisory_unlock(:key)",
    ),
    "mysql": (("SELECT GET_LOCK(:name, 0)", "SELECT GET_LOCK(:name, -1)"),
              "SELECT RELEASE_LOCK(:name)"),
}  # fmt: skip


def sqlite_file(address: str) -> Path | None:
    """The file of an SQLite address; None of a server's.

    Raises:
        UserError: the address is none.
    """
    url = _url(address)
    return _file(url) if url.get_backend_name() == "sqlite" else None


def _file(url: URL) -> Path:
    return Path(url.database or "").absolute()


def _file_locks(url: URL) -> Lock:
    database = _file(url)
    if not database.parent.is_dir():
        raise UserError(
            f"storage={url}: there is no folder {database.parent}; make it, or use storage=auto"
        )

    @contextlib.contextmanager
    def lock(name: str, wait: bool = True) -> Iterator[None]:
        file = database.with_name(
            f".{database.name}.{hashlib.sha256(name.encode()).hexdigest()[:12]}.lock"
        )
        try:
            with FileLock(file, timeout=-1 if wait else 0):
                yield
        except Timeout:
            raise Busy(name) from None

    return lock


def _number(name: str) -> int:
    """A lock's name as PostgreSQL wants it: 64 bits with a sign."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def open_storage(address: str) -> RDBStorage:
    """Optuna's storage at an SQLAlchemy address; made if it is not there.

    To be called under a lock: of processes that make one at once all but one fail.

    Raises:
        UserError: it cannot be reached.
    """
    url = _url(address)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() == "sqlite":
        options = {"connect_args": {"timeout": 60}}
    try:
        return RDBStorage(
            address,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=retry_once,
        )
    except RuntimeError as error:  # made by another Optuna, which says what to do
        shown = without_password(address)
        raise UserError(f"storage={shown} cannot be used: {one_line(error)}") from error
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise _unreachable(address, error) from error


@contextlib.contextmanager
def storage_faults_told(address: str) -> Iterator[None]:
    """Turn what the database refuses or cannot do any more into a UserError."""
    try:
        yield
    except STORAGE_ERRORS as error:
        raise UserError(
            f"storage={without_password(address)} fails: {reason(error.__cause__ or error)}; see "
            "that it is there, answers and has space, then give the same command again: what is "
            "stored is taken over"
        ) from error


def _url(address: str) -> URL:
    try:
        url = make_url(address)
    except (SQLAlchemyError, ValueError):  # as for a port that is no number
        url = None
    kind = url.get_backend_name() if url else None
    in_memory = url is not None and kind == "sqlite" and url.database in (None, "", ":memory:")
    if url is None or in_memory or kind not in ("sqlite", *_SERVER_LOCKS):
        raise UserError(
            f"storage={without_password(address)} is no address of a database that Optuna can "
            "share; sqlite:///FILE, postgresql+psycopg://USER@HOST/NAME or mysql+pymysql://... "
            "wanted"
        )
    return url


def _unreachable(address: str, error: BaseException) -> UserError:
    return UserError(
        f"storage={without_password(address)} cannot be used: {reason(error.__cause__ or error)}; "
        "check that the server runs and the name is right, or use storage=auto"
    )
