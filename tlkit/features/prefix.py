"""The frozen part of a network: what it computes, and all that its outputs depend on."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tlkit.data.transforms import Preprocessing
from tlkit.errors import reason
from tlkit.features.compilers import (
    INDUCTOR,
    ONNX_RUNTIME,
    OPENVINO,
    Layers,
    compiler_for,
    compiler_version,
    unit_by_unit,
    with_inductor,
    with_onnxruntime,
    with_openvino,
)
from tlkit.models.cut import between
from tlkit.models.units import units

# Pictures to a pass, always: a kernel may be chosen by the size of its batch, and then the bits of
# a picture's output depend on it. So short batches are padded, and an output is a function of its
# picture alone, whichever pictures were computed with it, before or after a restart.
PASS = 32

# Outputs from which on compiling pays; by their number and no clock, for the same command is to
# give the same bits. ONNX Runtime and OpenVINO take a few seconds. Inductor takes 30 s and saves a
# third of each pass (on a CPU, docs/PERFORMANCE.md), so that passes have to take 90 s. At 29 ms a
# pass, a guess for a card, these do.
_LEAST, _LEAST_FOR_INDUCTOR = 200, 100_000

_PACKAGES = ("torch", "torchvision", "timm", "pillow")


class Frozen(Protocol):
    """What a store is filled from."""

    @property
    def depth(self) -> int:
        """The cut whose outputs are wanted."""

    @property
    def also(self) -> tuple[int, ...]:
        """Shallower cuts that the same pass can serve."""

    @property
    def whole(self) -> int:
        """The depth at which the outputs are the pictures."""

    @property
    def own_threads(self) -> bool:
        """Whether its outputs are computed by other threads than torch's."""

    def key(self, depth: int, rendition: Mapping[str, Any]) -> dict[str, Any]:
        """What an output depends on besides the picture."""

    def outputs(self, inputs: Tensor, start: int, depths: list[int]) -> Iterator[Tensor]:
        """The outputs at several depths, from those at `start`."""

    def rows(self, outputs: Tensor) -> Tensor:
        """Outputs as they are stored."""

    def inputs(self, rows: Tensor) -> Tensor:
        """Stored rows as the trained part takes them."""


@dataclass(frozen=True)
class NoPrefix:
    """The frozen part of a network that is trained whole: its outputs are the pictures.

    They are stored as bytes, so that they are decoded and augmented once.
    """

    preprocessing: Preprocessing
    depth: int = 0
    also: tuple[int, ...] = ()
    whole: int = 1
    own_threads: bool = False

    def key(self, depth: int, rendition: Mapping[str, Any]) -> dict[str, Any]:
        return {"rendition": dict(rendition), "packages": package_versions()}

    def outputs(self, inputs: Tensor, start: int, depths: list[int]) -> Iterator[Tensor]:
        yield inputs

    def rows(self, outputs: Tensor) -> Tensor:
        return self.preprocessing.to_bytes(outputs)

    def inputs(self, rows: Tensor) -> Tensor:
        return self.preprocessing.from_bytes(rows)


