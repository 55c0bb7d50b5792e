"""The cut: prefix and suffix are the model, for every family and at every kind of depth."""

import pytest
import timm
import torch
from torch import Tensor, nn

from tlkit.errors import UserError
from tlkit.models.backbones import create_model
from tlkit.models.cut import between, split
from tlkit.models.units import FAMILIES, family, units

SIZE = 32
BACKBONES = {
    "test_resnet": "resnet",
    "test_efficientnet": "efficientnet",
    "tf_efficientnet_lite0": "efficientnet",
    "mobilenetv2_035": "efficientnet",
    "mobilenetv3_small_050": "mobilenetv3",
    "test_convnext": "convnext",
    "test_convnext2": "convnext",
    "regnetx_002": "regnet",
    "test_vit": "vit",
    "test_vit3": "vit",
    "test_vit4": "vit",
    "deit_tiny_patch16_224": "vit",
    "small_swin": "swin",
    "swinv2_tiny_window8_256": "swinv2",
}


def make(backbone: str) -> nn.Module:
    if not backbone.startswith("swinv2"):
        return create_model(backbone, num_classes=3, dropout=0.2, image_size=SIZE)
    return timm.create_model(  # as small as conftest's small_swin
        backbone, num_classes=3, img_size=SIZE, embed_dim=16, depths=(2, 3), num_heads=(1, 2)
    )


@pytest.fixture(scope="module", params=BACKBONES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made = make(request.param).eval()
    with torch.no_grad():
        # Fresh layer scales and residual gammas are almost nothing: let every block count.
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return made


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def depths(model: nn.Module) -> list[int]:
    count = len(units(model))
    return sorted({0, 1, count // 2, count - 1, count})


def test_every_family_is_tried() -> None:
    assert set(BACKBONES.values()) == set(FAMILIES)


@torch.no_grad()
def test_prefix_then_suffix_is_the_model(model: nn.Module, pictures: Tensor) -> None:
    whole = model(pictures)
    for depth in depths(model):
        prefix, suffix = split(model, depth)
        between = prefix(pictures)
        assert (suffix(between) - whole).abs().max() == 0, depth
        if 0 < depth < len(units(model)):
            # The cut is real: the model's own answer does not come out of the prefix.
            assert between.shape != whole.shape


@torch.no_grad()
def test_depth_0_gives_pooled_features(model: nn.Module, pictures: Tensor) -> None:
    features = split(model, 0)[0](pictures)
    expected = model.forward_head(model.forward_features(pictures), pre_logits=True)  # type: ignore[operator]
    assert features.ndim == 2
    assert torch.equal(features, expected)


def test_depth_of_all_units_has_nothing_before_the_model(model: nn.Module) -> None:
    prefix, suffix = split(model, len(units(model)))
    assert isinstance(prefix, nn.Identity)
    assert suffix is model


def test_the_two_halves_share_every_entry_of_the_model(model: nn.Module) -> None:
    entries = {tensor.data_ptr() for tensor in model.state_dict().values() if tensor.numel()}
    for depth in depths(model)[:-1]:
        prefix, suffix = split(model, depth)
        below = {t.data_ptr() for t in prefix.state_dict().values() if t.numel()}
        above = {t.data_ptr() for t in suffix.state_dict().values() if t.numel()}
        assert below | above == entries
        assert not below & above
        # Names of the suffix are those of the model.
        for name, tensor in suffix.state_dict().items():
            assert tensor.data_ptr() == model.state_dict()[name].data_ptr()


def test_units_are_the_backbone_in_forward_order(model: nn.Module, pictures: Tensor) -> None:
    found = units(model)
    assert found[0].name == "stem"
    assert len({unit.name for unit in found}) == len(found)
    ran: list[str] = []
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
        for unit in found
        for path in unit.modules
    ]
    with torch.no_grad():
        model(pictures)
    for hook in hooks:
        hook.remove()
    assert ran == [path for unit in found for path in unit.modules]
    # No residual block is left out: what is in no unit is the tail and the head.
    inside = {
        p for u in found for path in u.modules for p in model.get_submodule(path).parameters()
    }
    own = set(model._parameters.values())
    rest = [n for n, p in model.named_parameters() if p not in inside and p not in own]
    tails = ("conv_head", "bn2", "norm", "attn_pool", "fc_norm", "head", "fc", "classifier")
    assert all(name.partition(".")[0] in tails for name in rest), rest


def test_cutting_leaves_the_model_as_it_was(model: nn.Module, pictures: Tensor) -> None:
    with torch.no_grad():
        whole = model(pictures)
        names = list(model.state_dict())
        prefix, suffix = split(model, 2)
        suffix.register_forward_hook(lambda *_: pytest.fail("a hook of the suffix ran"))
        assert torch.equal(model(pictures), whole)
    assert list(model.state_dict()) == names
    assert not any(isinstance(module, type(prefix)) for module in model.modules())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit"])
def test_the_prefix_never_leaves_eval_mode(backbone: str, pictures: Tensor) -> None:
    model = create_model(backbone, num_classes=3, dropout=0.2, image_size=SIZE)
    for depth in (0, 2):
        prefix, suffix = split(model, depth)
        nn.Sequential(prefix, suffix).train()
        assert not any(module.training for module in prefix.modules())
        assert all(module.training for module in suffix.modules())
        between_cuts = between(model.train(), len(units(model)), depth)
        assert not any(module.training for module in between_cuts.modules())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("depth", [0, 2])
def test_the_prefix_is_one_graph_for_torch_compile(
    backbone: str, depth: int, pictures: Tensor
) -> None:
    model = create_model(backbone, num_classes=3, dropout=0.2, image_size=SIZE)
    prefix, _ = split(model, depth)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(prefix, backend="eager", fullgraph=True)(pictures)
        assert torch.equal(compiled, prefix(pictures))


@pytest.mark.parametrize(("backbone", "count"), [("test_resnet", 5), ("test_vit", 7)])
def test_a_depth_beyond_the_units_names_their_number(backbone: str, count: int) -> None:
    model = create_model(backbone, num_classes=3, dropout=0.2, image_size=SIZE)
    for depth in (count + 1, -1):
        with pytest.raises(UserError, match=f"unfreeze_depth={depth} .*has {count} units"):
            split(model, depth)


@pytest.mark.parametrize(
    "backbone", ["test_byobnet", "test_nfnet", "test_maxvit", "test_mambaout", "test_vit_relpos"]
)
@torch.no_grad()
def test_another_family_is_frozen_or_trained_as_a_whole(backbone: str, pictures: Tensor) -> None:
    model = create_model(backbone, num_classes=3, dropout=0.2, image_size=SIZE).eval()
    assert family(model) is None
    for depth in (0, 1):
        prefix, suffix = split(model, depth)
        assert torch.equal(suffix(prefix(pictures)), model(pictures))
    with pytest.raises(UserError, match=r"unfreeze_depth=2 .*resnet, efficientnet, .*swin"):
        split(model, 2)
