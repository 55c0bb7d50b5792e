"""A worker: takes trials of a study until there are enough."""

import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from optuna import Trial
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial
from tqdm import tqdm

from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.errors import CannotTrainError, UserError, one_line
from tlkit.phases.machine import machine_for
from tlkit.search import study as studies
from tlkit.search.space import DEFAULT, Space
from tlkit.search.storage import STORAGE_ERRORS, Lock
from tlkit.search.trial import Log, Score, train_trial
from tlkit.summary import at_its_best, epochs_up_to
from tlkit.tracking.lookup import children
from tlkit.tracking.run import Tracker, set_status, start_run, tell_running
from tlkit.tracking.tags import PHASE_TAG, REPEATS_TAG, TRIAL_STATE_TAG, TRIAL_TAG
from tlkit.training.loop import CRITERION

# Where, below a trial's artifacts, lies what it trained: a folder a phase, as `run_phase` takes it.
TRAINED = "trained"
# By what it was computed; only where all of it was kept.
TRAINED_BY_TAG = "tlkit.trained_by"

# MLflow's status for how a trial ended. A pruned one did not finish.
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}


@dataclass(frozen=True)
class Search:
    """What a worker on a study has at hand.

    Attributes:
        lock: between all processes that work on the study.
        parent: the run that trials are logged under.
        head: a checkpoint that trials begin from; None: each trains its own.
    """

    space: Space
    study: Study
    lock: Lock
    manifest: Manifest
    parent: Tracker
    head: Path | None

    @property
    def config(self) -> Config:
        """The configuration that trials vary."""
        return self.space.base


def work(search: Search, deadline: float) -> None:
    """Make trials until the study has as many as wanted and none is under way anywhere.

    Args:
        deadline: of time.monotonic(), after which no trial begins.
    """
    study, wanted = search.study, search.config.trials
    with tqdm(total=wanted, desc="tune", unit="trial", disable=None) as progress:
        shown: dict[int, str] | None = None
        while time.monotonic() < deadline:
            shown = _show(progress, search, shown)
            with ExitStack() as turn:
                # Counting and taking a trial is one act, or two workers would both take the last.
                turn.enter_context(search.lock("turn"))
                studies.settle(study)
                if studies.is_free(study, wanted):
                    _take(search, turn)
                    continue
            if not studies.is_running(study):
                break
            time.sleep(1)
        _show(progress, search, shown)


def settle_runs(study: Study, parent: Tracker) -> None:
    """Make tag and status of every trial's run say what the study says: a worker that was killed
    could not."""
    states = {str(trial.number): studies.state(trial) for trial in study.get_trials(deepcopy=False)}
    for child in children(parent.run_id):
        state = states.get(child.tags.get(TRIAL_TAG, ""))
        if child.tags.get(PHASE_TAG) != "trial" or state not in STATUS:
            continue
        if (child.status, child.tags.get(TRIAL_STATE_TAG)) != (STATUS[state], state):
            Tracker(child.run_id, parent.experiment_id).tags({TRIAL_STATE_TAG: state})
            set_status(child.run_id, STATUS[state])


def _take(search: Search, turn: ExitStack) -> None:
    study = search.study
    study.sampler = studies.sampler(
        search.config.seed, len(study.get_trials(deepcopy=False)), len(study.directions)
    )
    taken: list[int] = []
    stopped: list[KeyboardInterrupt] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        turn.close()
        taken.append(trial.number)
        # Here rather than where we end such trials: Optuna does so too, on its way to this one.
        if _retried(search, trial) is not None:
            settle_runs(study, search.parent)
        try:
            tell_running(search.parent.run_id)  # after Ctrl-C at the command that began it, maybe
            return _attempt(search, trial)
        except KeyboardInterrupt as stop:
            stopped.append(stop)
            raise
        except (TrialPruned, UpdateFinishedTrialError):
            raise
        except Exception as error:  # wherever it came from, or it would be tried without end
            reason = _reason(error)
            trial.set_user_attr(studies.ERROR, reason)
            tqdm.write(f"trial {trial.number} failed: {reason}", file=sys.stderr)
            if isinstance(error, CannotTrainError):
                # TPE learns nothing from what Optuna calls failed, and would come back to it.
                raise TrialPruned(reason) from error
            raise

    try:
        # Rather than `ask` and `tell`: it keeps the trial's heart beating.
        with _unmasked():
            study.optimize(objective, n_trials=1, catch=(Exception,))
    except KeyboardInterrupt:
        for number in taken:
            studies.give_back(study, number)
        raise
    # What Optuna raises where another worker has ended the trial meanwhile: on a report, on an
    # error and on a result.
    except (UpdateFinishedTrialError, ValueError, AssertionError):
        if not _any_interrupted(study, taken):
            raise
        if stopped:
            raise stopped[0] from None
        settle_runs(study, search.parent)
        tqdm.write(
            f"trial {taken[0]} was taken for dead while this process stood still, and queued "
            "again; going on with the next",
            file=sys.stderr,
        )
    else:
        if _any_interrupted(study, taken):  # by nobody; it would be tried without end
            raise UserError(
                f"Optuna does not take the values of trial {taken[0]}; begin anew with another "
                "study, and if that ends so too, report it"
            )


