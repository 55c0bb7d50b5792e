"""What a machine makes of its matrix products: passes of the frozen part, and training steps.

    python -m benchmarks.rates [--backbone NAME] [--unfreeze_depth D] [--KEY VALUE ...]

Pictures are noise and weights are random. The ways take turns, and each has its median.
"""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import machine_name, median_seconds, start, training_step
from tlkit.cli import parse_flags
from tlkit.config import Config
from tlkit.features.prefix import PASS, Prefix
from tlkit.models.cut import split
from tlkit.models.freezing import train_suffix
from tlkit.phases.machine import Machine, machine_for
from tlkit.phases.network import build_network
from tlkit.training.allocator import keep_freed_memory
from tlkit.training.precision import autocast
from tlkit.training.seeding import seed_everything

ROUNDS = 5
# Rows and columns of the matrices whose product is taken for what a device can do: small ones leave
# a part of a card idle.
SIDES = {"cpu": 4096, "cuda": 8192}


@dataclass
class Way:
    """One way to compute the frozen part or a step.

    Attributes:
        dtype: of the matrix products that it is held against.
        operations: additions and multiplications.
        seconds: one a round.
    """

    name: str
    work: Callable[[], object]
    dtype: torch.dtype
    operations: int
    seconds: list[float] = field(default_factory=list)

    def row(self, peak: float) -> str:
        """A line of the table; `peak` in operations a second."""
        seconds = statistics.median(self.seconds)
        rate = self.operations / seconds
        return (
            f"| {self.name} | {1000 * seconds:.2f} | {PASS / seconds:,.0f} | "
            f"{rate / 1e9:,.0f} | {rate / peak:.0%} |"
        )


def product(machine: Machine, dtype: torch.dtype) -> Way:
    """A large matrix product."""
    side = SIDES[machine.device.type]
    left, right = (torch.randn(side, side, device=machine.device, dtype=dtype) for _ in range(2))
    return Way(_name("matrix product", dtype), lambda: left @ right, dtype, 2 * side**3)


def frozen_ways(model: nn.Module, pictures: Tensor, config: Config, machine: Machine) -> list[Way]:
    """A pass of the frozen part, in either precision, compiled and not."""
    frozen, _ = split(model, config.unfreeze_depth)
    operations = _operations(lambda: frozen(pictures))
    ways = []
    for dtype in _dtypes(machine):
        for compiled in (False, True):
            prefix = Prefix(
                model, config.unfreeze_depth, (), {}, machine.device, dtype, compiled=compiled
            )
            fault = prefix.compile_fault(pictures, prefix.whole) if compiled else ""
            if fault:
                print(f"{prefix.compiler}: {fault}", file=sys.stderr)
                continue
            ways.append(
                Way(
                    _name(prefix.compiler if compiled else "torch", dtype),
                    lambda prefix=prefix: list(
                        prefix.outputs(pictures, prefix.whole, [prefix.depth])
                    ),
                    dtype,
                    operations,
                )
            )
    return ways


def step_ways(model: nn.Module, pictures: Tensor, config: Config, machine: Machine) -> list[Way]:
    """A training step, by torch's own kernels and by ours."""
    frozen, suffix = split(model, config.unfreeze_depth)
    with torch.no_grad():
        outputs = frozen(pictures)
    train_suffix(suffix, moving_statistics=config.batch_norm == "moving")
    labels = torch.arange(PASS, device=machine.device) % 2
    operations = _operations(training_step(suffix, outputs, labels, nullcontext))
    ways = []
    for dtype in _dtypes(machine):
        inputs = outputs.to(dtype)
        contexts = {
            "torch": lambda dtype=dtype: torch.autocast(
                machine.device.type, dtype=dtype, enabled=dtype != torch.float32
            ),
            "tlkit": lambda dtype=dtype: autocast(machine.device, dtype),
        }
        ways += [
            Way(
                _name(who, dtype), training_step(suffix, inputs, labels, context), dtype, operations
            )
            for who, context in contexts.items()
        ]
    return ways


def _dtypes(machine: Machine) -> list[torch.dtype]:
    return sorted({torch.float32, machine.dtype}, key=lambda dtype: dtype != torch.float32)


def _name(who: str, dtype: torch.dtype) -> str:
    return f"{who}, {str(dtype).removeprefix('torch.')}"


def _operations(work: Callable[[], object]) -> int:
    own = {torch.ops.aten.convolution_backward: _of_convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=own) as counter:
        work()
    return int(counter.get_total_flops())


def _of_convolution_backward(
    gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """As many as forward for each of the gradients by input and by weight; torch's own formula does
    not know of groups."""
    wanted = rest[7]
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * sum(wanted[:2])


def main() -> None:
    flags = {"weights": "none", "unfreeze_depth": "5", **parse_flags(sys.argv[1:])}
    config = Config.load(None, flags)
    machine = machine_for(config)
    keep_freed_memory()
    seed_everything(config.seed, machine.threads, machine.device)
    network = build_network("finetune", config, ("one", "other"))
    model = network.classifier.model.to(machine.device, memory_format=torch.channels_last)
    size = network.classifier.description.preprocessing["input_size"]
    pictures = torch.randn(PASS, *size, device=machine.device)
    products = [product(machine, dtype) for dtype in _dtypes(machine)]
    frozen = frozen_ways(model, pictures, config, machine)
    steps = step_ways(model, pictures, config, machine)
    for _ in range(ROUNDS):
        for way in (*products, *frozen, *steps):
            way.seconds.append(median_seconds(way.work, machine.device, repeats=3))
    peaks = {way.dtype: way.operations / statistics.median(way.seconds) for way in products}
    print(
        f"{machine_name()}; {config.backbone}, {config.unfreeze_depth} units train, {PASS} pictures"
    )
    for way in products:
        side = SIDES[machine.device.type]
        print(f"{way.name}, {side} rows and columns: {peaks[way.dtype] / 1e9:,.0f} GFLOP/s")
    for title, ways in (("frozen part", frozen), ("training step", steps)):
        print(f"| {title} | ms | pictures/s | GFLOP/s | of the matrix products' |")
        print("|---|---|---|---|---|")
        for way in ways:
            print(way.row(peaks[way.dtype]))


if __name__ == "__main__":
    start(main)
