"""Head, then finetune: tlkit from an empty store against other libraries, each in an environment
of its own, with the same weights, pictures, their size, epochs and batch size, in alternation.

    python -m benchmarks.peers --data FOLDER [--peers fastai,autotimm] [--environments FOLDER]
        [--repeats N] [--KEY VALUE ...]

FOLDER holds train/, val/ and test/. The environments are made once; without --environments they
are gone afterwards. Each library does what its own guide does: fastai and AutoTimm unfreeze the
whole network, tlkit the units that `unfreeze_depth` says.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from safetensors.torch import save_model

from benchmarks.measure import (
    evaluated,
    in_own_process,
    machine_name,
    start,
    take,
    train_both_phases,
)
from benchmarks.two_phase import RECIPE
from tlkit.cli import parse_flags
from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.phases.machine import machine_for
from tlkit.phases.network import build_network
from tlkit.runs.prepare import prepare_data

HERE = Path(__file__).parent
PEERS = ("fastai", "autotimm")


def measure(arguments: dict[str, Any]) -> dict[str, Any]:
    """Both phases in tlkit: seconds and test accuracy."""
    config = Config.load(None, arguments)
    manifest, machine = prepare_data(config).manifest, machine_for(config)
    seconds, phase = train_both_phases(config, manifest, machine)
    outcome = evaluated(phase)
    return {"seconds": seconds, "accuracy": outcome.metrics["test/accuracy"]}


def environment(peer: str, folder: Path) -> Path:
    """The interpreter of the peer's environment, which is made where it is absent."""
    home = folder / peer
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not (home / "complete").exists():
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q", "-r", str(HERE / f"{peer}.txt")]
        subprocess.run(install, check=True, stdout=sys.stderr)
        (home / "complete").touch()
    return python


def train_peer(python: Path, peer: str, config: Config, weights: Path, size: int) -> dict[str, Any]:
    """What the peer's script ends with, run in an empty folder; `size` of the pictures' sides."""
    values = (Path(config.data).resolve(), weights, config.backbone, config.head_epochs,
              config.finetune_epochs, config.batch_size, size)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="tlkit-peer-") as folder:
        script = HERE / f"train_{peer}.py"
        done = subprocess.run(
            [str(python), str(script), *map(str, values)],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
    if done.returncode:
        raise UserError(f"{peer} ended with {done.returncode} instead of 0; its words stand above")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    flags = parse_flags(sys.argv[1:])
    repeats, peers = take(flags, "repeats", 1), flags.pop("peers", ",".join(PEERS)).split(",")
    environments = flags.pop("environments", None)
    for peer in peers:
        if peer not in PEERS:
            raise UserError(f"peers={peer} is not allowed; one or more of {', '.join(PEERS)}")
    arguments = {**RECIPE, **flags}
    config = Config.load(None, arguments)
    classes = prepare_data(config).manifest.classes
    with tempfile.TemporaryDirectory(prefix="tlkit-peers-") as folder:
        weights = Path(folder) / "weights.safetensors"
        classifier = build_network("head", config, classes).classifier
        save_model(classifier.model, str(weights))
        size = classifier.description.preprocessing["input_size"][-1]
        # Absolute, for the peers run in folders of their own.
        home = Path(environments or folder).absolute()
        pythons = {peer: environment(peer, home) for peer in peers}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("tlkit", *pythons)}
        for _ in range(repeats):
            found["tlkit"].append(in_own_process("benchmarks.peers", arguments))
            for peer, python in pythons.items():
                found[peer].append(train_peer(python, peer, config, weights, size))
            print({name: results[-1] for name, results in found.items()}, file=sys.stderr)
    print(f"{machine_name()}; {config.backbone}, {repeats} repeats")
    print("| library | seconds | test accuracy | seconds / tlkit's |")
    print("|---|---|---|---|")
    middle = {
        name: {key: statistics.median(r[key] for r in results) for key in ("seconds", "accuracy")}
        for name, results in found.items()
    }
    for name, result in middle.items():
        ratio = result["seconds"] / middle["tlkit"]["seconds"]
        print(f"| {name} | {result['seconds']:.0f} | {result['accuracy']:.3f} | {ratio:.1f} |")


if __name__ == "__main__":
    start(main, measure)
