"""Draw validation and test pictures: stratified, seeded, copies kept together."""

import hashlib
from collections.abc import Mapping, Sequence

from tlkit.errors import UserError


def hold_out(
    labels: Sequence[str], groups: Sequence[str], fractions: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each picture: one of the keys of `fractions`, or "train".

    Of each class, `fractions` of its pictures (rounded, one at least) go to each held-out split.
    Pictures of one group (the same content) go together, with the class that comes first where
    they have two. The order in which pictures are taken is that of a hash of seed and group, so
    neither their names nor their order matter, and a few pictures more move only a few.

    Raises UserError for fractions that are not positive or leave nothing to train on.
    """
    if min(fractions.values()) <= 0 or sum(fractions.values()) >= 1:
        raise UserError(
            f"cannot hold out {dict(fractions)} of the pictures; each fraction is over 0 and their "
            "sum under 1; change val_fraction or test_fraction"
        )
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    owner = {group: min(labels[index] for index in indices) for group, indices in members.items()}
    splits = ["train"] * len(labels)
    for label in sorted(set(owner.values())):
        queue = [group for group in members if owner[group] == label]
        queue.sort(key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
        total = sum(len(members[group]) for group in queue)
        for split, fraction in fractions.items():
            for group in _take(queue, members, max(1, round(fraction * total))):
                queue.remove(group)
                for index in members[group]:
                    splits[index] = split
    return splits


def _take(queue: list[str], members: Mapping[str, list[int]], wanted: int) -> list[str]:
    """Groups of `wanted` pictures in all, or the first where none fits; one stays for training."""
    taken: list[str] = []
    for group in queue[:-1]:
        if len(members[group]) <= wanted:
            taken.append(group)
            wanted -= len(members[group])
    return taken or queue[:-1][:1]
