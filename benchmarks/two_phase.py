"""Head, then finetune: `engine: cached` from an empty store against `engine: plain`.

    python -m benchmarks.two_phase --data FOLDER [--backbone NAME] [--weights auto|none|FILE]
        [--unfreeze_depth D] [--repeats N] [--KEY VALUE ...]

Every other key of the configuration can be given too. No epoch of a phase repeats a view.
"""

import statistics
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.measure import (
    evaluated,
    in_own_process,
    machine_name,
    median_seconds,
    start,
    take,
    train_both_phases,
    training_step,
)
from tlkit.cli import parse_flags
from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.features.inputs import Rendition
from tlkit.features.prefix import PASS, Prefix
from tlkit.models.cut import split
from tlkit.phases.engine import open_store
from tlkit.phases.machine import machine_for
from tlkit.phases.prepare import Phase
from tlkit.runs.prepare import prepare_data
from tlkit.training.batches import plain_batches
from tlkit.training.precision import autocast

RECIPE = {
    "head_epochs": "3",
    "finetune_epochs": "5",
    "views": "5",
    "batch_size": "32",
    "early_stopping": "0",
    # A plain script looks at the validation pictures once an epoch.
    "interpolation": "0",
}


def measure(arguments: dict[str, Any]) -> dict[str, Any]:
    """Both phases with one engine: seconds, test accuracy, and the floor for `cached`."""
    config = Config.load(None, arguments)
    data, machine = prepare_data(config), machine_for(config)
    seconds, phase = train_both_phases(config, data.manifest, machine)
    outcome = evaluated(phase)
    result = {"seconds": seconds, "accuracy": outcome.metrics["test/accuracy"]}
    if config.engine == "cached":
        result["floor"] = floor(phase)
    return result


def floor(phase: Phase) -> float:
    """Seconds of one pass of the prefix a view and of the suffix's steps, at the rates of this
    machine now: pictures and outputs lie in memory, nothing is decoded, read or written."""
    config, network, machine = phase.config, phase.network, phase.machine
    train = len(phase.manifest.of("train"))
    model, depth = network.classifier.model, config.unfreeze_depth
    prefix = Prefix(model, depth, (), {"backbone": config.backbone}, machine.device, machine.dtype)
    rendition = Rendition(phase.pictures, "train", 0)
    compiled = replace(prefix, compiled=True)
    store = open_store(config.store_gigabytes)
    if not store.entry(compiled.key(depth, rendition.key())).read(rendition.names).missing:
        prefix = compiled
    # Where there are fewer pictures than in a batch, some come again; short passes are padded.
    batch = [[row % train for row in rows] for rows in plain_batches(config.batch_size, PASS)]
    loaded = list(rendition.load(batch))
    images, _ = loaded[0]
    seconds = partial(median_seconds, device=machine.device)
    forward = seconds(lambda: list(prefix.outputs(images, prefix.whole, [depth])))
    outputs = torch.cat([next(iter(prefix.outputs(part, prefix.whole, [depth])))
                         for part, _ in loaded])  # fmt: skip
    _, suffix = split(model, depth)
    labels = torch.cat([part for _, part in loaded]).to(machine.device)
    step = training_step(suffix, outputs, labels, lambda: autocast(machine.device, machine.dtype))

    def look() -> None:
        with torch.no_grad(), autocast(machine.device, machine.dtype):
            suffix(outputs)

    passes, steps, looks = least_work(config, phase.manifest, phase.pictures.different)
    return passes * forward + steps * seconds(step) + looks * seconds(look)


def least_work(config: Config, manifest: Manifest, views: int) -> tuple[float, float, float]:
    """Passes of the frozen part for both phases, and finetune's steps and looks at a validation
    batch; `views` are those that differ."""
    train, val = len(manifest.of("train")), len(manifest.of("val"))
    seen = min(views, max(config.head_epochs, config.finetune_epochs))
    epochs = config.finetune_epochs / config.batch_size
    return (seen * train + val) / PASS, epochs * manifest.passes * train, epochs * val


def main() -> None:
    flags = parse_flags(sys.argv[1:])
    repeats = take(flags, "repeats", 1)
    arguments = {**RECIPE, **flags}
    config = Config.load(None, arguments)
    prepare_data(config)
    found: dict[str, list[dict[str, Any]]] = {"cached": [], "plain": []}
    for _ in range(repeats):
        for engine, results in found.items():
            own = {**arguments, "engine": engine}
            results.append(in_own_process("benchmarks.two_phase", own))
            print(engine, results[-1], file=sys.stderr)
    cached, plain = (
        statistics.median([r["seconds"] for r in found[e]]) for e in ("cached", "plain")
    )
    least = statistics.median([r["floor"] for r in found["cached"]])
    print(f"{machine_name()}; {config.backbone}, weights {config.weights}, {repeats} repeats")
    print("| engine | seconds | test accuracy |")
    print("|---|---|---|")
    for engine, seconds in (("cached", cached), ("plain", plain)):
        accuracy = statistics.median([r["accuracy"] for r in found[engine]])
        print(f"| {engine} | {seconds:.0f} | {accuracy:.3f} |")
    print(f"plain / cached: {plain / cached:.1f}; floor {least:.0f} s, "
          f"cached / floor: {cached / least:.2f}")  # fmt: skip


if __name__ == "__main__":
    start(main, measure)
