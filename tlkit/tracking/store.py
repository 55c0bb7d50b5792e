"""Where MLflow keeps runs, and how it is set up in our processes."""

import logging
import os
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mlflow
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from sqlalchemy.engine import make_url

from tlkit.errors import UserError
from tlkit.tracking.faults import shown_address, tell_waiting
from tlkit.tracking.views import ALL_RUNS, View, has_view

# Where `mlflow ui` serves it, unless it is told another port.
_LOCAL = "http://127.0.0.1:5000"


def store_file() -> Path | None:
    """MLflow's SQLite database; None where it keeps its runs elsewhere."""
    uri = mlflow.get_tracking_uri()
    return _database(uri) if urlparse(uri).scheme == "sqlite" else None


def store_folder() -> Path:
    """The folder of MLflow's SQLite database, or the current one where it is elsewhere."""
    file = store_file()
    return file.parent if file else Path.cwd()


def _database(uri: str) -> Path:
    # By SQLAlchemy, which opens it: a # is part of a name, and %20 stands for a space.
    return Path(make_url(uri).database or "").absolute()


def ui_address(page: str) -> str:
    """Of a page of MLflow's UI: that of the tracking server, or of `mlflow ui` on this machine."""
    return f"{shown_address().rstrip('/') if _is_server() else _LOCAL}{page}"


def _is_server() -> bool:
    return urlparse(mlflow.get_tracking_uri()).scheme in ("http", "https")


def ui_command(view: View = ALL_RUNS, experiment_id: str | None = None) -> str:
    """What to type to look at the runs of an experiment; by default, of this process's last run."""
    page = f"open {ui_address(_runs_page(view, experiment_id))}"
    if _is_server():
        return page
    if store_file() == Path("mlflow.db").absolute():
        return f"mlflow ui   and {page}"
    return f"mlflow ui --backend-store-uri {shlex.quote(shown_address())}   and {page}"


def _runs_page(view: View, experiment_id: str | None) -> str:
    """Where MLflow's UI has the runs: by itself it opens on the traces of language models."""
    last = mlflow.last_active_run()
    if experiment_id is None and last is not None:
        experiment_id = last.info.experiment_id
    if experiment_id is None:
        return ""
    shown = f"&viewStateShareKey={view.key}" if has_view(experiment_id, view) else ""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning{shown}"


def set_up() -> None:
    """Fit MLflow to our use of it, in this process.

    Raises:
        UserError: its SQLite database is not there, and cannot be made.
    """
    _see_that_it_can_be_made()
    _artifact_repository_registry.register(  # type: ignore[no-untyped-call]
        "mlflow-artifacts", _artifact_repository
    )
    # Its own progress would tear our bars.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Of a database that fails it prints a traceback, and then raises what we tell.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]
    tell_waiting()


def _see_that_it_can_be_made() -> None:
    """MLflow would try for two minutes to make its database where it may not."""
    file = store_file()
    if file is None or file.is_file():
        return
    above = next(folder for folder in file.parents if folder.exists())
    if file.exists() or not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "a folder has its name" if file.exists() else f"no file can be made in {above}"
        raise UserError(
            f"MLflow cannot make its database {file}: {why}; go to a folder that you may write "
            "in, or let MLFLOW_TRACKING_URI name another place"
        )


def _artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> Any:
    """Let a local process write where `mlflow ui` serves artifacts from.

    An `mlflow ui` that is started in an empty folder gives the Default experiment the artifact
    root `mlflow-artifacts:/`, which only a client of that server can write to. A process that
    logs straight to the database beside it then finds no place for its artifacts. The server
    keeps them in `mlartifacts` in its folder, which is the database's; so do we.
    """
    store = tracking_uri or mlflow.get_tracking_uri()
    if urlparse(store).scheme != "sqlite":
        return MlflowArtifactsRepository(artifact_uri, tracking_uri, registry_uri)
    target = _database(store).parent / "mlartifacts" / urlparse(artifact_uri).path.lstrip("/")
    return LocalArtifactRepository(str(target))
