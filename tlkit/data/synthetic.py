"""The synthetic data set: cartoon cats against cartoon dogs in a folder, with no network."""

import multiprocessing
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tlkit.data.cartoons.picture import draw_picture
from tlkit.data.manifest import SPLITS
from tlkit.files import atomic_folder

# Goes up when a seed comes to give other bytes, so that no cached folder outlives a change.
VERSION = 1

CLASSES = ("cat", "dog")
COUNTS = {"train": 1000, "val": 200, "test": 200}

# Each split draws from a range of numbers of its own, so that its size changes no other's pictures.
_RANGE = 1_000_000


def make_synthetic(root: Path, seed: int, counts: Mapping[str, int] = COUNTS) -> Path:
    """Draw `counts` pictures a split, as many cats as dogs, into root/SPLIT/CLASS/NUMBER.jpg.

    The same seed gives the same bytes. A folder that is there already is finished, because it
    appears whole or not at all, and is returned as it is.

    Raises UserError for a disk that is full or cannot be written.
    """
    if root.exists():
        return root
    jobs = [(split, index) for split in counts for index in range(counts[split])]
    with atomic_folder(root) as folder:
        for split in counts:
            for name in CLASSES:
                (folder / split / name).mkdir(parents=True)
        workers = min(8, os.cpu_count() or 1)
        with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
            drawn = pool.map(partial(_draw, folder, seed), jobs, chunksize=10)
            for _ in tqdm(drawn, total=len(jobs), desc="drawing", unit="picture", disable=None):
                pass
    return root


def _end_with_parent() -> None:
    """Let this worker end when its parent does: after a kill -9 it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _draw(folder: Path, seed: int, job: tuple[str, int]) -> None:
    split, index = job
    label = index % len(CLASSES)
    picture = draw_picture(seed, SPLITS.index(split) * _RANGE + index, label)
    path = folder / split / CLASSES[label] / f"{index:05d}.jpg"
    picture.save(path, quality=90, subsampling=0)
