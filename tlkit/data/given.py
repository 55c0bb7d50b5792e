"""Pictures without a data set: a file, a folder, a pattern or an archive."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tlkit.data.archives import extract, is_archive
from tlkit.data.sources import SourceFile, leads_back, visible_entries
from tlkit.errors import UserError
from tlkit.files import expanded


@dataclass(frozen=True)
class Given:
    """Files that are said to be pictures, sorted.

    Attributes:
        root: the folder that `names` begin from.
        names: POSIX paths.
        above: how many of the first folders in each name lie above what was given, and say nothing
            of a class.
    """

    root: Path
    names: tuple[str, ...]
    above: int = 0

    def files(self, classes: tuple[str, ...]) -> tuple[SourceFile, ...]:
        """Each with its class, "" where none is known, and the first folder below that of it."""
        return tuple(self._file(name, classes) for name in self.names)

    def _file(self, name: str, classes: tuple[str, ...]) -> SourceFile:
        label, inside = self.label(name, classes), self._around(name)
        if label is None:
            return SourceFile(name, "", None)
        place = inside.index(classes[label])
        return SourceFile(name, classes[label], None, inside[place - 1] if place else "")

    def label(self, name: str, classes: tuple[str, ...]) -> int | None:
        """The class that the nearest folder around a file is called after, within the given."""
        around = self._around(name)
        return next((classes.index(folder) for folder in around if folder in classes), None)

    def _around(self, name: str) -> list[str]:
        """The folders around a file, the nearest first, within the given."""
        return [*reversed(Path(name).parent.parts[self.above :]), self.root.name]


def find_pictures(images: str, cache: Path) -> Given:
    """The visible files of a folder at any depth, of an archive, of a pattern such as `a/*.jpg`
    (`**` for any depth), or the one file.

    Args:
        cache: folder that archives are unpacked into.

    Raises:
        UserError: nothing there, or an archive that `extract` refuses.
    """
    path = expanded(images)
    if path.is_file() and is_archive(path):
        return _of_folder(extract(path, cache), images)
    if path.is_dir():
        return _of_folder(path, images)
    if path.is_file():
        return Given(path.parent, (path.name,))
    if glob.has_magic(images):
        found = sorted(f for f in glob.glob(str(path), recursive=True) if Path(f).is_file())
        if found:
            # As of a folder, the name of the last one before a wildcard counts, and none above it.
            plain = sum(1 for _ in takewhile(lambda part: not glob.has_magic(part), path.parts))
            names = tuple(Path(name).as_posix() for name in found)
            return Given(Path(), names, max(0, plain - 1))
    raise UserError(f"images={images}: no such file; a file, folder, pattern or archive wanted")


def _of_folder(folder: Path, images: str) -> Given:
    names = tuple(_below(folder, Path(), []))
    if not names:
        raise UserError(f"images={images} holds no files; give a folder with pictures")
    return Given(folder, names)


def _below(root: Path, inside: Path, above: list[Path]) -> Iterator[str]:
    walked = [*above, (root / inside).resolve()]
    folders, files = visible_entries(root / inside)
    for name in files:
        yield (inside / name).as_posix()
    for name in folders:
        if not leads_back(root / inside / name, walked):
            yield from _below(root, inside / name, walked)
