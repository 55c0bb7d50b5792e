"""A stand-in for a CUDA card, for machines that have none.

`python stand_in_card.py BYTES NAME ...` runs `python -m experiments.NAME ...` with a card that has
so much memory free. What lies on it lies in the processor's memory, which computes with it; but it
says that it is on a card, and what mixes it with tensors that are not raises an error, as there. Of
a card's numbers, kernels, streams and speed it shows nothing.
"""

import runpy
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

CARD = torch.device("cuda", 0)

# What takes tensors that are elsewhere on a card too: a copy, and indices.
_MIXED = (torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor)


class CardTensor(Tensor):
    """To Python on a card; to C++ on the processor, for autograd would ask a card for its streams.

    Attributes:
        own: the tensor that is computed with.
    """

    own: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, own: Tensor) -> "CardTensor":
        made: CardTensor = Tensor._make_wrapper_subclass(
            cls, own.size(), strides=own.stride(), storage_offset=own.storage_offset(),
            dtype=own.dtype, device=own.device,
        )  # fmt: skip
        made.own = own
        return made

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = {k: v for k, v in (kwargs or {}).items() if k not in ("device", "pin_memory")}
        given: dict[int, CardTensor] = {}
        for leaf in tree_leaves((args, options)):
            if isinstance(leaf, cls):
                given[id(leaf.own)] = leaf
            elif isinstance(leaf, Tensor) and func not in _MIXED and (leaf.ndim or _writes(func)):
                raise RuntimeError(f"{func}: expected all tensors to be on the same device")
        args, options = tree_map_only(cls, lambda tensor: tensor.own, (args, options))
        # What is changed in place stays the tensor that it was.
        return tree_map_only(
            Tensor,
            lambda own: given[id(own)] if id(own) in given else cls(own),
            func(*args, **options),
        )

    @property
    def device(self) -> torch.device:
        return CARD

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: "CardTensor") -> None:
        self.own = value.own
        Tensor.data.__set__(self, value)  # its shape and strides

    def cpu(self) -> Tensor:
        return self.own.clone()

    def to(self, *given: Any, **options: Any) -> Tensor:
        where = options.pop("device", None)
        if given and isinstance(given[0], str | torch.device):
            where, *given = given
        if where is not None and torch.device(where).type == "cpu":
            return self.cpu().to(*given, **options)
        return super().to(*given, **options) if given or options.keys() - {"non_blocking"} else self

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor on a card to numpy; use Tensor.cpu() first")

    # What safetensors looks at to find weights that share memory.

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.own.untyped_storage()

    def storage(self) -> Any:
        return self.own.storage()

    def data_ptr(self) -> int:
        return self.own.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = type(self)(self.own.clone()).requires_grad_(self.requires_grad)
            memo[id(self)] = nn.Parameter(copied) if isinstance(self, nn.Parameter) else copied
        return memo[id(self)]


def _writes(func: Any) -> bool:
    """Whether an operation changes what it is given: a card reads a number that is elsewhere, but
    writes to none."""
    return bool(func._schema.is_mutable)


def plug_in(free: int) -> torch.library.Library:
    """Give this process a card with so many bytes free, as long as the result lives."""
    properties = SimpleNamespace(name="stand-in", major=8, minor=0, total_memory=free)
    facts = {
        "is_available": True, "is_bf16_supported": True, "is_current_stream_capturing": False,
        "get_device_properties": properties, "get_device_name": properties.name,
        "get_device_capability": (8, 0), "get_arch_list": ["sm_80"],
        "mem_get_info": (free, free), "_lazy_init": None,
    }  # fmt: skip
    for name, value in facts.items():
        setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    torch.backends.cudnn.version = lambda: 0
    torch._C._ensureCUDADeviceGuardSet()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    # The processor's random numbers, number formats and memory.
    torch.cuda.get_rng_state = lambda device: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, device: torch.set_rng_state(state)
    autocast, to = torch.autocast, Tensor.to
    torch.autocast = lambda device_type, **options: autocast("cpu", **options)
    Tensor.pin_memory = lambda tensor, *_: tensor

    def to_or_as(tensor: Tensor, *given: Any, **options: Any) -> Tensor:
        if given and isinstance(given[0], Tensor):
            given = (given[0].device, given[0].dtype, *given[1:])
        return to(tensor, *given, **options)

    Tensor.to = to_or_as

    def empty(
        size: Sequence[int], *, dtype: Any = None, memory_format: Any = None, **_: Any
    ) -> Any:
        form = memory_format or torch.contiguous_format
        return CardTensor(torch.empty(size, dtype=dtype, memory_format=form))

    def empty_strided(
        size: Sequence[int], stride: Sequence[int], *, dtype: Any = None, **_: Any
    ) -> Any:
        return CardTensor(torch.empty_strided(size, stride, dtype=dtype))

    kernels = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a build for cards has such kernels
        kernels.impl("empty.memory_format", empty, "CUDA")
        kernels.impl("empty_strided", empty_strided, "CUDA")
    return kernels


if __name__ == "__main__":
    card = plug_in(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(__file__).parents[1])
    runpy.run_module(f"experiments.{sys.argv[0]}", run_name="__main__")
