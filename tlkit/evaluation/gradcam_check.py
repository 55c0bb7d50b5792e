"""Is a heat map to be trusted? It has to follow the weights, and to point at what counts."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

# Heat maps, float (N, H, W) in 0..1, for pictures (N, 3, H, W) and classes (N,).
Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]
# Logits (N, classes) for pictures (N, 3, H, W).
Predict = Callable[[Tensor], Tensor]

# Rank correlation with the map of random weights above which a map does not depend on the weights.
SIMILAR = 0.5
SIGNIFICANCE = 0.05
# Probability, as a mean over the steps: a gain below decides no answer, however surely it is above
# 0. Of a network that names one class for everything, gains of 0.0001 are significant.
LEAST_GAIN = 0.01
# The least p-value that n pictures can give is 2**-n.
FEWEST = 5
# Cells a side, and steps until half of them are deleted or inserted: beyond, too little is left of
# a picture, or too little missing, for the order to matter.
CELLS = 8
STEPS = 8
LAST = 0.5
_SEED = 0
_SHARES = LAST * np.arange(STEPS + 1) / STEPS


@dataclass(frozen=True)
class GradcamCheck:
    """What the two tests measured on n pictures.

    Attributes:
        maps: float32 (n, H, W) in 0..1, those that were tested.
        stages: what had random weights, from the top down; each includes those before it.
        example: float32 (stages + 1, H, W), the maps of the first picture, that of the trained
            weights first.
        similarity: float64 (stages, n) in -1..1, Spearman's rank correlation of the map with that
            of the trained weights.
        removed: float64 (steps + 1,) in 0..0.5, share of the cells.
        deletion, deletion_random: float64 (n, steps + 1), probability of the named class with
            that share of the cells blurred, the hottest first, or in random order.
        insertion, insertion_random: the same with that share sharp and the others blurred.
    """

    maps: NDArray[np.float32]
    stages: tuple[str, ...]
    example: NDArray[np.float32]
    similarity: NDArray[np.float64]
    removed: NDArray[np.float64]
    deletion: NDArray[np.float64]
    deletion_random: NDArray[np.float64]
    insertion: NDArray[np.float64]
    insertion_random: NDArray[np.float64]

    @property
    def follows_weights(self) -> bool:
        """Whether the maps of random weights are others; those that show nothing are none."""
        return bool(self.maps.any()) and self.metrics["gradcam/similarity_randomised"] < SIMILAR

    @property
    def points_at_evidence(self) -> bool:
        """Whether deleting the hottest cells hurts more than deleting random ones, surely and by
        enough."""
        values = self.metrics
        return (
            values["gradcam/deletion_p_value"] < SIGNIFICANCE
            and values["gradcam/deletion_gain"] >= LEAST_GAIN
        )

    @property
    def enough_pictures(self) -> bool:
        """Whether the second test could be passed at all."""
        return len(self.deletion) >= FEWEST

    @property
    def answer_moves(self) -> bool:
        """Whether the mean probability moves while cells are deleted, in either order."""
        means = np.stack([self.deletion.mean(axis=0), self.deletion_random.mean(axis=0)])
        return bool(np.ptp(means) >= LEAST_GAIN)

    @property
    def metrics(self) -> dict[str, float]:
        """`gradcam/...`: mean similarity to the maps of random weights; areas under the curves, by
        how much they differ from those of random order, and Wilcoxon's one-sided test of that."""
        worse = _area(self.deletion_random) - _area(self.deletion)
        better = _area(self.insertion) - _area(self.insertion_random)
        return {
            "gradcam/similarity_randomised": float(self.similarity[-1].mean()),
            "gradcam/deletion_gain": float(worse.mean()),
            "gradcam/deletion_p_value": _greater(worse),
            "gradcam/insertion_gain": float(better.mean()),
            "gradcam/insertion_p_value": _greater(better),
        }

    @property
    def text(self) -> str:
        """The verdict in a sentence."""
        values = self.metrics
        empty = "" if self.maps.any() else "show nothing and "
        follows = "follow" if self.follows_weights else f"{empty}do not follow"
        points = "hurts more" if self.points_at_evidence else "is not shown to hurt more"
        rest = "" if self.answer_moves else "; the answer hardly changes, whichever are deleted"
        if not self.enough_pictures:
            rest += f"; fewer than {FEWEST} pictures cannot pass the second test"
        return (
            f"The heat maps {follows} the weights (rank correlation with the maps of random "
            f"weights {values['gradcam/similarity_randomised']:.2f}, below {SIMILAR:g} wanted), "
            f"and deleting the hottest cells {points} than deleting random ones (area under the "
            f"probability {values['gradcam/deletion_gain']:+.3f}, at least {LEAST_GAIN:+g} wanted, "
            f"p = {values['gradcam/deletion_p_value']:.2g}, below {SIGNIFICANCE:g} wanted; "
            f"{self.deletion.shape[0]} pictures){rest}."
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "verdict": self.text,
            "follows_weights": self.follows_weights,
            "points_at_evidence": self.points_at_evidence,
            "answer_moves": self.answer_moves,
            **self.metrics,
            "stages": list(self.stages),
            "similarity": self.similarity.round(4).tolist(),
            "removed": self.removed.tolist(),
            **{
                name: getattr(self, name).round(4).tolist()
                for name in ("deletion", "deletion_random", "insertion", "insertion_random")
            },
        }


