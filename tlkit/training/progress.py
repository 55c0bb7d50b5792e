"""How far a training came, in one file: the same training goes on from there after a kill."""

import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tlkit.errors import UserError, reason
from tlkit.files import atomic_file, scratch_folder
from tlkit.training.checkpoints import load_checkpoint, separate
from tlkit.training.loop import Result
from tlkit.training.optimizer import Schedule

# Writing takes at most this share of the time, but for the last one.
_SHARE = 0.05

# Days after which nobody is expected to give an interrupted command again.
_KEPT_DAYS = 30

# Seconds after which nobody is still writing a part of a file.
_WRITING_SECONDS = 3600


@dataclass(frozen=True)
class Training:
    """All that an epoch depends on and changes.

    Attributes:
        state: gives what is trained of the network: tensors by name.
        load: takes such tensors back into the network.
        device: of the training; its random numbers are kept too.
        inputs: how the inputs are computed; another text where it is done in another way.
    """

    state: Callable[[], dict[str, Tensor]]
    load: Callable[[Mapping[str, Tensor]], object]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    device: torch.device
    inputs: str


@dataclass(frozen=True)
class Kept:
    """What a file has of a training, besides what was put back into it.

    Attributes:
        run_id: of the run that trained.
        best: the state of its best epoch.
    """

    run_id: str
    result: Result
    best: dict[str, Tensor]


@dataclass
class Progress:
    """The file of one training.

    Attributes:
        run_id: of the run that trains.
        went_on: called with the run that the training goes on from, where it does.
        seconds: that this one trained.
    """

    file: Path
    run_id: str
    went_on: Callable[[str], object] = lambda run_id: None
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
            "inputs": training.inputs,
        }
        try:
            with atomic_file(self.file) as part:
                said = json.dumps(facts)
                metadata = {"facts": said, "crc32": str(_crc32(said, tensors))}
                save_file(tensors, part, metadata=metadata)
        except (UserError, OSError, SafetensorError) as error:
            said = reason(error)
            print(f"warning: how far the training came is not kept: {said}", file=sys.stderr)
            self._due = math.inf
            return
        self._kept, ended = epochs, time.perf_counter()
        self._due = ended + (ended - started) / _SHARE

    def restore(self, training: Training) -> Kept | None:
        """Put a training where the file says that it was; None where there is no file, a damaged
        one, or one whose inputs were computed in another way."""
        if not self.file.exists():
            return None
        found = _read(self.file)
        if found is None or found[1]["inputs"] != training.inputs:
            what = "damaged" if found is None else "from inputs that were computed in another way"
            print(
                f"how far this training came is {what} in {self.file}: it begins anew",
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
        self.seconds, self._kept = result.seconds, len(result.history)
        self.went_on(facts["run_id"])
        return Kept(facts["run_id"], result, _under("best/", tensors) or _under("state/", tensors))


def trainings_folder() -> Path:
    """Where the files of all trainings lie."""
    return scratch_folder() / "trainings"


@contextmanager
def progress_of(
    key: str, run_id: str, *, lost: Callable[[str], object], went_on: Callable[[str], object]
) -> Iterator[Progress | None]:
    """The progress of a training, for as long as the block lasts; when it ends well the file goes.

    None where another process trains the same at this time, or nothing can be written.

    Args:
        key: of the training, fit for a file's name.
        run_id: of the run that trains.
        lost: called with the run that trained the same and was killed, if there is one.
        went_on: as `Progress` has it.
    """
    folder = trainings_folder()
    lock, holder = FileLock(folder / f"{key}.lock"), folder / f"{key}.run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        _forget_old(folder)
        killed = holder.read_text() if holder.exists() else ""
        holder.write_text(run_id)
    except OSError as error:
        lock.release()
        held = "another process trains the same" if isinstance(error, Timeout) else reason(error)
        print(f"{held}; this training does not go on after a kill", file=sys.stderr)
        yield None
        return
    try:
        if killed:
            lost(killed)
        progress = Progress(folder / f"{key}.safetensors", run_id, went_on)
        yield progress
        with suppress(OSError):  # the disk became read-only
            progress.file.unlink(missing_ok=True)
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def interrupted_trainings() -> dict[Path, int]:
    """The files of trainings that did not come to their end, and of those that are under way, with
    what is left of files that were not written to their end; each with its bytes."""
    folder, found = trainings_folder(), {}
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob(".*")]):
        with suppress(OSError):  # a training under way has come further meanwhile
            found[file] = file.stat().st_size
    return found


def forget(files: Iterable[Path]) -> int:
    """Delete such files, but for those of trainings under way; returns the bytes freed."""
    freed = 0
    for file in files:
        is_part = file.name.startswith(".")
        lock = nullcontext() if is_part else FileLock(file.with_suffix(".lock"), blocking=False)
        with suppress(OSError), lock:
            status = file.stat()
            if is_part and status.st_mtime > time.time() - _WRITING_SECONDS:
                continue
            file.unlink()
            freed += status.st_size
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
            metadata = opened.metadata()
            if int(metadata["crc32"]) != _crc32(metadata["facts"], tensors):
                return None
            return tensors, json.loads(metadata["facts"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _crc32(facts: str, tensors: Mapping[str, Tensor]) -> int:
    found = zlib.crc32(facts.encode())
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