@contextmanager
def _unmasked() -> Iterator[None]:
    """Raise what cut off the storing of a result; Optuna hides it behind a fault of its own."""
    try:
        yield
    except UnboundLocalError as error:
        hidden = error.__context__
        while hidden is not None:
            if isinstance(hidden, (KeyboardInterrupt, *STORAGE_ERRORS)):
                raise hidden from None
            hidden = hidden.__context__
        raise


def _any_interrupted(study: Study, numbers: Sequence[int]) -> bool:
    trials = study.get_trials(deepcopy=False)
    return any(studies.state(trials[number]) == "interrupted" for number in numbers)


def _retried(search: Search, trial: Trial) -> int | None:
    return studies.retried(search.study.get_trials(deepcopy=False)[trial.number])


def _attempt(search: Search, trial: Trial) -> tuple[float, ...]:
    """One trial as a run of MLflow; its state is told by tag and status."""
    trial.set_user_attr(studies.BEGUN, trial.number)
    trial.set_user_attr(studies.EPOCHS, 0)
    config = search.space.sample(trial)
    pruned: TrialPruned | None = None
    with start_run(f"trial-{trial.number}", parent=search.parent.run_id) as tracker:
        tracker.tags({PHASE_TAG: "trial", TRIAL_TAG: str(trial.number)})
        tracker.params(config.as_dict())
        tracker.tags({TRIAL_STATE_TAG: "running"})
        try:
            if (earlier := studies.earlier(search.study, trial.params)) is not None:
                values = _repeated(search, trial, tracker, earlier)
            else:
                values = _trained(search, config, trial, tracker)
        except TrialPruned as stop:
            pruned = stop
            tracker.tags({TRIAL_STATE_TAG: "pruned"})
            tracker.describe(f"**Pruned.** {stop}")
        except Exception:
            tracker.tags({TRIAL_STATE_TAG: "failed"})
            raise
        except BaseException:
            tracker.tags({TRIAL_STATE_TAG: "interrupted"})
            raise
    if (first := _retried(search, trial)) is not None:
        about = f"study {search.study.study_name}"
        tracker.preface(f"Trial {first} of {about}, which was interrupted, tried again.", about)
    if pruned is not None:
        set_status(tracker.run_id, STATUS["pruned"])
        raise pruned
    return values


def _trained(search: Search, config: Config, trial: Trial, tracker: Tracker) -> tuple[float, ...]:
    with tempfile.TemporaryDirectory(prefix="tlkit-trial-") as folder:
        score = train_trial(
            config,
            search.manifest,
            _reporter(config, trial, tracker),
            Path(folder),
            head=search.head,
            also=search.space.rungs(),
        )
        first, *others = objectives(config, score)
        # Those that may be wanted for good; the others would only take room.
        if trial.user_attrs.get(DEFAULT) or studies.leads(search.study, first, score.loss):
            _keep_trained(trial, tracker, Path(folder), config)
    _keep(trial, tracker, score)
    return (first, *others)


def _repeated(
    search: Search, trial: Trial, tracker: Tracker, earlier: FrozenTrial
) -> tuple[float, ...]:
    """What an earlier trial of the same configuration came to: trained again it would be the same,
    and in a small space the sampler comes back to the same few."""
    tracker.tags({REPEATS_TAG: str(earlier.number)})
    for run in children(search.parent.run_id):
        if run.tags.get(TRIAL_TAG) == str(earlier.number):
            tracker.metrics_of(run.run_id)
    for epoch, value in earlier.intermediate_values.items():
        trial.report(value, epoch)  # sampler and pruner learn from them
    trial.set_user_attr(studies.EPOCHS, studies.epochs(earlier))
    if studies.state(earlier) == "pruned":
        raise TrialPruned(f"The configuration of trial {earlier.number}, which was pruned.")
    for name in (studies.LOSS, studies.ACCURACY, studies.SECONDS):
        trial.set_user_attr(name, earlier.user_attrs[name])
    tracker.tags({TRIAL_STATE_TAG: "complete"})
    tracker.describe(
        f"The configuration of trial {earlier.number}, which is not trained again: these are its "
        "metrics."
    )
    return tuple(earlier.values)


def _reason(error: Exception) -> str:
    text = one_line(error)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def objectives(config: Config, score: Score) -> tuple[float, ...]:
    """The one or two values that the study improves."""
    first = score.loss if config.objective == "loss" else score.accuracy
    if config.second_objective == "none":
        return (first,)
    if config.second_objective == "seconds":
        return (first, score.train_seconds)
    assert score.latency is not None
    return (first, score.latency)


