"""Writing files so that a reader never sees half of one."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from tlkit.errors import UserError


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    Raises:
        UserError: the disk is full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with disk_errors(path):
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into a message that says where and what to do.

    Raises:
        UserError: no space is left, or the quota is used up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no disk space left while writing {path}; free some, "
            "or point TLKIT_CACHE and the tracking store at another disk"
        ) from error


def cache_folder() -> Path:
    """Where downloads, extracted archives and stored outputs live: one place per user.

    The environment variable TLKIT_CACHE moves it.
    """
    chosen = os.environ.get("TLKIT_CACHE")
    folder = Path(chosen) if chosen else platformdirs.user_cache_path("tlkit")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
