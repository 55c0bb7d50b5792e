"""What is done to Optuna's pictures of a study so that they can be read."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
import pytest
from matplotlib.axes import Axes
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from tlkit.search.figures import write_figures
from tlkit.training.loop import CRITERION


def test_the_ticks_of_a_narrow_range_are_slanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study()
    for rate in (0.002, 0.004, 0.008):
        narrow = {"head_lr": FloatDistribution(0.002, 0.008, log=True)}
        study.add_trial(
            create_trial(params={"head_lr": rate}, distributions=narrow, value=100 * rate)
        )
    slants: dict[str, set[float]] = {}
    save = plt.savefig

    def saved(path: Path, **options: Any) -> None:
        save(path, **options)
        labels = plt.gcf().axes[0].get_xticklabels(which="both")
        slants[path.name] = {label.get_rotation() for label in labels if label.get_text()}

    monkeypatch.setattr(plt, "savefig", saved)
    captions = write_figures(study, tmp_path, [CRITERION])
    assert set(captions) == set(slants) == {path.name for path in tmp_path.iterdir()}
    assert slants["slice.png"] == {40.0}


Drawn = dict[str, list[Axes]]


def drawn_of(study: Study, folder: Path, names: list[str], patch: pytest.MonkeyPatch) -> Drawn:
    """The axes of each figure, by its name."""
    drawn: Drawn = {}
    patch.setattr(plt, "savefig", lambda path, **_: drawn.update({path.stem: plt.gcf().axes}))
    write_figures(study, folder, names)
    return drawn


def labels(axis: Any) -> list[str]:
    """Those that are seen."""
    low, high = sorted(axis.get_view_interval())
    found = [
        (at, label.get_text())
        for minor in (False, True)
        for at, label in zip(
            axis.get_ticklocs(minor=minor), axis.get_ticklabels(minor=minor), strict=True
        )
    ]
    return [text for at, text in sorted(found) if text and low <= at <= high]


@pytest.mark.parametrize(("highest", "scale"), [(0.9, "linear"), (9.0, "log")])
def test_losses_of_a_wide_range_alone_are_on_a_logarithmic_axis_with_plain_numbers(
    highest: float, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study()
    wide = {"dropout": FloatDistribution(0, 1)}
    for loss in (0.8, highest):
        study.add_trial(
            create_trial(
                params={"dropout": 0.1},
                distributions=wide,
                value=loss,
                intermediate_values={0: loss},
            )
        )
    drawn = drawn_of(study, tmp_path, [CRITERION], monkeypatch)
    for name in ("optimization_history", "intermediate_values", "slice"):
        axis = drawn[name][0].yaxis
        assert axis.get_scale() == scale
        assert len(labels(axis)) > 2
        assert all(0.1 <= float(label) <= 20 for label in labels(axis))


@pytest.mark.parametrize("missing", [False, True])
def test_a_key_of_whole_numbers_has_whole_ticks(
    missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study()
    if missing:  # a default outside of the range
        study.add_trial(create_trial(value=0.3))
    for depth in (0, 1, 3):
        whole = {"unfreeze_depth": IntDistribution(0, 3)}
        study.add_trial(
            create_trial(params={"unfreeze_depth": depth}, distributions=whole, value=depth + 1)
        )
    drawn = drawn_of(study, tmp_path, [CRITERION], monkeypatch)
    assert labels(drawn["slice"][0].xaxis) == ["0", "1", "2", "3"]
    none = ["None"] if missing else []
    assert labels(drawn["parallel_coordinate"][2].yaxis) == [*none, "0", "1", "2", "3"]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_many_lines_have_no_legend_and_the_better_are_darker(
    direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(direction=direction)
    for value in range(16):
        state = TrialState.PRUNED if value % 2 else TrialState.COMPLETE
        study.add_trial(
            create_trial(
                state=state,
                value=None if value % 2 else value,
                intermediate_values={0: 7, 1: value},
            )
        )
    (axes,) = drawn_of(study, tmp_path, ["val/accuracy"], monkeypatch)["intermediate_values"]
    assert axes.get_legend() is None
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch (from 0)", "val/accuracy")
    light = [sum(line.get_color()[:3]) for line in axes.get_lines()]  # type: ignore[arg-type]
    assert light == sorted(light, reverse=direction == "maximize")
    assert len(set(light)) == 16


def test_trials_on_the_front_have_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    for values in ((1.0, 3.0), (2.0, 4.0), (3.0, 1.0)):
        study.add_trial(create_trial(values=values))
    drawn = drawn_of(study, tmp_path, [CRITERION, "latency (s)"], monkeypatch)
    told = {text.get_text(): text.xy for text in drawn["pareto_front"][0].texts}  # type: ignore[attr-defined]
    assert told == {"0": (1.0, 3.0), "2": (3.0, 1.0)}
