"""Every command in the code blocks of the documents is run, on tiny pictures, in their order.

What a block holds is told by its first line: ```python is run; ```yaml is a recipe, and must load;
```text is what one sees, and so is a block without a language that begins with a table. All
others hold commands, and one that is not known here fails: teach it to `Reader`, or to NOT_RUN.
"""

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import pytest
import requests
from conftest import ROOT, SMOKE, MakeFolder, run_entry
from mlflow.projects._project_spec import load_project

from tlkit.cli import parse_flags
from tlkit.config import Config
from tlkit.phases.prepare import PHASES
from tlkit.serving.log_entry import Entry
from tlkit.serving.reference import Reference
from tlkit.serving.request_log import open_log
from tlkit.tracking.lookup import local_model
from tlkit.tracking.registry import register_model
from tlkit.tracking.tags import PHASE_TAG

TUTORIAL = "docs/TUTORIAL.md"
DOCUMENTS = ("README.md", TUTORIAL, "docs/USING.md")

# Known and not run here: how the command begins, and why.
NOT_RUN = {
    "pip install": ".ci/run installs the same files into a fresh environment",
    "python -m venv": ".ci/run makes one",
    "pytest": "this is it",
    "mlflow ui": "MLflow's own, and runs until it is stopped",
    "mlflow server": "the same",
    "mlflow models serve": "tests/test_serving.py serves and asks; the tutorial's is served here",
    "mlflow models build-docker": "wants a container engine",
    "docker": "wants a container engine; tests/test_container.py reads the files with a linter",
    "curl": "tests/test_serving.py runs it, where there is a curl",
}
SPARK = "spark_udf"  # in a Python block: run by tests/test_serving.py, for it takes 15 s to start

# What … stands for, by the key before it.
_MODEL = "runs:/RUN_ID/model"
MEANT = {
    **dict.fromkeys(("data", "images"), "PATH"),
    **dict.fromkeys(("model", "candidate", "champion", "challenger"), _MODEL),
    "models": "runs:/A/model,runs:/B/model",
    "name": "NAME",
    "output": "FOLDER",
    "log": "sqlite:///requests.db",
    "outcomes": "outcomes.csv",
}

# What makes an entry point small that the smoke recipe alone does not.
SMALL = {"tune": {"trials": "2"}, "curve": {"fractions": "0.5, 1"}}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: where it stands, its language, its text."""

    where: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command: what is set for it alone, and its words."""

    environment: dict[str, str]
    words: list[str]


def blocks(content: str, name: str = "") -> list[Block]:
    fences = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    found = [
        Block(
            f"{name}, line {content[: match.start()].count(chr(10)) + 1}",
            match[2],
            textwrap.dedent(match[3]),
        )
        for match in fences.finditer(content)
    ]
    assert content.count("```") == 2 * len(found), f"{name}: a fence that is not understood"
    return found


def of_document(document: str) -> list[Block]:
    return blocks((ROOT / document).read_text(encoding="utf-8"), document)


def holds_commands(block: Block) -> bool:
    first, *_ = block.text.splitlines() or [""]
    is_table = not block.language and re.search(r"\S {2,}\S", first)
    return block.language in ("", "sh", "bash", "console") and not is_table


def commands(text: str) -> Iterator[Command]:
    """The commands of a block, in order; those that `&&` or `;` put on one line, one by one.

    Of a line that begins with `{`, what reads from the pipe at its end.
    """
    for line in re.sub(r"\\\n\s*|(?<=\|)\n\s*", " ", text).splitlines():
        if line.startswith("{"):
            yield Command({}, shlex.split(line.rpartition("|")[2]))
            continue
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if word not in ("&&", ";"):
                words.append(word)
            elif words:
                count = next(i for i, w in enumerate(words) if not re.match(r"[A-Z_]+=", w))
                environment = dict(word.split("=", 1) for word in words[:count])
                yield Command(environment, words[count:])
                words = []


def options(words: list[str]) -> argparse.Namespace:
    """What follows `mlflow run`, in as far as the documents use it."""
    parser = argparse.ArgumentParser("mlflow run")
    parser.add_argument("uri", choices=["."])
    parser.add_argument("-e", "--entry-point", default="main")
    parser.add_argument("-P", "--param-list", action="append", default=[])
    parser.add_argument("--env-manager", choices=["local", "uv", "virtualenv"])
    return parser.parse_args(words)


def resolve(words: list[str]) -> tuple[str, dict[str, str]]:
    """The module and the flags that `mlflow run WORDS` comes to, through MLproject."""
    given = options(words)
    parameters = dict(item.split("=", 1) for item in given.param_list)
    entry = load_project(str(ROOT)).get_entry_point(given.entry_point)
    python, dash, module, *rest = shlex.split(entry.compute_command(parameters, None))
    assert (python, dash) == ("python", "-m")
    return module.removeprefix("experiments."), parse_flags(rest)


