"""Grad-CAM for our networks, whatever they are made of."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tlkit.errors import UserError, reason
from tlkit.evaluation.gradcam import grad_cam
from tlkit.features.compilers import with_onnxruntime
from tlkit.models.baseline import BaselineCNN
from tlkit.models.units import cam_target, family


class NoHeatMaps(UserError):
    """Grad-CAM finds no layer that it can look at in this network."""


def heat_maps(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM at the layer that fits the network: float32 (N, H, W) in 0..1.

    Args:
        inputs: float32 (N, 3, H, W), preprocessed.
        classes: int64 (N,).

    Raises:
        NoHeatMaps: a network of none of the families whose last features are no map.
    """
    try:
        layer, to_grid = cam_target(model)
        return grad_cam(model, layer, inputs, classes, to_grid)
    except (AttributeError, RuntimeError, UserError, ValueError) as error:
        known = isinstance(model, BaselineCNN) or family(model) is not None
        if known or isinstance(error, torch.OutOfMemoryError):
            raise
        raise NoHeatMaps(
            f"this backbone has no heat maps ({reason(error)}); all else works without them"
        ) from error


def compiled(model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """The model for hundreds of pictures in the shape of `example`: on a CPU as compiled code, in
    float32 too."""
    if example.device.type != "cpu":
        return model
    try:
        layers = with_onnxruntime(model, example, torch.get_num_threads())
        layers(example)
    except Exception as error:  # whatever the exporter and ONNX Runtime come up with
        said = f"heat maps are tested uncompiled, for compiling failed: {reason(error)}"
        print(said, file=sys.stderr)
        return model
    return layers
