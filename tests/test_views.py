"""The views of the list of runs in MLflow's UI: saved with the first run, and what they show."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import web_server
from mlflow.exceptions import MlflowException

from docs import left_by_runs as tables
from tlkit.config import Config
from tlkit.tracking import run as run_module
from tlkit.tracking.run import join, start_run
from tlkit.tracking.store import ui_command
from tlkit.tracking.tags import PHASE_TAG
from tlkit.tracking.views import ALL_RUNS, MODELS, TRIALS, View, has_view

VIEWS = (ALL_RUNS, MODELS, TRIALS)
PREFIX = "mlflow.sharedViewState."


def offered(experiment: str) -> dict[str, str]:
    """The tags of an experiment's views, by their keys."""
    tags = mlflow.get_experiment(experiment).tags
    return {
        name.removeprefix(PREFIX): value for name, value in tags.items() if name.startswith(PREFIX)
    }


def state(view: View) -> dict[str, Any]:
    """What the UI is to take up."""
    return json.loads(json.loads(view.tag())["state"])


def test_the_first_run_offers_views_and_the_next_leaves_them(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_run("any"):
        pass
    first = offered(experiment)
    assert {key: json.loads(value)["name"] for key, value in first.items()} == {
        view.key: view.name for view in VIEWS
    }
    changed = f"{PREFIX}{MODELS.key}"
    mlflow.MlflowClient().set_experiment_tag(experiment, changed, "my own")
    with start_run("any"):
        pass
    assert offered(experiment) == first | {MODELS.key: "my own"}
    assert all(has_view(experiment, view) for view in VIEWS)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")
    assert not has_view(experiment, MODELS)  # the one of that number there


def test_a_store_that_takes_no_views_takes_the_run(
    experiment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("not you")

    monkeypatch.setattr(run_module, "offer_views", refuse)
    with start_run("any") as tracker:
        tracker.metrics({"one": 1.0})
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: experiment {experiment} does not take the views ")
    assert line.endswith("not you")
    assert mlflow.get_run(tracker.run_id).data.metrics == {"one": 1.0}
    # For a view that is not there the UI leaves the list of runs.
    assert ui_command().endswith(f"/#/experiments/{experiment}/runs?workflowType=machine_learning")


def test_an_interrupt_while_views_are_saved_ends_the_run_as_killed(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow.MlflowClient, "set_experiment_tag", interrupt)
    with pytest.raises(KeyboardInterrupt), start_run("any"):
        pass
    [run] = mlflow.search_runs([experiment], output_format="list")
    assert (run.info.status, run.data.tags[PHASE_TAG]) == ("KILLED", "any")


def test_a_faster_process_is_no_fault(
    experiment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = mlflow.MlflowClient.set_experiment_tag

    def saved_by_another(*arguments: Any) -> None:
        save(*arguments)
        raise MlflowException("UNIQUE constraint failed")

    monkeypatch.setattr(mlflow.MlflowClient, "set_experiment_tag", saved_by_another)
    with start_run("any"):
        pass
    assert capsys.readouterr().err == ""
    assert offered(experiment).keys() == {view.key for view in VIEWS}
    assert ui_command().endswith(f"&viewStateShareKey={ALL_RUNS.key}")


def test_a_search_goes_on_in_an_experiment_that_is_older_than_views(experiment: str) -> None:
    with mlflow.start_run() as before:
        assert offered(experiment) == {}
    elsewhere = mlflow.create_experiment(f"{experiment} elsewhere")
    mlflow.set_experiment(experiment_id=elsewhere)
    with start_run("tune") as own:
        join(own, before.info.run_id)
    assert offered(experiment).keys() == {view.key for view in VIEWS}


def test_columns_are_what_runs_log() -> None:
    known = {
        *(f"metrics.{left.name}" for some in tables.METRICS.values() for left in some),
        *(f"params.{name}" for name in Config.names()),
        *(f"tags.{left.name}" for left in tables.TAGS),
    }
    for view in VIEWS:
        assert set(view.columns) <= known
        assert view.by in (*view.columns, "attributes.start_time")


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[str]:
    """The address of `mlflow ui` for the tests' store."""
    store = mlflow.get_tracking_uri()
    with web_server(tmp_path, "ui", "-w", "1", "--backend-store-uri", store, ping="/health") as url:
        yield url


@pytest.mark.slow
def test_mlflows_ui_opens_them(experiment: str, ui: str, browser: Any) -> None:
    columns = [column.partition(".") for view in VIEWS for column in view.columns]
    metrics, params, tags = (
        {name for kind, _, name in columns if kind == wanted}
        for wanted in ("metrics", "params", "tags")
    )

    def log(name: str, value: float, **more: str) -> None:
        with start_run(name, parent=suite.run_id) as tracker:
            tracker.metrics(dict.fromkeys(metrics, value))
            tracker.params(dict.fromkeys(params, "some"))
            tracker.tags({**dict.fromkeys(tags, "some"), **more})

    with start_run("suite") as suite:
        for name, accuracy in (("head", 0.9), ("finetune", 0.95), ("baseline", 0.7)):
            log(name, accuracy)
        for number, loss in enumerate((0.3, 0.1, 0.2)):
            log(f"trial-{number}", loss, **{PHASE_TAG: "trial"})
    shown = {}
    for view in VIEWS:
        page = browser.new_page(viewport={"width": 2400, "height": 900})
        _, _, address = ui_command(view, experiment).partition("http://127.0.0.1:5000")
        page.goto(ui + address)
        # Their order it takes up at times only: it depends on what is loaded first.
        page.wait_for_function(
            "wanted => wanted.join() === Array.from("
            "document.querySelectorAll('.ag-header-cell'), one => one.getAttribute('col-id')"
            ").filter(id => id?.includes('.`')).sort().join()",
            arg=sorted(id for id in state(view)["columnOrder"] if ".`" in id),
            timeout=60_000,
        )
        names = page.locator(".ag-row [col-id='attributes.`Run Name`']").all_inner_texts()
        shown[view.key] = [name.split()[-1] for name in names]  # after the colour's
    assert shown == {
        ALL_RUNS.key: ["suite"],  # what is below it is folded up
        MODELS.key: ["finetune", "head", "baseline", "trial-0", "trial-2", "trial-1"],
        TRIALS.key: ["trial-1", "trial-2", "trial-0"],
    }
