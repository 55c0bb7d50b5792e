"""From the `data` key to a list of labelled files: folders in the usual layouts, and what becomes
one (archives, downloads, the synthetic set)."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from tlkit.data.archives import SUFFIXES as ARCHIVE_SUFFIXES
from tlkit.data.archives import extract, is_archive
from tlkit.data.downloads import kaggle_archive, torchvision_folder
from tlkit.data.images import SUFFIXES
from tlkit.data.listed import SUFFIX as LIST_SUFFIX
from tlkit.data.listed import read_list
from tlkit.data.synthetic import VERSION, make_synthetic
from tlkit.errors import UserError
from tlkit.files import disk_faults_told, expanded, utf8

SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
LAYOUTS = (
    "train/CLASS/1.jpg (with val/ and test/ where you have them), CLASS/1.jpg, or train/CLASS.1.jpg"
)

_LABEL_IN_NAME = re.compile(r"([^.]+)\.\d+\.\w+")  # cat.0.jpg, as in Kaggle's Dogs vs Cats
_LITTER = {"__macosx", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class SourceFile:
    """A file that should be a picture.

    Attributes:
        path: POSIX and relative to the root.
        label: a class name.
        split: "train", "val", "test", or None where it is still to be drawn.
        folder: the first one below that of its class, or of a picture in a list the one that it
            lies in; "" where there is none.
        group: what it belongs to with others, "" where it stands for itself.
    """

    path: str
    label: str
    split: str | None
    folder: str = ""
    group: str = ""


@dataclass(frozen=True)
class Source:
    """The files of a data set, sorted by path, unread; `warnings` name what was left out. `place`
    is what errors call `root`: of an archive its own path, for there the user has to mend it."""

    name: str
    root: Path
    place: str
    files: tuple[SourceFile, ...]
    warnings: tuple[str, ...] = ()


def open_source(data: str, cache: Path, seed: int, *, grouped: bool = False) -> Source:
    """Find the labelled files that `data` names.

    `data` is "synthetic", a folder or an archive in one of LAYOUTS, a list (`read_list`),
    "torchvision:NAME" or "kaggle:COMPETITION". What has to be made, unpacked or downloaded goes
    under `cache`, once; a folder of the user is only read. `seed` draws the synthetic pictures.
    `grouped` tells that folders below those of the classes are groups.

    Raises UserError where there is no such thing, or no labelled files in it, or where the folders
    seem to be splits by another name, and are not said to be groups.
    """
    source = _opened(data, cache, seed)
    if not grouped:
        _refuse_hidden_splits(source)
    return source


def _opened(data: str, cache: Path, seed: int) -> Source:
    kind, _, name = data.partition(":")
    with disk_faults_told(cache):
        if data == "synthetic":
            root = make_synthetic(cache / f"synthetic-{VERSION}-{seed}", seed=seed)
            return _read_layout(root, "synthetic")
        if kind == "torchvision":
            return _read_layout(torchvision_folder(name, cache), name)
        if kind == "kaggle":
            return _read_archive(kaggle_archive(name, cache), name, cache)
        return _open_path(data, cache)


def _open_path(data: str, cache: Path) -> Source:
    path = expanded(data)
    if data and path.is_dir():
        return _read_layout(path, path.resolve().name)
    if data and path.is_file() and is_archive(path):
        return _read_archive(path, path.name.split(".")[0], cache)
    if data and path.is_file() and path.suffix.lower() == LIST_SUFFIX:
        return _of_list(path)
    there = data and path.exists()
    fault = "is neither a folder nor an archive nor a list" if there else "is not there"
    if data and not path.is_absolute():
        fault += f" (seen from {utf8(str(Path.cwd()))})"
    raise UserError(
        f"data={data} {fault}; allowed are synthetic, a folder, an archive "
        f"({', '.join(ARCHIVE_SUFFIXES)}), a list ({LIST_SUFFIX}), torchvision:NAME and "
        "kaggle:COMPETITION; check the path"
    )


def _of_list(path: Path) -> Source:
    root = path.parent
    _refuse_no_utf8(root)
    files = [
        SourceFile(
            path=row["path"],
            label=row["class"],
            split=row["split"] or None,
            folder=row["path"].rpartition("/")[0],
            group=row["group"],
        )
        for row in read_list(path, SPLIT_FOLDERS)
    ]
    files.sort(key=lambda file: file.path)
    return Source(path.stem, root, str(path), tuple(files))


def _read_archive(archive: Path, name: str, cache: Path) -> Source:
    root = extract(archive, cache / "archives", nested=lambda stem: stem.lower() in SPLIT_FOLDERS)
    try:
        source = _read_layout(root, name)
    except UserError as error:
        raise UserError(f"{archive}, unpacked: {error}") from error
    return replace(source, place=f"{archive} (unpacked in {source.root})")


def _read_layout(root: Path, name: str) -> Source:
    root = _unwrapped(root)
    _refuse_no_utf8(root)
    folders, beside = visible_entries(root)
    splits = [folder for folder in folders if folder.lower() in SPLIT_FOLDERS]
    files: list[SourceFile] = []
    warnings: list[str] = []
    if any(SPLIT_FOLDERS[folder.lower()] == "train" for folder in splits):
        _refuse_doubles(root, splits)
        for folder in splits:
            files += _read_split(root, folder, warnings)
        unused = [folder for folder in folders if folder not in splits]
        why = "expected are train, val (or valid, validation) and test"
    else:
        files += _read_classes(root, root, None, splits, warnings)
        unused, why = splits, "there is no train/ beside it"
    warnings += [f"the folder {utf8(folder)}/ is not used: {why}" for folder in unused]
    lists = [name for name in beside if name.lower().endswith(LIST_SUFFIX)]
    labels = {file.label for file in files}
    if lists and len(labels) == 1:
        raise UserError(
            f"{root} has one class only, {labels.pop()!r}, and a list beside it; pass the list, "
            f"data={root / lists[0]}, if it names the classes"
        )
    if not files:
        hint = "check the path"
        if packed := [name for name in beside if name.lower().endswith(ARCHIVE_SUFFIXES)]:
            hint = f"pass the archive, data={root / packed[0]}"
        elif lists:
            hint = f"pass the list of them, data={root / lists[0]},"
        elif unused:
            hint = (
                f"not used are {_some(unused)}: {why}; where {_some(splits)} is a class and no "
                "split, put the folders of all classes into a folder train"
            )
        raise UserError(
            f"no labelled pictures in {root}; expected are {LAYOUTS}; {hint} or rearrange the files"
        )
    files.sort(key=lambda file: file.path)
    return Source(name, root, str(root), tuple(files), tuple(warnings))


def _unwrapped(folder: Path) -> Path:
    """Step into folders that only wrap a layout, as archives have them."""
    walked = [folder.resolve()]
    while True:
        folders, files = visible_entries(folder)
        if len(folders) != 1 or folders[0].lower() in SPLIT_FOLDERS or _labels_in(files):
            return folder
        inner_folders, inner_files = visible_entries(folder / folders[0])
        if not inner_folders and not _labels_in(inner_files):
            return folder  # pictures of one class, which is a mistake to be told
        folder = folder / folders[0]
        if leads_back(folder, walked):
            raise _circle(folder)
        walked.append(folder.resolve())


def _read_split(root: Path, name: str, warnings: list[str]) -> list[SourceFile]:
    split = SPLIT_FOLDERS[name.lower()]
    folder = root / name
    folders, _ = visible_entries(folder)
    if folders == [name]:  # train.zip that holds train/, unpacked into train/
        folder = folder / name
    files = _read_classes(root, folder, split, [], warnings)
    if not files and split != "train":
        warnings.append(f"the folder {name}/ is not used: it has no labelled pictures")
    return files


def _read_classes(
    root: Path, folder: Path, split: str | None, skipped: list[str], warnings: list[str]
) -> list[SourceFile]:
    """The files of one folder: a folder a class, or else labels in the names; [] if neither."""
    folders, names = visible_entries(folder)
    labels = [name for name in folders if name not in skipped]
    # Of 64,000 files in 1,000 folders a busy disk took 13 s.
    walk = tqdm(labels, desc="folders", unit="class", delay=2, leave=False, disable=None)
    classes = {name: _candidates(folder / name) for name in walk}
    if not any(classes.values()):
        classes = _labels_in(names)
        names = [name for name in names if not _LABEL_IN_NAME.fullmatch(name)]
    elif empty := [name for name, files in classes.items() if not files]:
        raise UserError(
            f"{len(empty)} of {len(classes)} class folders in {folder} hold no file "
            f"({_some(empty)}); every class needs pictures in every split; add some, or remove "
            "what is no class"
        )
    if names and classes:
        where = "the top folder" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        some = f"{len(names)} ({_some(names)})"
        warnings.append(f"files without a label in {where}, not used: {some}")
    inside = folder.relative_to(root)
    for label in classes:
        if label != (shown := utf8(label)):
            raise UserError(f"the class name {shown!r} in {root} is not UTF-8; rename the folder")
        if "\r" in label:  # Python 3.11 writes CSV files with it that it cannot read
            raise UserError(
                f"the class name {label!r} in {root} has a carriage return; rename the folder"
            )
    return [
        SourceFile((inside / file).as_posix(), label, split, _first_folder(file))
        for label, files in classes.items()
        for file in files
    ]


def _first_folder(file: str) -> str:
    """Of CLASS/FOLDER/.../1.jpg the first after that of the class; "" where there is none."""
    parts = Path(file).parts
    return parts[1] if len(parts) > 2 else ""


def _some(names: Sequence[str]) -> str:
    """The first of them."""
    return utf8(", ".join(names[:3])) + (", ..." if len(names) > 3 else "")


def _labels_in(names: list[str]) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for name in names:
        if match := _LABEL_IN_NAME.fullmatch(name):
            labels.setdefault(match[1], []).append(name)
    return labels


def _candidates(folder: Path) -> list[str]:
    """Every file of a class folder, at any depth, relative to the folder above; a folder that is
    called like a picture is one of them, for the audit to tell."""

    def below(inside: Path, above: list[Path]) -> Iterator[str]:
        walked = [*above, (folder / inside).resolve()]
        folders, files = visible_entries(folder / inside)
        for name in files:
            yield (folder.name / inside / name).as_posix()
        for name in folders:
            if Path(name).suffix.lower() in SUFFIXES:
                yield (folder.name / inside / name).as_posix()
            elif leads_back(folder / inside / name, walked):
                raise _circle(folder / inside / name)
            else:
                yield from below(inside / name, walked)

    return list(below(Path(), []))


def leads_back(folder: Path, walked: Sequence[Path]) -> bool:
    """Whether a folder, perhaps through links, holds one of those walked through, all resolved."""
    target = folder.resolve()
    return any(one.is_relative_to(target) for one in walked)


def _circle(link: Path) -> UserError:
    return UserError(f"{link} links back to a folder above it; remove the link")


def visible_entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the visible folders and of all else in a folder, each sorted; links are followed."""
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in _LITTER:
                # Path, because entry.is_dir() raises for a link to itself, which is a broken one.
                is_folder = Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()
                (folders if is_folder else files).append(entry.name)
    return sorted(folders), sorted(files)


