"""The features that a network's last linear layer decides by."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def last_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into the classifier, float32 (n, d) a forward pass, while the block lasts.

    One thread at a time may run the model meanwhile.
    """
    found: list[Tensor] = []

    def collect(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].detach().flatten(1).float())

    handle = _classifier(model).register_forward_pre_hook(collect)
    try:
        yield found
    finally:
        handle.remove()


def _classifier(model: nn.Module) -> nn.Module:
    """timm's classifier; without it, or where it does nothing, the last layer with weights."""
    get = getattr(model, "get_classifier", None)
    named = get() if get else None
    if isinstance(named, nn.Module) and any(True for _ in named.parameters()):
        return named
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1]


def stacked(features: list[Tensor]) -> Tensor:
    """What was collected, on the CPU, float64 (N, d)."""
    return torch.cat(features).double().cpu()
