"""What finetune keeps: the best point between the weights it began with and its best epoch's."""

import shutil
from collections.abc import Callable, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from conftest import SMOKE, Entry, MakeFolder, make_pictures
from safetensors.torch import load_file

from tlkit.config import Config
from tlkit.phases.machine import machine_for
from tlkit.phases.prepare import Phase, prepare_phase
from tlkit.phases.train import Trained, train_phase
from tlkit.runs.prepare import prepare_data
from tlkit.search.trial import train_trial
from tlkit.summary import at_its_best
from tlkit.training.checkpoints import load_checkpoint, load_result
from tlkit.training.interpolation import between, judged
from tlkit.training.loop import CRITERION, SHARE, Result
from tlkit.training.progress import Progress

State = dict[str, torch.Tensor]


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def two_states() -> tuple[State, State]:
    generator = torch.Generator().manual_seed(0)
    begun, ended = ({"weight": torch.randn(5, 7, generator=generator)} for _ in range(2))
    return begun | {"batches": torch.tensor(3)}, ended | {"batches": torch.tensor(8)}


def test_points_lie_on_the_line_and_end_where_it_ends() -> None:
    begun, ended = two_states()
    assert torch.equal(between(begun, ended, 0)["weight"], begun["weight"])
    assert same(between(begun, ended, 1), ended)
    for share in (0.25, 0.5, 0.8):
        found = between(begun, ended, share)
        first, last = (state["weight"].double().numpy() for state in (begun, ended))
        np.testing.assert_allclose(found["weight"], (1 - share) * first + share * last, atol=1e-6)
        assert found["weight"].dtype == torch.float32
        assert int(found["batches"]) == 8


def test_points_are_judged_with_their_weights_in_the_network() -> None:
    begun, ended = two_states()
    loaded: list[Mapping[str, torch.Tensor]] = []
    points = list(judged(begun, ended, 4, loaded.append, lambda: {"loaded": float(len(loaded))}))
    assert points == [{SHARE: step / 4, "loaded": step + 1.0} for step in range(4)]
    assert all(same(loaded[step], between(begun, ended, step / 4)) for step in range(4))


def test_the_lowest_is_kept_and_of_equals_what_was_trained_most() -> None:
    result = Result([{"epoch": 0, CRITERION: 0.5}, {"epoch": 1, CRITERION: 0.4}], 1, 1.0)
    assert result.line == []
    assert result.kept == {"epoch": 1, CRITERION: 0.4, SHARE: 1.0}
    for losses, share in (([0.6, 0.4], 1.0), ([0.3, 0.3], 0.5), ([0.3, 0.39], 0.0)):
        points = [{SHARE: 0.0, CRITERION: losses[0]}, {SHARE: 0.5, CRITERION: losses[1]}]
        tried = result.with_points(points, 2.0)
        assert (tried.kept[SHARE], tried.seconds) == (share, 3.0)
        assert [point[SHARE] for point in tried.line] == [0.0, 0.5, 1.0]


def phase_of(pictures: Path, name: str = "finetune", **settings: Any) -> Phase:
    own = {"finetune_epochs": 3, "unfreeze_depth": 2, "precision": "fp32", "data": str(pictures)}
    config = Config.load(SMOKE, {**own, **settings})
    return prepare_phase(name, config, prepare_data(config).manifest, machine_for(config))


def say(losses: list[float], monkeypatch: pytest.MonkeyPatch, asked: Callable[[], object]) -> None:
    """Have the validation say these losses, and then 9, and call `asked` each time."""
    given = chain(losses, repeat(9.0))

    def metrics(*_: object) -> dict[str, float]:
        asked()
        loss = next(given)
        return {"val/loss": loss, CRITERION: loss, "val/accuracy": loss / 10}

    monkeypatch.setattr("tlkit.phases.train.validation_metrics", metrics)


def trained_with(
    phase: Phase, folder: Path, losses: list[float], monkeypatch: pytest.MonkeyPatch
) -> tuple[Trained, list[State]]:
    """A training whose validation says these losses, and the weights at each."""
    states: list[State] = []

    def asked() -> None:
        states.append({name: value.clone() for name, value in phase.network.state().items()})

    say(losses, monkeypatch, asked)
    folder.mkdir()
    return train_phase(phase, log=lambda *_: None, checkpoints=folder), states


