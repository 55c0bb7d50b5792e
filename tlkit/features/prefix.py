"""The frozen part of a network: what it computes, and all that its outputs depend on."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from tlkit.models.cut import between
from tlkit.models.units import units

# Pictures to a pass, always: a kernel may be chosen by the size of its batch, and then the bits of
# a picture's output depend on it. So short batches are padded, and an output is a function of its
# picture alone, whichever pictures were computed with it, before or after a restart.
PASS = 32

_PACKAGES = ("torch", "torchvision", "timm", "pillow")


@dataclass(frozen=True)
class Prefix:
    """The frozen units of a network, cut at several depths.

    Attributes:
        model: on `device`; the units below the shallowest depth must not change.
        depth: the cut whose outputs a suffix trains on; see `models.cut.split`.
        also: shallower cuts (greater depths) that the same pass can serve, for other runs.
        facts: JSON-able; what builds the network: its name and the size of its pictures.
        dtype: in which layers compute.
    """

    model: nn.Module
    depth: int
    also: tuple[int, ...]
    facts: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype

    @cached_property
    def whole(self) -> int:
        """The depth of all units, at which the outputs are the pictures."""
        return len(units(self.model))

    @cached_property
    def _stages(self) -> dict[tuple[int, int], nn.Module]:
        return {}

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
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "packages": {name: version(name) for name in _PACKAGES},
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
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        for above, depth in zip([start, *depths], depths, strict=False):
            with (
                torch.no_grad(),
                torch.autocast(
                    self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
                ),
            ):
                x = self._stage(above, depth)(x)
            yield x[:count]

    def rows(self, outputs: Tensor) -> Tensor:
        """Outputs as they are stored: maps of (N, C, H, W) as (N, H, W, C), which is how the layers
        leave them in memory and want them back."""
        return outputs.permute(0, 2, 3, 1) if self._maps(outputs) else outputs

    def inputs(self, rows: Tensor) -> Tensor:
        """Stored rows as the suffix takes them; no copy."""
        return rows.permute(0, 3, 1, 2) if self._maps(rows) else rows

    def _maps(self, outputs: Tensor) -> bool:
        return outputs.ndim == 4 and getattr(self.model, "output_fmt", "NCHW") == "NCHW"


def _padded(inputs: Tensor) -> Tensor:
    if len(inputs) == PASS:
        return inputs
    padding = inputs.new_zeros(PASS - len(inputs), *inputs.shape[1:])
    return torch.cat([inputs, padding])
