"""The files around the code: they agree with one another."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import yaml
from conftest import MakeFolder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def pins(name: str) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith(("#", "-r ")):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_requirement_is_pinned_to_one_version() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for requirements in pins(name).values():
            for requirement in requirements:
                assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement


def test_pins_lie_in_the_ranges_of_pyproject() -> None:
    locked = pins("requirements.txt")
    developers = locked | pins("requirements-dev.txt")
    wanted = [(text, locked) for text in project()["dependencies"]]
    wanted += [(text, developers) for text in project()["optional-dependencies"]["dev"]]
    for text, where in wanted:
        requirement = Requirement(text)
        for pin in where[canonicalize_name(requirement.name)]:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{pin} is not in {text}"


def test_no_version_stands_twice() -> None:
    assert not set(pins("requirements.txt")) & set(pins("requirements-dev.txt"))
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()


def test_environments_take_their_packages_from_requirements() -> None:
    python_env = yaml.safe_load((ROOT / "python_env.yaml").read_text())
    assert python_env == {"dependencies": ["-r requirements.txt"]}
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    python, pip, packages = conda["dependencies"]
    assert python == f"python{project()['requires-python'].replace(' ', '')}"
    assert (pip, packages) == ("pip", {"pip": ["-r requirements.txt"]})


def test_no_registry_is_named() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml", "conda.yaml"):
        text = (ROOT / name).read_text()
        assert "://" not in text, name
        assert "index-url" not in text, name


def test_every_entry_point_runs_a_module_that_exists_with_the_parameters_it_declares() -> None:
    content = yaml.safe_load((ROOT / "MLproject").read_text())
    assert content["python_env"] == "python_env.yaml"
    for name, entry in content["entry_points"].items():
        module, *flags = entry["command"].removeprefix("python -m experiments.").split(" --")
        assert module == ("suite" if name == "main" else name)
        assert (ROOT / "experiments" / f"{module}.py").exists()
        assert flags == [f"{key} {{{key}}}" for key in entry["parameters"]]
        for key, declared in entry["parameters"].items():
            if key != "config":
                assert declared == "string"
                continue
            assert declared["type"] == "string"
            assert (ROOT / declared["default"]).exists()
    modules = {path.stem for path in (ROOT / "experiments").glob("[a-z]*.py")}
    assert modules == {"suite" if name == "main" else name for name in content["entry_points"]}


@pytest.fixture
def git_address(tmp_path: Path) -> Iterator[str]:
    """The project in a repository of its own, which git serves."""
    programs = Path(subprocess.check_output(["git", "--exec-path"], text=True).strip())
    if not (programs / "git-daemon").exists():
        pytest.skip("git cannot serve here")
    origin = tmp_path / "served" / "origin"
    for name in ("tlkit", "experiments"):
        shutil.copytree(ROOT / name, origin / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("MLproject", "python_env.yaml", "requirements.txt"):
        shutil.copy(ROOT / name, origin)
    for words in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "."),
        ("-c", "user.name=test", "-c", "user.email=test", "commit", "--quiet", "-m", "all"),
    ):
        subprocess.run(["git", *words], cwd=origin, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["--export-all", f"--base-path={origin.parent}", "--listen=127.0.0.1", f"--port={port}"]
    served = subprocess.Popen([programs / "git-daemon", *place])
    address = f"git://127.0.0.1:{port}/origin"
    try:
        while subprocess.run(["git", "ls-remote", address], capture_output=True).returncode:
            assert served.poll() is None
            time.sleep(0.1)
        yield address
    finally:
        served.terminate()
        served.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_a_git_address_leaves_the_runs_where_one_stands(
    git_address: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = [git_address, "--env-manager", "local", "-e", "head", "-P", f"data={make_folder()}"]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "mlflow",
            "run",
            *words,
            "-P",
            "config=experiments/configs/smoke.yaml",
        ],
        cwd=here,
        check=True,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")},
            "PATH": path,
        },
    )
    assert {file.name for file in here.iterdir()} == {"mlflow.db", "mlruns"}
    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    [run] = client.search_runs(["0"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "head")
    assert list((here / "mlruns" / "0" / "models").glob("m-*/artifacts/MLmodel"))
