"""A trained classifier in a folder: safetensors weights, and JSON for all else."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from tlkit.data.transforms import Preprocessing, Views
from tlkit.files import write_json
from tlkit.models.backbones import create_model, to_channels_last
from tlkit.models.baseline import BaselineCNN
from tlkit.serving.predict import predict_probabilities

# Tensors that go through the network at a time, each a view of a picture.
BATCH = 32

WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "model.json"


def probability_columns(classes: Sequence[str]) -> list[str]:
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
        augment: what its training views were made by; with "none" there are no views to average.
        temperature: what logits are divided by before the softmax.
    """

    backbone: str
    image_size: int | None
    dropout: float
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    max_pixels: int
    augment: str
    temperature: float = 1.0

    @classmethod
    def load(cls, folder: Path) -> "Description":
        """That of a classifier in a folder."""
        fields = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        return cls(**{**fields, "classes": tuple(fields["classes"])})

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
        write_json(folder / DESCRIPTION_FILE, asdict(self.description))

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Read what `save` wrote, onto the CPU, in eval mode."""
        description = Description.load(folder)
        model = description.build()
        load_model(model, folder / WEIGHTS_FILE)
        to_channels_last(model.eval())
        return cls(model, description)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """From a picture to what the network takes."""
        return Preprocessing(self.description.preprocessing)

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the probabilities."""
        return self.description.classes

    def prepare(self, picture: Image, views: int = 1) -> Tensor:
        """An RGB picture as float32 (views, 3, H, W), normalised.

        The first view is the plain picture; the others are augmented as in training, always the
        same for the same picture.
        """
        content = hashlib.sha256(picture.tobytes()).hexdigest()
        augmented = Views(self.preprocessing, self.description.augment, seed=0)
        rendered = augmented.pictures(picture, content, [None, *range(1, views)])
        return torch.stack([self.preprocessing.tensor(view) for view in rendered])

    def classify(self, prepared: Sequence[Tensor]) -> NDArray[np.float64]:
        """Probabilities of what `prepare` gave, the mean over views: float64 (N, classes)."""
        if not prepared:
            return np.empty((0, len(self.classes)))
        device = next(self.model.parameters()).device
        rows = predict_probabilities(
            self.model,
            (
                some.to(device, memory_format=torch.channels_last, non_blocking=True)
                for some in torch.split(torch.cat(list(prepared)), BATCH)
            ),
            device,
            self.description.temperature,
        )
        mean: NDArray[np.float64] = rows.reshape(len(prepared), -1, len(self.classes)).mean(axis=1)
        return mean

    def calibrated(self, temperature: float) -> "Classifier":
        """The same network, whose probabilities are softmax(logits / temperature)."""
        return replace(self, description=replace(self.description, temperature=temperature))
