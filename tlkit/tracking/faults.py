"""What MLflow cannot do or does not have, told as a user's errors are."""

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from tlkit.errors import UserError, one_line, without_password

T = TypeVar("T")

# The packages by which MLflow reaches artifacts on S3, Google Cloud, Azure and by SFTP. Their
# exceptions have no base in common, and MLflow hands them on as they are.
_CLIENTS = ("boto3", "botocore", "s3transfer", "google", "azure", "paramiko", "pysftp")

# How MLflow lists what it could not download, of a model a hundred files and more.
_NOT_DOWNLOADED = re.compile(r"^##### File (.*) #####\n(.*)$", re.MULTILINE)
_ABSENT = "No such artifact"

# MLflow's codes for what is not there, and for an id that can be none.
NO_SUCH, NO_ID = map(ErrorCode.Name, (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE))


@contextlib.contextmanager
def store_faults_told() -> Iterator[None]:
    """Turn what MLflow's store refuses or cannot do into a UserError."""
    try:
        yield
    except MlflowException as error:
        raise UserError(
            f"MLflow fails at {shown_address()}: {reason_of(error)}; see that its server answers "
            "and that its disk has space, then give the same command again: what is stored is "
            "taken over"
        ) from error
    except SQLAlchemyError as error:
        why = reason_of(error)
        # What MLflow's making of it meets where it was cut off before.
        way_out = (
            "it was made by half: move it away, and give the command again"
            if "already exists" in why
            else "see that it can be reached and that its disk has space"
        )
        raise UserError(
            f"MLflow cannot use the database {shown_address()}: {why}; {way_out}"
        ) from error


def _not_kept(error: Exception) -> str:
    way_out = (
        "install the package"
        if isinstance(error, ImportError)
        else "check rights and space where this experiment's artifacts lie"
    )
    return (
        f"MLflow cannot keep artifacts: {reason_of(error)}; {way_out}, or name another experiment "
        "by MLFLOW_EXPERIMENT_NAME"
    )


@contextlib.contextmanager
def artifact_faults_told(tell: Callable[[Exception], str] = _not_kept) -> Iterator[None]:
    """Turn what keeps artifacts from being stored, or read, into a UserError.

    Args:
        tell: its message; by default that of artifacts that cannot be stored.
    """
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if isinstance(error, (MlflowException, OSError, ImportError)) or package in _CLIENTS:
            raise UserError(tell(error)) from error
        raise


class _Unraised(logging.Handler):
    """Keeps the errors that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.errors.append(record.exc_info[1])


@contextlib.contextmanager
def reasons_kept() -> Iterator[Callable[[Exception], str]]:
    """For a download by the address runs:/, whose reasons MLflow logs for its developers and does
    not raise: gives what tells the reason of an error that ends the block. For one thread at a
    time: it changes MLflow's logger meanwhile."""
    logger = logging.getLogger("mlflow.store.artifact.runs_artifact_repo")
    level, propagate = logger.level, logger.propagate
    unraised = _Unraised()
    # Or MLflow's own handler would show them.
    logger.propagate = propagate and logger.isEnabledFor(logging.DEBUG)
    logger.setLevel(logging.DEBUG)
    logger.addHandler(unraised)

    def tell(error: Exception) -> str:
        reasons = [reason_of(one) for one in unraised.errors]
        return next((why for why in reversed(reasons) if _ABSENT not in why), reason_of(error))

    try:
        yield tell
    finally:
        logger.removeHandler(unraised)
        logger.setLevel(level)
        logger.propagate = propagate


class _WaitingTold(logging.Handler):
    """Says that a server does not answer when a request is first repeated, from what urllib3 logs.
    MLflow repeats one for four minutes by default, in silence."""

    def emit(self, record: logging.LogRecord) -> None:
        match record.args:
            case (retries, Exception() as error, _) if len(getattr(retries, "history", ())) == 1:
                tqdm.write(
                    f"no answer: {line_of(error)}; asking again, for some minutes by default "
                    "(MLFLOW_HTTP_REQUEST_MAX_RETRIES)",
                    file=sys.stderr,
                )


_waiting_told = _WaitingTold(logging.WARNING)


def tell_waiting() -> None:
    """Have it told, from now on in this process, when a server is waited for."""
    logging.getLogger("urllib3.connectionpool").addHandler(_waiting_told)


def or_none(read: Callable[[], T], *codes: str) -> T | None:
    """What `read` gives; None where the store answers with one of these codes. A store that cannot
    tell is a UserError."""
    with store_faults_told():
        try:
            return read()
        except MlflowException as error:
            if error.error_code not in codes:
                raise
            return None


def shown_address() -> str:
    """Of the tracking store, without a password."""
    return without_password(mlflow.get_tracking_uri())


def reason_of(error: BaseException) -> str:
    """On one line, without the password of the tracking store's address, nor the query, nor a full
    stop."""
    said = line_of(error)
    if failed := _NOT_DOWNLOADED.findall(str(error)):
        (file, why), *others = failed
        said = f"{file}: {why}" + (f" (and {len(others)} more)" if others else "")
    said = said.replace(mlflow.get_tracking_uri(), shown_address())
    return said.partition(" [SQL: ")[0].removesuffix(".")


def line_of(error: BaseException) -> str:
    """The message on one line, or the error's kind where it has none."""
    return one_line(error) or type(error).__name__
