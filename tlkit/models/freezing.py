"""Freezing: what training at a depth may change, and keeping everything else still."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tlkit.models.cut import suffix


def freeze(model: nn.Module, unfreeze_depth: int) -> None:
    """Let gradients reach the top `unfreeze_depth` units and the head alone.

    Sets requires_grad on every parameter: on for those of the suffix that `cut.split` gives at
    this depth, off for the rest. Raises UserError as `split` does.
    """
    trained = suffix(model, unfreeze_depth)
    model.requires_grad_(False)
    trained.requires_grad_(True)


def train_mode(model: nn.Module, unfreeze_depth: int, *, moving_statistics: bool = True) -> None:
    """Put the suffix in train mode and the rest in eval mode.

    Frozen batch norms then keep their statistics, and frozen dropout and stochastic depth are
    off. `moving_statistics` is that of `train_suffix`. Raises UserError as `split` does.
    """
    model.eval()
    train_suffix(suffix(model, unfreeze_depth), moving_statistics=moving_statistics)


def train_suffix(trained: nn.Module, *, moving_statistics: bool) -> None:
    """Put what trains in train mode.

    Without `moving_statistics` its batch norms normalise by the statistics they came with, and
    only their scales and shifts learn.
    """
    trained.train()
    if not moving_statistics:
        for module in trained.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def trained_names(model: nn.Module, unfreeze_depth: int) -> frozenset[str]:
    """The state dict entries of `model`, parameters and buffers, that training may change.

    Raises UserError as `split` does.
    """
    return frozenset(suffix(model, unfreeze_depth).state_dict())