@dataclass(frozen=True)
class Prefix:
    """The frozen units of a network, cut at several depths.

    Attributes:
        model: on `device`; the units below the shallowest depth must not change.
        depth: the cut whose outputs a suffix trains on; see `models.cut.split`.
        also: shallower cuts (greater depths) that the same pass can serve, for other runs.
        facts: JSON-able; what builds the network: its name.
        dtype: in which layers compute.
        compiled: whether passes run as compiled code, whose bits differ a little.
        threads: that such code has, where it does not run on torch's.
    """

    model: nn.Module
    depth: int
    also: tuple[int, ...]
    facts: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    compiled: bool = False
    threads: int = field(default_factory=torch.get_num_threads)

    @cached_property
    def whole(self) -> int:
        """The depth of all units, at which the outputs are the pictures."""
        return len(units(self.model))

    @cached_property
    def _stages(self) -> dict[tuple[int, int], nn.Module]:
        return {}

    @cached_property
    def compiler(self) -> str:
        """The name of the compiler for where this one computes."""
        return compiler_for(self.device, self.dtype)

    @property
    def own_threads(self) -> bool:
        """Whether ONNX Runtime or OpenVINO compute it."""
        return self.compiled and self.compiler != INDUCTOR

    @cached_property
    def _compiled(self) -> dict[tuple[int, int], Layers]:
        return {}

    def _run(self, x: Tensor, start: int, end: int) -> Tensor:
        """The output of the cut at `end` for that of the cut at `start`, of PASS pictures."""
        by_unit = self.compiled and unit_by_unit(self.compiler)
        torch_computes = not (by_unit and self.own_threads)
        if torch_computes and x.ndim == 4 and (start == self.whole or self._channels_first):
            x = x.contiguous(memory_format=torch.channels_last)
        for above, below in pairwise(range(start, end - 1, -1) if by_unit else (start, end)):
            x = self._layers(above, below, x)(x)
        return x

    def _layers(self, start: int, end: int, example: Tensor) -> Layers:
        """What computes the units between two cuts, for inputs like `example`."""
        stage = self._stage(start, end)
        if not self.compiled:
            return stage
        if (start, end) not in self._compiled:
            self._compiled[start, end] = self._compile(stage, example)
        return self._compiled[start, end]

    def _compile(self, stage: nn.Module, example: Tensor) -> Layers:
        if self.compiler == ONNX_RUNTIME:
            return with_onnxruntime(stage, example, self.threads)
        if self.compiler == OPENVINO:
            return with_openvino(stage, example, self.threads, maps=self._channels_first)
        return with_inductor(stage)

    def _stage(self, start: int, end: int) -> nn.Module:
        if (start, end) not in self._stages:
            self._stages[start, end] = between(self.model, start, end)
        return self._stages[start, end]

    @cached_property
    def _hashes(self) -> dict[int, str]:
        """By depth, a hash over all parameters and buffers of the units below the cut."""
        digest = hashlib.sha256()
        found = {self.whole: digest.hexdigest()}
        for depth in range(self.whole - 1, self.depth - 1, -1):
            for name, value in self._stage(depth + 1, depth).state_dict().items():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                flat = value.detach().cpu().contiguous().view(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
            found[depth] = digest.hexdigest()
        return found

    def key(self, depth: int, rendition: Mapping[str, Any]) -> dict[str, Any]:
        """What an output depends on besides the picture: a key for the store.

        Args:
            rendition: JSON-able; how a picture becomes the network's input.
        """
        return {
            **self.facts,
            "frozen_units": self.whole - depth,
            "pooled": depth == 0,
            "weights": self._hashes[depth],
            "rendition": dict(rendition),
            "device": _name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "compiled": self.compiled and compiler_version(self.compiler),
            "packages": package_versions(),
        }

    def outputs(self, inputs: Tensor, start: int, depths: list[int]) -> Iterator[Tensor]:
        """The outputs at several depths, in one pass.

        Args:
            inputs: at most PASS pictures, float32 (N, 3, H, W), or outputs of the cut at `start`.
            start: the depth of the cut that `inputs` come from; `whole` for pictures.
            depths: descending, below `start`.

        Yields:
            (N, ...) for each depth, on `device`, in the dtype that the layers give.
        """
        count = len(inputs)
        x = _padded(inputs.to(self.device, non_blocking=True))
        for above, depth in zip([start, *depths], depths, strict=False):
            with (
                torch.no_grad(),
                torch.autocast(
                    self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
                ),
            ):
                x = self._run(x, above, depth)
            yield x[:count]

    def pays_to_compile(self, count: int) -> bool:
        """Whether so many outputs take so long that compiling saves time."""
        return count >= (_LEAST_FOR_INDUCTOR if self.compiler == INDUCTOR else _LEAST)

    def compile_fault(self, inputs: Tensor, start: int) -> str:
        """Compile by a pass; why that is not possible here, or nothing.

        Args:
            inputs, start: as `outputs` takes them.
        """
        depths = sorted({self.depth, *self.also}, reverse=True)
        try:
            list(self.outputs(inputs, start, [depth for depth in depths if depth < start]))
        except Exception as error:  # whatever the compiler of this machine comes up with
            return reason(error)
        return ""

    def rows(self, outputs: Tensor) -> Tensor:
        """Outputs as they are stored: maps of (N, C, H, W) as (N, H, W, C), which is how the layers
        leave them in memory and want them back."""
        return outputs.permute(0, 2, 3, 1) if self._maps(outputs) else outputs

    def inputs(self, rows: Tensor) -> Tensor:
        """Stored rows as the suffix takes them; no copy."""
        return rows.permute(0, 3, 1, 2) if self._maps(rows) else rows

    def _maps(self, outputs: Tensor) -> bool:
        return outputs.ndim == 4 and self._channels_first

    @property
    def _channels_first(self) -> bool:
        """Whether the maps between units are (N, C, H, W)."""
        return getattr(self.model, "output_fmt", "NCHW") == "NCHW"


def _name(device: torch.device) -> str:
    """What computes: cards of two kinds choose other kernels."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@lru_cache  # each reads a file, and a run asks a hundred times
def package_versions() -> dict[str, str]:
    """Of the packages that outputs depend on."""
    return {name: version(name) for name in _PACKAGES}


def _padded(inputs: Tensor) -> Tensor:
    if len(inputs) == PASS:
        return inputs
    padding = inputs.new_zeros(PASS - len(inputs), *inputs.shape[1:])
    return torch.cat([inputs, padding])
