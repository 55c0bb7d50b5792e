"""The prefix engine: what is stored is what the frozen part computes, whatever happened before."""

import errno
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_pictures
from filelock import FileLock
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from tlkit.data.audit import audit
from tlkit.data.images import read_picture
from tlkit.data.sources import open_source
from tlkit.data.transforms import Preprocessing, Views
from tlkit.features import fill
from tlkit.features import prefix as prefix_module
from tlkit.features.compilers import (
    INDUCTOR,
    ONNX_RUNTIME,
    OPENVINO,
    compiler_for,
    with_inductor,
)
from tlkit.features.fill import Report, evaluation_outputs, stored_inputs
from tlkit.features.inputs import PictureInputs, Pictures, Rendition, StoredInputs
from tlkit.features.prefix import NoPrefix, Prefix
from tlkit.features.store import RECORD_BYTES, Filling, Rows, Store, Unwritable
from tlkit.models.backbones import create_model, data_config
from tlkit.models.cut import split, suffix
from tlkit.models.units import units
from tlkit.phases import engine
from tlkit.phases.engine import open_store
from tlkit.serving.predict import predict_probabilities

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
FAMILIES = {
    "test_resnet": 32,
    "test_efficientnet": 32,
    "test_convnext": 32,
    "regnetx_002": 32,
    "test_vit": 32,
    "small_swin": 64,
}


def model_of(name: str = "test_resnet", size: int = 32, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, num_classes=2, dropout=0.0, image_size=size).eval()


def prefix_of(model: nn.Module, depth: int, *also: int) -> Prefix:
    return Prefix(model, depth, also, {"backbone": "some"}, CPU, torch.float32)


def pictures_of(root: Path, cache: Path, model: nn.Module, **changes: object) -> Pictures:
    manifest, _ = audit(
        open_source(str(root), cache, 0), seed=0, max_pixels=10**6,
        val_fraction=0.1, test_fraction=0.1, workers=1, looks=cache / "looks",
    )  # fmt: skip
    views = Views(Preprocessing(data_config(model)), "recipe", 0)
    pictures = Pictures(manifest, views, count=2, max_pixels=10**6, workers=0, for_gpu=False)
    return replace(pictures, **changes)  # type: ignore[arg-type]


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    # 40 training pictures: more than one pass, and a second one that is short.
    root = make_pictures(tmp_path / "pictures", counts=(20, 4, 2), size=36)
    return pictures_of(root, tmp_path, model_of())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", 10**9)


def batches_of(inputs: StoredInputs, epoch: int, count: int) -> list[Tensor]:
    sevens = [list(range(i, min(i + 7, count))) for i in range(0, count, 7)]
    return [batch for batch, _ in inputs.training(epoch, sevens)]


def training(inputs: StoredInputs, epoch: int = 0, count: int = 40) -> Tensor:
    return torch.cat(batches_of(inputs, epoch, count))


