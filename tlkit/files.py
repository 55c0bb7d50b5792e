"""Files and folders that appear whole or not at all, and what a disk may answer."""

import csv
import errno
import getpass
import io
import json
import os
import re
import shutil
import tempfile
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError

from tlkit.errors import UserError

# The folder of tlkit's own code.
PACKAGE = Path(__file__).parent

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FEW = 2**20  # bytes; a disk that has fewer is full


def expanded(path: str | Path) -> Path:
    """A path as a user writes it, with the home folder for a ~ or ~NAME that it begins with.

    Raises UserError where there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = Path(path).parts[0]
        raise UserError(
            f"{path}: the home folder {home} is not known; write the whole path, or ./{path} for "
            f"what is called {home} in the current folder"
        ) from None


def cache_folder() -> Path:
    """Where downloads, extracted archives and stored outputs live: one place per user.

    The environment variable TLKIT_CACHE moves it. Raises UserError where it cannot be made.
    """
    import platformdirs  # a served model writes whole files too, and its environment lacks this

    chosen = os.environ.get("TLKIT_CACHE")
    folder = expanded(chosen) if chosen else platformdirs.user_cache_path("tlkit")
    _make(folder, f"TLKIT_CACHE={folder}")
    return folder


def output_folder(output: str) -> Path | None:
    """The folder that a user wants results in, made and empty; None for "none".

    To be asked for before the work. Raises UserError where it cannot be made, or holds something.
    """
    if output == "none":
        return None
    folder = expanded(output)
    _make(folder, f"output={folder}")
    with disk_faults_told(folder):
        held = next(folder.iterdir(), None)
    if held is not None:
        raise UserError(f"output={folder} holds {held.name} already; name a new or empty folder")
    return folder


def _make(folder: Path, named: str) -> None:
    with disk_faults_told(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise UserError(
                f"{named} is no folder and cannot be made ({error.strerror}); name another"
            ) from error


def scratch_folder() -> Path:
    """Where a run's files lie while it goes on: in the cache, where killed runs leave them.

    Beside a cache that can only be read, it is the user's own temporary folder. Raises UserError
    where neither can be written, and where somebody else could write into the second.
    """
    cache = cache_folder()
    if os.access(cache, os.W_OK):
        return cache
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"tlkit-{user}"
    with disk_faults_told(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()  # of a link its own rights, which all have
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        raise UserError(
            f"{folder} is another user's, or others may write into it; remove it, or point "
            "TLKIT_CACHE at a folder that you can write"
        )
    return folder


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write, whose file takes the place of `path` when the block ends well.

    A disk that is full or cannot be written raises UserError.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with disk_faults_told(path):
            yield part
            os.replace(part, path)
    finally:
        with suppress(OSError):  # or it would hide the error under way
            part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `target` when the block ends well and vanishes if not.

    A disk that is full or cannot be written raises UserError.
    """
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with disk_faults_told(target.parent):
            folder.mkdir(parents=True)
            yield folder
        try:
            folder.rename(target)
        except OSError:
            if not target.exists():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, head: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file row by row, its lines ended alike on every system."""
    with path.open("w", encoding="utf-8", newline="") as file:
        _write_rows(file, head, rows)


def csv_text(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """What `write_csv` would write."""
    text = io.StringIO(newline="")
    _write_rows(text, head, rows)
    return text.getvalue()


def _write_rows(file: TextIO, head: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)


def utf8(name: str) -> str:
    """With question marks where a file name of another encoding cannot be written into a file."""
    return name.encode(errors="replace").decode()


def short_stem(path: str | Path) -> str:
    """The name of a file without its ending, as an artifact may be called: cut so that a number and
    an ending fit around it into the 255 bytes that most systems allow, and with "-" for what means
    something in the address by which MLflow's server takes it, such as #, ? and %."""
    stem = Path(path).stem.encode()[:200].decode(errors="ignore")
    return "".join(c if unicodedata.category(c)[0] in "LMN" or c in " -_.()" else "-" for c in stem)


def disk_is_full(error: BaseException) -> bool:
    """Whether an error stands for a full disk or a used-up quota."""
    return _number(error) in _FULL


def _number(error: BaseException) -> int | None:
    """The system's number of an error, if it has one; safetensors has it in its words alone."""
    if isinstance(error, SafetensorError):
        found = re.search(r"\(os error (\d+)\)", str(error))
        return int(found[1]) if found else None
    return error.errno if isinstance(error, OSError) else None


def temporary_folder() -> Path:
    """Where temporary files go. Raises UserError where none can be written."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # which Python looks for once, by writing
        raise UserError(
            f"no temporary file can be written ({error.strerror}); free disk space, or point "
            "TMPDIR at another disk"
        ) from error


def _free(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free


@contextmanager
def disk_faults_told(folder: Path) -> Iterator[None]:
    """Turn a full disk, one without the rights, and a path that the system does not take into a
    UserError; `folder` is written under."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if disk_is_full(error):
            temporary = temporary_folder()  # the error itself may name no file
            where = temporary if _free(temporary) < min(_free(folder), _FEW) else folder
            raise UserError(
                f"no disk space left while writing {where}; free some, "
                "or point TLKIT_CACHE, TMPDIR and the tracking store at another disk"
            ) from error
        number = _number(error)
        if number is None:
            raise
        path, why = getattr(error, "filename", None) or folder, os.strerror(number)
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"{path} cannot be used ({why}); check its rights, or point TLKIT_CACHE at another "
                "folder"
            ) from error
        if number in (errno.EEXIST, errno.ENOTDIR):
            raise UserError(
                f"{path} cannot be made ({why}); rename the file that is in the place of a folder"
            ) from error
        if number in (errno.ELOOP, errno.ENAMETOOLONG):
            way_out = "remove the link" if number == errno.ELOOP else "shorten it"
            raise UserError(f"the path {path} cannot be used ({why}); {way_out}") from error
        raise
