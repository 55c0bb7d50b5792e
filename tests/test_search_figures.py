"""What is done to Optuna's pictures of a study so that they can be read."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from tlkit.search.figures import write_figures


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
    captions = write_figures(study, tmp_path, ["val/loss"])
    assert set(captions) == set(slants) == {path.name for path in tmp_path.iterdir()}
    assert slants["slice.png"] == {40.0}
