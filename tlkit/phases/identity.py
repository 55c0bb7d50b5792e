"""When two trainings are the same."""

import hashlib
import json
from functools import lru_cache

import torch

from tlkit.config import Config
from tlkit.data.transforms import AUGMENTATION_REVISION
from tlkit.features.prefix import package_versions
from tlkit.files import PACKAGE
from tlkit.phases.machine import Machine
from tlkit.phases.network import Network
from tlkit.phases.prepare import Phase
from tlkit.training.loop import CRITERION

# What a head depends on, besides the data, the network and the machine: runs that agree in these
# have the same head, and finetune may begin from either.
HEAD_KEYS = (
    "augment",
    "views",
    "backbone",
    "dropout",
    "head_epochs",
    "head_lr",
    "weight_decay",
    "label_smoothing",
    "class_weights",
    "batch_size",
    "accumulate",
    "head_schedule",
    "warmup_epochs",
    "early_stopping",
    "engine",
    "compile",
    "seed",
    "pictures_seed",
)

# What an interrupted training may go on without: it changes no number. What `init_from` gave is in
# the weights.
_WITHOUT_EFFECT = ("init_from", "loader_workers", "store_gigabytes")


def head_settings(config: Config, network: Network, machine: Machine) -> str:
    """A hash over all that a head depends on besides the data."""
    values = {key: getattr(config, key) for key in HEAD_KEYS}
    # What these came to, whether they were given or "auto".
    values |= {
        "weights": network.weights,
        "preprocessing": network.classifier.description.preprocessing,
        "numbers": machine.numbers,
        "threads": machine.threads,
    }
    values["kept_by"] = CRITERION  # which of its epochs
    if config.augment != "none":
        values["augmentation_revision"] = AUGMENTATION_REVISION
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def training_key(phase: Phase) -> str:
    """A hash over all that a training depends on: whoever has the same may go on with it."""
    network, machine, config = phase.network, phase.machine, phase.config.as_dict()
    begun = hashlib.sha256()
    for name, value in sorted(network.state().items()):
        begun.update(name.encode())
        begun.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    facts = {
        "phase": phase.name,
        "config": {key: v for key, v in config.items() if key not in _WITHOUT_EFFECT},
        "data": phase.manifest.digest,
        "weights": network.weights,
        "begun": begun.hexdigest(),
        "numbers": [machine.numbers, machine.threads, machine.fast_kernels],
        "packages": package_versions(),
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache
def _code_digest() -> str:
    """Of tlkit as it is here: other code may train another way."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