@pytest.mark.parametrize(("points", "share"), [([5, 0.5, 0.7, 1], 0.25), ([5, 4, 3, 2], 1.0)])
def test_finetune_is_left_with_the_best_point(
    points: list[float], share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = phase_of(make_pictures(tmp_path / "some"))
    begun = {name: value.clone() for name, value in phase.network.state().items()}
    folder = tmp_path / "checkpoints"
    trained, states = trained_with(phase, folder, [3, 1, 2, *points], monkeypatch)
    assert len(states) == 7
    wanted = between(begun, states[1], share)
    assert not same(begun, states[1])
    assert same(phase.network.state(), wanted)
    best, facts = load_checkpoint(folder / "best")
    assert same(best, wanted)
    assert (facts["epoch"], facts["metrics"][CRITERION]) == (1, min(1, *points))
    assert facts["metrics"].get(SHARE, 1.0) == share
    assert (trained.result.best_epoch, trained.result.kept[SHARE]) == (1, share)
    assert load_result(folder) == trained.result


@pytest.mark.parametrize(
    ("name", "settings"), [("finetune", {"interpolation": 0}), ("head", {"head_epochs": 3})]
)
def test_no_point_is_tried_where_none_is_asked_for(
    name: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = phase_of(make_pictures(tmp_path / "some"), name, **settings)
    trained, states = trained_with(phase, tmp_path / "checkpoints", [3, 1, 2], monkeypatch)
    assert len(states) == 3
    assert same(phase.network.state(), states[1])
    assert trained.result.points == []


@pytest.mark.parametrize(
    ("epoch", "share", "said"),
    [
        (0, 1.0, "after 1 epoch"),
        (4, 1.0, "after 5 epochs"),
        (4, 0.75, "75 % of the way from where it began to where it was after 5 epochs"),
        (4, 0.0, "as it began"),
    ],
)
def test_a_description_says_where_the_weights_lie(epoch: int, share: float, said: str) -> None:
    assert at_its_best(epoch, share) == said


def test_a_trial_scores_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = make_pictures(tmp_path / "some")
    config = Config.load(SMOKE, {"finetune_epochs": 3, "data": str(pictures)})
    asked: list[None] = []
    of_head, of_epochs, of_points = [3.0, 2.0], [3.0, 1.0, 2.0], [5.0, 0.5, 0.7, 1.0]
    say([*of_head, *of_epochs, *of_points], monkeypatch, lambda: asked.append(None))
    manifest = prepare_data(config).manifest
    score = train_trial(config, manifest, lambda *_: None, tmp_path / "trial")
    assert (score.loss, score.accuracy, score.epoch, score.share) == (0.5, 0.05, 1, 0.25)
    assert len(asked) == 9


def test_a_ruinous_rate_leaves_the_head_that_finetune_began_from(
    make_folder: MakeFolder, entry: Entry, experiment: str
) -> None:
    data = ("--data", str(make_folder()), "--precision", "fp32", "--head_epochs", "8")
    ruinous = (*data, "--backbone_lr", "1", "--head_lr", "0.02", "--warmup_epochs", "0")
    assert entry("finetune", *ruinous) == 0
    client = mlflow.MlflowClient()
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    head, finetune = (runs[name].data.metrics for name in ("head", "finetune"))
    assert finetune["val/best_interpolation"] == 0
    for name in ("val/best_calibrated_loss", "test/loss", "test/accuracy"):
        assert finetune[name] == pytest.approx(head[name], abs=1e-4)
    run_id = runs["finetune"].info.run_id
    line = client.get_metric_history(run_id, "interpolation/loss")
    assert [point.step for point in line] == [0, 25, 50, 75, 100]
    assert min(point.value for point in line) == finetune["val/best_calibrated_loss"]
    epochs = client.get_metric_history(run_id, "val/calibrated_loss")
    assert min(point.value for point in epochs) == line[-1].value
    assert line[-1].value > line[0].value


def test_an_interruption_before_the_points_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = make_pictures(tmp_path / "some")
    learns = {"backbone_lr": 0.01, "head_lr": 0.01}

    def train(name: str, progress: Progress | None = None) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        (tmp_path / name).mkdir()
        phase = phase_of(pictures, **learns)
        train_phase(phase, log=lambda *_: None, checkpoints=tmp_path / name, progress=progress)
        return tmp_path / name / "best.safetensors"

    whole = train("whole")
    kept = tmp_path / "progress.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("tlkit.phases.train.judged", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("again", Progress(kept, "a run"))
    again = train("again", Progress(kept, "another"))
    assert "goes on after epoch 3 of 3" in capsys.readouterr().err
    assert same(load_file(whole), load_file(again))
    results = [load_result(path.parent) for path in (whole, again)]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0].points == results[1].points
    assert results[0].history == results[1].history


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt
