"""What finished runs left behind, brought together on the test pictures that they share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlkit.deployment.tested import predictions
from tlkit.errors import UserError
from tlkit.evaluation.calibration import rescale
from tlkit.phases.prepare import PHASES
from tlkit.tracking.lookup import (
    LoggedRun,
    children,
    downloaded,
    find_run,
    finished_runs,
    parent_of,
)
from tlkit.tracking.tags import BEST_RUN_TAG, DIGEST_TAG, PHASE_TAG, TRIAL_TAG

_TESTED = (*PHASES, "ensemble")


@dataclass(frozen=True)
class Gathered:
    """A run that read the test split, and what it said of it.

    Attributes:
        name: unlike that of the other runs of the comparison.
        paths: of the test pictures.
        labels: int64 (n,).
        probabilities: float64 (n, classes), calibrated.
        temperature: what they were calibrated with; None of a mean of several models.
        history: of its epochs; empty for an ensemble.
        check: `gradcam_check.json`; empty for a network without heat maps.
    """

    name: str
    run_id: str
    metrics: Mapping[str, float]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    temperature: float | None
    history: Sequence[Mapping[str, float]]
    check: Mapping[str, Any]

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """int64 (n,)."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """bool (n,)."""
        return np.equal(self.predicted, self.labels)

    @property
    def calibration_worsened(self) -> bool:
        """Whether the temperature made the calibration error on the test pictures larger, to be
        seen."""
        before = self.metrics.get("test/ece_uncalibrated", 1.0)
        return round(self.metrics["test/ece"], 3) > round(before, 3)

    @property
    def by_calibration(self) -> dict[str, NDArray[np.float64]]:
        """Probabilities before and after the temperature, float64 (n, classes); without one, as
        they are."""
        if self.temperature is None:
            return {"as it is": self.probabilities}
        before = rescale(self.probabilities, 1 / self.temperature)
        return {"before": before, "after": self.probabilities}


def choose_runs(wanted: str, experiment_id: str) -> list[LoggedRun]:
    """The runs that `runs=` names, in the order of the phases.

    Raises:
        UserError: no such run, none that read the test split, or fewer than two.
    """
    if wanted == "auto":
        return _newest(experiment_id)
    found: dict[str, LoggedRun] = {}
    for run_id in (word.strip() for word in wanted.split(",")):
        for one in _tested(find_run(run_id)):
            found[one.run_id] = one
    if len(found) < 2:
        raise UserError(
            f"runs={wanted} is one training; two or more wanted, or a suite's or a search's run id"
        )
    return sorted(found.values(), key=lambda one: _TESTED.index(one.tags[PHASE_TAG]))


def _tested(one: LoggedRun) -> list[LoggedRun]:
    """The run itself, or the trainings below it."""
    if one.tags.get(PHASE_TAG) in _TESTED:
        if one.status != "FINISHED":
            raise UserError(f"run {one.run_id} is {one.status}; a finished one wanted")
        return [one]
    found = [
        child
        for child in children(one.run_id)
        if child.tags.get(PHASE_TAG) in _TESTED and child.status == "FINISHED"
    ]
    if not found:
        raise UserError(
            f"run {one.run_id} ({one.tags.get(PHASE_TAG, 'of another program')}) read no test "
            "pictures, nor did runs below it; name runs of baseline, head, finetune or ensemble"
        )
    return found


def _newest(experiment_id: str) -> list[LoggedRun]:
    """The newest run of each phase, on the data of the newest of them all."""
    last = _newest_of_each(experiment_id, {})
    if not last:
        raise UserError(
            "no finished baseline, head or finetune on all training pictures here; `mlflow run .` "
            "makes them, or name the runs: -P runs=RUN_ID,RUN_ID"
        )
    digest = max(last, key=lambda one: one.ended).tags[DIGEST_TAG]
    found = _newest_of_each(experiment_id, {DIGEST_TAG: digest})
    if len(found) < 2:
        raise UserError(
            f"only {found[0].name} was trained on the newest data ({found[0].params.get('data')}, "
            f"digest {digest}); train another phase on it, or name the runs: -P runs=RUN_ID,RUN_ID"
        )
    return [_best_of_its_search(one) for one in found]


def _newest_of_each(experiment_id: str, tags: Mapping[str, str]) -> list[LoggedRun]:
    """Of the phases that have a finished run on all training pictures, the newest."""
    newest = (
        next(
            filter(_on_all_pictures, finished_runs(experiment_id, {PHASE_TAG: phase, **tags})), None
        )
        for phase in PHASES
    )
    return [one for one in newest if one is not None]


def _on_all_pictures(one: LoggedRun) -> bool:
    """Not a point of a learning curve."""
    return float(one.params.get("train_fraction", 1)) == 1


def _best_of_its_search(one: LoggedRun) -> LoggedRun:
    """The run that the search above a run names as its best, where that is still there; the
    default's may be newer."""
    try:
        search = parent_of(one) if TRIAL_TAG in one.tags else None
    except UserError:  # deleted for good
        search = None
    if search is None:
        return one
    best = search.tags.get(BEST_RUN_TAG)
    return next((child for child in children(search.run_id) if child.run_id == best), one)


