"""What a study searches: keys of the configuration and the values each may take."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, product
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.keys import unknown_key
from tlkit.models.backbones import create_model
from tlkit.models.units import units

# Each rung costs disk and, once, the time to write it.
_RUNGS = 4

# Attribute of the trial that tries the configuration as it is.
DEFAULT = "default"

# Without an unfrozen unit these change nothing.
_OF_UNFROZEN_UNITS = ("backbone_lr", "batch_norm")

_REFUSED = {
    **dict.fromkeys(
        (
            "data",
            "val_fraction",
            "test_fraction",
            "train_fraction",
            "max_pixels",
            "seed",
            "data_seed",
            "seeds",
            "fractions",
        ),
        "trials are compared on the same pictures",
    ),
    **dict.fromkeys(
        ("baseline_epochs", "baseline_lr", "baseline_image_size"),
        "a trial trains the backbone, not the baseline",
    ),
    **dict.fromkeys(
        (
            *("init_from", "engine", "device", "compile", "threads", "loader_workers"),
            *("store_gigabytes", "clear"),
        ),
        "it says how a trial is computed, not what is trained",
    ),
    **dict.fromkeys(
        (
            "trials",
            "timeout",
            "objective",
            "second_objective",
            "pruner",
            "workers",
            "study",
            "storage",
            "register",
            "search",
        ),
        "it is a setting of the search itself",
    ),
}


@dataclass(frozen=True)
class Space:
    """The keys that a study searches.

    Attributes:
        dimensions: distribution by key, in the order in which they are sampled.
        base: the configuration that every other value is taken from.
    """

    dimensions: Mapping[str, BaseDistribution]
    base: Config

    @classmethod
    def of(cls, config: Config) -> "Space":
        """The space that the key `search` describes.

        Raises:
            UserError: unknown keys, values that are not allowed, or not together, inverted
                ranges, a space of a single point; all faults together.
        """
        dimensions: dict[str, BaseDistribution] = {}
        faults: list[str] = []
        for key, wanted in config.search.items():
            try:
                dimensions[key] = _dimension(key, wanted, config)
            except UserError as error:
                faults.append(f"search: {error}")
        deepest = _deepest(dimensions.get("unfreeze_depth"), config)
        varied = [
            key
            for key, dimension in dimensions.items()
            if not dimension.single() and _applies(key, deepest)
        ]
        if not faults and not varied:
            faults.append(
                "search: its keys have one value each, or change nothing at unfreeze_depth 0 "
                f"({', '.join(_OF_UNFROZEN_UNITS)}), so there is nothing to search; "
                "widen a range, or run finetune with these values"
            )
        faults += [f"search: {fault}" for fault in _contradictions(dimensions, config, deepest)]
        if faults:
            raise UserError("; ".join(faults))
        # The depth decides which others apply.
        order = sorted(dimensions, key=lambda key: key != "unfreeze_depth")
        return cls({key: dimensions[key] for key in order}, config)

    def sample(self, trial: optuna.Trial) -> Config:
        """The configuration of a trial; what does not apply at its depth is not sampled.

        A trial with the attribute DEFAULT is the base configuration.
        """
        if trial.user_attrs.get(DEFAULT):
            keys = [key for key in self.dimensions if key in self.default()]
        else:
            keys = list(self.dimensions)
        values: dict[str, Any] = {}
        for key in keys:
            depth = values.get("unfreeze_depth", self.base.unfreeze_depth)
            if _applies(key, depth):
                values[key] = _suggest(trial, key, self.dimensions[key])
        return replace(self.base, **values)

    def of_trial(self, trial: FrozenTrial) -> Config:
        """The configuration of a trial that was sampled."""
        return replace(self.base, **trial.params)

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """What the configuration of a trial has for the keys that apply at its depth."""
        config = self.of_trial(trial)
        return {
            key: getattr(config, key)
            for key in self.dimensions
            if _applies(key, config.unfreeze_depth)
        }

    def rungs(self) -> list[int]:
        """Depths, spread over those that are searched, at which a trial keeps the outputs of the
        frozen part: one at any other depth then starts from the next rung, not from pictures."""
        dimension = self.dimensions.get("unfreeze_depth")
        if isinstance(dimension, CategoricalDistribution):
            depths = sorted(int(depth) for depth in dimension.choices if depth)
        elif isinstance(dimension, IntDistribution):
            step = dimension.step
            depths = [depth for depth in range(dimension.low, dimension.high + 1, step) if depth]
        else:
            depths = [self.base.unfreeze_depth]
        if not depths:  # heads alone
            return []
        apart = -(-len(depths) // _RUNGS)
        return depths[apart - 1 :: apart]

    def default(self) -> dict[str, Any]:
        """The base configuration's own values, of the keys whose dimension holds them."""
        values = {key: getattr(self.base, key) for key in self.dimensions}
        return {key: value for key, value in values.items() if _holds(self.dimensions[key], value)}

    def describe(self) -> dict[str, str]:
        """The dimensions as text, by key."""
        return {key: str(dimension) for key, dimension in self.dimensions.items()}


