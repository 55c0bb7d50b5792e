"""The disk store under the prefix engine: rows computed once, and kept from process to process.

An entry is a folder named after its key. It holds `key.json` (the key and the form of a row),
`rows.bin` (row i at i * row_bytes) and `rows.log` (record i describes row i). Rows are only ever
appended, and a row is written before its record: what a killed process leaves is whole, or not
visible. Lock files lie beside the folders and stay, since deleting a lock is a race on NFS.
"""

import errno
import hashlib
import json
import math
import mmap
import os
import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from tlkit.errors import UserError

_KEY, _ROWS, _LOG = "key.json", "rows.bin", "rows.log"
_RECORD = struct.Struct("<32sII")  # sha256 of the picture, crc32 of its row, crc32 of these two
RECORD_BYTES = _RECORD.size  # what a row takes besides itself
_SHA256 = re.compile("[0-9a-f]{64}")
_SLICE = 256  # rows that are copied to a device at once
_CHECKED = struct.calcsize("<32sI")  # bytes of a record under its own crc32
_KEPT_FREE = 2**30  # bytes of a large disk that are left to others; of a small one, 5 %
_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),  # no room
    *(errno.EROFS, errno.EACCES, errno.EPERM),  # no right
    *(errno.ENOLCK, errno.EOPNOTSUPP),  # no locks
    *(errno.EEXIST, errno.ENOTDIR),  # no folder, but a file
)
_CANNOT_CLAIM = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Unwritable(Exception):
    """The disk takes nothing more: it is full, or may not be written. What is stored stays."""


@dataclass(frozen=True)
class EntryInfo:
    """One entry as a listing shows it.

    Attributes:
        key: what the entry was made for, None where its `key.json` is damaged.
        rows: in the journal.
        size: bytes on disk, claimed ones included.
        last_used: seconds since the epoch.
    """

    path: Path
    key: dict[str, Any] | None
    rows: int
    size: int
    last_used: float


