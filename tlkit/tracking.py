"""Runs in MLflow: their params, metrics, artifacts and models."""

import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult, unquote, urlparse

import mlflow
import pandas as pd
from filelock import FileLock
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Run, RunTag
from mlflow.environment_variables import (
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
)
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tlkit.errors import UserError
from tlkit.files import expanded, scratch_folder
from tlkit.mlflow_faults import (
    NO_ID,
    NO_SUCH,
    artifact_faults_told,
    or_none,
    reason_of,
    shown_address,
    store_faults_told,
)

# What `tlkit.serving` imports.
SERVING_PACKAGES = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "safetensors",
    "sqlalchemy",
    "timm",
    "torch",
    "torchvision",
)
# What a caller of the model may set for a request, with what holds otherwise.
_MODEL_PARAMS = ParamSchema(
    [
        ParamSpec("tta", DataType.long, 1),
        ParamSpec("abstain", DataType.double, 0.0),
    ]
)
_NAME_LENGTH = 500  # of a data set, at most, in MLflow
_PAGE = 10  # runs that are read from the store at a time
PHASE_TAG, DIGEST_TAG, INIT_TAG = "tlkit.phase", "tlkit.data_digest", "tlkit.init_from"
SETTINGS_TAG = "tlkit.settings"
TRIAL_TAG, TRIAL_STATE_TAG = "tlkit.trial", "tlkit.trial_state"
BEST_RUN_TAG = "tlkit.best_run"


@dataclass(frozen=True)
class Tracker:
    """Logs to one active run; whoever opened it with `run` owns it.

    Attributes:
        run_id: of MLflow.
        experiment_id: of MLflow.
    """

    run_id: str
    experiment_id: str

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters that the run does not have.

        `mlflow run` logs what was given with -P before we start, as raw text, and MLflow refuses
        another text for the same key.
        """
        known = mlflow.get_run(self.run_id).data.params
        mlflow.log_params(
            {key: value for key, value in values.items() if key not in known}, run_id=self.run_id
        )

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, at once, so that the UI's charts move while training runs."""
        mlflow.log_metrics(dict(values), step=step, run_id=self.run_id)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        tags = [RunTag(key, value) for key, value in values.items()]
        mlflow.MlflowClient().log_batch(self.run_id, tags=tags)

    def drop_tags(self, names: Iterable[str]) -> None:
        """Take tags away, where they are."""
        there = mlflow.get_run(self.run_id).data.tags
        for name in there.keys() & set(names):
            mlflow.MlflowClient().delete_tag(self.run_id, name)

    def artifacts(self, folder: Path, under: str | None = None) -> None:
        """Log everything in a folder, under the same relative paths, or below `under`.

        Raises:
            UserError: the artifact store does not take it.
        """
        with artifact_faults_told():
            mlflow.log_artifacts(str(folder), under, run_id=self.run_id)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder whose content becomes artifacts when the block ends well.

        Raises as `artifacts`.
        """
        with tempfile.TemporaryDirectory(prefix="tlkit-") as name:
            yield Path(name)
            self.artifacts(Path(name))

    def dataset(self, name: str, root: Path, digest: str) -> None:
        """Log the data set as an input of the run, under our own digest of its content."""
        with warnings.catch_warnings():
            # MLflow registers its source for local folders twice and warns of the choice.
            warnings.filterwarnings("ignore", message="The specified dataset source can be")
            source = resolve_dataset_source(root.as_posix())
        shown = name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}"
        dataset = MetaDataset(source, name=shown, digest=digest)  # type: ignore[abstract]
        entity, context = Dataset(**dataset.to_dict()), InputTag(MLFLOW_DATASET_CONTEXT, "training")
        mlflow.MlflowClient().log_inputs(self.run_id, [DatasetInput(entity, [context])])

    def model(
        self,
        artifacts: Mapping[str, Path],
        code: Path,
        package: Path,
        columns: Sequence[str],
        example: Mapping[str, bytes | str],
    ) -> None:
        """Log the model `model`, which answers with a class and probabilities.

        Args:
            artifacts: files and folders that `code` loads, by the names it knows them by.
            code: the file that MLflow runs to load the model.
            package: the package that `code` imports, copied beside the model.
            columns: the names of the answer's columns after `predicted`; those that begin with
                "probability_" are numbers, others text.
            example: a request: bytes of a picture or text, by column.

        Raises:
            UserError: the artifact store does not take it.
        """
        inputs: list[ColSpec | TensorSpec] = [
            ColSpec(DataType.binary if isinstance(value, bytes) else DataType.string, name)
            for name, value in example.items()
        ]
        outputs: list[ColSpec | TensorSpec] = [
            ColSpec(DataType.double if name.startswith("probability_") else DataType.string, name)
            for name in ("predicted", *columns)
        ]
        with artifact_faults_told():
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(code),
                artifacts={name: str(path) for name, path in artifacts.items()},
                code_paths=[str(package)],
                signature=ModelSignature(Schema(inputs), Schema(outputs), _MODEL_PARAMS),
                input_example=pd.DataFrame({name: [value] for name, value in example.items()}),
                # Given, because MLflow would take 9 s to infer them.
                # And without a local part: PyPI has torch 2.9.0, and no 2.9.0+cpu.
                pip_requirements=[
                    f"{name}=={version(name).partition('+')[0]}" for name in SERVING_PACKAGES
                ],
            )

    def describe(self, markdown: str) -> None:
        """Set the description that the UI shows at the top of the run."""
        self.tags({MLFLOW_RUN_NOTE: markdown})

    def artifact_place(self) -> str:
        """Where the run's artifacts lie: a folder, or the store's address."""
        address = str(mlflow.get_run(self.run_id).info.artifact_uri)
        return address.removeprefix("file://")

    def artifact_link(self, path: str) -> str:
        """The address of an artifact within MLflow's UI, for Markdown."""
        return f"get-artifact?path={path}&run_uuid={self.run_id}"


