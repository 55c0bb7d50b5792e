"""A trained classifier in a folder: safetensors weights, and JSON for all else."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from tlkit.data.images import read_picture
from tlkit.data.transforms import Preprocessing
from tlkit.models.backbones import create_model
from tlkit.models.baseline import BaselineCNN
from tlkit.serving.predict import predict_probabilities

WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "model.json"


def probability_columns(classes: tuple[str, ...]) -> list[str]:
    """The names of the probability columns, in the order of the classes."""
    return [f"probability_{name}" for name in classes]


@dataclass(frozen=True)
class Description:
    """All that rebuilds a classifier but its weights; JSON-able.

    Attributes:
        backbone: a timm name, or "baseline" for the small CNN.
        image_size: side in pixels, or None for the backbone's own.
        preprocessing: keyword arguments of `timm.data.create_transform`.
        max_pixels: a picture that decodes to more is refused.
    """

    backbone: str
    image_size: int | None
    dropout: float
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    max_pixels: int

    def build(self) -> nn.Module:
        """The network with random weights."""
        if self.backbone == "baseline":
            return BaselineCNN(len(self.classes), self.dropout)
        return create_model(
            self.backbone,
            num_classes=len(self.classes),
            dropout=self.dropout,
            image_size=self.image_size,
        )


@dataclass(frozen=True)
class Classifier:
    """A network with its class names and preprocessing."""

    model: nn.Module
    description: Description

    def save(self, folder: Path) -> None:
        """Write the two files into an existing folder."""
        save_model(self.model, str(folder / WEIGHTS_FILE))
        text = json.dumps(asdict(self.description), indent=2)
        (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Read what `save` wrote, onto the CPU, in eval mode."""
        fields = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        description = Description(**{**fields, "classes": tuple(fields["classes"])})
        model = description.build()
        load_model(model, folder / WEIGHTS_FILE)
        return cls(model.eval().to(memory_format=torch.channels_last), description)

    def probabilities(
        self, pictures: Sequence[bytes | Image], batch_size: int = 32
    ) -> NDArray[np.float64]:
        """One row a picture, float64 (N, classes), for files' bytes or decoded RGB pictures.

        Raises:
            UnreadablePicture: bytes that are no picture, or one over the pixel limit.
        """
        if not pictures:
            return np.empty((0, len(self.description.classes)))
        preprocessing = Preprocessing(self.description.preprocessing)

        def tensor(picture: bytes | Image) -> Tensor:
            if isinstance(picture, bytes):
                picture = read_picture(picture, self.description.max_pixels)
            return preprocessing(picture)

        def batches() -> Iterator[Tensor]:
            for start in range(0, len(pictures), batch_size):
                yield torch.stack([tensor(p) for p in pictures[start : start + batch_size]])

        return predict_probabilities(self.model, batches(), torch.device("cpu"))
