"""One or more classifiers as one: the mean of their probabilities."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tlkit.data.images import UnreadablePicture, read_picture
from tlkit.files import write_json
from tlkit.serving.classifier import BATCH, Classifier

ENSEMBLE_FILE = "ensemble.json"

NO_VIEWS = (
    "the model was trained with augment=none, so another view of a picture may be of another "
    "class; leave tta out"
)


def member_folders(folder: Path) -> list[Path]:
    """Where the classifiers lie that `Ensemble.save`, or `Classifier.save`, wrote into a folder."""
    if not (folder / ENSEMBLE_FILE).exists():
        return [folder]
    names = json.loads((folder / ENSEMBLE_FILE).read_text(encoding="utf-8"))["members"]
    return [folder / name for name in names]


def pictures_a_batch(views: int) -> int:
    """How many pictures are prepared at a time: their views are all in memory."""
    return max(1, BATCH // views)


def numbered(index: int, total: int) -> str:
    """What a message calls one of several pictures."""
    return f"picture {index + 1} of {total}"


@dataclass(frozen=True)
class Ensemble:
    """Classifiers of the same classes, each with its own preprocessing and temperature.

    What is served and predicted with is always one, be it of a single member.

    Raises ValueError for no members, or members whose classes differ.
    """

    members: tuple[Classifier, ...]

    def __post_init__(self) -> None:
        found = {member.classes for member in self.members}
        if len(found) != 1:
            raise ValueError(f"the members have {len(found)} lists of classes: needs one")

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the probabilities."""
        return self.members[0].classes

    @property
    def max_pixels(self) -> int:
        """A picture that decodes to more is refused."""
        return min(member.description.max_pixels for member in self.members)

    @property
    def has_views(self) -> bool:
        """Whether every member was trained on augmented views, so that they can be averaged."""
        return all(member.description.augment != "none" for member in self.members)

    def prepare(self, content: bytes, views: int = 1) -> tuple[Tensor, ...]:
        """A file's bytes as `Classifier.prepare` gives them, once for each kind of preprocessing
        and views among the members.

        Raises:
            UnreadablePicture: bytes that are no picture, or one over the pixel limit.
        """
        picture = read_picture(content, self.max_pixels)
        told = [member.description for member in self.members]
        kinds = [
            json.dumps([one.preprocessing, one.augment if views > 1 else ""], sort_keys=True)
            for one in told
        ]
        tensors: dict[str, Tensor] = {}
        for kind, member in zip(kinds, self.members, strict=True):
            if kind not in tensors:
                tensors[kind] = member.prepare(picture, views)
        return tuple(tensors[kind] for kind in kinds)

    def classify(self, prepared: Sequence[tuple[Tensor, ...]]) -> NDArray[np.float64]:
        """The mean of the members' probabilities: float64 (N, classes)."""
        rows = [
            member.classify([tensors[index] for tensors in prepared])
            for index, member in enumerate(self.members)
        ]
        mean: NDArray[np.float64] = np.mean(rows, axis=0)
        return mean

    def save(self, folder: Path) -> None:
        """Write each member into a folder of its own below an existing folder."""
        names = [f"member-{index}" for index in range(len(self.members))]
        for name, member in zip(names, self.members, strict=True):
            (folder / name).mkdir()
            member.save(folder / name)
        write_json(folder / ENSEMBLE_FILE, {"members": names})

    @classmethod
    def load(cls, folder: Path) -> "Ensemble":
        """What `save`, or `Classifier.save`, wrote, onto the CPU, in eval mode."""
        return cls(tuple(Classifier.load(member) for member in member_folders(folder)))

    def prepared(
        self, pictures: Sequence[bytes], views: int = 1, names: Sequence[str] = ()
    ) -> Iterator[list[tuple[Tensor, ...]]]:
        """The pictures as `classify` takes them, a batch at a time.

        Args:
            names: what an error calls each; by default its number of how many, from 1.

        Raises:
            UnreadablePicture: as `prepare`, and says which picture.
        """
        step = pictures_a_batch(views)
        for start in range(0, len(pictures), step):
            batch = []
            for index, picture in enumerate(pictures[start : start + step], start):
                try:
                    batch.append(self.prepare(picture, views))
                except UnreadablePicture as error:
                    name = names[index] if names else numbered(index, len(pictures))
                    raise UnreadablePicture(f"{name}: {error}") from error
            yield batch

    def probabilities(
        self, pictures: Sequence[bytes], views: int = 1, names: Sequence[str] = ()
    ) -> NDArray[np.float64]:
        """A row a picture, float64 (N, classes). Arguments and errors as of `prepared`."""
        rows = [self.classify(batch) for batch in self.prepared(pictures, views, names)]
        return np.concatenate([np.empty((0, len(self.classes))), *rows])
