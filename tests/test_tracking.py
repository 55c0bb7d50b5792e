"""MLflow's store: what is told where it fails, and what it is asked for in which words."""

import json
import logging
import os
import shlex
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import mlflow.pyfunc  # or it would be loaded when it is patched
import pytest
from conftest import Entry, MakeFolder
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from tlkit.errors import UserError
from tlkit.tracking import lookup, registry, store
from tlkit.tracking import run as run_module
from tlkit.tracking.run import Tracker, join, start_run, tell_killed

SECRET = "http://me:secret@127.0.0.1:1"


def unavailable(*_: object, **__: object) -> None:
    raise MlflowException("come back later", error_code=TEMPORARILY_UNAVAILABLE)


def refused(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied", "/mlruns/0")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: lookup.find_run("a" * 32),
        lambda: lookup.downloaded("a" * 32, "config.yaml").__enter__(),
        lambda: join(Tracker("a" * 32, "0"), "b" * 32),
        lambda: registry.Registered("pets").version("champion"),
        lambda: registry.Registered("pets").has("1"),
        lambda: registry.register_model("a" * 32, "pets"),
    ],
)
def test_a_store_that_fails_is_not_taken_for_one_without_the_run(
    ask: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("get_run", "search_model_versions"):
        monkeypatch.setattr(mlflow, name, unavailable)
    for name in ("get_run", "get_registered_model", "get_model_version"):
        monkeypatch.setattr(mlflow.MlflowClient, name, unavailable)
    with pytest.raises(UserError, match=r"MLflow fails at sqlite:.*: come back later; see that"):
        ask()


def test_what_is_no_id_is_no_run() -> None:
    with pytest.raises(UserError, match="no run a b at sqlite:"):
        lookup.find_run("a b")


def test_a_run_that_did_not_end_is_older_than_all_that_did(experiment: str) -> None:
    with mlflow.start_run() as under_way:
        assert lookup.find_run(under_way.info.run_id).ended == 0
    assert lookup.find_run(under_way.info.run_id).ended > 0


def test_a_database_that_was_made_by_half_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(file := tmp_path / "half.db") as database:
        database.execute("CREATE TABLE experiment_tags (x)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    with (
        pytest.raises(UserError, match=r"cannot use the database .*half\.db: .*move it away"),
        start_run("any"),
    ):
        pytest.fail("began a run")


def test_nobody_is_told_to_move_a_database_that_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(**_: object) -> None:
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))

    monkeypatch.setattr(mlflow, "start_run", locked)
    with (
        pytest.raises(UserError, match=r"database is locked; see that it can be reached") as told,
        start_run("any"),
    ):
        pytest.fail("began a run")
    assert "move" not in str(told.value)


