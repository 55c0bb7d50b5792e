"""Archives unpack whole or not at all, and nothing leaves the folder meant for them."""

import errno
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tlkit.data import archives
from tlkit.data.archives import extract, is_archive
from tlkit.errors import UserError

FILES = {"a/one.txt": b"one", "a/b/two.txt": b"two" * 1000, "three": b""}


def make_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: Mapping[str, bytes], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_of(path: Path, info: tarfile.TarInfo) -> Path:
    # By hand: from Python 3.13 on `addfile` refuses a header whose content is not given.
    path.write_bytes(info.tobuf() + bytes(2 * tarfile.BLOCKSIZE))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_refused(archive: Path, cache: Path, reason: str, max_bytes: int = 2**30) -> None:
    """One line, and nothing left behind, neither in the cache nor beside it."""
    before = contents(cache.parent)
    with pytest.raises(UserError, match=reason) as error:
        extract(archive, cache, max_bytes=max_bytes)
    assert "\n" not in str(error.value)
    assert archive.name in str(error.value)
    assert contents(cache.parent) == before
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_extracts_every_kind(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"pictures{suffix}"
    if suffix == ".zip":
        make_zip(archive, FILES)
    else:
        make_tar(archive, {f"./{name}": data for name, data in FILES.items()}, f"w:{suffix[5:]}")
    assert is_archive(archive)
    target = extract(archive, tmp_path / "cache")
    assert contents(target) == FILES
    assert target.parent == tmp_path / "cache"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_the_same_content_is_reused_and_other_content_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "x.zip", FILES)
    first = extract(archive, tmp_path / "cache")
    (first / "mark").write_text("still here")
    with monkeypatch.context() as patch:
        patch.delattr(archives, "_unpack")
        assert extract(archive, tmp_path / "cache") == first
    assert (first / "mark").exists()
    make_zip(archive, {"a/one.txt": b"changed"})
    second = extract(archive, tmp_path / "cache")
    assert second != first
    assert contents(second) == {"a/one.txt": b"changed"}


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/abs.txt", "..\\out.txt", "C:\\out.txt", "C:out.txt"]
)
def test_path_that_leaves_is_refused(tmp_path: Path, name: str) -> None:
    files = {"fine.txt": b"fine", name: b"out"}
    cache = tmp_path / "deep" / "cache"
    cache.mkdir(parents=True)
    assert_refused(make_zip(tmp_path / "bad.zip", files), cache, "lies outside")
    assert_refused(make_tar(tmp_path / "bad.tar", files, "w"), cache, "lies outside")
    assert not list(tmp_path.rglob("out.txt"))


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    linked = tmp_path / "link.zip"
    with zipfile.ZipFile(linked, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert_refused(linked, tmp_path / "cache", "link or a device")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info_tar = tarfile.TarInfo("odd")
        info_tar.type = kind
        info_tar.linkname = "/etc/passwd"
        assert_refused(tar_of(tmp_path / "odd.tar", info_tar), tmp_path / "cache", "link or a dev")


def test_declared_size_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = make_zip(tmp_path / "big.zip", {"x": b"\0" * 5000})
    assert_refused(big, tmp_path / "cache", "unpacks to", max_bytes=4999)
    contents(extract(big, tmp_path / "other", max_bytes=5000))
    empty = make_tar(tmp_path / "empty.tar", {f"{i}": b"" for i in range(10)}, "w")
    assert_refused(empty, tmp_path / "cache", "unpacks to", max_bytes=5000)  # headers count
    sparse = tarfile.TarInfo("sparse")
    sparse.size = 2**41  # a header alone, which claims 2 TB
    assert_refused(tar_of(tmp_path / "huge.tar", sparse), tmp_path / "cache", r"unpacks|damaged")
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**20)
    bomb = make_zip(tmp_path / "bomb.zip", {f"{i}": b"\0" * 2**20 for i in range(3)})
    assert_refused(bomb, tmp_path / "cache", "100 times its size")


def test_archives_inside_share_the_room_of_the_outer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**20)
    bomb = make_zip(tmp_path / "train.zip", {"x": b"\0" * 2**19}).read_bytes()
    outer = make_zip(tmp_path / "all.zip", {f"{i}/train.zip": bomb for i in range(5)})
    with pytest.raises(UserError, match="times its size"):
        extract(outer, tmp_path / "cache", nested=lambda stem: stem == "train")
    assert not list((tmp_path / "cache").iterdir())


def test_a_tar_bomb_is_not_decompressed(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.size = 2**36
    bomb = tmp_path / "bomb.tar.gz"
    # Of the bytes that it claims it has none, which would be told if they were looked for.
    bomb.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)))
    assert_refused(bomb, tmp_path / "cache", "100 times its size", max_bytes=2**40)


