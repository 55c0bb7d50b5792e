"""The search through its entry point: what it leaves, and that nothing can make it lie."""

import csv
import itertools
import json
import math
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import optuna
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, SMOKE, Entry, make_pictures, run_entry
from mlflow.entities import Run
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from PIL import Image

from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.errors import UserError
from tlkit.runs.phase import AlreadyTrained
from tlkit.runs.prepare import prepare_data
from tlkit.search import conclude, figures, worker
from tlkit.search import study as studies
from tlkit.search import tune as tune_module
from tlkit.search.space import DEFAULT
from tlkit.search.trial import Score, _latency, train_trial
from tlkit.summary import PhaseResult
from tlkit.tracking.run import Tracker, set_status, start_run
from tlkit.training.checkpoints import load_result, save_result
from tlkit.training.loop import CRITERION, Result

FIGURES = (
    "optimization_history.png",
    "param_importances.png",
    "slice.png",
    "parallel_coordinate.png",
    "intermediate_values.png",
    "timeline.png",
)
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
ENDED = ("complete", "pruned", "failed")
EPOCHS = 2

# Worse than the default, each of them: its rate is too low to learn anything.
HOPELESS = "{head_lr: {low: 1.0e-9, high: 1.0e-8, log: true}}"


def runs_of(experiment: str) -> list[Run]:
    return mlflow.search_runs([experiment], output_format="list", order_by=["start_time ASC"])


def named(runs: list[Run], name: str) -> list[Run]:
    return [run for run in runs if run.info.run_name == name]


def only(runs: list[Run], name: str) -> Run:
    (run,) = named(runs, name)
    return run


def trials_of(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.data.tags.get("tlkit.phase") == "trial"]


def note(run: Run) -> str:
    return str(run.data.tags["mlflow.note.content"])


def below(runs: list[Run], parent: Run) -> list[Run]:
    return [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


def artifacts(run: Run) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))


def study_at(address: str) -> list[FrozenTrial]:
    (name,) = optuna.get_all_study_names(address)
    return optuna.load_study(study_name=name, storage=address).get_trials()


def assert_exact(runs: list[Run], trials: list[FrozenTrial], wanted: int) -> None:
    """The study and MLflow tell of the same trials; so many came to an end; nothing is running."""
    assert [run.info.run_name for run in runs if run.info.status == "RUNNING"] == []
    assert all(run.info.end_time is not None for run in runs)
    states = {trial.number: studies.state(trial) for trial in trials}
    assert sum(state in ENDED for state in states.values()) == wanted
    assert set(states.values()) <= set(STATUS)
    of_trials = trials_of(runs)
    told = {int(run.data.tags["tlkit.trial"]): run for run in of_trials}
    assert len(told) == len(of_trials)
    assert {number: run.data.tags["tlkit.trial_state"] for number, run in told.items()} == states
    for number, run in told.items():
        assert run.info.run_name == f"trial-{number}"
        assert run.info.status == STATUS[states[number]]
    parent = only(runs, "tune")
    assert {run.data.tags["mlflow.parentRunId"] for run in of_trials} == {parent.info.run_id}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("tune") / "pictures", counts=(6, 4, 2))


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'optuna.db'}"


Tune = Callable[..., int]


@pytest.fixture
def tune(pictures: Path, storage: str, entry: Entry) -> Tune:
    """`-e tune` on the pictures, with a storage of the test's own."""

    def run(*arguments: str) -> int:
        return entry("tune", "--data", str(pictures), "--storage", storage, *arguments)

    return run


# ---- stand-ins for what takes long


def score_of(loss: float, accuracy: float, epoch: int, seconds: float, latency: float) -> Score:
    # All of it takes longer than the training does.
    return Score(loss, accuracy, epoch, 1.0, 5 + seconds, seconds, latency, report=None)


def stand_in_trial(
    config: Config, manifest: object, log: worker.Log, *_: object, **__: object
) -> Score:
    """Best at a head_lr of 0.01; every epoch is better than the one before."""
    loss = 0.1 + abs(math.log10(config.head_lr) + 2)
    for epoch in range(config.finetune_epochs):
        last = loss + (config.finetune_epochs - 1 - epoch) / 100
        log({CRITERION: last, "val/accuracy": 1 / (1 + last)}, epoch)
    return score_of(loss, 1 / (1 + loss), config.finetune_epochs - 1, 1 + config.dropout, 0.01)


def stand_in_phase(phase: str, config: Config, *, parent: str, **_: object) -> PhaseResult:
    metrics = dict.fromkeys(
        ("val/best_accuracy", "test/accuracy", "test/accuracy_low", "test/accuracy_high",
         "test/f1", "time/total_seconds", "parameters/trainable"), 0.5)  # fmt: skip
    with start_run(phase, parent=parent) as tracker:
        tracker.params({"head_lr": config.head_lr})
        tracker.metrics(metrics)
    return PhaseResult(phase, tracker.run_id, metrics)


@pytest.fixture
def short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither trains for good nor draws."""
    monkeypatch.setattr(conclude, "run_phase", stand_in_phase)
    monkeypatch.setattr(conclude, "write_figures", lambda *_: {})


@pytest.fixture
def quick(short_end: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains nothing at all."""
    monkeypatch.setattr(worker, "train_trial", stand_in_trial)


# ---- one search, all of it real


@dataclass(frozen=True)
class Tuned:
    """What a search left, and what the same command left when it was given again."""

    runs: list[Run]
    trials: list[FrozenTrial]
    runs_again: list[Run]
    trials_again: list[FrozenTrial]
    warnings: list[str]  # of MLflow's registry

    @property
    def parent(self) -> Run:
        return only(self.runs, "tune")

    @property
    def best(self) -> Run:
        return only(self.runs, f"trial-{self.parent.data.tags['tlkit.best_trial']}")

    @property
    def final(self) -> Run:
        (final,) = (
            run for run in self.runs if run.info.run_id == self.parent.data.tags["tlkit.best_run"]
        )
        return final


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned")
    address = f"sqlite:///{folder / 'optuna.db'}"
    experiment = mlflow.set_experiment("tuned").experiment_id
    command = [
        *("tune", "--data", str(pictures), "--storage", address, "--trials", "4"),
        *("--finetune_epochs", str(EPOCHS), "--register", "tuned"),
        *("--head_lr", "0.002", "--pruner", "none"),
    ]
    warnings: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(folder / "cache"))
        patch.setattr("mlflow.tracking._model_registry.fluent._logger.warning", warnings.append)
        assert run_entry(*command) == 0
        first = runs_of(experiment), study_at(address)
        assert run_entry(*command) == 0
    return Tuned(*first, runs_of(experiment), study_at(address), warnings)


@pytest.mark.slow
def test_a_search_is_one_parent_with_a_run_for_each_trial(tuned: Tuned) -> None:
    assert_exact(tuned.runs, tuned.trials, 4)
    assert Counter(run.info.run_name for run in tuned.runs if run.info.run_name != "head") == {
        "tune": 1, "finetune": 2, **{f"trial-{number}": 1 for number in range(4)}
    }  # fmt: skip
    assert tuned.parent.info.status == "FINISHED"
    client = mlflow.MlflowClient()
    for run in trials_of(tuned.runs):
        assert set(run.data.params) == set(Config.names())
        for name in ("val/loss", CRITERION, "val/accuracy"):
            points = client.get_metric_history(run.info.run_id, name)
            assert [point.step for point in points] == list(range(EPOCHS))
        assert 0 < run.data.metrics["time/total_seconds"] < 600
        losses = [point.value for point in client.get_metric_history(run.info.run_id, CRITERION)]
        assert run.data.metrics["val/best_calibrated_loss"] == min(losses)


@pytest.mark.slow
def test_params_of_a_trial_are_what_the_study_gave_it(tuned: Tuned) -> None:
    given = only(tuned.runs, "trial-0").data.params
    expected = yaml.safe_load(SMOKE.read_text()) | {"head_lr": 0.002, "finetune_epochs": EPOCHS}
    assert {key: given[key] for key in expected} == {k: str(v) for k, v in expected.items()}
    assert given == tuned.parent.data.params
    for trial in tuned.trials:
        params = only(tuned.runs, f"trial-{trial.number}").data.params
        changed = {key: value for key, value in params.items() if value != given[key]}
        assert changed.items() <= {key: str(value) for key, value in trial.params.items()}.items()
        assert bool(changed) == (trial.number > 0)


