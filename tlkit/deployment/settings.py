"""The keys of the entry points that use a trained model, each also a `-P key=value`."""

from dataclasses import dataclass
from typing import Any

from tlkit.keys import (
    REGISTRY_NAME,
    Settings,
    at_least,
    auto_or,
    choice,
    is_pattern,
    key,
    registered,
    registry_name,
    required,
    share,
)
from tlkit.serving.log_address import LOG_FORMS, is_log

_REGISTERED = "runs:/RUN_ID/model, models:/NAME@ALIAS or models:/NAME/VERSION"
_MODEL = "runs:/RUN_ID/model, models:/NAME@ALIAS, models:/NAME/VERSION or a folder"
_TIME = "none, or a time such as 2026-11-23T08:00"
# What `needed_trials` takes at least.
_LEAST_DIFFERENCE = 1e-6


def _rate(default: float, meaning: str) -> Any:
    return key(default, meaning, "from 0.001 to 0.5", lambda value: 0.001 <= value <= 0.5)


@dataclass(frozen=True)
class PredictSettings(Settings):
    """Of `-e predict`."""

    model: str = required("the model, or several with commas between them: their mean", _MODEL)
    images: str = required(
        "what to classify", "a picture, a folder, a pattern such as 'a/*.jpg', a zip or a tar"
    )
    output: str = key("none", "a new or empty folder for the files as well; none: only to the run")
    tta: int = at_least(
        1,
        1,
        "views that are averaged, augmented as in training; 1: the picture as it is",
    )
    abstain: float = share(0.0, "confidence below which no class is named")
    groups: str = key(
        "none",
        "what pictures in folders called after a class belong together: folder: the first one "
        "below that of the class; or a regular expression, as in training",
        "none, folder or a regular expression",
        lambda value: value != "auto" and is_pattern(value),
    )
    gradcam: bool = key(False, "true: an overlay for each picture, and a sheet of the first ones")
    workers: int | str = auto_or("auto", 1, "threads that decode; auto: one a core", 1024)


@dataclass(frozen=True)
class PromoteSettings(Settings):
    """Of `-e promote`."""

    name: str = required("the name in the model registry", REGISTRY_NAME, registry_name)
    candidate: str = key(
        "none",
        "the model that may become champion: runs:/RUN_ID/model, models:/NAME/VERSION or "
        "models:/m-ID",
    )
    confidence: float = key(
        0.95,
        "with which the candidate must be better than the champion to take its place; refused if "
        "worse with it, else challenger",
        "above 0.5 and below 1",
        lambda value: 0.5 < value < 1,
    )
    rollback: bool = key(False, "true: the champion before this one is champion again")

    def contradictions(self) -> list[str]:
        if self.rollback == (self.candidate == "none"):
            return []
        if self.rollback:
            return [f"candidate={self.candidate} and rollback=true: give one of them"]
        return ["candidate is not given; -P candidate=runs:/RUN_ID/model, or -P rollback=true"]


@dataclass(frozen=True)
class RouteSettings(Settings):
    """Of `-e route`."""

    champion: str = required("the model that serves most requests", _MODEL)
    challenger: str = required("the model that is tried", _MODEL)
    share: float = key(
        0.5,
        "share of the keys that the challenger serves",
        "above 0 and below 1",
        lambda value: 0 < value < 1,
    )
    salt: str = key("tlkit", "another text deals the keys anew, for the next test", "a text")
    register: str = registered("name in the model registry for the router")


@dataclass(frozen=True)
class AbtestSettings(Settings):
    """Of `-e abtest`."""

    log: str = required("where the router logs", LOG_FORMS, is_log)
    outcomes: str = key(
        "none",
        "a CSV with the columns key and success (1 or 0), for the requests whose outcome is known",
    )
    since: str = key("none", "leave out earlier requests", _TIME)
    alpha: float = _rate(0.05, "false alarms at most, over all looks together")
    power: float = key(
        0.8, "with which a difference is to be found", "from 0.5 up to, not including, 1",
        lambda value: 0.5 <= value < 1,
    )  # fmt: skip
    difference: float = key(
        0.02, "smallest difference of the success rates that matters to you; used to say how many "
        "more outcomes are needed",
        f"from {_LEAST_DIFFERENCE:f} up to, not including, 1",
        lambda value: _LEAST_DIFFERENCE <= value < 1,
    )  # fmt: skip


@dataclass(frozen=True)
class MonitorSettings(Settings):
    """Of `-e monitor`."""

    model: str = required("the model that is watched", _MODEL)
    log: str = required("where its server logs", LOG_FORMS, is_log)
    window: int = at_least(200, 1, "how many of the newest requests are compared")
    since: str = key("none", "leave out earlier requests", _TIME)
    served_by: str = choice(
        "any", "of a router's requests, those of one model", "any", "champion", "challenger"
    )
    alpha: float = _rate(0.01, "false alarms at most, a look")


@dataclass(frozen=True)
class ExportSettings(Settings):
    """Of `-e export`."""

    model: str = required("the model", _MODEL)
    images: str = required(
        "pictures that the exported model is checked on", "as in predict; up to 200 are taken"
    )
    output: str = key(
        "none", "a new or empty folder for model.onnx and model.json; none: only the run's"
    )


@dataclass(frozen=True)
class EnsembleSettings(Settings):
    """Of `-e ensemble`."""

    models: str = required(
        "models with commas between them, trained on the same data", f"each {_REGISTERED}"
    )
    average: str = choice(
        "probabilities",
        "what is averaged; weights: a greedy soup of runs from one starting point, as cheap as one "
        "model",
        "probabilities",
        "weights",
    )
    register: str = registered("name in the model registry for the result")
