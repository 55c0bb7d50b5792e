"""What MLflow's scoring server lets through to a status of 500, answered with 4xx instead."""

import logging
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from functools import wraps
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from tlkit.errors import reason
from tlkit.serving.answer import MAX_REQUEST_VIEWS, refused

# 32 MiB of pictures in base64, and room for the JSON around them.
MAX_BODY_BYTES = 48 * 2**20

# Commas and opening brackets in a body: 16 a picture, where 5 would do. Base64 has neither, and
# what a million rows or columns cost is spent before the model could count them.
MAX_MARKS = 16 * MAX_REQUEST_VIEWS

# Of the message in an answer.
MAX_CHARACTERS = 500

_SERVER = "mlflow.pyfunc.scoring_server"

Message = MutableMapping[str, Any]
Endpoint = Callable[[Any], Awaitable[Any]]

_logger = logging.getLogger(__name__)


def guard_server() -> None:
    """Guard the server that loads this model, if one does.

    MLflow 3.17 answers 500 to a request without a content type, to JSON nested deeper than its
    parser goes and to a number of 5,000 digits, echoes a body that is no JSON, of whatever size,
    and puts the data before what is wrong with it. It takes a body into memory whole, of whatever
    size, makes a table of as many cells as there are in it (20 million, in 54 KB of Parquet), and
    answers an error in a model with a traceback that shows the server's paths.
    """
    server = sys.modules.get(_SERVER)
    if server is None or f"{_SERVER}.app" not in sys.modules:
        return
    if not hasattr(server.invocations, "__wrapped__"):
        server.invocations = _guarded(server.invocations)  # type: ignore[attr-defined]
        # The server has not made its endpoint yet: it loads the model first.
        catch = server._async_catch_mlflow_exception
        server._async_catch_mlflow_exception = (  # type: ignore[attr-defined]
            lambda endpoint: catch(_bounded(endpoint))
        )


def _bounded(endpoint: Endpoint) -> Endpoint:
    """Read no more of a body than may be in it; the server throws away what still comes."""

    @wraps(endpoint)
    async def bounded(request: Any) -> Any:
        taken = 0

        async def receive() -> Message:
            nonlocal taken
            message: Message = await request.receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY_BYTES:
                raise MlflowException(
                    f"the body is larger; at most {MAX_BODY_BYTES // 2**20} MiB are taken: send "
                    "fewer pictures at a time",
                    error_code=BAD_REQUEST,
                )
            return message

        return await endpoint(type(request)(request.scope, receive))

    return bounded


def _guarded(invocations: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(invocations)
    def guarded(data: bytes, content_type: str | None, *rest: Any) -> Any:
        if not content_type:
            raise MlflowException("no content type; send application/json", error_code=BAD_REQUEST)
        if "parquet" in content_type.lower():
            raise refused("Parquet is not taken; send application/json or text/csv")
        if sum(map(data.count, (b",", b"[", b"{"))) > MAX_MARKS:
            raise refused(
                f"over {MAX_MARKS:,} commas and brackets; at most {MAX_REQUEST_VIEWS} pictures go "
                "into a request: send fewer at a time"
            )
        try:
            return invocations(data, content_type, *rest)
        except RecursionError:
            raise MlflowException("JSON nested too deep", error_code=BAD_REQUEST) from None
        except ValueError as error:  # of the parser; what the model raises comes as the next
            raise refused(f"JSON that cannot be read: {reason(error)}") from None
        except MlflowException as error:
            data_shown, _, said = error.message.partition("\nError: ")
            error.message = f"{said}\n{data_shown}".strip()[:MAX_CHARACTERS]
            if traceback := error.json_kwargs.pop("stack_trace", None):
                _logger.error("a request failed: %s", traceback)
            raise

    return guarded
