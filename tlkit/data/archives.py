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

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError)


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
    archive, and one that unpacks to more than `max_bytes`, than the free disk space, or than an
    archive of pictures can (BOMB_RATIO times its size).
    """
    with archive.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    target = cache / f"{_stem(archive)}-{content}"
    if not target.exists():
        with atomic_folder(target) as folder:
            _unpack(archive, folder, max_bytes)
            inside = [path for path in sorted(folder.rglob("*")) if nested(_stem(path))]
            for path in inside:
                if path.is_file() and is_archive(path):
                    _unpack_in_place(path, max_bytes)
    return target


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes]]


def _unpack(archive: Path, folder: Path, max_bytes: int) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _write(archive, _zip_members(archive, opened), folder, max_bytes)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened_tar:
                _write(archive, _tar_members(archive, opened_tar), folder, max_bytes)
        elif _named_so(archive):
            raise tarfile.ReadError("incomplete, or another kind of file")
        else:
            raise UserError(f"{archive} is no archive; {', '.join(SUFFIXES)} can be read")
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the archive
        raise UserError(
            f"{archive} is damaged ({error or type(error).__name__}); download or pack it again"
        ) from error


def _zip_members(archive: Path, opened: zipfile.ZipFile) -> list[_Member]:
    members = []
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(archive, info.filename, "is a link or a device")
        if info.flag_bits & 1:
            raise _refused(archive, info.filename, "is encrypted")
        if not info.filename.endswith(("/", "\\")):
            members.append(_Member(info.filename, info.file_size, partial(opened.open, info)))
    return members


def _tar_members(archive: Path, opened: tarfile.TarFile) -> list[_Member]:
    members = []
    for info in opened:
        if not (info.isfile() or info.isdir()):
            raise _refused(archive, info.name, "is a link or a device")
        if info.isfile():
            members.append(_Member(info.name, info.size, partial(_tar_file, opened, info)))
    return members


def _tar_file(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = opened.extractfile(info)
    assert file is not None  # it is a regular file
    return file


def _write(archive: Path, members: list[_Member], folder: Path, max_bytes: int) -> None:
    """Check every name and the whole size, then write. Modes, owners and times are not kept."""
    targets = [folder.joinpath(*_parts(archive, member.name)) for member in members]
    _check_size(archive, sum(member.size for member in members), folder, max_bytes)
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


def _check_size(archive: Path, size: int, folder: Path, max_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    packed = archive.stat().st_size
    if size > max_bytes or (size > BOMB_BYTES and size > BOMB_RATIO * packed):
        raise UserError(
            f"{archive} has {_human(packed)} and unpacks to {_human(size)}; allowed are "
            f"{_human(max_bytes)} and, over {_human(BOMB_BYTES)}, {BOMB_RATIO} times its size; "
            "if you trust it, unpack it by hand and pass the folder as data=FOLDER"
        )
    if size > free:
        raise UserError(
            f"{archive} unpacks to {_human(size)} and {folder.parent} has {_human(free)} of disk "
            "space left; free some, or set the cache to a folder on another disk"
        )


def _refused(archive: Path, member: str, fault: str) -> UserError:
    return UserError(
        f"{archive} is refused: its member {member!r} {fault}; plain files with paths inside the "
        "archive are allowed; pack it again, or pass a folder as data=FOLDER"
    )


def _unpack_in_place(archive: Path, max_bytes: int) -> None:
    """train.zip becomes train/, whether or not it holds a folder train/ itself."""
    inner = archive.with_name(f"{archive.name}.unpacked")
    inner.mkdir()
    _unpack(archive, inner, max_bytes)
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
