"""What the audit remembers of pictures never changes what it sees, whatever becomes of the file."""

import io
import multiprocessing
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_store import forks

from tlkit.data import looks
from tlkit.data.looks import Look, Looks


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(seed) for seed in range(120)]
SEEN = [looks.look_at(data, 64) for data in PICTURES]


def see(path: Path) -> None:
    with Looks(path, 64) as remembered:
        assert [remembered.of(data, sha256(data).hexdigest()) for data in PICTURES] == SEEN


def decoded(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many pictures have to be decoded where the file is as it is."""
    calls = []

    def counted(data: bytes, max_pixels: int) -> Look:
        calls.append(data)
        return SEEN[PICTURES.index(data)]

    with monkeypatch.context() as patch:
        patch.setattr(looks, "look_at", counted)
        see(path)
    return len(calls)


def flip_everywhere(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(0, len(data), 100):
        data[place] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def garbled(path: Path) -> None:
    """So that SQLite's own message is no text."""
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE \xb7ABLE"))


def not_ours(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE looks (name)")


@pytest.mark.parametrize(
    ("harm", "mended"),
    [
        (flip_everywhere, True),
        (cut, True),
        (lambda path: path.write_bytes(b"no database" * 999), True),
        (lambda path: path.write_bytes(b""), True),
        (garbled, True),
        (not_ours, True),
        (lambda path: (path.unlink(), path.mkdir()), False),
        (lambda path: (path.unlink(), path.parent.rmdir()), False),
    ],
    ids=["flipped", "cut", "text", "empty", "garbled", "another", "folder", "no folder"],
)
def test_a_damaged_file_costs_time_alone(
    tmp_path: Path, harm: Callable[[Path], object], mended: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "cache" / "looks"
    path.parent.mkdir()
    see(path)
    assert decoded(path, monkeypatch) == 0
    harm(path)
    assert decoded(path, monkeypatch) > 0
    see(path)
    capsys.readouterr()
    assert (decoded(path, monkeypatch) == 0) == mended
    told = capsys.readouterr().err
    assert told.count(f"is not remembered in {path} (") == (not mended)


def test_no_flipped_bit_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "looks"
    see(path)
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(100):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        see(path)


def test_a_file_that_can_only_be_read_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "looks"
    with Looks(path, 64) as remembered:
        for data in PICTURES[:110]:
            remembered.of(data, sha256(data).hexdigest())
    connect = sqlite3.connect

    def reading(path: Path, check_same_thread: bool) -> sqlite3.Connection:  # as for root too
        return connect(f"file:{path}?mode=ro", uri=True, check_same_thread=check_same_thread)

    monkeypatch.setattr(sqlite3, "connect", reading)
    assert decoded(path, monkeypatch) == 10
    assert decoded(path, monkeypatch) == 10


def test_a_full_file_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "looks"
    monkeypatch.setattr(looks, "MAX_BYTES", 3 * 4096)
    see(path)
    assert not path.exists()


@forks
def test_processes_may_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "looks"
    monkeypatch.setattr(looks, "_KEPT_AT_ONCE", 1)
    workers = [multiprocessing.get_context("fork").Process(target=see, args=(path,)) for _ in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert decoded(path, monkeypatch) == 0
