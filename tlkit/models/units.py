"""What each family of backbones is made of: its units, and the layer that Grad-CAM looks at."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from tlkit.errors import UserError
from tlkit.models.backbones import architecture
from tlkit.models.baseline import BaselineCNN

ToGrid = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Unit:
    """One residual block, or the stem: its name, and the dotted paths of its modules in forward
    order.

    A downsampling module at the start of a stage belongs to the first block of the stage.
    Parameters that the backbone owns itself (class token and position embedding of a vision
    transformer) belong to the stem.
    """

    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Where the units of one family of timm models are.

    `blocks` is a regular expression for the whole path of a block, or of the downsampling module
    before it. `stem_methods` names methods, not modules, that are part of the stem.
    """

    type: type[nn.Module]
    stem: tuple[str, ...]
    blocks: str
    stem_methods: tuple[str, ...] = ()


FAMILIES = {
    "resnet": Family(ResNet, ("conv1", "bn1", "act1", "maxpool"), r"layer\d+\.\d+"),
    "efficientnet": Family(EfficientNet, ("conv_stem", "bn1"), r"blocks\.\d+\.\d+"),
    "mobilenetv3": Family(MobileNetV3, ("conv_stem", "bn1"), r"blocks\.\d+\.\d+"),
    "convnext": Family(ConvNeXt, ("stem",), r"stages\.\d+\.(downsample|blocks\.\d+)"),
    "regnet": Family(RegNet, ("stem",), r"s\d+\.b\d+"),
    "vit": Family(
        VisionTransformer,
        ("patch_embed", "pos_drop", "patch_drop", "norm_pre"),
        r"blocks\.\d+",
        stem_methods=("_pos_embed",),
    ),
    "swin": Family(SwinTransformer, ("patch_embed",), r"layers\.\d+\.(downsample|blocks\.\d+)"),
    "swinv2": Family(SwinTransformerV2, ("patch_embed",), r"layers\.\d+\.(downsample|blocks\.\d+)"),
}


def family(model: nn.Module) -> Family | None:
    """The family of `model`, or None for a timm model of another one."""
    return next((known for known in FAMILIES.values() if isinstance(model, known.type)), None)


def units(model: nn.Module) -> tuple[Unit, ...]:
    """The units of a timm model in forward order, stem first.

    A model of none of FAMILIES has one unit, `backbone`, that is all of it: it can be frozen or
    trained as a whole.
    """
    known = family(model)
    if known is None:
        return (Unit("backbone", tuple(name for name, _ in model.named_children())),)
    found = [Unit("stem", known.stem)]
    before: tuple[str, ...] = ()
    for path, _ in model.named_modules():
        if not re.fullmatch(known.blocks, path):
            continue
        if path.endswith(".downsample"):
            before = (path,)
        else:
            found.append(Unit(path, (*before, path)))
            before = ()
    return tuple(found)


def cam_target(model: nn.Module) -> tuple[nn.Module, ToGrid | None]:
    """The layer whose output Grad-CAM weighs, and what turns this output into (N, C, H, W).

    The second is None where the output is (N, C, H, W) already. A convolutional backbone gives
    its last feature map before pooling (BaselineCNN: the last ReLU, before max pooling halves
    the map). Transformers give the first norm of their last block, as the `grad-cam` package
    advises: behind it the patch tokens no longer reach a class token.

    Raises UserError for a timm model that names no last feature map, AttributeError for one that
    names a module that it does not have.
    """
    if isinstance(model, BaselineCNN):
        return model.blocks.get_submodule("2.relu"), None
    if isinstance(model, EfficientNet):
        return model.bn2, None
    if isinstance(model, ResNet | MobileNetV3 | ConvNeXt | RegNet):
        return model.get_submodule(units(model)[-1].name), None
    if isinstance(model, VisionTransformer):
        # Blocks of the other kinds norm elsewhere; what goes into the last one serves as well.
        vit: Any = model
        last = vit.blocks[-1]
        layer = last.norm1 if isinstance(last, Block) else vit.blocks[-2]
        return layer, _tokens_to_grid(vit.num_prefix_tokens, vit.patch_embed.grid_size)
    if isinstance(model, SwinTransformer):
        return model.get_submodule(f"{units(model)[-1].name}.norm1"), _channels_first
    if isinstance(model, SwinTransformerV2):
        return model.get_submodule(units(model)[-1].name), _channels_first
    return _last_feature(model)


def _last_feature(model: nn.Module) -> tuple[nn.Module, ToGrid]:
    timm_model: Any = model
    described = getattr(timm_model, "feature_info", None)
    if not described:
        raise UserError(
            f"Grad-CAM knows no layer to look at in backbone={architecture(model)}; "
            f"choose one of the families {', '.join(FAMILIES)}"
        )
    last = described[-1]
    prefix_tokens = getattr(timm_model, "num_prefix_tokens", 0)
    layer = model.get_submodule(last["module"])
    if prefix_tokens:  # as above, where the block has a first norm
        layer = getattr(layer, "norm1", layer)
    return layer, _any_to_grid(last["num_chs"], prefix_tokens)


def _channels_first(features: Tensor) -> Tensor:
    return features.permute(0, 3, 1, 2)


def _tokens_to_grid(prefix_tokens: int, grid: tuple[int, int]) -> ToGrid:
    def to_grid(tokens: Tensor) -> Tensor:
        return tokens[:, prefix_tokens:].transpose(1, 2).reshape(tokens.shape[0], -1, *grid)

    return to_grid


def _any_to_grid(channels: int, prefix_tokens: int) -> ToGrid:
    def to_grid(features: Tensor) -> Tensor:
        if features.ndim == 3:
            # Class tokens may join later than at this layer.
            tokens = features.shape[1]
            before = 0 if math.isqrt(tokens) ** 2 == tokens else prefix_tokens
            side = math.isqrt(tokens - before)
            return _tokens_to_grid(before, (side, side))(features)
        return features if features.shape[1] == channels else _channels_first(features)

    return to_grid