@dataclass
class Reader:
    """Follows a document from top to bottom, in a folder of his own with a picture in it.

    Attributes:
        document: what he reads.
        folder: the current folder.
        pictures: his data set.
        typed: commands that train, which he does not repeat.
        server: what he left running, and on which port.
        share: of the requests that his router gives the challenger.
    """

    document: str
    folder: Path
    pictures: Path
    typed: set[tuple[str, ...]] = field(default_factory=set)
    server: "subprocess.Popen[bytes] | None" = None
    port: int = 0
    share: float = 0.5

    def follow(self, block: Block) -> None:
        text = self.fill_in(block.text)
        if block.language == "python":
            if SPARK not in text:
                exec(compile(text, block.where, "exec"), {})
        elif block.language == "yaml":
            recipe = self.folder / "recipe.yaml"
            recipe.write_text(text)
            Config.load(recipe, {})
        elif holds_commands(block):
            for command in commands(text):
                self.run(command)
        else:
            assert block.language in ("", "text"), f"{block.where}: what is {block.language}?"

    def fill_in(self, text: str) -> str:
        """The text with what a reader puts in the place of PATH, RUN_ID, NAME, FOLDER and …"""
        text = re.sub(r"(\w+)=…(,…)*", lambda match: f"{match[1]}={MEANT[match[1]]}", text)
        run_ids = self.models(text)
        known = {
            "PATH": str(self.pictures),
            "FOLDER": str(self.folder / "folder"),
            "FILE": str(SMOKE),
            "NAME": "pets",
            "5001": str(self.port or 5001),
            "RUN_ID": run_ids.get("RUN_ID", ""),
            **{f"runs:/{name}/": f"runs:/{run_id}/" for name, run_id in run_ids.items()},
        }
        for name, value in known.items():
            end = r"\b" if name[-1].isalnum() else ""
            text = re.sub(rf"(?<!\w){re.escape(name)}{end}", lambda _, v=value: v, text)
        return text

    def models(self, text: str) -> dict[str, str]:
        """A run with a model for RUN_ID, and each X of `runs:/X/model`; the newest is the first."""
        names = list(dict.fromkeys(re.findall(r"(?<=runs:/)[A-Z_]+(?=/)|\bRUN_ID\b", text)))
        while len(self.newest()) < len(names):
            phase = PHASES[len(self.newest())]
            assert run_entry(phase, "--data", str(self.pictures)) == 0
        return dict(zip(names, self.newest(), strict=False))

    def newest(self) -> list[str]:
        """The runs that left a model, the newest first."""
        runs = mlflow.search_runs(["0"], order_by=["end_time DESC"], output_format="list")
        return [
            run.info.run_id
            for run in runs
            if run.data.tags.get(PHASE_TAG) in PHASES and run.info.status == "FINISHED"
        ]

    def run(self, command: Command) -> None:
        words, said = command.words, shlex.join(command.words)
        if words[:2] == ["mlflow", "run"]:
            self.run_entry_point(words[2:])
        elif words[:3] == ["mlflow", "models", "serve"] and self.document == TUTORIAL:
            self.serve(command)
        else:
            assert any(said.startswith(known) for known in NOT_RUN), f"unknown command: {said}"

    def run_entry_point(self, words: list[str]) -> None:
        module, flags = resolve(words)
        config = flags.pop("config", None)
        if config:  # an entry that trains
            Config.load(ROOT / config, {})
            flags.setdefault("data", str(self.pictures))
            flags |= SMALL.get(module, {}) | ({"seeds": "2"} if "seeds" in flags else {})
        self.provide(module, flags)
        arguments = [word for key, value in flags.items() for word in (f"--{key}", value)]
        if (module, *arguments) in self.typed:
            return
        if config:
            self.typed.add((module, *arguments))
        if self.document == TUTORIAL and len(self.typed) == 1 and config:
            self.run_for_real(words)
        else:
            assert run_entry(module, *arguments) == 0, shlex.join(words)

    def run_for_real(self, words: list[str]) -> None:
        """In a process of its own, as it is typed: once, for each takes 10 s to start."""
        before = len(mlflow.search_runs(["0"], output_format="list"))
        typed = [sys.executable, "-m", "mlflow", "run", *words, "-P", f"config={SMOKE}"]
        subprocess.run(typed, cwd=ROOT, check=True, env=self.env)
        newest, *_ = mlflow.search_runs(["0"], output_format="list")
        assert newest.info.status == "FINISHED"
        assert len(mlflow.search_runs(["0"], output_format="list")) == before + 1

    def serve(self, command: Command) -> None:
        """Start the server, on a port that is free, and leave it running."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = [word.replace("5001", str(self.port)) for word in command.words[1:]]
        log = self.folder / "server.log"
        self.server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            cwd=self.folder,
            env={**self.env, **command.environment, "OMP_NUM_THREADS": "1"},
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for _ in range(480):
            assert self.server.poll() is None, log.read_text()
            try:
                if requests.get(f"http://127.0.0.1:{self.port}/ping", timeout=5).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.25)
        raise AssertionError(log.read_text())

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process of its own, whose `python` is this one."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "TMPDIR": str(self.folder)}

    def provide(self, module: str, flags: dict[str, str]) -> None:
        """What a document takes for granted: an alias, a log of requests, their outcomes."""
        for value in flags.values():
            if match := re.fullmatch(r"models:/(\w+)@(\w+)", value):
                client = mlflow.MlflowClient()
                try:
                    client.get_model_version_by_alias(match[1], match[2])
                except mlflow.MlflowException:
                    older = match[2] == "challenger"  # route wants two models
                    version = register_model(self.newest()[older], match[1])
                    client.set_registered_model_alias(match[1], match[2], version)
        if module == "route":
            self.share = float(flags.get("share", 0.5))
        if module == "monitor" and not (self.folder / flags["log"].split("/")[-1]).exists():
            open_log(flags["log"]).write(asked_before(flags["model"]))
        if module == "abtest":
            open_log(flags["log"]).write(routed(self.share))
            rows = "\n".join(f"key {number},{number % 2}" for number in range(60))
            (self.folder / flags["outcomes"]).write_text(f"key,success\n{rows}\n")


def asked_before(model: str) -> list[Entry]:
    """Requests as a server logs them: the model's own validation pictures."""
    with local_model(model) as folder:
        known = Reference.load(folder)
    rows = zip(known.predicted, known.confidence, known.embedding, known.light, strict=True)
    return [
        Entry(1.0, 0.01, int(label), "cat", float(confidence), [*map(float, embedding)], *light)
        for label, confidence, embedding, light in rows
    ]


