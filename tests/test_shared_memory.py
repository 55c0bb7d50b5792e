"""A container's small /dev/shm, in which the loader's workers hand batches over."""

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tlkit.data.datasets import loaded
from tlkit.errors import UserError


class _Failing(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.fault == "bus error":
            os.kill(os.getpid(), signal.SIGBUS)
        raise RuntimeError(self.fault)


@pytest.mark.parametrize(
    "fault",
    [
        "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)",
        "bus error",
    ],
)
def test_too_little_shared_memory_is_told_with_both_ways_out(fault: str) -> None:
    with pytest.raises(UserError, match=r"--shm-size=1g.*loader_workers=0"):
        list(loaded(DataLoader(_Failing(fault), num_workers=1)))


@pytest.mark.parametrize(
    "fault",
    [
        "something else",
        "unable to open shared memory object </torch_1> in read-write mode: Too many open files",
    ],
)
def test_another_fault_of_a_worker_stays_what_it_is(fault: str) -> None:
    with pytest.raises(RuntimeError, match=fault.partition("<")[0]):
        list(loaded(DataLoader(_Failing(fault), num_workers=1)))