def layouts(inputs: StoredInputs) -> list[tuple[int, ...]]:
    """How each batch lies in memory, which decides by which kernels it is trained on."""
    return [batch.stride() for batch in batches_of(inputs, 0, 40)]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
    """Records each pass through the frozen part: where it began, and the depths it served."""
    seen: list[tuple[int, list[int]]] = []
    outputs = Prefix.outputs

    def recorded(self: Prefix, inputs: Tensor, start: int, depths: list[int]) -> object:
        seen.append((start, depths))
        return outputs(self, inputs, start, depths)

    monkeypatch.setattr(Prefix, "outputs", recorded)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_outputs_are_those_of_the_prefix(family: str, tmp_path: Path, store: Store) -> None:
    size = FAMILIES[family]
    model = model_of(family, size)
    root = make_pictures(tmp_path / "pictures", counts=(4, 1, 1), size=size)
    pictures = pictures_of(root, tmp_path, model)
    count = len(units(model))
    for depth in {0, 1, count // 2}:
        inputs, report = stored_inputs(store, prefix_of(model, depth), pictures, 3)
        assert (report.hits, report.wanted, report.decision) == (0, 18, "store")
        prefix, _ = split(model, depth)
        batches = [[4, 7, 2], [1, 0]]
        for epoch in (0, 1, 2):
            plain = PictureInputs(pictures).training(epoch, batches)
            for (got, labels), (images, truth) in zip(
                inputs.training(epoch, batches), plain, strict=True
            ):
                torch.testing.assert_close(got, prefix(images).detach(), rtol=1e-5, atol=1e-5)
                assert torch.equal(labels, truth)
        [(got, _)] = inputs.validation([[0, 1]])
        [(images, _)] = pictures.plain("val", [[0, 1]])
        torch.testing.assert_close(got, prefix(images).detach(), rtol=1e-5, atol=1e-5)


def test_layers_are_given_32_pictures_always(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, run = [], Prefix._run

    def counted(self: Prefix, x: Tensor, start: int, end: int) -> Tensor:
        sizes.append(len(x))
        return run(self, x, start, end)

    monkeypatch.setattr(Prefix, "_run", counted)
    prefix = prefix_of(model_of(), 2)
    for count in (1, 31, 32):
        [found] = prefix.outputs(torch.zeros(count, 3, 32, 32), prefix.whole, [2])
        assert len(found) == count
    assert sizes == [32, 32, 32]


def test_a_second_run_computes_nothing(
    pictures: Pictures, store: Store, passes: list[tuple[int, list[int]]]
) -> None:
    first, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 2)
    passes.clear()
    again, report = stored_inputs(
        Store(store.folder, store.budget), prefix_of(model_of(), 2), pictures, 2
    )
    assert report.hits == report.wanted == 88
    assert report.bytes == 88 * first.val.rows.mapped[0].nbytes
    assert not passes
    assert torch.equal(training(first, 1), training(again, 1))


def test_only_the_views_that_epochs_need_are_computed(pictures: Pictures, store: Store) -> None:
    inputs, report = stored_inputs(store, prefix_of(model_of(), 0), pictures, 1)
    assert len(inputs.views) == 1
    assert report.wanted == 48


@pytest.mark.parametrize(("epochs", "uses"), [(1, 2), (2, 2), (3, 3), (4, 3)])
def test_an_output_is_used_once_more_than_this_run_does(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch, epochs: int, uses: int
) -> None:
    said = {}

    def run(self: fill._Fill) -> None:
        said[self.wanted[0].rendition.split] = self.uses

    monkeypatch.setattr(fill._Fill, "run", run)
    stored_inputs(store, prefix_of(model_of(), 2), pictures, epochs)
    assert said == {"train": uses, "val": epochs + 1}


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[list[int | None]]:
    """Records the views for which pictures are read."""
    seen: list[list[int | None]] = []
    several = Pictures.several

    def recorded(self: Pictures, split: str, views: list[int | None], batches: object) -> object:
        seen.append(list(views))
        return several(self, split, views, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(Pictures, "several", recorded)
    return seen


def test_a_run_to_come_needs_no_reading_of_its_own(
    pictures: Pictures, store: Store, tmp_path: Path, readings: list[list[int | None]]
) -> None:
    pictures = replace(pictures, count=5)
    head, report = stored_inputs(store, prefix_of(model_of(), 0, 2), pictures, 2, epochs_to_come=4)
    assert (report.hits, report.wanted, len(head.views)) == (0, 88, 2)
    assert readings == [[0, 1, 2, 3], [None]]
    # What only that run needs is stored at its own cut.
    pooled = Rendition(pictures, "train", 2).key()
    assert not store.entry(prefix_of(model_of(), 0).key(0, pooled)).path.exists()
    found, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 4)
    assert report.hits == report.wanted == 168
    assert len(readings) == 2
    alone, _ = stored_inputs(
        Store(tmp_path / "other", 10**9), prefix_of(model_of(), 2), pictures, 4
    )
    for epoch in range(4):
        assert torch.equal(training(found, epoch), training(alone, epoch))


def test_for_a_run_to_come_alone_no_picture_is_read(
    pictures: Pictures, store: Store, readings: list[list[int | None]]
) -> None:
    pictures = replace(pictures, count=5)
    stored_inputs(store, prefix_of(model_of(), 1), pictures, 2)
    readings.clear()
    # The first two views are there, or made from what is there.
    for depth, also in ((1, 2), (0, 1)):
        prefix = prefix_of(model_of(), depth, also)
        inputs, report = stored_inputs(store, prefix, pictures, 2, epochs_to_come=4)
        assert report.decision == "store"
        assert not [part for part in (*inputs.views, inputs.val) if part.rows.missing]
    assert not readings


def test_a_run_to_come_takes_no_room_from_this_one(
    pictures: Pictures, tmp_path: Path, passes: list[tuple[int, list[int]]]
) -> None:
    pictures = replace(pictures, count=3)
    whole = Store(tmp_path / "whole", 10**9)
    prefix = prefix_of(model_of(), 0, 2)
    expected, _ = stored_inputs(whole, prefix, pictures, 1, epochs_to_come=3)
    renditions = (Rendition(pictures, "train", 0), Rendition(pictures, "val", None))
    paths = [whole.entry(prefix.key(0, one.key())).path for one in renditions]
    own = sum(entry.size for entry in whole.entries() if entry.path in paths)
    passes.clear()
    small = Store(tmp_path / "small", own + 4096)
    inputs, report = stored_inputs(small, prefix, pictures, 1, epochs_to_come=3)
    assert report.decision == "store"
    assert not inputs.views[0].rows.missing
    assert not inputs.val.rows.missing
    assert torch.equal(training(inputs), training(expected))
    # Once there is no room for them, their outputs are not computed.
    assert [2] not in [depths for _, depths in passes]


def test_other_cuts_take_no_room_from_what_is_filled_in_later(
    pictures: Pictures, store: Store, tmp_path: Path
) -> None:
    prefix = prefix_of(model_of(), 0, 2)
    stored_inputs(store, prefix, pictures, 1)
    renditions = (Rendition(pictures, "train", 0), Rendition(pictures, "val", None))
    paths = [store.entry(prefix.key(0, one.key())).path for one in renditions]
    own = sum(entry.size for entry in store.entries() if entry.path in paths)
    small = Store(tmp_path / "small", own + 1024)  # and the other cut's key, but none of its rows
    inputs, report = stored_inputs(small, prefix, pictures, 1)
    assert report.decision == "store"
    assert not inputs.val.rows.missing


def test_a_run_to_come_at_the_same_cut_has_nothing_stored_for_it(
    pictures: Pictures, store: Store, readings: list[list[int | None]]
) -> None:
    pictures = replace(pictures, count=5)
    stored_inputs(store, prefix_of(model_of(), 2), pictures, 2, epochs_to_come=4)
    assert readings == [[0, 1], [None]]


def test_what_is_stored_at_one_cut_is_not_stored_again_beside_another(
    pictures: Pictures, store: Store
) -> None:
    prefix, rendition = prefix_of(model_of(), 1, 3), Rendition(pictures, "train", 0)
    [(images, _)] = rendition.load([[3, 5]])
    [outputs] = prefix.outputs(images, prefix.whole, [3])
    with store.entry(prefix.key(3, rendition.key())).filling() as filling:
        filling.append([rendition.names[index] for index in (3, 5)], prefix.rows(outputs))
    stored_inputs(store, prefix, pictures, 1)
    assert sorted(info.rows for info in store.entries()) == [8, 8, 40, 40]
    for depth in (1, 3):
        assert not store.entry(prefix.key(depth, rendition.key())).read(rendition.names).missing


def test_where_room_ends_with_a_batch_it_is_said(
    pictures: Pictures, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = prefix_of(model_of(), 0, 2)
    whole, _ = stored_inputs(store, prefix, pictures, 1)
    each = whole.val.rows.mapped[0].nbytes + RECORD_BYTES
    monkeypatch.setattr(Store, "room", lambda self, wanted: 32 * each)
    _, report = stored_inputs(Store(tmp_path / "small", 10**9), prefix, pictures, 1)
    assert report.decision.startswith("recompute: no room")


def test_beyond_the_views_that_are_read_together_none_is_read_for_a_run_to_come(
    pictures: Pictures, store: Store, readings: list[list[int | None]]
) -> None:
    pictures = replace(pictures, count=12)
    stored_inputs(store, prefix_of(model_of(), 0, 2), pictures, 2, epochs_to_come=12)
    assert readings == [list(range(8)), [None]]


def test_an_output_does_not_depend_on_the_pictures_computed_with_it(
    pictures: Pictures, store: Store, tmp_path: Path
) -> None:
    """So a fill that was killed and went on with other batches gives the same bits."""
    whole, _ = stored_inputs(store, prefix_of(model_of("test_efficientnet"), 3), pictures, 1)
    other = Store(tmp_path / "other", 10**9)
    prefix = prefix_of(model_of("test_efficientnet"), 3)
    rendition = Rendition(pictures, "train", 0)
    odd = [3, 37, 11, 5, 2]
    [(images, _)] = rendition.load([odd])
    [outputs] = prefix.outputs(images, prefix.whole, [3])
    with other.entry(prefix.key(3, rendition.key())).filling() as filling:
        filling.append([rendition.names[index] for index in odd], prefix.rows(outputs))
    resumed, report = stored_inputs(other, prefix, pictures, 1)
    assert report.hits == 5
    assert torch.equal(training(whole), training(resumed))


def change_pixel(pictures: Pictures, prefix: Prefix) -> tuple[Pictures, Prefix]:
    root = pictures.manifest.root
    file = root / pictures.manifest.of("train")[0].path
    pixels = np.asarray(Image.open(file)).copy()
    pixels[3, 3, 0] ^= 1
    Image.fromarray(pixels).save(file)
    return pictures_of(root, root.parent / "fresh", prefix.model), prefix


def change_weight(pictures: Pictures, prefix: Prefix) -> tuple[Pictures, Prefix]:
    model = model_of()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    return pictures, prefix_of(model, prefix.depth)


def change_statistics(pictures: Pictures, prefix: Prefix) -> tuple[Pictures, Prefix]:
    model = model_of()
    dict(model.named_buffers())["bn1.running_mean"][0] += 1e-3
    return pictures, prefix_of(model, prefix.depth)


def change_transform(pictures: Pictures, prefix: Prefix) -> tuple[Pictures, Prefix]:
    config = {**pictures.views.preprocessing.config, "crop_pct": 0.5}
    return replace(pictures, views=replace(pictures.views, preprocessing=Preprocessing(config))), (
        prefix
    )


def change_augmentation(pictures: Pictures, prefix: Prefix) -> tuple[Pictures, Prefix]:
    return replace(pictures, views=replace(pictures.views, augment="trivial")), prefix


def change_seed(pictures: Pictures, prefix: Prefix) -> tuple[Pictures, Prefix]:
    return replace(pictures, views=replace(pictures.views, seed=1)), prefix


def change_precision(pictures: Pictures, prefix: Prefix) -> tuple[Pictures, Prefix]:
    return pictures, replace(prefix, dtype=torch.bfloat16)


def change_backbone(pictures: Pictures, prefix: Prefix) -> tuple[Pictures, Prefix]:
    return pictures, replace(prefix, facts={"backbone": "another"})


@pytest.mark.parametrize(
    ("change", "hits"),
    [
        (lambda pictures, prefix: (pictures, prefix), 48),
        (change_pixel, 47),
        (change_weight, 0),
        (change_statistics, 0),
        (change_transform, 0),
        # The plain validation pictures stay as they were.
        (change_augmentation, 8),
        (change_seed, 8),
        (change_precision, 0),
        (change_backbone, 0),
    ],
)
def test_what_changed_is_a_miss(
    change: Callable[[Pictures, Prefix], tuple[Pictures, Prefix]],
    hits: int,
    pictures: Pictures,
    store: Store,
) -> None:
    prefix = prefix_of(model_of(), 2)
    stored_inputs(store, prefix, pictures, 1)
    _, report = stored_inputs(store, *reversed(change(pictures, prefix)), 1)
    assert (report.hits, report.wanted) == (hits, 48)


def test_another_version_of_a_package_is_a_miss(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    monkeypatch.setattr(prefix_module, "version", lambda name: "0")
    # Past its cache, which is for a process.
    uncached = prefix_module.package_versions.__wrapped__
    monkeypatch.setattr(prefix_module, "package_versions", uncached)
    _, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert report.hits == 0


def test_another_revision_of_the_augmentations_is_a_miss_of_their_views(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    monkeypatch.setattr("tlkit.features.inputs.AUGMENTATION_REVISION", 0)
    _, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert report.hits == 8


def test_weights_above_the_cut_do_not_matter(pictures: Pictures, store: Store) -> None:
    stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    model = model_of()
    _, suffix = split(model, 2)
    with torch.no_grad():
        for parameter in suffix.parameters():
            parameter.add_(1)
    _, report = stored_inputs(store, prefix_of(model, 2), pictures, 1)
    assert report.hits == report.wanted


def test_one_pass_serves_the_cuts_of_other_runs(
    pictures: Pictures, store: Store, passes: list[tuple[int, list[int]]], tmp_path: Path
) -> None:
    stored_inputs(store, prefix_of(model_of(), 0, 3, 1), pictures, 1)
    assert {tuple(depths) for _, depths in passes} == {(3, 1, 0)}
    for depth in (3, 1):
        passes.clear()
        inputs, report = stored_inputs(store, prefix_of(model_of(), depth), pictures, 1)
        assert report.hits == report.wanted
        assert not passes
        alone, _ = stored_inputs(
            Store(tmp_path / f"alone-{depth}", 10**9), prefix_of(model_of(), depth), pictures, 1
        )
        assert torch.equal(training(inputs), training(alone))


def test_a_deeper_cut_starts_from_the_nearest_one_that_is_stored(
    pictures: Pictures, store: Store, passes: list[tuple[int, list[int]]], tmp_path: Path
) -> None:
    for depth in (4, 3):
        stored_inputs(store, prefix_of(model_of(), depth), pictures, 1)
    assert {start for start, _ in passes} == {5, 4}
    passes.clear()
    deeper, _ = stored_inputs(store, prefix_of(model_of(), 1), pictures, 1)
    assert {start for start, _ in passes} == {3}
    direct, _ = stored_inputs(
        Store(tmp_path / "direct", 10**9), prefix_of(model_of(), 1), pictures, 1
    )
    assert torch.equal(training(deeper), training(direct))


def test_a_budget_for_some_gives_the_same_batches(
    pictures: Pictures, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    row = whole.val.rows.mapped[0].nbytes
    small = Store(tmp_path / "small", 20 * row)
    some, report = stored_inputs(small, prefix_of(model_of(), 2), pictures, 1)
    assert report.decision.startswith("recompute: no room")
    assert capsys.readouterr().err.count("raise store_gigabytes") == 1  # for both splits
    stored = sum(int((part.rows.slots >= 0).sum()) for part in (*some.views, some.val))
    assert 10 < stored < 20
    assert torch.equal(training(whole), training(some))
    assert layouts(whole) == layouts(some)
    assert sum(info.size for info in small.entries()) <= 20 * row


@pytest.mark.parametrize("family", FAMILIES)
def test_the_test_is_computed_from_stored_outputs_as_from_pictures(
    family: str, tmp_path: Path, store: Store, passes: list[tuple[int, list[int]]]
) -> None:
    size = FAMILIES[family]
    model = model_of(family, size)
    root = make_pictures(tmp_path / "pictures", counts=(2, 1, 4), size=size)
    pictures = pictures_of(root, tmp_path, model)
    batches = [[0, 1, 2], [3, 4, 5], [6, 7]]
    plain = (images for images, _ in pictures.plain("test", batches))
    expected = predict_probabilities(model, plain, CPU)
    for depth in (0, 1, len(units(model)) // 2):
        prefix = prefix_of(model, depth)
        outputs, report = evaluation_outputs(store, prefix, pictures)
        assert (report.hits, report.wanted) == (0, 8)
        first = predict_probabilities(suffix(model, depth), outputs.batches(batches), CPU)
        np.testing.assert_allclose(first, expected, rtol=1e-5)
        passes.clear()
        gone = replace(pictures, manifest=replace(pictures.manifest, root=tmp_path / "gone"))
        outputs, report = evaluation_outputs(store, prefix, gone)
        assert report.hits == 8
        again = predict_probabilities(suffix(model, depth), outputs.batches(batches), CPU)
        assert np.array_equal(again, first)
        assert not passes


def test_the_test_takes_no_room_of_what_training_reads(
    pictures: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = prefix_of(model_of(), 2)
    whole = evaluation_outputs(Store(tmp_path / "whole", 10**9), prefix, pictures)[0]
    row = whole.rows.mapped[0].nbytes
    store = Store(tmp_path / "small", 52 * row)  # 40 for training, 8 for validation, 4 for the test
    inputs, _ = stored_inputs(store, replace(prefix, facts={"other": "dtype"}), pictures, 1)
    assert not inputs.views[0].rows.missing
    outputs, report = evaluation_outputs(store, prefix, pictures)
    assert "frozen part for the test: recompute: no room" in capsys.readouterr().err
    assert report.decision.startswith("recompute: no room")
    assert not (outputs.rows.slots >= 0).all()
    assert stored_inputs(store, inputs.val.prefix, pictures, 1)[1].hits == 48
    batches = [[0, 1, 2], [3]]
    for got, expected in zip(outputs.batches(batches), whole.batches(batches), strict=True):
        assert torch.equal(got, expected)
        assert got.stride() == expected.stride()


def test_without_room_everything_is_computed(pictures: Pictures, tmp_path: Path) -> None:
    none = Store(tmp_path / "none", 0)
    inputs, report = stored_inputs(none, prefix_of(model_of(), 2), pictures, 1)
    assert report.bytes == 0
    full, _ = stored_inputs(Store(tmp_path / "full", 10**9), prefix_of(model_of(), 2), pictures, 1)
    assert torch.equal(training(inputs), training(full))
    assert layouts(inputs) == layouts(full)


def test_a_full_disk_is_told_and_the_run_goes_on(
    pictures: Pictures,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full, _ = stored_inputs(Store(tmp_path / "full", 10**9), prefix_of(model_of(), 2), pictures, 1)

    def refuse(self: Filling, names: object, rows: object) -> None:
        raise Unwritable("the disk is full; free some")

    monkeypatch.setattr(Filling, "append", refuse)
    inputs, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert "the disk is full; free some" in capsys.readouterr().err
    assert report.decision.startswith("recompute")
    assert torch.equal(training(inputs), training(full))


def test_a_broken_disk_is_not_taken_for_a_full_one(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Filling, names: object, rows: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Filling, "append", broken)
    with pytest.raises(OSError, match="Input/output"):
        stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)


def test_a_damaged_row_is_computed_again(pictures: Pictures, store: Store) -> None:
    inputs, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    before = training(inputs)
    for info in store.entries():
        file = info.path / "rows.bin"
        content = bytearray(file.read_bytes())
        content[5] ^= 0xFF
        file.write_bytes(content)
    again, report = stored_inputs(
        Store(store.folder, store.budget), prefix_of(model_of(), 2), pictures, 1
    )
    assert report.wanted - report.hits == 2  # the first row of both entries
    assert torch.equal(before, training(again))


def test_outputs_that_stay_on_the_device_are_the_same(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    monkeypatch.setattr(fill, "_fits", lambda device, size, sharing: size > 0)
    resident, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert torch.equal(training(mapped), training(resident))


def test_only_the_rows_that_are_wanted_are_copied_to_a_device(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.features.store._SLICE", 3)
    inputs, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    rows = inputs.views[0].rows
    some = Rows(rows.mapped, rows.slots[[5, 30, 2, 17, 9]])
    copied = some.to(CPU)
    assert len(copied.mapped) == 5
    assert torch.equal(copied.gather(range(5)), some.gather(range(5)))
    some.slots[1] = -1  # is not stored
    copied = some.to(CPU)
    assert (len(copied.mapped), copied.missing) == (4, [1])
    assert torch.equal(copied.gather([0, 2, 3, 4]), some.gather([0, 2, 3, 4]))


def test_outputs_that_are_gone_when_all_is_filled_are_told_of(
    pictures: Pictures,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    store.clear()
    run = fill._Fill.run

    def cleared(self: Any) -> None:
        run(self)
        Store(store.folder, store.budget).clear()

    monkeypatch.setattr(fill._Fill, "run", cleared)
    inputs, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert report.decision.startswith("recompute: some outputs are gone")
    assert report.decision in capsys.readouterr().err
    assert torch.equal(training(inputs), training(full))


def test_a_process_evicts_what_it_does_not_need_any_more(pictures: Pictures, store: Store) -> None:
    def of_seed(seed: int, store: Store) -> Report:
        other = replace(pictures, views=replace(pictures.views, seed=seed))
        return stored_inputs(store, prefix_of(model_of(), 2), other, 1)[1]

    of_seed(0, store)
    room = sum(info.size for info in store.entries())
    small = Store(store.folder, room + room // 2)
    for seed in (1, 2):
        assert of_seed(seed, small).decision == "store"


def test_gathering_ahead_changes_nothing(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[int] = []  # which only a machine with a card can do
    monkeypatch.setattr(Tensor, "pin_memory", lambda some: pinned.append(len(some)) or some)
    inputs, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    ahead = replace(
        inputs.views[0], rendition=Rendition(replace(pictures, for_gpu=True), "train", 0)
    )
    gathered = training(inputs)
    assert not pinned
    assert torch.equal(training(replace(inputs, views=(ahead,))), gathered)
    assert sum(pinned) == 2 * len(gathered)  # the outputs and their labels


def test_pictures_go_to_a_card_from_page_locked_memory(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    store.clear()
    pinned: list[torch.dtype] = []  # which only a machine with a card can do
    monkeypatch.setattr(
        Tensor, "pin_memory", lambda some: pinned.extend([some.dtype] * len(some)) or some
    )
    for_gpu = replace(pictures, for_gpu=True)
    inputs, report = stored_inputs(store, prefix_of(model_of(), 2), for_gpu, 1)
    assert pinned == [torch.float32] * report.wanted
    monkeypatch.undo()
    assert torch.equal(
        torch.cat(list(inputs.views[0].batches([[0, 1, 2]]))),
        torch.cat(list(filled.views[0].batches([[0, 1, 2]]))),
    )


def test_what_was_cheap_to_derive_is_not_taken_for_cheap_to_compute(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a stored shallower cut the rest is quick; without the store it would not be."""
    root = make_pictures(tmp_path / "pictures", counts=(90, 4, 2), size=36)
    pictures = pictures_of(root, tmp_path, model_of())
    stored_inputs(store, prefix_of(model_of(), 3), pictures, 1)
    slow = {"compute": 0.001, "write": 1.0, "read": 1.0}
    monkeypatch.setattr(fill._Fill, "_rates", lambda self, laps, rendition, names: slow)
    monkeypatch.setattr(fill, "_MEASURED", 3)
    _, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert report.decision == "store"


def test_a_picture_that_is_there_twice_is_computed_once(
    tmp_path: Path, store: Store, passes: list[tuple[int, list[int]]]
) -> None:
    root = make_pictures(tmp_path / "pictures", counts=(2, 2, 2), size=36)
    shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "cat" / "copy.png")
    pictures = pictures_of(root, tmp_path, model_of())
    inputs, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert sorted(info.rows for info in store.entries()) == [4, 4]
    got = training(inputs, count=5)
    names = [picture.sha256 for picture in pictures.manifest.of("train")]
    twins = [index for index, name in enumerate(names) if names.count(name) == 2]
    assert torch.equal(got[twins[0]], got[twins[1]])


@pytest.mark.parametrize(
    ("rates", "uses", "decision"),
    [
        ({"compute": 1.0, "write": 0.01, "read": 0.01}, 2, True),
        ({"compute": 1.0, "write": 0.01, "read": 0.01}, 1, False),
        ({"compute": 0.01, "write": 0.1, "read": 0.1}, 5, False),
        ({"compute": 0.01, "write": 0.02, "read": 0.001}, 10, True),
    ],
)
def test_storing_must_take_less_time_than_computing_again(
    rates: dict[str, float], uses: int, decision: bool, pictures: Pictures, store: Store
) -> None:
    report = Report(rates=rates)
    wanted = [fill._Wanted(Rendition(pictures, "train", 0), (2,), 40)]
    some = fill._Fill(
        store,
        prefix_of(model_of(), 2),
        wanted,
        report,
        tqdm(disable=True),
        uses=uses,
        left=0,
        threads=1,
    )
    assert some._is_worthwhile() is decision


def test_a_slow_disk_makes_it_compute_again_with_the_same_batches(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_pictures(tmp_path / "pictures", counts=(90, 4, 2), size=36)
    pictures = pictures_of(root, tmp_path, model_of())
    expected, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    slow = {"compute": 0.001, "write": 1.0, "read": 1.0}
    monkeypatch.setattr(fill._Fill, "_rates", lambda self, laps, rendition, names: slow)
    monkeypatch.setattr(fill, "_MEASURED", 3)
    inputs, report = stored_inputs(
        Store(tmp_path / "slow", 10**9), prefix_of(model_of(), 2), pictures, 1
    )
    assert report.decision.startswith("recompute: faster")
    assert report.metrics["features/write_seconds"] == 1.0
    assert int((inputs.views[0].rows.slots < 0).sum()) == 180 - 4 * 32
    assert inputs.val.rows.missing == [*range(8)]  # nor is it worthwhile for these
    assert torch.equal(training(inputs, count=180), training(expected, count=180))


@pytest.mark.parametrize("views", [1, 2])
def test_what_it_takes_to_write_is_not_counted_as_computing(
    views: int, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_pictures(tmp_path / "pictures", counts=(90, 4, 2), size=36)
    append = Filling.append

    def slow(filling: Filling, names: Sequence[str], rows: Tensor) -> None:
        time.sleep(0.5)
        append(filling, names, rows)

    monkeypatch.setattr(Filling, "append", slow)
    monkeypatch.setattr(fill, "_MEASURED", 3)
    pictures = pictures_of(root, tmp_path, model_of())
    _, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, views)
    assert report.rates["write"] >= 0.5 / 32 > report.rates["compute"]


def test_the_first_pass_which_waits_for_the_loader_is_not_timed(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_pictures(tmp_path / "pictures", counts=(90, 4, 2), size=36)
    pictures = pictures_of(root, tmp_path, model_of())
    calls, outputs = itertools.count(), Prefix.outputs

    def waiting(self: Prefix, inputs: Tensor, start: int, depths: list[int]) -> object:
        time.sleep(0 if next(calls) else 2)
        return outputs(self, inputs, start, depths)

    monkeypatch.setattr(Prefix, "outputs", waiting)
    monkeypatch.setattr(fill, "_MEASURED", 3)
    _, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert report.rates["compute"] < 2 / 32 / 4  # which it alone would add to the mean


def test_reading_is_timed_without_what_disturbs_it_now_and_then(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_pictures(tmp_path / "pictures", counts=(90, 4, 2), size=36)
    pictures = pictures_of(root, tmp_path, model_of())
    calls, gather = itertools.count(), Rows.gather

    def disturbed(rows: Rows, indices: Sequence[int]) -> torch.Tensor:
        time.sleep(0 if next(calls) == 5 else 0.3)
        return gather(rows, indices)

    monkeypatch.setattr(Rows, "gather", disturbed)
    monkeypatch.setattr(fill, "_MEASURED", 3)
    _, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert next(calls) > 5
    assert report.metrics["features/read_seconds"] < 0.3 / 32


def fill_slowly(folder: Path, pictures: Pictures, passes: Path) -> None:
    """What a process of its own does: fill the store, and note each pass in a file."""
    outputs = Prefix.outputs

    def slow(self: Prefix, inputs: Tensor, start: int, depths: list[int]) -> object:
        time.sleep(0.03)
        with passes.open("a") as file:
            file.write("pass\n")
        return outputs(self, inputs, start, depths)

    Prefix.outputs = slow  # type: ignore[method-assign, assignment]
    stored_inputs(Store(folder, 10**9), prefix_of(model_of(), 2, 3), pictures, 2)


@pytest.fixture
def many(tmp_path: Path) -> Pictures:
    """480 training pictures: 15 passes a view, and one for validation."""
    root = make_pictures(tmp_path / "many", counts=(240, 4, 2), size=36)
    return pictures_of(root, tmp_path, model_of())


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")


@needs_fork
@pytest.mark.slow
def test_kill_9_while_filling_costs_only_what_was_under_way(many: Pictures, tmp_path: Path) -> None:
    folder, context = tmp_path / "killed", multiprocessing.get_context("fork")
    chance = random.Random(0)
    seen, passes = [], tmp_path / "passes"
    passes.touch()
    for _ in range(10):
        before = passes.read_text().count("\n")
        process = context.Process(target=fill_slowly, args=(folder, many, passes))
        process.start()
        # Not by the clock alone: on a busy machine a process takes long to begin.
        while passes.read_text().count("\n") == before and process.is_alive():
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.15))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen.append(sum(info.rows for info in Store(folder, 10**9).entries()))
    assert seen == sorted(seen)
    assert seen[-1] > 0
    resumed, report = stored_inputs(Store(folder, 10**9), prefix_of(model_of(), 2, 3), many, 2)
    assert report.hits > 0
    whole, _ = stored_inputs(Store(tmp_path / "whole", 10**9), prefix_of(model_of(), 2, 3), many, 2)
    for epoch in (0, 1):
        assert torch.equal(training(resumed, epoch, 480), training(whole, epoch, 480))
    # Two views and the validation pictures at two cuts, each row once.
    assert sum(info.rows for info in Store(folder, 10**9).entries()) == 2 * (2 * 480 + 8)


@needs_fork
@pytest.mark.slow
def test_of_two_processes_at_once_one_fills(many: Pictures, tmp_path: Path) -> None:
    folder, context = tmp_path / "shared", multiprocessing.get_context("fork")
    both = [
        context.Process(target=fill_slowly, args=(folder, many, tmp_path / f"passes-{number}"))
        for number in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    notes = [tmp_path / f"passes-{number}" for number in range(2)]
    made = [len(note.read_text().splitlines()) if note.exists() else 0 for note in notes]
    assert sum(made) == 31
    inputs, report = stored_inputs(Store(folder, 10**9), prefix_of(model_of(), 2), many, 2)
    assert report.hits == report.wanted
    whole, _ = stored_inputs(Store(tmp_path / "whole", 10**9), prefix_of(model_of(), 2), many, 2)
    assert torch.equal(training(inputs, 1, 480), training(whole, 1, 480))


def test_a_read_only_cache_is_read_and_told_of(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)

    def refuse(self: FileLock, *arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    _, report = stored_inputs(
        Store(store.folder, store.budget), prefix_of(model_of(), 2), pictures, 1
    )
    assert report.hits == report.wanted
    inputs, report = stored_inputs(store, prefix_of(model_of(), 1), pictures, 1)
    assert report.decision.startswith("recompute")
    assert "Read-only file system" in report.decision
    monkeypatch.undo()
    fresh, _ = stored_inputs(
        Store(tmp_path / "fresh", 10**9), prefix_of(model_of(), 1), pictures, 1
    )
    assert torch.equal(training(inputs), training(fresh))


def test_pictures_are_stored_as_bytes_and_come_back_with_the_same_bits(
    pictures: Pictures, store: Store
) -> None:
    inputs, report = stored_inputs(store, NoPrefix(pictures.views.preprocessing), pictures, 2)
    assert report.bytes == 88 * 3 * 32 * 32
    for epoch in (0, 1):
        [(expected, _)] = PictureInputs(pictures).training(epoch, [list(range(40))])
        [(got, _)] = inputs.training(epoch, [list(range(40))])
        assert torch.equal(got, expected)
    _, report = stored_inputs(store, NoPrefix(pictures.views.preprocessing), pictures, 2)
    assert report.hits == report.wanted


@pytest.fixture
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The compiler, whatever this machine would choose."""
    monkeypatch.setattr("tlkit.features.prefix.compiler_for", lambda device, dtype: request.param)
    return str(request.param)


def test_the_compiler_follows_from_device_and_precision() -> None:
    assert compiler_for(CPU, torch.float32) == ONNX_RUNTIME
    assert compiler_for(CPU, torch.bfloat16) == OPENVINO
    assert compiler_for(torch.device("cuda"), torch.float32) == INDUCTOR


@pytest.mark.parametrize("compiler", [ONNX_RUNTIME], indirect=True)
@pytest.mark.parametrize(("compiling", "during"), [("off", 2), ("on", 1)])
def test_torch_has_its_threads_back_once_all_is_filled(
    compiling: str,
    during: int,
    compiler: str,
    pictures: Pictures,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, append, before = set(), Filling.append, torch.get_num_threads()

    def counted(filling: Filling, names: Sequence[str], rows: Tensor) -> None:
        seen.add(torch.get_num_threads())
        append(filling, names, rows)

    monkeypatch.setattr(Filling, "append", counted)
    torch.set_num_threads(2)
    try:
        stored_inputs(store, prefix_of(model_of(), 2), pictures, 1, compiling)
        assert (seen, torch.get_num_threads()) == ({during}, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("sharing", "most"), [(1, 499), (2, 249)])
def test_outputs_that_stay_on_a_card_leave_half_of_it_to_training(
    sharing: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [200]  # of 2000, until what torch keeps of an earlier training is given back
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.append(1000))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[-1], 2000))
    assert fill._fits(torch.device("cuda"), most, sharing)
    assert not fill._fits(torch.device("cuda"), most + 1, sharing)
    assert not fill._fits(CPU, 0, sharing)


def test_outputs_that_a_card_has_no_room_for_after_all_stay_in_memory(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = training(stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)[0])

    def full(rows: Rows, device: torch.device) -> Rows:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fill, "_fits", lambda *_: True)
    monkeypatch.setattr(Rows, "to", full)
    inputs, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert torch.equal(training(inputs), expected)


def test_cards_of_two_kinds_share_no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, keys = replace(prefix_of(model_of(), 2), device=torch.device("cuda")), []
    for name in ("one card", "another", "one card"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        keys.append(prefix.key(2, {}))
    assert keys[0] == keys[2] != keys[1]


def test_the_store_takes_half_of_what_is_free_by_itself(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store("auto").entry({}).filling() as filling:
        filling.append(["0" * 64], torch.zeros(1, 1000))
    [entry] = open_store("auto").entries()
    engine._store.cache_clear()  # as in a new process
    usage = SimpleNamespace(total=10**12, used=0, free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert open_store("auto").budget == (10**6 + entry.size) // 2
    assert open_store(3).budget == 3 * 10**9


def test_cuts_that_only_units_without_weights_tell_apart_share_no_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Prefix, "_stage", lambda *_: nn.Identity())
    prefix = prefix_of(model_of(), 2)
    keys = [prefix.key(depth, {}) for depth in (2, 3)]
    assert keys[0]["weights"] == keys[1]["weights"]
    assert keys[0] != keys[1]


def test_inductor_compiles_however_many_parts_a_process_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled, compile_ = 0, torch.compile

    def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        nonlocal compiled
        compiled += 1
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda run, dynamic: compile_(run, backend=count))
    for _ in range(12):
        with_inductor(nn.Linear(2, 2))(torch.zeros(1, 2))
    assert compiled == 12


@pytest.mark.parametrize(
    "compiler",
    [ONNX_RUNTIME, OPENVINO, pytest.param(INDUCTOR, marks=pytest.mark.slow)],
    indirect=True,
)
def test_compiled_outputs_are_near_and_kept_apart(
    compiler: str, pictures: Pictures, store: Store
) -> None:
    prefix = prefix_of(model_of(), 2)
    plain, _ = stored_inputs(store, prefix, pictures, 1)
    compiled, report = stored_inputs(store, prefix, pictures, 1, "on")
    assert report.hits == 0
    near = 0.05 if compiler == OPENVINO else 1e-4  # which computes in bfloat16
    torch.testing.assert_close(training(compiled).float(), training(plain), rtol=near, atol=near)
    # Few as they are, `auto` compiles none, whatever is stored.
    for compiling, same in (("on", compiled), ("auto", plain)):
        again, report = stored_inputs(store, prefix, pictures, 1, compiling)
        assert report.hits == report.wanted
        assert torch.equal(training(again), training(same))


@pytest.mark.parametrize("compiler", [ONNX_RUNTIME], indirect=True)
@pytest.mark.parametrize("spare", [0, 1])
def test_what_is_taken_over_is_compiled_as_what_was_trained(
    spare: int,
    compiler: str,
    pictures: Pictures,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, val = (len(pictures.manifest.of(split)) for split in ("train", "val"))
    monkeypatch.setattr(prefix_module, "_LEAST", pictures.different * train + val + spare)
    prefix = prefix_of(model_of(), 2)
    inputs, _ = stored_inputs(store, prefix, pictures, 1, "auto")
    assert bool(inputs.key()["compiled"]) is (spare == 0)
    again, report = stored_inputs(store, prefix, pictures, 0, "auto")
    assert report.hits == report.wanted == val
    assert again.key() == inputs.key()


@pytest.mark.parametrize("compiler", [ONNX_RUNTIME, OPENVINO], indirect=True)
@pytest.mark.parametrize("family", [*FAMILIES, "tf_efficientnet_lite0"])
def test_compiled_outputs_do_not_depend_on_where_a_pass_began(family: str, compiler: str) -> None:
    size = FAMILIES.get(family, 64)
    model = model_of(family, size)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as trained ones are: not the identity
            layer.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    pictures, whole = torch.randn(3, 3, size, size), len(units(model))
    compiled = replace(prefix_of(model, 0), compiled=True)
    [direct] = compiled.outputs(pictures, whole, [0])
    layers, _ = split(model, 0)
    expected = layers(pictures).detach()
    near = 0.1 if compiler == OPENVINO else 1e-4
    torch.testing.assert_close(direct.float(), expected, rtol=near, atol=near)
    for depth in (1, whole // 2, whole - 1):
        fresh = replace(prefix_of(model, 0), compiled=True)
        [middle] = fresh.outputs(pictures, whole, [depth])
        [end] = fresh.outputs(fresh.inputs(fresh.rows(middle)), depth, [0])
        assert torch.equal(end, direct)
        both = list(compiled.outputs(pictures, whole, [depth, 0]))
        assert torch.equal(both[0], middle)
        assert torch.equal(both[1], direct)


def test_a_signal_reaches_a_process_in_which_compiled_code_came_and_went() -> None:
    """OpenVINO gives a thread a stack for its signals. In a process of its own, which may end."""
    code = (
        "import os, signal, torch\n"
        "from torch import nn\n"
        "from tlkit.features.compilers import with_openvino\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('alive', flush=True))\n"
        "layers, x = nn.Conv2d(3, 4, 1).eval(), torch.ones(32, 3, 8, 8)\n"
        "with torch.no_grad():\n"
        "    first = with_openvino(layers, x, 2, maps=True)\n"
        "    second = with_openvino(layers, x, 2, maps=True)\n"
        "    del first\n"
        "    del second\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_views_of_one_reading_are_those_of_several(pictures: Pictures) -> None:
    batches = [[3, 37, 11], [0]]
    for together, first, second in zip(
        pictures.several("train", [0, 1], batches),
        pictures.view(0, batches),
        pictures.view(1, batches),
        strict=True,
    ):
        assert torch.equal(together[0], first[0])
        assert torch.equal(together[1], second[0])
    [[plain]], [(expected, _)] = (
        pictures.several("val", [None], [[0, 1]]),
        pictures.plain("val", [[0, 1]]),
    )
    assert torch.equal(plain, expected)


def test_all_views_come_from_one_reading(
    pictures: Pictures, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def recorded(path: Path, max_pixels: int) -> Image.Image:
        read.append(path)
        return read_picture(path, max_pixels)

    monkeypatch.setattr("tlkit.data.datasets.read_picture", recorded)
    three = replace(pictures, count=3)
    stored_inputs(store, prefix_of(model_of(), 2), three, 3)
    assert len(read) == 40 + 8


def test_a_view_that_is_partly_stored_is_completed_beside_one_that_is_not(
    pictures: Pictures, store: Store, tmp_path: Path
) -> None:
    prefix = prefix_of(model_of(), 2)
    stored_inputs(store, prefix, pictures, 1)  # view 0 whole
    whole, _ = stored_inputs(
        Store(tmp_path / "whole", 10**9), prefix, replace(pictures, count=3), 3
    )
    rendition = Rendition(pictures, "train", 1)
    [(images, _)] = rendition.load([[3, 5]])
    [outputs] = prefix.outputs(images, prefix.whole, [2])
    with store.entry(prefix.key(2, rendition.key())).filling() as filling:
        filling.append([rendition.names[index] for index in (3, 5)], prefix.rows(outputs))
    inputs, report = stored_inputs(store, prefix, replace(pictures, count=3), 3)
    assert report.hits == 40 + 8 + 2
    assert report.decision == "store"
    for epoch in range(3):
        assert torch.equal(training(inputs, epoch), training(whole, epoch))


def test_views_without_augmentation_are_one(pictures: Pictures, store: Store) -> None:
    """They share an entry, whose lock is to be taken once, and whose rows count once."""
    plain = replace(pictures, views=replace(pictures.views, augment="none"))
    other = replace(plain, views=replace(plain.views, seed=7))  # which nothing depends on
    keys = [Rendition(of, "train", 0).key() for of in (plain, other)]
    assert keys == [Rendition(plain, "val", None).key()] * 2
    inputs, report = stored_inputs(store, prefix_of(model_of(), 2), plain, 2)
    assert report.decision == "store"
    assert report.wanted == 40 + 8
    assert report.bytes == sum(file.stat().st_size for file in store.folder.glob("*/rows.bin"))
    assert torch.equal(training(inputs, 0), training(inputs, 1))


def test_a_budget_for_some_keeps_as_much_of_each_view(
    pictures: Pictures, store: Store, tmp_path: Path
) -> None:
    whole, _ = stored_inputs(store, prefix_of(model_of(), 2), pictures, 2)
    row = whole.val.rows.mapped[0].nbytes
    small = Store(tmp_path / "small", 40 * row)
    some, report = stored_inputs(small, prefix_of(model_of(), 2), pictures, 2)
    assert report.decision.startswith("recompute: no room")
    first, second = (int((view.rows.slots >= 0).sum()) for view in some.views)
    assert first == second > 10
    for epoch in (0, 1):
        assert torch.equal(training(whole, epoch), training(some, epoch))


@pytest.mark.parametrize("also", [(), (3,), (4,)])
def test_a_compiled_cut_is_derived_from_one_that_is_stored(
    also: tuple[int, ...],
    pictures: Pictures,
    store: Store,
    tmp_path: Path,
    passes: list[tuple[int, list[int]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stored_inputs(store, prefix_of(model_of(), 2), pictures, 1, "on")
    passes.clear()
    derived, report = stored_inputs(store, prefix_of(model_of(), 1, *also), pictures, 1, "on")
    assert report.hits == 0
    assert "uncompiled" not in capsys.readouterr().err
    if not also:
        assert {start for start, _ in passes} == {2}
    for depth in also:
        _, report = stored_inputs(store, prefix_of(model_of(), depth), pictures, 1, "on")
        assert report.hits == report.wanted
    direct, _ = stored_inputs(
        Store(tmp_path / "other", 10**9), prefix_of(model_of(), 1), pictures, 1, "on"
    )
    assert torch.equal(training(derived), training(direct))


@pytest.mark.parametrize("compiling", ["off", "on"])
def test_outputs_deleted_by_another_process_are_derived_from_all_the_same(
    compiling: str,
    pictures: Pictures,
    store: Store,
    tmp_path: Path,
    passes: list[tuple[int, list[int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored_inputs(store, prefix_of(model_of(), 2), pictures, 1, compiling)
    shallower = [info.path for info in store.entries()]
    passes.clear()
    nearest = fill._nearest

    def then_deleted(*arguments: Any) -> Any:
        found = nearest(*arguments)
        for path in shallower:
            shutil.rmtree(path, ignore_errors=True)
        return found

    monkeypatch.setattr(fill, "_nearest", then_deleted)
    derived, report = stored_inputs(store, prefix_of(model_of(), 1), pictures, 1, compiling)
    assert (report.hits, report.decision) == (0, "store")
    assert 2 in {start for start, _ in passes}
    monkeypatch.undo()
    whole = Store(tmp_path / "whole", 10**9)
    direct, _ = stored_inputs(whole, prefix_of(model_of(), 1), pictures, 1, compiling)
    assert torch.equal(training(derived), training(direct))


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [INDUCTOR], indirect=True)
def test_inductors_outputs_do_not_depend_on_what_else_their_pass_serves(compiler: str) -> None:
    model, pictures = model_of("test_vit", 32), torch.randn(3, 3, 32, 32)
    whole = len(units(model))
    alone, also = (
        replace(prefix_of(model, 0, *cuts), compiled=True, dtype=torch.bfloat16)
        for cuts in ((), (2,))
    )
    [direct] = alone.outputs(pictures, whole, [0])
    _, derived = also.outputs(pictures, whole, [2, 0])
    assert torch.equal(direct, derived)


@pytest.mark.parametrize("compiler", [ONNX_RUNTIME, OPENVINO, INDUCTOR], indirect=True)
def test_without_a_compiler_it_runs_uncompiled_and_says_so(
    compiler: str,
    pictures: Pictures,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_compiler(*arguments: object, **options: object) -> None:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(torch.onnx, "export", no_compiler)
    inputs, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1, "on")
    assert "runs uncompiled, for compiling failed: no C++ compiler" in capsys.readouterr().err
    assert report.decision == "store"
    plain, report = stored_inputs(store, prefix_of(model_of(), 2), pictures, 1)
    assert report.hits == report.wanted
    assert torch.equal(training(inputs), training(plain))


@pytest.mark.parametrize(
    ("compiler", "least"),
    [(ONNX_RUNTIME, 200), (OPENVINO, 200), (INDUCTOR, 100_000)],
    indirect=["compiler"],
)
def test_compiling_pays_by_number_alone(
    compiler: str, least: int, passes: list[tuple[int, list[int]]]
) -> None:
    prefix = prefix_of(model_of(), 2)
    assert not prefix.pays_to_compile(least - 1)
    assert prefix.pays_to_compile(least)
    assert not passes
