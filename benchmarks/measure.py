"""A measurement in a process of its own, with a cache of its own that is gone after it."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def in_own_process(module: str, arguments: dict[str, Any], data_cache: Path) -> dict[str, Any]:
    """Run `python -m MODULE --child JSON` with an empty store and return the JSON it ends with.

    Args:
        data_cache: extracted or drawn pictures, which are shared: preparing them is not measured.
    """
    with tempfile.TemporaryDirectory(prefix="tlkit-benchmark-") as folder:
        (Path(folder) / "data").symlink_to(data_cache, target_is_directory=True)
        done = subprocess.run(
            [sys.executable, "-m", module, "--child", json.dumps(arguments)],
            cwd=ROOT,
            env={**os.environ, "TLKIT_CACHE": folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def child_arguments() -> dict[str, Any] | None:
    """What `in_own_process` gave this process, or None in the process that was started by hand."""
    if "--child" not in sys.argv:
        return None
    arguments: dict[str, Any] = json.loads(sys.argv[sys.argv.index("--child") + 1])
    return arguments


def machine() -> str:
    """Cores and processor, for the head of a table."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    return f"{cores} cores of {name}"


def median(values: Sequence[float]) -> float:
    """The middle of the repeats."""
    return statistics.median(values)