@pytest.mark.slow
def test_the_search_does_not_look_at_the_test_pictures(tuned: Tuned) -> None:
    for run in trials_of(tuned.runs):
        assert not [name for name in run.data.metrics if name.startswith("test")]


def test_a_trial_trains_where_there_are_no_test_pictures_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_pictures(tmp_path / "pictures", counts=(4, 3, 2))
    config = Config.load(SMOKE, {"data": str(folder)})
    manifest = prepare_data(config).manifest
    assert manifest.of("test")
    logged: list[Mapping[str, float]] = []

    def log(metrics: Mapping[str, float], epoch: int) -> None:
        logged.append(metrics)

    with_them = train_trial(config, manifest, log, tmp_path / "with")
    took = [
        json.loads((tmp_path / "with" / phase / "result.json").read_text())["seconds"]
        for phase in ("head", "finetune")
    ]
    assert with_them.train_seconds == sum(took) < with_them.seconds
    shutil.rmtree(folder / "test")
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "another-cache"))
    without = train_trial(config, manifest, log, tmp_path / "without")
    assert (without.loss, without.accuracy) == (with_them.loss, with_them.accuracy)
    assert not [name for metrics in logged for name in metrics if name.startswith("test")]


@pytest.mark.slow
def test_a_trial_too_large_for_the_card_says_what_takes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tlkit.search.trial.prepare_phase", fail)
    with pytest.raises(UserError, match="the card's memory is full; lower batch_size"):
        train_trial(Config(), Manifest(tmp_path, (), ()), lambda *_: None, tmp_path)


def test_the_parent_carries_the_best_and_all_trials(tuned: Tuned) -> None:
    parent, best = tuned.parent, tuned.best
    number = int(parent.data.tags["tlkit.best_trial"])
    losses = {t.number: t.value for t in tuned.trials}
    assert losses[number] == min(losses.values())
    assert best.data.metrics["val/best_calibrated_loss"] == losses[number] <= losses[0]
    (trial,) = (trial for trial in tuned.trials if trial.number == number)
    tags = {
        key.removeprefix("tlkit.best."): value
        for key, value in parent.data.tags.items()
        if key.startswith("tlkit.best.")
    }
    assert tags == {key: str(value) for key, value in trial.params.items()}
    for name in ("test/accuracy", "test/accuracy_low", "test/accuracy_high"):
        assert parent.data.metrics[name] == tuned.final.data.metrics[name]
    with (artifacts(parent) / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["trial"]), row["state"]) for row in rows] == [
        (number, "complete") for number in range(4)
    ]
    for row, each in zip(rows, tuned.trials, strict=True):
        assert float(row[CRITERION]) == each.value
        assert float(row["seconds"]) > 0
        assert int(row["epochs"]) == EPOCHS
        for key in ("unfreeze_depth", "head_lr", "backbone_lr", "weight_decay", "dropout"):
            assert row[key] == str(each.params.get(key, ""))


@pytest.mark.slow
def test_the_parent_shows_and_explains_its_figures(tuned: Tuned) -> None:
    folder = artifacts(tuned.parent)
    assert {path.name for path in folder.glob("*.png")} == set(FIGURES)
    for name in FIGURES:
        with Image.open(folder / name) as picture:
            picture.verify()
        _, caption_and_link = note(tuned.parent).split(
            f"**{name.removesuffix('.png').replace('_', ' ')}.** "
        )
        caption, link = caption_and_link.split("\n\n")[:2]
        assert len(caption) > 20
        run_id = tuned.parent.info.run_id
        assert link == f"![{name}](get-artifact?path={name}&run_uuid={run_id})"


@pytest.mark.slow
def test_best_and_default_are_trained_for_good_beside_one_another(tuned: Tuned) -> None:
    finals = {run.data.tags["tlkit.trial"]: run for run in named(tuned.runs, "finetune")}
    assert set(finals) == {"0", tuned.parent.data.tags["tlkit.best_trial"]}
    words = note(tuned.parent)
    download = f"mlflow artifacts download --run-id {tuned.parent.info.run_id}"
    assert f"\n```\n{download} --artifact-path best.yaml --dst-path .\nmlflow run " in words
    for number, run in finals.items():
        assert run.data.tags["mlflow.parentRunId"] == tuned.parent.info.run_id
        trial = only(tuned.runs, f"trial-{number}").data
        made = int(trial.metrics["val/best_epoch"]) + 1
        told = f" after {made} epoch{'s' if made > 1 else ''}. The test"
        assert told in trial.tags["mlflow.note.content"]
        for name in ("val/best_calibrated_loss", "val/best_accuracy", "val/best_epoch"):
            assert run.data.metrics[name] == trial.metrics[name]
        role = "default" if number == "0" else "best"
        assert note(run).startswith(f"The {role} configuration of study tune-")
        assert f", trial {number}.\n\n**Test accuracy" in note(run)
        (row,) = (line for line in words.splitlines() if line.startswith(f"| {role} (trial"))
        low, high = run.data.metrics["test/accuracy_low"], run.data.metrics["test/accuracy_high"]
        assert f"| {low:.3f} to {high:.3f} |" in row
        assert f"[{role} (trial {number})](#/experiments/" in words
        assert f"/runs/{run.info.run_id})" in words


