"""Settings as dataclasses: how a key is declared, and read from a file or a flag and checked."""

import contextlib
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from tlkit.errors import UserError, without_password
from tlkit.files import utf8

Check = Callable[[Any], bool]

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def key(default: Any, meaning: str, allowed: str = "", check: Check | None = None) -> Any:
    """A field with its comment, what is allowed in words, and the same as a test."""
    return field(default=default, metadata=about(meaning, allowed, check))


def about(meaning: str, allowed: str, check: Check | None) -> dict[str, Any]:
    """The metadata of a field that `key` cannot make."""
    return {"help": meaning, "allowed": allowed, "check": check}


def required(meaning: str, allowed: str, check: Check = lambda value: value != "") -> Any:
    """A text that has no default; by default any but the empty one is allowed."""
    return field(metadata=about(meaning, allowed, check))


# What `registry_name` allows, in words.
REGISTRY_NAME = "a name without /, :, quotes and backticks"


def registry_name(value: str) -> bool:
    """Whether MLflow takes this as the name of a registered model, and in a filter as well."""
    return value.strip() != "" and not set("/:'\"`") & set(value)


def is_pattern(value: str) -> bool:
    """Whether this is a regular expression, and not an empty one."""
    try:
        return re.compile(value).pattern != ""
    except (re.error, OverflowError, RecursionError):
        return False


def registered(meaning: str) -> Any:
    """The word none, or a name for the model registry."""
    return key("none", meaning, f"none or {REGISTRY_NAME}", registry_name)


def choice(default: str, meaning: str, *options: str) -> Any:
    """One of some words."""
    return key(default, meaning, "one of " + ", ".join(options), lambda value: value in options)


def at_least(default: float, low: float, meaning: str) -> Any:
    """A number from `low` on."""
    return key(default, meaning, f"at least {low:g}", lambda value: value >= low)


def positive(default: float, meaning: str) -> Any:
    """A number above 0."""
    return key(default, meaning, "greater than 0", lambda value: value > 0)


def share(default: float, meaning: str) -> Any:
    """A number in [0, 1)."""
    return key(default, meaning, "from 0 up to, not including, 1", lambda value: 0 <= value < 1)


def positive_share(default: float, meaning: str) -> Any:
    """A number in (0, 1)."""
    return key(default, meaning, "above 0 and below 1", lambda value: 0 < value < 1)


def auto_or(default: int | str, low: int, meaning: str, high: float = math.inf) -> Any:
    """The word auto, or a whole number from `low` on, up to `high`."""
    allowed = f"at least {low}" if high == math.inf else f"{low} to {high}"
    return key(
        default,
        meaning,
        f"auto, or a whole number of {allowed}",
        lambda value: value == "auto" if isinstance(value, str) else low <= value <= high,
    )


@dataclass(frozen=True)
class Settings:
    """What a dataclass of keys inherits. Its fields are made by the functions above.

    Attributes:
        interrupted: what Ctrl-C is answered with.
    """

    interrupted: ClassVar[str] = "interrupted"

    @classmethod
    def load(cls, file: Path | None, flags: Mapping[str, str]) -> Self:
        """The dataclass's defaults, overruled by a YAML file, overruled by flags.

        Args:
            file: YAML mapping of keys to values, or None.
            flags: values as typed on the command line, by key.

        Raises:
            UserError: every unknown or missing key, impossible value and contradiction, together.
        """
        faults: list[str] = []
        values: dict[str, Any] = {}
        for origin, given in ((str(file), _read(file) if file else {}), ("-P", flags)):
            for name, raw in given.items():
                try:
                    values[name] = cls.value_of(name, raw)
                except UserError as error:
                    faults.append(f"{error} ({origin})")
        for name, item in _fields(cls).items():
            needed = item.default is MISSING and item.default_factory is MISSING
            if needed and name not in values and not any(f"{name}=" in fault for fault in faults):
                faults.append(f"{name} is not given; -P {name}=VALUE, {item.metadata['allowed']}")
        if not faults:
            settings = cls(**values)
            faults = settings.contradictions()
        if faults:
            raise UserError("; ".join(faults))
        return settings

    def contradictions(self) -> list[str]:
        """Faults of values that are allowed by themselves and not together, a text each."""
        return []

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names, in the order of the file."""
        return tuple(_fields(cls))

    @classmethod
    def value_of(cls, name: str, raw: Any) -> Any:
        """What YAML or the command line gave for a key, in the key's type.

        Raises:
            UserError: an unknown key, or a value that is not allowed.
        """
        if name not in _fields(cls):
            raise UserError(unknown_key(name, cls.names()))
        meta = _fields(cls)[name].metadata
        try:
            value = _convert(raw, typing.get_type_hints(cls)[name])
        except ValueError as error:
            raise UserError(f"{name}={_shown(raw)}: {error}") from None
        if meta["check"] is not None and not meta["check"](value):
            raise UserError(f"{name}={_shown(raw)} is not allowed; {meta['allowed']}")
        return value

    @classmethod
    def describe(cls) -> list[tuple[str, Any, str, str]]:
        """(key, default, meaning, allowed) of every key, for documents and help texts."""
        return [
            (name, _default(item), item.metadata["help"], item.metadata["allowed"])
            for name, item in _fields(cls).items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """Keys and effective values, in the order of the file, for others to read: a password in
        an address is left out."""
        return {
            name: without_password(value) if isinstance(value, str) else value
            for name, value in asdict(self).items()
        }

    def write(self, path: Path) -> None:
        """Write a YAML file that `load` reads back to the same settings, but for passwords."""
        path.write_text(yaml.safe_dump(self.as_dict(), sort_keys=False), encoding="utf-8")


def _fields(kind: type[Settings]) -> dict[str, Any]:
    return {item.name: item for item in fields(kind)}


def _default(item: Any) -> Any:
    if item.default is not MISSING:
        return item.default
    return "(to be given)" if item.default_factory is MISSING else item.default_factory()


def _shown(raw: Any) -> str:
    """On one line, without an address's password, cut to 200 characters."""
    return " ".join(without_password(str(raw)).split())[:200]


