"""Write docs/REFERENCE.md from MLproject, the entry points and the settings.

python -m docs.make_reference
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from docs.left_by_runs import (
    ALL,
    ARTIFACTS,
    EXIT_CODES,
    METRICS,
    MODELS,
    PHASES,
    REGISTRY,
    TAGS,
    VARIABLES,
    Left,
)
from tlkit.keys import Settings

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "REFERENCE.md"


@dataclass(frozen=True)
class EntryPoint:
    """One of MLproject's, and what its module in experiments/ says of it."""

    name: str
    module: str
    parameters: tuple[str, ...]
    does: str
    kind: type[Settings]

    @property
    def run(self) -> str:
        """The name of its run."""
        return self.module

    @property
    def command(self) -> str:
        """How it is called, without what it must be given."""
        return "mlflow run ." if self.name == "main" else f"mlflow run . -e {self.name}"


def entry_points() -> list[EntryPoint]:
    """All of them, in the order of MLproject."""
    content = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
    found = []
    for name, entry in content["entry_points"].items():
        module = re.match(r"python -m experiments\.(\w+)", entry["command"])
        assert module, f"{name} runs no module of experiments/: {entry['command']}"
        source = (ROOT / "experiments" / f"{module[1]}.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
        does = (ast.get_docstring(tree) or "").splitlines()[0]
        parameters = tuple(entry.get("parameters", ()))
        found.append(EntryPoint(name, module[1], parameters, does, _kind(tree, module[1])))
    return found


def _kind(tree: ast.Module, module: str) -> type[Settings]:
    """The dataclass in `main(task, Kind)`. Parsed, not imported: that would start torch."""
    origins = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "main":
            name = ast.unparse(node.args[1])
            kind: type[Settings] = getattr(importlib.import_module(origins[name]), name)
            return kind
    raise AssertionError(f"experiments/{module}.py does not call main(task, Kind)")


def groups(kind: type[Settings]) -> dict[str, list[tuple[str, Any, str, str]]]:
    """What `kind.describe()` says, under the comments (`# Data`) that its source has above keys."""
    described = {row[0]: row for row in kind.describe()}
    found: dict[str, list[tuple[str, Any, str, str]]] = {}
    heading = ""
    for line in inspect.getsource(kind).splitlines():
        if comment := re.fullmatch(r"    # ([A-Z][\w ]*)", line):
            heading = comment[1]
        elif (field := re.match(r"    (\w+):", line)) and field[1] in described:
            found.setdefault(heading, []).append(described.pop(field[1]))
    assert not described, f"{kind.__name__} inherits {', '.join(described)}; list them too"
    return found


# ---- the document


def reference() -> str:
    """The text of docs/REFERENCE.md."""
    return "\n".join(
        [
            "# Reference",
            "",
            "Made from the code by `python -m docs.make_reference`; a change by hand is lost. How "
            "to use all this stands in the [README](../README.md) and in [USING.md](USING.md).",
            "",
            *_entry_points(),
            *_keys(),
            *_left(),
            *_codes_and_variables(),
        ]
    )


def _entry_points() -> list[str]:
    rows = [
        (
            f"`{entry.command}`",
            entry.does,
            ", ".join(f"`{name}`" for name in entry.parameters if name != "config"),
            f"[{entry.kind.__name__}](#{entry.kind.__name__.lower()})",
        )
        for entry in entry_points()
    ]
    return [
        "## Entry points",
        "",
        "Give a key with `-P key=value`. Without MLflow's launcher: `python -m experiments.NAME "
        "--key value`, where NAME is `suite` for the first one; `--help` lists its keys.",
        "",
        "`mlflow run` begins a run before the command is read. Where the command is refused then, "
        "that run is left FAILED, with what was typed after `-P` alone and under a name that "
        "MLflow draws; the reason is on the terminal. A name given by `--run-name` stays.",
        "",
        *_table(("command", "what it does", "must be given", "keys"), rows),
    ]


def _keys() -> list[str]:
    entries = entry_points()
    lines = [
        "## Keys",
        "",
        "A flag beats the file (`config`), the file beats the default. Unknown keys and impossible "
        "values are refused before any work, all together.",
        "",
    ]
    for kind in dict.fromkeys(entry.kind for entry in entries):
        names = [f"`{entry.name}`" for entry in entries if entry.kind is kind]
        lines += [f"### {kind.__name__}", "", f"Of {_listed(names)}.", ""]
        if any("config" in entry.parameters for entry in entries if entry.kind is kind):
            lines += [
                "`config` names a file of these keys, "
                "[`experiments/configs/default.yaml`](../experiments/configs/default.yaml) by "
                "default.",
                "",
            ]
        for heading, described in groups(kind).items():
            lines += [f"#### {heading}", ""] if heading else []
            rows = [
                (f"`{key}`", _value(value), *map(_text, rest)) for key, value, *rest in described
            ]
            lines += _table(("key", "default", "meaning", "allowed"), rows)
    return lines


def _left() -> list[str]:
    lines = [
        "## What a run leaves",
        "",
        "Runs are called after their entry point, that of `mlflow run .` is `suite`; phases are "
        "`baseline`, `head` and `finetune`. `*` stands for any text. A command that works on the "
        "trials of a search that is logged under another run already leaves a run `tune-worker` "
        "below that one, with a description and nothing else. The first run of an experiment "
        "leaves three views for MLflow's list of runs in tags of the experiment, "
        "`mlflow.sharedViewState.tlkit-*`; one that you change stays as you left it.",
        "",
        "### Metrics",
        "",
    ]
    for heading, some in METRICS.items():
        lines += [f"#### {heading}", "", *_table_of(some)]
    lines += ["### Tags", "", *_table_of(TAGS)]
    lines += ["### Artifacts", ""]
    for heading, some in ARTIFACTS.items():
        lines += [f"#### {heading}", "", *_table_of(some)]
    return [
        *lines,
        "### The logged model",
        "",
        f"{_listed(_runs(MODELS)).capitalize()} log a model called `model`: `runs:/RUN_ID/model`. "
        "It is safetensors and JSON, and loads with "
        "`MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false`.",
        "",
        "### Tags in the model registry",
        "",
        "`promote` sets the aliases `champion` and `challenger`, and the tags",
        "",
        *_table(("tag", "meaning"), [(f"`{tag}`", text) for tag, text in REGISTRY.items()]),
    ]


def _codes_and_variables() -> list[str]:
    codes = [(f"`{code}`", meaning) for code, meaning in EXIT_CODES.items()]
    variables = [(f"`{name}`", meaning) for name, meaning in VARIABLES.items()]
    return [
        "## Exit codes",
        "",
        "Of `python -m experiments.NAME`. `mlflow run` exits with 1 for each of them but 0.",
        "",
        *_table(("code", "meaning"), codes),
        "## Environment variables",
        "",
        "Those that the code reads or sets itself. Where runs go says MLflow's "
        "`MLFLOW_TRACKING_URI`.",
        "",
        *_table(("variable", "meaning"), variables),
    ]


def _table_of(some: Iterable[Left]) -> list[str]:
    rows = [
        (
            f"`{row.name}`",
            ", ".join(_runs(row.runs)) + (f", {row.when}" if row.when else ""),
            row.meaning,
        )
        for row in some
    ]
    return _table(("name", "left by", "meaning"), rows)


def _runs(names: Sequence[str]) -> list[str]:
    """Run names for a reader: the phases and all as one word."""
    if tuple(names) == ALL:
        return ["all"]
    rest = [f"`{name}`" for name in names]
    if set(PHASES) <= set(names):
        rest = ["phases", *(f"`{name}`" for name in names if name not in PHASES)]
    return [name.replace("*-seeds", "PHASE-seeds").replace("trial-*", "trial-N") for name in rest]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    line = partial(str.join, " | ")
    return [
        f"| {line(head)} |",
        "|" + "---|" * len(head),
        *(f"| {line(row)} |" for row in rows),
        "",
    ]


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _value(value: Any) -> str:
    """A default as it is typed."""
    if isinstance(value, dict):
        return "<br>".join(f"`{key}: {_flow(item)}`" for key, item in value.items())
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value == "(to be given)":
        return "to be given"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _flow(value: Mapping[str, Any]) -> str:
    items = (f"{key}: {_value(item).strip('`')}" for key, item in value.items())
    return "{" + ", ".join(items) + "}"


def _text(text: str) -> str:
    """Words of the code, with what Markdown would take for its own."""
    return text.replace("|", r"\|").replace("*", r"\*").replace("<", "&lt;")


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")