def _reporter(config: Config, trial: Trial, tracker: Tracker) -> Log:
    metric = studies.objective_names(config)[0]
    kept: Mapping[str, float] = {}

    def report(metrics: Mapping[str, float], epoch: int) -> None:
        nonlocal kept
        tracker.metrics(metrics, epoch)
        _stop_with_parent()
        trial.set_user_attr(studies.EPOCHS, epoch + 1)
        # The best epoch so far, by the rule of `Result.after`; points between come after the last.
        if not kept or metrics[CRITERION] < kept[CRITERION]:
            kept = metrics
        if config.second_objective != "none":  # Optuna prunes by one objective only
            return
        trial.report(kept[metric], epoch)
        # Asked whether it is heeded or not: Hyperband remembers by it what others must reach.
        bad = trial.should_prune()
        # After the last epoch there is nothing left to save, and the default configuration is
        # what others are measured against.
        if bad and epoch + 1 < config.finetune_epochs and not trial.user_attrs.get(DEFAULT):
            raise TrialPruned(f"{metric} {kept[metric]:.4f} after {epochs_up_to(epoch)}")

    return report


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise KeyboardInterrupt


def computed_by(config: Config) -> str:
    """What the last digits of a training depend on besides the keys that its study is about."""
    machine = machine_for(config)
    return (
        f"{config.engine} engine, {machine.numbers}, {machine.threads} threads, "
        f"compile {config.compile}, torch {version('torch')}"
    )


def _keep_trained(trial: Trial, tracker: Tracker, folder: Path, config: Config) -> None:
    try:
        tracker.artifacts(folder, TRAINED)
    except Exception as error:  # the trial has its score: that must not be lost with its weights
        tqdm.write(
            f"warning: what trial {trial.number} trained is not kept ({_reason(error)}); "
            "if it is wanted at the end, it is trained again",
            sys.stderr,
        )
        return
    tracker.tags({TRAINED_BY_TAG: computed_by(config)})


def _keep(trial: Trial, tracker: Tracker, score: Score) -> None:
    trial.set_user_attr(studies.LOSS, score.loss)
    trial.set_user_attr(studies.ACCURACY, score.accuracy)
    trial.set_user_attr(studies.SECONDS, score.seconds)
    tracker.metrics(
        {
            "val/best_calibrated_loss": score.loss,
            "val/best_accuracy": score.accuracy,
            "val/best_epoch": float(score.epoch),
            "val/best_interpolation": score.share,
            "time/train_seconds": score.train_seconds,
            "time/total_seconds": score.seconds,
            **({} if score.latency is None else {"time/latency_seconds": score.latency}),
            **(score.report.metrics if score.report else {}),
        }
    )
    tracker.tags({TRIAL_STATE_TAG: "complete"})
    tracker.describe(
        f"Validation accuracy {score.accuracy:.3f}, calibrated loss {score.loss:.4f} "
        f"{at_its_best(score.epoch, score.share)}. The test pictures were not looked at."
    )


def _show(
    progress: "tqdm[NoReturn]", search: Search, shown: dict[int, str] | None
) -> dict[int, str]:
    """The best so far, on the bar, or in a line a trial where standard error is no terminal, and
    as metrics of the parent, if anything has changed.

    Returns:
        The states of the trials by number, to be given as `shown` the next time.
    """
    trials = search.study.get_trials(deepcopy=False)
    states = {trial.number: studies.state(trial) for trial in trials}
    if states == shown:
        return states
    counts, best = Counter(states.values()), studies.best(search.study)
    # Another worker's are told by the process that began it, which is where a terminal is looked
    # for; one that failed was told already.
    if progress.disable and shown is not None and multiprocessing.parent_process() is None:
        for trial in trials:
            state = states[trial.number]
            if state in ("complete", "pruned") and shown.get(trial.number) != state:
                print(_line(trial, best, search.config), file=sys.stderr)
    progress.n = studies.made(counts)
    metrics = {f"trials/{name}": float(counts[name]) for name in STATUS}
    if best is not None:
        loss, accuracy = best.user_attrs[studies.LOSS], best.user_attrs[studies.ACCURACY]
        metrics |= {"val/best_calibrated_loss": loss, "val/best_accuracy": accuracy}
        progress.set_postfix_str(
            f"best trial {best.number}: {CRITERION}={loss:.3f} val/accuracy={accuracy:.3f}"
        )
    progress.refresh()
    search.parent.metrics(metrics, step=progress.n)
    return states


def _line(trial: FrozenTrial, best: FrozenTrial | None, config: Config) -> str:
    """How a trial ended, and the best so far."""
    metric = studies.objective_names(config)[0]
    told = f"trial {trial.number} {studies.state(trial)}"
    if (value := studies.value(trial)) is not None:
        told += f": {metric} {value:.4f}"
    if best is not None:
        told += f"; the best so far: trial {best.number}, {metric} {best.values[0]:.4f}"
    return told