class _Loader(yaml.SafeLoader):
    """Reads on, off, yes and no as words, as YAML 1.2 does; only true and false are booleans. Has
    no dates, and refuses a key that is given twice, and aliases: with them 340 bytes can stand for
    more than fits into memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*); write out what it stands for")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"it has the key {twice[0]} twice")
        return super().construct_mapping(node, deep)


class _Words(_Loader):
    """Reads each value as the text that stands there: a name such as 010 is no number."""


def _resolvers(keep: Callable[[str, str], bool]) -> dict[str, list[tuple[str, Any]]]:
    """Those of YAML 1.1 for the kinds, by what a value begins with, that are kept."""
    return {
        first: [(tag, pattern) for tag, pattern in known if keep(tag.rpartition(":")[2], first)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.yaml_implicit_resolvers = _resolvers(
    lambda kind, first: kind != "timestamp" and (kind != "bool" or first in "tTfF")
)
_Words.yaml_implicit_resolvers = _resolvers(lambda kind, _: kind == "null")


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        words, content = yaml.load(text, _Words), yaml.load(text, _Loader)
    except FileNotFoundError:
        raise UserError(
            f"config={file}: no such file; recipes are in experiments/configs"
        ) from None
    except OSError as error:
        raise UserError(f"config={_shown(file)}: {error.strerror}; a file wanted") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"config={file} is not a YAML file: {_shown(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"config={file} holds {type(content).__name__}; a mapping key: value wanted"
        )
    return {
        str(word): value if isinstance(value, dict | list) else words[word]
        for word, value in zip(words, content.values(), strict=True)
    }


def unknown_key(name: str, keys: tuple[str, ...]) -> str:
    """A fault's text for a key that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, keys, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "keys: " + ", ".join(keys)
    return f"unknown key {name}; {hint}"


def _convert(raw: Any, kind: Any) -> Any:
    """Turn what YAML or the command line gave into the field's type, or raise ValueError."""
    if typing.get_origin(kind) is dict:
        return _mapping(raw)
    if isinstance(raw, dict | list):
        raise ValueError("one value wanted, no list and no mapping")
    text = "" if raw is None else str(raw).strip()
    if utf8(text) != text:  # MLflow cannot keep it
        raise ValueError("UTF-8 wanted; rename what it names")
    # MLflow passes an empty -P value on as two quotes.
    text = "" if text in ("''", '""') else text
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in (*_YES, *_NO):
            raise ValueError("true or false wanted")
        return text.lower() in _YES
    if kind is not float:
        with contextlib.suppress(ValueError):
            return int(text)  # a float would round a large one
    try:
        number = float(text)
    except ValueError:
        if isinstance(kind, types.UnionType):  # int | str: a number, or a word such as auto
            return text
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
        content = yaml.load(raw, _Loader) if isinstance(raw, str) else raw
    except (yaml.YAMLError, ValueError, RecursionError):
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
