"""Grad-CAM: where in a picture a model sees the evidence for a class (Selvaraju et al. 2017)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What the grad-cam package adds to a map's range before dividing by it; a flat map becomes 0.
RANGE_EPSILON = 1e-7


def grad_cam(
    model: nn.Module,
    layer: nn.Module,
    inputs: Tensor,
    targets: Tensor | None,
    to_grid: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """A heat map for each picture: float32 (N, H, W) in 0..1, on the device of `inputs`.

    Equations 1 and 2 of the paper: the gradient of the target's logit with respect to the output
    of `layer`, averaged over the grid, weighs that output's channels, and what is positive in
    their sum is kept. Each map is scaled to 0..1, resized (bilinear) to the pictures' size and
    scaled again, as the grad-cam package does. A map without positive evidence is 0 everywhere.

    inputs: float (N, 3, H, W), preprocessed. targets: integer (N,), None for the predicted class.
    layer: a module within `model` that runs once in a forward pass and returns one tensor.
    to_grid: turns that tensor into (N, C, h, w), class tokens dropped; None where it has that
    shape already.

    The model runs in eval mode and is left as found: the mode of every module, hooks, `.grad`,
    `requires_grad`. Frozen parameters and callers within torch.no_grad or torch.inference_mode
    are fine; only a model whose parameters were themselves made within inference_mode is not.

    Raises ValueError where layer, targets or the grid do not fit.
    """
    outputs: list[Tensor] = []

    def cut_graph(module: nn.Module, args: object, output: Tensor) -> Tensor:
        # A leaf here needs no trainable parameter before it, and stops the backward pass. What
        # follows gets a copy, since an in-place operation must not change a leaf.
        leaf = output.detach().clone().requires_grad_()
        outputs.append(leaf)
        return leaf.clone()

    with torch.inference_mode(False), torch.enable_grad(), _eval_mode(model):
        handle = layer.register_forward_hook(cut_graph)
        try:
            # The copy makes a normal tensor of one made within inference_mode.
            logits = model(inputs.detach().clone())
        finally:
            handle.remove()
        if len(outputs) != 1:
            raise ValueError(f"the layer ran {len(outputs)} times in a forward pass: needs once")
        scores = _scores(logits, targets)
        # One picture's logit depends on its own activations alone, so the gradient of the sum
        # holds each picture's gradient.
        (gradients,) = torch.autograd.grad(scores.sum(), outputs[0])

    activations = outputs[0].detach()
    if to_grid is not None:
        activations, gradients = to_grid(activations), to_grid(gradients)
    if activations.ndim != 4:
        raise ValueError(
            f"the layer's output is {tuple(activations.shape)}: needs (N, C, h, w) after to_grid"
        )
    weights = gradients.float().mean(dim=(2, 3), keepdim=True)
    maps = F.relu((weights * activations.float()).sum(dim=1, keepdim=True))
    maps = F.interpolate(
        _scaled(maps), size=inputs.shape[-2:], mode="bilinear", align_corners=False
    )
    return _scaled(maps).squeeze(1)


def _scores(logits: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:
        targets = logits.argmax(dim=1)
    n, classes = logits.shape
    if targets.shape != (n,):
        raise ValueError(f"targets have shape {tuple(targets.shape)}: needs ({n},)")
    if targets.min() < 0 or targets.max() >= classes:
        raise ValueError(
            f"targets run from {int(targets.min())} to {int(targets.max())}: "
            f"needs 0 to {classes - 1}"
        )
    return logits.gather(1, targets.clone().long().unsqueeze(1))


def _scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - low) / (high - low + RANGE_EPSILON)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    found = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        # Module by module: a model may be in mixed modes, and train() would overwrite them.
        for module, training in found.items():
            module.training = training
