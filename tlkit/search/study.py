"""A study: what it is about, its trials, and which of them are the best."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tlkit.config import Config
from tlkit.data.transforms import AUGMENTATION_REVISION
from tlkit.errors import UserError
from tlkit.models.weights import file_digest
from tlkit.search.space import DEFAULT, Space, as_written
from tlkit.search.storage import GRACE_SECONDS, retry_once
from tlkit.training.loop import CRITERION

# Attributes of a study: what it is about, and the MLflow run that it is logged under.
_IDENTITY, PARENT = "tlkit.identity", "tlkit.parent_run"
# The name of the data that it was begun with; the same data may have another today.
_DATA = "tlkit.data"
# Attributes of a trial. BEGUN is its number, for a trial that is tried again has the attributes of
# the first try. ERROR marks one that failed by itself; one that was killed has none.
BEGUN, LOSS, ACCURACY, SECONDS, ERROR = "begun", "loss", "accuracy", "seconds", "error"
EPOCHS = "epochs"

# Settings that may differ between commands that work on one study: they say how much is tried
# and where it is computed, not what a configuration scores.
_FREE = (
    *("trials", "timeout", "workers", "study", "storage", "register", "search"),
    *("data", "engine", "store_gigabytes", "clear", "device", "compile", "threads"),
    "loader_workers",
)

_RANDOM_TRIALS = 5


def identity(space: Space, digest: str) -> dict[str, Any]:
    """What two commands must agree in to share a study; JSON-able, flat.

    Raises:
        UserError: a file of weights is not there.
    """
    settings = {key: value for key, value in space.base.as_dict().items() if key not in _FREE}
    searched = {f"search.{key}": text for key, text in space.describe().items()}
    # Whatever the base says: `augment` itself may be searched.
    revision = {"augmentation revision": AUGMENTATION_REVISION, "epoch kept by": CRITERION}
    # A path says nothing of what lies there.
    files = {f"content of {name}": file_digest(name) for name in _weights_files(space)}
    return {"data digest": digest, **revision, **settings, **searched, **files}


def _weights_files(space: Space) -> list[str]:
    dimension = space.dimensions.get("weights")
    searched = dimension.choices if isinstance(dimension, CategoricalDistribution) else ()
    names = {space.base.weights, *(str(name) for name in searched)}
    return sorted(names - {"auto", "none"})


def open_study(storage: RDBStorage, space: Space, digest: str) -> Study:
    """Make the study with the default configuration as its first trial, or load it.

    To be called under a lock.

    Raises:
        UserError: a study of that name is about something else or was made to improve something
            else, or a file of weights is not there.
    """
    config, own = space.base, identity(space, digest)
    wanted = directions(config)
    study = optuna.create_study(
        study_name=study_name(config, own),
        storage=storage,
        load_if_exists=True,
        directions=wanted,
        pruner=pruner(config),
    )
    if PARENT in study.user_attrs:
        _check(study, own, config.data)
    elif _all(study) and _IDENTITY not in study.user_attrs:
        raise UserError(
            f"study={study.study_name} is there already, and some other program's; "
            "give this search a study of its own"
        )
    elif study.directions != wanted:
        raise UserError(
            f"study={study.study_name} is there already, to {_words(study.directions)}, where "
            f"this search is to {_words(wanted)}; give it a study of its own"
        )
    else:
        study.set_user_attr(_IDENTITY, own)
        study.set_user_attr(_DATA, config.data)
        study.set_metric_names(objective_names(config))
    settle(study)
    if not _has_default(study) and is_free(study, config.trials):
        study.enqueue_trial(space.default(), user_attrs={DEFAULT: True})
    return study


def _has_default(study: Study) -> bool:
    """Whether the default configuration is tried, or will be: not if it was interrupted twice."""
    return any(
        trial.user_attrs.get(DEFAULT) and state(trial) != "interrupted" for trial in _all(study)
    )


def study_name(config: Config, own: dict[str, Any]) -> str:
    """The name that was given, or one that is the same for the same identity."""
    if config.study != "auto":
        return config.study
    return "tune-" + hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]


def _check(study: Study, own: dict[str, Any], data: str) -> None:
    theirs = study.user_attrs[_IDENTITY]
    differing = [
        f"{key} {_shown(key, theirs, study.user_attrs.get(_DATA, ''))} "
        f"(here {_shown(key, own, data)})"
        for key in [*theirs, *(key for key in own if key not in theirs)]
        if theirs.get(key) != own.get(key)
    ]
    if differing:
        raise UserError(
            f"study={study.study_name} was begun with other settings: {'; '.join(differing)}; "
            "make them agree, or give this search a study of its own"
        )


def _shown(key: str, settings: Mapping[str, Any], data: str) -> str:
    value = settings.get(key, "absent")
    if key.startswith("search.") and value != "absent":
        return as_written(value)
    return f"{value}, {data}" if key == "data digest" and data else str(value)


def directions(config: Config) -> list[StudyDirection]:
    """Optuna's directions of the one or two objectives."""
    first = StudyDirection.MINIMIZE if config.objective == "loss" else StudyDirection.MAXIMIZE
    return [first] if config.second_objective == "none" else [first, StudyDirection.MINIMIZE]


def objective_names(config: Config) -> list[str]:
    """Of the one or two objectives, as figures show them."""
    first = CRITERION if config.objective == "loss" else "val/accuracy"
    if config.second_objective == "none":
        return [first]
    return [first, f"{config.second_objective} (s)"]


