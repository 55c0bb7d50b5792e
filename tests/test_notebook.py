"""The notebook runs from top to bottom, and what is committed of it is small and clean."""

import re
from pathlib import Path

import mlflow
import nbformat
import pandas as pd
import pytest
from conftest import ROOT, SMOKE, MakeFolder
from nbclient import NotebookClient
from nbformat import NotebookNode

from tlkit.evaluation.comparison import compare_paired, holm
from tlkit.summary import PhaseResult

NOTEBOOK = ROOT / "notebooks" / "transfer_learning.ipynb"
MAX_BYTES = 400_000
# Two folders below the root of a disk, a drive, or the address of a file: a path of someone's own.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~#-])/[\w.@-]+/[\w.@-]|\b[A-Za-z]:\\|(?:file|sqlite):///")


def load() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: NotebookNode) -> str:
    """All that a cell's outputs say as text."""
    outputs = [output.get("text", "") + str(output.get("data", "")) for output in cell.outputs]
    return "\n".join(re.sub(r"'image/\w+': '[^']*'", "", text) for text in outputs)


def figures(notebook: NotebookNode) -> list[str]:
    """The ids of the cells that show a picture."""
    return [
        cell.id
        for cell in code_cells(notebook)
        if any("image/jpeg" in output.get("data", {}) for output in cell.outputs)
    ]


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_and_leaves_its_runs(
    make_folder: MakeFolder, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_NOTEBOOK_CONFIG", str(SMOKE))
    monkeypatch.setenv("TLKIT_NOTEBOOK_DATA", str(make_folder()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    before = {path.name for path in ROOT.iterdir()}
    notebook = load()
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    # An error in a cell is raised here, with its traceback.
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()

    assert figures(notebook) == figures(load())
    runs = mlflow.search_runs([experiment], order_by=["start_time ASC"], output_format="list")
    names = [run.info.run_name for run in runs]
    assert names == ["data", "baseline", "head", "finetune", "head"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert runs[3].data.tags["tlkit.init_from"] == runs[2].info.run_id
    cells = {cell.id: shown(cell) for cell in code_cells(notebook)}
    for name in ("baseline", "head", "finetune"):
        accuracy = {run.info.run_name: run.data.metrics for run in runs[1:4]}[name]["test/accuracy"]
        assert re.search(rf"^{name} .* {accuracy:.3f} ", cells["finetune"], re.MULTILINE)
    found = runs[4].data.metrics
    assert found["features/hits"] == found["features/wanted"] > 0
    assert f"found: {found['features/hits']:.0f} of" in cells["time"]
    del cells["ui"]  # names the store, which is not the default one here
    assert not ABSOLUTE_PATH.search("\n".join(cells.values()))
    assert {path.name for path in ROOT.iterdir()} == before


def test_classes_may_be_called_as_gaps_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (compare,) = (cell for cell in load().cells if cell.id == "compare")
    predicted = {"baseline": ["NA", "NA"], "head": ["None", "NA"], "finetune": ["None", "None"]}
    for phase, answers in predicted.items():
        rows = zip(["None", "NA"], answers, strict=True)
        lines = ["label,predicted", *(",".join(row) for row in rows)]
        (tmp_path / phase).write_text("\n".join(lines))
    names = {
        "pd": pd, "compare_paired": compare_paired, "holm": holm,
        "results": [PhaseResult(phase, phase, {}) for phase in predicted],
        "artifact": lambda run_id, name: tmp_path / run_id,
    }  # fmt: skip
    exec(compare.source, names)
    said = capsys.readouterr().out
    assert "head against baseline: +0.500" in said
    assert "finetune against head: -0.500" in said


def test_every_cell_was_run_in_order_and_none_failed() -> None:
    cells = code_cells(load())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert len(figures(load())) >= 5


def test_what_is_committed_is_small_and_names_no_place_of_a_machine() -> None:
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    notebook = load()
    for cell in notebook.cells:
        text = cell.source + (shown(cell) if cell.cell_type == "code" else "")
        found = ABSOLUTE_PATH.search(text)
        assert not found, f"cell {cell.id}: {text[max(0, found.start() - 40) : found.end() + 40]}"


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("see /root/w/dev/lib.py:3", True),
        ("'/tmp/ipykernel_7/1.py'", True),
        ("C:\\Users\\me", True),
        ("sqlite:////tmp/x/y.db", True),
        ("runs:/0123/model", False),
        ("http://127.0.0.1:5000/#/a/b", False),
        ("train/accuracy and docs/images/ui.png", False),
    ],
)
def test_a_path_of_a_machine_is_known_when_seen(text: str, is_path: bool) -> None:
    assert bool(ABSOLUTE_PATH.search(text)) == is_path
