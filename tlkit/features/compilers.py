"""Frozen layers as compiled code, by ONNX Runtime or by Inductor."""

import tempfile
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from tlkit.models.onnx import INPUT, write_onnx

Layers = Callable[[Tensor], Tensor]

ONNX_RUNTIME, INDUCTOR = "onnxruntime", "inductor"


def compiler_for(device: torch.device, dtype: torch.dtype) -> str:
    """ONNX Runtime for float32 on a CPU, where it is the fastest that was measured and needs no C++
    compiler (docs/PERFORMANCE.md); Inductor for a GPU, and for bfloat16, of which ONNX Runtime has
    few kernels on a CPU."""
    return ONNX_RUNTIME if device.type == "cpu" and dtype == torch.float32 else INDUCTOR


def compiler_version(compiler: str) -> str:
    """What its numbers depend on besides torch's version: a part of the key of an output."""
    return f"{compiler} {version(compiler)}" if compiler == ONNX_RUNTIME else compiler


def with_inductor(layers: nn.Module) -> Layers:
    """Compiled at the first call, for inputs of one shape."""
    # Frozen weights are constants: batch norms are folded into the convolutions.
    compiled: Layers = torch.compile(layers, dynamic=False, options={"freezing": True})
    return compiled


def with_onnxruntime(layers: nn.Module, example: Tensor) -> Layers:
    """Compiled for float32 inputs of the shape of `example`, on as many threads as torch has now.

    Raises whatever the exporter or ONNX Runtime say of layers that they cannot take.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # There are several such sessions. Threads that spin while they wait for work would take the
    # cores from one another, and from the workers that decode pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # One arena for all, for each would keep the most memory that it ever took.
    _make_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    with tempfile.TemporaryDirectory(prefix="tlkit-") as folder:
        file = Path(folder) / "layers.onnx"
        write_onnx(layers, example, file)
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)

    def run(inputs: Tensor) -> Tensor:
        [output] = session.run(None, {INPUT: inputs.contiguous().numpy()})
        return torch.from_numpy(output)

    return run


@lru_cache
def _make_arena() -> None:
    where = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(where, None)
