"""What tests share: tiny pictures, a store of runs, and a place for everything that is written."""

import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tlkit  # noqa: F401 (before MLflow, which reads then what this sets)

# isort: split
import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import torch
from matplotlib.figure import Figure
from mlflow.entities import Run
from PIL import Image
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer, _create_swin_transformer

from tlkit.serving.reference import Reference
from tlkit.tracking.lookup import local_model

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "experiments" / "configs" / "smoke.yaml"

USES_OF_A_MODEL = (
    "predict",
    "promote",
    "ensemble",
    "route",
    "abtest",
    "monitor",
    "export",
    "compare",
)


@register_model
def small_swin(pretrained: bool = False, **options: Any) -> SwinTransformer:
    """timm has no swin for tests: its smallest has 28 million parameters, this one 50 thousand."""
    shape = {"embed_dim": 16, "depths": (2, 3), "num_heads": (1, 2)}
    name = "swin_tiny_patch4_window7_224"
    return _create_swin_transformer(name, pretrained, **{**shape, **options})


MakeFolder = Callable[..., Path]
Entry = Callable[..., int]


@pytest.fixture(scope="session", autouse=True)
def _places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache, MLflow's store and the current folder, outside of the project; no hub."""
    folder = tmp_path_factory.mktemp("session")
    # What MLflow downloads, and what a process that is killed leaves, goes with the tests. It lies
    # outside of pytest's folder, for the path of a socket must be short.
    temporary = tempfile.mkdtemp(prefix="tlkit-tests-")
    torch.set_num_threads(1)  # tiny networks: more threads only wait for one another
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(folder / "cache"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TMPDIR", temporary)
        patch.setattr(tempfile, "tempdir", temporary)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.chdir(folder)
        yield folder
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a current folder for each test."""
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def make_pictures(
    root: Path,
    classes: tuple[str, ...] = ("cat", "dog"),
    counts: tuple[int, int, int] = (12, 6, 6),
    size: int = 40,
    suffix: str = ".png",
) -> Path:
    """A data set that a network can learn: noise, brighter in one colour a class."""
    generator = np.random.default_rng(0)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for label, class_name in enumerate(classes):
            folder = root / split / class_name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 200, (size, size, 3), dtype=np.uint8)
                pixels[..., label % 3] += 55
                Image.fromarray(pixels).save(folder / f"{index}{suffix}")
    return root


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """`make_pictures` under the test's temporary folder."""

    def make(name: str = "pictures", **options: object) -> Path:
        return make_pictures(tmp_path / name, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are files of one pixel, and heat maps are of two pictures: together they take half
    of a tiny run. Those that tests look at are drawn without a file, or made by fixtures of a
    module, which come before this."""
    monkeypatch.setattr("tlkit.outcome.GRADCAM_TILES", 2)
    draw = Figure.savefig

    def save(figure: Figure, where: Any, **options: Any) -> None:
        if isinstance(where, Path):
            Image.new("L", (1, 1)).save(where)
        else:
            draw(figure, where, **options)

    monkeypatch.setattr(Figure, "savefig", save)


@contextmanager
def web_server(folder: Path, *words: str, ping: str, **variables: str) -> Iterator[str]:
    """The address of `mlflow WORDS`, run in a folder, once it answers at `ping`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words, "-p", str(port)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                if requests.get(f"{url}{ping}", timeout=5).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.5)
            assert process.poll() is None, (folder / "log").read_text()
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium, driven by Playwright; its settings go to the test's folder."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no Chromium here")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as play:
        environment = {**os.environ, "HOME": str(tmp_path)}
        opened = play.chromium.launch(
            executable_path=program, args=["--no-sandbox"], env=environment
        )
        yield opened
        opened.close()


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """An experiment of the test's own, by its id, which runs go to."""
    return mlflow.set_experiment(request.node.nodeid).experiment_id


def run_entry(name: str, *arguments: str) -> int:
    """Run `python -m experiments.NAME` in this process, training with the smoke recipe; its exit
    code."""
    recipe = () if name in USES_OF_A_MODEL else ("--config", str(SMOKE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *recipe, *arguments])
        patch.syspath_prepend(str(ROOT))
        try:
            runpy.run_module(f"experiments.{name}", run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


@pytest.fixture
def entry(experiment: str) -> Entry:
    """`run_entry`, logging to the test's own experiment."""
    return run_entry


class Trained:
    """A head and a baseline on the same tiny pictures."""

    def __init__(self, pictures: Path, runs: dict[str, Run]) -> None:
        self.pictures = pictures
        self.runs = runs

    def model(self, phase: str = "head") -> str:
        return f"runs:/{self.runs[phase].info.run_id}/model"

    def reference(self, phase: str = "head") -> Reference:
        """What the model's own pictures are summed up as."""
        with local_model(self.model(phase)) as folder:
            return Reference.load(folder)

    def evaluated(self, phase: str = "head") -> pd.DataFrame:
        """predictions.csv of the run, by path."""
        run_id = self.runs[phase].info.run_id
        path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="predictions.csv")
        return pd.read_csv(path, keep_default_na=False).set_index("path")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, _places: Path) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    pictures = make_pictures(folder / "pictures")
    mlflow.set_experiment("trained for prediction")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(folder / "cache"))
        for phase in ("baseline", "head"):
            assert run_entry(phase, "--data", str(pictures), "--head_lr", "0.02") == 0
    found = mlflow.search_runs(experiment_names=["trained for prediction"], output_format="list")
    return Trained(pictures, {run.info.run_name: run for run in found})
