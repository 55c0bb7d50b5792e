"""Draw validation and test pictures: stratified, seeded, copies and near copies kept together."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

# Pictures that look alike stay together up to so many, and up to this share of their class:
# what is larger (flat drawings, a film) is no picture saved again, and would fill a split.
MAX_TOGETHER, SHARE_TOGETHER = 10, 0.1


def hold_out_alike(
    labels: Sequence[str],
    contents: Sequence[str],
    alike: Sequence[Sequence[int]],
    fractions: Mapping[str, float],
    seed: int,
) -> list[str]:
    """`hold_out` of pictures with these `contents`, each group of `alike` in one split.

    `alike` are groups of indices that look alike, with no index in two. One larger than
    MAX_TOGETHER and than SHARE_TOGETHER of the smallest class in it is divided, down to pictures of
    the same content, and so are those of a class of which a split would otherwise have none, or a
    held-out one more than twice its share. Where none look alike the splits are those of
    `hold_out`.
    """
    sizes = Counter(labels)
    groups = list(contents)
    for indices in alike:
        smallest = min(sizes[labels[index]] for index in indices)
        if len(indices) <= max(MAX_TOGETHER, SHARE_TOGETHER * smallest):
            name = min(contents[index] for index in indices)  # whatever the files' names and order
            for index in indices:
                groups[index] = name
    while True:
        splits = hold_out(labels, groups, fractions, seed)
        found = Counter(zip(labels, splits, strict=True))
        uneven = {
            label
            for label, size in sizes.items()
            for split, fraction in {"train": 1.0, **fractions}.items()
            if not 0 < found[label, split] <= 2 * _share(fraction, size)
        }
        divided = {group for label, group in zip(labels, groups, strict=True) if label in uneven}
        before = groups
        groups = [
            content if group in divided else group
            for content, group in zip(contents, groups, strict=True)
        ]
        if groups == before:
            return splits


def hold_out(
    labels: Sequence[str], groups: Sequence[str], fractions: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each picture: one of the keys of `fractions`, or "train".

    Of each class, `fractions` of its pictures (rounded, one at least) go to each held-out split,
    or as near to that as groups allow: pictures of one group (copies) go together, with the class
    that comes first where they have two. The order in which pictures are taken is that of a hash of
    seed and group, so neither their names nor their order matter, and a few pictures more move only
    a few.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    queues: dict[str, list[str]] = {}
    for group, indices in members.items():
        queues.setdefault(min(labels[index] for index in indices), []).append(group)
    splits = ["train"] * len(labels)
    for queue in queues.values():
        queue.sort(key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
        total = sum(len(members[group]) for group in queue)
        for place, (split, fraction) in enumerate(fractions.items()):
            kept = len(fractions) - place
            taken = set(_take(queue, members, _share(fraction, total), kept))
            queue = [group for group in queue if group not in taken]
            for group in taken:
                for index in members[group]:
                    splits[index] = split
    return splits


def _share(fraction: float, total: int) -> int:
    return max(1, round(fraction * total))


def _take(queue: list[str], members: Mapping[str, list[int]], wanted: int, kept: int) -> list[str]:
    """Groups of `wanted` pictures in all, or the first where none fits. `kept` stay, one for each
    split to come and one for training; where there are fewer, one."""
    taken: list[str] = []
    for group in queue:
        if len(members[group]) <= wanted and len(queue) - len(taken) > kept:
            taken.append(group)
            wanted -= len(members[group])
    return taken or queue[:-1][:1]
