"""The end of a search: what it found, in words, files and pictures, and as tested models."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.files import write_csv
from tlkit.runs.phase import AlreadyTrained, run_phase
from tlkit.runs.prepare import Data
from tlkit.search import study as studies
from tlkit.search.figures import write_figures
from tlkit.search.space import DEFAULT, Space
from tlkit.search.worker import TRAINED, TRAINED_BY_TAG, Search, computed_by, settle_runs
from tlkit.summary import PhaseResult, markdown_table, of_data
from tlkit.tracking.lookup import LoggedRun, children, downloaded
from tlkit.tracking.registry import register_model
from tlkit.tracking.run import Tracker, set_status
from tlkit.tracking.tags import BEST_RUN_TAG, PHASE_TAG, TRIAL_TAG
from tlkit.training.loop import CRITERION

# Metrics of the best configuration's run that the parent shows too.
_OF_THE_BEST = ("test/accuracy", "test/accuracy_low", "test/accuracy_high", "test/f1")
# Trials of a front that are told in words.
_SHOWN = 5


@dataclass(frozen=True)
class Conclusion:
    """What a search ends with.

    Attributes:
        summary: in words.
        experiment_id: of MLflow, where the search is logged.
        results: a finetune run of the best configuration and, where it is another one, of the
            default; `phase` says which is which.
    """

    summary: str
    experiment_id: str
    results: list[PhaseResult]


def conclude(search: Search, data: Data, own: Tracker) -> Conclusion:
    """Make runs of the best configuration and the default, which read the test pictures, and log
    it all.

    To be called under a lock.

    Raises:
        UserError: no trial is complete.
    """
    study, parent = search.study, search.parent
    best = studies.best(study)
    if best is None:
        raise UserError(_why_none(study))
    settle_runs(study, parent)
    if not studies.is_running(study):  # elsewhere, where the time given is longer
        _end_what_was_killed(parent, own)
    with parent.folder() as folder:
        _write_trials(folder / "trials.csv", study, search.space)
        search.space.of_trial(best).write(folder / "best.yaml")
        captions = write_figures(study, folder, studies.objective_names(search.config))
    summary = _summary(study, best, search.config)
    chosen = [best]
    default = studies.default_trial(study)
    if default is not None and default.number != best.number:
        chosen.append(default)
    values = {f"tlkit.best.{key}": str(value) for key, value in search.space.values(best).items()}
    # An earlier best may have had keys that do not apply to this one.
    parent.drop_tags({f"tlkit.best.{key}" for key in search.space.dimensions} - set(values))
    parent.tags({**values, "tlkit.best_trial": str(best.number)})
    results = [
        replace(_train_for_good(trial, search, data), phase=f"{role} (trial {trial.number})")
        for role, trial in zip(("best", "default"), chosen, strict=False)
    ]
    _tell_roles(search, best)
    parent.metrics({name: results[0].metrics[name] for name in _OF_THE_BEST})
    parent.tags({BEST_RUN_TAG: results[0].run_id})
    if search.config.register != "none":
        version = register_model(results[0].run_id, search.config.register)
        summary += f" Registered as {search.config.register}, version {version}."
    parent.describe(_description(summary, results, captions, search, data))
    return Conclusion(summary, parent.experiment_id, results)


def _end_what_was_killed(parent: Tracker, own: Tracker) -> None:
    """End the runs of commands that were killed: no trial is under way, and we hold the lock."""
    for child in children(parent.run_id):
        below = children(child.run_id)
        for some in (child, *below):
            if some.status == "RUNNING" and some.run_id != own.run_id:
                set_status(some.run_id, "KILLED")


def _tell_roles(search: Search, best: FrozenTrial) -> None:
    """Say of each run of `finetune` below the search which of its configurations it has."""
    about, default = f"study {search.study.study_name}", studies.default_trial(search.study)
    for child in children(search.parent.run_id):
        number = child.tags.get(TRIAL_TAG)
        if child.tags.get(PHASE_TAG) != "finetune" or child.status != "FINISHED" or number is None:
            continue
        is_default = default is not None and number == str(default.number)
        if number == str(best.number):
            role = "The best configuration" + (", the default one," if is_default else "")
        elif is_default:
            role = "The default configuration"
        else:
            role = f"Before trial {best.number} the best configuration"
        told = f"{role} of {about}, trial {number}."
        Tracker(child.run_id, search.parent.experiment_id).preface(told, about)


def _why_none(study: Study) -> str:
    counts = studies.counts(study)
    errors = [
        trial.user_attrs[studies.ERROR]
        for trial in study.get_trials(deepcopy=False)
        if studies.ERROR in trial.user_attrs
    ]
    if errors:
        return (
            f"all {counts['failed']} trials failed; the first: {errors[0]}; to go on, mend that, "
            f"and raise trials above {studies.made(counts)} or begin anew with another study"
        )
    return "no trial came to its end in the time given; raise timeout, and run the command again"


def _train_for_good(trial: FrozenTrial, search: Search, data: Data) -> PhaseResult:
    """The finetune run of a trial's configuration; the one of an earlier command, if there is."""
    there = _finished(trial, "finetune", search)
    if there is not None:
        return PhaseResult("finetune", there.run_id, dict(there.metrics))
    config = search.space.of_trial(trial)
    with _trained(trial, search, config) as taken:
        result = run_phase(
            "finetune", config, data=data, parent=search.parent.run_id, trained=taken
        )
    Tracker(result.run_id, search.parent.experiment_id).tags({TRIAL_TAG: str(trial.number)})
    return result


