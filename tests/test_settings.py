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
from tlkit.phases.identity import HEAD_KEYS
from tlkit.phases.machine import machine_for
from tlkit.phases.prepare import prepare_phase
from tlkit.phases.train import train_phase
from tlkit.runs.prepare import prepare_data

USUAL = {
    **{"precision": "fp32", "batch_size": 8, "dropout": 0.1, "views": 2, "augment": "recipe"},
    **{"baseline_epochs": 2, "head_epochs": 2, "finetune_epochs": 2, "backbone_lr": 0.001},
}
# By phase and what else is set: the settings to change, one at a time.
OTHERWISE: dict[tuple[str, str], dict[str, Any]] = {
    ("baseline", ""): {
        **{"baseline_lr": 0.02, "baseline_epochs": 3, "baseline_image_size": 48, "dropout": 0.5},
        **{"weight_decay": 0.5, "batch_size": 7, "seed": 1, "augment": "trivial"},
    },
    ("head", ""): {
        **{"head_lr": 0.02, "head_epochs": 3, "dropout": 0.5, "weight_decay": 0.5, "views": 1},
        **{"label_smoothing": 0.2, "class_weights": "balanced", "batch_size": 7, "accumulate": 2},
        **{"schedule": "cosine", "seed": 1, "data_seed": 1, "augment": "none"},
        **{"image_size": 96, "backbone": "test_efficientnet", "train_fraction": 0.6},
    },
    ("head", "schedule=cosine"): {"warmup_epochs": 0},
    ("head", "head_lr=5 head_epochs=6"): {"early_stopping": 1},
    ("finetune", ""): {
        **{"backbone_lr": 0.003, "head_lr": 0.02, "finetune_epochs": 3, "unfreeze_depth": 1},
        **{"batch_norm": "moving", "weight_decay": 0.5, "dropout": 0.5},
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
    folders: pytest.TempPathFactory, pictures: Path, phase: str, settings: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    config = Config.load(SMOKE, {**USUAL, **settings, "data": str(pictures)})
    made = prepare_phase(phase, config, prepare_data(config).manifest, machine_for(config))
    checkpoints = folders.mktemp("checkpoints")
    train_phase(made, log=lambda *_: None, checkpoints=checkpoints)
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


def test_no_setting_is_forgotten() -> None:
    tried = {key for changes in OTHERWISE.values() for key in changes}
    # How it is computed, which tests/test_engines_agree.py is about, and what data_seed sets.
    assert set(HEAD_KEYS) - tried == {"engine", "compile", "threads", "pictures_seed"}
