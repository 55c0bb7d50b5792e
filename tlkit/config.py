"""Every hyperparameter: its default, its meaning, its check. Nothing else reads a configuration."""

import copy
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from tlkit.errors import UserError

Check = Callable[[Any], bool]


def _key(default: Any, meaning: str, allowed: str = "", check: Check | None = None) -> Any:
    """A configuration field with its comment, what is allowed in words, and the same as a test."""
    return field(default=default, metadata=_about(meaning, allowed, check))


def _about(meaning: str, allowed: str, check: Check | None) -> dict[str, Any]:
    return {"help": meaning, "allowed": allowed, "check": check}


def _choice(default: str, meaning: str, *options: str) -> Any:
    return _key(default, meaning, "one of " + ", ".join(options), lambda value: value in options)


def _at_least(default: float, low: float, meaning: str) -> Any:
    return _key(default, meaning, f"at least {low:g}", lambda value: value >= low)


def _positive(default: float, meaning: str) -> Any:
    return _key(default, meaning, "greater than 0", lambda value: value > 0)


def _share(default: float, meaning: str) -> Any:
    return _key(default, meaning, "from 0 up to, not including, 1", lambda value: 0 <= value < 1)


def _auto_or(default: int | str, low: int, meaning: str) -> Any:
    return _key(
        default,
        meaning,
        f"auto, or a whole number of at least {low}",
        lambda value: value == "auto" if isinstance(value, str) else value >= low,
    )


_SEARCH = {
    "unfreeze_depth": {"low": 0, "high": "all"},
    "head_lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "backbone_lr": {"low": 1e-6, "high": 1e-3, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
    "dropout": {"low": 0.0, "high": 0.5},
}


