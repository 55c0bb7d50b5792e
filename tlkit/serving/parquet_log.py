"""The request log as a folder of Parquet files: one table for pandas, DuckDB and Spark."""

import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import dataset, parquet
from pyarrow.compute import Expression

from tlkit.files import atomic_file
from tlkit.serving.log_entry import Entry

_PREFIX = "tlkit-requests-"
_SCHEMA = pa.schema(
    {
        "time": pa.float64(),
        "seconds": pa.float64(),
        "predicted": pa.int32(),
        "class_name": pa.string(),
        "confidence": pa.float64(),
        "embedding": pa.list_(pa.float64()),
        "brightness": pa.float64(),
        "contrast": pa.float64(),
        "served_by": pa.string(),
        "key": pa.string(),
        "share": pa.float64(),
        "picture": pa.binary(),
        "model": pa.string(),
    }
)
# A file ends at so many entries or bytes, whichever comes first.
_ROWS, _BYTES = 1000, 2**24


class ParquetLog:
    """Files of at most 1,000 entries in a folder, which is made with the first entry.

    A Parquet file cannot be added to. So each server keeps the entries of its newest file in
    memory and replaces the file, whole, with each request: what was answered is on disk at once,
    several servers share a folder, and who reads it never sees half a file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._begin_file()

    def _begin_file(self) -> None:
        # Names in the order of time, and no two servers with the same.
        self._file = self._folder / f"{_PREFIX}{time.time_ns()}-{uuid.uuid4().hex}.parquet"
        self._newest = _SCHEMA.empty_table()

    def write(self, entries: Sequence[Entry]) -> None:
        """Append, all or none. Raises OSError or UserError where the folder cannot be written."""
        added = pa.Table.from_pylist([vars(entry) for entry in entries], _SCHEMA)
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            newest = pa.concat_tables([self._newest, added]).combine_chunks()
            with atomic_file(self._file) as part:
                parquet.write_table(newest, part)
            self._newest = newest
            if newest.num_rows >= _ROWS or newest.nbytes >= _BYTES:
                self._begin_file()

    def read(
        self,
        *,
        since: float = 0.0,
        last: int | None = None,
        served_by: str | None = None,
        model: str | None = None,
    ) -> list[Entry]:
        """Entries from a time on, oldest first; of those the `last` ones, or all.

        Raises OSError or ArrowException where there is no such log.

        Args:
            served_by: only those that this model of a router answered.
            model: only those of this model, and those that do not say whose they are.
        """
        wanted = _wanted(since, served_by)
        if model is not None:
            wanted &= dataset.field("model").is_null() | (dataset.field("model") == model)
        if last is not None:
            times = np.sort(self._table(["time"], wanted)["time"].to_numpy())[-last:]
            if len(times):
                wanted &= dataset.field("time") >= times[0]
        columns = [name for name in _SCHEMA.names if name != "picture"]
        rows = self._table(columns, wanted).to_pylist()
        entries = [Entry(**row) for row in rows]
        return entries if last is None else entries[-last:]

    def others(self, model: str, *, since: float = 0.0, served_by: str | None = None) -> int:
        """How many entries from a time on say that another model answered. Raises as `read`."""
        wanted = _wanted(since, served_by) & (dataset.field("model") != model)
        return int(self._table(["time"], wanted).num_rows)

    def assignments(self, *, since: float = 0.0) -> list[tuple[str, str, float]]:
        """Key, model and share of a router's requests from a time on, oldest first, each once.

        Raises as `read`.
        """
        wanted = (dataset.field("time") >= since) & dataset.field("key").is_valid()
        rows = self._table(["key", "served_by", "share", "time"], wanted).to_pylist()
        return list(dict.fromkeys((row["key"], row["served_by"], row["share"]) for row in rows))

    def _table(self, columns: Sequence[str], wanted: Expression) -> pa.Table:
        """Columns of the entries wanted, in the order of time, and where that is equal as written.

        `columns` has to hold "time".
        """
        files = sorted(self._folder.glob(f"{_PREFIX}*.parquet"))
        if not files:
            raise FileNotFoundError(f"no {_PREFIX}*.parquet in {self._folder}")
        found = dataset.dataset(files, schema=_SCHEMA, format="parquet")
        return found.to_table(columns=list(columns), filter=wanted).sort_by("time")


def _wanted(since: float, served_by: str | None) -> Expression:
    """Entries from a time on, and of one of a router's models where that is named."""
    wanted = dataset.field("time") >= since
    return wanted if served_by is None else wanted & (dataset.field("served_by") == served_by)
