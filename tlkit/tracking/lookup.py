"""What MLflow has: runs, their artifacts, models. Nothing is logged here."""

import contextlib
import errno
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tlkit.errors import UserError
from tlkit.files import expanded
from tlkit.tracking.faults import (
    NO_ID,
    NO_SUCH,
    artifact_faults_told,
    or_none,
    reason_of,
    reasons_kept,
    shown_address,
)
from tlkit.tracking.store import set_up
from tlkit.tracking.tags import PHASE_TAG

_PAGE = 10  # runs that are read from the store at a time
_NAMED = 10  # runs that a message names at most


@dataclass(frozen=True)
class LoggedRun:
    """A run as the store has it.

    Attributes:
        ended: milliseconds since 1970; 0 for a run that did not end.
        has_model: whether it logged one.
    """

    run_id: str
    name: str
    status: str
    ended: int
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    has_model: bool = False


def children(parent_id: str) -> list[LoggedRun]:
    """The runs directly under a run, oldest first."""
    found = mlflow.search_runs(
        [str(mlflow.get_run(parent_id).info.experiment_id)],
        filter_string=f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'",
        order_by=["attributes.start_time ASC"],
        max_results=50_000,
        output_format="list",
    )
    return [_logged(run) for run in found]


def parent_of(child: LoggedRun) -> LoggedRun | None:
    """The run that a run is directly under."""
    parent_id = child.tags.get(MLFLOW_PARENT_RUN_ID)
    return find_run(parent_id) if parent_id else None


def find_run(run_id: str) -> LoggedRun:
    """A run by its id.

    Raises:
        UserError: there is none.
    """
    return _logged(_found(run_id))


def _found(run_id: str) -> Run:
    found = or_none(lambda: mlflow.get_run(run_id), NO_SUCH, NO_ID)
    if found is None:
        raise UserError(f"no run {run_id} at {shown_address()}; `mlflow ui` shows what is there")
    return found


def _logged(found: Run) -> LoggedRun:
    info, data = found.info, found.data
    return LoggedRun(
        run_id=info.run_id,
        name=info.run_name,
        status=info.status,
        ended=info.end_time or 0,
        tags=data.tags,
        metrics=data.metrics,
        params=data.params,
        has_model=bool(found.outputs and found.outputs.model_outputs),
    )


def finished_runs(experiment_id: str, tags: Mapping[str, str]) -> Iterator[LoggedRun]:
    """The finished runs of the experiment that carry all these tags, newest first; read from the
    store a few at a time."""
    wanted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    client, token = mlflow.MlflowClient(), None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string=" and ".join([*wanted, "attributes.status = 'FINISHED'"]),
            order_by=["attributes.end_time DESC"],
            max_results=_PAGE,
            page_token=token,
        )
        yield from map(_logged, page)
        if not (token := page.token):
            return


def artifact_names(run_id: str, folder: str) -> set[str]:
    """What lies in a folder of a run's artifacts, or of one that was deleted: nothing."""
    with artifact_faults_told():
        found = mlflow.MlflowClient().list_artifacts(run_id, folder)
    return {item.path.rpartition("/")[2] for item in found}


@contextlib.contextmanager
def downloaded(run_id: str, path: str) -> Iterator[Path]:
    """A run's artifact, or folder of artifacts, as a local path for as long as the block lasts.

    Raises:
        UserError: there is no such run, or it has no such artifact.
    """
    found = _found(run_id)

    def absent(error: Exception) -> str:
        kind = found.data.tags.get(PHASE_TAG, "some other program's")
        return (
            f"run {run_id} ({kind}, {found.info.status}) has no artifact {path} "
            f"({reason_of(error)}); name a run that has it"
        )

    with tempfile.TemporaryDirectory(prefix="tlkit-") as folder:
        with artifact_faults_told(absent):
            # Not by the run's id, with which MLflow keeps to itself why a store cannot be read; nor
            # by the artifact's address, in which it takes a # or ? of a folder for the end.
            stored = get_artifact_repository(found.info.artifact_uri)
            local = stored.download_artifacts(path, folder)  # type: ignore[no-untyped-call]
        yield Path(local)


def _not_fetched(address: str, why: str) -> str:
    full = f"[Errno {errno.ENOSPC}]" in why
    way_out = "free space, or point TMPDIR at another disk" if full else _where_else(address)
    return f"model {address} cannot be fetched from {shown_address()}: {why}; {way_out}"


def _where_else(address: str) -> str:
    """What to do about a model that was not found: a suite and a search have none themselves."""
    kind, _, rest = address.partition(":/")
    run_id = rest.strip("/").partition("/")[0]
    below: list[LoggedRun] = []
    if kind == "runs":
        with contextlib.suppress(MlflowException):  # no such run, or a store that does not answer
            if not _logged(mlflow.get_run(run_id)).has_model:
                below = [run for run in children(run_id) if run.has_model]
    if not below:
        return "see that it is there, and that its artifacts can be read from here"
    named = ", ".join(f"{run.name} {run.run_id}" for run in below[:_NAMED])
    return f"that run has no model itself, but those under it have: {named}"


@contextlib.contextmanager
def local_model(address: str) -> Iterator[Path]:
    """The folder of classifiers in a model of ours, for as long as the block lasts.

    Args:
        address: runs:/RUN_ID/model, models:/NAME@ALIAS, models:/NAME/VERSION, or a folder: a
            model's as MLflow writes it, or one that `Classifier.save` wrote.

    Raises:
        UserError: no such model, or a router.
    """
    if expanded(address).is_dir():
        yield _classifier_folder(address, expanded(address))
        return
    if ":/" not in address:
        raise UserError(
            f"model {address}: no such folder; a folder, runs:/RUN_ID/model, models:/NAME@ALIAS "
            "or models:/NAME/VERSION wanted"
        )
    set_up()
    with tempfile.TemporaryDirectory(prefix="tlkit-") as folder:
        with (
            reasons_kept() as reason,
            artifact_faults_told(lambda error: _not_fetched(address, reason(error))),
        ):
            local = mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=folder)
        if not any(Path(local).glob("*")):  # what MLflow gives where its folder is gone
            raise UserError(
                f"model {address} is known at {shown_address()}, and its files are not where that "
                "says; bring its artifacts back to where they were, or give the model's own folder"
            )
        yield _classifier_folder(address, Path(local))


def _classifier_folder(address: str, model: Path) -> Path:
    """Where `Tracker.model` put the classifiers in a model's folder; any other folder as it is."""
    if not (model / "MLmodel").exists():
        return model
    flavor = Model.load(str(model)).flavors.get("python_function", {})
    artifacts = flavor.get("artifacts", {})
    if "router" in artifacts:
        said = json.loads((model / artifacts["router"]["path"]).read_text(encoding="utf-8"))
        arms = [said[name] for name in ("champion", "challenger") if name in said]
        raise UserError(
            f"model {address} is a router of two models; give one of them"
            + (f": {' or '.join(arms)}" if arms else "")
        )
    return model / str(artifacts.get("classifier", {}).get("path", ""))
