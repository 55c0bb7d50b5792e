"""Weights as safetensors beside JSON files that say what they are. No pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tlkit.files import atomic_file, write_json
from tlkit.training.loop import Result

_RESULT = "result.json"


def save_checkpoint(path: Path, state: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write `path`.safetensors and `path`.json, each whole or not at all.

    Args:
        path: without an ending; its folder exists.
        state: tensors by name, on any device.
        facts: JSON-able, such as the epoch and its metrics.
    """
    with atomic_file(path.with_suffix(".safetensors")) as part:
        save_file(separate(state), part)
    with atomic_file(path.with_suffix(".json")) as part:
        write_json(part, facts)


def separate(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as safetensors takes them: on the CPU, dense, those that are tied each by itself."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        tensors[name] = own.clone() if own.data_ptr() in seen else own
        seen.add(own.data_ptr())
    return tensors


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote, on the CPU."""
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return load_file(path.with_suffix(".safetensors")), facts


def save_result(folder: Path, result: Result) -> None:
    """Write, beside its checkpoints, how a training went that came to its end."""
    with atomic_file(folder / _RESULT) as part:
        write_json(part, asdict(result))


def load_result(folder: Path) -> Result | None:
    """Read what `save_result` wrote; None where there is none."""
    path = folder / _RESULT
    return Result(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