@pytest.mark.slow
def test_the_best_configuration_run_by_itself_gives_the_same_figures(
    tuned: Tuned, entry: Entry, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.outcome.GRADCAM_TILES", 12)  # as when it was tuned
    best = artifacts(tuned.parent) / "best.yaml"
    assert entry("finetune", "--config", str(best)) == 0
    alone = only(runs_of(experiment), "finetune")
    for name in ("val/best_calibrated_loss", "val/best_accuracy", "val/best_epoch"):
        assert alone.data.metrics[name] == tuned.best.data.metrics[name]
    for name in ("train/loss", "val/loss", CRITERION, "val/accuracy", "lr/backbone"):
        client = mlflow.MlflowClient()
        first, second, third = (
            [point.value for point in client.get_metric_history(run.info.run_id, name)]
            for run in (alone, tuned.best, tuned.final)
        )
        assert first == second == third
    # The search's took over what its trial had trained.
    for name in ("predictions.csv", "gradcam_check.json", "checkpoints/last.safetensors"):
        ours, theirs = (artifacts(run) / name for run in (alone, tuned.final))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_what_a_trial_trained_is_not_trained_again_for_good(tuned: Tuned) -> None:
    for final in named(tuned.runs, "finetune"):
        trial = only(tuned.runs, f"trial-{final.data.tags['tlkit.trial']}")
        # The head is the trial's too, and has no run of its own.
        assert final.data.tags["tlkit.init_from"] == trial.info.run_id
        trained = artifacts(trial) / "trained"
        kept, taken = trained / "finetune", artifacts(final) / "checkpoints"
        names = sorted(path.name for path in kept.iterdir())
        assert names == sorted(path.name for path in taken.iterdir())
        assert names[-1] == "result.json"
        # It has the seconds that training took, which no two trainings share.
        assert all((kept / n).read_bytes() == (taken / n).read_bytes() for n in names)
        head, finetune = (
            json.loads((trained / phase / "result.json").read_text())["seconds"]
            for phase in ("head", "finetune")
        )
        assert final.data.metrics["time/train_seconds"] == finetune > 0
        assert final.data.metrics["time/total_seconds"] > head + finetune
    assert not named(tuned.runs, "head")


def test_the_head_of_what_is_taken_over_took_its_seconds_too(tmp_path: Path) -> None:
    for phase, seconds in (("head", 2.0), ("finetune", 3.0)):
        (tmp_path / "trained" / phase).mkdir(parents=True)
        save_result(tmp_path / "trained" / phase, Result([{"epoch": 0}], 0, seconds))
    trained = AlreadyTrained("a run", tmp_path / "trained")
    assert trained.begin("finetune", tmp_path / "checkpoints") == 5.0
    assert load_result(tmp_path / "checkpoints") == Result([{"epoch": 0}], 0, 3.0)


@pytest.mark.slow
def test_only_what_may_be_wanted_for_good_is_kept(tuned: Tuned) -> None:
    values = [trial.value for trial in tuned.trials]
    for number, value in enumerate(values):
        tags = only(tuned.runs, f"trial-{number}").data.tags
        assert ("tlkit.trained_by" in tags) == (number == 0 or value <= min(values[:number]))


@pytest.mark.slow
def test_a_finetune_that_is_taken_over_names_the_head_that_it_began_from(
    tune: Tune, experiment: str
) -> None:
    """Where all trials have the same head settings, each has a head of its own all the same."""
    search = json.dumps({"backbone_lr": {"low": 1e-4, "high": 1e-2, "log": True}})
    own = ("--trials", "3", "--pruner", "none", "--backbone_lr", "1e-9", "--search", search)
    assert tune(*own) == 0
    heads = [run.data.tags["tlkit.init_from"] for run in named(runs_of(experiment), "finetune")]
    assert len(set(heads)) == 2


@pytest.mark.slow
def test_a_search_from_a_given_head_trains_none_and_its_best_is_taken_over_all_the_same(
    tune: Tune, entry: Entry, experiment: str, pictures: Path
) -> None:
    assert entry("head", "--data", str(pictures)) == 0
    [head] = named(runs_of(experiment), "head")
    search = json.dumps({"backbone_lr": {"low": 1e-4, "high": 1e-2, "log": True}})
    given = ("--init_from", head.info.run_id, "--search", search)
    assert tune("--trials", "2", "--pruner", "none", *given) == 0
    runs = runs_of(experiment)
    assert [one.info.run_id for one in named(runs, "head")] == [head.info.run_id]
    for final in named(runs, "finetune"):
        assert final.data.tags["tlkit.init_from"] == head.info.run_id
        trained = artifacts(only(runs, f"trial-{final.data.tags['tlkit.trial']}")) / "trained"
        assert [path.name for path in trained.iterdir()] == ["finetune"]
        seconds = json.loads((trained / "finetune" / "result.json").read_text())["seconds"]
        assert final.data.metrics["time/train_seconds"] == seconds


@pytest.mark.usefixtures("quick")
def test_weights_that_cannot_be_kept_lose_no_trial(
    tune: Tune,
    storage: str,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = Tracker.artifacts

    def artifacts_refused(tracker: Tracker, folder: Path, under: str | None = None) -> None:
        if under == worker.TRAINED:
            raise OSError("the store is full")
        log(tracker, folder, under)

    monkeypatch.setattr(Tracker, "artifacts", artifacts_refused)
    assert tune("--trials", "2") == 0
    assert_exact(runs_of(experiment), study_at(storage), 2)
    assert {studies.state(trial) for trial in study_at(storage)} == {"complete"}
    told = capfd.readouterr().err
    assert "what trial 0 trained is not kept (OSError: the store is full)" in told
    assert not [run for run in runs_of(experiment) if "tlkit.trained_by" in run.data.tags]


def test_settings_that_change_the_last_digits_train_again_for_good(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []

    def phase(*_: object, trained: AlreadyTrained | None, **__: object) -> PhaseResult:
        taken.append(trained is not None and (trained.folder / "finetune").exists())
        raise UserError("killed before it was logged")

    monkeypatch.setattr(conclude, "run_phase", phase)
    monkeypatch.setattr(conclude, "write_figures", lambda *_: {})
    for settings in ((), ("--compile", "on"), ("--engine", "plain"), ()):
        assert tune("--trials", "1", "--threads", "1", *settings) == 2
    assert taken == [True, False, False, True]


@pytest.mark.slow
def test_the_same_command_again_makes_nothing_twice(tuned: Tuned) -> None:
    assert tuned.trials_again == tuned.trials
    before = {run.info.run_id for run in tuned.runs}
    (new,) = (run for run in tuned.runs_again if run.info.run_id not in before)
    assert new.info.run_name == "tune-worker"
    assert new.data.tags["mlflow.parentRunId"] == tuned.parent.info.run_id
    assert_exact(tuned.runs_again, tuned.trials_again, 4)
    again = only(tuned.runs_again, "tune")
    assert again.info.status == "FINISHED"
    assert again.data.tags["tlkit.best_run"] == tuned.parent.data.tags["tlkit.best_run"]


@pytest.mark.slow
def test_the_best_model_is_in_the_registry(tuned: Tuned, pictures: Path) -> None:
    version = mlflow.MlflowClient().get_model_version("tuned", "1")
    assert tuned.warnings == []
    assert version.run_id == tuned.parent.data.tags["tlkit.best_run"]
    assert "Registered as tuned, version 1." in note(tuned.parent)
    content = next((pictures / "test" / "cat").iterdir()).read_bytes()
    answer = mlflow.pyfunc.load_model("models:/tuned/1").predict(pd.DataFrame({"image": [content]}))
    assert answer["predicted"][0] in ("cat", "dog")


# ---- resuming


@pytest.mark.usefixtures("quick")
def test_more_trials_go_on_in_the_same_parent(tune: Tune, storage: str, experiment: str) -> None:
    assert tune("--trials", "2") == 0
    before = runs_of(experiment)
    assert_exact(before, study_at(storage), 2)
    assert tune("--trials", "5") == 0
    after = runs_of(experiment)
    assert_exact(after, study_at(storage), 5)
    assert {run.info.run_id for run in before} < {run.info.run_id for run in after}
    parent = only(after, "tune")
    assert only(after, "tune-worker").data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert only(after, "tune-worker").info.status == "FINISHED"
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials/complete"] == 5
    assert note(parent).startswith("5 trials: 5 complete")
    # A sampler that is seeded the same in each command would draw the same values again.
    assert len({trial.params["head_lr"] for trial in study_at(storage)}) == 5
    finals = Counter(run.data.tags["tlkit.trial"] for run in named(after, "finetune"))
    assert set(finals.values()) == {1}


def interrupt_second_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second trial that begins; the others are stand-ins."""
    calls = itertools.count()

    def interrupted(config: Config, *rest: Any, **options: Any) -> Score:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return stand_in_trial(config, *rest, **options)

    monkeypatch.setattr(worker, "train_trial", interrupted)


@pytest.mark.usefixtures("quick")
def test_ctrl_c_queues_the_trial_and_the_command_again_completes(
    tune: Tune, storage: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_second_trial(monkeypatch)
    assert tune("--trials", "4") == 130
    runs, trials = runs_of(experiment), study_at(storage)
    assert only(runs, "trial-1").data.tags["tlkit.trial_state"] == "interrupted"
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED", "KILLED"]
    assert "**Interrupted.**" in note(only(runs, "tune"))
    assert [studies.state(trial) for trial in trials] == ["complete", "interrupted"]
    assert tune("--trials", "4") == 0
    runs, trials = runs_of(experiment), study_at(storage)
    assert_exact(runs, trials, 4)
    assert trials[2].params == trials[1].params
    assert len(trials) == 5
    rows = pd.read_csv(artifacts(only(runs, "tune")) / "trials.csv")
    assert rows["in the place of"].dropna().to_dict() == {2: 1}
    assert rows["epochs"][1] == 0
    assert note(only(runs, "trial-2")).startswith("Trial 1 of study tune-")
    assert "interrupted, tried again.\n\nValidation accuracy" in note(only(runs, "trial-2"))
    assert "tried again" not in note(only(runs, "trial-3"))
    assert "Interrupted" not in note(only(runs, "tune"))


@pytest.mark.usefixtures("quick")
def test_ctrl_c_while_a_result_is_stored_is_no_fault_of_optuna(
    tune: Tune, storage: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = RDBStorage.set_trial_state_values

    def stopped(*arguments: Any, **values: Any) -> bool:
        if values["state"] is TrialState.COMPLETE:
            raise KeyboardInterrupt
        return store(*arguments, **values)

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", stopped)
    assert tune("--trials", "1") == 130
    assert "Traceback" not in capfd.readouterr().err
    assert [studies.state(trial) for trial in study_at(storage)] == ["interrupted"]


@pytest.mark.usefixtures("quick")
def test_a_database_that_fails_under_way_is_told_in_a_line(
    tune: Tune,
    tmp_path: Path,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def broken(*arguments: Any, **options: Any) -> Score:
        with sqlite3.connect(tmp_path / "optuna.db") as database:
            database.execute("DROP TABLE trial_user_attributes")
        return stand_in_trial(*arguments, **options)

    monkeypatch.setattr(worker, "train_trial", broken)
    assert tune("--trials", "2") == 2
    told = capfd.readouterr().err
    assert "optuna.db fails: " in told
    assert "Traceback" not in told
    assert only(runs_of(experiment), "tune").info.status == "FAILED"
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    assert tune("--trials", "2") == 2
    told = capfd.readouterr().err
    assert "optuna storage upgrade" in told
    assert "server runs" not in told


@pytest.mark.usefixtures("quick")
def test_the_default_is_tried_however_often_it_is_interrupted(
    tune: Tune, storage: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Score:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "train_trial", interrupted)
    for _ in range(3):
        assert tune("--trials", "2") == 130
    monkeypatch.setattr(worker, "train_trial", stand_in_trial)
    assert tune("--trials", "2") == 0
    trials = study_at(storage)
    assert_exact(runs_of(experiment), trials, 2)
    (default,) = (trial for trial in trials if trial.user_attrs.get(DEFAULT) and trial.values)
    assert default.params["head_lr"] == Config.load(SMOKE, {}).head_lr
    assert "the default configuration (trial" in note(only(runs_of(experiment), "tune"))


@pytest.mark.usefixtures("quick")
def test_ctrl_c_in_a_second_terminal_does_not_end_the_search_of_the_first(
    tune: Tune, storage: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tune("--trials", "1") == 0
    (name,) = optuna.get_all_study_names(storage)
    optuna.load_study(study_name=name, storage=storage).ask()  # by the first
    interrupt_second_trial(monkeypatch)
    assert tune("--trials", "4") == 130
    assert only(runs_of(experiment), "tune").info.status == "RUNNING"


@pytest.mark.usefixtures("short_end")
def test_a_search_that_goes_on_after_ctrl_c_where_it_began_is_running(
    tune: Tune, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def ended_elsewhere(*rest: Any, **options: Any) -> Score:
        parent = only(runs_of(experiment), "tune").info
        seen.append(parent.status)
        set_status(parent.run_id, "KILLED")
        return stand_in_trial(*rest, **options)

    monkeypatch.setattr(worker, "train_trial", ended_elsewhere)
    assert tune("--trials", "2") == 0
    assert seen == ["RUNNING", "RUNNING"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.tune", "--config", str(SMOKE), *arguments]


def environment(**values: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **values}


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[str], what: str) -> Any:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if answer := happened():
            return answer
        assert process.poll() is None, f"ended before {what}: {process.communicate()}"
        time.sleep(0.02)
    raise AssertionError(f"no {what} in time")


@pytest.mark.slow
@pytest.mark.usefixtures("short_end")
def test_kill_9_loses_the_trial_under_way_alone(
    pictures: Path,
    tmp_path: Path,
    storage: str,
    tune: Tune,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("--trials", "4", "--finetune_epochs", "8", "--pruner", "none")
    process = subprocess.Popen(
        command("--data", str(pictures), "--storage", storage, *arguments),
        cwd=tmp_path,
        env=environment(MLFLOW_EXPERIMENT_ID=experiment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def under_way() -> list[Run]:
        return [
            run
            for run in trials_of(runs_of(experiment))
            if run.data.tags.get("tlkit.trial_state") == "running"
            and run.data.tags["tlkit.trial"] != "0"
        ]

    try:
        wait_for(under_way, process, "a trial")
    finally:
        process.kill()
        process.communicate()
    (killed,) = under_way()
    assert killed.info.status == "RUNNING"
    number = int(killed.data.tags["tlkit.trial"])
    for module in ("storage", "study"):
        monkeypatch.setattr(f"tlkit.search.{module}.GRACE_SECONDS", 1)
    monkeypatch.setattr("tlkit.search.storage.HEARTBEAT_SECONDS", 1)
    # Optuna ends it too, on its way to another trial, where it went stale after we looked.
    settle, looks = studies.settle, itertools.count()
    monkeypatch.setattr(studies, "settle", lambda study: next(looks) and settle(study))
    time.sleep(2)
    train, seen = worker.train_trial, []

    def looking(*some: Any, **more: Any) -> Score:
        seen.append(mlflow.get_run(killed.info.run_id).info.status)
        return train(*some, **more)

    monkeypatch.setattr(worker, "train_trial", looking)
    assert tune(*arguments) == 0
    assert seen[0] == "KILLED"  # told before the search goes on, not at its end
    runs, trials = runs_of(experiment), study_at(storage)
    assert_exact(runs, trials, 4)
    assert Counter(studies.state(trial) for trial in trials) == {"complete": 4, "interrupted": 1}
    assert studies.state(trials[number]) == "interrupted"
    retries = [trial for trial in trials if trial.params == trials[number].params]
    assert retries[0].number == number
    assert len(retries) == 2
    first, second = (only(runs, f"trial-{trial.number}").data.params for trial in retries)
    assert first == second


@pytest.mark.parametrize("after", ["its first heartbeat", "taking it"])
@pytest.mark.usefixtures("quick")
def test_a_killed_worker_is_noticed_even_in_the_second_try(
    after: str, tune: Tune, storage: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_second_trial(monkeypatch)
    assert tune("--trials", "3") == 130
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    studies.settle(study)
    taken = study.ask()  # and then killed
    assert taken.number == 2
    if after == "its first heartbeat":
        taken.set_user_attr(studies.BEGUN, taken.number)
        study._storage._backend.record_heartbeat(taken._trial_id)
    for module in ("storage", "study"):
        monkeypatch.setattr(f"tlkit.search.{module}.GRACE_SECONDS", 1)
    # While it counts as running there is none to take, so Optuna alone would not look.
    assert tune("--trials", "2") == 0
    trials = study_at(storage)
    assert [studies.state(trial) for trial in trials] == [
        "complete", "interrupted", "interrupted", "complete"
    ]  # fmt: skip
    without_run = [trial for trial in trials if trial.number != 2]
    assert_exact(runs_of(experiment), without_run, 2)


@pytest.mark.usefixtures("quick")
def test_an_error_after_a_trial_is_not_taken_for_a_lost_trial(
    tune: Tune, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimize = optuna.Study.optimize

    def faulty(study: optuna.Study, *arguments: Any, **options: Any) -> None:
        optimize(study, *arguments, **options)
        raise ValueError("of Optuna's own")

    monkeypatch.setattr(optuna.Study, "optimize", faulty)
    with pytest.raises(ValueError, match="of Optuna's own"):
        tune("--trials", "2")
    assert [studies.state(trial) for trial in study_at(storage)] == ["complete"]


@pytest.mark.parametrize("then", ["reports", "fails", "is stopped", "ends"])
@pytest.mark.usefixtures("quick")
def test_a_trial_that_was_given_to_another_worker_is_lost_in_a_line(
    then: str,
    tune: Tune,
    storage: str,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As after a pause of more than 20 seconds; what our worker does `then` comes too late."""
    keep, calls = worker._keep, itertools.count()

    def give_away() -> None:
        (name,) = optuna.get_all_study_names(storage)
        studies.give_back(optuna.load_study(study_name=name, storage=storage), 1)

    def paused(config: Config, *rest: Any, **options: Any) -> Score:
        if next(calls) == 1 and then != "ends":
            give_away()
            if then == "fails":
                raise RuntimeError("the card is gone")
            if then == "is stopped":
                raise KeyboardInterrupt
        return stand_in_trial(config, *rest, **options)

    def paused_after(trial: optuna.Trial, *rest: Any) -> None:
        keep(trial, *rest)
        if then == "ends" and trial.number == 1:
            give_away()

    monkeypatch.setattr(worker, "train_trial", paused)
    monkeypatch.setattr(worker, "_keep", paused_after)
    code = tune("--trials", "3")
    told = capfd.readouterr().err
    assert "Traceback" not in told
    if then == "is stopped":
        assert code == 130
        assert [studies.state(trial) for trial in study_at(storage)] == ["complete", "interrupted"]
        return
    assert code == 0
    assert "trial 1 was taken for dead while this process stood still" in told
    assert "trial 1 failed" not in told or then == "fails"
    trials = study_at(storage)
    assert_exact(runs_of(experiment), trials, 3)
    assert Counter(studies.state(trial) for trial in trials) == {"complete": 3, "interrupted": 1}
    assert trials[2].params == trials[1].params


# ---- workers


@pytest.mark.slow
@pytest.mark.usefixtures("short_end")
def test_two_workers_share_the_trials(
    tune: Tune, storage: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = []

    def wait_for_the_other(config: Config, *rest: Any, **options: Any) -> Score:
        here.append(config)
        deadline = time.monotonic() + 120
        while len(trials_of(runs_of(experiment))) <= len(here) and time.monotonic() < deadline:
            time.sleep(0.1)
        return train_trial(config, *rest, **options)

    monkeypatch.setattr(worker, "train_trial", wait_for_the_other)
    assert tune("--workers", "2", "--trials", "5") == 0
    trials = study_at(storage)
    assert_exact(runs_of(experiment), trials, 5)
    assert 0 < len(here) < 5
    assert len(trials) == 5
    assert len({trial.params["head_lr"] for trial in trials}) == 5


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server of our own."""
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL")
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("no initdb and pg_ctl on the path")
    prefix: list[str] = []
    # Not under a folder of ours, which other users cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="tlkit-postgresql-", dir="/tmp"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = False
    try:
        if os.geteuid() == 0:  # it refuses to run as root
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("we are root, and there is no user postgres to start the server as")
            os.chown(folder, user.pw_uid, user.pw_gid)
            prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}",
                      "--clear-groups"]  # fmt: skip
        data, log = str(folder / "data"), str(folder / "log")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        for words in (
            ["initdb", "-D", data, "-U", "tlkit", "-A", "trust", "--no-sync"],
            ["pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start"],
        ):
            made = subprocess.run(
                [*prefix, *words], cwd=folder, capture_output=True, text=True, timeout=120
            )
            if made.returncode:
                pytest.skip(f"{words[0]} failed: {made.stderr.strip()}")
        started = True
        yield f"postgresql+psycopg://tlkit:a-secret@127.0.0.1:{port}/postgres"
    finally:
        if started:
            subprocess.run(
                [*prefix, "pg_ctl", "-D", data, "-m", "fast", "-w", "stop"],
                cwd=folder, capture_output=True, timeout=120, check=True,
            )  # fmt: skip
        shutil.rmtree(folder)


# The entry point with stand-ins, and trials that are long enough for both processes to have some.
QUICK = """
import runpy, sys, time
from test_tune import conclude, stand_in_phase, stand_in_trial, worker

def trial(*arguments, **options):
    time.sleep(1)
    return stand_in_trial(*arguments, **options)

conclude.run_phase, conclude.write_figures = stand_in_phase, lambda *_: {}
worker.train_trial = trial
runpy.run_module("experiments.tune", run_name="__main__", alter_sys=True)
"""


def start_together(
    words: list[str], folder: Path, tracking_uri: str
) -> list[subprocess.Popen[str]]:
    folder.mkdir()
    own = environment(MLFLOW_TRACKING_URI=tracking_uri, TLKIT_CACHE=str(folder / "cache"))
    # The experiment that this test's process has set is not in the new store.
    own.pop("MLFLOW_EXPERIMENT_ID", None)
    return [
        subprocess.Popen(
            words,
            cwd=folder,
            env=own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]


def runs_at(uri: str) -> list[Run]:
    client = mlflow.MlflowClient(tracking_uri=uri)
    return list(client.search_runs(["0"], order_by=["start_time ASC"]))


@pytest.mark.slow
@pytest.mark.parametrize("server", ["sqlite", "postgresql"])
def test_two_commands_at_once_in_an_empty_folder_make_one_search(
    server: str, pictures: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "empty"
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    wanted = 4
    words = command("--data", str(pictures), "--trials", str(wanted), "--search", HOPELESS,
                    "--head_lr", "0.01")  # fmt: skip
    address = f"sqlite:///{folder / 'optuna.db'}"
    if server == "postgresql":
        address, wanted = request.getfixturevalue("postgresql"), 8
        words = [sys.executable, "-c", QUICK, *words[3:], "--storage", address, "--trials", "8"]
    processes = start_together(words, folder, uri)
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    runs, trials = runs_at(uri), study_at(address)
    assert_exact(runs, trials, wanted)
    assert len(trials) == wanted
    parent = only(runs, "tune")
    assert only(runs, "tune-worker").data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FINISHED"
    assert len([run for run in runs if "mlflow.parentRunId" not in run.data.tags]) == 1
    assert parent.data.tags["tlkit.best_trial"] == "0"
    assert len(named(runs, "finetune")) == 1
    if server == "postgresql":
        assert not [run for run in runs if "a-secret" in str(run.data)]
        assert not any("a-secret" in text for pair in said for text in pair)
        best = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/best.yaml")
        assert "a-secret" not in best
        # Both had some.
        begun = [trial.datetime_start for trial in trials]
        assert any(
            later < earlier.datetime_complete
            for earlier, later in zip(trials, begun[1:], strict=False)
        )


# ---- bad input


def no_trial(*_: Any, **__: Any) -> Score:
    raise AssertionError("it trains")


BAD_INPUT: list[tuple[dict[str, str], tuple[str, ...]]] = [
    ({"search": "{heed_lr: {low: 0.1, high: 0.2}}"}, ("unknown key heed_lr", "head_lr")),
    ({"search": "{head_lr: {low: 0.2, high: 0.1}}"}, ("low=0.2 is above high=0.1",)),
    ({"search": "{dropout: {low: 0.1, high: 1.1}}"}, ("dropout=1.1 is not allowed",)),
    ({"search": "{head_schedule: {low: cosine, high: plateau}}"}, ("give a list of values",)),
    ({"search": "{seed: [1, 2]}"}, ("seed cannot be searched",)),
    ({"search": "{head_lr: [0.1]}"}, ("head_lr has one value, so there is nothing to search",)),
    ({"second_objective": "latency"}, ("only backbone and image_size do: search one of them",)),
    ({"search": "{unfreeze_depth: {low: 0, high: 6}}"}, ("6 is more than the 5 units",)),
    ({"search": "{}"}, ("search={} is not allowed",)),
    ({"search": "head_lr"}, ("search=head_lr", "a mapping wanted")),
    ({"trials": "0"}, ("trials=0 is not allowed; at least 1",)),
    ({"workers": "0"}, ("workers=0 is not allowed; at least 1",)),
    ({"storage": "postgresql+psycopg://me:a-secret@127.0.0.1:1/x"},
     ("storage=postgresql+psycopg://me:***@127.0.0.1:1/x", "refused", "storage=auto")),
    ({"storage": "postgres://me:a-secret@127.0.0.1:54x2/x"}, ("storage=postgres://me:***@127",)),
    ({"storage": "mysql+nodriver://me@localhost/x"}, ("storage=mysql+nodriver",)),
    ({"storage": "sqlite:///nowhere/optuna.db"}, ("there is no folder", "nowhere")),
    ({"storage": "sqlite:///garbage.db"}, ("garbage.db", "not a database")),
    ({"storage": "sqlite://"}, ("storage=sqlite://", "sqlite:///FILE")),
    ({"storage": "optuna.db"}, ("storage=optuna.db", "sqlite:///FILE")),
    ({"storage": "redis://localhost"}, ("storage=redis://localhost", "sqlite:///FILE")),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "said"), BAD_INPUT, ids=lambda value: str(value)[:60])
@pytest.mark.usefixtures("quick")
def test_bad_input_is_one_line_before_any_training(
    flags: dict[str, str],
    said: tuple[str, ...],
    tune: Tune,
    tmp_path: Path,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if "postgresql" in flags.get("storage", ""):
        pytest.importorskip("psycopg", reason="no driver for PostgreSQL")
    monkeypatch.setattr(worker, "train_trial", no_trial)
    (tmp_path / "garbage.db").write_text("this is no database\n" * 1000)
    capfd.readouterr()
    assert tune(*(word for key, value in flags.items() for word in (f"--{key}", value))) == 2
    error = capfd.readouterr().err
    (line,) = (line for line in error.splitlines() if line.startswith("error: "))
    for words in said:
        assert words in line
    assert "Traceback" not in error
    assert "a-secret" not in error
    assert {run.info.status for run in runs_of(experiment)} <= {"FAILED"}
    assert trials_of(runs_of(experiment)) == []
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.usefixtures("quick")
def test_a_study_of_other_data_or_another_space_is_refused_with_what_differs(
    tune: Tune,
    pictures: Path,
    tmp_path: Path,
    experiment: str,
    storage: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert tune("--study", "mine", "--trials", "2") == 0
    others = make_pictures(tmp_path / "others", counts=(5, 4, 2))
    for arguments, said in (
        (("--data", str(others)), ("data digest", f", {pictures} (here ", f", {others}); make")),
        (("--search", "{dropout: [0.1, 0.2], head_lr: {low: 0.1, high: 0.5, step: 0.1}}"),
         ("search.dropout {low: 0.0, high: 0.5} (here [0.1, 0.2])",
          "search.head_lr {low: 0.0001, high: 0.01, log: true} "
          "(here {low: 0.1, high: 0.5, step: 0.1})",
          "search.weight_decay {low: 1e-06, high: 0.1, log: true} (here absent)")),
        (("--head_epochs", "7"), ("head_epochs 2 (here 7)",)),
        (("--objective", "accuracy"), ("objective loss (here accuracy)",)),
    ):  # fmt: skip
        capfd.readouterr()
        assert tune("--study", "mine", "--trials", "3", *arguments) == 2
        error = capfd.readouterr().err
        (line,) = (line for line in error.splitlines() if line.startswith("error: "))
        assert "study=mine was begun with other settings" in line
        for words in said:
            assert words in line
    runs = runs_of(experiment)
    assert [run.info.status for run in named(runs, "tune")] == ["FINISHED", *["FAILED"] * 4]
    assert len(study_at(storage)) == 2
    # The same pictures in another place are the same data.
    shutil.copytree(Path(named(runs, "tune")[0].data.params["data"]), tmp_path / "moved")
    assert tune("--study", "mine", "--trials", "3", "--data", str(tmp_path / "moved")) == 0
    assert len(study_at(storage)) == 3


@pytest.mark.usefixtures("quick")
def test_a_search_whose_run_was_deleted_says_how_to_bring_it_back(
    tune: Tune, experiment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tune("--trials", "1") == 0
    parent = only(runs_of(experiment), "tune").info.run_id
    client = mlflow.MlflowClient()
    client.delete_run(parent)
    capfd.readouterr()
    assert tune("--trials", "2") == 2
    told = capfd.readouterr().err
    assert "which was deleted; bring it back with `mlflow runs restore --run-id" in told
    assert "Traceback" not in told
    client.restore_run(parent)
    mlflow.set_experiment("elsewhere")
    assert tune("--trials", "2") == 0
    told = capfd.readouterr()
    assert f"the study is logged in experiment {experiment}: its trials go there" in told.err
    assert f"/#/experiments/{experiment}/runs" in told.out


def test_the_database_of_mlflow_is_not_for_optuna_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "mlflow"
    place.mkdir()
    (tmp_path / "link").symlink_to(place)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{place / 'runs.db'}")
    for address in ("sqlite:///mlflow/runs.db", f"sqlite:///{tmp_path / 'link' / 'runs.db'}"):
        with pytest.raises(UserError, match=r"MLflow's own database; .* -P storage=sqlite:///FILE"):
            tune_module._address(Config(storage=address))
    assert tune_module._address(Config()) == f"sqlite:///{place / 'optuna.db'}"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{place / 'optuna.db'}")
    with pytest.raises(UserError, match=r"storage=auto is .*optuna.db, MLflow's own"):
        tune_module._address(Config())
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:5000")
    mine = "sqlite:///optuna.db"
    assert tune_module._address(Config(storage=mine)) == mine
    assert not list(place.iterdir())


@pytest.mark.usefixtures("quick")
def test_a_study_of_another_program_is_left_alone(
    tune: Tune, storage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    study = optuna.create_study(study_name="mine", storage=storage)
    study.add_trial(create_trial(value=1.0))
    assert tune("--study", "mine") == 2
    assert "study=mine is there already, and some other program's" in capfd.readouterr().err
    assert len(study_at(storage)) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("--objective", "accuracy"), "to minimize, where this search is to maximize;"),
        (("--second_objective", "seconds"), "where this search is to minimize, then minimize;"),
    ],
)
def test_an_empty_study_that_improves_something_else_is_refused(
    wanted: tuple[str, str], said: str, tune: Tune, storage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    optuna.create_study(study_name="mine", storage=storage)
    assert tune("--study", "mine", *wanted) == 2
    assert said in capfd.readouterr().err
    assert study_at(storage) == []


@pytest.mark.usefixtures("quick")
def test_values_that_optuna_does_not_take_end_the_search(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nan = math.nan
    monkeypatch.setattr(worker, "train_trial", lambda *_, **__: score_of(nan, nan, 0, 1, 0.01))
    assert tune("--trials", "2") == 2
    assert "Optuna does not take the values of trial 0" in capfd.readouterr().err


def test_all_trials_failing_fails_the_parent_with_the_first_error(
    tune: Tune, storage: str, experiment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--trials", "2", "--head_lr", "1e37",
                 "--search", "{head_lr: {low: 1.0e36, high: 1.0e37, log: true}}")  # fmt: skip
    assert tune(*arguments) == 2
    error = capfd.readouterr().err
    assert "error: all 2 trials failed; the first: the validation loss after epoch" in error
    assert "; to go on, mend that, and raise trials above 2 or begin anew with another" in error
    assert "trial 1 failed: " in error
    assert "Traceback" not in error
    runs = runs_of(experiment)
    assert_exact(runs, study_at(storage), 2)
    # Or its sampler would learn nothing from them.
    assert {trial.state for trial in study_at(storage)} == {TrialState.PRUNED}
    parent = only(runs, "tune")
    assert parent.info.status == "FAILED"
    assert "the first: the validation loss after epoch" in note(parent)
    for run in trials_of(runs):
        assert "the validation loss after epoch" in note(run)
    # Again: nothing to do, and the same answer.
    assert tune(*arguments) == 2
    assert len(study_at(storage)) == 2
    assert {run.info.status for run in runs_of(experiment)} == {"FAILED"}


@pytest.mark.usefixtures("quick")
def test_one_trial_that_crashes_does_not_end_the_search(
    tune: Tune,
    storage: str,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    calls = itertools.count()

    def crashing(config: Config, *rest: Any, **options: Any) -> Score:
        if next(calls) == 1:
            raise RuntimeError("the machine\nis on fire")
        return stand_in_trial(config, *rest, **options)

    monkeypatch.setattr(worker, "train_trial", crashing)
    assert tune("--trials", "3") == 0
    runs = runs_of(experiment)
    assert_exact(runs, study_at(storage), 3)
    crashed, parent = only(runs, "trial-1"), only(runs, "tune")
    assert (crashed.info.status, crashed.data.tags["tlkit.trial_state"]) == ("FAILED", "failed")
    assert "the machine is on fire" in note(crashed)
    assert note(parent).startswith("3 trials: 2 complete, 0 pruned (0%), 1 failed.")
    with (artifacts(parent) / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete", "failed", "complete"]
    assert "the machine is on fire" in rows[1]["error"]
    assert "Traceback" not in capfd.readouterr().err


# ---- what is searched


@pytest.mark.usefixtures("short_end")
def test_a_space_of_other_keys_works_from_the_file_alone(
    tune: Tune, storage: str, tmp_path: Path, experiment: str
) -> None:
    file = tmp_path / "mine.yaml"
    search = {"batch_size": [3, 6], "label_smoothing": {"low": 0.1, "high": 0.2}}
    file.write_text(yaml.safe_dump({**yaml.safe_load(SMOKE.read_text()), "trials": 3,
                                    "search": search}))  # fmt: skip
    assert tune("--config", str(file)) == 0
    runs, trials = runs_of(experiment), study_at(storage)
    assert_exact(runs, trials, 3)
    assert {studies.state(trial) for trial in trials} == {"complete"}
    # Neither of the default's values is in the space; it is tried all the same.
    assert trials[0].params == {}
    rows = pd.read_csv(artifacts(only(runs, "tune")) / "trials.csv")
    assert (rows["batch_size"][0], rows["label_smoothing"][0]) == (32, 0.0)
    defaults = only(runs, "trial-0").data.params
    assert (defaults["batch_size"], defaults["label_smoothing"]) == ("32", "0.0")
    for number in (1, 2):
        params = only(runs, f"trial-{number}").data.params
        assert params["batch_size"] in ("3", "6")
        assert 0.1 <= float(params["label_smoothing"]) <= 0.2
        assert params["head_lr"] == defaults["head_lr"]


@pytest.mark.parametrize(("pruner", "state"), [("none", "complete"), ("median", "pruned")])
@pytest.mark.usefixtures("quick")
def test_a_configuration_that_comes_again_is_not_trained_again(
    pruner: str,
    state: str,
    tune: Tune,
    storage: str,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = []

    def counted(config: Config, *rest: Any, **options: Any) -> Score:
        trained.append(config.head_lr)
        return stand_in_trial(config, *rest, **options)

    monkeypatch.setattr(worker, "train_trial", counted)
    monkeypatch.setattr(studies, "_RANDOM_TRIALS", 1)
    assert tune("--trials", "7", "--search", "{head_lr: [1.0e-9, 1.0e-8]}", "--head_lr", "0.01",
                "--pruner", pruner, "--finetune_epochs", "3") == 0  # fmt: skip
    runs, trials = runs_of(experiment), study_at(storage)
    assert_exact(runs, trials, 7)
    assert [studies.state(trial) for trial in trials] == ["complete", *[state] * 6]
    assert sorted(trained) == [1e-9, 1e-8, 0.01]
    again = [run for run in trials_of(runs) if "tlkit.repeats" in run.data.tags]
    assert len(again) == 4
    for run in again:
        first, own = (
            next(trial for trial in trials if trial.number == int(run.data.tags[tag]))
            for tag in ("tlkit.repeats", "tlkit.trial")
        )
        assert (first.params, first.values) == (own.params, own.values)
        assert first.intermediate_values == own.intermediate_values
        assert f"The configuration of trial {first.number}, " in note(run)
        if state == "complete":
            assert own.user_attrs[studies.LOSS] == first.user_attrs[studies.LOSS]
            assert run.data.metrics["val/best_calibrated_loss"] == own.value
        assert run.data.metrics == only(runs, f"trial-{first.number}").data.metrics
        assert run.data.metrics


# ---- pruning


@pytest.mark.parametrize(("pruner", "pruned"), [("median", 3), ("none", 0)])
@pytest.mark.usefixtures("quick")
def test_hopeless_trials_are_pruned_unless_told_otherwise(
    pruner: str,
    pruned: int,
    tune: Tune,
    storage: str,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(studies, "_RANDOM_TRIALS", 1)
    assert tune("--trials", "4", "--search", HOPELESS, "--head_lr", "0.01", "--pruner", pruner,
                "--finetune_epochs", "3") == 0  # fmt: skip
    runs, trials = runs_of(experiment), study_at(storage)
    assert_exact(runs, trials, 4)
    states = ["complete", *["pruned" if pruned else "complete"] * 3]
    assert [studies.state(trial) for trial in trials] == states
    assert [len(trial.intermediate_values) for trial in trials[1:]] == [1 if pruned else 3] * 3
    share = f"{pruned} pruned ({pruned / 4:.0%})"
    parent = only(runs, "tune")
    assert note(parent).startswith(f"4 trials: {4 - pruned} complete, {share}, 0 failed.")
    assert parent.data.metrics["trials/pruned"] == pruned
    if pruned:
        assert note(only(runs, "trial-1")).startswith("**Pruned.** val/calibrated_loss ")
    rows = pd.read_csv(artifacts(parent) / "trials.csv")
    assert (rows["seconds"] > 0).all()
    assert list(rows["epochs"]) == [3, *[1 if pruned else 3] * 3]
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("trial ")]
    for number, (trial, line) in enumerate(zip(trials, lines, strict=True)):
        value = studies.value(trial)
        assert rows[CRITERION][number] == value
        assert line == (
            f"trial {number} {states[number]}: val/calibrated_loss {value:.4f}; "
            f"the best so far: trial 0, val/calibrated_loss {trials[0].value:.4f}"
        )


@pytest.mark.usefixtures("quick")
def test_hyperband_prunes_too(tune: Tune, storage: str, experiment: str) -> None:
    assert tune("--trials", "8", "--search", HOPELESS, "--head_lr", "0.01", "--pruner", "hyperband",
                "--finetune_epochs", "9") == 0  # fmt: skip
    trials = study_at(storage)
    assert_exact(runs_of(experiment), trials, 8)
    counts = Counter(studies.state(trial) for trial in trials)
    assert counts["pruned"] > 0
    assert studies.state(trials[0]) == "complete"


class Silent(Tracker):
    """Logs nowhere."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        pass


def test_hyperband_measures_others_against_the_default() -> None:
    config = Config.load(SMOKE, {"finetune_epochs": "9", "pruner": "hyperband"})
    # Which trials have rungs early goes by the name.
    study = optuna.create_study(study_name="s0", pruner=studies.pruner(config))
    study.enqueue_trial({}, user_attrs={DEFAULT: True})
    trial = study.ask()
    report = worker._reporter(config, trial, Silent("", ""))
    for epoch in range(9):
        report({CRITERION: 0.1}, epoch)
    study.tell(trial, 0.1)
    assert any("rung" in name for name in study.trials[0].system_attrs)


def test_the_pruner_judges_by_what_the_trial_would_score() -> None:
    config = Config.load(SMOKE, {"finetune_epochs": "4", "objective": "accuracy"})
    study = optuna.create_study(direction="maximize")
    report = worker._reporter(config, study.ask(), Silent("", ""))
    # The weights of the second epoch are kept, and of equal losses those of the first.
    for epoch, (loss, accuracy) in enumerate([(0.5, 0.9), (0.4, 0.8), (0.6, 1.0), (0.4, 1.0)]):
        report({CRITERION: loss, "val/accuracy": accuracy}, epoch)
    assert study.trials[0].intermediate_values == {0: 0.9, 1: 0.8, 2: 0.8, 3: 0.8}


@pytest.mark.parametrize("default", [True, False])
def test_the_default_is_never_pruned(default: bool) -> None:
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    study.add_trial(create_trial(value=0.1, intermediate_values={0: 0.1, 1: 0.1}))
    study.enqueue_trial({}, user_attrs={DEFAULT: True} if default else {})
    config = Config.load(SMOKE, {"finetune_epochs": "2"})
    report = worker._reporter(config, study.ask(), Silent("", ""))
    bad = {CRITERION: 9.0, "val/accuracy": 0.0}
    if default:
        report(bad, 0)
        report(bad, 1)
    else:
        with pytest.raises(optuna.TrialPruned, match=r"val/calibrated_loss 9\.0000 after 1 epoch$"):
            report(bad, 0)
        report(bad, 1)  # it is over: nothing would be saved


# ---- objectives


def ended(value: float | tuple[float, float], loss: float) -> FrozenTrial:
    values = list(value) if isinstance(value, tuple) else [value]
    return create_trial(values=values, user_attrs={studies.LOSS: loss})


@pytest.mark.parametrize(
    ("objective", "second", "trials", "best"),
    [
        ("loss", "none", [(0.5, 0.5), (0.3, 0.3), (0.4, 0.4)], 1),
        ("loss", "none", [(0.3, 0.3), (0.3, 0.3)], 0),
        ("accuracy", "none", [(0.8, 0.1), (0.9, 0.7), (0.7, 0.05)], 1),
        ("accuracy", "none", [(0.9, 0.7), (0.9, 0.6), (0.9, 0.65)], 1),
        ("accuracy", "seconds", [((0.9, 1.0), 0.7), ((0.9, 9.0), 0.6), ((0.8, 0.1), 0.1)], 1),
        ("loss", "latency", [((0.4, 1.0), 0.4), ((0.3, 9.0), 0.3)], 1),
    ],
)
def test_the_best_is_by_the_objective_then_by_the_loss_then_by_age(
    objective: str, second: str, trials: list[Any], best: int
) -> None:
    config = Config(objective=objective, second_objective=second)
    study = optuna.create_study(directions=studies.directions(config))
    assert studies.best(study) is None
    for value, loss in trials:
        study.add_trial(ended(value, loss))
    study.add_trial(create_trial(state=TrialState.FAIL))
    found = studies.best(study)
    assert found is not None
    assert found.number == best
    for value, loss in trials:
        first = value[0] if isinstance(value, tuple) else value
        leads = studies.leads(study, first, loss)
        assert leads == ((first, loss) == (found.values[0], found.user_attrs[studies.LOSS]))


def test_the_first_pictures_do_not_count_for_the_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of each picture the time is asked twice. With the first three the median would be 9.5 s.
    durations = [10.0, 10.0, 10.0, *map(float, range(1, 16))]
    times = iter([time for took in durations for time in (0.0, took)])
    monkeypatch.setattr("tlkit.search.trial.time.perf_counter", lambda: next(times))
    classifier = SimpleNamespace(
        model=torch.nn.Identity(),
        description=SimpleNamespace(preprocessing={"input_size": [3, 8, 8]}),
    )
    phase = SimpleNamespace(
        network=SimpleNamespace(classifier=classifier),
        machine=SimpleNamespace(device=torch.device("cpu")),
    )
    assert _latency(phase) == 8.0  # type: ignore[arg-type]


def test_objectives_are_taken_from_the_score() -> None:
    score = score_of(loss=0.5, accuracy=0.8, epoch=1, seconds=7.0, latency=0.02)
    config = Config()
    assert worker.objectives(config, score) == (0.5,)
    assert worker.objectives(replace(config, objective="accuracy"), score) == (0.8,)
    assert worker.objectives(replace(config, second_objective="seconds"), score) == (0.5, 7.0)
    assert worker.objectives(replace(config, second_objective="latency"), score) == (0.5, 0.02)


@pytest.mark.usefixtures("quick")
def test_the_best_by_accuracy_is_what_the_parent_names(
    tune: Tune, storage: str, experiment: str
) -> None:
    assert tune("--trials", "4", "--objective", "accuracy") == 0
    trials = study_at(storage)
    best = max(trials, key=lambda trial: trial.value)
    assert best.value == best.user_attrs[studies.ACCURACY]
    parent = only(runs_of(experiment), "tune")
    assert parent.data.tags["tlkit.best_trial"] == str(best.number)
    assert "The best by val/accuracy is trial" in note(parent)


@pytest.mark.usefixtures("quick")
def test_the_tags_of_the_best_are_of_this_best_alone(
    tune: Tune, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = json.dumps({"unfreeze_depth": [0, 1], "backbone_lr": {"low": 1e-5, "high": 1e-4}})
    best_depth: list[int] = []

    def trial(config: Config, *rest: Any, **options: Any) -> Score:
        score = stand_in_trial(config, *rest, **options)
        good = config.unfreeze_depth == best_depth[-1]
        return replace(score, loss=1 / len(best_depth) if good else 9.0)

    monkeypatch.setattr(worker, "train_trial", trial)
    own = ("--search", search, "--unfreeze_depth", "1", "--pruner", "none")
    for depth, trials in ((1, "1"), (0, "5")):
        best_depth.append(depth)
        assert tune("--trials", trials, *own) == 0
        tags = only(runs_of(experiment), "tune").data.tags
        assert tags["tlkit.best.unfreeze_depth"] == str(depth)
        assert ("tlkit.best.backbone_lr" in tags) == (depth > 0)


@pytest.mark.filterwarnings("error:.*multivariate")
def test_a_second_objective_gives_a_pareto_front_and_prunes_nothing(
    tune: Tune,
    storage: str,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(conclude, "run_phase", stand_in_phase)
    monkeypatch.setattr(worker, "train_trial", stand_in_trial)
    monkeypatch.setattr(studies, "_RANDOM_TRIALS", 1)
    assert tune("--trials", "4", "--second_objective", "seconds") == 0
    runs, trials = runs_of(experiment), study_at(storage)
    assert_exact(runs, trials, 4)
    assert {studies.state(trial) for trial in trials} == {"complete"}
    assert [len(trial.values) for trial in trials] == [2] * 4
    assert len({trial.values[1] for trial in trials}) == 4
    names = {path.name for path in artifacts(only(runs, "tune")).glob("*.png")}
    assert names == {*FIGURES, "pareto_front.png"} - {"intermediate_values.png"}
    assert "![pareto_front.png]" in note(only(runs, "tune"))
    rows = pd.read_csv(artifacts(only(runs, "tune")) / "trials.csv")
    assert list(rows["second objective"]) == [trial.values[1] for trial in trials]
    assert list(rows["epochs"]) == [Config.load(SMOKE, {}).finetune_epochs] * 4
    best = {int(rows[CRITERION].idxmin()), int(rows["second objective"].idxmin())}
    front = rows[rows["on the front"]]
    assert best <= set(front.index)
    told = [
        f"trial {number} ({CRITERION} {row[CRITERION]:.4f}, {row['second objective']:.3g} s)"
        for number, row in front.sort_values(CRITERION).iterrows()
    ]
    sentence = f" On the front: {', '.join(told)}."
    assert sentence in note(only(runs, "tune"))
    assert sentence in capfd.readouterr().out


def test_importances_and_colours_are_of_what_is_good() -> None:
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.add_trial(create_trial(values=[0.5, 1.0]))  # the default, of a space without it

    def near_the_top_one_key_decides_near_the_bottom_the_other(
        trial: optuna.Trial,
    ) -> tuple[float, float]:
        lifts, sinks = trial.suggest_float("lifts", 0, 1), trial.suggest_float("sinks", 0, 1)
        return max(0, lifts - 0.7) - max(0, sinks - 0.7), 1.0

    study.optimize(near_the_top_one_key_decides_near_the_bottom_the_other, n_trials=100)
    options = figures._options(study, "param_importances", "val/accuracy")
    del options["target_name"]
    with pytest.warns(UserWarning, match="to achieve low `target` values"):
        found = optuna.importance.get_param_importances(study, **options)
    assert found["lifts"] > 2 * found["sinks"]
    assert "target" not in figures._options(study, "parallel_coordinate", "val/accuracy")
    assert figures._enough(study, "param_importances")


# ---- budget


@pytest.mark.usefixtures("quick")
def test_after_the_timeout_no_trial_begins_and_nothing_is_lost(
    tune: Tune, storage: str, experiment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tune("--trials", "3", "--timeout", "1e-6") == 2
    error = capfd.readouterr().err
    assert "no trial came to its end in the time given; raise timeout" in error
    assert [studies.state(trial) for trial in study_at(storage)] == ["waiting"]
    assert only(runs_of(experiment), "tune").info.status == "FAILED"
    assert tune("--trials", "2") == 0
    assert only(runs_of(experiment), "tune").info.status == "FINISHED"
    assert tune("--trials", "4", "--timeout", "1e-6") == 0
    assert "2 trials: 2 complete" in capfd.readouterr().out
    assert_exact(runs_of(experiment), study_at(storage), 2)
    assert tune("--trials", "4") == 0
    assert_exact(runs_of(experiment), study_at(storage), 4)


@pytest.mark.usefixtures("quick")
def test_a_trial_that_another_command_ended_meanwhile_is_considered(
    tune: Tune, storage: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    better: list[int] = []

    def phase(*arguments: Any, **options: Any) -> PhaseResult:
        """Another command's last trial ends while we train for good; the lock is ours."""
        if not better:
            (name,) = optuna.get_all_study_names(storage)
            study = optuna.load_study(study_name=name, storage=storage)
            facts = {studies.LOSS: 0.0, studies.ACCURACY: 1.0, studies.SECONDS: 1.0}
            study.add_trial(create_trial(value=0.0, user_attrs=facts))
            better.append(study.trials[-1].number)
        return stand_in_phase(*arguments, **options)

    monkeypatch.setattr(conclude, "run_phase", phase)
    assert tune("--trials", "2") == 0
    runs = runs_of(experiment)
    parent = only(runs, "tune")
    assert parent.data.tags["tlkit.best_trial"] == str(better[0])
    assert note(parent).startswith("3 trials: 3 complete")
    finals = Counter(run.data.tags["tlkit.trial"] for run in named(runs, "finetune"))
    assert finals[str(better[0])] == 1
    assert set(finals.values()) == {1}
    study, number = optuna.get_all_study_names(storage)[0], better[0]
    roles = {run.data.tags["tlkit.trial"]: note(run).strip() for run in named(runs, "finetune")}
    assert roles == {
        "0": f"The default configuration of study {study}, trial 0.",
        "1": f"Before trial {number} the best configuration of study {study}, trial 1.",
        str(number): f"The best configuration of study {study}, trial {number}.",
    }


def test_what_a_trial_trained_and_somebody_deleted_is_trained_again(
    tune: Tune, experiment: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    taken: list[AlreadyTrained | None] = []

    def phase(*_: object, trained: AlreadyTrained | None, **__: object) -> PhaseResult:
        taken.append(trained)
        raise UserError("killed before it was logged")

    monkeypatch.setattr(conclude, "run_phase", phase)
    monkeypatch.setattr(conclude, "write_figures", lambda *_: {})
    assert tune("--trials", "1") == 2
    trial = only(runs_of(experiment), "trial-0")
    shutil.rmtree(artifacts(trial) / "trained")
    assert tune("--trials", "1") == 2
    assert taken[0] is not None
    assert taken[1] is None
    told = capfd.readouterr().err
    assert f"what trial 0 trained cannot be had from trained of its run {trial.info.run_id}" in told
