"""A phase on a card: on the one of this machine, or on a stand-in for one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from conftest import ROOT, SMOKE, Entry, MakeFolder
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

LEARNS = ["--head_lr", "0.02", "--backbone_lr", "0.001", "--batch_size", "16"]
FINETUNE = ["--finetune_epochs", "3", "--views", "2", "--compile", "off"]
ROOMY, TINY = 2**30, 2**10


def on_a_card(free: int, name: str, *arguments: str) -> None:
    """Run `python -m experiments.NAME` with a card."""
    stand_in = [str(Path(__file__).with_name("stand_in_card.py")), str(free), name]
    program = ["-m", f"experiments.{name}"] if torch.cuda.is_available() else stand_in
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def newest_run(name: str, experiment: str) -> Run:
    query = f"attributes.run_name = '{name}'"
    return mlflow.search_runs([experiment], query, max_results=1, output_format="list")[0]


def history(run: Run) -> pd.DataFrame:
    file = download_artifacts(run_id=run.info.run_id, artifact_path="history.json")
    return pd.DataFrame(json.loads(Path(file).read_text()))


def probabilities(run: Run) -> pd.DataFrame:
    file = download_artifacts(run_id=run.info.run_id, artifact_path="predictions.csv")
    return pd.read_csv(file).set_index("path").filter(like="probability")


def own_metrics(run: Run) -> set[str]:
    """But for the system's, which MLflow logs where a run takes long enough."""
    return {name for name in run.data.metrics if not name.startswith("system/")}


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="a torch for the CPU alone")
@pytest.mark.parametrize(
    ("phase", "options", "free"),
    [
        ("baseline", ["--precision", "fp32"], ROOMY),
        ("finetune", [*FINETUNE, "--precision", "fp32"], ROOMY),
        ("finetune", [*FINETUNE, "--precision", "bf16", "--loader_workers", "2"], TINY),
        ("head", ["--compile", "off", "--precision", "fp32", "--store_gigabytes", "0"], ROOMY),
        ("head", ["--engine", "plain"], ROOMY),
    ],
    ids=["baseline", "outputs on the card", "in the processor's memory", "not stored", "plain"],
)
def test_a_phase_on_a_card_gives_what_the_cpu_gives(
    phase: str,
    options: list[str],
    free: int,
    entry: Entry,
    experiment: str,
    make_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = str(make_folder(counts=(16, 6, 6)))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    arguments = ["--data", data, *LEARNS, *options]
    assert entry(phase, *arguments, "--device", "cpu") == 0
    by_cpu = newest_run(phase, experiment)
    on_a_card(free, phase, "--config", str(SMOKE), *arguments, "--device", "cuda")
    by_card = newest_run(phase, experiment)
    assert by_card.data.params["device"] == "cuda"
    close = 0.05 if "bf16" in options else 1e-3
    for given in (history, probabilities):
        pd.testing.assert_frame_equal(given(by_card), given(by_cpu), rtol=0, atol=close)
    assert own_metrics(by_card) == own_metrics(by_cpu)
