"""The baseline network: its shape, and that it learns."""

import pytest
import torch
from torch import nn

from tlkit.models.baseline import BaselineCNN


@pytest.mark.parametrize("size", [8, 33, 64])
def test_gives_one_logit_a_class_for_any_size_from_8_pixels(size: int) -> None:
    model = BaselineCNN(num_classes=5, dropout=0.5).eval()
    assert model(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_has_the_layers_it_promises() -> None:
    kinds = [
        type(module)
        for module in BaselineCNN(2, 0.3).modules()
        if not list(module.children()) and not isinstance(module, nn.Dropout)
    ]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert kinds == [*block * 3, nn.AdaptiveAvgPool2d, nn.Linear, nn.ReLU, nn.Linear]
    model = BaselineCNN(2, 0.3)
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [32, 64, 128]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]


def test_learns_two_colours() -> None:
    torch.manual_seed(0)
    labels = torch.arange(16) % 2
    pictures = torch.randn(16, 3, 16, 16) * 0.1
    pictures[labels == 1, 0] += 1
    model = BaselineCNN(2, 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(pictures), labels))
        optimizer.step()
    assert torch.equal(model.eval()(pictures).argmax(1), labels)
