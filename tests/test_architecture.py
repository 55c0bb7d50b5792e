"""The arrows of docs and DESIGN: which part of the code may know of which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "models", "features", "training", "evaluation", "serving")
LEAVES = ("errors", "files")
ALLOWED = {
    "data": set(),
    "models": set(),
    "training": set(),
    "evaluation": set(),
    "features": {"data", "models"},
    "serving": {"data", "models"},
    "config": {"keys"},
    "keys": set(),
    "errors": set(),
    "files": set(),
    "tracking": set(),
    "cli": {"keys", "process"},
    "process": set(),
    "heat_maps": {"evaluation", "features", "models"},
    "outcome": {"data", "evaluation", "features", "heat_maps", "models", "serving", "training"},
    "phases": {"config", "data", "evaluation", "features", "models", "serving", "training"},
    "summary": {"config", "data", "evaluation", "features", "outcome"},
    "lineage": {"data", "tracking"},
    "environment": {"phases", "tracking"},
    "runs": {
        "config",
        "environment",
        "lineage",
        "tracking",
        "outcome",
        "phases",
        "summary",
        *PACKAGES,
    },
    "deployment": {
        *("config", "keys", "lineage", "tracking"),
        *("heat_maps", "outcome", "phases", "summary", "runs"),
        *PACKAGES,
    },
    "evidence": {
        *("config", "keys", "tracking"),
        *("heat_maps", "outcome", "phases", "summary", "runs", "deployment"),
        *PACKAGES,
    },
    "search": {
        *("config", "keys", "tracking"),
        *("lineage", "phases", "runs", "summary"),
        *PACKAGES,
    },
}


def imported(path: Path) -> set[str]:
    """The full names of the modules of this project that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("tlkit", "experiments")}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tlkit").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_arrows_point_down(path: Path) -> None:
    part = path.relative_to(ROOT / "tlkit").with_suffix("").parts[0]
    if part == "__init__":
        assert not imported(path)
        return
    for name in imported(path):
        assert name.startswith("tlkit."), f"{path} imports {name}"
        other = name.split(".")[1]
        assert other in {part, *LEAVES, *ALLOWED[part]}, f"{part} must not know of {other}"


def test_mlflow_is_known_to_few_modules() -> None:
    knowing = {
        path.relative_to(ROOT / "tlkit").as_posix()
        for path in (ROOT / "tlkit").rglob("*.py")
        if "import mlflow" in path.read_text() or "from mlflow" in path.read_text()
    }
    served = {f"serving/{name}.py" for name in ("answer", "guard", "pyfunc", "router")}
    tracking = ("faults", "lookup", "registry", "run", "store", "views")
    assert knowing == {f"tracking/{name}.py" for name in tracking} | served


def test_optuna_is_known_to_the_search_alone() -> None:
    knowing = {
        path.relative_to(ROOT / "tlkit").parts[0]
        for path in (ROOT / "tlkit").rglob("*.py")
        if "import optuna" in path.read_text() or "from optuna" in path.read_text()
    }
    assert knowing == {"search"}


def test_entry_points_are_short_and_nothing_imports_them() -> None:
    for path in (ROOT / "experiments").glob("*.py"):
        assert len(path.read_text().splitlines()) < 60, path
    for path in (ROOT / "tests").glob("*.py"):
        assert not any(name.startswith("experiments") for name in imported(path)), path


def test_what_a_task_imports_it_imports_in_one_place() -> None:
    """So that no garbage is collected meanwhile."""
    for path in (ROOT / "experiments").glob("[a-z]*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        [task] = (node for node in tree.body if isinstance(node, ast.FunctionDef))
        [block] = (node for node in ast.walk(task) if isinstance(node, ast.With))
        assert [ast.unparse(item) for item in block.items] == ["importing()"], path
        within = [node for node in ast.walk(task) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert within == block.body, path


def test_there_is_no_drawer_of_odds_and_ends() -> None:
    names = {path.stem for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert not names & {"utils", "util", "helpers", "common", "misc"}
