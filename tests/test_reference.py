"""docs/REFERENCE.md is what the code says, and its tables name exactly what runs leave."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from conftest import ROOT, make_pictures, run_entry
from matplotlib.figure import Figure
from mlflow.entities import Run
from test_architecture import ALLOWED, LEAVES

import tlkit.runs.phase
import tlkit.runs.suite
from docs import left_by_runs as tables
from docs import make_reference as made
from docs.left_by_runs import Left
from tlkit.cli import main
from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.evidence import curve
from tlkit.features import fill
from tlkit.search import conclude, figures
from tlkit.serving.log_entry import Entry
from tlkit.serving.reference import Reference
from tlkit.serving.request_log import open_log
from tlkit.serving.router import assign
from tlkit.summary import PhaseResult
from tlkit.tracking.lookup import local_model

NAME = "reference"
# What of MLflow's own tags is ours to set.
OURS = ("mlflow.note.content", "mlflow.parentRunId")

# ---- the text


def test_the_committed_file_is_what_the_code_says() -> None:
    same = made.FILE.read_text(encoding="utf-8") == made.reference()
    assert same, "docs/REFERENCE.md is not of this code: run `python -m docs.make_reference`"


def test_every_key_of_every_entry_point_is_in_it() -> None:
    text = made.reference()
    entries = made.entry_points()
    assert {entry.kind.__name__ for entry in entries} >= {"Config", "PredictSettings"}
    for entry in entries:
        assert f"| `{entry.command}` | {entry.does}" in text
        for key in entry.kind.names():
            assert f"| `{key}` |" in text


def test_keys_stand_under_the_headings_of_the_default_file() -> None:
    lines = (ROOT / "experiments" / "configs" / "default.yaml").read_text().split("\n\n")
    in_file = {
        part.splitlines()[0].removeprefix("# "): re.findall(r"^(\w+):", part, re.MULTILINE)
        for part in lines[1:]
    }
    in_text = {heading: [row[0] for row in rows] for heading, rows in made.groups(Config).items()}
    assert in_text == in_file


# ---- what runs leave


def left_by(run: Run) -> dict[str, set[str]]:
    """Names of metrics, tags and artifacts."""
    folder = Path(run.info.artifact_uri)  # where there are none, there is no folder either
    files = (path for path in folder.rglob("*") if path.is_file())
    tags = {tag for tag in run.data.tags if tag in OURS or not tag.startswith("mlflow.")}
    return {
        "metrics": set(run.data.metrics),
        "tags": tags,
        "artifacts": {path.relative_to(folder).as_posix() for path in files},
    }


TABLES: dict[str, list[Left]] = {
    "metrics": [row for rows in tables.METRICS.values() for row in rows],
    "tags": list(tables.TAGS),
    "artifacts": [row for rows in tables.ARTIFACTS.values() for row in rows],
}


@dataclass(frozen=True)
class Everything:
    """One run or more of every entry point.

    Attributes:
        codes: exit codes, by what was run.
    """

    runs: list[Run]
    codes: dict[str, int]


@pytest.fixture
def everything(tmp_path: Path, experiment: str, monkeypatch: pytest.MonkeyPatch) -> Everything:
    """Runs of all entry points, with the options that leave something more."""
    # What a picture shows is tested elsewhere; drawing them would take half of the time.
    draw = Figure.savefig

    def save(figure: Figure, place: Any, **options: Any) -> None:
        if isinstance(place, Path):
            place.touch()
        else:
            draw(figure, place, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    # The rates of the store and MLflow's system metrics want more pictures, and more seconds.
    monkeypatch.setattr(fill, "_WARM_UP", 0)
    monkeypatch.setattr(fill, "_MEASURED", 1)
    # By one measurement on a busy machine a store may look slower than this tiny network.
    monkeypatch.setattr(fill._Fill, "_is_worthwhile", lambda self: True)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.3")

    pictures = make_pictures(tmp_path / "pictures", counts=(4, 3, 2))
    data, test = ("--data", str(pictures)), str(pictures / "test")
    log = f"sqlite:///{tmp_path / 'requests.db'}"
    codes: dict[str, int] = {}

    def run(name: str, *arguments: str) -> str:
        codes[name] = run_entry(name, *arguments)
        [newest] = mlflow.search_runs([experiment], output_format="list", max_results=1)
        return f"runs:/{newest.info.run_id}/model"

    run("data", *data)
    run("suite", *data)
    trained = {each.info.run_name: each for each in runs_of(experiment)}
    ids = {name: each.info.run_id for name, each in trained.items()}
    baseline, head, finetune = (f"runs:/{ids[phase]}/model" for phase in tables.PHASES)
    from_head = (*data, "--init_from", ids["head"])
    anew = (*from_head, "--backbone_lr", "0.01")
    with monkeypatch.context() as patch:  # after training
        patch.setattr(tlkit.runs.phase, "evaluate", interrupt)
        mlflow.delete_run(run("finetune", *anew).split("/")[1])
    again = run("finetune", *anew)
    run("ensemble", "--models", f"{finetune},{again}", "--average", "weights")
    run("compare")
    run("cache")
    run("baseline", *data, "--groups", r"\w+\.png")

    def trained_already(phase: str, *_: object, **__: object) -> PhaseResult:
        return PhaseResult(phase, ids[phase], trained[phase].data.metrics)

    # What these train are phases like those above; what they leave themselves is looked at.
    for module in (tlkit.runs.suite, curve, conclude):
        monkeypatch.setattr(module, "run_phase", trained_already)
    run("curve", *data, "--fractions", "0.5, 1")
    run("baseline", *data, "--seeds", "2")
    study = ("--storage", f"sqlite:///{tmp_path / 'optuna.db'}", "--pruner", "none")
    # Beside the default two configurations, one of which comes twice.
    two = ("--trials", "4", "--search", "{backbone_lr: [0.001, 0.002]}")
    run("tune", *from_head, *study, *two)
    some = ("--gradcam", "true", "--abstain", str(middle_confidence(ids["head"])))
    some += ("--groups", r"\w+\.png")
    run("predict", "--model", head, "--images", test, *some)
    for candidate in (baseline, head):
        run("promote", "--name", NAME, "--candidate", candidate)
    run("route", "--champion", baseline, "--challenger", head)
    log_changed_requests(log, head)
    run("monitor", "--model", head, "--log", log)
    outcomes = tmp_path / "outcomes.csv"
    log_routed_requests(log, outcomes)
    run("abtest", "--log", log, "--outcomes", str(outcomes))
    run("export", "--model", head, "--images", test)
    return Everything(runs_of(experiment), codes)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt(2)


def runs_of(experiment: str) -> list[Run]:
    return list(mlflow.search_runs([experiment], output_format="list"))


def middle_confidence(run_id: str) -> float:
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="predictions.csv")
    return float(pd.read_csv(path).filter(like="probability_").max(axis=1).median())


def log_changed_requests(log: str, model: str) -> None:
    with local_model(model) as folder:
        known = Reference.load(folder)
    far = known.embedding + 10 * known.embedding.std(axis=0)
    asked = [
        Entry(1.0, 0.1, 0, "cat", 0.9, [float(value) for value in row], 0.5, 0.1) for row in far
    ]
    open_log(log).write(asked * 10)


def log_routed_requests(log: str, outcomes: Path) -> None:
    keys = [str(number) for number in range(20)]
    pd.DataFrame({"key": keys, "success": 1}).to_csv(outcomes, index=False)
    open_log(log).write(
        [
            Entry(1.0, 0.1, 0, "cat", 0.9, [], 0.5, 0.1, assign(key, "", 0.5), key, 0.5)
            for key in keys
        ]
    )


# Of a search; some want more trials than are made here.
FIGURES = {f"{name}.png" for name in figures._PLOTS}


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def undescribed(done: Iterable[Run]) -> Iterator[str]:
    """Entry points and runs that are in no table."""
    described = {name for rows in TABLES.values() for row in rows for name in row.runs}
    ran = {run.info.run_name for run in done}
    for entry in made.entry_points():
        if entry.run not in described & ran:
            yield f"{entry.name} is not described there, or not run in tests/test_reference.py"
    yield from (f"a run {name} is not described" for name in ran if not matches(name, described))
    for name in described:
        if not any(fnmatchcase(each, name) for each in ran):
            yield f"no run is called {name}"


def differences(done: Iterable[Run], kind: str) -> Iterator[str]:
    """What runs leave and no table names, and the other way round."""
    seen: set[Left] = set()
    for run in done:
        name = run.info.run_name
        names, rows = left_by(run)[kind], [r for r in TABLES[kind] if matches(name, r.runs)]
        found = {row for row in rows if any(fnmatchcase(each, row.name) for each in names)}
        seen |= found
        for each in sorted(names):
            if not matches(each, (row.name for row in rows)):
                yield f"{name} leaves {each}, which is not described"
        for row in rows:
            if not row.when and row not in found:
                yield f"{name} does not leave {row.name}"
    for row in TABLES[kind]:
        if row not in seen and row.name not in FIGURES:
            yield f"none of {', '.join(row.runs)} leaves {row.name} {row.when}"


# One test, for the runs take long to make, and tests run on several cores.
def test_runs_leave_exactly_what_is_described(everything: Everything) -> None:
    of_search = {row.name for row in TABLES["artifacts"] if row.runs == ("tune",)}
    assert {name for name in of_search if name.endswith(".png")} == FIGURES
    faults = list(undescribed(everything.runs))
    for kind in TABLES:
        faults += differences(everything.runs, kind)
    assert not faults, "docs/left_by_runs.py:\n" + "\n".join(faults)
    for run in everything.runs:
        name = run.info.run_name
        assert bool(run.outputs.model_outputs) == (name in tables.MODELS), name
        digests = [each.dataset.digest for each in run.inputs.dataset_inputs]
        assert digests == [v for k, v in run.data.tags.items() if k == "tlkit.data_digest"], name
    registered = mlflow.MlflowClient().get_registered_model(NAME)
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{NAME}'")
    assert (len(versions), "champion" in registered.aliases) == (2, True)
    assert set(registered.tags).union(*(each.tags for each in versions)) == set(tables.REGISTRY)
    assert {name: code for name, code in everything.codes.items() if code} == {"monitor": 1}


# ---- exit codes and environment variables


def modules() -> list[ast.Module]:
    paths = [*(ROOT / "tlkit").rglob("*.py"), *(ROOT / "experiments").glob("*.py")]
    return [ast.parse(path.read_text(encoding="utf-8")) for path in paths]


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    in_code = {
        ast.literal_eval(node.args[0])
        for tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("end", "sys.exit")
        if node.args and isinstance(node.args[0], ast.Constant)
    }
    assert in_code == set(tables.EXIT_CODES)

    def code_of(task: Callable[[Config], None]) -> int:
        with pytest.raises(SystemExit) as stop:
            main(task, Config, [])
        return int(stop.value.code or 0)

    def mistaken(config: Config) -> None:
        raise UserError("seen; allowed")

    def interrupted(config: Config) -> None:
        raise KeyboardInterrupt

    assert code_of(mistaken) == 2
    assert capsys.readouterr().err == "error: seen; allowed\n"
    assert code_of(interrupted) == 130


def test_environment_variables() -> None:
    texts: dict[str, str] = {}
    asked: set[str] = set()
    for tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                texts |= {ast.unparse(target): node.value.value for target in node.targets}
            elif isinstance(node, ast.Call) and "os.environ" in ast.unparse(node.func):
                asked.add(ast.unparse(node.args[0]))
            elif isinstance(node, ast.Subscript) and "os.environ" in ast.unparse(node.value):
                asked.add(ast.unparse(node.slice))
    names = {texts[name] if name in texts else ast.literal_eval(name) for name in asked}
    assert names == set(tables.VARIABLES)


# ---- docs/ARCHITECTURE.md


def test_the_diagram_has_every_part_and_no_arrow_that_is_not_allowed() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    [diagram] = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    arrows = set(re.findall(r"^ *(\w+) --> (\w+)$", diagram, re.MULTILINE))
    assert len(arrows) == diagram.count("-->") > 10
    parts = {path.stem for path in (ROOT / "tlkit").glob("[a-z]*")}
    assert {part for arrow in arrows for part in arrow} >= parts - set(LEAVES)

    def below(part: str) -> set[str]:
        return {part}.union(*(below(target) for source, target in arrows if source == part))

    for part, allowed in ALLOWED.items():
        drawn = {target for source, target in arrows if source == part}
        assert drawn <= allowed <= below(part) | set(LEAVES), part


def test_files_that_the_documents_name_exist() -> None:
    for name in ("docs/ARCHITECTURE.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        paths = re.findall(r"`((?:tlkit|experiments|tests|docs|benchmarks)/[\w/.]+)`", text)
        paths += [
            str((ROOT / name).parent.joinpath(p))
            for p in re.findall(r"\]\((?!http)([^)#]+)\)", text)
        ]
        assert paths
        assert [path for path in paths if not (ROOT / path).exists()] == [], name
