"""From a served request to its answer, and to the log where one is set."""

import base64
import binascii
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from tlkit.data.images import UnreadablePicture, pixels_to_decode
from tlkit.errors import UserError
from tlkit.models.features import last_features, stacked
from tlkit.serving.classifier import probability_columns
from tlkit.serving.ensemble import NO_VIEWS, Ensemble, numbered
from tlkit.serving.light import light_seen
from tlkit.serving.log_entry import Entry
from tlkit.serving.reference import REFERENCE_FILE, Reference, identity
from tlkit.serving.request_log import (
    LOG_FAULTS,
    PICTURES_VARIABLE,
    RequestLog,
    log_of_environment,
)

INPUT_COLUMN = "image"
ABSTAINED = ""

# What a request to a server may hold, decoded. A table in Python or Spark may hold more.
MAX_REQUEST_BYTES = 32 * 2**20
MAX_VIEWS = 64
# Of all pictures together: about as many as two cores answer with EfficientNet-Lite0 in the 60 s
# after which MLflow's server gives up waiting for a model.
MAX_REQUEST_VIEWS = 1024
# Of several pictures together: a file of 12 KB may decode to 100 million in a second. One picture
# alone may have as many as the model takes.
MAX_REQUEST_PIXELS = 200_000_000

# Bytes that are text, unlike those of a picture; only the plain kinds of PPM look like it.
_TEXT = re.compile(rb"(?!P[1-6]\s)[\s!-~]++")
_DATA_URL = re.compile(rb"data:[^,]*;base64,")
_LETTERS_OF_ADDRESSES = bytes.maketrans(b"-_", b"+/")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """Pictures, and how they are to be classified.

    Attributes:
        pictures: the bytes of files.
        views: how many are averaged.
        abstain: confidence below which no class is named.
        names: what a message calls each of them; empty: its number.
    """

    pictures: Sequence[bytes]
    views: int
    abstain: float
    names: Sequence[str] = ()

    def part(self, rows: Sequence[int]) -> "Question":
        """Some of the pictures alone, still called by their number among all."""
        names = [numbered(row, len(self.pictures)) for row in rows]
        return replace(self, pictures=[self.pictures[row] for row in rows], names=names)


def question(table: pd.DataFrame, params: Mapping[str, Any] | None) -> Question:
    """What is asked.

    Raises:
        MlflowException: which a server answers with status 400: no pictures, something else, or
            too many of them; the message says which.
    """
    # MLflow checks their types, but lets null through.
    wanted = {name: value for name, value in (params or {}).items() if value is not None}
    views, abstain = int(wanted.get("tta", 1)), float(wanted.get("abstain", 0.0))
    if not 1 <= views <= MAX_VIEWS:
        raise refused(f"tta={views}; from 1 to {MAX_VIEWS} views are allowed")
    if not 0 <= abstain < 1:
        raise refused(f"abstain={abstain:g}; from 0 up to, not including, 1 is allowed")
    pictures = [_bytes(cell, number) for number, cell in enumerate(table[INPUT_COLUMN], start=1)]
    if not pictures:
        raise refused("no pictures; give at least one")
    if is_served():
        _check_amount(pictures, views)
    return Question(pictures, views, abstain)


def _check_amount(pictures: Sequence[bytes], views: int) -> None:
    """Refuse a request that would keep a server busy for too long, before anything is decoded."""
    size = sum(len(picture) for picture in pictures)
    if size > MAX_REQUEST_BYTES:
        raise refused(
            f"{-(-10 * size // 2**20) / 10:g} MiB of pictures; at most "
            f"{MAX_REQUEST_BYTES // 2**20} MiB go into a request: send fewer at a time"
        )
    if len(pictures) * views > MAX_REQUEST_VIEWS:
        raise refused(
            f"{len(pictures)} pictures with {views} views each; at most {MAX_REQUEST_VIEWS} views "
            "go into a request: send fewer pictures at a time, or lower tta"
        )
    if len(pictures) > 1 and (pixels := sum(map(_pixels, pictures))) > MAX_REQUEST_PIXELS:
        raise refused(
            f"{len(pictures)} pictures of {pixels / 1e6:,.0f} million pixels together; at most "
            f"{MAX_REQUEST_PIXELS // 10**6} million go into a request of several: send fewer at a "
            "time, or smaller ones"
        )


def _pixels(picture: bytes) -> int:
    try:
        return pixels_to_decode(picture)
    except UnreadablePicture:  # which is told when it is its turn
        return 0


def is_served() -> bool:
    """Whether a scoring server asks, and not Python or Spark."""
    return bool(_MLFLOW_IS_IN_SERVING_ENVIRONMENT.get())  # type: ignore[no-untyped-call]


def refused(message: str) -> MlflowException:
    """What a server answers with status 400."""
    return MlflowException.invalid_parameter_value(message)  # type: ignore[no-any-return]


