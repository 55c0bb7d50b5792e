"""Held-out pictures: stratified, seeded, independent of order, copies together."""

from collections import Counter

import numpy as np
import pytest

from tlkit.data.splits import hold_out, hold_out_alike

FRACTIONS = {"val": 0.15, "test": 0.2}


def test_every_class_is_split_by_the_fractions() -> None:
    labels = ["cat"] * 200 + ["dog"] * 100 + ["bird"] * 20
    splits = hold_out(labels, [str(index) for index in range(320)], FRACTIONS, seed=0)
    assert Counter(zip(labels, splits, strict=True)) == {
        **{("cat", "val"): 30, ("cat", "test"): 40, ("cat", "train"): 130},
        **{("dog", "val"): 15, ("dog", "test"): 20, ("dog", "train"): 65},
        **{("bird", "val"): 3, ("bird", "test"): 4, ("bird", "train"): 13},
    }


def test_the_seed_decides_and_the_order_does_not() -> None:
    labels = ["cat", "dog"] * 100
    groups = [str(index) for index in range(200)]
    first = hold_out(labels, groups, FRACTIONS, seed=1)
    assert hold_out(labels, groups, FRACTIONS, seed=1) == first
    assert hold_out(labels, groups, FRACTIONS, seed=2) != first
    order = np.random.default_rng(0).permutation(200)
    shuffled = hold_out([labels[i] for i in order], [groups[i] for i in order], FRACTIONS, seed=1)
    assert shuffled == [first[i] for i in order]
    # Nor where copies lie in both classes.
    groups = [str(index // 2) for index in range(200)]
    first = hold_out(labels, groups, FRACTIONS, seed=1)
    assert hold_out(labels[::-1], groups[::-1], FRACTIONS, seed=1) == first[::-1]


def test_one_picture_more_moves_few() -> None:
    labels, groups = ["cat"] * 101, [str(index) for index in range(101)]
    before = hold_out(labels[:100], groups[:100], FRACTIONS, seed=0)
    after = hold_out(labels, groups, FRACTIONS, seed=0)
    assert sum(a != b for a, b in zip(before, after, strict=False)) <= 3


def test_copies_stay_together() -> None:
    rng = np.random.default_rng(0)
    groups = [str(number) for number in rng.integers(0, 60, size=200)]
    labels = ["cat" if int(group) < 30 else "dog" for group in groups]
    labels[groups.index("3")] = "dog"  # one content under two labels
    splits = hold_out(labels, groups, FRACTIONS, seed=0)
    for group in set(groups):
        assert len({s for s, g in zip(splits, groups, strict=True) if g == group}) == 1
    counts = Counter(zip(labels, splits, strict=True))
    for label in ("cat", "dog"):
        total = labels.count(label)
        assert counts[label, "val"] == pytest.approx(0.15 * total, abs=3)
        assert counts[label, "test"] == pytest.approx(0.2 * total, abs=3)


def test_a_picture_copied_many_times_does_not_fill_a_split() -> None:
    labels = ["cat"] * 100
    groups = ["copied"] * 50 + [str(index) for index in range(50)]
    for seed in range(5):
        splits = hold_out(labels, groups, FRACTIONS, seed)
        assert Counter(splits) == {"val": 15, "test": 20, "train": 65}


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, ["train"]), (2, ["train", "val"]), (3, ["test", "train", "val"])],
)
def test_tiny_classes_keep_one_to_train_on(count: int, expected: list[str]) -> None:
    assert sorted(hold_out(["cat"] * count, list("abc")[:count], FRACTIONS, 0)) == expected


@pytest.mark.parametrize(
    ("count", "val", "test"), [(3, 0.5, 0.2), (4, 0.7, 0.2), (10, 0.9, 0.05), (3, 0.1, 0.8)]
)
def test_three_pictures_are_enough_for_any_fractions(count: int, val: float, test: float) -> None:
    labels, groups = ["cat"] * count, [str(index) for index in range(count)]
    for seed in range(5):
        splits = hold_out(labels, groups, {"val": val, "test": test}, seed)
        assert set(splits) == {"train", "val", "test"}


def test_a_picture_copied_often_stays_for_training_where_others_can_be_held_out() -> None:
    for seed in range(5):
        splits = hold_out(["cat"] * 7, [*"aaaaa", "b", "c"], FRACTIONS, seed)
        assert splits[:5] == ["train"] * 5
        assert sorted(splits[5:]) == ["test", "val"]


class Compared(str):
    """A label that counts how often it is compared."""

    times = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)


def test_each_picture_is_looked_at_once_however_many_classes() -> None:
    labels = [Compared(index % 100) for index in range(1000)]
    splits = hold_out(labels, [str(index) for index in range(1000)], FRACTIONS, seed=0)
    assert Counter(splits) == {"train": 600, "val": 200, "test": 200}
    assert Compared.times <= 1000


