"""A network as an ONNX file."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

INPUT, OUTPUT = "pictures", "probabilities"


def write_onnx(model: nn.Module, example: Tensor, file: Path, *, any_number: bool = False) -> None:
    """Write a network of one input and one output, called INPUT and OUTPUT.

    Raises whatever the exporter says of layers that it cannot take.

    Args:
        example: an input, float32 (N, ...).
        any_number: the file takes any N, not that of the example alone.
    """
    axes = {INPUT: {0: "n"}, OUTPUT: {0: "n"}} if any_number else None
    with warnings.catch_warnings():
        # That it is the older exporter, which is nine times as fast.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(file),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes=axes,
            dynamo=False,
        )
