"""`engine: cached` against `engine: plain` on a CPU in float32, uncompiled: the same numbers, at
full size.

    python -m benchmarks.agreement --data FOLDER [--backbones NAME,NAME] [--fraction 0.06]
        [--KEY VALUE ...]

Six families at depth 0, one unit, half and all of them: finetune on a share of the training
pictures, all validation pictures after each epoch, all test pictures. Weights are random, but for
the default backbone. `tests/test_engines_agree.py` asserts as much of tiny networks.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import evaluated, machine_name, start, take
from tlkit.cli import parse_flags
from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.models.units import units
from tlkit.phases.machine import machine_for
from tlkit.phases.network import build_network
from tlkit.phases.prepare import prepare_phase
from tlkit.phases.train import train_phase
from tlkit.runs.prepare import prepare_data

BACKBONES = (
    "tf_efficientnet_lite0",
    "resnet50",
    "convnext_tiny",
    "regnety_016",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
)
RECIPE = {
    "device": "cpu",
    "finetune_epochs": "2",
    "views": "2",
    "precision": "fp32",
    "compile": "off",
    "early_stopping": "0",
}


def finetuned(config: Config, manifest: Manifest) -> tuple[np.ndarray, dict[str, float]]:
    """Probabilities of the test pictures, and the metrics of every epoch and of the test."""
    machine = machine_for(config)
    phase = prepare_phase("finetune", config, manifest, machine)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_phase(phase, log=lambda metrics, epoch: None, checkpoints=Path(folder))
    outcome = evaluated(phase)
    history = {
        f"{row['epoch']:.0f} {key}": row[key] for row in trained.result.history for key in row
    }
    return outcome.probabilities, {**history, **outcome.metrics}


def main() -> None:
    flags = parse_flags(sys.argv[1:])
    backbones = flags.pop("backbones", ",".join(BACKBONES)).split(",")
    fraction = take(flags, "fraction", 0.06)
    default = Config.load(None, flags)
    manifest = prepare_data(default).manifest.thinned(fraction, seed=0)
    counts = ", ".join(f"{len(manifest.of(split))} {split}" for split in ("train", "val", "test"))
    print(f"{machine_name()}; {counts} pictures")
    print("| backbone | depth | other predictions | probabilities differ by | metrics differ by |")
    print("|---|---|---|---|---|")
    for backbone in backbones:
        weights = "auto" if backbone == default.backbone else "none"
        base = {**RECIPE, "backbone": backbone, "weights": weights, **flags}
        whole = len(units(build_network(
            "finetune", Config.load(None, base), manifest.classes
        ).classifier.model))  # fmt: skip
        for depth in sorted({0, 1, whole // 2, whole}):
            own = {**base, "unfreeze_depth": str(depth)}
            (cached, by_cached), (plain, by_plain) = (
                finetuned(Config.load(None, {**own, "engine": engine}), manifest)
                for engine in ("cached", "plain")
            )
            others = int((cached.argmax(1) != plain.argmax(1)).sum())
            apart = np.abs(cached - plain).max()
            metrics = max(abs(by_cached[key] - by_plain[key]) for key in by_plain)
            print(f"| `{backbone}` | {depth} of {whole} | {others} of {len(plain)} | "
                  f"{apart:.1e} | {metrics:.1e} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    start(main)
