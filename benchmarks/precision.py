"""What bfloat16 and compiled code do to the accuracy: head and finetune by the same seeds, once in
float32 without a compiler and once in bfloat16 with one.

    python -m benchmarks.precision --data FOLDER [--seeds 5] [--KEY VALUE ...]

All seeds train on the same views, so each way computes its frozen part once.
"""

import statistics
import sys
from typing import Any

from benchmarks.measure import (
    evaluated,
    in_own_process,
    machine_name,
    start,
    take,
    train_both_phases,
)
from tlkit.cli import parse_flags
from tlkit.config import Config
from tlkit.phases.machine import machine_for
from tlkit.runs.prepare import prepare_data

WAYS = {
    "float32, uncompiled": {"precision": "fp32", "compile": "off"},
    "bfloat16, compiled": {"precision": "bf16", "compile": "on"},
}


def measure(arguments: dict[str, Any]) -> dict[str, Any]:
    """Test accuracy and loss of finetune by each seed, and the seconds of all."""
    seeds = arguments.pop("seeds")
    result: dict[str, Any] = {"accuracy": [], "loss": [], "seconds": 0.0}
    for seed in range(seeds):
        config = Config.load(None, {**arguments, "seed": str(seed), "data_seed": "0"})
        manifest, machine = prepare_data(config).manifest, machine_for(config)
        seconds, phase = train_both_phases(config, manifest, machine)
        outcome = evaluated(phase)
        result["accuracy"].append(outcome.metrics["test/accuracy"])
        result["loss"].append(outcome.metrics["test/loss"])
        result["seconds"] += seconds
    return result


def main() -> None:
    flags = parse_flags(sys.argv[1:])
    seeds = take(flags, "seeds", 5)
    config = Config.load(None, flags)
    prepare_data(config)
    found = {
        way: in_own_process("benchmarks.precision", {**flags, **keys, "seeds": seeds})
        for way, keys in WAYS.items()
    }
    print(f"{machine_name()}; {config.backbone}, weights {config.weights}, {config.data}")
    print("| | test accuracy by seed | mean | test loss, mean | seconds |")
    print("|---|---|---|---|---|")
    for way, result in found.items():
        each = ", ".join(f"{accuracy:.3f}" for accuracy in result["accuracy"])
        print(f"| {way} | {each} | {statistics.mean(result['accuracy']):.4f} | "
              f"{statistics.mean(result['loss']):.4f} | {result['seconds']:.0f} |")  # fmt: skip
    exact, fast = (statistics.mean(found[way]["accuracy"]) for way in WAYS)
    print(f"difference of the means: {100 * (fast - exact):+.2f} points")


if __name__ == "__main__":
    start(main, measure)