def _words(wanted: Sequence[StudyDirection]) -> str:
    return ", then ".join(direction.name.lower() for direction in wanted)


def pruner(config: Config) -> BasePruner:
    """What judges a trial by its validation values so far; Optuna's defaults."""
    if config.pruner == "median":
        return MedianPruner(n_startup_trials=_RANDOM_TRIALS)
    if config.pruner == "hyperband":
        return HyperbandPruner(max_resource=config.finetune_epochs)
    return NopPruner()


def sampler(seed: int, trials_so_far: int, objectives: int) -> TPESampler:
    """TPE, with one objective with the dependencies between keys, seeded for one trial.

    With one seed for all, a second worker and a resumed command would draw the first's
    suggestions again.
    """
    return TPESampler(
        n_startup_trials=_RANDOM_TRIALS,
        # As Optuna has it by default: with two objectives each key is drawn by itself.
        multivariate=objectives == 1,
        group=objectives == 1,
        seed=(seed * 100_003 + trials_so_far) % 2**32,  # NumPy takes no larger one
    )


def settle(study: Study) -> None:
    """Mark trials whose worker was killed, and queue each that was interrupted once more.

    To be called under a lock.
    """
    optuna.storages.fail_stale_trials(study)
    # Optuna looks at heartbeats only; a worker killed before its first one left none.
    long_ago = datetime.now() - timedelta(seconds=GRACE_SECONDS)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        begun = trial.user_attrs.get(BEGUN) == trial.number
        if not begun and (trial.datetime_start or long_ago) <= long_ago:
            give_back(study, trial.number)
    # Whoever ended them may have been stopped before they were queued.
    queued = {number for trial in _all(study) for number in retry_once.retry_history(trial)}
    for trial in _all(study):
        first = not retry_once.retry_history(trial)
        if state(trial) == "interrupted" and first and trial.number not in queued:
            retry_once(study, deepcopy(trial))


def give_back(study: Study, number: int) -> None:
    """End a trial that was interrupted; whoever takes the next one queues it."""
    if not _all(study)[number].state.is_finished():
        study.tell(number, state=TrialState.FAIL)


def retried(trial: FrozenTrial) -> int | None:
    """The number of the trial that was interrupted and in whose place this one is; None of most."""
    history = retry_once.retry_history(trial)
    return history[0] if history else None


def state(trial: FrozenTrial) -> str:
    """waiting, running, complete, pruned, failed (by an error of its own) or interrupted."""
    # Where the configuration is to blame it is pruned for Optuna.
    if trial.state in (TrialState.FAIL, TrialState.PRUNED) and ERROR in trial.user_attrs:
        return "failed"
    if trial.state is TrialState.FAIL:
        return "interrupted"
    return trial.state.name.lower()


def counts(study: Study) -> Counter[str]:
    """How many trials are in each state."""
    return Counter(state(trial) for trial in _all(study))


def made(counts: Counter[str]) -> int:
    """How many of these came to an end of their own."""
    return counts["complete"] + counts["pruned"] + counts["failed"]


def ended(study: Study) -> set[int]:
    """The numbers of the trials that came to an end, whichever."""
    return {trial.number for trial in _all(study) if trial.state.is_finished()}


def is_free(study: Study, trials: int) -> bool:
    """Whether another trial may begin: one is queued, or there are fewer than `trials`.

    Those that were interrupted do not count: they are queued again.
    """
    found = counts(study)
    return found["waiting"] > 0 or found.total() - found["interrupted"] < trials


def is_running(study: Study) -> bool:
    """Whether a trial is under way, here or elsewhere."""
    return counts(study)["running"] > 0


def best(study: Study) -> FrozenTrial | None:
    """The complete trial with the best first objective, ties broken by the loss, then by age."""
    sign = _sign(study)
    return min(
        (trial for trial in _all(study) if state(trial) == "complete"),
        key=lambda trial: (sign * trial.values[0], trial.user_attrs[LOSS], trial.number),
        default=None,
    )


def earlier(study: Study, params: Mapping[str, Any]) -> FrozenTrial | None:
    """The first trial with these values of the searched keys that is complete or was pruned."""
    for trial in _all(study):
        if trial.params == params and state(trial) in ("complete", "pruned"):
            return trial
    return None


def leads(study: Study, value: float, loss: float) -> bool:
    """Whether a trial with this first objective would be the best, or as good as the best."""
    leader, sign = best(study), _sign(study)
    if leader is None:
        return True
    return (sign * value, loss) <= (sign * leader.values[0], leader.user_attrs[LOSS])


def _sign(study: Study) -> int:
    return 1 if study.directions[0] is StudyDirection.MINIMIZE else -1


def value(trial: FrozenTrial) -> float | None:
    """The first objective: of one that was pruned what it would have scored where it stopped."""
    if trial.values:
        return float(trial.values[0])
    reported = trial.intermediate_values
    return float(reported[max(reported)]) if reported else None


def epochs(trial: FrozenTrial) -> int:
    """How many epochs a trial trained, or the one whose result it has."""
    # With two objectives nothing is reported to Optuna.
    return int(trial.user_attrs.get(EPOCHS, len(trial.intermediate_values)))


def default_trial(study: Study) -> FrozenTrial | None:
    """The complete trial of the configuration as it is."""
    for trial in _all(study):
        if trial.user_attrs.get(DEFAULT) and state(trial) == "complete":
            return trial
    return None


def _all(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False)
