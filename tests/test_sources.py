"""Every layout of pictures becomes the same kind of list; what is none is told in one line."""

import errno
import inspect
import os
import sys
import tarfile
import types
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from tlkit.data import downloads, sources
from tlkit.data.sources import Source, open_source
from tlkit.errors import UserError


def fill(root: Path, names: Iterable[str]) -> Path:
    """Files whose content is of no matter here: sources do not read them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return root


def zip_of(path: Path, files: Mapping[str, bytes] | Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in files:
            archive.writestr(name, files[name] if isinstance(files, Mapping) else name)
    return path


def found(source: Source) -> set[tuple[str, str, str | None]]:
    for file in source.files:
        assert (source.root / file.path).exists()
    assert [file.path for file in source.files] == sorted(file.path for file in source.files)
    return {(file.path, file.label, file.split) for file in source.files}


def opened(data: Path | str, tmp_path: Path) -> Source:
    return open_source(str(data), tmp_path / "cache", seed=0)


def told(data: Path | str, tmp_path: Path, reason: str) -> str:
    with pytest.raises(UserError, match=reason) as error:
        opened(data, tmp_path)
    assert "\n" not in str(error.value)
    return str(error.value)


SPLIT = ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "val/dog/2.jpg", "test/cat/3.jpg"]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Valid", "VAL"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    root = fill(tmp_path / "d", [name.replace("val/", f"{val}/") for name in SPLIT])
    source = opened(root, tmp_path)
    assert found(source) == {
        ("train/cat/1.jpg", "cat", "train"),
        ("train/dog/1.jpg", "dog", "train"),
        (f"{val}/cat/2.jpg", "cat", "val"),
        (f"{val}/dog/2.jpg", "dog", "val"),
        ("test/cat/3.jpg", "cat", "test"),
    }
    assert source.name == "d"
    assert source.root == root
    assert source.warnings == ()


def test_one_folder_a_class_with_folders_below(tmp_path: Path) -> None:
    root = fill(tmp_path, ["d/cat/1.jpg", "d/cat/more/2.jpg", "d/dog/x.png", "d/bird/odd.txt"])
    assert found(opened(root / "d", tmp_path)) == {
        ("cat/1.jpg", "cat", None),
        ("cat/more/2.jpg", "cat", None),
        ("dog/x.png", "dog", None),
        ("bird/odd.txt", "bird", None),
    }


def test_a_folder_of_classes_may_have_the_same_folders_in_each(tmp_path: Path) -> None:
    names = [f"d/train/{label}/images/1.jpg" for label in "abc"]
    names += [f"d/val/{label}/{side}/1.jpg" for label in "abc" for side in ("left", "right")]
    fill(tmp_path, names)
    assert found(opened(tmp_path / "d", tmp_path)) == {
        (name.removeprefix("d/"), name.split("/")[2], name.split("/")[1]) for name in names
    }
    without_splits = opened(tmp_path / "d" / "train", tmp_path)
    assert found(without_splits) == {(f"{label}/images/1.jpg", label, None) for label in "abc"}


def test_kaggle_names_with_an_unlabelled_test_folder(tmp_path: Path) -> None:
    names = ["train/cat.0.jpg", "train/dog.0.jpg", "train/dog.12.jpg", "test1/1.jpg", "notes.csv"]
    source = opened(fill(tmp_path / "d", names), tmp_path)
    assert found(source) == {
        ("train/cat.0.jpg", "cat", "train"),
        ("train/dog.0.jpg", "dog", "train"),
        ("train/dog.12.jpg", "dog", "train"),
    }
    assert len(source.warnings) == 1
    assert "test1/ is not used" in source.warnings[0]


def test_unlabelled_test_and_empty_val_are_left_out_with_a_warning(tmp_path: Path) -> None:
    root = fill(tmp_path / "d", ["train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg", "test/2.jpg"])
    (root / "val" / "cat").mkdir(parents=True)
    source = opened(root, tmp_path)
    assert {file.split for file in source.files} == {"train"}
    assert [warning.split(":")[0] for warning in source.warnings] == [
        "the folder test/ is not used",
        "the folder val/ is not used",
    ]


def test_pet_images(tmp_path: Path) -> None:
    names = ["PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg", "PetImages/Dog/Thumbs.db", "readme.txt"]
    source = opened(fill(tmp_path / "d", names), tmp_path)
    assert found(source) == {("Cat/0.jpg", "Cat", None), ("Dog/0.jpg", "Dog", None)}


def test_litter_is_skipped_and_the_rest_are_candidates(tmp_path: Path) -> None:
    root = fill(
        tmp_path / "d",
        [
            *("cat/1.jpg", "cat/Thumbs.db", "cat/.DS_Store", "cat/desktop.ini", "cat/.x/2.jpg"),
            *("dog/1.jpg", "dog/archive.zip", "__MACOSX/cat/1.jpg", ".git/config", "stray.jpg"),
        ],
    )
    (root / "dog" / "folder.jpg").mkdir()
    source = opened(root, tmp_path)
    assert {path for path, _, _ in found(source)} == {
        *("cat/1.jpg", "dog/1.jpg", "dog/archive.zip", "dog/folder.jpg"),
    }
    assert source.warnings == ("files without a label in the top folder, not used: 1 (stray.jpg)",)


@pytest.mark.parametrize("wrapper", ["", "top/", "top/inner/"])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archive_of_any_layout_equals_the_folder(tmp_path: Path, wrapper: str, kind: str) -> None:
    for number, names in enumerate((SPLIT, ["cat/1.jpg", "dog/1.jpg"], ["cat.0.jpg", "dog.0.jpg"])):
        folder = opened(fill(tmp_path / f"folder{number}", names), tmp_path)
        archive = tmp_path / f"set{number}.{kind}"
        wrapped = [wrapper + name for name in names]
        if kind == "zip":
            zip_of(archive, wrapped)
        else:
            with tarfile.open(archive, "w:gz") as tar:
                for name in wrapped:
                    tar.addfile(tarfile.TarInfo(name))
        source = opened(archive, tmp_path)
        assert found(source) == found(folder)
        assert source.name == f"set{number}"
        assert source.root.is_relative_to(tmp_path / "cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("cache", "folder0", "folder1", "folder2"),
        *(f"set{number}.{kind}" for number in range(3)),
    ]


def kaggle_zip(path: Path) -> Path:
    train = zip_of(path.parent / "t.zip", ["train/cat.0.jpg", "train/dog.0.jpg"]).read_bytes()
    test = zip_of(path.parent / "t.zip", ["test1/1.jpg"]).read_bytes()
    (path.parent / "t.zip").unlink()
    return zip_of(path, {"train.zip": train, "test1.zip": test, "sampleSubmission.csv": b"id"})


def test_kaggle_archive_with_archives_inside(tmp_path: Path) -> None:
    source = opened(kaggle_zip(tmp_path / "dogs-vs-cats.zip"), tmp_path)
    assert found(source) == {
        ("train/cat.0.jpg", "cat", "train"),
        ("train/dog.0.jpg", "dog", "train"),
    }


def test_users_folder_is_never_written_to(tmp_path: Path) -> None:
    root = fill(tmp_path / "d", SPLIT)
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    opened(root, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before


def test_synthetic_goes_under_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sources, "make_synthetic", lambda root, seed: fill(root, [f"train/cat/{seed}.png", *SPLIT])
    )
    source = open_source("synthetic", tmp_path, seed=7)
    assert source.root == tmp_path / f"synthetic-{sources.VERSION}-7"
    assert source.name == "synthetic"
    assert ("train/cat/7.png", "cat", "train") in found(source)


def test_bad_paths(tmp_path: Path) -> None:
    told(tmp_path / "nowhere", tmp_path, r"nowhere is not there; allowed are .*; check the path")
    told("", tmp_path, "is not there")
    told("no/where", tmp_path, rf"no/where is not there \(seen from {Path.cwd()}\); allowed are")
    told(fill(tmp_path, ["a.jpg"]) / "a.jpg", tmp_path, "neither a folder nor an archive")
    (tmp_path / "empty").mkdir()
    told(tmp_path / "empty", tmp_path, "no labelled pictures in .*empty; expected are train/CLASS")


def test_bad_layouts(tmp_path: Path) -> None:
    told(fill(tmp_path / "a", ["1.jpg", "2.jpg"]), tmp_path, "no labelled pictures")
    told(fill(tmp_path / "b", ["train/1.jpg", "train/2.jpg"]), tmp_path, "no labelled pictures")
    told(fill(tmp_path / "c", [*SPLIT, "valid/cat/1.jpg"]), tmp_path, "val and valid for one split")
    (fill(tmp_path / "e", ["train/cat/1.jpg", "train/dog/2.jpg"]) / "train" / "bird").mkdir()
    told(tmp_path / "e", tmp_path, r"1 of 3 class folders in .*train hold no file \(bird\)")
    names = [f"{split}/{label}/1.jpg" for split in ("training", "testing") for label in "ab"]
    told(fill(tmp_path / "f", names), tmp_path, "hold the folders a, b; .* splits, call them train")
    fill(tmp_path / "h", [f"{label}/1.jpg" for label in ("bike", "bus", "car", "tram", "train")])
    told(tmp_path / "h", tmp_path, r"not used are bike, bus, car, \.\.\.: expected are train, val")
    told(tmp_path / "h", tmp_path, "where train is a class and no split, put .* a folder train")
    said = told(fill(tmp_path / "i", ["test/1.jpg"]), tmp_path, "not used are test: there is no")
    assert "where test is a class" in said
    zip_of(tmp_path / "g" / "train.zip", ["train/cat.0.jpg"])
    told(tmp_path / "g", tmp_path, r"pass the archive, data=.*train\.zip")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path, ["d/dog/1.jpg", "elsewhere/1.jpg"])
    (tmp_path / "d" / "cat").symlink_to(tmp_path / "elsewhere")
    assert {label for _, label, _ in found(opened(tmp_path / "d", tmp_path))} == {"cat", "dog"}
    for place, target in (("dog", "d"), ("dog/a", "d/dog/a")):
        again = tmp_path / "d" / place / "again"
        again.parent.mkdir(exist_ok=True)
        again.symlink_to(tmp_path / target)
        told(tmp_path / "d", tmp_path, "links back to a folder above it")
        again.unlink()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_circles_of_links_are_told(tmp_path: Path) -> None:
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "x").symlink_to(".")
    told(tmp_path / "loop", tmp_path, "loop/x links back to a folder above it; remove the link")
    fill(tmp_path / "side", ["a/1.jpg", "b/1.jpg"])
    (tmp_path / "side" / "a" / "x").symlink_to("../b")
    assert len(opened(tmp_path / "side", tmp_path).files) == 3  # no circle yet
    (tmp_path / "side" / "b" / "y").symlink_to("../a")
    told(tmp_path / "side", tmp_path, "side/a/x/y links back")
    fill(tmp_path / "self", ["a/1.jpg", "b/1.jpg"])
    (tmp_path / "self" / "a" / "me.jpg").symlink_to("me.jpg")
    files = [file.path for file in opened(tmp_path / "self", tmp_path).files]
    assert files == ["a/1.jpg", "a/me.jpg", "b/1.jpg"]  # the audit calls it a broken link


def test_names_that_the_disk_does_not_take(tmp_path: Path) -> None:
    told("n" * 300, tmp_path, r"path n+ cannot be used \(File name too long\); shorten it")
    archive = zip_of(tmp_path / "long.zip", [f"cat/{'n' * 280}.jpg", "dog/1.jpg"])
    told(archive, tmp_path, r"long\.zip is refused: its member 'cat/n+.jpg' has too long a name")
    assert list((tmp_path / "cache" / "archives").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep file names in Unicode")
def test_class_name_that_is_not_utf8(tmp_path: Path) -> None:
    fill(tmp_path / "d", ["cat/1.jpg", os.fsdecode(b"caf\xe9/1.jpg")])
    told(tmp_path / "d", tmp_path, "class name 'caf.' in .* is not UTF-8")


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_class_name_with_a_carriage_return(tmp_path: Path) -> None:
    fill(tmp_path / "d", ["cat/1.jpg", "c\rd/1.jpg"])
    told(tmp_path / "d", tmp_path, r"class name 'c\\rd' in .* has a carriage return; rename")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep file names in Unicode")
def test_other_names_that_are_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsdecode(b"caf\xe9")
    fill(tmp_path / "d", [*SPLIT, f"train/{odd}.txt"])
    (tmp_path / "d" / odd).mkdir()
    assert opened(tmp_path / "d", tmp_path).warnings == (
        "files without a label in train/, not used: 1 (caf?.txt)",
        "the folder caf?/ is not used: expected are train, val (or valid, validation) and test",
    )
    fill(tmp_path / odd, SPLIT)
    told(tmp_path / odd, tmp_path, r"path '.*caf\?' of the data is not UTF-8; rename")
    monkeypatch.chdir(tmp_path / odd)
    told(".", tmp_path, "is not UTF-8")
    fill(tmp_path / "wrapped" / odd, SPLIT)
    told(tmp_path / "wrapped", tmp_path, "is not UTF-8")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(root: Path, seed: int) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "make_synthetic", full)
    told("synthetic", tmp_path, "no disk space left while writing")


def test_folder_without_the_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    root = fill(tmp_path / "d", SPLIT)  # root may open everything, so chmod would prove nothing
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", closed)
        told(root, tmp_path, r"/d cannot be used \(Permission denied\); check its rights")


# torchvision


def write_mnist(raw: Path) -> None:
    """The files that torchvision's MNIST downloads, with 12 training and 6 test digits."""
    raw.mkdir(parents=True)
    for split, count in (("train", 12), ("t10k", 6)):
        labels = np.arange(count, dtype=np.uint8) % 10
        digits = np.repeat(labels, 28 * 28).reshape(count, 28, 28)
        for kind, array in (("images-idx3", digits), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / f"{split}-{kind}-ubyte").write_bytes(header + array.tobytes())


