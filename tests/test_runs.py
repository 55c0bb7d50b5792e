"""The entry points on tiny pictures: what each run leaves in MLflow, and what it claims."""

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from conftest import SMOKE, Entry, MakeFolder, make_pictures, run_entry
from filelock import FileLock
from mlflow.entities import Run
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from sklearn.utils.class_weight import compute_class_weight

from tlkit.config import Config
from tlkit.features.prefix import Prefix
from tlkit.models.units import units
from tlkit.phases import train
from tlkit.phases.prepare import Phase
from tlkit.phases.train import Trained, train_phase
from tlkit.runs.artifacts import samples
from tlkit.runs.suite import run_repeats
from tlkit.summary import PhaseResult, report
from tlkit.tracking.run import start_run
from tlkit.training.loop import Objective

ARTIFACTS = {
    "config.yaml",
    "history.json",
    "curves.png",
    "confusion_matrix.png",
    "confusion_matrix.json",
    "classification_report.json",
    "predictions.csv",
    "gradcam.png",
    "mistakes.png",
    "data/manifest.csv",
    "data/audit.json",
    "data/samples.png",
    "environment.json",
    "checkpoints/best.safetensors",
    "checkpoints/best.json",
    "checkpoints/last.safetensors",
    "checkpoints/last.json",
}
ONCE = (
    "val/best_accuracy",
    "test/accuracy",
    "test/precision",
    "test/recall",
    "test/f1",
    "test/loss",
    "test/ece",
    "test/auroc",
    "time/prefix_seconds",
    "time/train_seconds",
    "time/total_seconds",
)
PER_EPOCH = (
    *("train/loss", "train/accuracy"),
    *("val/loss", "val/calibrated_loss", "val/accuracy"),
    "lr/head",
)
EPOCHS = {"baseline": 1, "head": 2, "finetune": 1}


def runs_of(experiment: str) -> list[Run]:
    return mlflow.search_runs([experiment], output_format="list", order_by=["start_time ASC"])


def by_name(experiment: str) -> dict[str, Run]:
    return {run.info.run_name: run for run in runs_of(experiment)}


def named(experiment: str, name: str) -> list[Run]:
    return [run for run in runs_of(experiment) if run.info.run_name == name]


def artifacts(run: Run) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Run], Path]:
    """The runs of one suite by name, and the pictures it ran on."""
    folder = tmp_path_factory.mktemp("suite")
    experiment = mlflow.set_experiment("suite").experiment_id
    pictures = make_pictures(folder / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(folder / "cache"))
        assert run_entry("suite", "--data", str(pictures), "--head_lr", "0.01") == 0
    assert not list((folder / "cache" / "runs").iterdir())
    return by_name(experiment), pictures


@pytest.mark.parametrize("phase", ["baseline", "head", "finetune"])
def test_each_phase_leaves_what_the_contract_lists(
    suite: tuple[dict[str, Run], Path], phase: str
) -> None:
    run = suite[0][phase]
    assert run.info.status == "FINISHED"
    assert set(ONCE) <= set(run.data.metrics)
    assert run.data.tags["tlkit.phase"] == phase
    assert len(run.data.tags["tlkit.data_digest"]) == 32
    folder = artifacts(run)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found >= ARTIFACTS
    assert any(path.startswith("gradcam/") and path.endswith(".png") for path in found)
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            picture.verify()
    client = mlflow.MlflowClient()
    names = [*PER_EPOCH, *(["lr/backbone"] if phase == "finetune" else [])]
    for name in names:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert steps == list(range(EPOCHS[phase])), name
    assert ("lr/backbone" in run.data.metrics) == (phase == "finetune")


def test_each_phase_trains_by_its_own_rates(suite: tuple[dict[str, Run], Path]) -> None:
    rates = {phase: run.data.metrics for phase, run in suite[0].items()}
    assert rates["baseline"]["lr/head"] == Config().baseline_lr == 0.001
    assert rates["head"]["lr/head"] == rates["finetune"]["lr/head"] == 0.01
    assert rates["finetune"]["lr/backbone"] == Config().backbone_lr == 3e-4


