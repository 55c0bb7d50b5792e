"""The audit names every fault, keeps the rest, and stops where there is nothing to train on."""

import _thread
import io
import json
import os
import re
import shutil
import signal
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from PIL import Image

from tlkit.config import Config
from tlkit.data import manifest as manifests
from tlkit.data import near
from tlkit.data.audit import UNREADABLE, AuditReport, audit
from tlkit.data.damage import fault_in
from tlkit.data.images import read_picture
from tlkit.data.manifest import Manifest, Picture
from tlkit.data.near import NEAR_DISTANCE, near_groups, near_hashes
from tlkit.data.sources import Source, SourceFile, open_source
from tlkit.errors import UserError
from tlkit.summary import of_audit, of_classes, of_data


def photo(seed: int) -> Image.Image:
    """Coarse coloured noise, smoothed: no two seeds look alike, and JPEG leaves it as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((80, 64), Image.Resampling.BICUBIC)


def data_set(root: Path, **counts: int) -> Path:
    """`counts` pictures of cat and of dog in each split, or with `all`, one folder a class."""
    seed = 0
    for split, count in counts.items():
        for label in ("cat", "dog"):
            folder = root / label if split == "all" else root / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                photo(seed).save(folder / f"{index}.jpg", quality=95)
                seed += 1
    return root


def looked_at(
    root: Path, *, seed: int = 0, workers: int = 1, max_pixels: int = 10_000
) -> tuple[Manifest, AuditReport]:
    return audit(
        open_source(str(root), root.parent / "cache", seed),
        seed=seed,
        max_pixels=max_pixels,
        val_fraction=0.2,
        test_fraction=0.2,
        workers=workers,
        looks=root.parent / "looks",
    )


def refused(root: Path, reason: str, max_pixels: int = 10_000) -> None:
    with pytest.raises(UserError, match=reason) as error:
        looked_at(root, max_pixels=max_pixels)
    assert "\n" not in str(error.value)


def copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def huge_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_sound_data_has_nothing_to_report(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=6, val=2, test=3)
    (root / "val" / "cat" / "0.jpg").rename(root / "val" / "cat" / "0.JPG")
    manifest, report = looked_at(root)
    assert manifest.classes == ("cat", "dog")
    assert report.counts == {
        "train": {"cat": 6, "dog": 6},
        "val": {"cat": 2, "dog": 2},
        "test": {"cat": 3, "dog": 3},
    }
    assert manifest.counts() == report.counts
    assert report.files == 22
    assert (report.warnings, report.quarantined, report.dropped_duplicates) == ((), (), ())
    assert (report.copies, report.conflicting_labels, report.near_duplicates) == ((), (), ())
    assert report.mismatched_extensions == {}


def test_names_of_classes_and_files_are_shown_as_they_are_and_move_nothing(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", all=12)
    (root / "cat").rename(root / "=![a](b)")
    (root / "dog" / "bad\x1b[2J.jpg").touch()
    manifest, report = looked_at(root)
    assert any("takes the name of 1 of 2 classes ('=![a](b)') for a" in w for w in report.warnings)
    assert "unreadable: dog/bad?[2J.jpg (empty file)" in of_audit(report).splitlines()
    assert r"2 classes (=\!\[a\](b), dog)" in of_data(Config(), manifest)


def test_pictures_under_two_labels_are_named_and_kept_under_both(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", all=24)
    for index in range(11):
        copy(root / "cat" / f"{index}.jpg", root / "dog" / f"again{index}.jpg")
    manifest, report = looked_at(root)
    lines = of_audit(report).splitlines()
    assert "two labels: cat/0.jpg = dog/again0.jpg" in lines
    assert sum(line.startswith("two labels: ") for line in lines) == 10
    assert "and 1 more under two labels, in data/audit.json" in lines
    assert of_classes(manifest) == "2 classes: cat (24), dog (35)"


def test_every_fault_is_named(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=45, val=3, test=3)
    train, test = root / "train", root / "test"
    (train / "cat" / "empty.jpg").touch()
    (train / "cat" / "text.jpg").write_text("no picture")
    whole = (train / "dog" / "0.jpg").read_bytes()
    (train / "dog" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(train / "dog" / "zip.jpg", "w") as archive:
        archive.writestr("a", "b")
    (train / "dog" / "folder.jpg").mkdir()
    (test / "dog" / "huge.png").write_bytes(huge_png())
    photo(1000).save(train / "cat" / "moving.jpg", "GIF")
    copy(train / "cat" / "3.jpg", test / "cat" / "leak.jpg")
    copy(train / "dog" / "4.jpg", root / "val" / "dog" / "leak.jpg")
    copy(root / "val" / "cat" / "1.jpg", test / "cat" / "twin.jpg")
    copy(train / "cat" / "5.jpg", train / "cat" / "again.jpg")
    copy(train / "cat" / "6.jpg", train / "dog" / "wrong.jpg")
    copy(train / "cat" / "8.jpg", test / "dog" / "wrong.jpg")
    with Image.open(train / "dog" / "7.jpg") as picture:
        picture.resize((40, 32)).save(test / "dog" / "small.jpg", quality=60)

    manifest, report = looked_at(root)
    assert {one.path: one.reason for one in report.quarantined} == {
        "test/dog/huge.png": "50000x50000 is over the limit of 10000 pixels",
        "train/cat/empty.jpg": "empty file",
        "train/cat/text.jpg": "not a picture",
        "train/dog/cut.jpg": "truncated",
        "train/dog/folder.jpg": "a folder, not a file",
        "train/dog/zip.jpg": "not a picture",
    }
    assert [(one.path, one.duplicate_of) for one in report.dropped_duplicates] == [
        ("train/cat/3.jpg", "test/cat/leak.jpg"),
        ("train/cat/8.jpg", "test/dog/wrong.jpg"),
        ("train/dog/4.jpg", "val/dog/leak.jpg"),
        ("val/cat/1.jpg", "test/cat/twin.jpg"),
    ]
    assert report.copies == (("train/cat/5.jpg", "train/cat/again.jpg"),)
    assert report.conflicting_labels == (
        ("test/dog/wrong.jpg", "train/cat/8.jpg"),
        ("train/cat/6.jpg", "train/dog/wrong.jpg"),
    )
    assert report.mismatched_extensions == {
        "train/cat/moving.jpg": "extension says jpg, content is gif"
    }
    assert report.near_duplicate_pairs == 1
    assert "pairs of pictures in different splits that look alike: 1" in report.warnings
    (pair,) = report.near_duplicates
    assert (pair.path, pair.other) == ("train/dog/7.jpg", "test/dog/small.jpg")
    assert pair.distance <= NEAR_DISTANCE
    assert report.counts == {
        "train": {"cat": 45, "dog": 45},
        "val": {"cat": 2, "dog": 4},
        "test": {"cat": 5, "dog": 5},
    }
    kept = {picture.path for picture in manifest.pictures}
    assert "train/cat/moving.jpg" in kept
    assert not kept & {one.path for one in report.quarantined}
    assert not kept & {one.path for one in report.dropped_duplicates}
    assert (
        len({p.sha256 for p in manifest.of("test")} & {p.sha256 for p in manifest.of("val")}) == 0
    )
    assert len(report.warnings) == 6
    for name in (
        "train/cat/empty.jpg",
        "test/cat/leak.jpg",
        "moving.jpg",
        "small.jpg",
        "wrong.jpg",
    ):
        assert name in report.to_json()


def with_zeros(data: bytes, number: int = 200) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(number) + data[middle + number :]


def encoded(mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    photo(0).convert(mode).save(file, **{"format": "JPEG", "quality": 95, **options})
    return file.getvalue()


def test_a_damaged_picture_that_can_be_decoded_is_named_and_kept(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", all=12)
    broken = root / "dog" / "5.jpg"
    broken.write_bytes(with_zeros(broken.read_bytes()))
    read_picture(broken)
    for _ in range(2):  # the second from what is remembered
        manifest, report = looked_at(root)
        assert [one.path for one in report.damaged] == ["dog/5.jpg"]
        assert "dog/5.jpg" in {picture.path for picture in manifest.pictures}
        lines = of_audit(report).splitlines()
        assert f"damaged: dog/5.jpg ({report.damaged[0].reason})" in lines
        assert any(line.endswith("may be grey or shifted, kept: 1") for line in lines)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (encoded(), None),
        (encoded(progressive=True, optimize=True), None),
        (encoded("L"), None),
        (encoded("CMYK"), None),
        (encoded(restart_marker_blocks=2), None),
        (encoded() + bytes(500), None),
        (encoded() + b"what a camera adds" * 9, None),
        (encoded(format="MPO", save_all=True, append_images=[photo(1)]), None),
        (encoded().replace(b"JFIF\0\x01\x01", b"JFIF\0\x09\x09"), None),  # unusual, and whole
        (with_zeros(encoded(format="PNG")), None),  # which Pillow refuses
        (encoded()[:-2], "Premature end of JPEG file"),
        (
            with_zeros(encoded()).replace(b"JFIF\0\x01\x01", b"JFIF\0\x09\x09"),
            "premature end of data segment|extraneous bytes|bad Huffman",
        ),
        (with_zeros(encoded()), "premature end of data segment|extraneous bytes|bad Huffman"),
        (with_zeros(encoded("CMYK")), "premature end of data segment|extraneous bytes|bad Huffman"),
        (encoded(progressive=True)[:-2], "Premature end of JPEG file"),
    ],
)
def test_what_is_wrong_with_a_jpeg_is_told_in_libjpegs_words(
    data: bytes, fault: str | None
) -> None:
    content = "PNG" if data.startswith(b"\x89PNG") else "JPEG"
    said = fault_in(data, content)
    assert said is None if fault is None else re.search(fault, str(said))


def test_report_and_manifest_repeat_for_any_number_of_workers(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", all=12)
    (root / "cat" / "empty.jpg").touch()
    first, report = looked_at(root)
    for workers in (0, 3):
        again, same = looked_at(root, workers=workers)
        assert same.to_json() == report.to_json()
        assert again.digest == first.digest
    parsed = json.loads(report.to_json())
    assert parsed["quarantined"] == [{"path": "cat/empty.jpg", "reason": "empty file"}]
    assert parsed["summary"] == report.summary
    assert str(tmp_path) not in report.to_json()


def test_a_second_audit_decodes_what_changed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = data_set(tmp_path / "d", all=60)  # 120: more than are written at once
    Image.new("RGB", (64, 64), "red").save(root / "cat" / "flat.png")
    (root / "cat" / "text.jpg").write_text("no picture")
    decoded = []

    def counted(data: bytes, max_pixels: int) -> Image.Image:
        decoded.append(data)
        return read_picture(data, max_pixels)

    monkeypatch.setattr("tlkit.data.looks.read_picture", counted)
    first = looked_at(root, workers=3)
    assert len(decoded) == 122
    assert looked_at(root, workers=3) == first
    assert decoded[122:] == [b"no picture"]
    photo(1000).save(root / "cat" / "3.jpg")
    changed, _ = looked_at(root)
    assert len(decoded) == 125
    assert changed.digest != first[0].digest
    refused(root, "no readable picture", max_pixels=5000)
    monkeypatch.setattr("tlkit.data.looks._PACKAGES", ("numpy",))
    looked_at(root)
    assert len(decoded) == 125 + 2 * 122


def test_hashes_are_those_of_the_imagehash_package(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=2, val=2, test=2)
    shifted = photo(0).crop((1, 0, 80, 64))
    shifted.save(root / "test" / "cat" / "near.png")
    with Image.open(root / "train" / "cat" / "0.jpg") as original:
        expected = imagehash.phash(original) - imagehash.phash(shifted)
    _, report = looked_at(root)
    assert 0 < expected <= NEAR_DISTANCE
    assert [(p.path, p.other, p.distance) for p in report.near_duplicates] == [
        ("train/cat/0.jpg", "test/cat/near.png", expected)
    ]


def test_of_near_pairs_the_nearest_of_all_splits_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.data.audit.MAX_LISTED", 2)
    root = data_set(tmp_path / "d", train=2, val=2, test=2)
    photo(0).crop((1, 0, 80, 64)).save(root / "val" / "cat" / "near.png")
    photo(0).save(root / "test" / "cat" / "nearer.png")
    _, report = looked_at(root)
    assert report.near_duplicate_pairs == 3
    listed = [(pair.path, pair.other) for pair in report.near_duplicates]
    assert listed == [
        ("train/cat/0.jpg", "test/cat/nearer.png"),
        ("train/cat/0.jpg", "val/cat/near.png"),
    ]


def test_flat_pictures_look_like_nothing(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=3, val=2, test=2)
    for index, split in enumerate(("train", "val", "test")):
        for shade in range(5):
            colour = (40 * shade + index, 100, 100)
            Image.new("RGB", (64, 64), colour).save(root / split / "cat" / f"flat{shade}.png")
    _, report = looked_at(root)
    assert report.near_duplicates == ()


def test_near_hashes_match_the_plain_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NEAR_DISTANCE == 6  # as measured, and as the documents have it
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**64, size=300, dtype=np.uint64)
    second = rng.integers(0, 2**64, size=5000, dtype=np.uint64)
    for index in range(200):  # 200 pairs, 0 to 8 bits apart
        flips = rng.choice(64, size=index % 9, replace=False)
        second[index] = first[index] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    plain = [
        ((int(a) ^ int(b)).bit_count(), row, column)
        for row, a in enumerate(first)
        for column, b in enumerate(second[:400])
    ]
    expected = sorted(pair for pair in plain if pair[0] <= NEAR_DISTANCE)
    total, rows = near_hashes(first, second, listed=10_000)
    assert total == len(expected)
    assert [tuple(row) for row in rows.tolist()] == expected
    monkeypatch.setattr(near, "_PAIRS", 50_000)  # ten rows at a time
    for listed in (10_000, 50, 5):
        total, rows = near_hashes(first, second, listed)
        assert total == len(expected)
        assert [tuple(row) for row in rows.tolist()] == expected[:listed]
    assert near_hashes(first, second[:0], listed=5)[0] == 0
    total, rows = near_hashes(first[:0], second, listed=5)
    assert (total, rows.shape) == (0, (0, 3))


def test_a_flood_of_near_pairs_is_counted_and_cut() -> None:
    same = np.zeros(3000, dtype=np.uint64)
    other = np.zeros(2000, dtype=np.uint64)
    same[2500] = 1
    total, rows = near_hashes(same, other, listed=10)
    assert total == 3000 * 2000
    assert rows.tolist() == [[0, 0, column] for column in range(10)]


def test_near_groups_are_what_chains_of_near_pairs_connect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    looks: list[int | None] = [int(look) for look in rng.integers(0, 2**64, 2000, dtype=np.uint64)]
    for index in range(0, 600, 3):  # 200 chains of three, whose ends are up to 12 bits apart
        for one, other in ((index, index + 1), (index + 1, index + 2)):
            bits = rng.choice(64, size=NEAR_DISTANCE, replace=False)
            looks[other] = looks[one] ^ sum(1 << int(bit) for bit in bits)  # type: ignore[operator]
    looks[1000] = looks[1999] = looks[0]
    looks[600:602] = [None, None]
    expected = [[0, 1, 2, 1000, 1999], *([i, i + 1, i + 2] for i in range(3, 600, 3))]
    order = rng.permutation(2000)
    shuffled = near_groups([looks[index] for index in order])
    assert sorted(sorted(order[group].tolist()) for group in shuffled) == expected
    assert near_groups([]) == near_groups([None, None, 5]) == []
    assert near_groups([5, 2**64 - 1, 4]) == [[0, 2]]
    # However little is compared and joined at a time.
    monkeypatch.setattr(near, "_PAIRS", 50)
    assert sorted(map(sorted, near_groups(looks))) == expected


def test_what_takes_long_of_many_pictures_has_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def bar(steps: Iterable[object], *, desc: str, **options: object) -> Iterable[object]:
        assert options["disable"] is None  # which is a bar on a terminal, and nothing elsewhere
        shown.append(desc)
        return steps

    for module in ("sources", "near"):
        monkeypatch.setattr(f"tlkit.data.{module}.tqdm", bar)
    looked_at(data_set(tmp_path / "d", all=5))
    assert shown == ["folders", *["near copies"] * 4]  # groups to split, pairs of three splits


def test_a_film_is_one_group() -> None:
    steps = np.random.default_rng(0).integers(0, 64, size=20_000, dtype=np.uint64)
    film = np.bitwise_xor.accumulate(np.uint64(1) << steps)
    assert [len(group) for group in near_groups(film.tolist())] == [20_000]
    assert [len(group) for group in near_groups([7] * 20_000)] == [20_000]


def test_missing_splits_are_drawn_from_train(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=10, val=3)
    manifest, report = looked_at(root)
    assert report.counts["train"] == {"cat": 8, "dog": 8}
    assert report.counts["val"] == {"cat": 3, "dog": 3}
    assert report.counts["test"] == {"cat": 2, "dog": 2}
    assert report.warnings == ("test is missing and was drawn from train",)
    assert {p.path.split("/")[0] for p in manifest.of("test")} == {"train"}
    assert looked_at(root, seed=1)[0].digest != manifest.digest


def test_one_folder_a_class_is_split_with_copies_together(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", all=20)
    for index in range(10):
        copy(root / "cat" / f"{index}.jpg", root / "cat" / f"copy{index}.jpg")
    for seed in range(3):
        manifest, report = looked_at(root, seed=seed)
        assert report.dropped_duplicates == ()
        assert len(report.copies) == 10
        assert report.kept_together == ()  # copies are no more than that
        assert report.counts["val"] == {"cat": 6, "dog": 4}
        splits = {p.path: p.split for p in manifest.pictures}
        for index in range(10):
            assert splits[f"cat/{index}.jpg"] == splits[f"cat/copy{index}.jpg"]


def test_one_folder_a_class_is_split_with_near_copies_together(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", all=40)
    for path in root.glob("*/*.jpg"):
        with Image.open(path) as picture:
            picture.resize((60, 48)).save(path.with_suffix(".png"))
    for seed in range(3):
        manifest, report = looked_at(root, seed=seed)
        assert report.near_duplicate_pairs == 0
        assert len(report.kept_together) == 80
        assert ("cat/0.jpg", "cat/0.png") in report.kept_together
        assert report.warnings == (
            "groups of pictures that look alike, each drawn into one split: 80",
        )
        assert report.counts["val"] == report.counts["test"] == {"cat": 16, "dog": 16}
        splits = {p.path: p.split for p in manifest.pictures}
        for path, split in splits.items():
            assert splits[str(Path(path).with_suffix(".png"))] == split


def test_a_class_of_pictures_that_are_all_alike_is_split_and_told(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", all=20)
    for index, path in enumerate(sorted((root / "dog").iterdir())):
        drawing = photo(0)
        drawing.putpixel((index, 0), (0, 0, 0))
        drawing.save(path.with_suffix(".png"))
        path.unlink()
    _, report = looked_at(root)
    assert report.counts["val"] == report.counts["test"] == {"cat": 4, "dog": 4}
    assert report.near_duplicate_pairs >= 4 * 4 + 2 * 4 * 12
    told = "pairs of pictures in different splits that look alike, too many to stay together"
    assert any(warning.startswith(f"{told}: ") for warning in report.warnings)


def test_one_picture_and_imbalance_are_warned_of(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=3, val=1, test=2)
    for index in range(27):
        photo(500 + index).save(root / "train" / "dog" / f"more{index}.png")
    single = "val has one picture only of 2 of 2 classes ('cat', 'dog')"
    assert looked_at(root)[1].warnings == (single,)
    photo(600).save(root / "train" / "dog" / "one more.png")
    imbalance = (
        "strong imbalance: 31 training pictures of 'dog' and 3 of 'cat'; look at balanced "
        "accuracy, and try class_weights=balanced"
    )
    assert looked_at(root)[1].warnings == (single, imbalance)


def test_warnings_of_the_source_are_in_the_report(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=5)
    (root / "test1").mkdir()
    copy(root / "train" / "cat" / "0.jpg", root / "test1" / "1.jpg")
    _, report = looked_at(root)
    assert any("test1/ is not used" in warning for warning in report.warnings)
    assert report.counts["test"] == {"cat": 1, "dog": 1}


def one_class(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.unlink()
    for split in ("train", "val", "test"):
        (root / split / "dog").rename(root.parent / f"gone-{split}")


def unreadable_class(root: Path) -> None:
    for path in root.glob("*/dog/*.jpg"):
        path.write_bytes(b"")


def half_broken(root: Path) -> None:
    for path in sorted(root.glob("*/*/*.jpg"))[::2]:
        path.write_bytes(path.read_bytes()[:100])


def all_dogs_are_huge(root: Path) -> None:
    for path in root.glob("*/dog/*"):
        path.write_bytes(huge_png())


def val_without_dogs(root: Path) -> None:
    (root / "val" / "dog").rename(root.parent / "gone")


def train_without_dogs(root: Path) -> None:
    (root / "train" / "dog").rename(root.parent / "gone")


def all_dogs_copied_to_test(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        copy(path, root / "test" / "dog" / f"copy-{path.name}")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (one_class, "one class only, 'cat'; two"),
        (
            unreadable_class,
            r"no readable picture of 1 of 2 classes \('dog'\): test/dog/0.jpg: empty file",
        ),
        (half_broken, r"11 of 22 files .* cannot be read .*: truncated.*; allowed are 10%"),
        (all_dogs_are_huge, r"\('dog'\): .*: 50000x50000 is over the limit of 10000 pixels"),
        (val_without_dogs, r"val has too few pictures of 1 of 2 classes \('dog'\): 0 of .*remove"),
        (
            train_without_dogs,
            r"train has too few pictures of 1 of 2 .*; add some, or remove the class",
        ),
        (all_dogs_copied_to_test, r"train has too few .*'dog', where 1 .* 6 unreadable or doubled"),
    ],
)
def test_what_cannot_be_trained_on_stops(
    tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    root = data_set(tmp_path / "d", train=6, val=2, test=3)
    harm(root)
    refused(root, reason)


@pytest.mark.skipif(sys.platform == "darwin", reason="takes both for one name")
def test_one_name_in_two_unicode_forms_is_told(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=6, val=2, test=3)
    for split, name in (("train", "cafe\u0301"), ("val", "caf\u00e9"), ("test", "caf\u00e9")):
        (root / split / "dog").rename(root / split / name)
    refused(root, r"'cafe\\u0301' and 'caf\\xe9' differ in writing .*rename the folders of one")


def test_classes_that_differ_in_capitals_alone_are_told(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=6, val=2, test=3)
    (root / "val" / "dog").rename(root / "val" / "Dog")
    refused(root, r"'(Dog|dog)' and '(Dog|dog)' differ in writing .*capitals.*rename the folders")


def test_too_few_to_split_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = data_set(tmp_path / "d", all=4)
    for label in "abcd":
        (root / label).mkdir()
        for name in ("1.jpg", "2.jpg"):
            copy(root / "cat" / "0.jpg", root / label / name)
    with monkeypatch.context() as patch:
        patch.delattr("tlkit.data.audit.read_bytes")
        few = r"train has too few pictures of 4 of 6 classes \('a', 'b', 'c', \.\.\.\): 2 of 'a', "
        refused(root, few + "where 3 .* a class needs 3 different ones, for train, val, test$")
    for label in "abcd":
        copy(root / "cat" / "0.jpg", root / label / "3.jpg")
    refused(root, r"has too few pictures of 4 of 6 classes .*: 0 of .*, where 1 .* different ones")


def test_ten_per_cent_unreadable_is_allowed_and_more_is_not(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=5, val=2, test=2)  # 18
    for index in range(2):
        (root / "train" / "cat" / f"bad{index}.jpg").touch()
    assert len(looked_at(root)[1].quarantined) == 2
    (root / "train" / "cat" / "bad2.jpg").touch()
    refused(root, "3 of 21 files")


def test_what_its_name_tells_to_be_no_picture_is_left_out_and_stops_nothing(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=5, val=2, test=2)  # 18
    for path in root.glob("*/*/*.jpg"):
        path.with_suffix(".xml").write_text("<annotation/>", encoding="utf-8")
    for name in ("a.jpg", "b.zzz"):
        (root / "train" / "cat" / name).write_text("<annotation/>", encoding="utf-8")
    _, report = looked_at(root)
    assert {item.reason for item in report.quarantined} == {"not a picture"}
    assert "files that cannot be read, left out: 20" in report.warnings
    (root / "train" / "cat" / "c").touch()
    refused(root, "3 of 21 files")


def test_what_stops_is_listed_whole(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=6, val=2, test=3)
    half_broken(root)
    broken = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/*/*.jpg"))[::2]]
    with pytest.raises(UserError, match=f"{UNREADABLE} of the failed run names all") as error:
        looked_at(root)
    [head, *rows] = error.value.artifacts[UNREADABLE].splitlines()
    assert head == "path,reason"
    assert [row.split(",")[0] for row in rows] == broken
    unreadable_class(root)
    with pytest.raises(UserError, match="no readable picture") as error:
        looked_at(root)
    assert error.value.artifacts[UNREADABLE].count("dog/") == 11


def test_an_archive_is_named_by_its_own_path(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=6, val=2, test=3)
    half_broken(root)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", root))
    with pytest.raises(UserError, match=rf"11 of 22 files in {archive} \(unpacked in .*\) cannot"):
        looked_at(archive)
    bare = Path(shutil.make_archive(str(tmp_path / "bare"), "zip", root / "train" / "cat"))
    with pytest.raises(UserError, match=rf"^{bare}, unpacked: no labelled pictures in "):
        looked_at(bare)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep file names in Unicode")
def test_names_that_no_file_can_keep_are_quarantined(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=10, val=2, test=2)
    for name in (b"cat/caf\xe9.jpg", b"cat/a\rb.jpg"):
        copy(root / "train" / "cat" / "0.jpg", root / "train" / os.fsdecode(name))
    _, report = looked_at(root)
    assert {(one.path, one.reason) for one in report.quarantined} == {
        ("train/cat/caf?.jpg", "its name is not UTF-8"),
        ("train/cat/a\rb.jpg", "its name has a carriage return"),
    }
    report.to_json().encode()


def test_read_only_data_is_enough(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=3, val=2, test=2)
    before = {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}
    looked_at(root)
    assert {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))} == before


def test_ctrl_c_does_not_wait_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = data_set(tmp_path / "d", train=40, val=2, test=2)
    calls = []

    def slow(data: bytes, max_pixels: int) -> Image.Image:
        calls.append(data)
        if len(calls) == 3:
            _thread.interrupt_main()
        time.sleep(0.02)
        return photo(len(calls))

    monkeypatch.setattr("tlkit.data.looks.read_picture", slow)
    # A shell ignores the signal for what it runs in the background, such as this test.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            looked_at(root)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(calls) < 60


def test_source_without_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pictures"):
        audit(
            Source("x", tmp_path, "x", ()),
            seed=0,
            max_pixels=100,
            val_fraction=0.1,
            test_fraction=0.1,
            workers=1,
            looks=tmp_path / "looks",
        )


# Manifest

PICTURES = (
    Picture("b/2.jpg", 1, "test", "22"),
    Picture("b/1, odd\n.jpg", 1, "train", "11"),
    Picture("a/é.jpg", 0, "train", "00"),
    Picture("a/3.jpg", 0, "val", "33"),
)


def test_manifest_is_sorted_and_counted(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, ("a", "b"), PICTURES)
    assert [p.sha256 for p in manifest.pictures] == ["00", "11", "33", "22"]
    assert [p.sha256 for p in manifest.of("train")] == ["00", "11"]
    assert manifest.counts() == {
        "train": {"a": 1, "b": 1},
        "val": {"a": 1, "b": 0},
        "test": {"a": 0, "b": 1},
    }


def test_manifest_comes_back_from_csv(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, ("a", "b"), PICTURES)
    manifest.write(tmp_path / "manifest.csv")
    again = manifests.read(tmp_path / "manifest.csv", tmp_path)
    assert again == manifest
    assert again.digest == manifest.digest
    header = io.StringIO((tmp_path / "manifest.csv").read_text("utf-8")).readline()
    assert header == "path,split,label,class,sha256\n"


def test_digest_depends_on_everything_but_the_root(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, ("a", "b"), PICTURES)
    assert len(manifest.digest) == 32
    assert replace(manifest, root=Path("elsewhere")).digest == manifest.digest
    assert replace(manifest, pictures=PICTURES[::-1]).digest == manifest.digest
    others = [
        replace(manifest, classes=("a", "c")),
        *(
            replace(manifest, pictures=(replace(PICTURES[0], **change), *PICTURES[1:]))
            for change in ({"path": "x"}, {"label": 0}, {"split": "val"}, {"sha256": "x"})
        ),
    ]
    assert len({other.digest for other in others} | {manifest.digest}) == 6


def test_manifest_refuses_what_does_not_fit(tmp_path: Path) -> None:
    for picture in (Picture("x", 2, "train", ""), Picture("x", 0, "dev", ""), PICTURES[0]):
        with pytest.raises(ValueError, match=r"fit|twice"):
            Manifest(tmp_path, ("a", "b"), (*PICTURES, picture))
    for text in ("", "path,split\nx,train\n", "path,split,label,class,sha256\nx,train,one,a,0\n"):
        (tmp_path / "bad.csv").write_text(text)
        if text:
            with pytest.raises(UserError, match="is not a manifest"):
                manifests.read(tmp_path / "bad.csv", tmp_path)
    with pytest.raises(UserError, match="cannot read the manifest"):
        manifests.read(tmp_path / "absent.csv", tmp_path)


def test_source_files_need_not_be_on_one_level(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", train=2, val=1, test=1)
    files = tuple(
        SourceFile(path.relative_to(root).as_posix(), path.parent.name, path.parts[-3])
        for path in sorted(root.rglob("*.jpg"))
    )
    manifest, _ = audit(
        Source("d", root, "d", files),
        seed=0,
        max_pixels=10_000,
        val_fraction=0.2,
        test_fraction=0.2,
        workers=2,
        looks=tmp_path / "other looks",
    )
    assert manifest.digest == looked_at(root)[0].digest