def test_torchvision_arrays_become_files_once(tmp_path: Path) -> None:
    write_mnist(tmp_path / "cache" / "torchvision" / "raw" / "MNIST" / "raw")
    source = opened("torchvision:MNIST", tmp_path)
    assert source.name == "MNIST"
    assert source.root == tmp_path / "cache" / "torchvision" / "MNIST"
    by_split = [(file.split, file.label) for file in source.files]
    assert by_split.count(("train", "0 - zero")) == 2
    assert by_split.count(("test", "5 - five")) == 1
    assert len(by_split) == 18
    for file in source.files:
        with Image.open(source.root / file.path) as picture:
            assert np.asarray(picture).max() == int(file.label[0])
    written = {path: path.stat().st_mtime_ns for path in source.root.rglob("*")}
    assert found(opened("torchvision:MNIST", tmp_path)) == found(source)
    assert {path: path.stat().st_mtime_ns for path in source.root.rglob("*")} == written


class OnFiles:
    """As torchvision's sets on files are: samples, a loader, classes; names unfit for a folder."""

    classes = ("F/A-18", ("spaniel", "English springer"))

    def __init__(self, root: Path, split: str, download: bool) -> None:
        assert download
        folder = root / "raw files"
        folder.mkdir(parents=True, exist_ok=True)
        self.samples = [(folder / f"{split}{label}.jpg", label) for label in (0, 1)]
        for path, label in self.samples:
            path.write_bytes(f"{split} {label}".encode())
        self.loader: Any = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        return self.loader(path), label


