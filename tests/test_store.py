"""The disk store: what is read is what was written, or missing, whatever happened in between."""

import errno
import hashlib
import io
import multiprocessing
import os
import random
import re
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from tlkit.errors import UserError
from tlkit.features import store as store_module
from tlkit.features.store import Entry, Rows, Store, Unwritable
from tlkit.summary import of_store

KEY = {"backbone": "test_resnet", "cut": 3, "view": 0}
BIG = 2**40
RECORD = 40
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, to be quick")
claims = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no disk space is claimed")


def names(*indices: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in indices]


def rows(*indices: int, width: int = 64) -> Tensor:
    return torch.tensor(indices, dtype=torch.float32)[:, None] + torch.arange(width) / width


def fill(entry: Entry, *indices: int) -> None:
    with entry.filling() as filling:
        filling.append(names(*indices), rows(*indices))


def stored(folder: Path, count: int) -> tuple[list[int], list[int]]:
    """Missing and right ones of the first rows, as a process sees them that comes anew."""
    found = Store(folder, BIG).entry(KEY).read(names(*range(count)))
    there = [i for i in range(count) if i not in found.missing]
    assert torch.equal(found.gather(there), rows(*there)) if there else True
    return found.missing, there


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (5,), (3, 2, 4)])
def test_rows_come_back_as_they_were(
    folder: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    values = (torch.randn(4, *shape) * 100).to(dtype)
    if values.ndim == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    with Store(folder, BIG).entry(KEY).filling() as filling:
        filling.append(names(0, 1, 2, 3), values)
    found = Store(folder, BIG).entry(KEY).read(names(3, 9, 0, 1, 0))
    assert found.missing == [1]
    got = found.gather([4, 0, 2, 0, 3])
    assert got.dtype == dtype
    assert torch.equal(got, values[[0, 3, 0, 3, 1]])
    assert torch.equal(found.gather(torch.tensor([3])), values[[1]])
    assert found.gather([]).shape == (0, *shape)
    with pytest.raises(IndexError, match="not stored"):
        found.gather([0, 1])


def test_what_is_gathered_is_a_copy(folder: Path) -> None:
    entry = Store(folder, BIG).entry(KEY)
    fill(entry, 0, 1)
    found = entry.read(names(0, 1))
    found.gather([0, 1]).zero_()
    assert torch.equal(found.gather([0, 1]), rows(0, 1))


def test_reading_creates_nothing(folder: Path) -> None:
    store = Store(folder, BIG)
    assert store.entry(KEY).read(names(0, 1)).missing == [0, 1]
    assert (store.entries(), store.clear()) == ([], 0)
    assert not folder.exists()


def test_a_filling_without_rows_leaves_no_entry(folder: Path) -> None:
    store = Store(folder, BIG)
    with store.entry(KEY).filling() as filling:
        assert filling.reserve(9, (64,), torch.float32) == 9
        filling.append([], torch.empty(0, 64))
    assert store.entries() == []


def test_rows_added_later_are_seen_by_whoever_reads(folder: Path) -> None:
    writer, reader = Store(folder, BIG).entry(KEY), Store(folder, BIG).entry(KEY)
    fill(writer, 0, 1)
    early = reader.read(names(0, 1, 2))
    with writer.filling() as filling:
        filling.append(names(2), rows(2))
        assert early.missing == [2]
        assert torch.equal(reader.read(names(2, 0)).gather([0, 1]), rows(2, 0))
    assert torch.equal(early.gather([1, 0]), rows(1, 0))


def test_another_key_is_another_entry(folder: Path) -> None:
    store = Store(folder, BIG)
    fill(store.entry(KEY), 0)
    assert store.entry({**KEY, "view": 1}).read(names(0)).missing == [0]
    assert store.entry(dict(reversed(KEY.items()))) is store.entry(KEY)


def test_other_rows_than_the_entrys_are_refused(folder: Path) -> None:
    fill(Store(folder, BIG).entry(KEY), 0)
    with Store(folder, BIG).entry(KEY).filling() as filling:
        with pytest.raises(ValueError, match=r"\(64,\).*another key"):
            filling.append(names(1), torch.zeros(1, 65))
        with pytest.raises(ValueError, match="bfloat16"):
            filling.reserve(1, (64,), torch.bfloat16)
        with pytest.raises(ValueError, match="2 rows for 1 names"):
            filling.append(names(1), rows(1, 2))
        for other in ("picture.jpg", names(1)[0].upper(), f"{names(1)[0]}0"):
            with pytest.raises(ValueError, match="no sha256"):
                filling.append([other], rows(1))
        with pytest.raises(ValueError, match="are empty"):
            filling.append(names(1), torch.zeros(1, 0))
    assert stored(folder, 2) == ([1], [0])


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size - size)


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (lambda path: flip(path / "rows.bin", 2 * 256 + 100), [2]),
        (lambda path: flip(path / "rows.log", 2 * RECORD + 3), [2]),
        (lambda path: flip(path / "rows.log", 4 * RECORD + 33), [4]),
        (lambda path: cut(path / "rows.bin", 300), [3, 4]),
        (lambda path: cut(path / "rows.log", 60), [3, 4]),
        (lambda path: flip(path / "key.json", 40), [0, 1, 2, 3, 4]),
        (lambda path: (path / "rows.bin").unlink(), [0, 1, 2, 3, 4]),
        (lambda path: (path / "rows.log").unlink(), [0, 1, 2, 3, 4]),
        (lambda path: (path / "key.json").unlink(), [0, 1, 2, 3, 4]),
        (lambda path: (path / "key.json").write_text("[1]"), [0, 1, 2, 3, 4]),
        (lambda path: (path / "key.json").write_text('"key"'), [0, 1, 2, 3, 4]),
    ],
    ids=[
        *("row", "name", "crc", "rows cut", "log cut", "key", "no rows", "no log", "no key"),
        *("a list for a key", "a word for a key"),
    ],
)
def test_damaged_rows_are_missing_until_filled_again(
    folder: Path, damage: Callable[[Path], None], missing: list[int]
) -> None:
    entry = Store(folder, BIG).entry(KEY)
    fill(entry, 0, 1, 2, 3, 4)
    damage(entry.path)
    assert stored(folder, 5)[0] == missing
    fill(Store(folder, BIG).entry(KEY), *missing)
    assert stored(folder, 6) == ([5], [0, 1, 2, 3, 4])
    if len(missing) == 5:
        assert Store(folder, BIG).entries()[0].rows == 5  # of the new ones alone
    found = entry.read(names(*range(5)))  # by the process that saw the rows before
    assert found.missing == []
    assert torch.equal(found.gather(range(5)), rows(0, 1, 2, 3, 4))


