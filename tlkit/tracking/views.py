"""Views of an experiment's runs for MLflow's UI, which by itself shows none of their metrics.

The UI keeps a view that somebody saves or shares as a tag of the experiment, and opens it where
the address has its id; that of MLflow 3.17 also lists it under "Views". No document of MLflow says
so: its own JavaScript does, and `tests/test_views.py` looks at it in a browser.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from tlkit.tracking.tags import PHASE_TAG, TRIAL_STATE_TAG

_TAG = "mlflow.sharedViewState."
# The columns that the UI always has, by its ids, and their widths in pixels.
_FIRST = {"attributes.`Run Name`": 190, "runDateAndNestInfo": 150, "duration": 80}
_WIDTH = 135  # pixels, for "test/accuracy_high"
# What else the UI of MLflow 3.10 wants of a view, which it reads from the tag itself.
_ELSE: dict[str, Any] = {
    **{"startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs"},
    **{"datasetsFilter": [], "runsPinned": [], "runsHidden": []},
    **{"runsExpanded": {}, "groupsExpanded": {}, "runsVisibilityMap": {}},
    **{"runsHiddenMode": "FIRST_10_RUNS", "autoRefreshEnabled": True},
}


@dataclass(frozen=True)
class View:
    """Columns, filter and order of the list of runs.

    Attributes:
        key: its id in addresses.
        name: as the UI lists it.
        columns: `metrics.NAME`, `params.NAME` and `tags.NAME`; where it loads the list before the
            view, the UI has parameters first and names in the order of the alphabet.
        wanted: a filter of MLflow's search; "" for all runs.
        by: the column that orders them; by the time of their beginning runs are shown below their
            parents, which the UI folds up, by any other they stand side by side.
        ascending: whether the lowest comes first.
    """

    key: str
    name: str
    columns: tuple[str, ...]
    wanted: str = ""
    by: str = "attributes.start_time"
    ascending: bool = False

    def tag(self) -> str:
        """As the UI keeps it."""
        shown = [_quoted(column) for column in self.columns]
        widths = {**_FIRST, **dict.fromkeys(shown, _WIDTH)}
        state = {
            "selectedColumns": shown,
            "columnOrder": list(widths),
            "columnWidths": widths,
            "searchFilter": self.wanted,
            "orderByKey": _quoted(self.by),
            "orderByAsc": self.ascending,
        }
        now = int(time.time() * 1000)
        saved = {"name": self.name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
        return json.dumps({**_ELSE, **state, **saved})


def _quoted(column: str) -> str:
    """A column's id in the UI: those of attributes that order runs have no quotes."""
    kind, _, name = column.partition(".")
    return column if kind == "attributes" else f"{kind}.`{name}`"


_TESTED = ("metrics.test/accuracy", "metrics.test/accuracy_low", "metrics.test/accuracy_high")
_VALIDATED = ("metrics.val/best_accuracy", "metrics.val/best_calibrated_loss")

ALL_RUNS = View("tlkit-all", "tlkit: all runs", (*_TESTED, *_VALIDATED))
# By validation, for a model is not to be chosen by the test.
MODELS = View(
    "tlkit-models",
    "tlkit: tested models",
    (*_TESTED, *_VALIDATED, "params.data"),
    wanted="metrics.`test/accuracy` >= 0",
    by="metrics.val/best_accuracy",
)
TRIALS = View(
    "tlkit-trials",
    "tlkit: trials",
    (
        *reversed(_VALIDATED),
        *("params.head_lr", "params.backbone_lr", "params.unfreeze_depth"),
        *("params.weight_decay", "params.dropout", f"tags.{TRIAL_STATE_TAG}"),
    ),
    wanted=f"tags.`{PHASE_TAG}` = 'trial'",
    by="metrics.val/best_calibrated_loss",
    ascending=True,
)


def offer_views(experiment_id: str) -> None:
    """Save the views in an experiment, but for those that it has, which somebody may have changed.

    Raises:
        MlflowException: the tracking store does not take them.
    """
    client = mlflow.MlflowClient()
    there = client.get_experiment(experiment_id).tags
    for view in (ALL_RUNS, MODELS, TRIALS):
        name = _TAG + view.key
        if name in there:
            continue
        try:
            client.set_experiment_tag(experiment_id, name, view.tag())
        except MlflowException:
            # A store takes a new tag once, and another process may have been faster.
            if name not in client.get_experiment(experiment_id).tags:
                raise


def has_view(experiment_id: str, view: View) -> bool:
    """Whether an experiment has a view: for one that is not there the UI leaves the list of runs.

    Not, where the store does not say: the list is found without a view too.
    """
    try:
        return _TAG + view.key in mlflow.get_experiment(experiment_id).tags
    except MlflowException:
        return False
