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
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial

from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.keys import unknown_key
from tlkit.models.backbones import create_model
from tlkit.models.units import units

# Each rung costs disk and, once, the time to write it.
_RUNGS = 4

# Optuna's arithmetic of steps ends where they are too small.
_MOST_STEPS = 1e9

# Attribute of the trial that tries the configuration as it is.
DEFAULT = "default"

# Without an unfrozen unit these change nothing.
_OF_UNFROZEN_UNITS = ("backbone_lr", "batch_norm")

# What decides how long the served network takes for a picture.
_SERVED = ("backbone", "image_size")

_SCHEDULES = ("head_schedule", "finetune_schedule")
# Keys that one schedule alone reads.
_READ_UNDER = {"warmup_epochs": "cosine", "early_stopping": "plateau"}

_REFUSED = {
    **dict.fromkeys(
        (
            "data",
            "val_fraction",
            "test_fraction",
            "groups",
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
        ("baseline_epochs", "baseline_lr", "baseline_schedule", "baseline_image_size"),
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
        widest = _widest(dimensions, config)
        varied = [
            key
            for key, dimension in dimensions.items()
            if not dimension.single() and any(_applies(key, one) for one in widest)
        ]
        if not faults and not varied:
            why = ", ".join(_idle(key, dimension) for key, dimension in dimensions.items())
            faults.append(
                f"search: {why}, so there is nothing to search; widen a range, or run finetune "
                "with these values"
            )
        if not faults and config.second_objective == "latency" and set(varied).isdisjoint(_SERVED):
            faults.append(
                "search: second_objective=latency, and none of its keys changes the network that "
                f"is served; only {' and '.join(_SERVED)} do: search one of them, or use "
                "second_objective=seconds"
            )
        faults += [f"search: {fault}" for fault in _contradictions(dimensions, config, widest)]
        if faults:
            raise UserError("; ".join(faults))
        # These decide which others apply.
        order = sorted(dimensions, key=lambda key: key not in ("unfreeze_depth", *_SCHEDULES))
        return cls({key: dimensions[key] for key in order}, config)

    def sample(self, trial: optuna.Trial) -> Config:
        """The configuration of a trial; what does not apply in it is not sampled.

        A trial with the attribute DEFAULT is the base configuration.
        """
        if trial.user_attrs.get(DEFAULT):
            keys = [key for key in self.dimensions if key in self.default()]
        else:
            keys = list(self.dimensions)
        config = self.base
        for key in keys:
            if _applies(key, config):
                config = replace(config, **{key: _suggest(trial, key, self.dimensions[key])})
        return config

    def of_trial(self, trial: FrozenTrial) -> Config:
        """The configuration of a trial that was sampled."""
        return replace(self.base, **trial.params)

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """What the configuration of a trial has for the keys that apply in it."""
        config = self.of_trial(trial)
        return {key: getattr(config, key) for key in self.dimensions if _applies(key, config)}

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
        """The dimensions by key, as Optuna's JSON."""
        return {key: distribution_to_json(each) for key, each in self.dimensions.items()}


def as_written(described: str) -> str:
    """A dimension of `describe` as it stands in `search`."""
    try:
        dimension = json_to_distribution(described)
    except ValueError:  # of a study that was begun when its dimensions were kept otherwise
        return described
    if isinstance(dimension, CategoricalDistribution):
        return f"[{', '.join(map(str, dimension.choices))}]"
    assert isinstance(dimension, FloatDistribution | IntDistribution)
    words = [f"low: {dimension.low}", f"high: {dimension.high}"]
    if dimension.log:
        words.append("log: true")
    if dimension.step not in (None, 1):
        words.append(f"step: {dimension.step}")
    return f"{{{', '.join(words)}}}"


def _contradictions(
    dimensions: Mapping[str, BaseDistribution], config: Config, widest: Sequence[Config]
) -> list[str]:
    """Faults of values that a trial could have together, each once. Tried are the values of two
    keys at a time, for no contradiction is of more, and the ends of ranges."""
    tried = {
        key: _tried(dimension)
        for key, dimension in dimensions.items()
        if any(_applies(key, one) for one in widest)
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


def _applies(key: str, config: Config) -> bool:
    """Whether a trial of this configuration reads the key."""
    if key in _OF_UNFROZEN_UNITS:
        return config.unfreeze_depth > 0
    trains_head = config.init_from == "auto"
    if key in _READ_UNDER:
        schedules = (config.finetune_schedule, *([config.head_schedule] if trains_head else ()))
        return _READ_UNDER[key] in schedules
    return trains_head or key not in ("head_epochs", "head_schedule")


def _idle(key: str, dimension: BaseDistribution) -> str:
    """Why a key that does not vary does not."""
    if dimension.single():
        return f"{key} has one value"
    where = {
        **dict.fromkeys(_OF_UNFROZEN_UNITS, "at unfreeze_depth 0"),
        **{one: f"where no schedule is {schedule}" for one, schedule in _READ_UNDER.items()},
        **dict.fromkeys(("head_epochs", "head_schedule"), "with an init_from"),
    }
    return f"{key} changes nothing {where[key]}"


def _dimension(key: str, wanted: Any, config: Config) -> BaseDistribution:
    if key not in Config.names():
        raise UserError(unknown_key(str(key), Config.names()))
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
        if step is not None:
            step = _step(float(step), low, high, whole)
        if whole:
            return IntDistribution(low, high, log=log, step=1 if step is None else int(step))
        return FloatDistribution(low, high, log=log, step=step)
    except (TypeError, ValueError) as error:  # a log range from 0, a step below 0
        raise UserError(f"{key}: {' '.join(str(error).split())}") from None


def _step(step: float, low: float, high: float, whole: bool) -> float:
    if whole and not step.is_integer():
        raise ValueError(f"step={step} is no whole number")
    steps = (high - low) / step if step else math.nan
    if not (1 <= steps <= _MOST_STEPS and math.isclose(steps, round(steps))):
        raise ValueError(f"step={step} does not lead from low={low} to high={high}; change one")
    return step


def _widest(dimensions: Mapping[str, BaseDistribution], config: Config) -> Sequence[Config]:
    """The configuration with the schedules that a trial may have, at the depth, of those that it
    may have, at which most keys apply: what applies in none of them applies in no trial."""
    depth = dimensions.get("unfreeze_depth")
    if depth is not None:
        config = replace(config, unfreeze_depth=max(_tried(depth)))
    searched = [key for key in _SCHEDULES if key in dimensions]
    return [
        replace(config, **dict(zip(searched, schedules, strict=True)))
        for schedules in product(*(_tried(dimensions[key]) for key in searched))
    ]


def _units(config: Config) -> int:
    """The units of the backbone, or of the smallest one where backbones are searched too."""
    names = config.search.get("backbone")
    if not isinstance(names, list):
        names = [config.backbone]
    return min(
        (
            len(units(create_model(name, num_classes=2, dropout=0.0, image_size=None)))
            for name in (Config.value_of("backbone", name) for name in names)
        ),
        default=0,  # an empty list is refused as such
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
