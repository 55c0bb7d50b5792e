"""Freezing: what training at a depth may change, and keeping everything else still."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tlkit.models.baseline import BaselineCNN
from tlkit.models.cut import suffix
from tlkit.models.units import units


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


def from_the_top(model: nn.Module) -> list[tuple[str, frozenset[str]]]:
    """The whole model in at most five parts, the head first: a name and the state of each part.

    A part holds the ones before it.
    """
    if isinstance(model, BaselineCNN):
        names = frozenset(model.state_dict())
        blocks = len(model.blocks)
        parts = [(f"block {block}", f"blocks.{block - 1}.") for block in range(blocks, 0, -1)]
        below = tuple(prefix for _, prefix in parts)
        found = [("head", frozenset(name for name in names if not name.startswith(below)))]
        for part, prefix in parts:
            own = frozenset(name for name in names if name.startswith(prefix))
            found.append((part, found[-1][1] | own))
        return found
    total = len(units(model))
    depths = sorted({1, round(total / 4), round(total / 2), total} - {0})
    return [
        ("head", trained_names(model, 0)),
        *(
            ("all units" if depth == total else f"top {depth}", trained_names(model, depth))
            for depth in depths
        ),
    ]