def _refuse_no_utf8(root: Path) -> None:
    """MLflow keeps names as UTF-8; that of the folder "." is in its whole path alone."""
    for path in (str(root), str(root.resolve())):
        if path != (shown := utf8(path)):
            raise UserError(f"the path {shown!r} of the data is not UTF-8; rename the folder")


def _refuse_doubles(root: Path, folders: list[str]) -> None:
    for folder in folders:
        same = [n for n in folders if SPLIT_FOLDERS[n.lower()] == SPLIT_FOLDERS[folder.lower()]]
        if len(same) > 1:
            raise UserError(f"{root} has {' and '.join(same)} for one split; keep one of them")


def _refuse_hidden_splits(source: Source) -> None:
    """Folders that all hold the same folders, two or more, and no files are splits by another name.
    One alone, as in CLASS/images/1.jpg, is no class: there would be nothing to tell it from."""
    inner: dict[str, set[str]] = {}
    for file in source.files:
        # Of a list it is the whole folder of a picture, and of one in a split its class is known.
        if file.split is None and file.path.startswith(f"{file.label}/{file.folder}/"):
            inner.setdefault(file.label, set()).add(file.folder)
        else:
            return
    shared = set.intersection(*inner.values()) if len(inner) > 1 else set()
    if len(shared) > 1:
        raise UserError(
            f"the folders {_some(sorted(inner))} of {source.place} all hold the folders "
            f"{_some(sorted(shared))}; expected are {LAYOUTS}; if they are splits, call them "
            "train, val and test, if they are classes, put them into a folder train, and if what "
            "they hold are groups, as patients, give -P groups=folder"
        )
