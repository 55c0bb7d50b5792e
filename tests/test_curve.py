"""`-e curve`, and training on a share of the pictures."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from conftest import Entry, MakeFolder

import tlkit.phases.train
from tlkit.config import Config
from tlkit.data.manifest import Manifest, Picture
from tlkit.evidence import curve
from tlkit.runs.prepare import prepare_data
from tlkit.summary import PhaseResult
from tlkit.training.batches import epoch_batches


def manifest(count: int) -> Manifest:
    pictures = [
        Picture(f"{split}/{index}", index % 3, split, f"{split}{index:064d}")
        for split in ("train", "val")
        for index in range(count)
    ]
    return Manifest(Path(), ("a", "b", "c"), tuple(pictures))


def test_a_share_is_stratified_and_holds_the_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = manifest(90)
    walks, of = [], Manifest.of
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "of", lambda self, split: walks.append(split) or of(self, split))
        some, more = whole.thinned(0.1, 0), whole.thinned(0.5, 0)
    assert len(walks) == 2 * 3  # and not one more for each class
    assert some.counts()["train"] == {"a": 3, "b": 3, "c": 3}
    assert set(some.of("train")) < set(more.of("train")) < set(whole.of("train"))
    assert some.of("val") == whole.of("val")
    assert whole.thinned(0.1, 1).of("train") != some.of("train")
    renamed = [replace(picture, path=f"new {picture.path[::-1]}") for picture in whole.pictures]
    drawn = replace(whole, pictures=tuple(renamed)).thinned(0.1, 0).of("train")
    assert {p.sha256 for p in drawn} == {p.sha256 for p in some.of("train")}
    assert whole.thinned(0.001, 0).counts()["train"] == {"a": 1, "b": 1, "c": 1}
    assert whole.thinned(1.0, 5).digest == whole.digest


@pytest.mark.parametrize(("fraction", "passes"), [(1, 1), (0.5, 2), (0.1, 10), (1e-6, 30)])
def test_an_epoch_keeps_its_length_however_few_pictures_are_left(
    fraction: float, passes: int
) -> None:
    assert manifest(90).thinned(fraction, 0).passes == passes


def test_a_share_is_trained_on_in_more_passes(
    entry: Entry, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set()

    def spy(count: int, size: int, seed: int, epoch: int, passes: int) -> list[list[int]]:
        asked.add((count, passes))
        return epoch_batches(count, size, seed, epoch, passes)

    monkeypatch.setattr(tlkit.phases.train, "epoch_batches", spy)
    assert entry("head", "--data", str(make_folder()), "--train_fraction", "0.25") == 0
    assert asked == {(6, 4)}


def test_repeats_of_a_share_have_the_pictures_that_their_configuration_names(
    entry: Entry, make_folder: MakeFolder
) -> None:
    pictures = str(make_folder())
    words = ["--data", pictures, "--train_fraction", "0.5", "--seeds", "2", "--head_epochs", "1"]
    assert entry("head", *words) == 0
    runs = mlflow.search_runs(output_format="list")
    (parent,) = (run for run in runs if run.info.run_name == "head-seeds")
    children = [run for run in runs if run is not parent]
    assert {run.data.params["seed"] for run in children} == {"0", "1"}
    for run in children:
        path = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path="config.yaml"
        )
        again = prepare_data(Config.load(Path(path), {})).manifest.digest
        assert again == run.data.tags["tlkit.data_digest"]


def test_passes_show_each_picture_equally_often() -> None:
    batches = epoch_batches(10, 8, 0, 3, passes=4)
    flat = [index for batch in batches for index in batch]
    assert sorted(flat) == sorted(list(range(10)) * 4)
    assert epoch_batches(10, 8, 0, 3, passes=1) == epoch_batches(10, 8, 0, 3)


def test_a_curve_is_a_point_for_each_phase_and_share(
    entry: Entry, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = str(make_folder())
    shares = "1, 0.5, 0.49, 0.48"  # the last three of which are the same 6 pictures a class
    assert entry("curve", "--data", pictures, "--fractions", shares, "--head_lr", "0.02") == 0
    said = capsys.readouterr().out
    assert "; see the intervals." in said
    assert "just the pictures of a larger one: 0.49, 0.48." in said
    assert "intervals for the chance of the test pictures (Wilson)" in said
    runs = {run.info.run_id: run for run in mlflow.search_runs(output_format="list")}
    (parent,) = (run for run in runs.values() if run.info.run_name == "curve")
    children = [run for run in runs.values() if run is not parent]
    assert sorted((run.info.run_name, run.data.params["train_fraction"]) for run in children) == [
        ("baseline", "0.5"), ("baseline", "1.0"), ("head", "0.5"), ("head", "1.0"),
    ]  # fmt: skip
    path = mlflow.artifacts.download_artifacts(run_id=parent.info.run_id, artifact_path="curve.csv")
    points = pd.read_csv(path)
    assert list(points["pictures"]) == [12, 12, 24, 24]
    for point in points.itertuples():
        wanted = [
            run.data.metrics["test/accuracy"]
            for run in children
            if run.info.run_name == point.phase
            and float(run.data.params["train_fraction"]) == point.pictures / 24
        ]
        assert [point.accuracy] == pytest.approx(wanted)
        assert point.low <= point.accuracy <= point.high
    full = [run for run in children if run.data.params["train_fraction"] == "1.0"]
    assert {run.data.tags["tlkit.data_digest"] for run in full} == {
        parent.data.tags["tlkit.data_digest"]
    }
    names = [one.path for one in mlflow.MlflowClient().list_artifacts(parent.info.run_id)]
    assert names == ["curve.csv", "curve.png"]


def test_intervals_of_several_seeds_are_called_those_of_the_mean(
    entry: Entry, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    one = {"test/accuracy": 0.775, "test/accuracy_low": 0.7, "test/accuracy_high": 0.8}
    monkeypatch.setattr(curve, "run_phase", lambda phase, *_, **__: PhaseResult(phase, "1", one))
    assert entry("curve", "--data", str(make_folder()), "--seeds", "2", "--fractions", "1") == 0
    said = capsys.readouterr().out
    assert "0.775 to 0.775" in said
    of_mean = (
        "intervals of the mean over 2 seeds (Student), without the chance of the test pictures"
    )
    assert of_mean in said
    [run] = mlflow.search_runs(output_format="list", max_results=1)
    assert of_mean in run.data.tags["mlflow.note.content"]


def test_a_share_for_one_training_is_refused_and_so_is_nonsense(
    entry: Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry("curve", "--train_fraction", "0.5") == 2
    assert "fractions" in capsys.readouterr().err
    for wrong in ("0", "1.5", "a, 1", ""):
        assert entry("curve", "--fractions", wrong) == 2
        assert "fractions=" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["suite", "curve"])
def test_what_a_later_phase_cannot_have_is_refused_before_the_first(
    command: str,
    entry: Entry,
    experiment: str,
    make_folder: MakeFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert entry(command, "--data", str(make_folder()), "--weights", "nowhere.safetensors") == 2
    assert "nowhere.safetensors" in capsys.readouterr().err
    (run,) = mlflow.search_runs([experiment], output_format="list")
    assert run.info.run_name == command


def test_a_head_that_never_does_as_well_is_told_with_the_same_caution() -> None:
    curves = {"baseline": [(20, 0.683, 0.6, 0.7)], "head": [(20, 0.6, 0.5, 0.7)]}
    assert curve._said(curves).endswith("0.683 on 20 pictures; see the intervals.")
