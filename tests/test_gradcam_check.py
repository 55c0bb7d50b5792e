"""The tests of heat maps: Grad-CAM of a network that learned passes, maps that ignore it fail."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from test_figures import assert_legible, pictures_of, words
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from tlkit.evaluation.gradcam_check import LAST, STEPS, GradcamCheck, check_gradcam
from tlkit.evaluation.gradcam_check_figure import gradcam_check_figure
from tlkit.heat_maps import heat_maps
from tlkit.models.baseline import BaselineCNN
from tlkit.models.freezing import from_the_top

SIDE, PATCH = 64, 24


def striped(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Faint noise, with a patch somewhere whose stripes lie (class 0) or stand (class 1)."""
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.3 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(count) % 2
    stripes = (torch.arange(PATCH) // 2 % 2 * 2.0 - 1).expand(3, PATCH, PATCH)
    for picture, label in zip(pictures, labels, strict=True):
        x, y = torch.randint(0, SIDE - PATCH, (2,), generator=generator).tolist()
        patch = stripes if label else stripes.transpose(1, 2)
        picture[:, y : y + PATCH, x : x + PATCH] += patch
    return pictures, labels


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = BaselineCNN(2, 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(60):
        pictures, labels = striped(32, step)
        loss = F.cross_entropy(model(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    pictures, labels = striped(64, 1000)
    assert (model(pictures).argmax(1) == labels).float().mean() > 0.95
    return model


def edges(model: nn.Module, inputs: Tensor, classes: Tensor | None) -> Tensor:
    """An edge detector: it looks like an explanation and does not ask the model."""
    grey = inputs.mean(dim=1, keepdim=True)
    across = F.pad((grey[..., 1:] - grey[..., :-1]).abs(), (0, 1))
    down = F.pad((grey[..., 1:, :] - grey[..., :-1, :]).abs(), (0, 0, 0, 1))
    heat = (across + down)[:, 0]
    return heat / heat.amax(dim=(1, 2), keepdim=True)


def blob(model: nn.Module, inputs: Tensor, classes: Tensor | None) -> Tensor:
    """The middle of the picture, where photographers put things."""
    line = torch.linspace(-1, 1, inputs.shape[-1])
    return torch.exp(-4 * (line[:, None] ** 2 + line**2)).expand(len(inputs), -1, -1)


def check(network: nn.Module, explain: Callable[..., Tensor]) -> GradcamCheck:
    inputs = striped(12, 7)[0]
    named = network(inputs).argmax(1)
    return check_gradcam(network, explain, inputs, named, from_the_top(network), predict=network)


def measured(
    n: int = 12,
    *,
    similar: tuple[float, ...] = (0.9, 0.1),
    lost: float = 0.0,
    won: float = 0.0,
    at_random: Callable[[np.ndarray], np.ndarray] = np.zeros_like,
) -> GradcamCheck:
    """A probability of 0.5 that falls by `at_random` of the share that is deleted, and by `lost`
    more with the hottest first; with the hottest first inserted it is higher by `won`."""
    removed = LAST * np.arange(STEPS + 1) / STEPS
    random = np.tile(0.5 - at_random(removed), (n, 1))
    return GradcamCheck(
        maps=np.ones((n, 8, 8), dtype=np.float32),
        stages=("head", "all"),
        example=np.ones((3, 8, 8), dtype=np.float32),
        similarity=np.repeat(np.array(similar)[:, None], n, axis=1),
        removed=removed,
        deletion=random - lost,
        deletion_random=random,
        insertion=random + won,
        insertion_random=random,
    )


def test_the_measures_are_areas_and_one_sided_tests() -> None:
    found = measured(5, lost=0.2, won=0.1).metrics
    assert found == pytest.approx(
        {
            "gradcam/similarity_randomised": 0.1,  # of the last stage, in which all are random
            "gradcam/deletion_gain": 0.2,
            "gradcam/deletion_p_value": 2**-5,
            "gradcam/insertion_gain": 0.1,
            "gradcam/insertion_p_value": 2**-5,
        }
    )
    none = measured(5).metrics
    assert (none["gradcam/deletion_p_value"], none["gradcam/insertion_p_value"]) == (1, 1)


def test_the_verdict_is_that_of_the_thresholds() -> None:
    assert measured(similar=(0.9, 0.49)).follows_weights
    assert not measured(similar=(0.1, 0.5)).follows_weights
    assert measured(lost=0.0101).points_at_evidence
    assert not measured(lost=0.0099).points_at_evidence
    assert not measured(4, lost=0.3).points_at_evidence  # p = 1/16
    assert not measured().answer_moves
    assert measured(lost=0.011).answer_moves
    assert measured(at_random=lambda share: share).answer_moves
    assert measured(at_random=lambda share: np.sin(2 * np.pi * share)).answer_moves  # and is back


def test_the_maps_are_those_of_the_classes_that_were_named(network: nn.Module) -> None:
    inputs = striped(2, 7)[0]
    others = 1 - network(inputs).argmax(1)  # as an ensemble may, whose first member is outvoted
    found = check_gradcam(
        network, heat_maps, inputs, others, from_the_top(network)[:1], predict=network
    )
    np.testing.assert_allclose(found.maps, heat_maps(network, inputs, others), atol=1e-6)
    least = network(inputs).double().softmax(1).min(dim=1).values.detach()
    np.testing.assert_allclose(found.deletion[:, 0], least, atol=1e-6)


def test_grad_cam_of_a_network_that_learned_passes(network: nn.Module) -> None:
    found = check(network, heat_maps)
    assert found.follows_weights
    assert found.points_at_evidence
    assert found.metrics["gradcam/insertion_p_value"] < 0.05
    assert "follow the weights" in found.text
    assert "hurts more" in found.text


@pytest.mark.parametrize("fake", [edges, blob])
def test_a_map_that_does_not_ask_the_model_fails(
    network: nn.Module, fake: Callable[..., Tensor]
) -> None:
    found = check(network, fake)
    assert not found.follows_weights
    assert found.metrics["gradcam/similarity_randomised"] == pytest.approx(1)
    assert "do not follow" in found.text


def test_a_map_that_points_away_from_the_evidence_fails(network: nn.Module) -> None:
    found = check(network, lambda *asked: 1 - heat_maps(*asked))
    assert not found.points_at_evidence
    assert found.metrics["gradcam/deletion_gain"] < 0
    assert "is not shown to hurt more" in found.text


def test_a_gain_that_changes_no_answer_is_none(network: nn.Module) -> None:
    faint = copy.deepcopy(network)
    *_, last = (layer for layer in faint.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        last.weight *= 1e-3
    found = check(faint, heat_maps)
    assert 0 < found.metrics["gradcam/deletion_gain"] < 0.01
    assert found.metrics["gradcam/deletion_p_value"] < 0.05
    assert not found.points_at_evidence
    assert "is not shown to hurt more" in found.text
    assert found.text.endswith("; the answer hardly changes, whichever are deleted.")
    assert "hardly changes" not in check(network, heat_maps).text


def test_curves_begin_at_the_picture_and_the_model_is_left_alone(network: nn.Module) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = striped(12, 7)[0]
    found = check(network, heat_maps)
    rows = network(inputs).double().softmax(1).detach()
    best = rows.max(dim=1).values.numpy()
    np.testing.assert_allclose(found.deletion[:, 0], best, atol=1e-6)
    np.testing.assert_allclose(found.deletion_random[:, 0], best, atol=1e-6)
    blurred = gaussian_blur(inputs, SIDE // 4 + 1, SIDE / 16)
    blunt = network(blurred).double().softmax(1).detach().numpy()
    named = rows.argmax(dim=1).numpy()
    np.testing.assert_allclose(found.insertion[:, 0], blunt[range(12), named], atol=1e-5)
    np.testing.assert_array_equal(found.insertion[:, 0], found.insertion_random[:, 0])
    assert found.removed[-1] == 0.5
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_similarity_is_spearmans(network: nn.Module) -> None:
    inputs = striped(2, 3)[0]
    maps = torch.rand(3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    answers = iter(maps)
    found = check_gradcam(
        network, lambda *_: next(answers), inputs, torch.zeros(2, dtype=torch.int64),
        from_the_top(network)[:2], predict=network,
    )  # fmt: skip
    np.testing.assert_array_equal(found.maps, maps[0])
    for stage, picture in np.ndindex(2, 2):
        wanted = spearmanr(maps[0, picture].ravel(), maps[1 + stage, picture].ravel()).statistic
        assert found.similarity[stage, picture] == pytest.approx(wanted)


def test_four_pictures_are_too_few_and_five_are_not(network: nn.Module) -> None:
    inputs = striped(5, 7)[0]
    named, stages = network(inputs).argmax(1), from_the_top(network)[:1]
    for few in (4, 5):
        found = check_gradcam(
            network, heat_maps, inputs[:few], named[:few], stages, predict=network
        )
        assert found.enough_pictures == (few == 5)
        assert ("fewer than 5 pictures cannot pass" in found.text) == (few == 4)


def test_flat_maps_are_like_nothing(network: nn.Module) -> None:
    found = check(network, lambda model, inputs, classes: torch.zeros(len(inputs), SIDE, SIDE))
    assert (found.similarity == 0).all()
    assert not found.follows_weights
    assert "show nothing" in found.text
    assert not found.points_at_evidence


def test_the_figure_is_drawn(network: nn.Module) -> None:
    picture = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    figure = gradcam_check_figure(check(network, heat_maps), picture, "$1: a name")
    assert_legible(figure)
    assert [ax.get_title() for ax in figure.axes][-2:] == ["deletion", "insertion"]
    below, above = figure.axes[-1].lines  # where they coincide, both are to be seen
    assert (below.get_label(), above.get_label()) == ("random order", "hottest first")
    assert below.get_markersize() > above.get_markersize()
    seen = words(figure)
    assert "trained" in seen
    assert sum(text.startswith("random: ") for text in seen) == len(pictures_of(figure)) - 1 > 0