@contextmanager
def _trained(trial: FrozenTrial, search: Search, config: Config) -> Iterator[AlreadyTrained | None]:
    """What the trial trained, which is what the run for good would train; None where it was not
    kept, or was computed on another machine or by a command with other settings."""
    made = _finished(trial, "trial", search)
    with ExitStack() as stack:
        taken = None
        if made is not None and made.tags.get(TRAINED_BY_TAG) == computed_by(config):
            try:
                folder = stack.enter_context(downloaded(made.run_id, TRAINED))
                taken = AlreadyTrained(made.run_id, folder)
            except UserError:
                print(
                    f"what trial {trial.number} trained cannot be had from {TRAINED} of its run "
                    f"{made.run_id} any more: it is trained again",
                    file=sys.stderr,
                )
        yield taken


def _finished(trial: FrozenTrial, phase: str, search: Search) -> LoggedRun | None:
    """The finished run of a trial below the search, as `trial` or as `finetune`."""
    for child in children(search.parent.run_id):
        same = child.tags.get(TRIAL_TAG) == str(trial.number)
        if same and child.tags.get(PHASE_TAG) == phase and child.status == "FINISHED":
            return child
    return None


def _write_trials(path: Path, study: Study, space: Space) -> None:
    keys = list(space.dimensions)
    second = ["second objective", "on the front"] if len(study.directions) > 1 else []
    front = {trial.number for trial in study.best_trials}
    head = ["trial", "state", *keys, CRITERION, "val/accuracy", "seconds", "epochs", "error"]
    rows = (
        [
            trial.number,
            studies.state(trial),
            *(_values(trial, space).get(key, "") for key in keys),
            *_facts(trial, space.base),
            studies.epochs(trial),
            trial.user_attrs.get(studies.ERROR, ""),
            studies.retried(trial),
            *([(trial.values or ("", ""))[1], trial.number in front] if second else ()),
        ]
        for trial in study.get_trials(deepcopy=False)
    )
    write_csv(path, [*head, "in the place of", *second], rows)


def _values(trial: FrozenTrial, space: Space) -> Mapping[str, Any]:
    """What a trial has for the searched keys; nothing where it has drawn none yet."""
    drawn = trial.params or trial.user_attrs.get(DEFAULT)
    return space.values(trial) if drawn else {}


def _facts(trial: FrozenTrial, config: Config) -> list[Any]:
    """Loss, accuracy and seconds, as far as they are known."""
    known: dict[str, Any] = {}
    if studies.state(trial) in ("pruned", "failed"):
        known = {studies.SECONDS: trial.duration and trial.duration.total_seconds()}
    if studies.state(trial) == "pruned":
        known[config.objective] = studies.value(trial)
    known |= trial.user_attrs
    return [known.get(fact, "") for fact in (studies.LOSS, studies.ACCURACY, studies.SECONDS)]


def _summary(study: Study, best: FrozenTrial, config: Config) -> str:
    counts = studies.counts(study)
    made = studies.made(counts)
    words = (
        f"{made} trials: {counts['complete']} complete, {counts['pruned']} pruned "
        f"({counts['pruned'] / made:.0%}), {counts['failed']} failed. "
        f"The best by {studies.objective_names(config)[0]} is trial {best.number}: "
        f"{_scores(best, config)}"
    )
    default = studies.default_trial(study)
    if default is not None:
        told = _scores(default, config)
        words += f"; the default configuration (trial {default.number}): {told}"
    return words + "." + _front(study, config)


def _scores(trial: FrozenTrial, config: Config) -> str:
    loss, accuracy = trial.user_attrs[studies.LOSS], trial.user_attrs[studies.ACCURACY]
    return f"{CRITERION} {loss:.4f}, val/accuracy {accuracy:.3f}{_second(trial, config)}"


def _second(trial: FrozenTrial, config: Config) -> str:
    """The second objective after a comma, where there is one."""
    if config.second_objective == "none":
        return ""
    seconds = trial.values[1]
    if config.second_objective == "seconds":
        return f", {seconds:.3g} s"
    return f", {1000 * seconds:.3g} ms"


def _front(study: Study, config: Config) -> str:
    """A sentence on the trials than which no other is better in both objectives."""
    if config.second_objective == "none":
        return ""
    # One after the other in one objective is the same in the other, turned round.
    front = sorted(study.best_trials, key=lambda trial: trial.values[1], reverse=True)
    digits = 4 if config.objective == "loss" else 3
    told = [
        f"trial {trial.number} ({studies.objective_names(config)[0]} {trial.values[0]:.{digits}f}"
        f"{_second(trial, config)})"
        for trial in front[:_SHOWN]
    ]
    more = f" and {len(front) - _SHOWN} more, in trials.csv" if len(front) > _SHOWN else ""
    return f" On the front: {', '.join(told)}{more}."


def _description(
    summary: str,
    results: Sequence[PhaseResult],
    captions: Mapping[str, str],
    search: Search,
    data: Data,
) -> str:
    links = ", ".join(
        f"[{result.phase}](#/experiments/{search.parent.experiment_id}/runs/{result.run_id})"
        for result in results
    )
    pictures = "\n\n".join(
        f"**{name.removesuffix('.png').replace('_', ' ')}.** {caption}\n\n"
        f"![{name}]({search.parent.artifact_link(name)})"
        for name, caption in captions.items()
    )
    return (
        f"{summary}\n\nTrained for good: {links}.\n\n{markdown_table(results)}\n\n"
        "To train it again:\n\n```\n"
        f"mlflow artifacts download --run-id {search.parent.run_id} "
        "--artifact-path best.yaml --dst-path .\n"
        "mlflow run . --env-manager local -e finetune -P config=best.yaml\n```\n\n"
        f"{of_data(search.config, data.manifest)}\n\n{pictures}"
    )