@dataclass(frozen=True)
class Config:
    """Every key of `experiments/configs/*.yaml`, each also a `-P key=value` of `mlflow run`."""

    # Data
    data: str = _key(
        "synthetic",
        "synthetic, a folder, a zip or tar, torchvision:NAME or kaggle:NAME",
        "a source of pictures",
        lambda value: value != "",
    )
    val_fraction: float = _share(0.15, "share of the pictures for validation where none is given")
    test_fraction: float = _share(0.15, "share of the pictures for the test where none is given")
    max_pixels: int = _at_least(100_000_000, 1, "pixels a picture may decode to; more: quarantine")
    image_size: int | str = _auto_or("auto", 16, "side in pixels; auto: the backbone's own")
    baseline_image_size: int = _at_least(64, 16, "side in pixels for the baseline")
    augment: str = _choice(
        "recipe",
        "recipe: flip, rotation by 10 degrees, colour jitter of 10 %; trivial: TrivialAugment",
        "none",
        "recipe",
        "trivial",
    )
    views: int = _at_least(2, 1, "augmented renditions of a picture; epoch e trains on e mod views")
    loader_workers: int | str = _auto_or("auto", 0, "processes that decode; auto: one a core, to 8")

    # Model
    backbone: str = _key(
        "tf_efficientnet_lite0",
        "any timm model name",
        "a timm model name",
        lambda value: value != "",
    )
    weights: str = _key(
        "auto",
        "auto: the packaged ones or timm's hub; none: random; or a .safetensors or .pth file",
        "auto, none or a file",
        lambda value: value != "",
    )
    dropout: float = _share(0.2, "dropout before the classifier")
    unfreeze_depth: int = _at_least(4, 0, "units (blocks) from the top that finetune trains")
    batch_norm: str = _choice(
        "still",
        "statistics of the unfrozen batch norms in finetune: still: those of the weights it began "
        "with; moving: those of each batch",
        "still",
        "moving",
    )
    init_from: str = _key(
        "auto",
        "run id of the head that finetune begins from; auto: the newest that fits, or a new one",
        "auto or a run id",
        lambda value: value != "",
    )

    # Training
    baseline_epochs: int = _at_least(12, 1, "passes over the training pictures in baseline")
    head_epochs: int = _at_least(40, 1, "passes in head; cheap, for the backbone runs only once")
    finetune_epochs: int = _at_least(5, 1, "passes in finetune")
    baseline_lr: float = _positive(1e-3, "AdamW step size of the baseline CNN")
    head_lr: float = _positive(1e-3, "AdamW step size of the head, in head and in finetune")
    backbone_lr: float = _positive(1e-5, "AdamW step size of the unfrozen units in finetune")
    weight_decay: float = _at_least(1e-4, 0, "AdamW decay; none on norms and biases")
    label_smoothing: float = _share(0.0, "probability spread over the other classes")
    class_weights: str = _choice(
        "none", "balanced: a class counts in inverse to its size", "none", "balanced"
    )
    batch_size: int = _at_least(32, 1, "pictures a step")
    accumulate: int = _at_least(1, 1, "batches whose gradients make one step")
    schedule: str = _choice(
        "plateau",
        "plateau: halved after 2 epochs without a better val/loss; cosine: with warm-up",
        "plateau",
        "cosine",
    )
    warmup_epochs: float = _at_least(1.0, 0, "epochs of linear warm-up under cosine")
    early_stopping: int = _at_least(
        8, 0, "epochs without a better val/loss before a stop; 0: never"
    )

    # Search
    trials: int = _at_least(20, 1, "trials that tune makes, those of earlier commands included")
    timeout: float = _at_least(0, 0, "seconds after which tune starts no trial; 0: no limit")
    objective: str = _choice(
        "loss", "what tune improves on the validation pictures", "loss", "accuracy"
    )
    second_objective: str = _choice(
        "none",
        "what tune lowers besides: seconds of training, or latency, seconds for one picture; "
        "gives a Pareto front, and nothing is pruned",
        "none",
        "seconds",
        "latency",
    )
    pruner: str = _choice(
        "median", "how tune tells a bad trial after an epoch", "median", "hyperband", "none"
    )
    workers: int = _at_least(1, 1, "processes that train trials; they share the cores")
    study: str = _key(
        "auto",
        "name of the study that trials are kept in; auto: one for each data set, space and recipe",
        "auto or a name",
        lambda value: value != "",
    )
    storage: str = _key(
        "auto",
        "address of Optuna's database: sqlite:///FILE, postgresql://... or mysql://...; "
        "auto: optuna.db beside MLflow's database",
        "auto or an address",
        lambda value: value != "",
    )
    register: str = _key(
        "none",
        "name in the model registry that tune gives the best model",
        "none or a name",
        lambda value: value != "",
    )
    search: dict[str, Any] = field(
        default_factory=lambda: copy.deepcopy(_SEARCH),
        metadata=_about(
            "what tune searches: a key of this file and its range (low, high, log, step), or a "
            "list of values; all: the units that the backbone has",
            "a mapping of keys to ranges or lists",
            lambda value: len(value) > 0,
        ),
    )

    # Machine
    engine: str = _choice(
        "cached",
        "cached: the frozen part runs once a picture and view, for all runs; plain: in every "
        "epoch, the whole network in float32, as a script would",
        "cached",
        "plain",
    )
    store_gigabytes: int | str = _auto_or(
        "auto",
        0,
        "what the stored outputs of frozen parts may take, the oldest go first; "
        "auto: half of the disk that is free or theirs",
    )
    clear: str = _choice("no", "yes: the entry point cache deletes what is stored", "no", "yes")
    device: str = _choice("auto", "auto: cuda where there is one", "auto", "cpu", "cuda")
    precision: str = _choice(
        "auto", "auto: bf16 where the hardware has it, else fp32", "auto", "fp32", "bf16"
    )
    compile: str = _choice(
        "auto",
        "compile the frozen part; auto: where there are pictures enough to pay for it",
        "auto",
        "on",
        "off",
    )
    threads: int | str = _auto_or(
        "auto", 1, "threads of torch; the same number gives the same bits"
    )
    seed: int = _key(
        0, "of the split, the views, the batches and the weights", "from 0 to 2**31 - 1",
        lambda value: 0 <= value < 2**31,
    )  # fmt: skip

    @classmethod
    def load(cls, file: Path | None, flags: Mapping[str, str]) -> "Config":
        """The dataclass's defaults, overruled by a YAML file, overruled by flags.

        Args:
            file: YAML mapping of keys to values, or None.
            flags: values as typed on the command line, by key.

        Raises:
            UserError: every unknown key, impossible value and contradiction, all together.
        """
        faults: list[str] = []
        values: dict[str, Any] = {}
        for origin, given in ((str(file), _read(file) if file else {}), ("-P", flags)):
            for name, raw in given.items():
                try:
                    values[name] = value_of(name, raw)
                except UserError as error:
                    faults.append(f"{error} ({origin})")
        if not faults:
            config = cls(**values)
            faults = config._contradictions()
        if faults:
            raise UserError("; ".join(faults))
        return config

    def _contradictions(self) -> list[str]:
        faults = []
        if self.val_fraction + self.test_fraction >= 1:
            faults.append(
                f"val_fraction={self.val_fraction} and test_fraction={self.test_fraction} leave "
                "nothing to train on; their sum must be below 1"
            )
        if self.val_fraction == 0 or self.test_fraction == 0:
            faults.append(
                "val_fraction and test_fraction must be above 0: "
                "the model is chosen on one split and judged on the other"
            )
        return faults

    def as_dict(self) -> dict[str, Any]:
        """Keys and effective values, in the order of the file."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Write a YAML file that `load` reads back to the same configuration."""
        path.write_text(yaml.safe_dump(self.as_dict(), sort_keys=False), encoding="utf-8")


