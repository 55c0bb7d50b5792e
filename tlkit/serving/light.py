"""How bright pictures are and how much contrast they have, as a network sees them."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlkit.data.transforms import Preprocessing
from tlkit.serving.classifier import Classifier

# Of red, green and blue in the luma of ITU-R BT.601, which Pillow's "L" pictures hold too.
_LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)


def light(tensors: Tensor, preprocessing: Preprocessing) -> NDArray[np.float64]:
    """Mean and standard deviation of the luma, 0 black to 1 white: float64 (N, 2).

    Taken of the bytes that were normalised, so that training, serving and every device agree.

    Args:
        tensors: what `preprocessing` gave, float32 (N, 3, H, W).
    """
    pixels = preprocessing.to_bytes(tensors.detach().cpu())
    luma = (pixels.double() * _LUMA).sum(dim=1).flatten(1) / 255
    result: NDArray[np.float64] = torch.stack([luma.mean(1), luma.std(1, correction=0)], 1).numpy()
    return result


@contextmanager
def light_seen(classifier: Classifier) -> Iterator[list[NDArray[np.float64]]]:
    """Collect the `light` of what the network is given, (n, 2) a forward pass, while it lasts.

    One thread at a time may run the model meanwhile.
    """
    found: list[NDArray[np.float64]] = []

    def collect(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(light(inputs[0], classifier.preprocessing))

    handle = classifier.model.register_forward_pre_hook(collect)
    try:
        yield found
    finally:
        handle.remove()