@dataclass(frozen=True)
class Rows:
    """The rows of some names, on disk and mapped.

    Attributes:
        mapped: (rows, *row_shape), to be read only; on the CPU unless copied with `to`.
        slots: int64 (names,), the row of each name in `mapped`, -1 where none is stored.
    """

    mapped: Tensor
    slots: Tensor

    @property
    def missing(self) -> list[int]:
        """Indices into the names of those that are not stored, ascending."""
        return [index for index, slot in enumerate(self.slots.tolist()) if slot < 0]

    def gather(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Copy the rows at indices into the names: (len(indices), *row_shape).

        Raises IndexError for a row that is missing, or an index beyond the names.
        """
        slots = self.slots[torch.as_tensor(indices, dtype=torch.int64)]
        if bool((slots < 0).any()):
            raise IndexError("a row is asked for that is not stored; fill what `missing` lists")
        if self.mapped.device.type == "cuda":  # which would be waited for otherwise
            slots = slots.pin_memory().to(self.mapped.device, non_blocking=True)
        return self.mapped.index_select(0, slots)

    def to(self, device: torch.device) -> "Rows":
        """The rows of the names, and no others, copied to the memory of a device."""
        stored = self.slots >= 0
        slots = torch.full_like(self.slots, -1)
        slots[stored] = torch.arange(int(stored.sum()))
        wanted = self.slots[stored]
        rows = self.mapped.new_empty(len(wanted), *self.mapped.shape[1:], device=device)
        # In slices: on the way each is in the memory of the CPU once more.
        slices = zip(torch.split(rows, _SLICE), torch.split(wanted, _SLICE), strict=True)
        for into, some in slices:
            into.copy_(self.mapped.index_select(0, some))
        return Rows(rows, slots)


@dataclass(frozen=True)
class _Layout:
    """The form of an entry's rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Entry:
    """The rows of one exact way of computing, addressed by the pictures' sha256 (64 hex digits).

    Any number of processes may read while one fills. Not for use by several threads at once.
    """

    def __init__(self, store: "Store", key: dict[str, Any], path: Path) -> None:
        self.store = store
        self.key = key
        self.path = path
        # The records, by slot, of the rows that this process has checked, or written itself; zeros
        # for others. Where another process began the entry anew, a row of the same content in the
        # same slot still counts as checked.
        self._checked = bytearray()

    def read(self, names: Sequence[str]) -> Rows:
        """Map the rows of `names`. Each is checked when this process first asks for it; a damaged
        row is missing, and so are all rows of an entry that cannot be opened, read or mapped.

        Raises ValueError for a name that is no sha256, and UserError where this process has too
        many files open, each map being one.
        """
        wanted = [_digest(name) for name in names]
        try:
            if (layout := _layout(self.path)) is None:
                raise FileNotFoundError
            with (self.path / _ROWS).open("rb") as file:
                journal = _journal(self.path / _LOG)
                with suppress(OSError):  # where it is read-only, its use cannot be remembered
                    os.utime(self.path / _LOG)
                rows = {name: journal[name] for name in wanted if name in journal}
                slots = self._sound(file, layout, rows)
                return _mapped(file, layout, [slots.get(name, -1) for name in wanted])
        except (OSError, ValueError) as error:  # the second: the file is shorter than its rows
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise UserError(
                    f"the store cannot be read ({error.strerror}); raise the limit "
                    "(`ulimit -n 4096`), or lower views"
                ) from error
            return Rows(torch.empty(0), torch.full((len(wanted),), -1))

    @contextmanager
    def filling(self, waiting: Callable[[], object] = lambda: None) -> Iterator["Filling"]:
        """Hold the entry's lock, to append rows. What another process has stored meanwhile shows
        in a `read` inside the block. An entry that is left without rows is deleted.

        Args:
            waiting: called once if another process is filling and must be waited for.

        Raises:
            Unwritable: the store's folder cannot be written.
        """
        with _writing(self.path):
            lock = self.store.lock(self.path.name)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                waiting()
                lock.acquire()
        try:
            with closing(Filling(self)) as filling:
                yield filling
        finally:
            lock.release()

    def _sound(
        self, file: BinaryIO, layout: _Layout, rows: dict[bytes, tuple[int, int]]
    ) -> dict[bytes, int]:
        """The slots of those rows whose crc32 is right; the file is read once, in its order."""
        size = layout.row_bytes
        whole = os.fstat(file.fileno()).st_size // size
        del self._checked[whole * RECORD_BYTES :]  # of a file that lost its end
        sound = {}
        for name, (slot, crc) in sorted(rows.items(), key=lambda row: row[1]):
            record = _record(name, crc)
            if not self._is_checked(slot, record):
                if _crc(file, slot * size, size) != crc:
                    continue
                self.mark_checked(slot, record)
            sound[name] = slot
        return sound

    def mark_checked(self, slot: int, records: bytes) -> None:
        """Take the rows from a slot on as sound, as long as their records are these."""
        begin, end = slot * RECORD_BYTES, slot * RECORD_BYTES + len(records)
        self._checked.extend(bytes(max(0, end - len(self._checked))))
        self._checked[begin:end] = records

    def _is_checked(self, slot: int, record: bytes) -> bool:
        begin = slot * RECORD_BYTES
        return self._checked[begin : begin + RECORD_BYTES] == record


class Filling:
    """Appends to an entry whose lock is held; see `Entry.filling`."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._path = entry.path
        self._layout: _Layout | None = None
        self._rows: FileIO
        self._log: FileIO

    def reserve(self, rows: int, shape: Sequence[int], dtype: torch.dtype, spare: int = 0) -> int:
        """Claim disk space for that many more rows, in place of what was reserved before, and
        evict for it the entries used longest ago, except those that this store has opened since it
        was released, and those being filled.

        Args:
            spare: bytes that are to stay free for other rows.

        Returns:
            How many of the rows fit into the budget and onto the disk, maybe 0. So many can be
            appended without filling the disk up. For a budget that cannot hold one, nothing is
            evicted.

        Raises:
            Unwritable: the disk is full after all (a quota), or may not be written.
            ValueError: the entry's rows have another shape or dtype.
        """
        store = self._entry.store
        with _writing(self._path):
            size = self._begin(tuple(shape), dtype).row_bytes
            self._give_back()
            with store.lock("budget"):
                each = size + RECORD_BYTES
                room = store.room(rows * each + spare) - spare if each <= store.budget else 0
                fit = min(rows, max(0, room) // each)
                if fit:
                    _claim(self._rows.fileno(), self._count() * size, fit * size)
        return fit

    def append(self, names: Sequence[str], rows: Tensor) -> None:
        """Store rows (len(names), *row_shape), on any device; they are visible to others on return.
        A name that is stored already gets its new row.

        Raises:
            Unwritable: the disk is full, or may not be written.
            ValueError: another shape or dtype than the entry's, or a name that is no sha256.
        """
        digests = [_digest(name) for name in names]
        if len(digests) != len(rows):
            raise ValueError(f"{len(rows)} rows for {len(digests)} names; give one row a name")
        if not digests:
            return
        data = rows.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        with _writing(self._path):
            layout = self._begin(tuple(rows.shape[1:]), rows.dtype)
            size, first = layout.row_bytes, self._count()
            crcs = [zlib.crc32(data[i : i + size]) for i in range(0, len(data), size)]
            _write(self._rows, first * size, data)
            records = b"".join(map(_record, digests, crcs))
            _write(self._log, first * RECORD_BYTES, records)
        self._entry.mark_checked(first, records)

    def close(self) -> None:
        """Give unused space back; an entry without rows goes."""
        if self._layout is None:
            return
        with suppress(OSError):  # Windows: another process maps it
            self._give_back()
        empty = not self._count()
        self._rows.close()
        self._log.close()
        if empty:
            shutil.rmtree(self._path, ignore_errors=True)

    def _begin(self, shape: tuple[int, ...], dtype: torch.dtype) -> _Layout:
        if not math.prod(shape):
            raise ValueError(f"rows of shape {shape} are empty; give rows with elements")
        if self._layout is None:
            self._layout = self._open(shape, dtype)
        if (shape, dtype) != (self._layout.shape, self._layout.dtype):
            raise ValueError(
                f"rows of shape {shape} and {dtype} given, but {self._path} holds "
                f"{self._layout.shape} and {self._layout.dtype}; use another key for them"
            )
        return self._layout

    def _open(self, shape: tuple[int, ...], dtype: torch.dtype) -> _Layout:
        layout = _layout(self._path)
        if layout is None or not all((self._path / name).exists() for name in (_ROWS, _LOG)):
            layout = _Layout(shape, dtype)
            _start(self._path, self._entry.key, layout)
        self._rows = FileIO(self._path / _ROWS, "r+")
        self._log = FileIO(self._path / _LOG, "r+")
        return layout

    def _count(self) -> int:
        """Whole records: where the next row goes, and over a torn record the next record."""
        return os.fstat(self._log.fileno()).st_size // RECORD_BYTES

    def _give_back(self) -> None:
        """Cut what was claimed beyond the rows."""
        assert self._layout is not None
        end = self._count() * self._layout.row_bytes
        if os.fstat(self._rows.fileno()).st_size > end:
            self._rows.truncate(end)


@dataclass(frozen=True)
class Store:
    """Entries under a folder.

    Attributes:
        budget: bytes that all entries together may take.
    """

    folder: Path
    budget: int
    _opened: dict[str, Entry] = field(default_factory=dict, init=False, repr=False, compare=False)
    _in_use: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def entry(self, key: Mapping[str, Any]) -> Entry:
        """The entry of a key that JSON can hold: the same object for the same key. Creates nothing.

        Raises TypeError for a key that JSON cannot hold.
        """
        plain = json.loads(json.dumps(key))
        path = self.folder / _hash(plain)
        self._in_use.add(path.name)
        return self._opened.setdefault(path.name, Entry(self, plain, path))

    def release(self) -> None:
        """What was opened so far may be evicted; its rows that are mapped stay readable."""
        self._in_use.clear()

    def entries(self) -> list[EntryInfo]:
        """All entries, damaged ones included, the last used first."""
        paths = [p for p in self.folder.glob("*") if re.fullmatch("[0-9a-f]{32}", p.name)]
        infos = [info for path in paths if (info := _info(path)) is not None]
        return sorted(infos, key=lambda info: info.last_used, reverse=True)

    def clear(self) -> int:
        """Delete all entries that no process is filling; returns the bytes freed."""
        return sum(self._remove(info) for info in self.entries())

    def lock(self, name: str) -> FileLock:
        """The lock of that name between processes; freed by the system if its holder is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{name}.lock")

    def room(self, wanted: int) -> int:
        """Bytes that may be added, below 0 where there are too many, after evicting for `wanted`
        bytes what was used longest ago."""
        others = [info for info in self.entries() if info.path.name not in self._in_use]
        while (free := self._free()) < wanted and others:
            self._remove(others.pop())
        return free

    def _free(self) -> int:
        disk = shutil.disk_usage(self.folder)
        taken = sum(info.size for info in self.entries())
        return min(self.budget - taken, disk.free - min(disk.total // 20, _KEPT_FREE))

    def _remove(self, info: EntryInfo) -> int:
        try:
            with self.lock(info.path.name).acquire(blocking=False):
                # First, for where it is mapped on Windows it cannot go, and all must stay.
                (info.path / _ROWS).unlink(missing_ok=True)
                shutil.rmtree(info.path, ignore_errors=True)
        except OSError:  # being filled (a Timeout), mapped, or another user's
            return 0
        return info.size


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise Unwritable(
            f"{path} cannot be written ({error.strerror}); free disk space, check its rights, "
            "or point TLKIT_CACHE at another folder"
        ) from error


def _digest(name: str) -> bytes:
    if not _SHA256.fullmatch(name):
        raise ValueError(f"{name!r} is no sha256; name a row by 64 lower-case hex digits")
    return bytes.fromhex(name)


def _record(name: bytes, crc: int) -> bytes:
    return _RECORD.pack(name, crc, zlib.crc32(_RECORD.pack(name, crc, 0)[:_CHECKED]))


def _journal(path: Path) -> dict[bytes, tuple[int, int]]:
    """Slot and crc32 of each name, by its last sound record; a torn tail is left out."""
    data = path.read_bytes()
    rows = {}
    for slot in range(len(data) // RECORD_BYTES):
        start = slot * RECORD_BYTES
        name, crc, check = _RECORD.unpack_from(data, start)
        if zlib.crc32(data[start : start + _CHECKED]) == check:
            rows[name] = slot, crc
    return rows


def _crc(file: BinaryIO, offset: int, size: int) -> int | None:
    try:
        file.seek(offset)
        return zlib.crc32(file.read(size))
    except OSError:  # a bad sector: a damaged row like any other
        return None


def _mapped(file: BinaryIO, layout: _Layout, slots: list[int]) -> Rows:
    count = max(slots, default=-1) + 1
    mapped = torch.empty(0, dtype=layout.dtype)
    if count:
        # Not torch.from_file: its private, writable map counts against the system's memory.
        pages = mmap.mmap(file.fileno(), count * layout.row_bytes, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():  # that the map cannot be written, which it never is
            warnings.simplefilter("ignore", UserWarning)
            mapped = torch.frombuffer(pages, dtype=layout.dtype)
    return Rows(mapped.view(count, *layout.shape), torch.tensor(slots, dtype=torch.int64))


def _write(file: FileIO, offset: int, data: bytes | memoryview) -> None:
    file.seek(offset)
    left = memoryview(data)
    while left:  # the system writes at most 2 GiB at once
        left = left[file.write(left) :]


def _claim(descriptor: int, offset: int, size: int) -> None:
    """Make the file, which ends at `offset`, that much longer, so that the budget counts it, and
    have the disk keep the room where the system can (macOS and Windows have no such call)."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, offset, size)
            return
    except OSError as error:
        if error.errno not in _CANNOT_CLAIM:
            raise
    os.ftruncate(descriptor, offset + size)  # a full disk shows when it is written to


def _hash(content: dict[str, Any]) -> str:
    """32 hex digits over the canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _start(path: Path, key: dict[str, Any], layout: _Layout) -> None:
    """Begin an entry anew. Old files are unlinked, not cut: another process may map them."""
    path.mkdir(parents=True, exist_ok=True)
    for name in (_ROWS, _LOG):
        (path / name).unlink(missing_ok=True)
    dtype = str(layout.dtype).removeprefix("torch.")
    content = {"key": key, "shape": layout.shape, "dtype": dtype}
    part = path / f"{_KEY}.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump({**content, "check": _hash(content)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())  # rows without it would be lost with it
    os.replace(part, path / _KEY)
    for name in (_ROWS, _LOG):
        (path / name).touch()


def _described(path: Path) -> dict[str, Any] | None:
    """The content of an entry's key.json, None where it is absent or damaged."""
    try:
        content = json.loads((path / _KEY).read_bytes())
        check = content.pop("check")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if check == _hash(content) else None


def _layout(path: Path) -> _Layout | None:
    content = _described(path)
    if content is None:
        return None
    return _Layout(tuple(content["shape"]), getattr(torch, content["dtype"]))


def _info(path: Path) -> EntryInfo | None:
    try:
        sizes = {file.name: file.stat().st_size for file in path.iterdir()}
        content = _described(path)
        return EntryInfo(
            path,
            key=content and content["key"],
            rows=sizes.get(_LOG, 0) // RECORD_BYTES,
            size=sum(sizes.values()),
            last_used=(path / _LOG if _LOG in sizes else path).stat().st_mtime,
        )
    except OSError:  # deleted meanwhile, or no folder
        return None
