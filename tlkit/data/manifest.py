"""The list of pictures, labels, splits and content hashes: what "the same data" means."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlkit.errors import UserError
from tlkit.files import write_csv

SPLITS = ("train", "val", "test")
_COLUMNS = ("path", "split", "label", "class", "sha256")
_GROUP = "group"  # a column more, where there are any


@dataclass(frozen=True)
class Picture:
    """`path` is POSIX and relative to the manifest's root; `label` is an index into its classes;
    `group` names what it belongs to with others, "" where it stands for itself."""

    path: str
    label: int
    split: str
    sha256: str
    group: str = ""


@dataclass(frozen=True)
class Manifest:
    """Pictures of a data set, sorted by split (train, val, test) and then by path.

    Attributes:
        root: the folder that their paths begin at.
        passes: how often an epoch goes over the training pictures; in no file and no digest.

    Raises ValueError for an unknown split, a label outside the classes, or a path given twice.
    """

    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    passes: int = 1

    def __post_init__(self) -> None:
        for picture in self.pictures:
            if picture.split not in SPLITS or not 0 <= picture.label < len(self.classes):
                raise ValueError(f"{picture} does not fit splits {SPLITS}, classes {self.classes}")
        if len({picture.path for picture in self.pictures}) < len(self.pictures):
            raise ValueError("a path is listed twice")
        ordered = sorted(self.pictures, key=lambda p: (SPLITS.index(p.split), p.path))
        object.__setattr__(self, "pictures", tuple(ordered))

    def of(self, split: str) -> tuple[Picture, ...]:
        """The pictures of one split, sorted by path."""
        return tuple(picture for picture in self.pictures if picture.split == split)

    @property
    def digest(self) -> str:
        """32 hex characters over classes and (path, label, split, sha256), and the group of those
        that have one, whatever the root."""
        rows = [
            (p.path, p.label, p.split, p.sha256, *([p.group] if p.group else []))
            for p in self.pictures
        ]
        text = json.dumps([self.classes, rows], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def thinned(self, fraction: float, seed: int) -> "Manifest":
        """With that share of the training pictures of each class, rounded, at least one, and group
        by group; of the same seed a smaller share lies within a larger one. An epoch goes over them
        more often, so that it keeps about its length: what differs is what there is to learn from,
        not how long is learned."""
        kept = [picture for picture in self.pictures if picture.split != "train"]
        of_class: list[list[Picture]] = [[] for _ in self.classes]
        for picture in self.of("train"):
            of_class[picture.label].append(picture)
        for members in of_class:
            # By content, so that neither names nor other pictures change who is drawn.
            members.sort(key=lambda p: [_drawn(seed, p.group or p.sha256), _drawn(seed, p.sha256)])
            kept += members[: max(1, round(fraction * len(members)))]
        thinned = replace(self, pictures=tuple(kept))
        return replace(thinned, passes=round(len(self.of("train")) / len(thinned.of("train"))))

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures per split and class, zeros included."""
        counts = {split: dict.fromkeys(self.classes, 0) for split in SPLITS}
        for picture in self.pictures:
            counts[picture.split][self.classes[picture.label]] += 1
        return counts

    def write(self, csv_path: Path) -> None:
        """Write as CSV (UTF-8) with a header, one line a picture."""
        grouped = any(p.group for p in self.pictures)
        rows = (
            (p.path, p.split, p.label, self.classes[p.label], p.sha256, *([p.group] * grouped))
            for p in self.pictures
        )
        write_csv(csv_path, (*_COLUMNS, *([_GROUP] * grouped)), rows)


def _drawn(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def read(csv_path: Path, root: Path) -> Manifest:
    """The manifest that `write` wrote, for pictures under `root`; UserError if it is none."""
    try:
        with csv_path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        names = {int(row["label"]): row["class"] for row in rows}
        classes = tuple(names[label] for label in range(len(names)))
        return Manifest(root, classes, tuple(_picture(row, classes) for row in rows))
    except OSError as error:
        raise UserError(f"cannot read the manifest {csv_path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{csv_path} is not a manifest ({error}); it is a CSV with the columns "
            f"{', '.join(_COLUMNS)} as a run leaves it under data/manifest.csv"
        ) from error


def _picture(row: dict[str, str], classes: Sequence[str]) -> Picture:
    label = int(row["label"])
    if classes[label] != row["class"]:
        raise ValueError(f"label {label} has two names, {classes[label]!r} and {row['class']!r}")
    return Picture(
        row["path"], label, split=row["split"], sha256=row["sha256"], group=row.get(_GROUP) or ""
    )
