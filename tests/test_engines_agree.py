"""`engine: cached` against the reference, `engine: plain`: alike on a CPU, at any depth."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_pictures

from benchmarks.agreement import finetuned
from tlkit.config import Config
from tlkit.data.audit import audit
from tlkit.data.manifest import Manifest
from tlkit.data.sources import open_source
from tlkit.models.units import units
from tlkit.phases.machine import machine_for
from tlkit.phases.prepare import prepare_phase
from tlkit.training.kernels import float32
from tlkit.training.kernels.winograd import Winograd

SIZES = {
    "test_resnet": 32,
    "test_efficientnet": 32,
    "test_convnext": 32,
    "regnetx_002": 32,
    "test_vit": 32,
    "small_swin": 32,
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("engines")
    found, _ = audit(
        open_source(str(make_pictures(folder / "pictures", counts=(9, 3, 5))), folder, 0), seed=0,
        max_pixels=10**6, val_fraction=0.1, test_fraction=0.1, workers=1, looks=folder / "looks",
    )  # fmt: skip
    return found


def configuration(engine: str, backbone: str, depth: int) -> Config:
    """Float32, uncompiled, of two views, with rates at which a few steps change the network."""
    values = {
        "backbone": backbone, "weights": "none", "image_size": SIZES[backbone], "threads": 1,
        "unfreeze_depth": depth, "finetune_epochs": 3, "views": 2, "batch_size": 8,
        "backbone_lr": 1e-3, "dropout": 0.3, "precision": "fp32", "compile": "off",
        "loader_workers": 0, "engine": engine, "device": "cpu",
    }  # fmt: skip
    return Config.load(None, {key: str(value) for key, value in values.items()})


@pytest.mark.parametrize("part", ["nothing", "one unit", "half", "all"])
@pytest.mark.parametrize("backbone", SIZES)
def test_cached_and_plain_train_alike(backbone: str, part: str, manifest: Manifest) -> None:
    config = Config.load(None, {"backbone": backbone, "weights": "none", "image_size": "32"})
    phase = prepare_phase("finetune", config, manifest, machine_for(config))
    most = len(units(phase.network.classifier.model))
    depth = {"nothing": 0, "one unit": 1, "half": most // 2, "all": most}[part]
    cached, by_cached = finetuned(configuration("cached", backbone, depth), manifest)
    plain, by_plain = finetuned(configuration("plain", backbone, depth), manifest)
    np.testing.assert_allclose(cached, plain, rtol=0, atol=1e-4)
    assert by_cached == pytest.approx(by_plain, rel=0, abs=5e-5)
    assert len(np.unique(np.round(plain, 6))) > 2  # the pictures are told apart at all


def test_the_kernels_of_wide_layers_train_like_plain(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for least in ("_FEWER", "_MORE", "_SIDE", "_WIDE"):
        monkeypatch.setattr(float32, least, 1)
    used: list[bool] = []
    own = Winograd.apply
    monkeypatch.setattr(Winograd, "apply", lambda *given: used.append(True) or own(*given))
    config = configuration("cached", "test_resnet", 3)
    plain, by_plain = finetuned(replace(config, engine="plain"), manifest)
    assert not used
    cached, by_cached = finetuned(config, manifest)
    assert used
    np.testing.assert_allclose(cached, plain, rtol=0, atol=1e-4)
    assert by_cached == pytest.approx(by_plain, rel=0, abs=5e-5)


def test_the_plain_engine_computes_by_nothing_of_ours(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bool] = []
    own = float32.conv2d
    monkeypatch.setattr(float32, "conv2d", lambda *given: used.append(True) or own(*given))
    # Its maps are channels_last in any layout, for the norms between its convolutions permute them.
    config = configuration("cached", "test_convnext", 5)
    finetuned(replace(config, engine="plain"), manifest)
    assert not used
    finetuned(config, manifest)
    assert used
