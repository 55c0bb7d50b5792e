"""What a phase trains on: pictures, or the outputs of its frozen part."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tlkit.data.datasets import (
    OneView,
    PictureDataset,
    SeveralViews,
    loaded,
    loader,
    read_by_threads,
)
from tlkit.data.manifest import Manifest, Picture
from tlkit.data.transforms import AUGMENTATION_REVISION, Views
from tlkit.features.prefix import PASS, Frozen
from tlkit.features.store import Rows

Batch = tuple[Tensor, Tensor]
Batches = list[list[int]]


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run and how they are read.

    Attributes:
        views: of the training pictures; validation and test pictures have one plain view.
        count: how many views there are; epoch e trains on view e mod `count`.
        workers: processes, or threads, that decode.
        for_gpu: whether a GPU takes the batches. They go to page-locked memory then, and stored
            outputs are gathered ahead of it.
        by_threads: whether threads decode in place of processes: for one reading after training.
    """

    manifest: Manifest
    views: Views
    count: int
    max_pixels: int
    workers: int
    for_gpu: bool
    by_threads: bool = False

    @property
    def different(self) -> int:
        """How many views differ: without augmentation each is the plain one."""
        return 1 if self.views.augment == "none" else self.count

    def view(self, view: int, batches: Batches) -> Iterator[Batch]:
        """Training pictures rendered as view `view`: float32 (N, 3, H, W) and int64 (N,)."""
        return self._load(
            self.manifest.of("train"), OneView(self.views, view), batches, pin=self.for_gpu
        )

    def plain(self, split: str, batches: Batches) -> Iterator[Batch]:
        """Pictures of a split in their plain view: float32 (N, 3, H, W) and int64 (N,)."""
        return self._load(
            self.manifest.of(split), OneView(self.views, None), batches, pin=self.for_gpu
        )

    def several(
        self, split: str, views: Sequence[int | None], batches: Batches
    ) -> Iterator[list[Tensor]]:
        """Pictures of a split in several views at once, None for the plain one: one float32
        (N, 3, H, W) a view, with the bits of `view` and `plain`. Each picture is read once."""
        render = SeveralViews(self.views, tuple(views))
        for pixels, _ in self._load(self.manifest.of(split), render, batches, pin=False):
            # Here and not on a card, where a division may have other bits than that of `view`.
            pictures = map(self.views.preprocessing.from_bytes, pixels.movedim(-1, 2).unbind(1))
            yield [one.pin_memory() if self.for_gpu else one for one in pictures]

    def _load(
        self,
        pictures: tuple[Picture, ...],
        render: OneView | SeveralViews,
        batches: Batches,
        *,
        pin: bool,
    ) -> Iterator[Batch]:
        dataset = PictureDataset(self.manifest.root, pictures, render, self.max_pixels)
        if self.by_threads:
            return read_by_threads(dataset, batches, threads=self.workers, pin=pin)
        return loaded(loader(dataset, batches, workers=self.workers, pin=pin))


@dataclass(frozen=True)
class Rendition:
    """The pictures of a split, each rendered in one way.

    Attributes:
        view: which view of the training pictures; None for the plain one.
    """

    pictures: Pictures
    split: str
    view: int | None

    def load(self, batches: Batches) -> Iterator[Batch]:
        """Float32 (N, 3, H, W) and int64 (N,), in the order of `batches`."""
        if self.view is None:
            return self.pictures.plain(self.split, batches)
        return self.pictures.view(self.view, batches)

    @property
    def names(self) -> list[str]:
        """The sha256 of each picture."""
        return [picture.sha256 for picture in self.pictures.manifest.of(self.split)]

    @property
    def labels(self) -> Tensor:
        """int64 (pictures,)."""
        return torch.tensor([picture.label for picture in self.pictures.manifest.of(self.split)])

    def key(self) -> dict[str, Any]:
        """How a picture is rendered, for the store; JSON-able."""
        views = self.pictures.views
        key: dict[str, Any] = {"preprocessing": views.preprocessing.config}
        if self.view is not None and views.augment != "none":
            key |= {
                **{"augment": views.augment, "revision": AUGMENTATION_REVISION},
                **{"seed": views.seed, "view": self.view},
            }
        return key


