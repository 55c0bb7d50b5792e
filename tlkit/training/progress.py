"""How far a training came, in one file: the same training goes on from there after a kill."""

import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tlkit.errors import UserError
from tlkit.files import atomic_file
from tlkit.training.checkpoints import load_checkpoint, separate
from tlkit.training.loop import Result
from tlkit.training.optimizer import Schedule

# Writing takes at most this share of the time, but for the last one.
_SHARE = 0.05

# Days after which nobody is expected to give an interrupted command again.
_KEPT_DAYS = 30


@dataclass(frozen=True)
class Training:
    """All that an epoch depends on and changes.

    Attributes:
        state: gives what is trained of the network: tensors by name.
        load: takes such tensors back into the network.
        device: of the training; its random numbers are kept too.
    """

    state: Callable[[], dict[str, Tensor]]
    load: Callable[[Mapping[str, Tensor]], object]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    device: torch.device


@dataclass
class Progress:
    """The file of one training; what is in it is whole, or it is not there.

    Attributes:
        run_id: of the run that trains.
        interrupted: the run that it goes on from, if any.
        seconds: that this one took.
    """

    file: Path
    run_id: str
    interrupted: str | None = None
    seconds: float = 0.0
    _kept: int = field(default=0, repr=False)
    _due: float = field(default=0.0, repr=False)

    def save(self, so_far: Result, training: Training, best: Path, *, now: bool = False) -> None:
        """Keep an epoch's end, unless the time since the last one was too short for it.

        A disk that does not take it is told, and asked again at the end alone.

        Args:
            best: the checkpoint of the best epoch.
            now: whatever the time since.
        """
        started, epochs = time.perf_counter(), len(so_far.history)
        if epochs == self._kept or (started < self._due and not now):
            return
        optimizer = training.optimizer.state_dict()
        tensors = {f"state/{name}": tensor for name, tensor in training.state().items()}
        if so_far.best_epoch < epochs - 1:
            tensors |= {f"best/{name}": tensor for name, tensor in load_checkpoint(best)[0].items()}
        for index, values in optimizer["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in values.items()}
        tensors["random/cpu"] = torch.get_rng_state()
        if training.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(training.device)
        tensors = separate(tensors)
        facts = {
            "run_id": self.run_id,
            "result": asdict(so_far),
            "groups": optimizer["param_groups"],
            "schedule": training.schedule.state_dict(),
            "crc32": _crc32(tensors),
        }
        try:
            with atomic_file(self.file) as part:
                save_file(tensors, part, metadata={"facts": json.dumps(facts)})
        except UserError as error:
            print(f"warning: how far the training came is not kept: {error}", file=sys.stderr)
            self._due = math.inf
            return
        self._kept, ended = epochs, time.perf_counter()
        self._due = ended + (ended - started) / _SHARE

    def restore(self, training: Training) -> tuple[Result, dict[str, Tensor]] | None:
        """Put a training where the file says that it was, with the state of its best epoch; None
        where there is no file, or a damaged one."""
        found = _read(self.file)
        if found is None:
            if self.file.exists():
                print(
                    f"how far this training came is damaged in {self.file}: it begins anew",
                    file=sys.stderr,
                )
            return None
        tensors, facts = found
        training.load(_under("state/", tensors))
        _restore_optimizer(training.optimizer, _under("optimizer/", tensors), facts["groups"])
        training.schedule.load_state_dict(facts["schedule"])
        torch.set_rng_state(tensors["random/cpu"])
        if training.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], training.device)
        result = Result(**facts["result"])
        self.interrupted, self.seconds = facts["run_id"], result.seconds
        self._kept = len(result.history)
        return result, _under("best/", tensors) or _under("state/", tensors)


@contextmanager
def progress_of(folder: Path, key: str, run_id: str) -> Iterator[Progress | None]:
    """The progress of a training, for as long as the block lasts; when it ends well the file goes.

    None where another process trains the same at this time.

    Args:
        folder: of such files.
        key: of the training, fit for a file's name.
        run_id: of the run that trains.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _forget_old(folder)
    lock = FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(
            "another process trains the same; this one does not go on after a kill", file=sys.stderr
        )
        yield None
        return
    try:
        progress = Progress(folder / f"{key}.safetensors", run_id)
        yield progress
        progress.file.unlink(missing_ok=True)
    finally:
        lock.release()


def interrupted_trainings(folder: Path) -> list[Path]:
    """The files of trainings that did not come to their end, and of those that are under way."""
    return sorted(folder.glob("*.safetensors"))


def forget(files: Iterable[Path]) -> int:
    """Delete such files, but for those of trainings under way; returns the bytes freed."""
    freed = 0
    for file in files:
        with suppress(OSError), FileLock(file.with_suffix(".lock"), blocking=False):
            size = file.stat().st_size
            file.unlink()
            freed += size
    return freed


def _forget_old(folder: Path) -> None:
    long_ago = time.time() - _KEPT_DAYS * 24 * 3600
    for file in folder.iterdir():
        with suppress(OSError):  # another process was faster
            if file.stat().st_mtime < long_ago:
                file.unlink()


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            facts = json.loads(opened.metadata()["facts"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return (tensors, facts) if _crc32(tensors) == facts["crc32"] else None


def _crc32(tensors: Mapping[str, Tensor]) -> int:
    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, what = name.partition("/")
        state.setdefault(int(index), {})[what] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for what, value in values.items():
            if value.shape == parameter.shape:
                # A fused optimizer goes through memory: its state has the parameter's layout.
                values[what] = torch.empty_like(parameter).copy_(value)
