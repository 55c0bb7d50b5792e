"""Pictures of a manifest as batches of tensors, decoded by worker processes or threads."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from tlkit.data.images import UnreadablePicture, read_bytes, read_picture
from tlkit.data.manifest import Picture
from tlkit.data.threads import done_ahead
from tlkit.data.transforms import Views
from tlkit.errors import UserError

# Batches that threads read ahead.
_AHEAD = 2

# What torch says, having no error of its own for it: of a batch that did not fit, and of a worker
# that a bus error ended. Other faults of shared memory (open files, rights) have other causes.
_NO_SHARED_MEMORY = re.compile(r"shared memory.*No space left|out of shared memory")


@dataclass(frozen=True)
class OneView:
    """A picture in one view, None for the plain one."""

    views: Views
    view: int | None

    def __call__(self, image: Image, sha256: str) -> Tensor:
        return self.views(image, sha256, self.view)


@dataclass(frozen=True)
class SeveralViews:
    """Views of a picture, None for the plain one, that are read and resized once for all of them:
    as bytes, uint8 (views, H, W, 3), for so many float32 tensors are slow to hand over."""

    views: Views
    numbers: tuple[int | None, ...]

    def __call__(self, image: Image, sha256: str) -> Tensor:
        pictures = self.views.pictures(image, sha256, self.numbers)
        return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))


@dataclass(frozen=True)
class PictureDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pictures in the order given, each in one view or in several.

    Items are (what `render` gives, int64 scalar label).
    """

    root: Path
    pictures: Sequence[Picture]
    render: OneView | SeveralViews
    max_pixels: int

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture = self.pictures[index]
        path = self.root / picture.path
        try:
            data = read_bytes(path, self.max_pixels)
            image = read_picture(data, self.max_pixels)
        except (UnreadablePicture, OSError) as error:
            raise UserError(
                f"{path} could be read when the data was audited and now cannot ({error}); "
                "put it back, or start again without it"
            ) from None
        # What is computed from a picture is stored under this hash, for all runs to come.
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise UserError(
                f"{path} has other content than when the data was audited; "
                "put the old one back, or start again with the new one"
            )
        return self.render(image, picture.sha256), torch.tensor(picture.label)


def loader(
    dataset: PictureDataset, batches: list[list[int]], *, workers: int, pin: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of (items (N, ...), int64 (N,)) in exactly the order of `batches`."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        pin_memory=pin,
        # One of its own, or the loader would draw from the generator that dropout draws from.
        generator=torch.Generator(),
        worker_init_fn=_one_thread,
    )


def loaded(batches: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """What a loader gives.

    Raises UserError where the shared memory that its workers hand batches over in is too small: a
    container has 64 MB of it unless told otherwise.
    """
    iterator = iter(batches)
    try:
        yield from iterator
    except RuntimeError as error:
        # The cause: that a worker ended is one error, and what ended it another.
        if not _NO_SHARED_MEMORY.search(f"{error} {error.__cause__}"):
            raise
        raise UserError(
            "the workers that decode pictures ran out of shared memory (/dev/shm), where batches "
            "are handed over; give the container more of it (docker run --shm-size=1g), or set "
            "loader_workers=0"
        ) from error
    finally:
        # Not by its deletion, which waits for the workers too: Python ignores errors there, and
        # with them Ctrl-C.
        if end := getattr(iterator, "_shutdown_workers", None):
            end()


def read_by_threads(
    dataset: PictureDataset, batches: list[list[int]], *, threads: int, pin: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """As a loader with so many workers, without processes: as long as those live, which are forked,
    each page of memory that this process writes to is copied first. After training that takes a
    second or two of the first pass (docs/LOG.md)."""
    ahead = _AHEAD * max(map(len, batches), default=1)
    items = done_ahead(dataset.__getitem__, chain(*batches), threads=threads, ahead=ahead)
    for batch in batches:
        inputs, labels = default_collate(list(islice(items, len(batch))))
        yield (inputs.pin_memory(), labels.pin_memory()) if pin else (inputs, labels)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # workers share the cores with one another and with training