def test_torchvision_files_keep_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "Food101", OnFiles)
    source = opened("torchvision:Food101", tmp_path)
    assert found(source) == {
        (f"{split}/{label}/{split}{number}.jpg", label, split)
        for split in ("train", "test")
        for number, label in enumerate(("F-A-18", "spaniel"))
    }
    assert (source.root / "test/spaniel/test1.jpg").read_bytes() == b"test 1"


class Pets(datasets.FakeData):  # type: ignore[misc]
    """As OxfordIIITPet is: decoded pictures, with their paths in `_images`."""

    bin_classes = ("Cat", "Dog")
    classes = ("Abyssinian", "Beagle")

    def __init__(self, root: Path, split: str, download: bool, target_types: str = "category"):
        super().__init__(size=12, image_size=(3, 8, 8), num_classes=2)
        self._images = [root / f"{split}_{index}.jpg" for index in range(12)]
        for path in self._images:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode())


def test_torchvision_pets_are_cats_and_dogs_or_breeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "OxfordIIITPet", Pets)
    source = opened("torchvision:OxfordIIITPet", tmp_path)
    assert {file.label for file in source.files} == {"Cat", "Dog"}
    assert {file.split for file in source.files} == {"train", "test"}
    first = source.files[0]
    assert (source.root / first.path).read_bytes().startswith(b"test_")
    breeds = opened("torchvision:OxfordIIITPet/breeds", tmp_path)
    assert {file.label for file in breeds.files} == {"Abyssinian", "Beagle"}


