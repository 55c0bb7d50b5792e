"""The mean of weights: a greedy soup of runs from one starting point (Wortsman et al. 2022)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from tlkit.errors import UserError
from tlkit.serving.classifier import Classifier

Score = Callable[[Classifier], float]


def greedy_soup(members: Sequence[Classifier], score: Score) -> tuple[Classifier, list[int]]:
    """The paper's recipe 1: from the best member on, each is added that does not lower the score.

    Args:
        score: accuracy on the validation pictures.

    Returns:
        A classifier of its own weights, with temperature 1, and the members that are in it.

    Raises:
        UserError: networks that differ.
    """
    plain = [member.calibrated(1.0) for member in members]
    if any(_network(member) != _network(plain[0]) for member in plain):
        raise UserError("average=weights: the networks differ; runs of one backbone wanted")
    scores = [score(member) for member in plain]
    order = sorted(range(len(plain)), key=lambda index: -scores[index])
    chosen, best = [order[0]], scores[order[0]]
    for index in order[1:]:
        tried = score(_mean([plain[i] for i in (*chosen, index)]))
        if tried >= best:
            chosen, best = [*chosen, index], tried
    return _mean([plain[index] for index in chosen]), chosen


def _network(member: Classifier) -> tuple[object, ...]:
    """What weights that are averaged have to share; dropout, for one, may differ."""
    one = member.description
    return one.backbone, one.image_size, one.classes, one.preprocessing


def _mean(members: Sequence[Classifier]) -> Classifier:
    states = [member.model.state_dict() for member in members]
    model = members[0].description.build()
    model.load_state_dict({name: _average([s[name] for s in states]) for name in states[0]})
    return replace(members[0], model=model.eval())


def _average(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():  # the count of batches in a batch norm
        return tensors[0]
    total = sum((tensor.double() for tensor in tensors[1:]), start=tensors[0].double())
    return (total / len(tensors)).to(tensors[0].dtype)