def test_ctrl_c_waits_until_the_database_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(**_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        made.append("to its end")

    monkeypatch.setattr(run_module, "store_file", lambda: tmp_path / "new.db")
    monkeypatch.setattr(mlflow, "search_experiments", make)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run_module._make_database()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert made == ["to its end"]


def test_a_killed_run_is_told_with_those_above_it(experiment: str) -> None:
    client = mlflow.MlflowClient()

    def run(above: str | None = None) -> str:
        tags = {"mlflow.parentRunId": above} if above else {}
        return str(client.create_run(experiment, tags=tags).info.run_id)

    suite = run()
    child = run(suite)
    search = run()
    before, now = run(search), run(search)
    deleted = run()
    client.delete_run(deleted)
    for killed in (child, before, deleted, "a" * 32):
        tell_killed(killed, living=now)
    status = {run.info.run_id: run.info.status for run in client.search_runs([experiment])}
    assert [status[one] for one in (suite, child, before)] == ["KILLED"] * 3
    assert [status[one] for one in (search, now)] == ["RUNNING"] * 2
    assert client.get_run(deleted).info.status == "RUNNING"


def test_a_store_that_fails_does_not_hide_the_error_under_way(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        with start_run("fails"):
            monkeypatch.setattr(mlflow.MlflowClient, "log_batch", unavailable)
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        fails()
    [run] = mlflow.search_runs([experiment], output_format="list")
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("cause", [None, "the error of the loader has another for its cause"])
def test_a_signal_that_ends_the_loaders_workers_first_kills_the_run(
    cause: str | None, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `timeout` and systemd send it: to all processes of a group. Of each worker that ends torch
    tells by an error, wherever the program is."""

    def worker_ended(*_: object) -> None:
        error = RuntimeError("DataLoader worker (pid 9) is killed by signal: Terminated. ")
        if cause is None:
            raise error
        raise RuntimeError("DataLoader worker (pid(s) 9) exited unexpectedly") from error

    def end_run(status: str) -> None:
        signal.raise_signal(signal.SIGCHLD)
        signal.raise_signal(signal.SIGTERM)
        end(status)

    end = mlflow.end_run
    monkeypatch.setattr(mlflow, "end_run", end_run)
    handlers = {signal.SIGCHLD: worker_ended, signal.SIGTERM: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with pytest.raises(KeyboardInterrupt), start_run("head"):
            signal.raise_signal(signal.SIGCHLD)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    (run,) = mlflow.search_runs([experiment], output_format="list")
    assert run.info.status == "KILLED"
    assert run.data.tags["mlflow.note.content"] == "**Interrupted.**"


def test_a_store_that_fails_is_told_on_one_line_and_asked_for_no_long(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def full(*_: object, **__: object) -> None:
        tries.append(run_module.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())
        raise MlflowException("database or disk is full\n[SQL: INSERT INTO tags]\n[parameters: 1]")

    def fails() -> None:
        with (
            start_run("outer") as outer,
            start_run("inner", parent=outer.run_id) as inner,
        ):
            monkeypatch.setattr(mlflow.MlflowClient, "log_batch", full)
            monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", full)
            inner.tags({"a": "b"})

    with pytest.raises(UserError) as told:
        fails()
    said = str(told.value)
    assert ": database or disk is full; see that its server answers and that its disk" in said
    assert "\n" not in said
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.ERROR)
    assert tries == [7, 0, 0, 0, 0]
    assert run_module.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 7


def test_artifacts_that_cannot_be_kept_are_told_and_what_was_made_stays(
    entry: Entry, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], own_cache: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(mlflow, "log_artifacts", refused)
    assert entry("data", "--data", str(make_folder())) == 2
    *_, where, error = capfd.readouterr().err.splitlines()
    assert error.startswith("error: MLflow cannot keep artifacts: [Errno 13] Permission denied: ")
    assert "TLKIT_CACHE" not in error
    [folder] = (own_cache / "runs").iterdir()
    assert where == f"what the run made is in {folder}"
    assert (folder / "data" / "manifest.csv").exists()


def test_a_child_goes_to_the_experiment_of_its_parent(experiment: str) -> None:
    with start_run("tune") as parent:
        pass
    mlflow.set_experiment(f"other than {experiment}")
    with start_run("trial", parent=parent.run_id) as child:
        pass
    assert child.experiment_id == parent.experiment_id == experiment


def test_artifacts_are_found_whatever_the_folder_of_the_project_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "mäu se #1 100% a%20b ?x 'q'"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.MlflowClient().create_experiment("odd", (project / "mlruns").as_posix())
    run_id = mlflow.MlflowClient().create_run(experiment).info.run_id
    with Tracker(run_id, experiment).folder() as made:
        (made / "checkpoints").mkdir()
        for name in ("config.yaml", "checkpoints/best.json"):
            (made / name).write_text(name)
    with lookup.downloaded(run_id, "config.yaml") as file:
        assert file.read_text() == "config.yaml"
    with lookup.downloaded(run_id, "checkpoints") as folder:
        assert (folder / "best.json").read_text() == "checkpoints/best.json"


class NoCredentialsError(Exception):
    """As botocore has it, which need not be installed."""

    __module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NoCredentialsError("Unable to locate credentials"), "credentials; check rights and"),
        (ModuleNotFoundError("No module named 'boto3'"), "'boto3'; install the package, or name"),
    ],
)
def test_what_the_client_of_a_cloud_meets_is_told(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    for owner, name in (
        (mlflow, "log_artifacts"),
        (mlflow.artifacts, "download_artifacts"),
        (LocalArtifactRepository, "download_artifacts"),
    ):
        monkeypatch.setattr(owner, name, fails)
    monkeypatch.setattr(mlflow.MlflowClient, "list_artifacts", fails)
    with start_run("head") as tracker:
        run_id = tracker.run_id
        with pytest.raises(UserError, match=f"MLflow cannot keep artifacts: .*{told}"):
            tracker.artifacts(tmp_path)
    with pytest.raises(UserError, match=rf"has no artifact a \({error}\)"):
        lookup.downloaded(run_id, "a").__enter__()
    with pytest.raises(UserError, match=f"cannot be fetched from sqlite:.*: {error}"):
        lookup.local_model("models:/pets/1").__enter__()


def test_a_defect_is_not_told_as_a_fault_of_the_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mlflow, "log_artifacts", lambda *_, **__: 1 / 0)
    with start_run("head") as tracker, pytest.raises(ZeroDivisionError):
        tracker.artifacts(tmp_path)


def test_an_error_of_the_run_is_told_where_its_artifacts_cannot_be_kept_either(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(mlflow, "log_artifacts", refused)
    assert entry("head", "--data", str(tmp_path / "nowhere")) == 2
    where, error = capfd.readouterr().err.splitlines()
    assert where.startswith("what the run made is in ")
    assert error.startswith("error: data=")


def test_a_run_leaves_its_artifacts_where_an_mlflow_ui_that_came_first_serves_them_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a project # 1"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    # As `mlflow ui` makes its Default experiment.
    made = mlflow.MlflowClient().create_experiment("first", "mlflow-artifacts:/7")
    mlflow.set_experiment(experiment_id=made)
    with start_run("any") as tracker, tracker.folder() as work:
        (work / "said.txt").write_text("yes")
    said = folder / "mlartifacts" / "7" / tracker.run_id / "artifacts" / "said.txt"
    assert said.read_text() == "yes"
    assert lookup.artifact_names(tracker.run_id, "") == {"said.txt"}
    with lookup.downloaded(tracker.run_id, "said.txt") as path:
        assert path.read_text() == "yes"


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("folder", "a folder has its name"),
        ("file/mlflow.db", "no file can be made in {}/file"),
        ("locked/mlflow.db", "no file can be made in {}/locked"),
        ("locked/new/mlflow.db", "no file can be made in {}/locked"),
    ],
)
def test_a_database_that_cannot_be_made_is_told_before_mlflow_tries_for_minutes(
    place: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "file").touch()
    # Not by chmod, which does not hold root up.
    monkeypatch.setattr(os, "access", lambda path, *_, **__: Path(path).name != "locked")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/{place}")
    with pytest.raises(UserError, match=f"database {tmp_path}/{place}: {why.format(tmp_path)};"):
        store.set_up()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    store.set_up()  # MLflow makes the folder


@pytest.mark.parametrize("name", ["sp ace/#1", "a%20b"])
@pytest.mark.parametrize("by_default", [True, False])
def test_the_database_is_found_in_a_folder_with_an_odd_name(
    name: str, by_default: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    if by_default:  # as MLflow writes it, up to 3.17 with %20 for a space
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    else:
        address = URL.create("sqlite", database=str(folder / "mlflow.db"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.render_as_string())
    store.set_up()
    mlflow.search_experiments()  # makes it
    assert (folder / "mlflow.db").is_file()
    assert store.store_file() == folder / "mlflow.db"
    assert store.store_folder() == folder
    last = SimpleNamespace(info=SimpleNamespace(experiment_id="7"))
    monkeypatch.setattr(mlflow, "last_active_run", lambda: last)
    page = "/#/experiments/7/runs?workflowType=machine_learning"  # which has no views
    assert store.ui_command() == f"mlflow ui   and open http://127.0.0.1:5000{page}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder.parent}/an other.db")
    words = shlex.split(store.ui_command())
    assert words[words.index("--backend-store-uri") + 1].endswith("/an other.db")


def test_a_server_that_is_waited_for_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    for name, value in (("MAX_RETRIES", "3"), ("BACKOFF_FACTOR", "0"), ("BACKOFF_JITTER", "0")):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    for _ in range(2):
        with pytest.raises(UserError, match="cannot begin a run"):
            start_run("any").__enter__()
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("no answer: ")
        assert "Connection refused; asking again" in line
        assert "secret" not in line


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "last_active_run", lambda: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert store.ui_command() == "open http://me:***@127.0.0.1:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000/")  # that of `mlflow ui` too
    assert store.ui_command() == "open http://127.0.0.1:5000"
    assert store.ui_address("/#/x") == "http://127.0.0.1:5000/#/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    assert store.store_folder() == Path.cwd()  # where a search keeps its study
    told = []
    for ask in (
        lambda: lookup.find_run("a" * 32),
        lambda: start_run("any").__enter__(),
        lambda: registry.find_model("models:/pets/1"),
        lambda: lookup.local_model("models:/pets/1").__enter__(),
    ):
        with pytest.raises(UserError) as error:
            ask()
        told.append(str(error.value))
    assert all("me:***@127.0.0.1" in one and "secret" not in one for one in told), told
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/mlflow")
    assert "--backend-store-uri 'postgresql://me:***@db/mlflow' " in store.ui_command()


@pytest.mark.parametrize(("given", "shown"), [(None, "data"), ("my run", "my run")])
def test_a_run_that_mlflow_run_began_keeps_the_name_that_a_user_gave(
    given: str | None, shown: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    begun = client.create_run(experiment)
    if given:  # as `mlflow run --run-name` does
        client.set_tag(begun.info.run_id, "mlflow.runName", given)
    monkeypatch.setenv("MLFLOW_RUN_ID", begun.info.run_id)
    with start_run("data") as tracker:
        pass
    found = lookup.find_run(tracker.run_id)
    assert (found.run_id, found.name) == (begun.info.run_id, shown)
    assert found.tags["tlkit.phase"] == "data"


def test_a_deleted_experiment_is_brought_back(
    monkeypatch: pytest.MonkeyPatch, entry: Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    number = mlflow.create_experiment("deleted")
    mlflow.set_experiment(experiment_id=number)
    mlflow.delete_experiment(number)
    assert entry("cache") == 2
    assert f"`mlflow experiments restore -x {number}`" in capsys.readouterr().err


def test_a_model_wants_packages_as_the_index_has_them(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "version", lambda _: "2.9.0+cpu")
    logged: dict[str, Any] = {}
    monkeypatch.setattr(mlflow.pyfunc, "log_model", lambda **given: logged.update(given))
    Tracker("a", "0").model({}, tmp_path, [], {"image": b""})
    assert "torch==2.9.0" in logged["pip_requirements"]


def test_a_model_whose_files_were_moved_is_told(experiment: str, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    logged = mlflow.create_external_model("model")
    mlflow.MlflowClient().log_model_artifacts(logged.model_id, str(tmp_path))
    model = lookup.local_model(f"models:/{logged.model_id}")
    with model as folder:
        assert (folder / "MLmodel").exists()
    shutil.rmtree(logged.artifact_location)
    again = lookup.local_model(f"models:/{logged.model_id}")
    with pytest.raises(UserError, match="its files are not where that says"):
        again.__enter__()


def test_a_data_set_is_an_input_of_the_run_that_it_is_logged_to(
    experiment: str, tmp_path: Path
) -> None:
    with start_run("first") as first:
        pass
    with start_run("second") as second:
        first.dataset("pictures", tmp_path, "digest")
    [given] = mlflow.get_run(first.run_id).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("pictures", "digest")
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    assert json.loads(given.dataset.source) == {"uri": tmp_path.as_posix()}
    assert not mlflow.get_run(second.run_id).inputs.dataset_inputs