def test_a_record_that_names_another_picture_is_not_believed(folder: Path) -> None:
    entry = Store(folder, BIG).entry(KEY)
    fill(entry, 0, 1)
    with (entry.path / "rows.log").open("r+b") as log:
        log.write(bytes.fromhex(*names(7)))
    assert stored(folder, 8) == ([0, 2, 3, 4, 5, 6, 7], [1])


def test_rows_cut_off_under_a_process_that_knows_them(folder: Path) -> None:
    entry = Store(folder, BIG).entry(KEY)
    fill(entry, 0, 1, 2)
    cut(entry.path / "rows.bin", 300)
    assert entry.read(names(0, 1, 2)).missing == [1, 2]
    fill(Store(folder, BIG).entry(KEY), 2)  # leaves a hole where row 1 was
    found = entry.read(names(0, 1, 2))
    assert found.missing == [1]
    assert torch.equal(found.gather([2, 0]), rows(2, 0))


@pytest.mark.parametrize("checked", [0, 1])
def test_a_row_is_checked_once_a_process(folder: Path, checked: int) -> None:
    fill(Store(folder, BIG).entry(KEY), 0, 1)
    entry = Store(folder, BIG).entry(KEY)
    assert entry.read(names(checked)).missing == []
    for offset in (3, 256 + 3):
        flip(entry.path / "rows.bin", offset)
    assert entry.read(names(0, 1)).missing == [1 - checked]
    fill(entry, 2)  # and what it wrote itself
    flip(entry.path / "rows.bin", 2 * 256 + 3)
    assert entry.read(names(2)).missing == []


def test_an_entry_deleted_and_filled_anew_is_read_anew(folder: Path) -> None:
    entry = Store(folder, BIG).entry(KEY)
    fill(entry, 0, 1)
    old = entry.read(names(0, 1))
    Store(folder, BIG).clear()
    assert entry.read(names(0, 1)).missing == [0, 1]
    fill(Store(folder, BIG).entry(KEY), 1, 0)
    assert torch.equal(entry.read(names(0, 1)).gather([0, 1]), rows(0, 1))
    assert torch.equal(old.gather([0, 1]), rows(0, 1))


