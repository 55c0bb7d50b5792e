"""A phase ready to be trained: network, pictures, machine."""

from dataclasses import dataclass, replace
from pathlib import Path

from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.data.transforms import Views
from tlkit.features.inputs import Pictures
from tlkit.phases.machine import Machine
from tlkit.phases.network import Network, begin_from, build_network
from tlkit.training.allocator import keep_freed_memory
from tlkit.training.seeding import seed_everything

PHASES = ("baseline", "head", "finetune")


@dataclass(frozen=True)
class Phase:
    """All that a training depends on.

    Attributes:
        name: one of PHASES.
    """

    name: str
    config: Config
    machine: Machine
    network: Network
    pictures: Pictures

    @property
    def manifest(self) -> Manifest:
        """Of the pictures."""
        return self.pictures.manifest

    @property
    def epochs(self) -> int:
        """How many it trains at most."""
        return int(getattr(self.config, f"{self.name}_epochs"))

    def begun_from(self, checkpoint: Path, run_id: str) -> "Phase":
        """With the state that another run trained, loaded in place; raises as `begin_from`."""
        return replace(self, network=begin_from(self.network, checkpoint, run_id))


def prepare_phase(name: str, config: Config, manifest: Manifest, machine: Machine) -> Phase:
    """A phase before training, its network always the same for a seed.

    Raises UserError as `build_network` does.
    """
    keep_freed_memory()
    seed_everything(config.seed, machine.threads, machine.device)
    network = build_network(name, config, manifest.classes)
    return Phase(name, config, machine, network, pictures_for(config, manifest, network, machine))


def pictures_for(
    config: Config, manifest: Manifest, network: Network, machine: Machine
) -> Pictures:
    """The pictures as this network wants them."""
    return Pictures(
        manifest=manifest,
        views=Views(network.classifier.preprocessing, config.augment, config.pictures_seed),
        count=config.views,
        max_pixels=config.max_pixels,
        workers=machine.workers,
        for_gpu=machine.device.type == "cuda",
    )