def gather(runs: Sequence[LoggedRun]) -> list[Gathered]:
    """Read what each run left.

    Raises:
        UserError: an artifact is gone, or the runs do not have the same test pictures.
    """
    names = _names(runs)
    gathered = [_gather(one, name) for one, name in zip(runs, names, strict=True)]
    first = gathered[0]
    for other in gathered[1:]:
        if other.paths != first.paths or not np.array_equal(other.labels, first.labels):
            raise UserError(
                f"runs {first.run_id} and {other.run_id} do not have the same test pictures"
            )
    return gathered


def _gather(one: LoggedRun, name: str) -> Gathered:
    phase = one.tags[PHASE_TAG]
    table = predictions(one.run_id)
    columns = [column for column in table if column.startswith("probability_")]
    classes = [column.removeprefix("probability_") for column in columns]
    return Gathered(
        name=name,
        run_id=one.run_id,
        metrics=one.metrics,
        paths=tuple(table["path"]),
        labels=np.array([classes.index(label) for label in table["label"]], dtype=np.int64),
        probabilities=table[columns].to_numpy(np.float64),
        temperature=one.metrics.get("temperature"),
        history=[] if phase == "ensemble" else _json(one.run_id, "history.json"),
        check=_json(one.run_id, "gradcam_check.json", missing={}),
    )


def _json(run_id: str, path: str, missing: Any = None) -> Any:
    try:
        with downloaded(run_id, path) as file:
            return json.loads(file.read_text(encoding="utf-8"))
    except UserError:
        if missing is None:
            raise
        return missing


def _names(runs: Sequence[LoggedRun]) -> list[str]:
    """The phase, with what tells it from another run of the same phase."""
    phases = [one.tags[PHASE_TAG] for one in runs]
    names = [
        phase
        if phases.count(phase) == 1
        else f"{phase} (trial {one.tags[TRIAL_TAG]})"
        if TRIAL_TAG in one.tags
        else f"{phase} (seed {one.params['seed']})"
        if _differ_in_seed([other for other in runs if other.tags[PHASE_TAG] == phase])
        else f"{phase} {one.run_id[:6]}"
        for phase, one in zip(phases, runs, strict=True)
    ]
    # Each search has a trial 0.
    return [
        name if names.count(name) == 1 else f"{name} {one.run_id[:6]}"
        for name, one in zip(names, runs, strict=True)
    ]


def _differ_in_seed(runs: Sequence[LoggedRun]) -> bool:
    """Whether each has a seed of its own, and none is a trial, which its number tells apart."""
    seeds = {one.params.get("seed") for one in runs if TRIAL_TAG not in one.tags}
    return len(seeds) == len(runs) and None not in seeds
