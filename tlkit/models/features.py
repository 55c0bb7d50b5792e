"""The features that a network's last linear layer decides by."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def last_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into the classifier, float32 (n, d) a forward pass, on the CPU, while the
    block lasts.

    One thread at a time may run the model meanwhile.
    """
    found: list[Tensor] = []

    def collect(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].detach().flatten(1).float().cpu())

    get = getattr(model, "get_classifier", None)
    classifier = get() if get else [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    handle = classifier.register_forward_pre_hook(collect)
    try:
        yield found
    finally:
        handle.remove()


def stacked(features: list[Tensor]) -> Tensor:
    """Tensors of some pictures each, as one: on the CPU, float64 (N, d)."""
    return torch.cat(features).double().cpu()
