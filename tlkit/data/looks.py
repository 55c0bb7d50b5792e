"""What the audit sees in a picture, remembered from command to command: decoding a photograph takes
40 times as long as reading its file, and nothing but the file and the code decides what is seen."""

import hashlib
import json
import sqlite3
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from tlkit.data import damage, images
from tlkit.data.images import read_picture
from tlkit.errors import reason

FLAT = 3.0  # grey levels, standard deviation at 32x32: less holds nothing a hash could tell apart
MAX_BYTES = 2**30  # of the file, for some eight million pictures
_PAGE_BYTES = 4096
_PACKAGES = ("Pillow", "ImageHash", "simplejpeg", "numpy", "scipy")
_KEPT_AT_ONCE = 100
_USELESS = (
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FULL),
    sqlite3.SQLITE_ERROR,  # the table is not the one made here
)


@dataclass(frozen=True)
class Look:
    """Of a readable picture: `content` is its format ("JPEG", "PNG", ...), `bits` its perceptual
    hash, 64 of them as a number, None where it is flat, and `damage` what is wrong with it, None
    where nothing is."""

    content: str
    bits: int | None
    damage: str | None


def look_at(data: bytes, max_pixels: int) -> Look:
    """Decode the bytes of a file. Raises UnreadablePicture."""
    picture = read_picture(data, max_pixels)
    small = picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    bits = None
    if np.asarray(small).std() >= FLAT:
        lowest = imagehash.phash(small).hash  # 8x8 of the lowest frequencies of 32x32 pixels
        bits = int.from_bytes(np.packbits(lowest).tobytes())
    content = picture.format or ""
    return Look(content, bits, damage.fault_in(data, content))


class Looks:
    """`look_at` with a memory: an SQLite file, which processes and threads may share.

    A row is found by the content of the picture's file and all else that decides (`_key`), and
    carries a checksum. A file that cannot be read or written costs the time to decode, no more; one
    that is damaged or as large as MAX_BYTES is deleted, and begun anew by the next command. What is
    unreadable is looked at each time: the cause may be the machine, such as too little memory.
    """

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path = path
        self._max_pixels = max_pixels
        self._key = _key(max_pixels)
        self._lock = threading.Lock()
        self._new: list[tuple[bytes, bytes, int]] = []
        self._rows: sqlite3.Connection | None = None
        with self._forgiving():
            self._rows = sqlite3.connect(path, check_same_thread=False)
            self._rows.text_factory = bytes  # a damaged row may hold text that is none
            self._rows.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            self._rows.execute(f"PRAGMA max_page_count = {MAX_BYTES // _PAGE_BYTES}")
            # What a power cut damages costs time, and waiting for the disk does at each write.
            self._rows.execute("PRAGMA synchronous = OFF")
            self._rows.execute(
                "CREATE TABLE IF NOT EXISTS looks"
                " (name BLOB PRIMARY KEY, look BLOB, crc INTEGER) WITHOUT ROWID"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._forgiving():
            self._write()
            if self._rows:
                self._rows.close()
            self._rows = None

    def of(self, data: bytes, sha256: str) -> Look:
        """The look of a file's bytes with this hash. Raises UnreadablePicture."""
        name = hashlib.sha256(f"{self._key} {sha256}".encode()).digest()
        if (known := self._known(name)) is not None:
            return known
        look = look_at(data, self._max_pixels)
        text = json.dumps(astuple(look)).encode()
        with self._forgiving():
            self._new.append((name, text, _crc(name, text)))
            if len(self._new) >= _KEPT_AT_ONCE:
                self._write()
        return look

    def _known(self, name: bytes) -> Look | None:
        row = None
        with self._forgiving():
            if self._rows:
                query = "SELECT look, crc FROM looks WHERE name = ?"
                row = self._rows.execute(query, (name,)).fetchone()
        if row is None or _crc(name, row[0]) != row[1]:
            return None
        return Look(*json.loads(row[0]))

    def _write(self) -> None:
        new, self._new = self._new, []
        if self._rows:
            with self._rows:
                self._rows.executemany("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", new)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Hold the lock; after a first fault, say so and do without the file."""
        with self._lock:
            try:
                yield
            except (sqlite3.Error, UnicodeDecodeError) as error:  # of a damaged file's own words
                if self._rows:
                    self._rows.close()
                self._rows = None
                tqdm.write(
                    f"what the audit sees is not remembered in {self._path} ({reason(error)}): "
                    "a later command decodes these pictures again",
                    file=sys.stderr,
                )
                # Above the lowest byte are details.
                if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _USELESS:
                    with suppress(OSError):
                        self._path.unlink(missing_ok=True)


def _key(max_pixels: int) -> str:
    """Besides a file, all that a look depends on. Of our own code that is its text, so that no
    number has to be raised with a change."""
    modules = (images.__file__, damage.__file__, __file__)
    code = b"".join(Path(name).read_bytes() for name in modules)
    versions = [version(name) for name in _PACKAGES]
    return json.dumps([max_pixels, versions, hashlib.sha256(code).hexdigest()])


def _crc(name: bytes, look: object) -> int:
    """`look` is bytes, or whatever a damaged row has in their place."""
    return zlib.crc32(f"{name!r} {look!r}".encode())