@contextlib.contextmanager
def run(name: str, *, parent: str | None = None, system_metrics: bool = True) -> Iterator[Tracker]:
    """An MLflow run called `name`: the one that `mlflow run` began for us, or a new one.

    It ends as FINISHED, as KILLED where it was interrupted, or as FAILED with the error in its
    description.

    Args:
        parent: id of the run to begin a child of.

    Raises:
        UserError: MLflow cannot begin the run, or its store fails while the run goes on.
    """
    _serve_artifacts_locally()
    _quiet()
    with store_faults_told(), _begin(name, parent, system_metrics) as active:
        tracker = Tracker(active.info.run_id, active.info.experiment_id)
        tracker.tags({PHASE_TAG: name})
        if _is_drawn(active.info.run_name):  # and not given by `mlflow run --run-name`
            tracker.tags({MLFLOW_RUN_NAME: name})
        _tell_stored_passwords(active.data.params)
        if parent is not None:  # MLflow's own argument refuses any but the active run
            tracker.tags({MLFLOW_PARENT_RUN_ID: parent})
        try:
            yield tracker
        except BaseException as error:
            _end(tracker, error)
            raise


def _begin(name: str, parent: str | None, system_metrics: bool) -> mlflow.ActiveRun:
    nested = parent is not None
    try:
        with _one_process_at_a_time():
            return mlflow.start_run(
                run_name=None if os.environ.get("MLFLOW_RUN_ID") and not nested else name,
                nested=nested,
                experiment_id=_experiment_of(parent) if parent else None,
                log_system_metrics=system_metrics,
            )
    except MlflowException as error:
        reason = reason_of(error)
        deleted = re.search(r"experiment (\d+) must be .* state is deleted", reason)
        way_out = (
            f"bring it back with `mlflow experiments restore -x {deleted[1]}`, or set "
            "MLFLOW_EXPERIMENT_NAME to another"
            if deleted
            else "check MLFLOW_TRACKING_URI, or unset it to use mlflow.db here"
        )
        raise UserError(
            f"MLflow cannot begin a run at {shown_address()}: {reason}; {way_out}"
        ) from error


def _is_drawn(name: str | None) -> bool:
    """Whether a run has its name from MLflow's generator, such as puzzled-ant-42."""
    words = (name or "").split("-")
    return not name or (
        len(words) == 3 and words[0] in _GENERATOR_PREDICATES and words[1] in _GENERATOR_NOUNS
    )


def ended_by(error: BaseException) -> tuple[str, str]:
    """Status and description of a run that an error ended."""
    if isinstance(error, KeyboardInterrupt):
        return "KILLED", "**Interrupted.**"
    return "FAILED", f"**Failed.** {reason_of(error)}"


def _end(tracker: Tracker, error: BaseException) -> None:
    """End the active run as the error says; a store that fails must not hide that error."""
    status, said = ended_by(error)
    gone = isinstance(error, MlflowException) or isinstance(error.__cause__, MlflowException)
    with _asked_once() if gone else contextlib.nullcontext():
        with contextlib.suppress(MlflowException):
            tracker.describe(said)
        with contextlib.suppress(MlflowException):
            mlflow.end_run(status)