def test_real_size_beyond_the_declared_is_refused(tmp_path: Path) -> None:
    honest = make_zip(tmp_path / "liar.zip", {"x": b"\0" * 100_000})
    data = honest.read_bytes()
    size = (100_000).to_bytes(4, "little")
    assert data.count(size) == 2  # local header and central directory
    honest.write_bytes(data.replace(size, (10).to_bytes(4, "little")))
    assert_refused(honest, tmp_path / "cache", "is damaged")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    noise = os.urandom(5000)
    text = noise.hex().encode()  # which is packed in fewer bytes, unlike noise
    for archive in (
        make_zip(tmp_path / "checksum.zip", {"x": noise}),
        make_zip(tmp_path / "stream.zip", {"x": text}),
        make_tar(tmp_path / "stream.tar.xz", {"x": text}, "w:xz"),
    ):
        data = bytearray(archive.read_bytes())
        for place in range(2000, 2040):
            data[place] ^= 0xFF
        archive.write_bytes(data)
        assert_refused(archive, tmp_path / "cache", "is damaged")
    named = make_zip(tmp_path / "name.zip", {"éé": b""})
    newer = make_zip(tmp_path / "version.zip", {"x": b""})
    named.write_bytes(named.read_bytes().replace("éé".encode(), b"\xff\xfe\xff\xfe"))
    newer.write_bytes(
        newer.read_bytes().replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\xff")
    )
    deep = make_zip(tmp_path / "deep.zip", {"a/" * 1500 + "x": b""})
    long = make_zip(tmp_path / "long.zip", {"a" * 300: b""})
    other = make_zip(tmp_path / "method.zip", {"x": b""})  # packed in a way that Python has not
    other.write_bytes(other.read_bytes().replace(b"\x08\0", b"\x63\0"))
    for archive, reason in (
        (named, "is damaged"),
        (newer, "is damaged"),
        (deep, "is damaged|too long a name"),
        (long, "too long a name for this disk"),
        (other, "'x' cannot be unpacked: .*compression"),
    ):
        assert_refused(archive, tmp_path / "cache", reason)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("cut.zip", ""),
        ("cut.tar", "w"),
        ("cut.tgz", "w:gz"),
        ("cut.TAR.BZ2", "w:bz2"),
        ("cut.txz", "w:xz"),
    ],
)
@pytest.mark.parametrize("length", [0, 1, 5, 12, 40, 100, 600, 40_000])
def test_an_archive_that_is_cut_off_anywhere_is_told(
    tmp_path: Path, name: str, mode: str, length: int
) -> None:
    path, files = tmp_path / name, {"x": os.urandom(50_000)}
    archive = make_tar(path, files, mode) if mode else make_zip(path, files)
    archive.write_bytes(archive.read_bytes()[:length])
    assert is_archive(archive)
    assert_refused(archive, tmp_path / "cache", r"is damaged \(.+\); download or pack it again")
    unnamed = archive.rename(tmp_path / "cut")
    if is_archive(unnamed):  # by its first bytes
        assert_refused(unnamed, tmp_path / "cache", "is damaged")


def test_folders_may_be_named_as_windows_does(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"a\\": b"", "a\\b\\": b"", "a\\b\\x": b"1"})
    assert contents(extract(archive, tmp_path / "cache")) == {"a/b/x": b"1"}


def test_encrypted_and_doubled_members_are_refused(tmp_path: Path) -> None:
    locked = make_zip(tmp_path / "locked.zip", {"x": b"secret"})
    data = bytearray(locked.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(data)
    assert_refused(locked, tmp_path / "cache", "is encrypted")
    twice = tmp_path / "twice.tar"
    make_tar(twice, {"x": b"1"}, "w")
    with tarfile.open(twice, "a") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    assert_refused(twice, tmp_path / "cache", "is there twice")
    for under in ("x/y", "x/y/z"):
        both = make_zip(tmp_path / "under.zip", {"x": b"1", under: b"2"})
        assert_refused(both, tmp_path / "cache", "is there twice")


def test_no_archive_at_all(tmp_path: Path) -> None:
    for content in (b"", b"text", b"Rar!\x1a\x07\x01\0"):
        path = tmp_path / "pictures.rar"
        path.write_bytes(content)
        assert not is_archive(path)
        assert_refused(path, tmp_path / "cache", "is no archive")


def test_too_little_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "x.zip", {"x": b"\0" * 5000})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4999))
    assert_refused(archive, tmp_path / "cache", "disk space left; free some")


def test_disk_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "x.zip", FILES)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="no disk space left while writing"):
        extract(archive, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "x.zip", FILES)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("inner", "becomes"),
    [
        ("train/cat.0.jpg", "train/cat.0.jpg"),
        ("cat.0.jpg", "train/cat.0.jpg"),
        ("cat/0.jpg", "train/cat/0.jpg"),
    ],
)
def test_chosen_archives_inside_are_unpacked(tmp_path: Path, inner: str, becomes: str) -> None:
    nested = make_zip(tmp_path / "train.zip", {inner: b"meow"}).read_bytes()
    outer = make_zip(tmp_path / "all.zip", {"train.zip": nested, "test1.zip": nested, "x": b""})
    target = extract(outer, tmp_path / "cache", nested=lambda stem: stem == "train")
    assert contents(target) == {becomes: b"meow", "test1.zip": nested, "x": b""}
    both = make_zip(tmp_path / "both.zip", {"a/train.zip": nested, "a/train/1.jpg": b""})
    with pytest.raises(UserError, match="'train' lies beside the archive as well"):
        extract(both, tmp_path / "cache", nested=lambda stem: stem == "train")


def test_bad_archive_inside_a_good_one(tmp_path: Path) -> None:
    bad = make_zip(tmp_path / "train.zip", {"../../../out.txt": b"out"}).read_bytes()
    outer = make_zip(tmp_path / "all.zip", {"train.zip": bad})
    with pytest.raises(UserError, match="lies outside"):
        extract(outer, tmp_path / "cache", nested=lambda stem: stem == "train")
    assert not list((tmp_path / "cache").iterdir())
    assert not list(tmp_path.rglob("out.txt"))
