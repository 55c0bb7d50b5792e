"""Where, and in which numbers, a run computes."""

from dataclasses import dataclass

import torch

from tlkit.config import Config
from tlkit.training.precision import resolve_device, resolve_precision
from tlkit.training.seeding import available_cores


@dataclass(frozen=True)
class Machine:
    """Where, and in which numbers, a run computes.

    Attributes:
        dtype: in which layers compute during training.
        fast_kernels: whether a CPU computes by tlkit's own kernels.
        threads: of torch.
        workers: processes that decode pictures.
    """

    device: torch.device
    dtype: torch.dtype
    fast_kernels: bool
    threads: int
    workers: int

    @property
    def numbers(self) -> str:
        """The kind of device, and the format it computes in: another one gives other digits."""
        return f"{self.device.type}, {self.dtype}"


def machine_for(config: Config) -> Machine:
    """Resolve every `auto` that depends on the machine."""
    device = resolve_device(config.device)
    cores = available_cores()
    return Machine(
        device,
        resolve_precision("fp32" if config.engine == "plain" else config.precision, device),
        fast_kernels=config.engine != "plain",
        threads=cores if config.threads == "auto" else int(config.threads),
        workers=min(8, cores) if config.loader_workers == "auto" else int(config.loader_workers),
    )
