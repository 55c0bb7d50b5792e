"""Draw validation and test pictures: stratified, seeded, what belongs together in one split."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tlkit.data.near import joined

# Pictures that look alike stay together up to so many, and up to this share of their class:
# what is larger (flat drawings, a film) is no picture saved again, and would fill a split.
MAX_TOGETHER, SHARE_TOGETHER = 10, 0.1
_ORDERS = 50


def hold_out_alike(
    labels: Sequence[str],
    contents: Sequence[str],
    groups: Sequence[str],
    alike: Sequence[Sequence[int]],
    fractions: Mapping[str, float],
    seed: int,
) -> list[str]:
    """`hold_out` of pictures with these `contents`, each of `groups` and of `alike` in one split.

    Pictures of the same group, which "" is none, are never divided, nor those of the same content,
    but where several groups have it: a black frame in each film would put all films into one split.
    `alike` are sets of indices that look alike, with no index in two. One that is larger, with all
    that is not to be divided from it, than MAX_TOGETHER and than SHARE_TOGETHER of the smallest
    class in it is divided as far as that allows, and so are those of a class of which a split would
    otherwise have none, or a held-out one more than twice its share. Where groups leave a split
    without a class, other orders are tried. Where none are alike, nor in groups, the splits are
    those of `hold_out`.
    """
    sizes = Counter(labels)
    copies = [
        indices if len({groups[index] for index in indices} - {""}) < 2
        else [index for index in indices if not groups[index]]
        for indices in _sharing(contents)
    ]  # fmt: skip
    firm = _connected(len(labels), [*copies, *_sharing(groups)])
    whole = _named(firm, contents, groups)
    names = list(whole)
    for indices in _sharing(_connected(len(labels), [*_sharing(firm), *alike])):
        smallest = min(sizes[labels[index]] for index in indices)
        if len(indices) <= max(MAX_TOGETHER, SHARE_TOGETHER * smallest):
            name = min(whole[index] for index in indices)
            for index in indices:
                names[index] = name
    while True:
        splits = hold_out(labels, names, fractions, seed)
        found = Counter(zip(labels, splits, strict=True))
        uneven = {
            label
            for label, size in sizes.items()
            for split, fraction in {"train": 1.0, **fractions}.items()  # of train not none
            if not 0 < found[label, split] <= 2 * _share(fraction, size)
        }
        divided = {name for label, name in zip(labels, names, strict=True) if label in uneven}
        before = names
        names = [
            alone if name in divided else name for alone, name in zip(whole, names, strict=True)
        ]
        if names == before:
            break
    wanted = len(sizes) * (1 + len(fractions))
    for order in range(1, _ORDERS):
        if len(set(zip(labels, splits, strict=True))) == wanted or not any(groups):
            break
        splits = hold_out(labels, names, fractions, seed, order)
    return splits


def hold_out(
    labels: Sequence[str],
    groups: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    order: int = 0,
) -> list[str]:
    """The split of each picture: one of the keys of `fractions`, or "train".

    Of each class, `fractions` of its pictures (rounded, one at least) go to each held-out split,
    or as near to that as groups allow: pictures of one group go together, whatever their classes.
    Where no group comes near, the smallest goes. Groups are taken in the order of a hash of seed,
    name and `order`, so that of the pictures does not matter, and a few more move only a few.
    """
    number: dict[str, int] = {}
    met = [number.setdefault(label, len(number)) for label in labels]
    rank = {number[label]: i for i, label in enumerate(sorted(number))}
    classes = [rank[one] for one in met]  # whatever the order of the pictures
    total = Counter(classes)
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    salt = f"{seed}:" if order == 0 else f"{seed}, {order}:"
    queue = sorted(members, key=lambda name: hashlib.sha256(f"{salt}{name}".encode()).digest())
    holds = {group: Counter(classes[i] for i in members[group]) for group in queue}
    splits = ["train"] * len(labels)
    for place, (split, fraction) in enumerate(fractions.items()):
        wanted = {label: _share(fraction, size) for label, size in total.items()}
        taken = set(_take(queue, holds, wanted, kept=len(fractions) - place))
        queue = [group for group in queue if group not in taken]
        for group in taken:
            for index in members[group]:
                splits[index] = split
    return splits


def _share(fraction: float, total: int) -> int:
    return max(1, round(fraction * total))


def _take(
    queue: Sequence[str],
    holds: Mapping[str, Mapping[int, int]],
    wanted: Mapping[int, int],
    kept: int,
) -> list[str]:
    """Groups of `wanted` pictures of each class in all, first those that fit, then those that come
    nearer to it than without them, and of a class that has none yet the smallest.

    Of each class `kept` groups stay, one for each split to come and one for training; where there
    are fewer, one. `holds` has the number of pictures of each class in a group.
    """
    left = Counter(label for group in queue for label in holds[group])
    room = dict(wanted)
    taken: dict[str, None] = {}  # in their order

    def take(group: str) -> None:
        taken[group] = None
        for label, count in holds[group].items():
            left[label] -= 1
            room[label] -= count

    def nearer(group: str) -> float:
        """By how much of the classes' shares, all together."""
        return sum(
            (abs(room[label]) - abs(room[label] - n)) / wanted[label]
            for label, n in holds[group].items()
        )

    def free(label: int, stay: int) -> list[str]:
        return [
            group
            for group in of_class[label]
            if group not in taken and all(left[other] > stay for other in holds[group])
        ]

    for group in queue:
        if all(n <= room[label] and left[label] > kept for label, n in holds[group].items()):
            take(group)
    of_class: dict[int, list[str]] = {label: [] for label in wanted}
    for group in queue:
        for label in holds[group]:
            of_class[label].append(group)
    for label in sorted(wanted):
        while room[label] > 0 and (groups := free(label, kept)):
            best = max(groups, key=nearer)
            if nearer(best) <= 0:
                break
            take(best)
        if room[label] == wanted[label] and (groups := free(label, 1)):
            take(min(groups, key=lambda group: sum(holds[group].values())))
    return list(taken)


def _sharing(names: Iterable[str | int]) -> list[list[int]]:
    """The indices of each name that is there twice or more; of "" none."""
    found: dict[str | int, list[int]] = {}
    for index, name in enumerate(names):
        if name != "":
            found.setdefault(name, []).append(index)
    return [indices for indices in found.values() if len(indices) > 1]


def _connected(count: int, sets: Iterable[Sequence[int]]) -> list[int]:
    """A number for each of `count` indices, the same for those that a chain of sets connects."""
    pairs = [(indices[0], other) for indices in sets for other in indices[1:]]
    numbers: list[int] = joined(
        np.arange(count), [np.array(pairs, dtype=np.int64).reshape(-1, 2).T]
    ).tolist()
    return numbers


def _named(numbers: Sequence[int], contents: Sequence[str], groups: Sequence[str]) -> list[str]:
    """For each index the first of the groups under its number, or where there is none of the
    contents, whatever the order of files."""
    first: dict[int, tuple[bool, str]] = {}
    for number, content, group in zip(numbers, contents, groups, strict=True):
        name = (not group, group or content)
        first[number] = min(name, first.get(number, name))
    return [first[number][1] for number in numbers]