def check_gradcam(
    model: nn.Module,
    explain: Explain,
    inputs: Tensor,
    classes: Tensor,
    stages: Sequence[tuple[str, frozenset[str]]],
    *,
    predict: Predict,
) -> GradcamCheck:
    """Both tests of the maps of these classes.

    Randomising from the top down is the cascading test of Adebayo et al. 2018 (section 3.1); each
    weight is drawn anew from a normal with the mean and the deviation of its tensor, so that
    signals keep their scale. Deletion and insertion are those of Petsiuk et al. 2018 (section
    4.3), over cells instead of pixels, with a blurred picture in place of what is missing: single
    pixels would be noise that a network has never seen. The random order is the control.

    Args:
        model: in eval mode; left as it is.
        inputs: float (n, 3, H, W), n >= 1, preprocessed, on the model's device.
        classes: int64 (n,), there too: those that were named, by the model or by several of which
            it is one.
        stages: from the top down, a name and the names of all parameters that are random then.
        predict: the model, or what gives its logits faster; called 2 + 4 * STEPS times.
    """
    blurred = _blurred(inputs)
    with torch.no_grad():
        sharp, blunt = predict(inputs), predict(blurred)
    maps = explain(model, inputs, classes)
    drawn = [explain(_randomised(model, names), inputs, classes) for _, names in stages]
    heat = F.adaptive_avg_pool2d(maps[:, None], CELLS).flatten(1)
    rng = np.random.default_rng(_SEED)
    hot = heat.argsort(dim=1, descending=True, stable=True)
    random = torch.from_numpy(np.stack([rng.permutation(CELLS**2) for _ in inputs])).to(hot)

    def curve(order: Tensor, base: Tensor, put: Tensor, unchanged: Tensor) -> NDArray[np.float64]:
        return _probabilities(predict, base, put, order, classes, unchanged)

    ranks = _ranks(maps)
    return GradcamCheck(
        maps=maps.float().cpu().numpy(),
        stages=tuple(name for name, _ in stages),
        example=torch.stack([each[0] for each in (maps, *drawn)]).float().cpu().numpy(),
        similarity=np.array([_correlations(ranks, _ranks(each)) for each in drawn]),
        removed=_SHARES,
        deletion=curve(hot, inputs, blurred, sharp),
        deletion_random=curve(random, inputs, blurred, sharp),
        insertion=curve(hot, blurred, inputs, blunt),
        insertion_random=curve(random, blurred, inputs, blunt),
    )


def _blurred(pictures: Tensor) -> Tensor:
    """By a Gaussian along one axis, then the other: both at once take several times as long."""
    side = pictures.shape[-1]
    size = side // 4 + 1 - side // 4 % 2
    for kernel in ([size, 1], [1, size]):
        pictures = gaussian_blur(pictures, kernel, side / 16)
    return pictures


def _randomised(model: nn.Module, names: frozenset[str]) -> nn.Module:
    """A copy with these parameters drawn anew."""
    drawn = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for name, parameter in drawn.named_parameters():
            if name in names:
                # Drawn on the CPU, so that every device has the same.
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                spread = parameter.std() if parameter.numel() > 1 else 0.0
                parameter.copy_(parameter.mean() + spread * noise)
    return drawn


def _ranks(maps: Tensor) -> NDArray[np.float64]:
    """Of the pixels within their map: float64 (n, pixels)."""
    return np.asarray(rankdata(maps.flatten(1).cpu().numpy(), axis=1), dtype=np.float64)


def _correlations(first: NDArray[np.float64], second: NDArray[np.float64]) -> list[float]:
    """Of ranks, a picture, so Spearman's; 0 where a map is flat, which agrees with nothing."""
    return [
        0.0 if a.std() == 0 or b.std() == 0 else float(np.corrcoef(a, b)[0, 1])
        for a, b in zip(first, second, strict=True)
    ]


def _probabilities(
    predict: Predict,
    base: Tensor,
    put: Tensor,
    order: Tensor,
    classes: Tensor,
    unchanged: Tensor,
) -> NDArray[np.float64]:
    """Of the classes, with more and more cells of `put` in `base`: float64 (n, STEPS + 1).

    Args:
        unchanged: logits (n, classes) of `base` itself.
    """
    rank = order.argsort(dim=1)
    logits = [unchanged]
    for share in _SHARES[1:]:
        taken = (rank < round(share * CELLS**2)).to(base.dtype)
        mask = F.interpolate(taken.view(-1, 1, CELLS, CELLS), size=base.shape[-2:], mode="nearest")
        with torch.no_grad():
            logits.append(predict(torch.lerp(base, put, mask)))
    rows = torch.stack(logits, dim=1).double().softmax(dim=2)
    of_class = classes[:, None, None].expand(-1, len(logits), 1)
    found: NDArray[np.float64] = rows.gather(2, of_class)[:, :, 0].cpu().numpy()
    return found


def _area(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Under each curve, by the width of its range, so in 0..1: float64 (n,)."""
    return np.asarray(np.trapezoid(curves, _SHARES, axis=1) / LAST, dtype=np.float64)


def _greater(differences: NDArray[np.float64]) -> float:
    """Wilcoxon's signed-rank test of "not above 0"; 1 where there is no difference."""
    if not np.any(differences):
        return 1.0
    return float(wilcoxon(differences, alternative="greater").pvalue)
