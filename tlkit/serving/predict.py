"""Probabilities from a network, the same way in evaluation, on the command line and served."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def predict_probabilities(
    model: nn.Module,
    batches: Iterable[Tensor],
    device: torch.device,
    temperature: float = 1.0,
) -> NDArray[np.float64]:
    """Softmax of logits / temperature for each picture, float64 (N, classes), rows summing to 1.

    Always in float32, whatever precision training used: a picture gets the same numbers from
    whoever asks. (On a GPU `training.seeding` has seen to it that this is no TF32.) The mode of the
    model is left as found.

    Args:
        model: on `device`; maps a batch to logits (n, classes).
        batches: at least one of float32 (n, ...): preprocessed pictures, or what `model` takes in
            their place. In whose memory format they come, by those kernels they are computed.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    rows: list[Tensor] = []
    try:
        with torch.no_grad():
            for batch in batches:
                logits = model(batch.to(device, non_blocking=True)).double()
                rows.append((logits / temperature).softmax(dim=1).cpu())
    finally:
        for module, mode in modes.items():
            module.training = mode
    result: NDArray[np.float64] = torch.cat(rows).numpy()
    return result
