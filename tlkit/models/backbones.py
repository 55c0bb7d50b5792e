"""Backbones from timm, with a head of dropout and one linear layer."""

import difflib
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data.config import resolve_data_config
from timm.layers.helpers import to_2tuple
from torch import Tensor, nn

from tlkit.errors import UserError, reason

# What architectures raise for a size that they cannot take.
_MISFITS = (
    ArithmeticError,
    AssertionError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class DropoutLinear(nn.Linear):
    """The head: dropout, then one linear layer. Input (N, F) float, output (N, C) logits.

    It is one module and not two so that it keeps the place and the parameter names of the timm
    classifier it takes over: a state dict of the model is a state dict of plain timm.
    """

    def __init__(self, classifier: nn.Linear, dropout: float) -> None:
        super().__init__(
            classifier.in_features, classifier.out_features, bias=classifier.bias is not None
        )
        # Some of timm's own starts are so large (EfficientNet's draws from +-0.7 for two classes)
        # that a head spends its first epochs forgetting them.
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.dropout(input, self.dropout, self.training))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dropout={self.dropout}"


def create_model(
    backbone: str, *, num_classes: int, dropout: float, image_size: int | None
) -> nn.Module:
    """A timm model with random weights and a head of dropout and one linear layer.

    `backbone` is a timm name, with or without a pretrained tag (`resnet50`,
    `resnet50.a1_in1k`). `dropout` is the head's rate, 0 to below 1; the backbone keeps timm's
    own defaults (stochastic depth, for one). `image_size` is the side of the square input in
    pixels, None the backbone's own.

    The model takes (N, 3, image_size, image_size) float and gives (N, num_classes) logits.

    Raises UserError: the name is unknown to timm, the backbone cannot take pictures of that
    size, or its classifier is not one linear layer and nothing else.
    """
    _check_name(backbone)
    timm_model = build(backbone, image_size, num_classes=num_classes, drop_rate=0.0)
    model: nn.Module = timm_model
    classifier = timm_model.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise UserError(
            f"backbone={backbone} ends in {type(classifier).__name__}, and a head here is one "
            "linear layer; choose another backbone"
        )
    if getattr(timm_model, "aux_head", None) is not None:  # VOLO's, over the patches
        raise UserError(
            f"backbone={backbone} has a second head beside its classifier, and a head here is one "
            "linear layer; choose another backbone"
        )
    model.set_submodule(classifier_path(model), DropoutLinear(classifier, dropout))
    if image_size is not None:
        _check_size(model, backbone, image_size)
    return model


def build(backbone: str, image_size: int | None, **options: Any) -> Any:
    """`timm.create_model` for square pictures of `image_size` pixels a side.

    The size is noted in the model's `pretrained_cfg`, from which `data_config` reads it, and is
    given to the constructor where the architecture depends on it.
    """
    if image_size is None:
        return timm.create_model(backbone, **options)
    overlay = options.setdefault("pretrained_cfg_overlay", {})
    overlay["input_size"] = (3, image_size, image_size)
    config = timm.get_pretrained_cfg(backbone)
    if config is None or not config.fixed_input_size or config.input_size[-1] == image_size:
        return timm.create_model(backbone, **options)
    try:
        return timm.create_model(backbone, img_size=image_size, **options)
    except _MISFITS as error:
        raise _misfit(backbone, image_size, error) from error


def data_config(model: nn.Module) -> dict[str, Any]:
    """timm's preprocessing for a model of `create_model`, as JSON can hold it.

    Keys: input_size [3, H, W] in pixels, interpolation, mean and std (three each, for channels
    in 0..1), crop_pct, crop_mode. `timm.data.create_transform(**config, is_training=False)`
    rebuilds the transform.
    """
    config: dict[str, Any] = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in config.items()
    }


def classifier_path(model: nn.Module) -> str:
    """The dotted path of the classifier in a timm model, `head.fc` for one."""
    timm_model: Any = model
    classifier = timm_model.get_classifier()
    path: str = next(path for path, module in model.named_modules() if module is classifier)
    return path


def undecayed(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that the architecture wants no weight decay on, in transformers those
    that embed positions and classes; none where it names none."""
    timm_model: Any = model
    names = timm_model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    return frozenset(names)


def architecture(model: nn.Module) -> str:
    """The timm name of the model, without a pretrained tag."""
    timm_model: Any = model
    return str(timm_model.pretrained_cfg["architecture"])


def _check_name(backbone: str) -> None:
    name, _, tag = backbone.partition(".")
    if ":" in name or not timm.is_model(name):
        near = difflib.get_close_matches(name.lower(), timm.list_models(), n=5)
        hint = f"near names: {', '.join(near)}" if near else "timm.list_models() lists the names"
        raise UserError(f"backbone={backbone} is not a model of timm {timm.__version__}; {hint}")
    known = [each.partition(".")[2] for each in timm.list_models(f"{name}.*", include_tags=True)]
    if tag and tag not in known:
        raise UserError(
            f"backbone={backbone} has a tag that timm {timm.__version__} does not know; "
            f"tags of {name}: {', '.join(known) or 'none'}; or leave the tag out"
        )


def _check_size(model: nn.Module, backbone: str, image_size: int) -> None:
    timm_model: Any = model
    embedding = getattr(model, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    step = max(to_2tuple(patch)) if patch else timm_model.feature_info[-1]["reduction"]
    refusal = UserError(
        f"image_size={image_size} does not fit backbone={backbone}; "
        f"allowed: multiples of {step} pixels, or no image_size for its own"
    )
    proj = getattr(embedding, "proj", None)
    apart = not isinstance(proj, nn.Conv2d) or proj.stride == proj.kernel_size
    # A patch embedding would crop what is left over of a patch, and not say so; one whose patches
    # lie over one another has borders.
    if patch and apart and image_size % step:
        raise refusal
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    except _MISFITS as error:
        if image_size % step:
            raise refusal from error
        raise _misfit(backbone, image_size, error) from error
    finally:
        model.train()


def _misfit(backbone: str, image_size: int, error: Exception) -> UserError:
    config = timm.get_pretrained_cfg(backbone)
    own = f"its own size, {config.input_size[-1]}" if config else "its own size"
    return UserError(
        f"image_size={image_size} does not fit backbone={backbone} ({reason(error)}); "
        f"leave it out for {own}"
    )


def to_channels_last(model: nn.Module) -> None:
    """Lay out the weights of convolutions as (out, H, W, C) in memory.

    As `model.to(memory_format=torch.channels_last)`, which refuses a network that has
    three-dimensional convolutions too.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