def test_torchvision_without_class_names_or_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Numbered(datasets.FakeData):  # type: ignore[misc]
        def __init__(self, root: Path, download: bool) -> None:
            super().__init__(size=9, image_size=(3, 8, 8), num_classes=3)

    monkeypatch.setattr(datasets, "EuroSAT", Numbered)
    source = opened("torchvision:EuroSAT", tmp_path)
    assert {(file.label, file.split) for file in source.files} <= {
        *(("00", None), ("01", None), ("02", None)),
    }
    assert len(source.files) == 9


def test_every_torchvision_entry_fits_the_installed_signature() -> None:
    for name, splits in downloads.TORCHVISION.items():
        signature = inspect.signature(getattr(datasets, name.split("/")[0]))
        for split, options in splits.items():
            assert split in ("", "train", "val", "test")
            signature.bind("root", download=True, **options)


def test_torchvision_failures_are_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told("torchvision:CIFAR11", tmp_path, r"CIFAR11 is not known; near are .*CIFAR10")
    told("torchvision:", tmp_path, "known are")

    def offline(*_: object, **__: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>\nmore")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    told("torchvision:CIFAR10", tmp_path, r"could not download CIFAR10 .*Name or service.*folder")
    assert not [path for path in (tmp_path / "cache").rglob("*") if "CIFAR" in path.name]


# Kaggle


def fake_kaggle(monkeypatch: pytest.MonkeyPatch, authenticate: Any, download: Any) -> None:
    module = types.ModuleType("kaggle")
    module.api = types.SimpleNamespace(  # type: ignore[attr-defined]
        authenticate=authenticate, competition_download_files=download
    )
    monkeypatch.setitem(sys.modules, "kaggle", module)


def test_kaggle_downloads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(competition: str, path: str, quiet: bool) -> None:
        calls.append(competition)
        kaggle_zip(Path(path) / f"{competition}.zip")

    fake_kaggle(monkeypatch, lambda: None, download)
    for _ in range(2):
        source = opened("kaggle:dogs-vs-cats", tmp_path)
        assert {(file.label, file.split) for file in source.files} == {
            *(("cat", "train"), ("dog", "train")),
        }
        assert source.name == "dogs-vs-cats"
    assert calls == ["dogs-vs-cats"]


def raising(error: BaseException) -> Any:
    def function(*_: object, **__: object) -> None:
        print("Could not find kaggle.json. Make sure\nit is located in ...")
        raise error

    return function


@pytest.mark.parametrize("error", [SystemExit(1), OSError("no kaggle.json"), ValueError("no user")])
def test_kaggle_without_credentials(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    fake_kaggle(monkeypatch, raising(error), lambda *_, **__: None)
    message = told("kaggle:dogs-vs-cats", tmp_path, "kaggle has no credentials")
    assert "https://www.kaggle.com/competitions/dogs-vs-cats/data" in message
    assert message.endswith("data=dogs-vs-cats.zip")
    assert capsys.readouterr().out == ""
    assert not list((tmp_path / "cache").rglob("*.zip"))


def test_kaggle_client_that_exits_on_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "kaggle", raising=False)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "kaggle.py").write_text("print('long\\nstory')\nraise SystemExit(1)\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    told("kaggle:dogs-vs-cats", tmp_path, r"no credentials.*pass the file")


def test_kaggle_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaggle", None)
    told("kaggle:dogs-vs-cats", tmp_path, r"pip install kaggle, or download it by hand from http")


def test_kaggle_turns_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = OSError("403 Client Error: Forbidden\nHTTP response headers ...")
    fake_kaggle(monkeypatch, lambda: None, raising(refusal))
    told("kaggle:dogs-vs-cats", tmp_path, r"403 Client Error: Forbidden\); .*accept its rules")
    fake_kaggle(monkeypatch, lambda: None, lambda *_, **__: None)
    told("kaggle:dogs-vs-cats", tmp_path, "gave no file")
    told("kaggle:../x", tmp_path, "is no competition")
    fake_kaggle(monkeypatch, lambda: None, raising(OSError(errno.ENOSPC, "full")))
    told("kaggle:dogs-vs-cats", tmp_path, "no disk space left")
