"""What a phase trains on: pictures, or the stored outputs of its frozen prefix."""

import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tlkit.data.datasets import OneView, PictureDataset, Plain, loader
from tlkit.data.manifest import Manifest, Picture
from tlkit.data.transforms import Views
from tlkit.files import disk_faults_told

Batch = tuple[Tensor, Tensor]
Batches = list[list[int]]


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run and how they are read.

    Attributes:
        views: of the training pictures; validation and test pictures have one plain view.
        count: how many views there are; epoch e trains on view e mod `count`.
        workers: processes that decode.
        pin: whether batches go to page-locked memory, for a GPU.
    """

    manifest: Manifest
    views: Views
    count: int
    max_pixels: int
    workers: int
    pin: bool

    def view(self, view: int, batches: Batches) -> Iterator[Batch]:
        """Training pictures rendered as view `view`: float32 (N, 3, H, W) and int64 (N,)."""
        return self._load(self.manifest.of("train"), OneView(self.views, view), batches)

    def plain(self, split: str, batches: Batches) -> Iterator[Batch]:
        """Pictures of a split in their plain view: float32 (N, 3, H, W) and int64 (N,)."""
        return self._load(self.manifest.of(split), Plain(self.views.preprocessing), batches)

    def _load(
        self, pictures: tuple[Picture, ...], render: Plain | OneView, batches: Batches
    ) -> Iterator[Batch]:
        dataset = PictureDataset(self.manifest.root, pictures, render, self.max_pixels)
        return iter(loader(dataset, batches, workers=self.workers, pin=self.pin))


class Inputs(Protocol):
    """Batches for the loop."""

    def training(self, epoch: int, batches: Batches) -> Iterator[Batch]:
        """Inputs and labels of the training pictures, in the order of `batches`."""

    def validation(self, batches: Batches) -> Iterator[Batch]:
        """Inputs and labels of the validation pictures, in the order of `batches`."""


@dataclass(frozen=True)
class PictureInputs:
    """The pictures themselves, decoded again in every epoch: for networks without a prefix, and
    for `engine: plain`."""

    pictures: Pictures

    def training(self, epoch: int, batches: Batches) -> Iterator[Batch]:
        return self.pictures.view(epoch % self.pictures.count, batches)

    def validation(self, batches: Batches) -> Iterator[Batch]:
        return self.pictures.plain("val", batches)


@dataclass(frozen=True)
class PrefixInputs:
    """The outputs of a frozen prefix, each computed once.

    Attributes:
        views: one memory-mapped tensor (pictures, ...) a view of the training pictures.
        val: the same of the plain validation pictures.
        seconds: wall time that computing them took.
    """

    views: tuple[Tensor, ...]
    val: Tensor
    train_labels: Tensor
    val_labels: Tensor
    seconds: float

    def training(self, epoch: int, batches: Batches) -> Iterator[Batch]:
        return _gather(self.views[epoch % len(self.views)], self.train_labels, batches)

    def validation(self, batches: Batches) -> Iterator[Batch]:
        return _gather(self.val, self.val_labels, batches)


def _gather(outputs: Tensor, labels: Tensor, batches: Batches) -> Iterator[Batch]:
    for batch in batches:
        inputs = outputs[batch]
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        yield inputs, labels[batch]


def run_prefix(
    prefix: nn.Module,
    pictures: Pictures,
    *,
    epochs: int,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path,
) -> PrefixInputs:
    """Compute the prefix's output for every picture and view that `epochs` epochs need.

    Args:
        prefix: frozen, in eval mode, on `device`; maps (N, 3, H, W) to one tensor (N, ...).
        dtype: in which layers compute and outputs are stored.
        folder: where the memory-mapped files lie; they are gone when the process ends.

    Raises:
        UserError: no disk space for the outputs.
    """
    started = time.perf_counter()
    manifest = pictures.manifest
    wanted = min(pictures.count, epochs)
    train, val = manifest.of("train"), manifest.of("val")
    train_batches, val_batches = _in_order(len(train), batch_size), _in_order(len(val), batch_size)
    total = wanted * len(train) + len(val)
    with tqdm(total=total, desc="frozen part", unit="picture", disable=None) as progress:

        def outputs(batches: Iterator[Batch], count: int) -> Tensor:
            return _outputs(prefix, batches, count, device, dtype, folder, progress)

        views = tuple(
            outputs(pictures.view(view, train_batches), len(train)) for view in range(wanted)
        )
        plain = outputs(pictures.plain("val", val_batches), len(val))
    return PrefixInputs(
        views,
        plain,
        torch.tensor([picture.label for picture in train]),
        torch.tensor([picture.label for picture in val]),
        time.perf_counter() - started,
    )


def _in_order(count: int, batch_size: int) -> Batches:
    return [list(range(i, min(i + batch_size, count))) for i in range(0, count, batch_size)]


def _outputs(
    prefix: nn.Module,
    batches: Iterator[Batch],
    count: int,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path,
    progress: "tqdm[NoReturn]",
) -> Tensor:
    stored: Tensor | None = None
    done = 0
    for pictures, _ in batches:
        inputs = pictures.to(device, memory_format=torch.channels_last, non_blocking=True)
        with (
            torch.no_grad(),
            torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32),
        ):
            result = prefix(inputs)
        if stored is None:
            stored = _mapped((count, *result.shape[1:]), dtype, folder)
        stored[done : done + len(result)] = result
        done += len(result)
        progress.update(len(result))
    assert stored is not None, "a split without pictures passed the audit"
    return stored


def _mapped(shape: tuple[int, ...], dtype: torch.dtype, folder: Path) -> Tensor:
    """A tensor backed by a file without a name, so that memory stays bounded and a killed process
    leaves nothing behind (on Windows, where a mapped file keeps its name, it leaves the file)."""
    size = math.prod(shape)
    with tempfile.TemporaryDirectory(
        prefix="outputs-", dir=folder, ignore_cleanup_errors=True
    ) as temporary:
        path = Path(temporary) / "outputs.bin"
        with disk_faults_told(path), path.open("wb") as file:
            # Claimed now: writing to a mapped page that the disk cannot back is a crash.
            _claim(file.fileno(), size * dtype.itemsize)
        return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)


def _claim(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)