def load_together(renditions: Sequence[Rendition], batches: Batches) -> Iterator[list[Tensor]]:
    """Float32 (N, 3, H, W) of each of the renditions, which are of one split; each picture is read
    once."""
    first = renditions[0]
    return first.pictures.several(first.split, [one.view for one in renditions], batches)


class Inputs(Protocol):
    """Batches for the loop."""

    def training(self, epoch: int, batches: Batches) -> Iterator[Batch]:
        """Inputs and labels of the training pictures, in the order of `batches`."""

    def validation(self, batches: Batches) -> Iterator[Batch]:
        """Inputs and labels of the validation pictures, in the order of `batches`."""

    def key(self) -> dict[str, Any]:
        """How they are computed from pictures; JSON-able."""


@dataclass(frozen=True)
class PictureInputs:
    """The pictures themselves, decoded again in every epoch: for `engine: plain`."""

    pictures: Pictures

    def training(self, epoch: int, batches: Batches) -> Iterator[Batch]:
        return self.pictures.view(epoch % self.pictures.count, batches)

    def validation(self, batches: Batches) -> Iterator[Batch]:
        return self.pictures.plain("val", batches)

    def key(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Outputs:
    """A frozen part's outputs for a rendition: from the store, and computed where it has none.

    Attributes:
        rows: of the rendition's pictures, in their order.
    """

    rendition: Rendition
    prefix: Frozen
    rows: Rows

    def batches(self, batches: Batches) -> Iterator[Tensor]:
        """Outputs (N, ...) of the pictures at these indices."""
        stored = self.rows.slots >= 0
        if bool(stored.all()):
            for batch in batches:
                yield self._stored(batch)
            return
        absent = [[index for index in batch if not stored[index]] for batch in batches]
        computed = self._computed([batch for batch in absent if batch])
        for batch, without in zip(batches, absent, strict=True):
            if not without:
                yield self._stored(batch)
                continue
            # As rows, or what is computed would lie in memory in another way than what was stored,
            # and other kernels would train on it.
            new = next(computed)
            mask = stored[batch]
            rows = new.new_empty(len(batch), *new.shape[1:])
            old_rows = mask.to(new.device)
            rows[~old_rows] = new
            if bool(mask.any()):
                old = self.rows.gather([index for index in batch if stored[index]])
                rows[old_rows] = old.to(new.device)
            yield self.prefix.inputs(rows)

    def _computed(self, batches: Batches) -> Iterator[Tensor]:
        """Outputs as they would be stored."""
        for pictures, _ in self.rendition.load(batches):
            parts = [
                output
                for part in torch.split(pictures, PASS)
                for output in self.prefix.outputs(part, self.prefix.whole, [self.prefix.depth])
            ]
            yield self.prefix.rows(torch.cat(parts))

    def _stored(self, batch: list[int]) -> Tensor:
        return self.prefix.inputs(self.rows.gather(batch))


@dataclass(frozen=True)
class StoredInputs:
    """The outputs of a frozen part, each computed once.

    Attributes:
        views: one a view of the training pictures; epoch e trains on e mod their number.
    """

    views: tuple[Outputs, ...]
    val: Outputs

    def training(self, epoch: int, batches: Batches) -> Iterator[Batch]:
        return _labelled(self.views[epoch % len(self.views)], batches)

    def validation(self, batches: Batches) -> Iterator[Batch]:
        return _labelled(self.val, batches)

    def key(self) -> dict[str, Any]:
        return self.val.prefix.key(self.val.prefix.depth, self.val.rendition.key())


def _labelled(outputs: Outputs, batches: Batches) -> Iterator[Batch]:
    every, gathered = outputs.rendition.labels, outputs.batches(batches)
    labels = (every[batch] for batch in batches)
    if outputs.rendition.pictures.for_gpu:
        # What is page-locked a card takes while it computes.
        labels = (some.pin_memory() for some in labels)
        # Beside a card the processor is free to gather; alone it would only compete with training.
        # A loader must not be iterated so: its workers, forked from a thread, fail when they end.
        if outputs.rows.mapped.device.type == "cpu" and not outputs.rows.missing:
            gathered = _ahead(batch.pin_memory() for batch in gathered)
    yield from zip(gathered, labels, strict=True)


def _ahead(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same batches, the next of which is gathered while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch
