"""A run that is under way: what is logged to it, how it begins and ends."""

import contextlib
import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from filelock import FileLock
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Run, RunTag
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
)
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

from tlkit.errors import UserError, without_password
from tlkit.files import PACKAGE, scratch_folder
from tlkit.tracking.faults import (
    NO_SUCH,
    artifact_faults_told,
    or_none,
    reason_of,
    shown_address,
    store_faults_told,
)
from tlkit.tracking.store import set_up, store_file
from tlkit.tracking.tags import PHASE_TAG
from tlkit.tracking.views import offer_views

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
# What torch says where SIGTERM has ended a loader's worker.
_WORKER_TERMINATED = re.compile(r"DataLoader worker .* killed by signal: Terminated")


@dataclass(frozen=True)
class Tracker:
    """Logs to one active run; whoever opened it with `start_run` owns it.

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

    def metrics_of(self, run_id: str) -> None:
        """Log all metrics of another run, with their steps and times."""
        client = mlflow.MlflowClient()
        for name in client.get_run(run_id).data.metrics:
            client.log_batch(self.run_id, metrics=client.get_metric_history(run_id, name))

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
        columns: Sequence[str],
        example: Mapping[str, bytes | str],
    ) -> None:
        """Log the model `model`, which answers with a class and probabilities.

        Args:
            artifacts: files and folders that `code` loads, by the names it knows them by.
            code: the file that MLflow runs to load the model; `tlkit` is copied beside it.
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
                code_paths=[str(PACKAGE)],
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

    def preface(self, sentence: str, about: str) -> None:
        """Put a sentence before the description, in the place of one that has `about` in it."""
        described = mlflow.get_run(self.run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
        first, _, rest = described.partition("\n\n")
        self.describe(f"{sentence}\n\n{rest if about in first else described}")

    def artifact_place(self) -> str:
        """Where the run's artifacts lie: a folder, or the store's address."""
        address = str(mlflow.get_run(self.run_id).info.artifact_uri)
        return address.removeprefix("file://")

    def artifact_link(self, path: str) -> str:
        """The address of an artifact within MLflow's UI, for Markdown."""
        return f"get-artifact?path={path}&run_uuid={self.run_id}"


@contextlib.contextmanager
def start_run(
    name: str, *, parent: str | None = None, system_metrics: bool = False
) -> Iterator[Tracker]:
    """An MLflow run called `name`: the one that `mlflow run` began for us, or a new one.

    It ends as FINISHED, as KILLED where it was interrupted, or as FAILED with the error in its
    description.

    Args:
        parent: id of the run to begin a child of.
        system_metrics: whether MLflow logs processor, memory, disk and network besides.

    Raises:
        UserError: MLflow cannot begin the run, or its store fails while the run goes on.
    """
    set_up()
    with store_faults_told(), _begin(name, parent, system_metrics) as active:
        tracker = Tracker(active.info.run_id, active.info.experiment_id)
        tracker.tags({PHASE_TAG: name})
        if _is_drawn(active.info.run_name):  # and not given by `mlflow run --run-name`
            tracker.tags({MLFLOW_RUN_NAME: name})
        _tell_stored_passwords(active.data.params)
        if parent is not None:  # MLflow's own argument refuses any but the active run
            tracker.tags({MLFLOW_PARENT_RUN_ID: parent})
        try:
            if parent is None:
                _offer_views(tracker.experiment_id)
            yield tracker
        except BaseException as error:
            _end(tracker, error)
            raise


def _begin(name: str, parent: str | None, system_metrics: bool) -> mlflow.ActiveRun:
    nested = parent is not None
    try:
        # Of processes that first meet an SQLite store at once, all but one would fail to make it.
        with FileLock(scratch_folder() / "mlflow.lock"):
            _make_database()
            return mlflow.start_run(
                run_name=None if os.environ.get("MLFLOW_RUN_ID") and not nested else name,
                nested=nested,
                # A worker's process has no experiment set.
                experiment_id=mlflow.get_run(parent).info.experiment_id if parent else None,
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


def _offer_views(experiment_id: str) -> None:
    try:
        offer_views(experiment_id)
    except MlflowException as error:  # a run is worth more
        print(
            f"warning: experiment {experiment_id} does not take the views for MLflow's UI, whose "
            f"columns are to be chosen by hand then: {reason_of(error)}",
            file=sys.stderr,
        )


def _is_drawn(name: str | None) -> bool:
    """Whether a run has its name from MLflow's generator, such as puzzled-ant-42."""
    words = (name or "").split("-")
    return not name or (
        len(words) == 3 and words[0] in _GENERATOR_PREDICATES and words[1] in _GENERATOR_NOUNS
    )


def ended_by(error: BaseException) -> tuple[str, str]:
    """Status and description of a run that an error ended."""
    # A SIGTERM to all processes of a group may reach those that decode before it reaches us.
    terminated = _WORKER_TERMINATED.search(f"{error} {error.__cause__}")
    if isinstance(error, KeyboardInterrupt) or terminated:
        return "KILLED", "**Interrupted.**"
    return "FAILED", f"**Failed.** {reason_of(error)}"


def _end(tracker: Tracker, error: BaseException) -> None:
    """End the active run as the error says; a store that fails must not hide that error."""
    status, said = ended_by(error)
    gone = isinstance(error, MlflowException) or isinstance(error.__cause__, MlflowException)
    # Ctrl-C once more is for whoever does not want to wait.
    with _undisturbed(signal.SIGTERM), _asked_once() if gone else contextlib.nullcontext():
        with contextlib.suppress(MlflowException):
            tracker.describe(said)
        for name, text in error.artifacts.items() if isinstance(error, UserError) else ():
            try:
                with artifact_faults_told():
                    mlflow.MlflowClient().log_text(tracker.run_id, text, name)
            except UserError as fault:
                print(f"warning: {name} could not be kept: {fault}", file=sys.stderr)
        try:
            mlflow.end_run(status)
        except MlflowException as fault:  # a full disk, for one
            print(
                f"warning: run {tracker.run_id} could not be marked as {status}, and is shown as "
                f"running: {reason_of(fault)}",
                file=sys.stderr,
            )


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
        if without_password(value) != value:
            print(
                f"warning: MLflow has stored {key} with its password; delete this run, and "
                "leave the password out: PostgreSQL takes it from PGPASSWORD or ~/.pgpass",
                file=sys.stderr,
            )


def _make_database() -> None:
    """Make MLflow's SQLite database where there is none; it cannot use one that is made by half."""
    file = store_file()
    if file is not None and not file.exists():
        with _undisturbed(signal.SIGINT, signal.SIGTERM):
            mlflow.search_experiments(max_results=1)


@contextlib.contextmanager
def _undisturbed(*signals: signal.Signals) -> Iterator[None]:
    """Let signals wait for the end of the block, and of a loader's worker that ends within it
    nothing be told, which torch does by an error wherever the program is."""
    if threading.current_thread() is not threading.main_thread():  # signals go to that one
        yield
        return
    waiting: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: waiting.append(number))
        for number in signals
    }
    if sys.platform != "win32":
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in waiting[:1]:
            signal.raise_signal(first)


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
    if parent.info.experiment_id != worker.experiment_id:
        print(
            f"the study is logged in experiment {parent.info.experiment_id}: its trials go there",
            file=sys.stderr,
        )
    tell_running(parent_id)
    _offer_views(parent.info.experiment_id)  # a search may be older than they are
    return Tracker(parent_id, parent.info.experiment_id)


