"""The baseline: a small convolutional network that is trained from scratch."""

from collections import OrderedDict

from torch import Tensor, nn

WIDTHS = (32, 64, 128)


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            # The norm that follows has a shift of its own, so the convolution needs no bias.
            conv=nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
            norm=nn.BatchNorm2d(channels_out),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
        )
    )


class BaselineCNN(nn.Module):
    """Three blocks of 32, 64 and 128 filters, global average pooling, two linear layers.

    A block is a 3x3 convolution, batch norm, ReLU and 2x2 max pooling. Dropout stands before
    each of the two linear layers.

    Input (N, 3, H, W) float, H and W at least 8; output (N, num_classes) logits.
    """

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(_block(a, b) for a, b in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(WIDTHS[-1], WIDTHS[-1]),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(WIDTHS[-1], num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.pool(self.blocks(x)).flatten(1)
        logits: Tensor = self.head(features)
        return logits
