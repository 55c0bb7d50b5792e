"""Optuna's own pictures of a study, with captions."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

Plot = Callable[..., Any]

_PLOTS: dict[str, tuple[Plot, str]] = {
    "optimization_history": (
        plots.plot_optimization_history,
        "The value of each trial in the order of their numbers, and the best so far.",
    ),
    "param_importances": (
        plots.plot_param_importances,
        "How much it takes of each key to be among the best trials by the first objective: how far "
        "its values there differ from those of all trials (PED-ANOVA). With few trials it is "
        "a hint at most.",
    ),
    "slice": (plots.plot_slice, "The value over each key; later trials are darker."),
    "parallel_coordinate": (
        plots.plot_parallel_coordinate,
        "A line a trial, through the values of its keys; better trials are darker.",
    ),
    "intermediate_values": (
        plots.plot_intermediate_values,
        "The value after each epoch; lines that end early were pruned or failed.",
    ),
    "timeline": (
        plots.plot_timeline,
        "When each trial ran, and how it ended; one whose loss was not finite counts as pruned.",
    ),
    "pareto_front": (
        plots.plot_pareto_front,
        "Trials by both objectives; no trial is better in both than one on the front.",
    ),
}
_OF_ONE_OBJECTIVE = ("intermediate_values",)
_OF_TWO_OBJECTIVES = ("pareto_front",)
_OF_THE_WHOLE_STUDY = (*_OF_ONE_OBJECTIVE, *_OF_TWO_OBJECTIVES, "timeline")
_OVER_LOSS = ("optimization_history", "intermediate_values", "slice")
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
            _make_legible(name, names[0])
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


def _make_legible(name: str, objective: str) -> None:
    axes = plt.gcf().axes[0]
    if objective == "val/loss" and name in _OVER_LOSS:
        for each in axes.get_shared_y_axes().get_siblings(axes):
            each.set_yscale("log")  # one bad trial would press the others into a line
    if name in ("optimization_history", "intermediate_values"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no trial or epoch 0.5
    if name == "slice":  # the labels of a narrow logarithmic range would lie over one another
        for each in axes.get_shared_y_axes().get_siblings(axes):
            plt.setp(each.get_xticklabels(which="both"), rotation=40, ha="right")
    if name == "parallel_coordinate":
        axes.set_facecolor("0.8")  # the lines of bad trials are white


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