def tell_running(run_id: str) -> None:
    """Let a run be RUNNING that goes on in this process, wherever it was ended."""
    if mlflow.get_run(run_id).info.status != "RUNNING":
        set_status(run_id, "RUNNING")


def tell_killed(run_id: str, *, living: str) -> None:
    """Let a run that `kill -9` left as RUNNING be KILLED, and so those that it was below; where it
    is not in this store, or was deleted, nothing.

    Args:
        living: a run of this process: neither it nor those that it is below are meant.
    """
    # Where the store fails at it, that must not end the run of this process.
    with contextlib.suppress(UserError), store_faults_told():
        alive = {run.info.run_id for run in _with_those_above(living)}
        for run in _with_those_above(run_id):
            if run.info.run_id in alive or run.info.lifecycle_stage == LifecycleStage.DELETED:
                return
            if run.info.status == "RUNNING":
                set_status(run.info.run_id, "KILLED")


def _with_those_above(run_id: str | None) -> Iterator[Run]:
    while run_id is not None:
        run = or_none(partial(mlflow.get_run, run_id), NO_SUCH)
        if run is None:
            return
        yield run
        run_id = run.data.tags.get(MLFLOW_PARENT_RUN_ID)


def set_status(run_id: str, status: str) -> None:
    """Say how a run ended: RUNNING, FINISHED, FAILED or KILLED."""
    client = mlflow.MlflowClient()
    if status == "RUNNING":
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status=status)
