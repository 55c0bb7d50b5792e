"""What tests share: tiny pictures, and a place of their own for everything that is written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache and MLflow's store under the test's temporary folder; no hub is asked."""
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes a data set that a network can learn: noisy pictures, one colour a class."""

    def make(
        name: str = "pictures",
        classes: tuple[str, ...] = ("cat", "dog"),
        counts: tuple[int, int, int] = (12, 6, 6),
        size: int = 40,
    ) -> Path:
        root = tmp_path / name
        generator = np.random.default_rng(0)
        for split, count in zip(("train", "val", "test"), counts, strict=True):
            for label, class_name in enumerate(classes):
                folder = root / split / class_name
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = generator.integers(0, 200, (size, size, 3), dtype=np.uint8)
                    pixels[..., label % 3] += 55
                    Image.fromarray(pixels).save(folder / f"{index}.png")
        return root

    return make
