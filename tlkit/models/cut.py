"""The cut: a backbone in two, the frozen prefix and the suffix that is trained.

Both are shallow clones of the model in which the units of the other are replaced by identities:
timm's own forward runs in each, and all parameters and buffers are the model's.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import Self

from torch import Tensor, nn

from tlkit.errors import UserError
from tlkit.models.backbones import architecture, classifier_path
from tlkit.models.units import FAMILIES, Unit, family, units


class Frozen(nn.Sequential):
    """Modules that stay in eval mode, whichever mode is asked for."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def split(model: nn.Module, unfreeze_depth: int) -> tuple[nn.Module, nn.Module]:
    """Cut a model of `create_model` below its top `unfreeze_depth` units: (prefix, suffix).

    `suffix(prefix(x))` is `model(x)`, exactly in eval mode. Both share the model's parameters,
    so training the suffix trains the model. The prefix is put in eval mode and stays there; it
    gives one tensor:

    - depth 0: the pooled features (N, F); the suffix is the head alone.
    - depth of all units: its input, for it is `nn.Identity`; the suffix is the model.
    - between: what goes into the first trained unit, (N, C, H, W), for swin (N, H, W, C), for
      vit (N, T, C); the suffix is the trained units, all that follows the last unit, the head.

    Names in the state dict of the suffix are those of the model.

    Raises UserError for a depth below 0 or above the number of units.
    """
    trained = suffix(model, unfreeze_depth)
    if trained is model:
        return nn.Identity(), model
    return Frozen(_prefix(model, unfreeze_depth)).eval(), trained


def between(model: nn.Module, start: int, end: int) -> nn.Module:
    """The frozen units from the cut at depth `start` to the deeper one at depth `end` < `start`.

    `between(model, start, end)(prefix_start(x))` is `prefix_end(x)`, exactly in eval mode; from
    the depth of all units it is the prefix itself. In eval mode, and stays there. Raises
    UserError as `split` does.
    """
    return Frozen(_prefix(suffix(model, start), end)).eval()


def suffix(model: nn.Module, unfreeze_depth: int) -> nn.Module:
    """The second half of `split`, made without touching the mode of the first."""
    frozen = _frozen_units(model, unfreeze_depth)
    if not frozen:
        return model
    known = family(model)
    if unfreeze_depth == 0 or known is None:
        return _head(model)
    clone = _with_identities(model, [*_paths(frozen), *known.stem_methods])
    # Parameters that hang on the backbone itself are the stem's.
    clone._parameters.clear()
    clone._buffers.clear()
    return clone


def _prefix(model: nn.Module, unfreeze_depth: int) -> nn.Module:
    if unfreeze_depth == 0:
        return _with_identities(model, [classifier_path(model)])
    whole, frozen = units(model), _frozen_units(model, unfreeze_depth)
    roots = {path.partition(".")[0] for path in _paths(whole)}
    tail = [name for name, _ in model.named_children() if name not in roots]
    return _with_identities(model, [*_paths(whole[len(frozen) :]), *tail, "forward_head"])


def _head(model: nn.Module) -> nn.Module:
    path = classifier_path(model)
    head = model.get_submodule(path)
    for name in reversed(path.split(".")):
        head = nn.Sequential(OrderedDict([(name, head)]))
    return head


def _frozen_units(model: nn.Module, unfreeze_depth: int) -> tuple[Unit, ...]:
    found = units(model)
    if 0 <= unfreeze_depth <= len(found):
        return found[: len(found) - unfreeze_depth]
    seen = f"unfreeze_depth={unfreeze_depth} with backbone={architecture(model)}"
    if family(model) is None:
        raise UserError(
            f"{seen}, which can only be frozen whole (0) or trained whole (1); "
            f"depths between exist for the families {', '.join(FAMILIES)}"
        )
    raise UserError(
        f"{seen}, which has {len(found)} units; "
        f"allowed: 0 (the head alone) to {len(found)} (all of it)"
    )


def _paths(some: Iterable[Unit]) -> list[str]:
    return [path for unit in some for path in unit.modules]


def _same(x: Tensor) -> Tensor:
    return x


def _with_identities(module: nn.Module, names: Iterable[str]) -> nn.Module:
    """A clone of `module` in which the named submodules and methods give what they are given.

    Only the modules on the way to a name are new objects, all else is shared.
    """
    clone = copy.copy(module)
    # copy.copy shares the registries of children, parameters and hooks, which a clone must own.
    vars(clone).update({k: v.copy() for k, v in vars(module).items() if isinstance(v, dict)})
    below: dict[str, list[str]] = {}
    for name in names:
        child, _, rest = name.partition(".")
        below.setdefault(child, []).append(rest)
    for name, rests in below.items():
        submodule = module._modules.get(name)
        if submodule is None:
            setattr(clone, name, _same)
        elif "" in rests:
            clone._modules[name] = nn.Identity()
        else:
            clone._modules[name] = _with_identities(submodule, rests)
    return clone