def test_classes_count_in_inverse_to_their_size_where_that_is_wanted(
    entry: Entry, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, given = make_folder(), []
    for path in sorted((folder / "train" / "dog").iterdir())[3:]:
        path.unlink()

    def objective(label_smoothing: float, class_weights: torch.Tensor | None) -> Objective:
        given.append(class_weights)
        return Objective(label_smoothing, class_weights)

    monkeypatch.setattr("tlkit.phases.train.Objective", objective)
    for wanted in ("none", "balanced"):
        assert entry("head", "--data", str(folder), "--class_weights", wanted) == 0
    labels = np.repeat([0, 1], [12, 3])
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    assert given[0] is None
    np.testing.assert_allclose(given[1], expected, rtol=1e-6)


def test_phases_are_children_of_the_suite_on_the_same_data(
    suite: tuple[dict[str, Run], Path],
) -> None:
    runs, _ = suite
    assert set(runs) == {"suite", "baseline", "head", "finetune"}
    parent = runs["suite"].info.run_id
    digests = {run.data.tags["tlkit.data_digest"] for run in runs.values()}
    assert len(digests) == 1
    for phase in EPOCHS:
        assert runs[phase].data.tags["mlflow.parentRunId"] == parent
        dataset = runs[phase].inputs.dataset_inputs[0].dataset
        assert dataset.digest == digests.copy().pop()
    assert runs["finetune"].data.tags["tlkit.init_from"] == runs["head"].info.run_id
    assert "| finetune |" in runs["suite"].data.tags["mlflow.note.content"]


def test_effective_values_are_logged_as_params(suite: tuple[dict[str, Run], Path]) -> None:
    run = suite[0]["head"]
    config = yaml.safe_load((artifacts(run) / "config.yaml").read_text())
    assert config["head_lr"] == 0.01
    assert config["backbone"] == "test_resnet"
    assert {key: str(value) for key, value in config.items()} == run.data.params


def test_the_description_tells_the_result_and_shows_a_picture(
    suite: tuple[dict[str, Run], Path],
) -> None:
    run = suite[0]["finetune"]
    note = run.data.tags["mlflow.note.content"]
    assert f"{run.data.metrics['test/accuracy']:.3f}" in note
    assert "95 % interval" in note
    assert "at its best after 1 epoch.\n" in note
    assert f"get-artifact?path=gradcam.png&run_uuid={run.info.run_id}" in note


def test_metrics_and_description_are_those_of_the_best_epoch_and_not_of_the_last(
    make_folder: MakeFolder, entry: Entry, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loss without temperature says another epoch.
    said = iter([(0.5, 3.0, 0.25), (2.0, 1.0, 0.5), (4.0, 2.0, 0.75)])
    monkeypatch.setattr(
        "tlkit.phases.train.validation_metrics",
        lambda *_: dict(zip(PER_EPOCH[2:5], next(said), strict=True)),
    )
    assert entry("head", "--data", str(make_folder()), "--head_epochs", "3") == 0
    run = by_name(experiment)["head"]
    names = ("val/best_calibrated_loss", "val/best_accuracy", "val/best_epoch")
    assert [run.data.metrics[name] for name in names] == [1.0, 0.5, 1]
    assert run.data.metrics["val/loss"] == 4.0
    assert "at its best after 2 epochs.\n" in run.data.tags["mlflow.note.content"]


def test_heat_maps_are_tested_alike_where_the_network_cannot_be_compiled(
    make_folder: MakeFolder,
    entry: Entry,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no such operator\nhere")

    data = str(make_folder())
    assert entry("head", "--data", data, "--head_lr", "0.01") == 0
    assert "uncompiled" not in capsys.readouterr().err
    monkeypatch.setattr("tlkit.heat_maps.with_onnxruntime", fail)
    assert entry("head", "--data", data, "--head_lr", "0.01") == 0
    said = capsys.readouterr().err
    assert "heat maps are tested uncompiled, for compiling failed: no such operator here\n" in said
    compiled, plain = (
        json.loads((artifacts(run) / "gradcam_check.json").read_text())
        for run in runs_of(experiment)
    )
    for name in ("similarity", "deletion", "deletion_random", "insertion", "insertion_random"):
        np.testing.assert_allclose(compiled[name], plain[name], rtol=0, atol=2e-4)


@pytest.mark.parametrize("phase", ["baseline", "head", "finetune"])
def test_the_model_gives_the_probabilities_of_the_evaluation_from_bytes_without_pickle(
    suite: tuple[dict[str, Run], Path], phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, pictures = suite
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model = mlflow.pyfunc.load_model(f"runs:/{runs[phase].info.run_id}/model")
    table = pd.read_csv(artifacts(runs[phase]) / "predictions.csv")
    assert list(table.columns) == [
        "path", "label", "predicted", "probability_cat", "probability_dog"
    ]  # fmt: skip
    content = [(pictures / path).read_bytes() for path in table["path"]]
    answer = model.predict(pd.DataFrame({"image": content}))
    assert list(answer["predicted"]) == list(table["predicted"])
    columns = ["probability_cat", "probability_dog"]
    np.testing.assert_allclose(answer[columns], table[columns], rtol=0, atol=1e-5)
    folder = Path(mlflow.artifacts.download_artifacts(f"runs:/{runs[phase].info.run_id}/model"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pt", ".pth")]
    assert (folder / "artifacts").exists()


def test_metrics_agree_with_the_predictions(suite: tuple[dict[str, Run], Path]) -> None:
    run = suite[0]["head"]
    table = pd.read_csv(artifacts(run) / "predictions.csv")
    assert len(table) == 12
    right = (table["label"] == table["predicted"]).mean()
    assert run.data.metrics["test/accuracy"] == pytest.approx(right)
    truth = np.where(table["label"] == "cat", table["probability_cat"], table["probability_dog"])
    assert run.data.metrics["test/loss"] == pytest.approx(-np.log(truth).mean(), rel=1e-6)
    matrix = json.loads((artifacts(run) / "confusion_matrix.json").read_text())["matrix"]
    assert np.trace(matrix) / np.sum(matrix) == pytest.approx(right)
    abstaining = json.loads((artifacts(run) / "calibration.json").read_text())
    for split, accuracy in (("validation", "val/best_accuracy"), ("test", "test/accuracy")):
        nothing = abstaining[f"abstain_on_{split}"][0]
        assert (nothing["threshold"], nothing["answered"]) == (0, 1)
        assert nothing["accuracy"] == pytest.approx(run.data.metrics[accuracy])


def test_the_head_moves_nothing_else_and_finetune_moves_the_top(
    suite: tuple[dict[str, Run], Path],
) -> None:
    def weights(phase: str) -> dict[str, np.ndarray]:
        uri = f"runs:/{suite[0][phase].info.run_id}/model"
        folder = Path(mlflow.artifacts.download_artifacts(uri))
        return load_file(next(folder.rglob("model.safetensors")))

    head, finetuned = weights("head"), weights("finetune")
    moved = {name for name in head if not np.array_equal(head[name], finetuned[name])}
    assert any(name.startswith("fc.") for name in moved)
    assert any(name.startswith("layer4.") for name in moved)
    assert not {name for name in moved if name.startswith(("conv1", "bn1", "layer1", "layer2"))}
    checkpoint = load_file(artifacts(suite[0]["head"]) / "checkpoints" / "best.safetensors")
    assert {name.split(".")[0] for name in checkpoint} == {"fc"}


def test_cached_and_plain_engines_agree(
    make_folder: MakeFolder, entry: Entry, experiment: str
) -> None:
    common = ["--data", str(make_folder()), "--views", "2", "--head_epochs", "3",
              "--finetune_epochs", "3", "--precision", "fp32"]  # fmt: skip
    assert entry("finetune", *common) == 0
    cached = by_name(experiment)["finetune"]
    assert entry("finetune", *common, "--engine", "plain") == 0
    plain = [run for run in runs_of(experiment) if run.info.run_name == "finetune"][-1]
    assert plain.info.run_id != cached.info.run_id
    columns = ["probability_cat", "probability_dog"]
    first = pd.read_csv(artifacts(cached) / "predictions.csv")[columns]
    second = pd.read_csv(artifacts(plain) / "predictions.csv")[columns]
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-4)
    for name in ("test/loss", "val/best_calibrated_loss", "train/loss"):
        assert cached.data.metrics[name] == pytest.approx(plain.data.metrics[name], abs=1e-4)
    assert (
        plain.data.metrics["time/prefix_seconds"] == 0 < cached.data.metrics["time/prefix_seconds"]
    )


def test_the_same_command_twice_gives_the_same_bits(
    make_folder: MakeFolder, entry: Entry, experiment: str
) -> None:
    arguments = ["--data", str(make_folder()), "--finetune_epochs", "2", "--dropout", "0.5"]
    assert entry("finetune", *arguments, "--loader_workers", "0") == 0
    assert entry("finetune", *arguments, "--loader_workers", "2") == 0
    first, second = (run for run in runs_of(experiment) if run.info.run_name == "finetune")
    assert first.info.run_id != second.info.run_id

    def lasting(run: Run) -> dict[str, float]:
        kinds = ("train/", "val/", "test/", "lr/", "parameters/")
        return {k: v for k, v in run.data.metrics.items() if k.startswith(kinds)}

    assert lasting(first) == lasting(second)
    for name in ("best", "last"):
        path = f"checkpoints/{name}.safetensors"
        assert (artifacts(first) / path).read_bytes() == (artifacts(second) / path).read_bytes()


def test_finetune_trains_a_head_when_there_is_none_and_takes_it_when_there_is(
    make_folder: MakeFolder, entry: Entry, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ["--data", str(make_folder())]
    assert entry("finetune", *data) == 0
    runs = by_name(experiment)
    assert set(runs) == {"head", "finetune"}
    head = runs["head"].info.run_id
    assert runs["finetune"].data.tags["tlkit.init_from"] == head

    def only_heads(phase: Phase, **options: Any) -> Trained:
        if phase.name == "finetune":
            raise KeyboardInterrupt
        return train_phase(phase, **options)

    monkeypatch.setattr("tlkit.runs.phase.train_phase", only_heads)

    def begun_from(*arguments: str) -> str:
        assert entry("finetune", *data, *arguments) == 130
        newest = max(runs_of(experiment), key=lambda run: run.info.start_time * (
            run.info.run_name == "finetune"))  # fmt: skip
        return newest.data.tags["tlkit.init_from"]

    # What only finetune reads makes no difference; what the head was trained with does.
    assert begun_from("--backbone_lr", "0.01", "--unfreeze_depth", "1") == head
    assert begun_from("--head_epochs", "1") != head
    assert begun_from("--init_from", head, "--head_epochs", "1") == head
    # Deleted to save space: there is nothing left to begin from.
    (artifacts(mlflow.get_run(head)) / "checkpoints" / "best.safetensors").unlink()
    assert begun_from() != head


def test_finetune_refuses_the_head_of_another_network(
    make_folder: MakeFolder, entry: Entry, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(make_folder())]
    assert entry("head", *data) == 0
    head = by_name(experiment)["head"].info.run_id
    code = entry("finetune", *data, "--backbone", "test_efficientnet", "--init_from", head)
    assert code == 2
    assert "was trained with backbone test_resnet and this run has test_efficientnet" in (
        capsys.readouterr().err
    )
    assert entry("finetune", *data, "--init_from", "0123456789abcdef") == 2
    assert "no run 0123456789abcdef" in capsys.readouterr().err
    statuses = [run.info.status for run in runs_of(experiment) if run.info.run_name == "finetune"]
    assert statuses == ["FAILED", "FAILED"]


def test_a_head_that_failed_before_its_first_epoch_is_refused(
    make_folder: MakeFolder, entry: Entry, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(make_folder())]
    assert entry("head", *data, "--head_lr", "1e38") == 2
    head = by_name(experiment)["head"].info.run_id
    for command in ("finetune", "tune"):
        assert entry(command, *data, "--init_from", head) == 2
        said = capsys.readouterr().err
        assert f"error: init_from={head} has no checkpoint: it failed before" in said


def test_the_head_of_another_image_size_is_told_with_the_size(
    make_folder: MakeFolder, entry: Entry, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ["--data", str(make_folder()), "--backbone", "test_vit"]
    assert entry("head", *recipe) == 0
    head = by_name(experiment)["head"].info.run_id
    assert entry("finetune", *recipe, "--image_size", "32", "--init_from", head) == 2
    said = r"was trained with weights \w+ at image_size 64 and this run has \w+ at image_size 32; "
    assert re.search(said, capsys.readouterr().err)


def test_data_alone_is_audited_and_logged(
    make_folder: MakeFolder, entry: Entry, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(classes=("ant", "bee", "cow"))
    (folder / "train" / "bee" / "broken.jpg").write_bytes(b"no picture")
    assert entry("data", "--data", str(folder)) == 0
    run = by_name(experiment)["data"]
    report = json.loads((artifacts(run) / "data" / "audit.json").read_text())
    assert [item["path"] for item in report["quarantined"]] == ["train/bee/broken.jpg"]
    with (artifacts(run) / "data" / "manifest.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 72
    assert "train/bee/broken.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet", "test_convnext"])
def test_other_families_leave_the_whole_contract(
    backbone: str, make_folder: MakeFolder, entry: Entry, experiment: str
) -> None:
    arguments = ["--data", str(make_folder(classes=("ant", "bee", "cow"), counts=(6, 3, 3)))]
    assert entry("head", *arguments, "--backbone", backbone) == 0
    run = by_name(experiment)["head"]
    assert all((artifacts(run) / name).exists() for name in ARTIFACTS)
    assert set(ONCE) <= set(run.data.metrics)


def test_a_network_of_no_family_trains_where_grad_cam_finds_no_layer(
    make_folder: MakeFolder, entry: Entry, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its weights are tied besides.
    backbone = ("--backbone", "coat_lite_tiny", "--image_size", "64", "--unfreeze_depth", "1")
    assert entry("finetune", "--data", str(make_folder(counts=(4, 2, 2))), *backbone) == 0
    assert "this backbone has no heat maps" in capsys.readouterr().err
    run = by_name(experiment)["finetune"]
    assert run.info.status == "FINISHED"
    assert "test/accuracy" in run.data.metrics
    assert "Grad-CAM" not in run.data.tags["mlflow.note.content"]
    assert (artifacts(run) / "predictions.csv").exists()
    both = ",".join(one.info.run_id for one in by_name(experiment).values())
    assert entry("compare", "--runs", both, "--pictures", "3", "--timed", "1") == 0
    assert capsys.readouterr().err.count("this backbone has no heat maps") == 1


def test_a_network_with_three_dimensional_convolutions_trains(
    make_folder: MakeFolder, entry: Entry
) -> None:
    backbone = ("--backbone", "lambda_resnet26t", "--image_size", "64")
    assert entry("head", "--data", str(make_folder(counts=(4, 2, 2))), *backbone) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        "head_schedule=cosine label_smoothing=0.1 class_weights=balanced accumulate=2 batch_size=5 "
        "augment=trivial",
        "precision=bf16 finetune_schedule=plateau early_stopping=1 augment=none unfreeze_depth=0",
    ],
)
def test_each_option_trains(arguments: str, make_folder: MakeFolder, entry: Entry) -> None:
    words = (f"--{word}" for word in arguments.split())
    assert entry("finetune", "--data", str(make_folder(counts=(7, 3, 3))), *words) == 0


def test_finetune_takes_the_frozen_outputs_from_what_head_stored(
    suite: tuple[dict[str, Run], Path],
) -> None:
    runs, _ = suite
    assert runs["head"].data.metrics["features/hits"] == 0
    for phase, part in (("head", 36), ("finetune", 36)):
        assert runs[phase].data.metrics["features/wanted"] == part
        assert runs[phase].data.tags["features/decision"] == "store"
    assert runs["finetune"].data.metrics["features/hits"] == 36
    assert runs["finetune"].data.metrics["features/bytes"] > 0


def test_what_is_frozen_is_computed_once_for_the_test_too(
    make_folder: MakeFolder, entry: Entry, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ["--data", str(make_folder())]
    half = ["--precision", "bf16"]
    assert entry("head", *data, *half) == 0
    assert entry("finetune", *data, *half) == 0
    passed: list[torch.dtype] = []
    outputs = Prefix.outputs

    def recorded(self: Prefix, *arguments: Any) -> Iterator[torch.Tensor]:
        passed.append(self.dtype)
        return outputs(self, *arguments)

    monkeypatch.setattr(Prefix, "outputs", recorded)
    assert entry("head", *data, *half) == 0
    assert not passed
    assert entry("head", *data, "--engine", "plain") == 0
    first, again, plain = named(experiment, "head")
    tables = [(artifacts(run) / "predictions.csv").read_text() for run in (first, again)]
    assert tables[0] == tables[1]
    test = len(tables[0].splitlines()) - 1
    hits = [run.data.metrics.get("features/test_hits") for run in (first, again, plain)]
    assert hits == [0, test, None]
    assert by_name(experiment)["finetune"].data.metrics["features/test_hits"] == test
    assert first.data.tags["features/test_decision"] == "store"
    assert "features/test_decision" not in plain.data.tags


def test_head_stores_also_the_views_that_finetune_alone_will_train_on(
    make_folder: MakeFolder, entry: Entry, experiment: str
) -> None:
    arguments = ["--data", str(make_folder()), "--views", "3", "--finetune_epochs", "3"]
    assert entry("head", *arguments, "--head_epochs", "1") == 0
    assert entry("finetune", *arguments, "--head_epochs", "1") == 0
    runs = by_name(experiment)
    assert runs["head"].data.metrics["features/wanted"] == 24 + 12
    found = runs["finetune"].data.metrics
    assert found["features/hits"] == found["features/wanted"] == 3 * 24 + 12


def test_the_cache_is_shown_and_cleared(
    entry: Entry, make_folder: MakeFolder, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry("head", "--data", str(make_folder()), "--precision", "bf16") == 0
    capsys.readouterr()
    assert entry("cache") == 0
    shown = capsys.readouterr().out
    # The pooled features of three splits, and the cut that finetune will want.
    assert shown.count("test_resnet") == 6
    assert [shown.count(name) for name in ("bfloat16", " float32")] == [4, 2]
    assert "6 entries" in shown
    assert re.search(r"0\.\d MB of at most 1,074 MB on what the audit saw .*looks.sqlite\n", shown)
    assert (own_cache / "looks.sqlite").exists()
    entries = own_cache / "features"
    with FileLock(next(entries.glob("*/key.json")).parent.with_suffix(".lock")):  # as one fills it
        assert entry("cache", "--clear", "yes") == 0
    assert re.search(r"Freed 0\.\d MB\. 0\.\d MB stay: in use, or", capsys.readouterr().out)
    assert not (own_cache / "looks.sqlite").exists()
    assert entry("cache", "--clear", "yes") == 0
    assert re.search(r"Freed 0\.\d MB\.\n", capsys.readouterr().out)
    assert entry("cache") == 0
    assert "0 entries, 0.0 MB" in capsys.readouterr().out


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take the right to write under a folder away, as far as this user can."""
    if os.geteuid():
        before = {place: place.stat().st_mode for place in (folder, *folder.rglob("*"))}
        for place, mode in before.items():
            place.chmod(mode & ~0o222)
        try:
            yield
        finally:
            for place, mode in before.items():
                place.chmod(mode)
        return
    mount = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]  # rights do not bind root
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a folder read-only")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
def test_a_cache_that_can_only_be_read_is_enough(
    entry: Entry, make_folder: MakeFolder, experiment: str, own_cache: Path, tmp_path: Path
) -> None:
    data = ["--data", str(make_folder())]
    assert entry("head", *data) == 0
    (own_cache / "mlflow.lock").unlink()
    (tmp_path / "empty").mkdir()
    with read_only(own_cache), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        assert entry("finetune", *data) == 0
        assert by_name(experiment)["finetune"].data.metrics["features/hits"] == 36
        assert entry("finetune", *data, "--unfreeze_depth", "1") == 0
        latest = runs_of(experiment)[-1]
        assert latest.data.tags["features/decision"].startswith("recompute: ")
        denied = os.strerror(errno.EACCES if os.geteuid() else errno.EROFS)
        assert denied in latest.data.tags["features/decision"]
        assert denied in latest.data.tags["features/test_decision"]
        assert entry("cache", "--clear", "yes") == 0
    with read_only(tmp_path / "empty"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        patch.setenv("TLKIT_CACHE", str(tmp_path / "empty"))
        assert entry("head", *data) == 0


def test_what_was_begun_from_stays_in_what_is_begun_from_next(
    entry: Entry, experiment: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    weights = str(tmp_path / "weights.safetensors")
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    recipe = ("--data", str(make_folder()), "--weights", weights)
    still = ("--unfreeze_depth", "1", "--backbone_lr", "1e-12", "--head_lr", "1e-12")
    assert entry("finetune", *recipe, "--unfreeze_depth", "4", "--backbone_lr", "0.01") == 0
    for _ in range(2):
        latest = named(experiment, "finetune")[-1]
        assert entry("finetune", *recipe, *still, "--init_from", latest.info.run_id) == 0
    deep, second, third = (
        one.data.metrics["val/best_calibrated_loss"] for one in named(experiment, "finetune")
    )
    assert second == pytest.approx(deep, abs=1e-4)
    assert third == pytest.approx(deep, abs=1e-4)


def test_a_head_that_has_seen_the_test_pictures_is_refused(
    entry: Entry, experiment: str, make_folder: MakeFolder, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flat = tmp_path / "flat"
    shutil.copytree(make_folder(counts=(30, 1, 1)) / "train", flat)
    weights = str(tmp_path / "weights.safetensors")
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    recipe = ("--data", str(flat), "--weights", weights)
    assert entry("head", *recipe, "--data_seed", "0") == 0
    begun = ("--init_from", by_name(experiment)["head"].info.run_id)
    assert entry("finetune", *recipe, "--data_seed", "0", "--seed", "3", *begun) == 0
    for command in ("finetune", "tune"):
        assert entry(command, *recipe, "--data_seed", "1", *begun) == 2
        said = capsys.readouterr().err
        assert re.search(r"init_from=\w+ has seen \d+ of the \d+ (val|test) pictures", said)


def test_seeds_of_random_backbones_have_heads_of_their_own(
    entry: Entry, experiment: str, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ("--data", str(make_folder()), "--weights", "none")
    assert entry("finetune", *recipe, "--seeds", "2") == 0
    children = named(experiment, "finetune")
    begun = [child.data.tags["tlkit.init_from"] for child in children]
    assert len(set(begun)) == 2
    other = ("--data_seed", "0", "--seed", "1", "--init_from", begun[0])
    assert entry("finetune", *recipe, *other) == 2
    assert "was trained with weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "said_by"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB."),
        (torch.AcceleratorError, "CUDA error: out of memory\nCUDA kernel errors might be"),
        (
            RuntimeError,
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
        ),
    ],
)
def test_a_card_that_is_full_is_told_in_a_line(
    kind: type[Exception], said_by: str, entry: Entry, experiment: str, make_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*arguments: object) -> None:
        raise kind(said_by)

    monkeypatch.setattr("tlkit.runs.phase.prepare_phase", fail)
    assert entry("head", "--data", str(make_folder(counts=(4, 2, 2)))) == 2
    said = "the card's memory is full; lower batch_size"
    assert f"error: {said}" in capsys.readouterr().err
    assert said in by_name(experiment)["head"].data.tags["mlflow.note.content"]


def test_names_as_long_as_a_file_may_have_and_figures_that_fail_cost_no_model(
    entry: Entry, experiment: str, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_folder(counts=(4, 2, 2))
    for path in (data / "test").rglob("*.png"):
        path.rename(path.with_name("猫" * 83 + f"{path.stem[-2:]:_>2}" + ".png"))
    assert entry("head", "--data", str(data)) == 0
    names = [path.name for path in (artifacts(by_name(experiment)["head"]) / "gradcam").iterdir()]
    assert all("猫猫" in name for name in names)

    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError("too many classes")

    monkeypatch.setattr("tlkit.outcome.confusion_matrix", fail)
    with pytest.raises(MemoryError):
        entry("baseline", "--data", str(data))
    run = by_name(experiment)["baseline"]
    assert run.info.status == "FAILED"
    assert "test/accuracy" in run.data.metrics
    assert mlflow.search_logged_models(
        [run.info.experiment_id], f"source_run_id='{run.info.run_id}'", output_format="list"
    )


def test_several_seeds_share_their_pictures_and_end_with_a_mean_and_an_ensemble(
    entry: Entry, experiment: str, make_folder: MakeFolder, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source, weights = str(make_folder()), str(tmp_path / "weights.safetensors")
    # Random weights would be other ones for each seed.
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    recipe = ("--data", source, "--weights", weights, "--seeds", "2")
    assert entry("finetune", *recipe, "--seed", "5") == 0
    printed = capsys.readouterr().out
    assert "Test accuracy over 2 seeds: mean" in printed
    assert "Of the fine-tuning alone: all seeds begin from one head." in printed
    runs = runs_of(experiment)
    [parent] = [run for run in runs if run.info.run_name == "finetune-seeds"]
    children = [run for run in runs if run.info.run_name == "finetune"]
    assert [run.data.params["seed"] for run in children] == ["5", "6"]
    assert {run.data.params["data_seed"] for run in children} == {"5"}
    assert {run.data.params["seeds"] for run in children} == {"1"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert len({run.data.tags["tlkit.init_from"] for run in children}) == 1
    accuracies = [run.data.metrics["test/accuracy"] for run in children]
    assert parent.data.metrics["test/accuracy_mean"] == pytest.approx(np.mean(accuracies))
    trained = [load_file(artifacts(run) / "checkpoints" / "best.safetensors") for run in children]
    assert any((trained[0][name] != trained[1][name]).any() for name in trained[0])
    # The frozen part ran for the first seed alone.
    assert children[1].data.metrics["features/hits"] == children[1].data.metrics["features/wanted"]
    [ensemble] = [run for run in runs if run.info.run_name == "ensemble"]
    said = [pd.read_csv(artifacts(run) / "predictions.csv") for run in (*children, ensemble)]
    columns = ["probability_cat", "probability_dog"]
    mean = (said[0][columns] + said[1][columns]) / 2
    np.testing.assert_allclose(said[2][columns], mean, atol=1e-6)
    assert entry("suite", "--data", source, "--seeds", "2") == 2
    assert "seeds=2 is for -e baseline" in capsys.readouterr().err


def test_seeds_with_a_random_backbone_each_are_not_said_to_share_a_head(
    experiment: str, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = dict.fromkeys(
        ("val/best_accuracy", "test/accuracy", "test/accuracy_low", "test/accuracy_high", "test/f1",
         "time/total_seconds", "parameters/trainable"), 0.5,
    )  # fmt: skip
    monkeypatch.setattr(
        "tlkit.runs.suite.run_phase", lambda phase, *_, **__: PhaseResult(phase, "1", values)
    )
    words = {"data": str(make_folder()), "weights": "none", "seeds": "2"}
    said = report(run_repeats("finetune", Config.load(SMOKE, words)))
    assert "Test accuracy over 2 seeds: mean" in said
    assert "one head" not in said


def test_a_long_path_of_the_data_is_shortened_for_mlflow(experiment: str, tmp_path: Path) -> None:
    with start_run("long") as tracker:
        tracker.dataset(f"begin/{'d/' * 300}end", tmp_path, "digest")
    dataset = mlflow.get_run(tracker.run_id).inputs.dataset_inputs[0].dataset
    assert len(dataset.name) == 500
    assert dataset.name.startswith("…")
    assert dataset.name.endswith("d/end")


@pytest.mark.parametrize(
    ("name", "arguments", "module"),
    [
        ("head", ("--backbone", "test_resnt"), "runs.phase"),
        ("finetune", ("--unfreeze_depth", "50", "--seeds", "2"), "runs.suite"),
        ("suite", ("--weights", "nowhere.safetensors"), "runs.suite"),
        ("curve", ("--weights", "nowhere.safetensors"), "evidence.curve"),
        ("data", ("--backbone", "test_resnt"), "runs.data"),
        ("tune", ("--weights", "nowhere.safetensors"), "search.tune"),
    ],
)
def test_a_network_is_refused_before_the_pictures_are_read_and_the_run_has_its_parameters(
    name: str, arguments: tuple[str, ...], module: str, entry: Entry, make_folder: MakeFolder,
    experiment: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(f"tlkit.{module}.prepare_data", lambda config: pytest.fail("read"))
    assert entry(name, "--data", str(make_folder()), *arguments) == 2
    (run,) = runs_of(experiment)
    assert run.info.status == "FAILED"
    assert run.data.params[arguments[0].removeprefix("--")] == arguments[1]


def test_finetune_says_which_head_it_begins_from(
    entry: Entry, make_folder: MakeFolder, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = str(make_folder())
    assert entry("finetune", "--data", pictures) == 0
    assert "finetune: no run has the head of these settings, which is" in capsys.readouterr().err
    (head,) = (run for run in runs_of(experiment) if run.info.run_name == "head")
    assert entry("finetune", "--data", pictures, "--seed", "0", "--finetune_epochs", "2") == 0
    said = capsys.readouterr().err
    assert f"finetune: begins from the head of run {head.info.run_id}\n" in said
    others = str(make_folder("others", counts=(6, 2, 2)))
    assert entry("finetune", "--data", others) == 0
    assert "finetune: no run has the head of these settings, which is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "views"),
    [(("--augment", "none"), 0), (("--views", "1"), 1), (("--views", "3"), 3)],
)
def test_samples_are_shown_in_the_views_that_are_trained_on(
    arguments: tuple[str, ...], views: int, entry: Entry, make_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[int] = []

    def noted(*given: Any, views: int, **named: Any) -> Any:
        asked.append(views)
        return samples(*given, views=views, **named)

    monkeypatch.setattr("tlkit.runs.artifacts.samples", noted)
    assert entry("data", "--data", str(make_folder()), *arguments) == 0
    assert asked == [views]


def test_what_the_architecture_wants_undecayed_is_not_decayed(
    entry: Entry, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[dict[str, Any]] = []

    def adamw(named: Any, *given: Any, **options: Any) -> torch.optim.AdamW:
        parameters = dict(named)
        optimizer = optimizer_of(parameters.items(), *given, **options)
        names = {id(parameter): name for name, parameter in parameters.items()}
        groups.extend(
            {"decay": group["weight_decay"], "names": {names[id(p)] for p in group["params"]}}
            for group in optimizer.param_groups
        )
        return optimizer

    optimizer_of = train.adamw
    monkeypatch.setattr(train, "adamw", adamw)
    depth = len(units(timm.create_model("test_vit")))
    arguments = ("--backbone", "test_vit", "--weights", "none", "--unfreeze_depth", str(depth))
    assert entry("finetune", "--data", str(make_folder()), *arguments) == 0
    decay = {name: group["decay"] for group in groups for name in group["names"]}
    assert decay["pos_embed"] == 0
    assert decay["blocks.0.attn.qkv.weight"] > 0