def routed(share: float) -> list[Entry]:
    """Requests as a router logs them, half of them answered by each model."""
    names = ("champion", "challenger")
    return [
        Entry(1.0, 0.01, 0, "cat", 0.9, [], 0.5, 0.1, names[number % 2], f"key {number}", share)
        for number in range(60)
    ]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory, _places: Path) -> Path:
    """A store as MLflow makes it: 3 s, which each document's reader would wait for."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.MlflowClient().get_experiment("0")
    return folder / "mlflow.db"


@pytest.fixture
def reader(
    request: pytest.FixtureRequest,
    empty_store: Path,
    make_folder: MakeFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Reader]:
    pictures = make_folder(suffix=".jpg")
    shutil.copy(pictures / "test" / "cat" / "0.jpg", tmp_path / "picture.jpg")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_experiment("Default")
    reader = Reader(request.param, tmp_path, pictures)
    yield reader
    if reader.server is not None:
        os.killpg(reader.server.pid, 15)
        reader.server.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("reader", DOCUMENTS, indirect=True)
def test_a_reader_can_type_all_that_stands_there(reader: Reader) -> None:
    before = {path.name for path in ROOT.iterdir()}
    for block in of_document(reader.document):
        try:
            reader.follow(block)
        except BaseException as error:
            error.add_note(f"in {block.where}:\n{block.text}")
            raise
    assert reader.newest(), "nothing was trained"
    assert {path.name for path in ROOT.iterdir()} == before


def test_the_tutorial_has_ten_commands() -> None:
    text = (ROOT / TUTORIAL).read_text(encoding="utf-8")
    steps = re.split(r"^## (\d+)\. ", text, flags=re.MULTILINE)[1:]
    assert [int(number) for number in steps[::2]] == list(range(1, 11))
    for step in steps[1::2]:
        step = re.split(r"^## ", step, maxsplit=1, flags=re.MULTILINE)[0]
        typed = [command for b in blocks(step) if holds_commands(b) for command in commands(b.text)]
        assert len(typed) == 1, step


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_the_text_name_entry_points_and_keys_that_exist(
    document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / document).read_text(), flags=re.M | re.S)
    entries = load_project(str(ROOT))._entry_points
    for code in re.findall(r"`(mlflow run \.[^`]*)`", text):
        given = options(shlex.split(code)[2:])
        assert given.entry_point in entries, code
        name = "suite" if given.entry_point == "main" else given.entry_point
        run_entry(name, "--help")
        keys = {"config", *re.findall(r"^--(\w+) ", capsys.readouterr().out, re.MULTILINE)}
        assert {item.split("=")[0] for item in given.param_list} <= keys, code


@pytest.mark.parametrize(
    "text",
    ["kubectl apply -f pod.yaml", "mlflow run . -e trian", "mlflow run . -e predict -P model=x",
     "mlflow run . --no-such-flag", "mlflow models serv -m x", "mlflow run . -P head_lrr=1",
     "mlflow run ../other", "phase  seconds && rm -r x"],
)  # fmt: skip
def test_a_command_that_cannot_be_typed_is_found(text: str, tmp_path: Path) -> None:
    reader = Reader("README.md", tmp_path, tmp_path)
    with pytest.raises((AssertionError, SystemExit, mlflow.exceptions.ExecutionException)):
        reader.follow(Block("here", "sh", text + "\n"))