def test_one_split_alone() -> None:
    splits = hold_out(["cat"] * 10, [str(index) for index in range(10)], {"val": 0.1}, seed=0)
    assert Counter(splits) == {"val": 1, "train": 9}


def drawn_alike(
    labels: list[str], alike: list[list[int]], order: list[int] | None = None
) -> list[str]:
    """Of the contents "0", "1", ..., handed over in `order`, which must not matter."""
    order = order or list(range(len(labels)))
    place = {index: number for number, index in enumerate(order)}
    splits = hold_out_alike(
        [labels[index] for index in order],
        [str(index) for index in order],
        [""] * len(order),
        [sorted(place[index] for index in group) for group in alike],
        FRACTIONS,
        seed=0,
    )
    return [splits[place[index]] for index in range(len(labels))]


def test_near_copies_stay_together_and_nothing_else_moves() -> None:
    labels = ["cat"] * 200 + ["dog"] * 200
    plain = hold_out(labels, [str(index) for index in range(400)], FRACTIONS, seed=0)
    assert drawn_alike(labels, []) == plain
    pairs = [[index, index + 100] for index in range(100)]
    # Across classes as well: a picture and its changed copy, such as one with a defect.
    pairs += [[200, 1], [201, 2]]
    pairs = [pair for pair in pairs if pair not in ([1, 101], [2, 102])]
    splits = drawn_alike(labels, pairs)
    assert all(splits[one] == splits[other] for one, other in pairs)
    counts = Counter(zip(labels, splits, strict=True))
    for label in ("cat", "dog"):
        assert counts[label, "val"] == pytest.approx(30, abs=2)
        assert counts[label, "test"] == pytest.approx(40, abs=2)
    order = [int(index) for index in np.random.default_rng(0).permutation(400)]
    assert drawn_alike(labels, pairs, order) == splits
    assert drawn_alike(labels, pairs[:98])[200:] == plain[200:]


def test_large_groups_are_divided() -> None:
    labels = ["cat"] * 200 + ["dog"] * 20
    plain = drawn_alike(labels, [])
    assert len(set(drawn_alike(labels, [list(range(20))])[:20])) == 1
    assert drawn_alike(labels, [list(range(21))]) == plain
    assert drawn_alike(labels, [list(range(200, 211))]) == plain  # 11 of 20 dogs
    assert drawn_alike(labels, [list(range(189, 201))]) == plain  # 12 with a dog, of 20 dogs
    assert len(set(drawn_alike(labels, [list(range(190, 200))])[190:200])) == 1


def test_a_burst_of_a_small_class_leaves_enough_to_train_on() -> None:
    contents = [str(index) for index in range(12)]
    for seed in range(30):
        splits = hold_out_alike(
            ["cat"] * 12, contents, [""] * 12, [list(range(10))], FRACTIONS, seed
        )
        counts = Counter(splits)
        assert counts["train"] >= 6, seed
        assert 0 < counts["val"] <= 4, seed
        assert 0 < counts["test"] <= 4, seed


@pytest.mark.parametrize(("size", "divided"), [(8, False), (7, True)])
def test_no_split_has_more_than_twice_its_share(size: int, divided: bool) -> None:
    labels = ["cat"] * 3 * size  # whose share of val is 4 and 3
    bursts = [list(range(begin, begin + size)) for begin in range(0, 3 * size, size)]
    splits = drawn_alike(labels, bursts)
    assert any(len({splits[index] for index in burst}) > 1 for burst in bursts) == divided


def test_a_class_whose_pictures_go_with_another_keeps_one_to_train_on() -> None:
    labels, contents = ["cat"] * 15 + ["dog"] * 3, [str(index) for index in range(18)]
    alike = [[0, 15], [1, 16], [2, 17]]
    # Of the seeds those that would hold out all three.
    for seed in range(60, 70):
        splits = hold_out_alike(labels, contents, [""] * len(labels), alike, FRACTIONS, seed)
        assert set(splits[15:]) == {"train", "val", "test"}, seed


def test_a_class_that_would_miss_from_a_split_is_divided() -> None:
    labels = ["cat"] * 50 + ["dog"] * 4
    plain = drawn_alike(labels, [])
    assert sorted(set(plain[50:])) == ["test", "train", "val"]
    splits = drawn_alike(labels, [[0, 1], [50, 51, 52, 53]])
    assert splits[50:] == plain[50:]
    assert splits[0] == splits[1]
    mixed = drawn_alike(labels, [[0, 50], [1, 51, 52], [2, 53]])
    assert sorted(set(mixed[50:])) == ["test", "train", "val"]
    # Too few whatever is done: the audit tells.
    assert (
        hold_out_alike(["cat"] * 2, ["a", "b"], ["", ""], [[0, 1]], FRACTIONS, 0).count("train")
        == 1
    )
