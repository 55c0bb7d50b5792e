"""AdamW with a rate for the head and one for the backbone, and the schedule of both."""

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


def adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    head_names: frozenset[str],
    *,
    head_lr: float,
    backbone_lr: float,
    weight_decay: float,
    undecayed: Collection[str] = (),
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in groups by rate and decay.

    Norms and biases (one dimension or none) are not decayed: it would pull scales towards 0.

    Args:
        named_parameters: names and parameters; those that need no gradient are left out.
        head_names: the names that learn at `head_lr`; the others learn at `backbone_lr`.
        undecayed: names of others that are not decayed, such as embeddings of positions.

    Returns:
        An optimizer whose groups carry `role`, "head" or "backbone".
    """
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            role = "head" if name in head_names else "backbone"
            decays = parameter.ndim > 1 and name not in undecayed
            decay = weight_decay if decays else 0.0
            groups.setdefault((role, decay), []).append(parameter)
    rates = {"head": head_lr, "backbone": backbone_lr}
    return torch.optim.AdamW(
        [
            {"params": members, "role": role, "lr": rates[role], "weight_decay": decay}
            for (role, decay), members in groups.items()
        ],
        fused=True,  # one pass over the memory, not one for each operation
    )


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """`lr/head` and, where it trains, `lr/backbone`: the rates in force."""
    return {f"lr/{group['role']}": float(group["lr"]) for group in optimizer.param_groups}


class Schedule:
    """Steps a rate schedule at the times it wants: after a step, or after an epoch."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        kind: str,
        *,
        epochs: int,
        steps_per_epoch: int,
        warmup_epochs: float,
    ) -> None:
        """`plateau` halves the rates after 3 epochs without a loss that is lower by a
        ten-thousandth of itself; `cosine` warms up linearly for `warmup_epochs`, at most half of
        all, and falls along a half cosine, whose 0 is where one step more would be."""
        self._scheduler: ReduceLROnPlateau | LambdaLR
        if kind == "plateau":
            self._scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
        elif kind == "cosine":
            total = epochs * steps_per_epoch
            warmup = min(round(warmup_epochs * steps_per_epoch), total // 2)
            self._scheduler = LambdaLR(optimizer, lambda step: _cosine_factor(step, warmup, total))
        else:
            raise ValueError(f"schedule {kind!r}; plateau or cosine")

    def after_step(self) -> None:
        """To be called after each step of the optimizer."""
        if isinstance(self._scheduler, LambdaLR):
            self._scheduler.step()

    def after_epoch(self, validation_loss: float) -> None:
        """To be called after each epoch with its validation loss."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(validation_loss)

    def state_dict(self) -> dict[str, Any]:
        """Where it is; JSON-able."""
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be where `state_dict` said."""
        self._scheduler.load_state_dict(state)


def _cosine_factor(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
