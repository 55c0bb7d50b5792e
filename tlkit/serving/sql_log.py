"""The request log in a database: SQLite or PostgreSQL."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import JSON

from tlkit.serving.log_entry import MAX_KEY, Entry

_requests = Table(
    "tlkit_requests",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("time", Float, nullable=False, index=True),
    Column("seconds", Float, nullable=False),
    Column("predicted", Integer, nullable=False),
    Column("class_name", String(255), nullable=False),
    Column("confidence", Float, nullable=False),
    Column("embedding", JSON, nullable=False),
    Column("served_by", String(255)),
    Column("key", String(MAX_KEY), index=True),
    Column("share", Float),
    Column("picture", LargeBinary),
    Column("brightness", Float, nullable=False),
    Column("contrast", Float, nullable=False),
    Column("model", String(255)),
)


class SqlLog:
    """The table `tlkit_requests` of a database; made with the first entry where it is absent."""

    def __init__(self, url: str) -> None:
        self._engine = sqlalchemy.create_engine(url, pool_pre_ping=True)
        self._made = False

    def write(self, entries: Sequence[Entry]) -> None:
        """Append, all or none. Raises SQLAlchemyError where the database cannot be written."""
        rows = [vars(entry) | {"embedding": list(entry.embedding)} for entry in entries]
        try:
            self._append(rows)
        except SQLAlchemyError:
            if not self._made:
                raise
            # The file was moved or the table dropped, maybe; connections of before hold on to it.
            self._engine.dispose()
            self._made = False
            self._append(rows)

    def _append(self, rows: Sequence[dict[str, Any]]) -> None:
        if not self._made:
            self._make()
        with self._engine.begin() as connection:
            connection.execute(_requests.insert(), rows)
        self._made = True

    def _make(self) -> None:
        """The table, if it is not there; by several servers at once, maybe."""
        with self._engine.begin() as connection:
            connection.execute(CreateTable(_requests, if_not_exists=True))
            for index in _requests.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))

    def read(
        self,
        *,
        since: float = 0.0,
        last: int | None = None,
        served_by: str | None = None,
        model: str | None = None,
    ) -> list[Entry]:
        """Entries from a time on, oldest first; of those the `last` ones, or all.

        Raises SQLAlchemyError where there is no such database or table.

        Args:
            served_by: only those that this model of a router answered.
            model: only those of this model, and those that do not say whose they are.
        """
        columns = [column for column in _requests.c if column.name not in ("id", "picture")]
        query = sqlalchemy.select(*columns).where(*_wanted(since, served_by))
        if model is not None:
            query = query.where(_requests.c.model.is_(None) | (_requests.c.model == model))
        query = query.order_by(_requests.c.id.desc()).limit(last)
        with self._engine.connect() as connection:
            rows = list(connection.execute(query).mappings())
        return [Entry(**row) for row in reversed(rows)]

    def others(self, model: str, *, since: float = 0.0, served_by: str | None = None) -> int:
        """How many entries from a time on say that another model answered. Raises as `read`."""
        wanted = (*_wanted(since, served_by), _requests.c.model != model)
        query = sqlalchemy.select(sqlalchemy.func.count(_requests.c.id)).where(*wanted)
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def assignments(self, *, since: float = 0.0) -> list[tuple[str, str, float]]:
        """Key, model and share of a router's requests from a time on, oldest first, each once.

        Raises as `read`.
        """
        columns = (_requests.c.key, _requests.c.served_by, _requests.c.share)
        query = (
            sqlalchemy.select(*columns)
            .where(_requests.c.time >= since, _requests.c.key.is_not(None))
            .group_by(*columns)
            .order_by(sqlalchemy.func.min(_requests.c.id))
        )
        with self._engine.connect() as connection:
            return [(key, served_by, share) for key, served_by, share in connection.execute(query)]


def _wanted(since: float, served_by: str | None) -> list[ColumnElement[bool]]:
    """Entries from a time on, and of one of a router's models where that is named."""
    wanted = [_requests.c.time >= since]
    return wanted if served_by is None else [*wanted, _requests.c.served_by == served_by]