def _contradictions(
    dimensions: Mapping[str, BaseDistribution], config: Config, deepest: int
) -> list[str]:
    """Faults of values that a trial could have together, each once. Tried are the values of two
    keys at a time, for no contradiction is of more, and the ends of ranges."""
    tried = {
        key: _tried(dimension) for key, dimension in dimensions.items() if _applies(key, deepest)
    }
    found: dict[str, None] = {}
    for one, other in combinations_with_replacement(tried, 2):
        for values in product(tried[one], tried[other]):
            config_of_both = replace(config, **dict(zip((one, other), values, strict=True)))
            found |= dict.fromkeys(config_of_both.contradictions())
    return list(found)


def _tried(dimension: BaseDistribution) -> Sequence[Any]:
    if isinstance(dimension, CategoricalDistribution):
        return dimension.choices
    assert isinstance(dimension, FloatDistribution | IntDistribution)
    return dimension.low, dimension.high


def _applies(key: str, depth: int) -> bool:
    return depth > 0 or key not in _OF_UNFROZEN_UNITS


def _dimension(key: str, wanted: Any, config: Config) -> BaseDistribution:
    if key not in Config.names():
        raise UserError(unknown_key(key, Config.names()))
    if key in _REFUSED:
        raise UserError(f"{key} cannot be searched: {_REFUSED[key]}")
    if isinstance(wanted, list) and wanted:
        options = [Config.value_of(key, option) for option in wanted]
        # They would be drawn more often, and one value could look like several.
        twice = [option for option in options if options.count(option) > 1]
        if twice:
            raise UserError(f"{key}: {twice[0]} is more than once in {wanted}; name it once")
        if key == "unfreeze_depth":
            _check_depth(max(options), config)
        return CategoricalDistribution(options)
    if isinstance(wanted, Mapping) and {"low", "high"} <= set(wanted):
        return _range(key, wanted, config)
    raise UserError(
        f"{key}: {wanted} is neither a range such as {{low: 1, high: 2}} nor a list of values"
    )


def _range(key: str, wanted: Mapping[str, Any], config: Config) -> BaseDistribution:
    unknown = set(wanted) - {"low", "high", "log", "step"}
    if unknown:
        raise UserError(f"{key}: unknown {', '.join(sorted(unknown))}; low, high, log, step exist")
    low, high = Config.value_of(key, wanted["low"]), wanted["high"]
    if key == "unfreeze_depth" and high == "all":
        high = _units(config)
    elif key == "unfreeze_depth":
        _check_depth(Config.value_of(key, high), config)
    high = Config.value_of(key, high)
    if isinstance(low, str) or isinstance(high, str):
        raise UserError(f"{key}: {low} to {high} is no range of numbers; give a list of values")
    if low > high:
        raise UserError(f"{key}: low={low} is above high={high}; exchange them")
    log, step = wanted.get("log", False), wanted.get("step")
    if not isinstance(log, bool):
        raise UserError(f"{key}: log={log} is neither true nor false")
    whole = isinstance(low, int) and isinstance(high, int)
    try:
        if whole and step is not None and float(step) != int(step):
            raise ValueError(f"step={step} is no whole number")
        if whole:
            return IntDistribution(low, high, log=log, step=1 if step is None else int(step))
        return FloatDistribution(low, high, log=log, step=None if step is None else float(step))
    except (TypeError, ValueError) as error:  # a log range from 0, a step below 0
        raise UserError(f"{key}: {' '.join(str(error).split())}") from None


def _deepest(dimension: BaseDistribution | None, config: Config) -> int:
    """The largest `unfreeze_depth` that a trial may have."""
    if isinstance(dimension, CategoricalDistribution):
        return max(int(depth) for depth in dimension.choices if depth is not None)
    return dimension.high if isinstance(dimension, IntDistribution) else config.unfreeze_depth


def _units(config: Config) -> int:
    """The units of the backbone, or of the smallest one where backbones are searched too."""
    names = config.search.get("backbone")
    if not isinstance(names, list):
        names = [config.backbone]
    return min(
        len(units(create_model(name, num_classes=2, dropout=0.0, image_size=None)))
        for name in names
    )


def _check_depth(depth: int, config: Config) -> None:
    most = _units(config)
    if depth > most:
        raise UserError(f"unfreeze_depth: {depth} is more than the {most} units of the backbone")


def _suggest(trial: optuna.Trial, key: str, dimension: BaseDistribution) -> Any:
    if isinstance(dimension, FloatDistribution):
        return trial.suggest_float(
            key, dimension.low, dimension.high, step=dimension.step, log=dimension.log
        )
    if isinstance(dimension, IntDistribution):
        return trial.suggest_int(
            key, dimension.low, dimension.high, step=dimension.step, log=dimension.log
        )
    assert isinstance(dimension, CategoricalDistribution)
    return trial.suggest_categorical(key, dimension.choices)


def _holds(dimension: BaseDistribution, value: Any) -> bool:
    if isinstance(dimension, CategoricalDistribution):
        return value in dimension.choices
    assert isinstance(dimension, FloatDistribution | IntDistribution)
    if isinstance(value, str) or not dimension.low <= value <= dimension.high:
        return False
    if dimension.step is None:
        return True
    steps = (value - dimension.low) / dimension.step
    return math.isclose(steps, round(steps), abs_tol=1e-9)