@contextlib.contextmanager
def _asked_once() -> Iterator[None]:
    """MLflow asks a server that does not answer for four minutes, each time anew."""
    before = MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()  # type: ignore[no-untyped-call]
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(before)  # type: ignore[no-untyped-call]


def _tell_stored_passwords(given: Mapping[str, str]) -> None:
    """Of what `mlflow run -P` has logged as it was typed; MLflow deletes no parameter."""
    for key, value in given.items():
        with contextlib.suppress(ArgumentError, ValueError):  # no address
            if make_url(value).password:
                print(
                    f"warning: MLflow has stored {key} with its password; delete this run, and "
                    "leave the password out: PostgreSQL takes it from PGPASSWORD or ~/.pgpass",
                    file=sys.stderr,
                )


def _experiment_of(run_id: str) -> str:
    # A worker's process has no experiment set.
    return str(mlflow.get_run(run_id).info.experiment_id)


@contextlib.contextmanager
def _one_process_at_a_time() -> Iterator[None]:
    """Of processes that first meet an SQLite store at once, all but one would fail to make it."""
    with FileLock(scratch_folder() / "mlflow.lock"):
        yield


@dataclass(frozen=True)
class Known:
    """A run as the store has it.

    Attributes:
        ended: milliseconds since 1970; 0 for a run that did not end.
    """

    run_id: str
    name: str
    status: str
    ended: int
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    params: Mapping[str, str]


def children(parent_id: str) -> list[Known]:
    """The runs directly under a run, oldest first."""
    found = mlflow.search_runs(
        [_experiment_of(parent_id)],
        filter_string=f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'",
        order_by=["attributes.start_time ASC"],
        max_results=50_000,
        output_format="list",
    )
    return [_known(run) for run in found]


def parent_of(child: Known) -> Known | None:
    """The run that a run is directly under."""
    parent_id = child.tags.get(MLFLOW_PARENT_RUN_ID)
    return find_run(parent_id) if parent_id else None


def find_run(run_id: str) -> Known:
    """A run by its id.

    Raises:
        UserError: there is none.
    """
    return _known(_found(run_id))


def _found(run_id: str) -> Run:
    found = or_none(lambda: mlflow.get_run(run_id), NO_SUCH, NO_ID)
    if found is None:
        raise UserError(f"no run {run_id} at {shown_address()}; `mlflow ui` shows what is there")
    return found


def _known(found: Run) -> Known:
    info, data = found.info, found.data
    ended = info.end_time or 0
    return Known(
        info.run_id, info.run_name, info.status, ended, data.tags, data.metrics, data.params
    )


def join(worker: Tracker, parent_id: str) -> Tracker:
    """Put a run that `mlflow run` began under the one it works for, and give that one back.

    Raises:
        UserError: this tracking store does not have it, or not any more.
    """
    parent = or_none(lambda: mlflow.get_run(parent_id), NO_SUCH)
    if parent is None:
        raise UserError(
            f"the study is logged under run {parent_id}, which is not at {shown_address()}; set "
            "MLFLOW_TRACKING_URI to the store it was begun with, or give this search another study"
        )
    if parent.info.lifecycle_stage == LifecycleStage.DELETED:
        raise UserError(
            f"the study is logged under run {parent_id}, which was deleted; bring it back with "
            f"`mlflow runs restore --run-id {parent_id}`, or give this search another study"
        )
    worker.tags({MLFLOW_PARENT_RUN_ID: parent_id, MLFLOW_RUN_NAME: "tune-worker"})
    worker.describe(f"Worked on the trials of run {parent_id}.")
    if parent.info.status != "RUNNING":
        set_status(parent_id, "RUNNING")
    return Tracker(parent_id, parent.info.experiment_id)


def set_status(run_id: str, status: str) -> None:
    """Say how a run ended: RUNNING, FINISHED, FAILED or KILLED."""
    client = mlflow.MlflowClient()
    if status == "RUNNING":
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status=status)


def store_file() -> Path | None:
    """MLflow's SQLite database; None where it keeps its runs elsewhere."""
    uri = urlparse(mlflow.get_tracking_uri())
    return _database(uri) if uri.scheme == "sqlite" else None


def store_folder() -> Path:
    """The folder of MLflow's SQLite database, or the current one where it is elsewhere."""
    file = store_file()
    return file.parent if file else Path.cwd()


