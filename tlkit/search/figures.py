"""Optuna's own pictures of a study, with captions."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from tlkit.training.loop import CRITERION

Plot = Callable[..., Any]

_PLOTS: dict[str, tuple[Plot, str]] = {
    "optimization_history": (
        plots.plot_optimization_history,
        "The value of each complete trial in the order of their numbers, and the best so far.",
    ),
    "param_importances": (
        plots.plot_param_importances,
        "How much it takes of each key to be among the best trials by the first objective: how far "
        "its values there differ from those of all trials (PED-ANOVA). With few trials it is "
        "a hint at most.",
    ),
    "slice": (
        plots.plot_slice,
        "The value of each complete trial over each key; later trials are darker.",
    ),
    "parallel_coordinate": (
        plots.plot_parallel_coordinate,
        "A line for each complete trial, through the values of its keys; better ones are darker. "
        "None: a key that does not apply, or a value of the default configuration outside of the "
        "range.",
    ),
    "intermediate_values": (
        plots.plot_intermediate_values,
        "What a trial would score if it ended after an epoch: the value of its epoch with the "
        "lowest calibrated loss so far. Lines that end early were pruned, failed or stopped by "
        "`early_stopping`. Of many trials those with the better last values are darker.",
    ),
    "timeline": (
        plots.plot_timeline,
        "When each trial ran, and how it ended. FAIL: it was interrupted, and is tried once "
        "more under another number, or it ended with an error; one whose loss was not finite "
        "counts as PRUNED.",
    ),
    "pareto_front": (
        plots.plot_pareto_front,
        "The complete trials by both objectives, on the front with their numbers. Optuna calls "
        "Best Trial whichever is on the front: no other is as good in both and better in one.",
    ),
}
_OF_ONE_OBJECTIVE = ("intermediate_values",)
_OF_TWO_OBJECTIVES = ("pareto_front",)
_OF_THE_WHOLE_STUDY = (*_OF_ONE_OBJECTIVE, *_OF_TWO_OBJECTIVES, "timeline")
_OVER_LOSS = ("optimization_history", "intermediate_values", "slice")
# Losses whose largest is more than so many times the smallest are shown on a logarithmic axis.
_WIDE_LOSSES = 5
# Lines that a legend can name; more are told apart by how dark they are.
_NAMED_LINES = 15
_WIDE = {"slice": (7.0, 5.0), "parallel_coordinate": (12.0, 6.0)}


def write_figures(study: Study, folder: Path, names: list[str]) -> dict[str, str]:
    """Draw the study.

    Args:
        folder: where `NAME.png` are written.
        names: of the objectives, for the axes.

    Returns:
        Captions by file name; a figure that the trials are too few for is left out.
    """
    two = len(names) == 2
    captions = {}
    for name, (plot, caption) in _PLOTS.items():
        if name in (_OF_ONE_OBJECTIVE if two else _OF_TWO_OBJECTIVES) or not _enough(study, name):
            continue
        with _figure(folder / f"{name}.png", _WIDE.get(name, (9.0, 5.5))):
            plot(study, **_options(study, name, names[0]))
            _make_legible(name, study, names[0])
        captions[f"{name}.png"] = caption
    return captions


def _options(study: Study, name: str, objective: str) -> dict[str, Any]:
    if name == "param_importances":
        complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        # A tenth of the trials, as by default, but at least five, of which Optuna warns.
        best = min(max(0.1, 5 / complete), 0.5)
        # It takes a low value for a good one.
        sign = 1 if study.directions[0] is StudyDirection.MINIMIZE else -1
        return {
            "target_name": objective,
            "target": lambda trial: sign * trial.values[0],
            "evaluator": PedAnovaImportanceEvaluator(target_quantile=best),
        }
    if name in _OF_THE_WHOLE_STUDY:
        return {}
    if len(study.directions) == 1:
        return {"target_name": objective}
    if name == "parallel_coordinate":  # it shows both
        return {}
    return {"target_name": objective, "target": lambda trial: trial.values[0]}


def _enough(study: Study, name: str) -> bool:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if name != "param_importances":
        return len(complete) > 0
    # Importances compare trials: there must be two that differ in value, and a key.
    return len({trial.values[0] for trial in complete}) > 1 and any(
        not dimension.single() for trial in complete for dimension in trial.distributions.values()
    )


def _make_legible(name: str, study: Study, objective: str) -> None:
    axes, whole = plt.gcf().axes[0], _whole(study)
    beside = axes.get_shared_y_axes().get_siblings(axes)
    if objective == CRITERION and name in _OVER_LOSS:
        low, high = axes.dataLim.intervaly
        if high > _WIDE_LOSSES * low > 0:
            for each in beside:
                each.set_yscale("log")  # one bad trial would press the others into a line
                each.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                each.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                each.yaxis.set_minor_formatter(NullFormatter())
    if name in ("optimization_history", "intermediate_values"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no trial or epoch 0.5
    if name == "intermediate_values":
        axes.set(xlabel="epoch (from 0)", ylabel=objective)
        _tell_lines_apart(axes, study)
    if name == "slice":  # the labels of a narrow logarithmic range would lie over one another
        for each in beside:
            plt.setp(each.get_xticklabels(which="both"), rotation=40, ha="right")
            if each.get_xlabel() in whole:
                each.xaxis.set_major_locator(MaxNLocator(integer=True))
    if name == "parallel_coordinate":
        axes.set_facecolor("0.8")  # the lines of bad trials are white
        # One for each name but the first, after the axes themselves and the bar of colours; none
        # where no trial has a key, whose names are numbers then.
        for label, each in zip(axes.get_xticklabels()[1:], plt.gcf().axes[2:], strict=False):
            if label.get_text() in whole:
                _whole_ticks(each)
    if name == "pareto_front":
        for trial in study.best_trials:
            axes.annotate(
                str(trial.number), trial.values, xytext=(4, 4), textcoords="offset points"
            )


def _whole_ticks(axes: Axes) -> None:
    locator, ticks = MaxNLocator(integer=True), axes.get_yticks()
    if not isinstance(axes.yaxis.get_major_locator(), FixedLocator):
        axes.yaxis.set_major_locator(locator)
        return
    # Where trials lack the key Optuna sets the ticks itself, with None as the lowest.
    low, high = ticks[1], ticks[-1]
    inside = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    axes.set_yticks([ticks[0], *inside], labels=["None", *(f"{tick:.0f}" for tick in inside)])


def _tell_lines_apart(axes: Axes, study: Study) -> None:
    lines, legend = axes.get_lines(), axes.get_legend()
    if len(lines) <= _NAMED_LINES:
        return
    if legend is not None:
        legend.remove()
    worst_first = sorted(
        lines,
        key=lambda line: float(np.asarray(line.get_ydata())[-1]),
        reverse=study.directions[0] is StudyDirection.MINIMIZE,
    )
    for place, line in enumerate(worst_first):
        line.set(color=plt.get_cmap("Blues")(0.25 + 0.75 * place / (len(lines) - 1)), zorder=place)


def _whole(study: Study) -> set[str]:
    """The keys whose values are whole numbers, but for those on a logarithmic axis."""
    return {
        key
        for trial in study.get_trials(deepcopy=False)
        for key, dimension in trial.distributions.items()
        if isinstance(dimension, IntDistribution) and not dimension.log
    }


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[None]:
    """Save what the block draws with pyplot; its figures and styles do not outlive the block."""
    with warnings.catch_warnings(), plt.style.context("default"):
        warnings.simplefilter("ignore")
        plt.rcParams.update({"figure.figsize": size, "figure.dpi": 110})
        before = set(plt.get_fignums())
        yield
        plt.savefig(path, bbox_inches="tight", facecolor="white")
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
