"""What a run was computed with: packages, machine, state of the code."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tlkit.phases.machine import Machine
from tlkit.tracking.run import SERVING_PACKAGES

# Of training; besides what a served model imports, what computes the frozen part, searches and
# statistics.
_PACKAGES = (*SERVING_PACKAGES, "onnxruntime", "openvino", "optuna", "scikit-learn", "scipy")


def environment(machine: Machine) -> dict[str, Any]:
    """JSON-able facts, for whoever wants to compute the same again."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(machine.device),
        **_card(machine.device),
        "dtype": str(machine.dtype),
        "threads": machine.threads,
        "packages": {name: version(name) for name in _PACKAGES},
        "git": _git_state(Path(__file__).parent),
    }


def _card(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    facts = torch.cuda.get_device_properties(device)
    return {
        "card": facts.name,
        "card_capability": f"{facts.major}.{facts.minor}",
        "card_bytes": facts.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _git_state(root: Path) -> dict[str, Any]:
    """Commit and whether files differ from it; empty where `root` is no git checkout."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
