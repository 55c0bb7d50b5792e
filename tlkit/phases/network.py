"""The network of a phase before training."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.models.backbones import create_model, data_config
from tlkit.models.freezing import freeze, trained_names
from tlkit.models.weights import load_weights
from tlkit.serving.classifier import Classifier, Description
from tlkit.training.checkpoints import load_checkpoint


@dataclass(frozen=True)
class Network:
    """A classifier, and how much of it trains.

    Attributes:
        depth: units from the top that train, with the head; None: the whole network.
        weights: hash of the weights before any training; "none" for the baseline, which has none.
        head: names of the parameters that learn at the head's rate.
        trained: names of the state that training may change.
        begun: names of the state that another training has changed.
    """

    classifier: Classifier
    depth: int | None
    weights: str
    head: frozenset[str]
    trained: frozenset[str]
    begun: frozenset[str] = frozenset()

    def parameters(self, *, trainable: bool) -> int:
        """How many numbers the network has, or how many of them train."""
        return sum(
            parameter.numel()
            for name, parameter in self.classifier.model.named_parameters()
            if name in self.trained or not trainable
        )

    @property
    def image_size(self) -> int:
        """Side in pixels of what it takes."""
        return int(self.classifier.description.preprocessing["input_size"][-1])

    def state(self) -> dict[str, torch.Tensor]:
        """What this or another training may have changed, by name."""
        every, changed = self.classifier.model.state_dict(), self.trained | self.begun
        return {name: value for name, value in every.items() if name in changed}

    def origin(self) -> dict[str, Any]:
        """What must agree for one network's trained state to fit into another; JSON-able."""
        description = self.classifier.description
        return {
            "backbone": description.backbone,
            "weights": self.weights,
            "classes": list(description.classes),
        }


def build_network(phase: str, config: Config, classes: tuple[str, ...]) -> Network:
    """The network of a phase before training, frozen as far as the phase wants.

    Raises:
        UserError: an unknown backbone, weights that do not fit or cannot be had, a depth beyond
            the backbone's units.
    """
    size = None if config.image_size == "auto" else int(config.image_size)
    backbone = create_model(
        config.backbone, num_classes=len(classes), dropout=config.dropout, image_size=size
    )
    description = Description(
        backbone=config.backbone,
        image_size=size,
        dropout=config.dropout,
        classes=classes,
        preprocessing=data_config(backbone),
        max_pixels=config.max_pixels,
        augment=config.augment,
    )
    if phase == "baseline":
        side = config.baseline_image_size
        # The same crop of the picture as the backbone sees, in fewer pixels.
        preprocessing = {**description.preprocessing, "input_size": [3, side, side]}
        description = replace(
            description, backbone="baseline", image_size=side, preprocessing=preprocessing
        )
        model = description.build()
        names = frozenset(model.state_dict())
        return Network(Classifier(model, description), None, "none", names, names)
    depth = config.unfreeze_depth if phase == "finetune" else 0
    freeze(backbone, depth)
    weights = load_weights(backbone, config.backbone, config.weights)
    return Network(
        Classifier(backbone, description),
        depth,
        weights,
        head=trained_names(backbone, 0),
        trained=trained_names(backbone, depth),
    )


def refuse_network(phase: str, config: Config) -> None:
    """Raise as `build_network`, before there are pictures: looking at them can take long."""
    build_network(phase, config, ("", ""))


def begin_from(network: Network, checkpoint: Path, run_id: str) -> Network:
    """The network with the state that another run trained, loaded in place.

    Raises:
        UserError: that run had another backbone, other weights or other classes.
    """
    state, facts = load_checkpoint(checkpoint)
    for name, own in network.origin().items():
        if facts[name] != own:
            theirs = facts[name]
            if name == "weights":  # which follow the size where a network embeds positions
                theirs = f"{theirs} at image_size {facts.get('image_size', 'unknown')}"
                own = f"{own} at image_size {network.image_size}"
            raise UserError(
                f"init_from={run_id} was trained with {name} {theirs} and this run has {own}; "
                "make them agree, or use init_from=auto"
            )
    network.classifier.model.load_state_dict(state, strict=False)
    return replace(network, begun=network.begun | frozenset(state))
