"""A measurement in a process of its own, with a cache of its own that is gone after it."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.errors import UserError, one_line
from tlkit.evidence.costs import processor
from tlkit.files import cache_folder
from tlkit.outcome import Outcome, evaluate
from tlkit.phases.engine import evaluation_inputs
from tlkit.phases.machine import Machine
from tlkit.phases.prepare import Phase, prepare_phase
from tlkit.phases.train import train_phase
from tlkit.training.seeding import available_cores

ROOT = Path(__file__).parents[1]

Number = TypeVar("Number", int, float)


def in_own_process(module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run `python -m MODULE --child JSON` with an empty store and return the JSON it ends with.

    Extracted or drawn pictures are shared: preparing them is not measured.

    Raises:
        UserError: it failed, and has said why.
    """
    data = (cache_folder() / "data").resolve()
    data.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tlkit-benchmark-") as folder:
        (Path(folder) / "data").symlink_to(data, target_is_directory=True)
        done = subprocess.run(
            [sys.executable, "-m", module, "--child", json.dumps(arguments)],
            cwd=ROOT,
            env={**os.environ, "TLKIT_CACHE": folder},
            stdout=subprocess.PIPE,
            text=True,
        )
    if done.returncode:
        raise UserError(
            f"the process that measures ended with {done.returncode} instead of 0; what it said "
            "stands above"
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def start(
    main: Callable[[], None], measure: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> None:
    """Do `main` in the process that was started by hand, `measure` in those it starts itself.

    `--help` shows what the module of `main` says of itself. A user's mistake is told in a line, and
    the exit code is 2.
    """
    try:
        if {"-h", "--help"} & set(sys.argv):
            print((sys.modules[main.__module__].__doc__ or "").strip())
        elif measure and "--child" in sys.argv:
            print(json.dumps(measure(json.loads(sys.argv[sys.argv.index("--child") + 1]))))
        else:
            main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def take(flags: dict[str, str], name: str, default: Number) -> Number:
    """A benchmark's own number, taken out of the flags, of the kind of its default.

    Raises:
        UserError: another kind, or not above 0.
    """
    raw = flags.pop(name, str(default))
    try:
        value = type(default)(raw)
    except ValueError:
        value = type(default)(0)
    if not value > 0:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise UserError(f"{name}={raw} is not allowed; {kind} above 0")
    return value


def train_both_phases(config: Config, manifest: Manifest, machine: Machine) -> tuple[float, Phase]:
    """Head, then finetune from it, as the suite does but for the logging.

    Returns:
        Seconds, and the finetuned phase.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        head, finetune = Path(folder) / "head", Path(folder) / "finetune"
        for checkpoints in (head, finetune):
            checkpoints.mkdir()
            phase = prepare_phase(checkpoints.name, config, manifest, machine)
            if checkpoints == finetune:
                phase = phase.begun_from(head / "best", "head")
            train_phase(
                phase,
                log=lambda metrics, epoch: None,
                checkpoints=checkpoints,
                also=[config.unfreeze_depth],
            )
        return time.perf_counter() - started, phase


def evaluated(phase: Phase) -> Outcome:
    """The test split, as a run reads it."""
    model, batches, _ = evaluation_inputs(phase)
    return evaluate(phase.manifest, model, batches, phase.machine.device, temperature=1.0)


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Of some work on a device, done once more before it is timed.

    For a card it is queued twenty times before it is waited for, as in training: it would wait for
    the processor otherwise, and be timed with that.
    """
    calls, seconds = 20 if device.type == "cuda" else 1, []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / calls)
    return statistics.median(seconds[1:])


def training_step(
    suffix: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    context: Callable[[], AbstractContextManager[object]],
) -> Callable[[], None]:
    """A step of the loop, always on the same batch, in place and at a rate of 0.

    Args:
        suffix: in the mode to train in.
        inputs, labels: on its device.
        context: that of the forward pass.
    """
    trained = [parameter for parameter in suffix.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with context():
            logits = suffix(inputs)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def machine_name() -> str:
    """Cores and processor, and the graphics card if there is one, for the head of a table."""
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{available_cores()} cores of {processor()}{card}"
