"""Pictures that belong together: never divided over splits, and not counted as independent."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Entry, Trained, make_pictures
from matplotlib.figure import Figure
from mlflow.entities import Run
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest, f_oneway, norm, permutation_test
from scipy.stats import t as student

from tlkit.config import Config
from tlkit.data.audit import AuditReport, audit
from tlkit.data.given import find_pictures
from tlkit.data.groups import with_groups
from tlkit.data.manifest import Manifest, Picture, read
from tlkit.data.sources import Source, SourceFile, open_source
from tlkit.data.splits import hold_out, hold_out_alike
from tlkit.deployment.tally import Tally
from tlkit.deployment.tested import Tested, shared
from tlkit.errors import UserError
from tlkit.evaluation.clusters import effective_size, group_numbers, sign_flip_p_values
from tlkit.evaluation.comparison import _difference_interval, compare_paired
from tlkit.evaluation.label_check import Doubt
from tlkit.evaluation.metrics import accuracy_interval
from tlkit.evaluation.tiles import Tile, doubtful_labels
from tlkit.serving.stream import Prediction

FRACTIONS = {"val": 0.2, "test": 0.2}

# ---- which pictures belong together


def source_of(paths: Sequence[str]) -> Source:
    files = []
    for path in paths:
        label, *rest = path.split("/")
        files.append(SourceFile(path, label, None, rest[0] if len(rest) > 1 else ""))
    return Source("films", Path("/films"), "/films", tuple(files))


PATHS = ["cat/p1/left/1.jpg", "cat/p2/p9_1.jpg", "cat/x.jpg", "dog/p1/2.jpg", "dog/p3/p4_3.jpg"]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("auto", ["", "", "", "", ""]),
        ("none", ["", "", "", "", ""]),
        ("folder", ["p1", "p2", "", "p1", "p3"]),
        (r"(p\d)_|/(x)\.", ["", "p9", "x", "", "p4"]),
        (r"p\d", ["p1", "p2", "", "p1", "p3"]),
        (r"^\w+", ["cat", "cat", "cat", "dog", "dog"]),
        (r"p(\d)?_|(/x)?\.", ["", "9", "/x", "", "4"]),  # a bracket that need not match
    ],
)
def test_what_names_a_group(groups: str, expected: list[str]) -> None:
    source = with_groups(source_of(PATHS), groups)
    assert [file.group for file in source.files] == expected
    alone = 0 if groups in ("auto", "none") else expected.count("")
    assert [f"for {alone} of 5 files" in warning for warning in source.warnings] == [True] * bool(
        alone
    )


def test_a_rule_that_names_no_group_is_told() -> None:
    flat = source_of(["cat/1.jpg", "dog/1.jpg"])
    for groups in ("folder", r"patient(\d+)"):
        with pytest.raises(UserError) as error:
            with_groups(flat, groups)
        said = str(error.value)
        assert f"groups={groups} names no group for any of the 2 files of /films" in said
        assert "cat/1.jpg" in said


def test_what_is_no_pattern_is_told_with_the_other_mistakes() -> None:
    for groups in ("(", ""):
        with pytest.raises(UserError, match="folder or a regular expression"):
            Config.load(None, {"groups": groups})


def test_folders_that_may_be_groups_are_warned_of_unless_something_was_said() -> None:
    films = source_of([f"{c}/film{n}/{i}.jpg" for c in "ab" for n in range(7) for i in range(2)])
    films = replace(films, warnings=("of the source",))
    kept, warning = with_groups(films, "auto").warnings
    assert kept == "of the source"
    assert "the pictures lie in 7 folders (film0, film1, film2, ...)" in warning
    assert "give -P 'groups=folder';" in warning
    assert with_groups(films, "none").warnings == ("of the source",)
    assert with_groups(films, "folder").warnings == ("of the source",)
    some = source_of([f"{c}/film{n}/{i}.jpg" for c in "ab" for n in range(6) for i in range(2)])
    assert not with_groups(some, "auto").warnings  # may be train/a, val/a, test/a, ... of a list
    few = source_of([*(file.path for file in films.files), *(f"a/{i}.jpg" for i in range(29))])
    assert not with_groups(few, "auto").warnings
    wrapped = source_of([f"{label}/images/{i}.jpg" for label in "ab" for i in range(9)])
    assert not with_groups(wrapped, "auto").warnings
    named = source_of([f"a/{i}/1.jpg" for i in range(9)])  # one picture each
    assert not with_groups(named, "auto").warnings
    # A rule by the names, that can be given as it is told.
    frames = [f"{label}/film{n}_{i:03d}.jpg" for label in "ab" for n in range(9) for i in range(4)]
    [warning] = with_groups(source_of(frames), "auto").warnings
    assert "have names with 9 beginnings (film0, film1, film2, ...)" in warning
    [rule] = re.findall("give -P 'groups=(.*?)';", warning)
    assert {file.group for file in with_groups(source_of(frames), rule).files} == {
        f"film{n}" for n in range(9)
    }
    for alone in (
        "{}.jpg", "IMG_{:04d}.jpg", "{:04d}_1.jpg", "a_big_cat_{}.jpg", "who_scan0_{}.jpg",
        "Abyssinian {}.jpg",
    ):  # fmt: skip
        names = [
            f"{label}/{alone.format(n + 9 * c)}" for c, label in enumerate("ab") for n in range(9)
        ]
        assert not with_groups(source_of(names), "auto").warnings
    once_a_class = [f"{label}/{n:04d}_{label}.jpg" for label in "abcd" for n in range(20)]
    assert not with_groups(source_of(once_a_class), "auto").warnings
    by_class = [f"{label}/n{ord(label)}_{i}.jpg" for label in "abcd" for i in range(9)]
    assert not with_groups(source_of(by_class), "auto").warnings
    of_classes = source_of([f"{label}/{label}/{i}.jpg" for label in "abcd" for i in range(9)])
    assert not with_groups(of_classes, "auto").warnings


# ---- lists


def listed(path: Path, text: str) -> Source:
    path.write_text(text, encoding="utf-8")
    return open_source(str(path), path.parent / "cache", seed=0)


def test_a_list_names_class_split_and_group(tmp_path: Path) -> None:
    absolute = tmp_path / "b" / "2.jpg"
    source = listed(
        tmp_path / "all.csv",
        "\ufeffFile;Age;LABEL;Split;group\r\n"
        f"a/1.jpg;7;cat; Valid;p 1\n{absolute};8;dog;test;\n\n;;;;\n"
        './c/../c/ä.jpg;9;"big;  dog";;"p\n2"\n',
    )
    assert (source.name, source.root, source.place) == ("all", tmp_path, f"{tmp_path}/all.csv")
    assert [(f.path, f.label, f.split, f.group) for f in source.files] == [
        ("a/1.jpg", "cat", "val", "p 1"),
        ("b/2.jpg", "dog", "test", ""),
        ("c/ä.jpg", "big;  dog", None, "p 2"),
    ]
    by_column = with_groups(source, "auto")
    assert [file.group for file in by_column.files] == ["p 1", "", "p 2"]
    [warning] = by_column.warnings
    assert warning == (
        "the column group of the list names no group for 1 of 3 files, each of which stands for "
        "itself, such as b/2.jpg"
    )
    assert [file.group for file in with_groups(source, "none").files] == ["", "", ""]
    assert [file.group for file in with_groups(source, "folder").files] == ["a", "b", "c"]


def test_columns_may_stand_apart_by_tabs_and_rows_may_be_short(tmp_path: Path) -> None:
    source = listed(
        tmp_path / "all.csv", "image\t class \tgroup\na, b.jpg\tcat\n\t\t\n2.jpg\tdog\tp"
    )
    assert [(f.path, f.label, f.group) for f in source.files] == [
        ("2.jpg", "dog", "p"), ("a, b.jpg", "cat", "")
    ]  # fmt: skip


def test_folders_that_all_classes_have_are_taken_where_they_are_said_to_be_groups(
    tmp_path: Path,
) -> None:
    for label in ("cat", "dog"):
        for film in range(3):
            (tmp_path / label / str(film)).mkdir(parents=True)
            (tmp_path / label / str(film) / "1.jpg").touch()
    with pytest.raises(UserError, match=r"all hold the folders 0, 1, 2.* give -P groups=folder"):
        open_source(str(tmp_path), tmp_path, seed=0)
    source = open_source(str(tmp_path), tmp_path, seed=0, grouped=True)
    named = [file.group for file in with_groups(source, "folder").files]
    assert named == ["0", "1", "2", "0", "1", "2"]
    by_class = [file.group for file in with_groups(source, "[^/]+/[^/]+(?=/[^/]*$)").files]
    assert by_class == ["cat/0", "cat/1", "cat/2", "dog/0", "dog/1", "dog/2"]


def test_paths_in_a_list_may_lead_through_a_link_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    text = f"path,label\n{tmp_path}/real/1.jpg,cat\n{tmp_path}/link/2.jpg,dog\n"
    source = listed(tmp_path / "link" / "all.csv", text)
    assert [file.path for file in source.files] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,kind\na.jpg,cat\n", r"no column for class \(class, label\); .* 'file, kind'"),
        ("name,kind\n", r"no column for path \(path, .*\) and none for class"),
        ("path,label\na.jpg,cat\na.jpg,dog\n", r"line 3: a.jpg stands in line 2 already"),
        ("path,label\na.jpg,\n", r"line 2: no class; fill it in"),
        ("path,label\n,cat\n", r"line 2: no path"),
        ("path,label,split\na.jpg,cat,dev\n", r"line 2: unknown split dev; allowed are train, "),
        ("path,label\n../a.jpg,cat\n", r"line 2: \.\./a.jpg lies outside"),
        ("path,label\n/elsewhere/a.jpg,cat\n", r"/elsewhere/a.jpg lies outside"),
        ('path,label\n"a.jpg,cat\n', r"line 2: unexpected end of data; mend the file"),
        ("", r"no column for path"),
        ("path,label\na.jpg,cat, big\n", r"line 2: more cells than the first line has; put a cell"),
        ("path,label,Label\na.jpg,cat,dog\n", r"two columns of one name: 'path, label, Label'"),
        ("path,label\n\n", r"no pictures below its first line"),
        ("path,label\na\0.jpg,cat\n", r"has bytes of 0; save it as UTF-8 text"),
    ],
)
def test_a_list_that_cannot_be_used_is_told_with_the_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as error:
        listed(tmp_path / "bad.csv", text)
    assert "\n" not in str(error.value)


def test_a_list_in_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes("path,label\nä.jpg,cat\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"is not UTF-8 .*; save it as UTF-8"):
        open_source(str(tmp_path / "bad.csv"), tmp_path, seed=0)


def test_the_list_beside_pictures_without_labels_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    (tmp_path / "labels.csv").touch()
    with pytest.raises(UserError, match=rf"pass the list of them, data={tmp_path}/labels.csv"):
        open_source(str(tmp_path), tmp_path, seed=0)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    with pytest.raises(UserError, match=rf"one class only, 'images', .* data={tmp_path}/labels"):
        open_source(str(tmp_path), tmp_path, seed=0)


# ---- splits


def test_groups_are_whole_and_the_shares_kept() -> None:
    rng = np.random.default_rng(0)
    # Of 60 patients a third has pictures of both classes.
    groups = [f"p{number}" for number in rng.integers(0, 60, size=900)]
    labels = [
        rng.choice(["cat", "dog"]) if int(g[1:]) < 20 else "cat" if int(g[1:]) < 40 else "dog"
        for g in groups
    ]
    contents = [str(index) for index in range(900)]
    for seed in range(5):
        splits = hold_out_alike(labels, contents, groups, [], FRACTIONS, seed)
        assert all(len(set(pairs)) == 1 for pairs in by(groups, splits).values())
        counts = Counter(zip(labels, splits, strict=True))
        for label in ("cat", "dog"):
            for split in ("val", "test"):
                assert counts[label, split] == pytest.approx(0.2 * labels.count(label), rel=0.15)
        order = rng.permutation(900)
        again = hold_out_alike(
            *([of[i] for i in order] for of in (labels, contents, groups)), [], FRACTIONS, seed
        )
        assert again == [splits[i] for i in order]


def by(groups: Sequence[str], splits: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        found.setdefault(group, []).append(split)
    return found


def test_copies_and_near_copies_join_groups_and_never_divide_them() -> None:
    # A picture by itself is a copy of one of a; near copies chain c to d and all of e.
    groups = ["a"] * 4 + [""] + ["c"] * 3 + ["d"] * 3 + ["e"] * 30 + [""] * 200
    contents = [str(index) for index in range(len(groups))]
    contents[4] = contents[3]
    alike = [[5, 8], list(range(11, 41)), [41, 42]]
    for seed in range(20):
        splits = hold_out_alike(["cat"] * len(groups), contents, groups, alike, FRACTIONS, seed)
        for together in (splits[:5], splits[5:11], splits[11:41], splits[41:43]):
            assert len(set(together)) == 1


def test_a_content_that_several_groups_have_does_not_join_them() -> None:
    groups = [f"film{index // 5}" for index in range(100)] + [""] * 2
    contents = ["black" if index % 5 == 0 else str(index) for index in range(100)] + ["black"] * 2
    splits = hold_out_alike(["cat"] * 102, contents, groups, [], FRACTIONS, seed=0)
    assert Counter(splits[:100]) == {"train": 60, "val": 20, "test": 20}
    assert all(len(set(pairs)) == 1 for pairs in by(groups[:100], splits[:100]).values())
    assert splits[100] == splits[101]


def test_pictures_more_of_a_group_do_not_move_the_others() -> None:
    rng = np.random.default_rng(0)
    groups = [f"film{index // 3}" for index in range(300)]
    contents = [str(number) for number in rng.permutation(400)]
    before = hold_out_alike(["cat"] * 300, contents[:300], groups, [], FRACTIONS, seed=0)
    more = [*groups, *(f"film{index}" for index in range(100))]
    after = hold_out_alike(["cat"] * 400, contents, more, [], FRACTIONS, seed=0)
    assert after[:300] == before


def test_a_group_that_comes_nearer_to_the_share_is_taken_though_it_does_not_fit() -> None:
    groups = [f"film{index // 100}" for index in range(600)] + [""]
    for seed in range(5):
        splits = hold_out_alike(
            ["cat"] * 601, [str(i) for i in range(601)], groups, [], {"val": 0.15, "test": 0.15},
            seed,
        )  # fmt: skip
        counts = Counter(splits)
        assert sorted((counts["val"], counts["test"])) == [100, 101]


def test_of_groups_that_do_not_fit_the_one_that_comes_nearest_is_taken() -> None:
    sizes = {"a": 60, "b": 40, "c": 33, "d": 300, "e": 300}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    share = 30 / len(groups)
    for seed in range(10):
        splits = hold_out(["cat"] * len(groups), groups, {"test": share}, seed)
        assert by(groups, splits)["c"] == ["test"] * 33
        assert Counter(splits)["test"] == 33


def test_near_copies_stay_together_where_another_order_is_tried() -> None:
    # Only where both share a split with what has class b can b be in each split.
    labels = [*"aaaaaa", "b", "b", "b", *"aa"]
    groups = [*"111222", "1", "2", "3", "", ""]
    contents = [str(index) for index in range(len(labels))]
    for seed in range(30):
        splits = hold_out_alike(labels, contents, groups, [[9, 10]], FRACTIONS, seed)
        assert splits[9] == splits[10]
        assert {split for label, split in zip(labels, splits, strict=True) if label == "b"} == {
            "train", "val", "test"
        }  # fmt: skip


def test_a_split_without_a_class_is_avoided_where_it_can_be() -> None:
    rng = np.random.default_rng(3)
    possible = found = 0
    for _ in range(60):
        held = rng.random((5, 3)) < 0.6  # which of 5 groups has pictures of which of 3 classes
        labels, groups = zip(*((str(c), f"g{g}") for g, c in np.argwhere(held)), strict=True)
        ways = (
            [held[np.array(way) == split].any(axis=0).all() for split in range(3)]
            for way in product(range(3), repeat=5)
        )
        if held.any(axis=0).all() and any(map(all, ways)):
            contents = [str(index) for index in range(len(labels))]
            splits = hold_out_alike(labels, contents, groups, [], FRACTIONS, seed=0)
            possible += 1
            found += len(set(zip(labels, splits, strict=True))) == 9
    assert possible > 10
    assert found == possible


def test_near_copies_that_chain_large_groups_do_not_put_them_into_one_split() -> None:
    groups = [f"film{index // 20}" for index in range(200)]
    alike = [[index for index in range(200) if index % 20 == 0]]  # a title before each film
    splits = hold_out_alike(
        ["cat"] * 200, [str(i) for i in range(200)], groups, alike, FRACTIONS, seed=0
    )
    assert Counter(splits) == {"train": 120, "val": 40, "test": 40}
    assert all(len(set(pairs)) == 1 for pairs in by(groups, splits).values())


def test_the_smallest_group_is_held_out_where_none_fits() -> None:
    groups = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    for seed in range(5):
        splits = hold_out(["cat"] * 100, groups, {"test": 0.1}, seed)
        assert splits == ["train"] * 80 + ["test"] * 20


def test_a_group_of_two_classes_does_not_take_the_last_one_of_either() -> None:
    labels = ["cat", "dog", "cat", "dog", "cat", "dog", "cat", "dog"]
    groups = ["both", "both", "c1", "d1", "c2", "d2", "c3", "d3"]
    for seed in range(20):
        splits = hold_out(labels, groups, FRACTIONS, seed)
        assert set(zip(labels, splits, strict=True)) == {
            (label, split) for label in ("cat", "dog") for split in ("train", "val", "test")
        }


# ---- the audit


def films(root: Path, films_a_class: int = 10, frames: int = 4) -> Path:
    """CLASS/FILM/1.png; no two frames look alike."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for number in range(films_a_class):
            folder = root / label / f"{label}{number}"
            folder.mkdir(parents=True)
            for frame in range(frames):
                pixels = rng.integers(0, 200, (40, 40, 3), dtype=np.uint8)
                pixels[..., 0 if label == "cat" else 1] += 55
                Image.fromarray(pixels).save(folder / f"{frame}.png")
    return root


