"""The log of a served model, in a database and as Parquet files."""

import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tlkit.serving import parquet_log
from tlkit.serving.log_entry import Entry
from tlkit.serving.request_log import LOG_FAULTS, RequestLog, log_of_environment, open_log

ADDRESSES = {"sqlite": "sqlite:///{}/requests.db", "parquet": "parquet:///{}/requests"}


def logged(number: int, **changed: object) -> Entry:
    usual = Entry(
        float(number), 0.25, number % 2, "ä", 0.75, [1.5, -2.0, float(number)], 0.5, 0.125
    )
    return replace(usual, **changed)  # type: ignore[arg-type]


@pytest.fixture(params=ADDRESSES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ADDRESSES[request.param].format(tmp_path)


def test_what_is_written_is_read_without_the_picture(address: str) -> None:
    entries = [
        logged(1, picture=b"\xff\xd8"),
        logged(2, served_by="champion", key="k", share=0.25, model="m"),
    ]
    open_log(address).write(entries)
    assert open_log(address).read() == [replace(entries[0], picture=None), entries[1]]


def test_a_server_that_starts_anew_adds_to_what_is_there(address: str) -> None:
    for number in range(3):
        open_log(address).write([logged(number)])
    assert open_log(address).read() == [logged(number) for number in range(3)]


def test_entries_are_narrowed_by_time_model_and_number(address: str) -> None:
    log = open_log(address)
    for number in range(20):
        log.write([logged(number, served_by="challenger" if number % 4 else "champion")])
    log.write([logged(19, confidence=share / 10, served_by="champion") for share in range(5)])

    def times(**narrowed: object) -> list[float]:
        return [entry.time for entry in log.read(**narrowed)]  # type: ignore[arg-type]

    assert times() == [*range(20), *[19.0] * 5]
    assert times(since=17.5) == [18, 19, *[19.0] * 5]
    assert times(last=7) == [18, 19, *[19.0] * 5]
    assert times(served_by="champion", last=6) == [16, *[19.0] * 5]
    assert times(since=100) == times(since=100, last=3) == []
    assert [entry.confidence for entry in log.read(last=2)] == [0.3, 0.4]


def test_entries_of_other_models_are_counted_and_left_out(address: str) -> None:
    log = open_log(address)
    for number, model in enumerate(["a", "b", None, "b", "a"]):
        log.write([logged(number, model=model, served_by="champion")])
    assert [entry.time for entry in log.read(model="a")] == [0, 2, 4]
    assert [entry.time for entry in log.read(model="b", last=2)] == [2, 3]
    assert (log.others("a"), log.others("a", since=2), log.others("c")) == (2, 1, 4)
    assert log.others("a", served_by="challenger") == 0


def test_a_key_is_one_assignment(address: str) -> None:
    log = open_log(address)
    for number, key in enumerate(["b", "a", "b", None, "c"]):
        log.write([logged(number, key=key, served_by="champion", share=0.5)])
    assert log.assignments() == [(key, "champion", 0.5) for key in "bac"]
    assert log.assignments(since=2) == [(key, "champion", 0.5) for key in "bc"]


def test_a_log_that_is_not_there_is_a_fault_and_reading_makes_none(
    address: str, tmp_path: Path
) -> None:
    with pytest.raises(LOG_FAULTS):
        open_log(address).read()
    assert not (tmp_path / "requests").exists()


@pytest.mark.parametrize("address", ["mysql://me:secret@h/db", "duckdb:///x.db", "nonsense"])
def test_another_kind_of_log_is_refused_by_what_is_allowed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_REQUEST_LOG", address)
    with pytest.raises(ValueError, match="is no request log; sqlite:///FILE, post") as error:
        log_of_environment()
    assert "secret" not in str(error.value)


def test_a_database_that_is_moved_away_or_deleted_is_made_anew(tmp_path: Path) -> None:
    file, log = tmp_path / "requests.db", open_log(ADDRESSES["sqlite"].format(tmp_path))
    log.write([logged(0)])
    file.rename(tmp_path / "old.db")
    for number in (1, 2):
        log.write([logged(number)])
    assert [entry.time for entry in log.read()] == [1, 2]
    file.unlink()
    log.write([logged(3)])
    assert [entry.time for entry in log.read()] == [3]
    assert len(open_log(f"sqlite:///{tmp_path / 'old.db'}").read()) == 1


def test_servers_share_a_folder_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_log, "_ROWS", 10)
    address = ADDRESSES["parquet"].format(tmp_path)
    logs = [open_log(address) for _ in range(2)]
    logs[0].write([logged(0)])
    seen: list[int] = []

    def serve(log: RequestLog, first: int) -> None:
        for number in range(first, first + 40):
            log.write([logged(number)])

    threads = [
        threading.Thread(target=serve, args=(log, 1 + 40 * place))
        for place, log in enumerate([*logs, *logs])
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(len(open_log(address).read()))
    numbers = [entry.time for entry in open_log(address).read()]
    assert numbers == list(range(161))
    assert seen == sorted(seen)
    files = list((tmp_path / "requests").iterdir())
    assert 17 <= len(files) <= 18
    table = pd.read_parquet(tmp_path / "requests")
    assert sorted(table["time"]) == numbers
    assert list(table) == [name for name in Entry.__dataclass_fields__]


def test_the_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    log = open_log(f"parquet:///{tmp_path / 'logs' / 'of-pets'}")
    log.write([logged(0)])
    assert log.read() == [logged(0)]


def test_a_file_ends_where_its_pictures_take_much_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_log, "_BYTES", 3000)
    log = open_log(ADDRESSES["parquet"].format(tmp_path))
    for number in range(6):
        log.write([logged(number, picture=bytes(2000))])
    assert len(list((tmp_path / "requests").iterdir())) == 3
