"""Pictures that look alike, told by their perceptual hashes of 64 bits."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

# Bits of 64. On 200 photos of cats and dogs, 6 finds all copies saved again (JPEG quality 20, 64
# pixels wide), 99 % of those 20 % brighter and 91 % of those cropped by 2 %; of 980,000 pairs of
# different photos the nearest are 12 apart.
NEAR_DISTANCE = 6
_PAIRS = 2**20  # compared at once: 8 MB, which fits the processor's cache


def near_groups(looks: Sequence[int | None]) -> list[list[int]]:
    """Groups of two and more indices of `looks` that a chain of near pairs connects.

    A hash that is None is near nothing. Compares in blocks and keeps one number a hash, so memory
    stays bounded however many pairs are near.
    """
    indices = [index for index, look in enumerate(looks) if look is not None]
    hashes, place = np.unique(
        np.array([looks[index] for index in indices], dtype=np.uint64), return_inverse=True
    )
    group = np.arange(len(hashes))
    pairs: list[NDArray[np.int64]] = []
    waiting = 0
    rows = max(1, _PAIRS // max(1, len(hashes)))
    for start in _told(range(0, len(hashes), rows)):
        block = hashes[start : start + rows]
        near = np.flatnonzero(_distances(block, hashes[start:]) <= NEAR_DISTANCE)
        row, column = np.divmod(near, len(hashes) - start)  # nonzero is 15 times slower in 2-D
        apart = row != column
        pairs.append(np.stack([row[apart], column[apart]]) + start)
        waiting += pairs[-1].shape[1]
        if waiting > _PAIRS:  # not after each block: joining looks at all hashes
            group, pairs, waiting = joined(group, pairs), [], 0
    if pairs:
        group = joined(group, pairs)
    members: dict[int, list[int]] = {}
    for index, number in zip(indices, group[place].tolist(), strict=True):
        members.setdefault(number, []).append(index)
    return [found for found in members.values() if len(found) > 1]


def joined(group: NDArray[np.int64], pairs: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The numbers of the groups, int64 (n,), after those of each pair (indices, two rows) became
    one."""
    one, other = group[np.concatenate(pairs, axis=1)]
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(len(group),) * 2)
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1]
    return labels[group]


def near_hashes(
    first: NDArray[np.uint64], second: NDArray[np.uint64], listed: int
) -> tuple[int, NDArray[np.int64]]:
    """Pairs of 64-bit hashes up to NEAR_DISTANCE bits apart.

    Returns their number and the `listed` nearest as rows (distance, index in first, index in
    second), sorted. Compares in blocks, so memory stays bounded.
    """
    total, nearest = 0, np.empty((0, 3), dtype=np.int64)
    bound = NEAR_DISTANCE + 1
    rows = max(1, _PAIRS // max(1, len(second)))
    for start in _told(range(0, len(first), rows)):
        distances = _distances(first[start : start + rows], second).ravel()
        total += int(np.count_nonzero(distances <= NEAR_DISTANCE))
        near = np.flatnonzero(distances < bound)
        row, column = np.divmod(near, len(second))
        found = np.stack([distances[near], row + start, column], axis=1).astype(np.int64)
        nearest = np.concatenate([nearest, found])
        if len(nearest) > listed:
            nearest = nearest[np.lexsort(nearest.T[::-1])][:listed]
            bound = int(nearest[-1, 0])  # of equals the earlier stay
    return total, nearest[np.lexsort(nearest.T[::-1])]


def _told(steps: range) -> Iterable[int]:
    """With a bar on a terminal where it takes long: the time grows with the square of the
    pictures."""
    return tqdm(steps, desc="near copies", unit="step", delay=2, leave=False, disable=None)


def _distances(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint8]:
    distances: NDArray[np.uint8] = np.bitwise_count(first[:, None] ^ second[None])
    return distances
