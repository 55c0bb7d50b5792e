"""The pictures of a run, in the order in which a phase wants them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import MakeFolder
from PIL import Image

from tlkit.data.audit import audit
from tlkit.data.sources import open_source
from tlkit.data.transforms import Preprocessing, Views
from tlkit.errors import UserError
from tlkit.features import inputs as readers
from tlkit.features.inputs import PictureInputs, Pictures
from tlkit.models.backbones import create_model, data_config


@pytest.fixture
def pictures(make_folder: MakeFolder, tmp_path: Path) -> Pictures:
    manifest, _ = audit(
        open_source(str(make_folder()), tmp_path, 0), seed=0, max_pixels=10**6,
        val_fraction=0.1, test_fraction=0.1, workers=1, looks=tmp_path / "looks",
    )  # fmt: skip
    model = create_model("test_resnet", num_classes=2, dropout=0.0, image_size=32)
    views = Views(Preprocessing(data_config(model)), "recipe", 0)
    return Pictures(manifest, views, count=2, max_pixels=10**6, workers=0, for_gpu=False)


def test_the_number_of_workers_changes_nothing(pictures: Pictures) -> None:
    batches = [[3, 1], [0, 2, 5]]
    alone = list(pictures.view(1, batches))
    workers = Pictures(**{**vars(pictures), "workers": 2})
    for (a, labels), (b, other) in zip(alone, workers.view(1, batches), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(labels, other)


def test_what_is_read_once_is_read_without_processes_and_the_same(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [[3, 1], [0, 2, 5], [4], [7, 6], [11, 10, 9, 8]]
    expected = list(pictures.plain("val", batches))
    monkeypatch.setattr(readers, "loader", None)
    for threads in (0, 1, 3):
        by_threads = replace(pictures, workers=threads, by_threads=True)
        for (a, labels), (b, other) in zip(by_threads.plain("val", batches), expected, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(labels, other)
    gone = pictures.manifest.of("val")[5]
    (pictures.manifest.root / gone.path).unlink()
    with pytest.raises(UserError, match=gone.path):
        list(by_threads.plain("val", batches))


def test_batches_come_in_the_order_given(pictures: Pictures) -> None:
    train = pictures.manifest.of("train")
    labels = [label for _, batch in pictures.plain("train", [[23, 0], [12]]) for label in batch]
    assert [int(label) for label in labels] == [train[i].label for i in (23, 0, 12)]


def test_a_picture_that_vanished_after_the_audit_is_named(pictures: Pictures) -> None:
    gone = pictures.manifest.of("train")[5]
    (pictures.manifest.root / gone.path).unlink()
    with pytest.raises(UserError, match=gone.path):
        list(pictures.view(0, [[5]]))


def test_a_picture_that_changed_after_the_audit_is_refused(pictures: Pictures) -> None:
    changed = pictures.manifest.root / pictures.manifest.of("train")[5].path
    with Image.open(changed) as image:
        image.rotate(90).save(changed)
    with pytest.raises(UserError, match=f"{changed.name} has other content"):
        list(pictures.view(0, [[5]]))


def test_epochs_take_the_views_in_turn(pictures: Pictures) -> None:
    inputs = PictureInputs(pictures)
    seen = [torch.cat([x for x, _ in inputs.training(epoch, [[0, 1]])]) for epoch in range(4)]
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])
    validated, held_out = (
        torch.cat([x for x, _ in batches])
        for batches in (inputs.validation([[0, 1]]), pictures.plain("test", [[0, 1]]))
    )
    expected = torch.cat([x for x, _ in pictures.plain("val", [[0, 1]])])
    assert torch.equal(validated, expected)
    assert not torch.equal(validated, held_out)
