"""Unpack zip and tar archives into the cache: nothing leaves it, all or nothing, once."""

import errno
import hashlib
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from tlkit.errors import UserError
from tlkit.files import atomic_folder

MAX_BYTES = 2**37  # 128 GiB unpacked; ImageNet has 150, and is better unpacked by hand
BOMB_BYTES, BOMB_RATIO = 2**28, 100  # pictures are compressed already: no honest archive is both
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

# ValueError: a name or a number that is none. RecursionError: headers or folders of thousands.
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError),
    *(ValueError, NotImplementedError, RecursionError),
)


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar by its content, or is called like one: a damaged one, which
    `extract` tells, often has nothing left that says what it was."""
    try:
        return _named_so(path) or zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except EOFError:  # a gzip file that ends before it has given a byte
        return True


def _named_so(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def extract(
    archive: Path,
    cache: Path,
    *,
    max_bytes: int = MAX_BYTES,
    nested: Callable[[str], bool] = lambda stem: False,
) -> Path:
    """Unpack into a folder of `cache` named after the archive and its content hash.

    An archive inside whose stem satisfies `nested` ("train" of train.zip) is unpacked in its place
    and removed. A folder that is there already is returned as it is.

    Raises UserError for a member outside the target, a link or a device, an encrypted or damaged
    archive, and one that unpacks, with what is inside it, to more than `max_bytes`, than the free
    disk space, or than an archive of pictures can (BOMB_RATIO times its size).
    """
    with archive.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    target = cache / f"{_stem(archive)}-{content}"
    if not target.exists():
        with atomic_folder(target) as folder:
            room = _Room(archive, folder, max_bytes)
            _unpack(archive, folder, room)
            inside = [path for path in sorted(folder.rglob("*")) if nested(_stem(path))]
            for path in inside:
                if path.is_file() and is_archive(path):
                    _unpack_in_place(path, room)
    return target


class _Room:
    """What an archive and the archives inside it may still unpack to, all together."""

    def __init__(self, archive: Path, folder: Path, max_bytes: int) -> None:
        self._archive, self._folder, self._max_bytes = archive, folder, max_bytes
        self._packed, self._free = archive.stat().st_size, shutil.disk_usage(folder).free
        self._taken = 0

    def take(self, size: int) -> None:
        """Count a member, as soon as its size is known. Raises UserError where it is too much."""
        self._taken += size
        bomb = self._taken > BOMB_BYTES and self._taken > BOMB_RATIO * self._packed
        if self._taken > self._max_bytes or bomb:
            raise UserError(
                f"{self._archive} has {_human(self._packed)} and unpacks to {_human(self._taken)} "
                f"at least; allowed are {_human(self._max_bytes)} and, over {_human(BOMB_BYTES)}, "
                f"{BOMB_RATIO} times its size; if you trust it, unpack it by hand and give the "
                "folder in its place"
            )
        if self._taken > self._free:
            raise UserError(
                f"{self._archive} unpacks to {_human(self._taken)} at least and "
                f"{self._folder.parent} has {_human(self._free)} of disk space left; free some, or "
                "set the cache to a folder on another disk"
            )


@dataclass(frozen=True)
class _Member:
    name: str
    open: Callable[[], IO[bytes]]


def _unpack(archive: Path, folder: Path, room: _Room) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _write(archive, _zip_members(archive, opened, room), folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened_tar:
                _write(archive, _tar_members(archive, opened_tar, room), folder)
        elif _named_so(archive):
            raise tarfile.ReadError("incomplete, or another kind of file")
        else:
            raise UserError(f"{archive} is no archive; {', '.join(SUFFIXES)} can be read")
    except _DAMAGE as error:
        # A place before the file's first byte is EINVAL; other numbers are the disk's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(
            f"{archive} is damaged ({error or type(error).__name__}); download or pack it again"
        ) from error


def _zip_members(archive: Path, opened: zipfile.ZipFile, room: _Room) -> list[_Member]:
    members = []
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(archive, info.filename, "is a link or a device")
        if info.flag_bits & 1:
            raise _refused(archive, info.filename, "is encrypted")
        room.take(info.file_size)
        if not info.filename.endswith(("/", "\\")):
            members.append(_Member(info.filename, partial(opened.open, info)))
    return members


def _tar_members(archive: Path, opened: tarfile.TarFile, room: _Room) -> list[_Member]:
    members = []
    for info in opened:  # which decompresses what lies before the next
        room.take(tarfile.BLOCKSIZE + info.size)
        if not (info.isfile() or info.isdir()):
            raise _refused(archive, info.name, "is a link or a device")
        if info.isfile():
            members.append(_Member(info.name, partial(_tar_file, opened, info)))
    return members


def _tar_file(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = opened.extractfile(info)
    assert file is not None  # it is a regular file
    return file


def _write(archive: Path, members: list[_Member], folder: Path) -> None:
    """Check every name, then write. Modes, owners and times are not kept."""
    targets = [folder.joinpath(*_parts(archive, member.name)) for member in members]
    bar = tqdm(members, desc=f"unpack {archive.name}", unit="file", disable=None, leave=False)
    for member, target in zip(bar, targets, strict=True):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out, member.open() as file:
                # Python's zipfile and tarfile give no more bytes than were declared above.
                shutil.copyfileobj(file, out, 2**20)
        except (FileExistsError, NotADirectoryError):
            raise _refused(archive, member.name, "is there twice") from None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise _refused(archive, member.name, "has too long a name for this disk") from None
        except NotImplementedError as error:
            raise _refused(archive, member.name, f"cannot be unpacked: {error}") from error


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise _refused(archive, name, "lies outside the archive")
    if not path.parts or "\0" in name:
        raise _refused(archive, name, "has no usable name")
    return path.parts


def _refused(archive: Path, member: str, fault: str) -> UserError:
    return UserError(
        f"{archive} is refused: its member {member!r} {fault}; plain files with paths inside the "
        "archive are allowed; pack it again, or give an unpacked folder in its place"
    )


def _unpack_in_place(archive: Path, room: _Room) -> None:
    """train.zip becomes train/, whether or not it holds a folder train/ itself."""
    inner = archive.with_name(f"{archive.name}.unpacked")
    inner.mkdir()
    _unpack(archive, inner, room)
    entries = list(inner.iterdir())
    wrapped = len(entries) == 1 and entries[0].is_dir() and entries[0].name == _stem(archive)
    target = archive.with_name(_stem(archive))
    if target.exists():
        raise _refused(archive, target.name, "lies beside the archive as well")
    (entries[0] if wrapped else inner).rename(target)
    if wrapped:
        inner.rmdir()
    archive.unlink()


def _human(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _stem(archive: Path) -> str:
    return archive.name.split(".")[0]
