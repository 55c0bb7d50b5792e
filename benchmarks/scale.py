"""Time and memory of filling the store and training on it, against the number of pictures.

    python -m benchmarks.scale [--pictures 1000] [--KEY VALUE ...]

Pictures of noise, 1, 4 and 16 times as many. Memory is what the process cannot give back: anonymous
pages, without the mapped store.
"""

import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import in_own_process, machine_name, start, take, train_both_phases
from tlkit.cli import parse_flags
from tlkit.config import Config
from tlkit.phases.machine import machine_for
from tlkit.runs.prepare import prepare_data

RECIPE = {
    "backbone": "test_efficientnet",
    "weights": "none",
    "head_epochs": "3",
    "finetune_epochs": "3",
    "unfreeze_depth": "2",
    "early_stopping": "0",
}
TIMES = (1, 4, 16)


def make_pictures(root: Path, count: int) -> None:
    """`count` training pictures of 96 px in two classes, and a tenth for validation and test."""
    generator = np.random.default_rng(0)
    for split, some in (("train", count), ("val", count // 10), ("test", 20)):
        for index in range(some):
            folder = root / split / ("cat", "dog")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 255, (96, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.jpg", quality=90)


class Memory:
    """The most anonymous memory of this process while the block lasts; Linux only."""

    def __enter__(self) -> "Memory":
        self.peak, self._ends = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(0.05):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.peak = max(self.peak, int(line.split()[1]) * 1024 / 1e9)


def measure(arguments: dict[str, Any]) -> dict[str, Any]:
    """Head and finetune: seconds, and the peak of memory in GB, which includes that of preparing
    the data."""
    config = Config.load(None, arguments)
    with Memory() as memory:
        manifest = prepare_data(config).manifest
        seconds, _ = train_both_phases(config, manifest, machine_for(config))
    return {"seconds": seconds, "gigabytes": memory.peak}


def main() -> None:
    flags = parse_flags(sys.argv[1:])
    count = take(flags, "pictures", 1000)
    Config.load(None, {**RECIPE, **flags})  # refuses before pictures are made
    print(f"{machine_name()}; {RECIPE['backbone']}")
    print("| pictures | seconds | seconds per 1000 | GB |")
    print("|---|---|---|---|")
    for times in TIMES:
        with tempfile.TemporaryDirectory(prefix="tlkit-pictures-") as root:
            make_pictures(Path(root), times * count)
            own = {**RECIPE, **flags, "data": root}
            found = in_own_process("benchmarks.scale", own)
        rate = found["seconds"] / times / count * 1000
        print(f"| {times * count:,} | {found['seconds']:.0f} | {rate:.1f} | "
              f"{found['gigabytes']:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    start(main, measure)