WIDE = 4096


def _append_until_killed(folder: Path, first: int, ready: Connection) -> None:
    with Store(folder, BIG).entry(KEY).filling() as filling:
        filling.reserve(50, (WIDE,), torch.float32)
        for start in range(first, first + 3000, 3):
            batch = range(start, start + 3)
            filling.append(names(*batch), rows(*batch, width=WIDE))
            if start == first:
                ready.send(None)
        time.sleep(60)


@forks
def test_a_killed_writer_leaves_whole_rows(folder: Path) -> None:
    chance = random.Random(0)
    context = multiprocessing.get_context("fork")
    count = 0
    for _ in range(5):
        here, there = context.Pipe()
        writer = context.Process(target=_append_until_killed, args=(folder, count, there))
        writer.start()
        here.recv()
        time.sleep(chance.uniform(0, 0.03))
        writer.kill()
        writer.join()
        entry = Store(folder, BIG).entry(KEY)
        done = Store(folder, BIG).entries()[0].rows
        assert done >= count + 3
        found = entry.read(names(*range(done + 2)))
        assert found.missing == [done, done + 1]
        for start in range(0, done, 100):
            part = range(start, min(start + 100, done))
            assert torch.equal(found.gather(part), rows(*part, width=WIDE))
        with entry.filling(waiting=lambda: pytest.fail("the lock outlived its holder")) as filling:
            filling.append(names(done, done + 1), rows(done, done + 1, width=WIDE))
        count = done + 2
        found = Store(folder, BIG).entry(KEY).read(names(*range(count)))
        assert torch.equal(found.gather([done, done + 1]), rows(done, done + 1, width=WIDE))
        assert (entry.path / "rows.bin").stat().st_size == count * WIDE * 4


def _fill_missing(folder: Path, tell: Connection) -> None:
    entry = Store(folder, BIG).entry(KEY)
    with entry.filling(waiting=lambda: tell.send("waiting")) as filling:
        missing = entry.read(names(*range(20))).missing
        for index in missing:
            filling.append(names(index), rows(index))
    found = entry.read(names(*range(20)))
    tell.send((len(missing), torch.equal(found.gather(range(20)), rows(*range(20)))))


@forks
def test_two_processes_that_fill_at_once_store_each_row_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(2)]
    go = context.Event()

    def work(tell: Connection) -> None:
        go.wait()  # until this process holds the lock, which a fork must not inherit
        _fill_missing(folder, tell)

    workers = [context.Process(target=work, args=(there,)) for _, there in pipes]
    for worker in workers:
        worker.start()
    with Store(folder, BIG).entry(KEY).filling():
        go.set()
        assert [here.recv() for here, _ in pipes] == ["waiting", "waiting"]
    results = [here.recv() for here, _ in pipes]
    for worker in workers:
        worker.join()
    assert sorted(results) == [(0, True), (20, True)]
    assert (Store(folder, BIG).entries()[0].rows, stored(folder, 20)[0]) == (20, [])


def _three(folder: Path) -> int:
    """Entries of views 1, 2 and 3, the first used longest ago; returns the bytes of one."""
    for view in (1, 2, 3):
        entry = Store(folder, BIG).entry({**KEY, "view": view})
        fill(entry, *range(50))
        os.utime(entry.path / "rows.log", (view, view))
    (size,) = {info.size for info in Store(folder, BIG).entries()}
    assert size > 50 * (256 + RECORD)
    return size


def views(store: Store) -> list[int]:
    return [info.key["view"] for info in store.entries() if info.key is not None]


def test_the_entry_used_longest_ago_makes_room(folder: Path) -> None:
    size = _three(folder)
    Store(folder, BIG).entry({**KEY, "view": 1}).read(names(0))
    store = Store(folder, 3 * size)
    with store.entry({**KEY, "view": 4}).filling() as filling:
        assert filling.reserve(10, (64,), torch.float32) == 10
        filling.append(names(0), rows(0))
    assert views(store) == [4, 1, 3]


