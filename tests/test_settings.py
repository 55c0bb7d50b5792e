"""Each setting of a training has an effect on what is trained."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMOKE, make_pictures
from safetensors.torch import load_file

from tlkit.config import Config
from tlkit.evaluation.calibration import calibrated_loss
from tlkit.phases.engine import start_engine, validation_metrics
from tlkit.phases.identity import HEAD_KEYS
from tlkit.phases.machine import machine_for
from tlkit.phases.prepare import prepare_phase
from tlkit.phases.train import train_phase
from tlkit.runs.prepare import prepare_data
from tlkit.training.loop import CRITERION

USUAL = {
    **{"precision": "fp32", "batch_size": 8, "dropout": 0.1, "views": 2, "augment": "recipe"},
    **{"baseline_epochs": 2, "head_epochs": 2, "finetune_epochs": 2, "backbone_lr": 0.001},
}
# By phase and what else is set: the settings to change, one at a time.
OTHERWISE: dict[tuple[str, str], dict[str, Any]] = {
    ("baseline", ""): {
        **{"baseline_lr": 0.02, "baseline_epochs": 3, "baseline_image_size": 48, "dropout": 0.5},
        **{"weight_decay": 0.5, "batch_size": 7, "seed": 1, "augment": "trivial"},
        **{"baseline_schedule": "plateau", "warmup_epochs": 0},
    },
    ("head", ""): {
        **{"head_lr": 0.02, "head_epochs": 3, "dropout": 0.5, "weight_decay": 0.5, "views": 1},
        **{"label_smoothing": 0.2, "class_weights": "balanced", "batch_size": 7, "accumulate": 2},
        **{"head_schedule": "cosine", "seed": 1, "data_seed": 1, "augment": "none"},
        **{"image_size": 96, "backbone": "test_efficientnet", "train_fraction": 0.6},
    },
    ("head", "head_schedule=cosine"): {"warmup_epochs": 0},
    ("head", "head_lr=5 head_epochs=6"): {"early_stopping": 1},
    ("finetune", ""): {
        **{"backbone_lr": 0.003, "head_lr": 0.02, "finetune_epochs": 3, "unfreeze_depth": 1},
        **{"batch_norm": "moving", "weight_decay": 0.5, "dropout": 0.5},
        **{"finetune_schedule": "plateau", "warmup_epochs": 0},
    },
}
Train = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """What trains a phase by USUAL but for what is given, and gives the weights it ended with."""
    folder = tmp_path_factory.mktemp("settings")
    pictures = make_pictures(folder / "pictures")
    for path in sorted((pictures / "train" / "dog").iterdir())[5:]:  # unlike the cats
        path.unlink()
    return partial(_train, tmp_path_factory, pictures)


def _train(
    folders: pytest.TempPathFactory,
    pictures: Path,
    phase: str,
    settings: Mapping[str, Any],
    log: Callable[..., object] = lambda *_: None,
) -> dict[str, torch.Tensor]:
    config = Config.load(SMOKE, {**USUAL, **settings, "data": str(pictures)})
    made = prepare_phase(phase, config, prepare_data(config).manifest, machine_for(config))
    checkpoints = folders.mktemp("checkpoints")
    train_phase(made, log=log, checkpoints=checkpoints)
    return load_file(checkpoints / "last.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize(("phase", "set_too"), OTHERWISE)
def test_each_setting_changes_what_is_trained(phase: str, set_too: str, train: Train) -> None:
    base = dict(word.split("=") for word in set_too.split())
    usual = train(phase, base)
    assert same(usual, train(phase, base))
    changes = OTHERWISE[phase, set_too].items()
    assert [key for key, value in changes if same(usual, train(phase, {**base, key: value}))] == []


@pytest.mark.parametrize(
    ("phase", "diverging"),
    [
        ("head", {"head_lr": 5, "head_epochs": 6, "head_schedule": "cosine"}),
        # The default of the head and of finetune is another.
        ("baseline", {"baseline_lr": 0.5, "baseline_epochs": 6, "baseline_schedule": "cosine"}),
    ],
)
def test_a_cosine_is_not_stopped_early(phase: str, diverging: dict[str, Any], train: Train) -> None:
    assert same(train(phase, {**diverging, "early_stopping": 1}), train(phase, diverging))


def test_a_cosine_counts_the_last_step_of_too_few_batches_too(train: Train) -> None:
    cosine = {"head_schedule": "cosine", "warmup_epochs": 0, "head_lr": 0.01}
    rates: list[float] = []
    train(
        "head",
        {**cosine, "batch_size": 7, "accumulate": 2},  # of 17 pictures: two batches and one
        log=lambda metrics, epoch: rates.append(metrics["lr/head"]),
    )
    assert rates == pytest.approx([0.01, 0.005])


def test_a_network_is_left_with_the_weights_of_its_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(
        "tlkit.phases.train.validation_metrics",
        lambda *_: {"val/loss": 1.0, CRITERION: next(losses), "val/accuracy": 0.5},
    )
    data = str(make_pictures(tmp_path / "some"))
    config = Config.load(SMOKE, {**USUAL, "head_epochs": 3, "data": data})
    phase = prepare_phase("head", config, prepare_data(config).manifest, machine_for(config))
    states: list[dict[str, torch.Tensor]] = []

    def log(metrics: Mapping[str, float], epoch: int) -> None:
        states.append({name: value.clone() for name, value in phase.network.state().items()})

    train_phase(phase, log=log, checkpoints=tmp_path)
    left = phase.network.state()
    assert all(torch.equal(left[name], value) for name, value in states[1].items())
    assert not all(torch.equal(left[name], value) for name, value in states[2].items())


def test_what_is_said_of_an_epoch_on_the_validation_pictures_is_without_dropout(
    tmp_path: Path,
) -> None:
    data = str(make_pictures(tmp_path / "some"))
    config = Config.load(SMOKE, {**USUAL, "head_epochs": 1, "dropout": 0.5, "data": data})
    phase = prepare_phase("head", config, prepare_data(config).manifest, machine_for(config))
    trained = train_phase(phase, log=lambda *_: None, checkpoints=tmp_path)
    logits, _ = trained.validation()
    labels = torch.tensor([picture.label for picture in phase.manifest.of("val")])
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), labels)
    assert trained.result.best["val/loss"] == pytest.approx(float(expected), rel=1e-6)
    # Here, on few pictures, the temperature is 1; a confidence that they belie is taken back.
    assert trained.result.best[CRITERION] == pytest.approx(float(expected), rel=1e-6)
    head = phase.network.classifier.model.get_classifier()
    with torch.no_grad():
        head.weight.mul_(1000)
        head.bias.mul_(1000)
    engine = start_engine(phase, 0)
    far = validation_metrics(engine, [list(range(len(labels)))], phase.machine)
    assert far[CRITERION] == pytest.approx(calibrated_loss(1000 * logits, labels.numpy()), rel=1e-4)
    assert far[CRITERION] < far["val/loss"] / 2


def test_no_setting_is_forgotten() -> None:
    tried = {key for changes in OTHERWISE.values() for key in changes}
    # How it is computed, which tests/test_engines_agree.py is about, and what data_seed sets.
    assert set(HEAD_KEYS) - tried == {"engine", "compile", "pictures_seed"}


@pytest.mark.parametrize(
    ("settings", "cores", "threads", "workers"),
    [
        ({}, 2, 2, 2),
        ({}, 16, 16, 8),
        ({"threads": "3"}, 16, 3, 8),
        ({"loader_workers": "0"}, 2, 2, 0),
        ({"loader_workers": "12"}, 16, 16, 12),
    ],
)
def test_threads_and_workers_follow_the_cores_unless_they_are_given(
    settings: dict[str, Any], cores: int, threads: int, workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tlkit.phases.machine.available_cores", lambda: cores)
    machine = machine_for(Config.load(None, settings))
    assert (machine.threads, machine.workers) == (threads, workers)


@pytest.mark.parametrize(
    ("settings", "dtype", "fast_kernels"),
    [
        ({}, torch.bfloat16, True),
        ({"precision": "fp32"}, torch.float32, True),
        ({"engine": "plain"}, torch.float32, False),
    ],
)
def test_the_plain_engine_computes_in_float32_by_torch_alone(
    settings: dict[str, Any], dtype: torch.dtype, fast_kernels: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tlkit.training.precision._cpu_has_bf16", lambda: True)
    machine = machine_for(Config.load(None, {"device": "cpu", **settings}))
    assert (machine.dtype, machine.fast_kernels) == (dtype, fast_kernels)
