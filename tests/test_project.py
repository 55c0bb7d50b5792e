"""The files around the code: they agree with one another."""

import re
import tomllib
from pathlib import Path

import yaml
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