def looked_at(data: Path, groups: str) -> tuple[Manifest, AuditReport]:
    source = open_source(str(data), data.parent / "cache", 0)
    return audit(
        with_groups(source, groups), seed=0, max_pixels=10_000, val_fraction=0.2, test_fraction=0.2,
        workers=1, looks=data.parent / "looks",
    )  # fmt: skip


def test_the_audit_counts_groups_and_the_manifest_keeps_them(tmp_path: Path) -> None:
    root = films(tmp_path / "films")
    manifest, report = looked_at(root, "folder")
    assert report.groups == {"train": 12, "val": 4, "test": 4}
    assert "80 files: 48 train (of 12 groups), 16 val (of 4 groups), 16 test (of 4 groups)" in (
        report.summary
    )
    assert not report.warnings
    split_of: dict[str, set[str]] = {}
    for picture in manifest.pictures:
        assert picture.group == picture.path.split("/")[1]
        split_of.setdefault(picture.group, set()).add(picture.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    manifest.write(tmp_path / "manifest.csv")
    assert read(tmp_path / "manifest.csv", root) == manifest
    _, without = looked_at(root, "none")
    assert without.groups == {}
    assert "groups" not in without.summary
    other = replace(manifest, pictures=tuple(replace(p, group="") for p in manifest.pictures))
    assert other.digest != manifest.digest


def test_near_copies_within_a_group_are_nothing_to_tell_and_across_groups_are(
    tmp_path: Path,
) -> None:
    root = films(tmp_path / "films")
    for film in ("cat3", "cat4"):
        with Image.open(root / "cat" / film / "0.png") as picture:
            coarse = picture.resize((8, 8)).resize((40, 40), Image.Resampling.BICUBIC)
        coarse.save(root / "cat" / film / "4.png")
        coarse.save(root / "cat" / film / "5.jpg", quality=95)
    assert looked_at(root, "folder")[1].kept_together == ()
    assert len(looked_at(root, "none")[1].kept_together) == 2


def test_a_copy_that_came_into_two_splits_with_its_groups_stays_in_one(tmp_path: Path) -> None:
    root = films(tmp_path / "films")
    for number in range(10):
        Image.new("RGB", (40, 40)).save(root / "cat" / f"cat{number}" / "black.png")
    manifest, report = looked_at(root, "folder")
    black = [picture for picture in manifest.pictures if picture.path.endswith("black.png")]
    assert {picture.split for picture in black} == {"test"}
    assert len(report.dropped_duplicates) == 10 - len(black) > 0
    assert report.groups == {"train": 12, "val": 4, "test": 4}


def test_groups_that_the_users_splits_divide_are_told(tmp_path: Path) -> None:
    root = make_pictures(tmp_path / "pictures", counts=(4, 2, 2))
    manifest, report = looked_at(root, r"(\w+)\.png")
    assert report.groups == {"train": 4, "val": 2, "test": 2}
    divided = {"train": 2, "val": 2, "test": 2}
    assert [(one.group, one.pictures) for one in report.divided_groups] == [
        ("0", divided), ("1", divided)
    ]  # fmt: skip
    assert report.warnings == (
        "groups with pictures in two splits or three, kept there, so that the test is of known "
        "ones: 2",
    )
    assert len(manifest.pictures) == 16


def test_too_few_groups_are_told_before_anything_is_read(tmp_path: Path) -> None:
    root = films(tmp_path / "films", films_a_class=2)
    (root / "cat" / "cat0" / "0.png").write_bytes(b"broken")
    with pytest.raises(
        UserError, match=r"too few groups of pictures of 2 of 2 .*2 of 'cat', where"
    ):
        looked_at(root, "folder")


def test_large_groups_are_told_where_a_split_has_another_share(tmp_path: Path) -> None:
    _, report = looked_at(films(tmp_path / "films", films_a_class=3, frames=3), "folder")
    told = [warning for warning in report.warnings if "because groups stay whole" in warning]
    assert (
        "test has one group only of 2 of 2 classes ('cat', 'dog'), which tells little of "
        in (report.warnings[-1])
    )
    assert told == [
        f"{split} has 3 of 9 pictures of '{label}', 33% where 20% was asked for, because groups "
        "stay whole"
        for split in ("val", "test")
        for label in ("cat", "dog")
    ]


def test_a_split_that_is_drawn_beside_one_that_is_given_has_its_share_of_the_rest(
    tmp_path: Path,
) -> None:
    root = films(tmp_path / "films", films_a_class=20, frames=1)
    rows = [
        f"{path.relative_to(root)},{path.parts[-3]},{'test' if int(path.parts[-2][3:]) > 7 else ''}"
        f",{path.parts[-2]}"
        for path in root.rglob("*.png")
    ]
    (root / "list.csv").write_text("\n".join(["path,label,split,group", *rows]))
    _, report = looked_at(root / "list.csv", "auto")
    assert report.counts["val"] == {"cat": 2, "dog": 2}  # of 8 each
    assert not [warning for warning in report.warnings if "stay whole" in warning]


def test_a_share_of_the_training_pictures_is_of_whole_groups() -> None:
    pictures = [
        Picture(f"{n}/{i}.png", n % 2, "train", f"{n}-{i}", f"film{n}")
        for n in range(20)
        for i in range(5)
    ]
    manifest = Manifest(Path(), ("cat", "dog"), tuple(pictures))
    few = Counter(picture.group for picture in manifest.thinned(0.4, seed=0).pictures)
    assert set(few.values()) == {5}
    assert len(few) == 8
    fewer = {picture.path for picture in manifest.thinned(0.2, seed=0).pictures}
    assert fewer < {picture.path for picture in manifest.thinned(0.4, seed=0).pictures}


def test_without_groups_a_digest_is_what_it_was_before_there_were_any() -> None:
    pictures = (
        Picture("a/1.png", 0, "train", "0" * 64), Picture("b/2.png", 1, "test", "1" * 64)
    )  # fmt: skip
    assert Manifest(Path(), ("cat", "dog"), pictures).digest == "2603b96167649692396b94e6fa301a9d"


# ---- what they tell


def unequal(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Numbers of groups of 1 to 20 pictures."""
    rng = np.random.default_rng(seed)
    return np.repeat(np.arange(count), rng.integers(1, 20, size=count))


def test_group_numbers() -> None:
    assert group_numbers(["b", "", "a", "b", ""]).tolist() == [0, 1, 2, 0, 3]
    assert group_numbers(["0", "", "0"]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_effective_size_is_that_of_an_analysis_of_variance(confidence: float) -> None:
    groups = unequal(30)
    rng = np.random.default_rng(1)
    values = (rng.normal(size=30)[groups] + rng.normal(size=len(groups)) > -0.7).astype(float)
    sizes = np.bincount(groups)
    n = len(groups)
    usual = (n - (sizes**2).sum() / n) / 29
    f = f_oneway(*(values[groups == number] for number in range(30))).statistic
    telling = sum(not values[groups == number].all() for number in range(30))
    assert 2 * values.sum() > n
    correlation = ((f - 1) / (f - 1 + usual) * telling + 0.5) / (telling + 1)
    effect = 1 + ((sizes**2).sum() / n - 1) * correlation
    half = (1 + confidence) / 2
    expected = n / effect * (norm.ppf(half) / student.ppf(half, 29)) ** 2
    assert effective_size(values, groups, confidence) == pytest.approx(expected)
    assert 30 < expected < n


def test_effective_size_at_its_ends() -> None:
    groups = np.repeat(np.arange(20), 10)
    t = (norm.ppf(0.975) / student.ppf(0.975, 19)) ** 2
    by_group = np.repeat(np.arange(20) % 2, 10).astype(float)
    assert effective_size(by_group, groups) == pytest.approx(200 * t / (1 + 9 * 10.5 / 11))
    assert effective_size(np.ones(200), groups) == pytest.approx(200 * t / (1 + 9 / 2))
    spread = np.tile([0.0, 1.0], 100)
    assert effective_size(spread, groups) == pytest.approx(200 * t / (1 + 9 * 0.5 / 21))
    assert effective_size(np.ones(200), np.arange(200)) == 200
    assert effective_size(np.ones(200), np.zeros(200, dtype=np.int64)) == 0
    assert accuracy_interval(150, 200, effective=0) == (0, 1)
    assert accuracy_interval(150, 200, effective=200) == accuracy_interval(150, 200)


def test_the_order_of_the_pictures_does_not_matter_where_as_many_are_right_as_wrong() -> None:
    groups = np.repeat(np.arange(20), 10)
    right = np.concatenate([np.ones(50), np.tile([1.0, 0.0, 0.0], 50)])  # 20 groups and 15
    assert right.sum() == 100
    assert effective_size(right[::-1], groups[::-1]) == pytest.approx(effective_size(right, groups))


def drawn(rng: np.random.Generator, groups: NDArray[np.int64], rate: float) -> NDArray[np.float64]:
    """Shares by group whose correlation within a group is 0.3."""
    strength = 1 / 0.3 - 1
    return rng.beta(rate * strength, (1 - rate) * strength, int(groups.max()) + 1)[groups]


@pytest.mark.parametrize("rate", [0.75, 0.95])
def test_the_interval_covers_the_accuracy_where_that_of_independent_pictures_does_not(
    rate: float,
) -> None:
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(25), 10)
    covered = np.zeros(2)
    for _ in range(400):
        right = rng.random(250) < drawn(rng, groups, rate)
        size = effective_size(right.astype(float), groups)
        for i, effective in enumerate((size, None)):
            low, high = accuracy_interval(int(right.sum()), 250, effective=effective)
            covered[i] += low <= rate <= high
    assert covered[0] / 400 > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)
    assert covered[1] / 400 < 0.75


def test_p_values_are_those_of_all_signs() -> None:
    rng = np.random.default_rng(2)
    for _ in range(10):
        groups = np.unique(rng.integers(0, 8, size=40), return_inverse=True)[1]
        differences = rng.integers(-1, 2, size=40)
        sums = np.bincount(groups, weights=differences)
        expected = [
            permutation_test(
                (sums,), lambda x, axis: x.sum(axis), permutation_type="samples",
                alternative=side, n_resamples=np.inf, vectorized=True,
            ).pvalue
            for side in ("two-sided", "greater")
        ]  # fmt: skip
        assert sign_flip_p_values(differences, groups) == pytest.approx(expected)


def test_p_values_of_pictures_alone_are_mcnemars() -> None:
    differences = np.repeat([1, -1, 0], [9, 2, 30])
    expected = binomtest(9, 11).pvalue, binomtest(9, 11, alternative="greater").pvalue
    assert sign_flip_p_values(differences, np.arange(41)) == expected
    assert sign_flip_p_values(np.zeros(5, dtype=int), np.arange(5)) == (1, 1)
    # All of one group: whichever is ahead, it may be by chance.
    assert sign_flip_p_values(differences, np.zeros(41, dtype=np.int64)) == (1, 0.5)


def test_two_equal_models_are_seldom_told_apart_where_mcnemars_test_often_does() -> None:
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(30), 10)
    apart, covered = np.zeros(2), np.zeros(2)
    for _ in range(300):
        one, other = (rng.random(300) < drawn(rng, groups, 0.85) for _ in range(2))
        for i, found in enumerate((compare_paired(one, other, groups), compare_paired(one, other))):
            apart[i] += found.p_value <= 0.05
            covered[i] += found.low <= 0 <= found.high
    assert apart[0] / 300 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert apart[1] / 300 > 0.2
    assert covered[0] / 300 > 0.92
    assert covered[1] / 300 < 0.75


def test_the_interval_of_a_difference_is_that_of_so_many_pictures() -> None:
    few = _difference_interval(12, 2, 20, 16, 0.95, effective=50)
    assert _difference_interval(48, 8, 80, 64, 0.95, effective=50) == pytest.approx(few)
    assert few == pytest.approx((0.056, 0.329), abs=0.0005)  # test_comparison.py has the source


def test_of_one_group_nothing_is_said_of_others() -> None:
    right, wrong = np.ones(50, dtype=bool), np.zeros(50, dtype=bool)
    found = compare_paired(right, wrong, np.zeros(50, dtype=np.int64))
    assert (found.low, found.high, found.groups) == (-1, 1, 1)
    assert found.p_better == 0.5
    with pytest.raises(ValueError, match="groups have shape"):
        compare_paired(right, wrong, np.zeros(3, dtype=np.int64))


def test_runs_with_and_without_groups_are_compared_by_those_that_one_has() -> None:
    said = {f"{index}": ("cat", "cat" if index % 3 else "dog") for index in range(6)}
    groups = {f"{index}": f"film{index // 2}" for index in range(6)}
    with_them, without = Tested("a", said, groups), Tested("b", said)
    for two in ((with_them, without), (without, with_them)):
        assert shared(*two).groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert shared(without, without).groups.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_group_of_a_picture_to_predict_is_the_first_folder_below_that_of_its_class(
    tmp_path: Path,
) -> None:
    names = ["1.jpg", "cat/1.jpg", "cat/p1/left/1.jpg", "old/dog/p2/1.jpg", "cat/dog/p3/1.jpg"]
    for name in names:
        (tmp_path / "dog" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dog" / name).touch()
    given = find_pictures(str(tmp_path / "dog"), tmp_path)
    found = {file.path: (file.label, file.folder) for file in given.files(("cat", "dog"))}
    assert found == {
        "1.jpg": ("dog", ""),
        "cat/1.jpg": ("cat", ""),
        "cat/p1/left/1.jpg": ("cat", "p1"),
        "old/dog/p2/1.jpg": ("dog", "p2"),
        "cat/dog/p3/1.jpg": ("dog", "p3"),
    }
    assert {file.label for file in given.files(("cow", "pig"))} == {""}


def test_a_tally_counts_as_the_pictures_one_by_one_would() -> None:
    rng = np.random.default_rng(4)
    names = [f"film{number}" if number < 9 else "" for number in rng.integers(0, 12, size=150)]
    right = (rng.random(150) < 0.8) & np.array([name != "film3" for name in names])
    tally = Tally(("cat", "dog"), 0.0, np.zeros((2, 2), dtype=np.int64))
    for name, hit in zip(names, right, strict=True):
        row = np.array([0.9, 0.1]) if hit else np.array([0.1, 0.9])
        tally.add("1.png", Prediction(Path(), row, ""), 0, name)
    groups = group_numbers(names)
    assert tally.groups == groups.max() + 1 < 150
    effective = effective_size(right.astype(float), groups)
    expected = accuracy_interval(int(right.sum()), 150, effective=effective)
    assert tally.interval == pytest.approx(expected)


# ---- runs


def runs_by_name(experiment: str) -> dict[str, Run]:
    return {
        run.info.run_name: run for run in mlflow.search_runs([experiment], output_format="list")
    }


def test_runs_on_groups_tell_of_them_and_are_compared_by_them(
    tmp_path: Path, entry: Entry, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(films(tmp_path / "films", films_a_class=8)), "--groups", "folder"]
    for phase in ("baseline", "head"):
        assert entry(phase, *data) == 0
    assert "groups" in capsys.readouterr().err
    runs = runs_by_name(experiment)
    folder = Path(mlflow.artifacts.download_artifacts(runs["head"].info.artifact_uri))
    rows = pd.read_csv(folder / "data" / "manifest.csv")
    assert (rows["group"] == rows["path"].str.split("/").str[1]).all()
    said = pd.read_csv(folder / "predictions.csv")
    right = (said["label"] == said["predicted"]).to_numpy()
    groups = group_numbers(said["path"].str.split("/").str[1].tolist())
    low, high = accuracy_interval(
        int(right.sum()), len(right), effective=effective_size(right.astype(float), groups)
    )
    metrics = runs["head"].data.metrics
    assert metrics["test/groups"] == groups.max() + 1 == 2
    assert (metrics["test/accuracy_low"], metrics["test/accuracy_high"]) == (low, high)
    assert (
        f"{len(right)} pictures right, in 2 groups)"
        in (runs["head"].data.tags["mlflow.note.content"])
    )

    assert entry("compare") == 0
    run = runs_by_name(experiment)["compare"]
    folder = Path(mlflow.artifacts.download_artifacts(run.info.artifact_uri))
    [pair] = json.loads((folder / "comparison.json").read_text())["pairs"]
    assert pair["found"]["groups"] == 2
    page = (folder / "report.html").read_text()
    assert f"{len(right)} test pictures in 2 groups, of 2 classes" in page
    assert "the signs of the groups' differences flipped" in page

    model = f"runs:/{runs['head'].info.run_id}/model"
    other = f"runs:/{runs['baseline'].info.run_id}/model"
    for candidate in (other, model):
        assert entry("promote", "--name", "films", "--candidate", candidate) == 0
    [judged] = mlflow.search_runs([experiment], output_format="list", max_results=1)
    assert judged.data.metrics["promote/groups"] == 2


def test_labels_are_doubted_without_the_pictures_group(
    tmp_path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    shown: list[list[str]] = []

    def watched(
        features: object, labels: object, classes: int, groups: NDArray[np.int64]
    ) -> list[Doubt]:
        seen.append(np.bincount(groups).tolist())
        return [Doubt(index, 0, 1 - index / 100) for index in range(10)]

    def sheet(tiles: list[Tile], title: str, **counts: int) -> Figure:
        shown.append([tile.path for tile in tiles])
        return doubtful_labels(tiles, title, **counts)

    monkeypatch.setattr("tlkit.outcome.doubts", watched)
    monkeypatch.setattr("tlkit.outcome.doubtful_labels", sheet)
    root = films(tmp_path / "films", films_a_class=5)
    assert entry("head", "--data", str(root), "--groups", "folder") == 0
    assert entry("head", "--data", str(root), "--groups", "none") == 0
    assert seen == [[4] * 8, [1] * len(seen[1])]
    assert [path.split("/")[2] for path in shown[0]] == ["0.png"] * 3  # the first of each film
    assert len({path.split("/")[1] for path in shown[0]}) == 3
    assert len(shown[1]) == 10


def test_a_run_to_begin_from_that_knows_a_group_of_the_test_is_warned_of(
    tmp_path: Path, entry: Entry, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = films(tmp_path / "films", films_a_class=5)
    for frame in (0, 1, 2):  # the head's, other frames of the same films for finetune
        for path in root.glob(f"*/*/{frame}.png"):
            target = tmp_path / "first" / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    grouped = ["--groups", "folder", "--data_seed"]
    assert entry("head", "--data", str(tmp_path / "first"), *grouped, "0") == 0
    head = runs_by_name(experiment)["head"].info.run_id
    capsys.readouterr()
    begun = ["--data", str(root), "--init_from", head]
    assert entry("finetune", *begun, *grouped, "0") == 0
    assert "warning: init_from" not in capsys.readouterr().err
    assert entry("finetune", *begun, *grouped, "1") == 0
    said = capsys.readouterr().err
    assert f"warning: init_from={head} has seen, in training or validation, groups with" in said


def test_predict_counts_groups_in_folders_called_after_a_class(
    tmp_path: Path, trained: Trained, entry: Entry, experiment: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = films(tmp_path / "some" / "dog", films_a_class=4)  # below dog/: cat/ and dog/
    (root / "cat" / "alone.png").write_bytes((root / "cat" / "cat0" / "0.png").read_bytes())
    asked = ["--model", trained.model(), "--images", str(root), "--groups"]
    assert entry("predict", *asked, "folder") == 0
    said = capsys.readouterr()
    assert "warning: groups=folder names no group for 1 of 33 files" in said.err
    run = runs_by_name(experiment)["predict"]
    folder = Path(mlflow.artifacts.download_artifacts(run.info.artifact_uri))
    rows = pd.read_csv(folder / "predictions.csv")
    parts = rows["path"].str.split("/")
    right = (rows["predicted"] == parts.str[0]).to_numpy()
    groups = group_numbers([part[1] if len(part) > 2 else "" for part in parts])
    effective = effective_size(right.astype(float), groups)
    low, high = accuracy_interval(int(right.sum()), 33, effective=effective)
    metrics = run.data.metrics
    assert metrics["predict/groups"] == groups.max() + 1 == 9
    assert metrics["predict/accuracy_low"] == pytest.approx(low)
    assert metrics["predict/accuracy_high"] == pytest.approx(high)
    assert "on the 33 pictures in folders called after a class, in 9 groups." in said.out
    assert entry("predict", *asked, "zebra") == 2
    assert "groups=zebra names no group for any of the 33 files" in capsys.readouterr().err


def test_a_list_trains_as_the_folders_do_and_a_manifest_is_one(
    tmp_path: Path, entry: Entry, experiment: str
) -> None:
    root = films(tmp_path / "films", films_a_class=5)
    assert entry("data", "--data", str(root), "--groups", "folder") == 0
    first = runs_by_name(experiment)["data"]
    written = Path(mlflow.artifacts.download_artifacts(first.info.artifact_uri)) / "data"
    (root / "list.csv").write_text((written / "manifest.csv").read_text())
    assert entry("baseline", "--data", str(root / "list.csv")) == 0
    tags = runs_by_name(experiment)["baseline"].data.tags
    assert tags["tlkit.data_digest"] == first.data.tags["tlkit.data_digest"]
