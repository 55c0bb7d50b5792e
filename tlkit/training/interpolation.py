"""Weights between those that a training began with and those that it came to."""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from tlkit.training.loop import SHARE

State = Mapping[str, Tensor]


def between(begun: State, ended: State, share: float) -> dict[str, Tensor]:
    """The weights at `share` of the straight line from `begun` (0) to `ended` (1).

    Counters, which are whole numbers, are those of `ended`. Networks that were trained from the
    same pretrained weights are joined by a line without a barrier of the loss (Neyshabur et al.
    2020), and a point on that from a pretrained to a fine-tuned one may be better than both
    (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    """
    return {
        name: begun[name].lerp(tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in ended.items()
    }


def judged(
    begun: State,
    ended: State,
    steps: int,
    load: Callable[[State], object],
    validate: Callable[[], Mapping[str, float]],
) -> Iterator[dict[str, float]]:
    """What `validate` gives at 0, 1/steps, 2/steps and so on up to but without 1, each with its
    SHARE; `load` takes weights into the network, which is left with the last ones."""
    for step in range(steps):
        load(between(begun, ended, step / steps))
        yield {SHARE: step / steps, **validate()}
