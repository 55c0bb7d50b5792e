"""The drawn data set: the same bytes for a seed, balanced, and not to be told apart by colour."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from sklearn.linear_model import LogisticRegression

from tlkit.data.cartoons.picture import draw_picture
from tlkit.data.synthetic import make_synthetic

COUNTS = {"train": 6, "val": 2, "test": 2}


def content(root: Path) -> dict[str, bytes]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = content(make_synthetic(tmp_path / "a", 0, COUNTS))
    assert content(make_synthetic(tmp_path / "b", 0, COUNTS)) == first
    other = content(make_synthetic(tmp_path / "c", 1, COUNTS))
    assert other.keys() == first.keys()
    assert not set(other.values()) & set(first.values())


def test_no_worker_outlives_a_killed_command(tmp_path: Path) -> None:
    code = f"from tlkit.data.synthetic import *; make_synthetic(Path({str(tmp_path / 'a')!r}), 0)"
    command = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.rglob("*.jpg")):
        assert command.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(command.pid).children()
    command.kill()
    command.wait()
    assert workers
    assert not psutil.wait_procs(workers, timeout=30)[1]


def test_splits_are_balanced_and_share_no_picture(tmp_path: Path) -> None:
    files = content(make_synthetic(tmp_path / "a", 0, COUNTS))
    assert len(set(files.values())) == 10
    for split, count in COUNTS.items():
        for name in ("cat", "dog"):
            assert sum(path.startswith(f"{split}/{name}/") for path in files) == count / 2


def test_the_size_of_one_split_changes_no_other(tmp_path: Path) -> None:
    small = content(make_synthetic(tmp_path / "a", 0, COUNTS))
    large = content(make_synthetic(tmp_path / "b", 0, {**COUNTS, "train": 8}))
    assert small.items() <= large.items()


def test_a_finished_folder_is_kept_and_an_unfinished_one_never_seen(tmp_path: Path) -> None:
    root = make_synthetic(tmp_path / "a", 0, COUNTS)
    mark = root / "train" / "cat" / "00000.jpg"
    mark.write_bytes(b"touched")
    assert make_synthetic(root, 0, COUNTS) == root
    assert mark.read_bytes() == b"touched"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_pictures_are_rgb_of_256_pixels_and_no_two_alike() -> None:
    pictures = [draw_picture(0, index, index % 2) for index in range(6)]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (256, 256))}
    thumbnails = [np.asarray(picture.resize((8, 8)), dtype=float) for picture in pictures]
    for index, one in enumerate(thumbnails):
        for other in thumbnails[index + 1 :]:
            assert np.abs(one - other).mean() > 5


def test_the_label_changes_the_animal_and_not_the_scene() -> None:
    cat, dog = (np.asarray(draw_picture(0, 3, label), dtype=int) for label in (0, 1))
    changed = np.abs(cat - dog).max(axis=2) > 60
    assert 0.005 < changed.mean() < 0.6


def test_colour_alone_does_not_tell_the_classes_apart() -> None:
    count = 120
    colours = np.array(
        [
            np.asarray(draw_picture(0, index, index % 2).resize((1, 1), Image.Resampling.BOX))
            for index in range(count)
        ]
    ).reshape(count, 3)
    labels = np.arange(count) % 2
    model = LogisticRegression().fit(colours[: count // 2] / 255, labels[: count // 2])
    assert model.score(colours[count // 2 :] / 255, labels[count // 2 :]) < 0.68
