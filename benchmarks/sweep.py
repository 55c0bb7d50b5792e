"""Twenty configurations over rates and depths 0 to 3: `engine: cached` from an empty store, and
`-e tune` with its pruning, against `engine: plain`, of which a sample is timed and scaled.

    python -m benchmarks.sweep --data FOLDER [--backbone NAME] [--weights auto|none|FILE]
        [--configurations 20] [--sample 2] [--KEY VALUE ...]
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from benchmarks.measure import ROOT, in_own_process, machine_name, start, take
from tlkit.cli import parse_flags
from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.runs.prepare import prepare_data
from tlkit.search.trial import train_trial
from tlkit.training.loop import CRITERION

RECIPE = {
    "backbone": "resnet50",
    "weights": "none",
    # What `tune` tries first, within the depths that are searched.
    "unfreeze_depth": "3",
    "head_epochs": "3",
    "finetune_epochs": "5",
    "views": "5",
    "early_stopping": "0",
    # A plain script looks at the validation pictures once an epoch.
    "interpolation": "0",
}
DEPTHS = (0, 1, 2, 3)
SEARCH = {
    "unfreeze_depth": {"low": 0, "high": 3},
    "head_lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "backbone_lr": {"low": 1e-6, "high": 1e-3, "log": True},
}


def configurations(base: Config, count: int) -> list[Config]:
    """The same for both engines: rates drawn log-uniformly, each depth as often as the others where
    `count` is a multiple of their number."""
    chance = random.Random(0)
    return [
        replace(
            base,
            unfreeze_depth=DEPTHS[index % len(DEPTHS)],
            head_lr=10 ** chance.uniform(-4, -2),
            backbone_lr=10 ** chance.uniform(-6, -3),
        )
        for index in range(count)
    ]


def sampled(configs: list[Config], sample: int) -> list[Config]:
    """From the least depth to the greatest, in even steps."""
    ranked = sorted(configs, key=lambda config: config.unfreeze_depth)
    return [ranked[round(i * (len(ranked) - 1) / (sample - 1))] for i in range(sample)]


def measure(arguments: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each configuration, in order, by one engine, or of a search."""
    return search(arguments) if arguments.pop("tune") else sweep(arguments)


def search(arguments: dict[str, Any]) -> dict[str, Any]:
    """The whole of `-e tune`, and its trials alone: without the runs of the best and of the default
    configuration, their figures and tests."""
    trials = arguments.pop("configurations")
    del arguments["sample"]
    found = {**arguments, "trials": trials, "search": json.dumps(SEARCH)}
    # In a folder of its own, with a tracking store of its own, as a user would run it.
    with tempfile.TemporaryDirectory(prefix="tlkit-tune-") as folder:
        found["storage"] = f"sqlite:///{folder}/study.db"
        started = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "experiments.tune"),
                *(part for key, value in found.items() for part in (f"--{key}", str(value))),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=sys.stderr,
            check=True,
        )
        seconds = time.perf_counter() - started
        done = optuna.load_study(study_name=None, storage=found["storage"]).trials
        begun = min(trial.datetime_start for trial in done if trial.datetime_start)
        ended = max(trial.datetime_complete for trial in done if trial.datetime_complete)
    return {"seconds": [seconds], "trials": (ended - begun).total_seconds()}


def sweep(arguments: dict[str, Any]) -> dict[str, Any]:
    """Each configuration, in order, by one engine; by `plain` a sample of them."""
    count, sample = arguments.pop("configurations"), arguments.pop("sample")
    base = Config.load(None, arguments)
    manifest = prepare_data(base).manifest
    chosen = configurations(base, count)
    if base.engine == "plain":
        chosen = sampled(chosen, sample)
    seconds, losses = [], []
    for config in chosen:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="tlkit-sweep-") as folder:
            score = train_trial(
                config, manifest, lambda metrics, epoch: None, Path(folder), also=DEPTHS[1:]
            )
        seconds.append(time.perf_counter() - started)
        losses.append(score.loss)
        print(f"{base.engine}: depth {config.unfreeze_depth}, {seconds[-1]:.0f} s, "
              f"{CRITERION} {score.loss:.4f}", file=sys.stderr)  # fmt: skip
    return {"seconds": seconds, "losses": losses}


def counts(flags: dict[str, str]) -> dict[str, int]:
    """`configurations`, and `sample`: how many of them `plain` is timed with.

    Raises:
        UserError: counts by which some depths would weigh more than others.
    """
    count, sample = take(flags, "configurations", 20), take(flags, "sample", 2)
    if count % len(DEPTHS):
        raise UserError(
            f"configurations={count} is not allowed; a multiple of {len(DEPTHS)}, so that each "
            "depth comes as often as the others"
        )
    if not 2 <= sample <= count:
        raise UserError(
            f"sample={sample} is not allowed; 2 to configurations={count}, from the least depth to "
            "the greatest"
        )
    return {"configurations": count, "sample": sample}


def anywhere(config: Config) -> dict[str, str]:
    """Data and weights as they are found from any folder: `tune` runs in one of its own."""
    given = {"data": config.data, "weights": config.weights}
    return {
        key: str(Path(value).resolve()) if Path(value).exists() else value
        for key, value in given.items()
    }


def main() -> None:
    flags = {**RECIPE, **parse_flags(sys.argv[1:])}
    numbers = counts(flags)
    config = Config.load(None, flags)
    own = {**flags, **anywhere(config), **numbers}
    prepare_data(config)
    found = {
        way: in_own_process("benchmarks.sweep", {**own, "engine": engine, "tune": tune})
        for way, engine, tune in (
            ("cached", "cached", False), ("tune", "cached", True), ("plain", "plain", False),
        )
    }  # fmt: skip
    count, timed = numbers["configurations"], len(found["plain"]["seconds"])
    cached, tune = (sum(found[way]["seconds"]) for way in ("cached", "tune"))
    trials = found["tune"]["trials"]
    plain = sum(found["plain"]["seconds"]) / timed * count
    print(f"{machine_name()}; {config.backbone}, {count} configurations, depths 0 to 3")
    print("| engine | seconds |")
    print("|---|---|")
    print(f"| cached | {cached:.0f} |")
    print(f"| cached, the command `tune` with {count} trials | {tune:.0f} |")
    print(f"| its trials alone | {trials:.0f} |")
    print(f"| plain ({timed} timed, scaled to {count}) | {plain:.0f} |")
    print(f"plain / cached: {plain / cached:.1f}; plain / tune: {plain / tune:.1f}; "
          f"plain / its trials: {plain / trials:.1f}")  # fmt: skip


if __name__ == "__main__":
    start(main, measure)
