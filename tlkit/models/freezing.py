"""Freezing: what training at a depth may change, and keeping everything else still."""

from torch import nn

from tlkit.models.cut import suffix


def freeze(model: nn.Module, unfreeze_depth: int) -> None:
    """Let gradients reach the top `unfreeze_depth` units and the head alone.

    Sets requires_grad on every parameter: on for those of the suffix that `cut.split` gives at
    this depth, off for the rest. Raises UserError as `split` does.
    """
    trained = suffix(model, unfreeze_depth)
    model.requires_grad_(False)
    trained.requires_grad_(True)


def train_mode(model: nn.Module, unfreeze_depth: int) -> None:
    """Put the suffix in train mode and the rest in eval mode.

    Frozen batch norms then keep their statistics, and frozen dropout and stochastic depth are
    off. Raises UserError as `split` does.
    """
    trained = suffix(model, unfreeze_depth)
    model.eval()
    trained.train()


def trained_names(model: nn.Module, unfreeze_depth: int) -> frozenset[str]:
    """The state dict entries of `model`, parameters and buffers, that training may change.

    Raises UserError as `split` does.
    """
    return frozenset(suffix(model, unfreeze_depth).state_dict())
