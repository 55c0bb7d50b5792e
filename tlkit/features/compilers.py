"""Frozen layers as compiled code: by ONNX Runtime, OpenVINO or Inductor."""

import tempfile
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import openvino
import torch
from openvino.preprocess import PrePostProcessor
from torch import Tensor, nn

from tlkit.models.onnx import INPUT, write_onnx

Layers = Callable[[Tensor], Tensor]

# Pictures that one of OpenVINO's streams takes at a time. Its threads then need not wait for one
# another at each layer, which beside the workers that decode takes most of the time.
_PART = 4

ONNX_RUNTIME, OPENVINO, INDUCTOR = "onnxruntime", "openvino", "inductor"


def compiler_for(device: torch.device, dtype: torch.dtype) -> str:
    """On a CPU ONNX Runtime for float32 and OpenVINO for bfloat16, the fastest that were measured
    (docs/PERFORMANCE.md), neither of which needs a C compiler; on a GPU Inductor."""
    if device.type != "cpu":
        return INDUCTOR
    return ONNX_RUNTIME if dtype == torch.float32 else OPENVINO


@lru_cache
def unit_by_unit(compiler: str) -> bool:
    """Whether units have to be compiled one by one, or the bits of an output would depend on the
    cut that its pass began at.

    ONNX Runtime and Inductor join operations across units where they see both, and round what they
    keep to themselves otherwise. OpenVINO rounds what is between units as it rounds an output, but
    on a CPU without bfloat16, where it computes in float32.
    """
    if compiler == OPENVINO:
        return "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return True


@lru_cache
def compiler_version(compiler: str) -> str:
    """What its numbers depend on besides torch's version: a part of the key of an output."""
    return compiler if compiler == INDUCTOR else f"{compiler} {version(compiler)}"


def with_inductor(layers: nn.Module) -> Layers:
    """Compiled at the first call, for inputs of one shape."""

    def run(inputs: Tensor) -> Tensor:
        output: Tensor = layers(inputs)
        return output

    # Dynamo counts what it compiled by code object, and after eight for one of them (all modules
    # share theirs) it leaves the rest uncompiled without an error. So each has its own.
    run.__code__ = run.__code__.replace()
    # Without Inductor's `freezing`: as an option it does nothing, for Dynamo asks a global setting,
    # and with that Dynamo and sys.modules keep the weights of every part as long as the process.
    compiled: Layers = torch.compile(run, dynamic=False)
    return compiled


def with_onnxruntime(layers: nn.Module, example: Tensor, threads: int) -> Layers:
    """Compiled for float32 inputs of the shape of `example`.

    Raises whatever the exporter or ONNX Runtime say of layers that they cannot take.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
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


def with_openvino(layers: nn.Module, example: Tensor, threads: int, *, maps: bool) -> Layers:
    """Compiled for inputs of the shape, dtype and memory format of `example`; computes in bfloat16
    where the CPU does, and gives it.

    Raises whatever the exporter or OpenVINO say of layers that they cannot take.

    Args:
        example: (N, ...), N a multiple of 4.
        maps: outputs of four dimensions are (N, C, H, W); they are left as channels_last.
    """
    with (
        tempfile.TemporaryDirectory(prefix="tlkit-") as folder,
        torch.autocast("cpu", enabled=False),  # which format is used where is for OpenVINO to say
    ):
        file = Path(folder) / "layers.onnx"
        part = example[:_PART]
        write_onnx(layers, part.float().contiguous(), file)
        network = _core().read_model(str(file))
        edges = PrePostProcessor(network)
        last = example.ndim == 4 and example.is_contiguous(memory_format=torch.channels_last)
        edges.input().tensor().set_element_type(_TYPES[example.dtype])
        if last:
            edges.input().tensor().set_layout(_NHWC)
            edges.input().model().set_layout(_NCHW)
        edges.output().tensor().set_element_type(openvino.Type.bf16)
        if maps := maps and len(network.outputs[0].shape) == 4:
            edges.output().tensor().set_layout(_NHWC)
            edges.output().model().set_layout(_NCHW)
        options = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": min(threads, len(example) // _PART),
            # A thread that may not move would wait for the worker that decodes on its core.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = _core().compile_model(edges.build(), "CPU", options)
    requests = [compiled.create_infer_request() for _ in range(0, len(example), _PART)]
    shape = (len(example), *compiled.outputs[0].shape[1:])

    def run(inputs: Tensor) -> Tensor:
        given = (inputs.permute(0, 2, 3, 1) if last else inputs).contiguous()
        output = torch.empty(shape, dtype=torch.bfloat16)
        for index, request in enumerate(requests):
            own = slice(index * _PART, (index + 1) * _PART)
            request.set_input_tensor(_shared(given[own]))
            request.set_output_tensor(_shared(output[own]))
            request.start_async()
        for request in requests:
            request.wait()
        return output.permute(0, 3, 1, 2) if maps else output

    return run


@lru_cache
def _core() -> openvino.Core:
    """One for the process, which is never destroyed. Each gives the thread a stack for its signals,
    with room for the matrix units; of two that are destroyed in the order of their making, the
    second leaves that of the first in force, which is gone, and the next signal ends the process.
    """
    return openvino.Core()


_NCHW, _NHWC = openvino.Layout("NCHW"), openvino.Layout("NHWC")
_TYPES = {torch.float32: openvino.Type.f32, torch.bfloat16: openvino.Type.bf16}


def _shared(tensor: Tensor) -> openvino.Tensor:
    """The same memory; NumPy, which stands between, knows no bfloat16."""
    plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return openvino.Tensor(plain.numpy(), openvino.Shape(tensor.shape), _TYPES[tensor.dtype])


@lru_cache
def _make_arena() -> None:
    where = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(where, None)