def _database(uri: ParseResult) -> Path:
    # MLflow's own address of a folder with a space has %20 in it.
    return Path(unquote(uri.path).removeprefix("/")).absolute()


def finished_runs(experiment_id: str, tags: Mapping[str, str]) -> Iterator[Known]:
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
        yield from map(_known, page)
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
    with tempfile.TemporaryDirectory(prefix="tlkit-") as folder:
        try:
            local = mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=path, dst_path=folder
            )
        except (MlflowException, OSError) as error:
            kind = found.data.tags.get(PHASE_TAG, "some other program's")
            raise UserError(
                f"run {run_id} ({kind}, {found.info.status}) has no artifact {path} "
                f"({reason_of(error)}); name a run that has it"
            ) from None
        yield Path(local)


@contextlib.contextmanager
def local_model(address: str) -> Iterator[Path]:
    """The folder of classifiers in a model of ours, for as long as the block lasts.

    Args:
        address: runs:/RUN_ID/model, models:/NAME@ALIAS, models:/NAME/VERSION, or a folder: a
            model's as MLflow writes it, or one that `Classifier.save` wrote.

    Raises:
        UserError: no such model.
    """
    if expanded(address).is_dir():
        yield _classifier_folder(expanded(address))
        return
    if ":/" not in address:
        raise UserError(
            f"model={address}: no such folder; a folder, runs:/RUN_ID/model, models:/NAME@ALIAS "
            "or models:/NAME/VERSION wanted"
        )
    _serve_artifacts_locally()
    _quiet()
    with tempfile.TemporaryDirectory(prefix="tlkit-") as folder:
        try:
            local = mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=folder)
        except (MlflowException, OSError) as error:
            raise UserError(
                f"model={address} is not at {shown_address()}: {reason_of(error)}"
            ) from None
        if not any(Path(local).glob("*")):  # what MLflow gives where its folder is gone
            raise UserError(
                f"model={address} is known at {shown_address()}, and its files are not where that "
                "says; bring its artifacts back to where they were, or give the model's own folder"
            )
        yield _classifier_folder(Path(local))


def _classifier_folder(model: Path) -> Path:
    """Where `Tracker.model` put the classifiers in a model's folder; any other folder as it is."""
    if not (model / "MLmodel").exists():
        return model
    flavor = Model.load(str(model)).flavors.get("python_function", {})
    found = flavor.get("artifacts", {}).get("classifier", {}).get("path", "")
    return model / str(found)


def git_state(root: Path) -> dict[str, Any]:
    """Commit and whether files differ from it; empty where `root` is no git checkout."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def ui_command() -> str:
    """What to type to look at the runs of this process's last run's experiment."""
    uri = shown_address()
    if urlparse(uri).scheme in ("http", "https"):
        return f"open {uri.rstrip('/')}{_runs_page()}"
    local = f"http://127.0.0.1:5000{_runs_page()}"
    if store_file() == Path("mlflow.db").absolute():
        return f"mlflow ui   and open {local}"
    return f"mlflow ui --backend-store-uri {uri}   and open {local}"


def _runs_page() -> str:
    """Where MLflow's UI has the runs: by itself it opens on the traces of language models."""
    last = mlflow.last_active_run()
    if last is None:
        return ""
    return f"/#/experiments/{last.info.experiment_id}/runs?workflowType=machine_learning"


def _quiet() -> None:
    """Keep MLflow's own progress off the screen: it would tear our bars."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Of a database that fails it prints a traceback, and then raises what we tell.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]


def _serve_artifacts_locally() -> None:
    """Let a local process write where `mlflow ui` serves artifacts from.

    An `mlflow ui` that is started in an empty folder gives the Default experiment the artifact
    root `mlflow-artifacts:/`, which only a client of that server can write to. A process that
    logs straight to the database beside it then finds no place for its artifacts. The server
    keeps them in `mlartifacts` in its folder, which is the database's; so do we.
    """
    _artifact_repository_registry.register(  # type: ignore[no-untyped-call]
        "mlflow-artifacts", _artifact_repository
    )


def _artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> Any:
    store = urlparse(tracking_uri or mlflow.get_tracking_uri())
    if store.scheme != "sqlite":
        return MlflowArtifactsRepository(artifact_uri, tracking_uri, registry_uri)
    target = _database(store).parent / "mlartifacts" / urlparse(artifact_uri).path.lstrip("/")
    return LocalArtifactRepository(str(target))