def _bytes(cell: Any, number: int) -> bytes:
    """A file's bytes. MLflow decodes base64 in records; in `inputs` and in CSV it leaves it.

    There it may have line breaks, the letters for addresses, no padding, or be a data URL.
    """
    if isinstance(cell, str):
        cell = cell.encode()
    if not isinstance(cell, bytes | bytearray):
        raise refused(
            f"picture {number} is {type(cell).__name__}; the bytes of a picture file wanted, "
            "in base64 where they travel as text"
        )
    if not _TEXT.fullmatch(cell):
        return bytes(cell)
    letters = b"".join(cell.split())
    if url := _DATA_URL.match(letters):
        letters = letters[url.end() :]
    letters = letters.translate(_LETTERS_OF_ADDRESSES).rstrip(b"=")
    letters += b"=" * (-len(letters) % 4)
    try:
        return base64.b64decode(letters, validate=True)
    except binascii.Error:
        raise refused(
            f"picture {number} is a text that is no base64; the bytes of a picture file wanted, in "
            "base64 where they travel as text"
        ) from None


@dataclass(frozen=True)
class Route:
    """Which of a router's models a picture went to, and why.

    Attributes:
        served_by: "champion" or "challenger".
        key: what was hashed.
        share: of the requests that the challenger is to get.
    """

    served_by: str
    key: str
    share: float


@dataclass(frozen=True)
class Answer:
    """What a model said, a row a picture.

    Attributes:
        probabilities: float64 (N, classes).
        seen: what it saw, for the log: features summed up, float64 (N, k), and brightness and
            contrast, float64 (N, 2); None where nothing is logged.
    """

    probabilities: NDArray[np.float64]
    seen: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None


@dataclass(frozen=True)
class Served:
    """A model that answers, and logs what it said where TLKIT_REQUEST_LOG is set.

    Attributes:
        reference: how features are summed up; None logs no embedding.
        model: what the log calls it, as `identity` does; None without a reference.
    """

    ensemble: Ensemble
    reference: Reference | None
    model: str | None
    log: RequestLog | None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, folder: Path, log: RequestLog | None = None) -> "Served":
        """What `Ensemble.save` wrote, with the reference beside it where there is one.

        Args:
            log: by default that of the environment.
        """
        known = (folder / REFERENCE_FILE).exists()
        return cls(
            Ensemble.load(folder),
            Reference.load(folder) if known else None,
            identity(folder) if known else None,
            log or log_of_environment(),
        )

    def answer(self, asked: Question) -> pd.DataFrame:
        """`compute` and `write` it, as `table`. Raises as `compute`."""
        came = time.time()
        found = self.compute(asked)
        self.write(came, asked, found)
        return self.table(asked, found)

    def compute(self, asked: Question) -> Answer:
        """The answer, of which nothing is logged yet.

        Raises:
            MlflowException: as `question`, for a picture that is none, or for views of a model that
                knows none.
        """
        if asked.views > 1 and not self.ensemble.has_views:
            raise refused(f"tta={asked.views}; {NO_VIEWS}")
        try:
            if self.log is not None and is_served():
                return self._watched(asked)
            rows = self.ensemble.probabilities(asked.pictures, asked.views, asked.names)
            return Answer(rows)
        except UnreadablePicture as error:
            raise refused(str(error)) from None

    def table(self, asked: Question, found: Answer) -> pd.DataFrame:
        """A row a picture: `predicted`, and `probability_<class>` for each class, in 0..1."""
        classes = self.ensemble.classes
        table = pd.DataFrame(found.probabilities, columns=probability_columns(classes))
        predicted = [
            classes[row.argmax()] if row.max() >= asked.abstain else ABSTAINED
            for row in found.probabilities
        ]
        table.insert(0, "predicted", predicted)
        return table

    def _watched(self, asked: Question) -> Answer:
        """The answer with what the first member saw: of the light that of the plain views."""
        first = self.ensemble.members[0]
        answers, features, lights = [], [], []
        for batch in self.ensemble.prepared(asked.pictures, asked.views, asked.names):
            # Held for a batch: other requests decode meanwhile, and wait for no long one to end.
            with self._lock, last_features(first.model) as found, light_seen(first) as lit:
                answers.append(self.ensemble.classify(batch))
            features += found
            lights += lit
        rows = np.concatenate(answers)
        light = np.concatenate(lights).reshape(len(rows), asked.views, 2)[:, 0]
        if self.reference is None:
            return Answer(rows, (np.empty((len(rows), 0)), light))
        seen = stacked(features).numpy().reshape(len(rows), asked.views, -1).mean(axis=1)
        return Answer(rows, (self.reference.project(seen), light))

    def write(
        self,
        came: float,
        asked: Question,
        found: Answer,
        routes: Sequence[Route] | None = None,
    ) -> None:
        """Log an answer, where that is asked for.

        Args:
            came: when the request did, in seconds since 1970.
            routes: of a router, one for each picture.
        """
        if self.log is None or found.seen is None:
            return
        embedding, light = found.seen
        seconds, with_pictures = time.time() - came, os.environ.get(PICTURES_VARIABLE) == "1"
        entries = []
        for index, row in enumerate(found.probabilities):
            best = int(row.argmax())
            entries.append(
                Entry(
                    came,
                    seconds,
                    best,
                    self.ensemble.classes[best],
                    float(row[best]),
                    [float(value) for value in embedding[index]],
                    float(light[index, 0]),
                    float(light[index, 1]),
                    **(vars(routes[index]) if routes else {}),
                    picture=asked.pictures[index] if with_pictures else None,
                    model=self.model,
                )
            )
        try:
            self.log.write(entries)
        except (*LOG_FAULTS, UserError) as error:  # whoever asked gets the answer all the same
            # The database's own words, without the query and its values, keys of users among them.
            _logger.warning(
                "the request log cannot be written: %s", getattr(error, "orig", None) or error
            )