def test_room_that_is_just_enough_costs_no_entry(folder: Path) -> None:
    _three(folder)
    fill(Store(folder, BIG).entry({**KEY, "view": 4}), 0)
    taken = sum(info.size for info in Store(folder, BIG).entries())
    store = Store(folder, taken + 10 * (256 + RECORD))
    with store.entry({**KEY, "view": 4}).filling() as filling:
        assert filling.reserve(10, (64,), torch.float32) == 10
    assert sorted(views(store)) == [1, 2, 3, 4]


def test_what_is_to_stay_free_is_free_though_entries_go_for_it(folder: Path) -> None:
    size = _three(folder)
    store = Store(folder, 3 * size)
    with store.entry({**KEY, "view": 4}).filling() as filling:
        assert filling.reserve(1, (64,), torch.float32, spare=size) == 1
        assert views(store) == [4, 3]
        fit = filling.reserve(1000, (64,), torch.float32, spare=2 * size)
        assert views(store) == [4]
        assert 40 < fit <= 50


def test_of_two_that_reserve_one_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, room, waited = Store(folder, BIG), Store.room, []

    def asked(self: Store, wanted: int) -> int:
        with pytest.raises(Timeout):
            store.lock("budget").acquire(blocking=False)
        waited.append(wanted)
        return room(self, wanted)

    monkeypatch.setattr(Store, "room", asked)
    with store.entry(KEY).filling() as filling:
        assert filling.reserve(10, (64,), torch.float32) == 10
    assert waited == [10 * (256 + RECORD)]


def test_a_store_over_its_budget_has_no_room_and_keeps_its_rows(folder: Path) -> None:
    fill(Store(folder, BIG).entry(KEY), *range(50))
    with Store(folder, 10 * (256 + RECORD)).entry(KEY).filling() as filling:  # lowered since
        assert filling.reserve(10, (64,), torch.float32) == 0
    assert stored(folder, 51) == ([50], [*range(50)])


def test_a_budget_for_no_row_makes_no_room(folder: Path) -> None:
    _three(folder)
    with Store(folder, 0).entry({**KEY, "view": 4}).filling() as filling:
        assert filling.reserve(10, (64,), torch.float32) == 0
    assert sorted(views(Store(folder, BIG))) == [1, 2, 3]