_TYPES: dict[str, Any] = typing.get_type_hints(Config)
KEYS: tuple[str, ...] = tuple(item.name for item in fields(Config))
_FIELDS = {item.name: item for item in fields(Config)}


class _Loader(yaml.SafeLoader):
    """Reads on, off, yes and no as words, as YAML 1.2 does; only true and false are booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag != "tag:yaml.org,2002:bool" or first in "tTfF"
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(
            f"config={file}: no such file; recipes are in experiments/configs"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config={file} is not a YAML file: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"config={file} holds {type(content).__name__}; a mapping key: value wanted"
        )
    return {str(name): value for name, value in content.items()}


def unknown_key(name: str, keys: Sequence[str] = KEYS) -> str:
    """A fault's text for a key that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, keys, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "keys: " + ", ".join(keys)
    return f"unknown key {name}; {hint}"


def value_of(name: str, raw: Any) -> Any:
    """What YAML or the command line gave for a key, in the key's type.

    Raises:
        UserError: an unknown key, or a value that is not allowed.
    """
    if name not in _FIELDS:
        raise UserError(unknown_key(name))
    meta = _FIELDS[name].metadata
    try:
        value = _convert(raw, _TYPES[name])
    except ValueError as error:
        raise UserError(f"{name}={raw}: {error}") from None
    if meta["check"] is not None and not meta["check"](value):
        raise UserError(f"{name}={raw} is not allowed; {meta['allowed']}")
    return value


def _convert(raw: Any, kind: Any) -> Any:
    """Turn what YAML or the command line gave into the field's type, or raise ValueError."""
    if typing.get_origin(kind) is dict:
        return _mapping(raw)
    text = "" if raw is None else str(raw).strip()
    # MLflow passes an empty -P value on as two quotes.
    text = "" if text in ("''", '""') else text
    if kind is str:
        return text
    if isinstance(kind, types.UnionType):  # int | str: a number, or a word such as auto
        try:
            return int(text)
        except ValueError:
            return text
    try:
        number = float(text)
    except ValueError:
        raise ValueError("a number wanted") from None
    if not math.isfinite(number):
        raise ValueError("a finite number wanted")
    if kind is float:
        return number
    if number != int(number):
        raise ValueError("a whole number wanted")
    return int(number)


def _mapping(raw: Any) -> dict[str, Any]:
    try:
        content = yaml.safe_load(raw) if isinstance(raw, str) else raw
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("a mapping wanted, such as {dropout: {low: 0, high: 0.5}}")
    return {
        str(name): {key: _number(item) for key, item in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in content.items()
    }


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-6, without a dot, as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def describe() -> list[tuple[str, Any, str, str]]:
    """(key, default, meaning, allowed) of every key, for documents and help texts."""
    defaults = Config().as_dict()
    return [
        (item.name, defaults[item.name], item.metadata["help"], item.metadata["allowed"])
        for item in fields(Config)
    ]