def test_a_file_that_is_cut_off_while_it_is_read_is_a_miss(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, mapped = Store(folder, BIG).entry(KEY), store_module._mapped
    fill(entry, 0, 1)

    def late(*given: Any) -> Rows:
        cut(entry.path / "rows.bin", 300)
        return mapped(*given)

    monkeypatch.setattr(store_module, "_mapped", late)
    assert entry.read(names(0, 1)).missing == [0, 1]


@pytest.mark.parametrize("fault", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_are_told_and_are_no_miss(
    fault: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Store(folder, BIG).entry(KEY)
    fill(entry, 0, 1)

    def refuse(*_: object) -> None:
        raise OSError(fault, "Too many open files")

    monkeypatch.setattr("tlkit.features.store._mapped", refuse)
    with pytest.raises(UserError, match="ulimit"):
        entry.read(names(0))


def test_entries_in_use_are_kept_and_what_fits_is_told(folder: Path) -> None:
    size = _three(folder)
    store = Store(folder, 3 * size)
    store.entry({**KEY, "view": 1})
    with Store(folder, BIG).entry({**KEY, "view": 2}).filling() as other:
        other.append(names(50), rows(50))
        with store.entry({**KEY, "view": 4}).filling() as filling:
            fit = filling.reserve(1000, (64,), torch.float32)
            assert 40 < fit < 50
            filling.append(names(*range(fit)), rows(*range(fit)))
            assert sum(info.size for info in store.entries()) <= 3 * size
            assert filling.reserve(1000, (64,), torch.float32) == 0
    assert sorted(views(store)) == [1, 2, 4]


def test_what_was_in_use_before_a_release_makes_room_too(folder: Path) -> None:
    size = _three(folder)
    store = Store(folder, 3 * size)
    entries = [store.entry({**KEY, "view": view}) for view in (1, 2, 3)]
    mapped = entries[0].read(names(0))
    store.release()
    entries[1].read(names(0))
    with store.entry({**KEY, "view": 4}).filling() as filling:
        assert filling.reserve(80, (64,), torch.float32) == 80
    assert 1 not in views(store)
    assert torch.equal(mapped.gather([0]), rows(0))  # is still there for whoever mapped it


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE])
def test_a_journal_that_the_disk_does_not_give_back_is_a_miss(
    fault: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Store(folder, BIG).entry(KEY)
    fill(entry, 0, 1)
    read = Path.read_bytes

    def failing(self: Path) -> bytes:
        if self.name == "rows.log":
            raise OSError(fault, os.strerror(fault))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", failing)
    assert entry.read(names(0, 1)).missing == [0, 1]


def test_a_row_that_the_disk_does_not_give_back_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(Store(folder, BIG).entry(KEY), 0, 1)

    class BadSector(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    crc = store_module._crc
    monkeypatch.setattr(
        store_module,
        "_crc",
        lambda file, offset, size: crc(file if offset else BadSector(), offset, size),
    )
    assert Store(folder, BIG).entry(KEY).read(names(0, 1)).missing == [0]


@pytest.mark.parametrize(
    "fault", [errno.EOPNOTSUPP, errno.ENOLCK, errno.EACCES, errno.EPERM], ids=os.strerror
)
def test_a_disk_without_locks_or_rights_is_not_written(
    fault: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FileLock, *arguments: object, **options: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(Unwritable), Store(folder, BIG).entry(KEY).filling():
        pass


def test_a_nearly_full_disk_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    store = Store(folder, BIG)
    for total, kept in ((2**40, 2**30), (2000, 100)):
        disk = usage(total, 0, kept + 3 * (256 + RECORD) + 100)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, disk=disk: disk)
        with store.entry(KEY).filling() as filling:
            assert filling.reserve(10, (64,), torch.float32) == 3


@claims
def test_claimed_space_is_counted_and_given_back(folder: Path) -> None:
    store = Store(folder, BIG)
    with store.entry(KEY).filling() as filling:
        assert filling.reserve(1000, (64,), torch.float32) == 1000
        assert store.entries()[0].size > 1000 * 256
        assert (store.entry(KEY).path / "rows.bin").stat().st_blocks * 512 >= 1000 * 256
        filling.append(names(0, 1), rows(0, 1))
        assert stored(folder, 3) == ([2], [0, 1])
    assert (store.entry(KEY).path / "rows.bin").stat().st_size == 2 * 256
    assert stored(folder, 3) == ([2], [0, 1])


def test_what_is_reserved_comes_on_top_of_what_is_stored(folder: Path) -> None:
    store = Store(folder, BIG)
    fill(store.entry(KEY), *range(100))
    with store.entry(KEY).filling() as filling:
        assert filling.reserve(100, (64,), torch.float32) == 100
        assert store.entries()[0].size >= 200 * 256


@claims
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_what_is_stored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    entry = Store(folder, BIG).entry(KEY)
    fill(entry, 0, 1)

    def full(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with entry.filling() as filling, pytest.raises(Unwritable, match="TLKIT_CACHE") as told:
        filling.reserve(9, (64,), torch.float32)
    assert "\n" not in str(told.value)
    assert stored(folder, 3) == ([2], [0, 1])


@claims
def test_a_reservation_takes_the_place_of_the_one_before(folder: Path) -> None:
    with Store(folder, 1500 * (256 + RECORD)).entry(KEY).filling() as filling:
        assert filling.reserve(1000, (64,), torch.float32) == 1000
        assert filling.reserve(1000, (64,), torch.float32) == 1000


@claims
def test_a_broken_disk_is_not_taken_for_a_full_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with Store(folder, BIG).entry(KEY).filling() as filling, pytest.raises(OSError, match="Input"):
        filling.reserve(9, (64,), torch.float32)


@pytest.fixture(params=["the system", errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def no_claims(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot keep room: macOS and Windows have no call for it, some disks refuse."""

    def unsupported(*_: object) -> None:
        raise OSError(request.param, "not supported")

    if request.param != "the system":
        monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)


@pytest.mark.usefixtures("no_claims")
def test_a_disk_that_cannot_claim_is_written_all_the_same(folder: Path) -> None:
    with Store(folder, BIG).entry(KEY).filling() as filling:
        assert filling.reserve(1, (64,), torch.float32) == 1
        filling.append(names(0), rows(0))
    assert stored(folder, 1) == ([], [0])


@pytest.mark.usefixtures("no_claims")
def test_what_is_reserved_counts_where_no_room_can_be_kept(folder: Path) -> None:
    store = Store(folder, 1500 * (256 + RECORD))
    with store.entry(KEY).filling() as one, store.entry({**KEY, "view": 1}).filling() as other:
        assert one.reserve(1000, (64,), torch.float32) == 1000
        assert other.reserve(1000, (64,), torch.float32) < 640
        one.append(names(0), rows(0))
    assert stored(folder, 3) == ([1, 2], [0])


def _append_beyond_a_limit(folder: Path, tell: Connection) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * 256 + 100, 5 * 256 + 100))
    try:
        fill(Store(folder, BIG).entry(KEY), *range(2, 9))
    except Unwritable as refused:
        tell.send(str(refused))


@forks
def test_a_write_that_fails_midway_leaves_what_is_stored(folder: Path) -> None:
    fill(Store(folder, BIG).entry(KEY), 0, 1)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    writer = context.Process(target=_append_beyond_a_limit, args=(folder, there))
    writer.start()
    writer.join()
    assert here.poll()
    assert "cannot be written" in here.recv()
    assert stored(folder, 3) == ([2], [0, 1])
    assert (Store(folder, BIG).entry(KEY).path / "rows.bin").stat().st_size == 2 * 256


def test_a_read_only_store_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(Store(folder, BIG).entry(KEY), 0, 1)
    real = os.open

    def refuse(path: str, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    def reading(path: str, flags: int, *args: int, **more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return real(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", reading)
    monkeypatch.setattr(os, "utime", refuse)
    assert stored(folder, 3) == ([2], [0, 1])
    entry = Store(folder, BIG).entry(KEY)
    with pytest.raises(Unwritable, match="Read-only"), entry.filling():
        pytest.fail("filled what is read-only")
    assert Store(folder, BIG).clear() == 0
    assert stored(folder, 2) == ([], [0, 1])


@pytest.mark.parametrize(("below", "said"), [("", "File exists"), ("below", "Not a directory")])
def test_a_file_in_the_place_of_the_store_is_told(below: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "features"
    file.touch()
    with pytest.raises(Unwritable, match=said), Store(file / below, BIG).entry(KEY).filling():
        pytest.fail("filled what is no folder")


def test_errors_of_the_caller_are_its_own(folder: Path) -> None:
    entry = Store(folder, BIG).entry(KEY)
    with pytest.raises(PermissionError), entry.filling():
        raise PermissionError(errno.EACCES, "a picture")
    fill(entry, 0)
    assert stored(folder, 1) == ([], [0])


def test_entries_are_listed_and_cleared(folder: Path) -> None:
    size = _three(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "other").mkdir()
    (folder / f"{'a' * 32}-saved").mkdir()
    (folder / ("a" * 32)).write_text("no folder")
    damaged = folder / ("b" * 32)
    damaged.mkdir()
    (damaged / "rows.bin").write_bytes(bytes(100))
    store = Store(folder, BIG)
    assert views(store) == [3, 2, 1]
    assert [info.last_used for info in store.entries()[1:]] == [3, 2, 1]
    assert [(info.key, info.size) for info in store.entries() if info.rows != 50] == [(None, 100)]
    with Store(folder, BIG).entry({**KEY, "view": 2}).filling():
        assert store.clear() == 2 * size + 100
        assert views(store) == [2]
    assert store.clear() == size
    assert store.entries() == []
    mine = {"notes.txt", "other", f"{'a' * 32}-saved"}
    assert mine <= {path.name for path in folder.iterdir()}


def test_the_list_tells_stored_pictures_from_what_is_damaged(folder: Path) -> None:
    fill(Store(folder, BIG).entry({"rendition": {"view": 3}}), 0, 1)
    (folder / ("b" * 32)).mkdir()
    shown = of_store(Store(folder, BIG))
    assert re.search(r"^\(pictures\) .* 2 +3 ", shown, re.MULTILINE)
    assert shown.count("damaged") == 1


def test_space_left_by_what_was_cleared_can_be_filled(folder: Path) -> None:
    store = Store(folder, 100 * (256 + RECORD))
    for view in range(3):
        entry = Store(folder, store.budget).entry({**KEY, "view": view})
        with entry.filling() as filling:
            fit = filling.reserve(100, (64,), torch.float32)
            assert 90 < fit < 100
            filling.append(names(*range(fit)), rows(*range(fit)))
        assert views(store) == [view]
