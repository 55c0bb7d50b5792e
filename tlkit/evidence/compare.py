"""Runs against one another on the same test pictures: a run called `compare`, and its report."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tlkit.deployment.models import load_models
from tlkit.evaluation.clusters import group_numbers
from tlkit.evidence.costs import costs_of, machine
from tlkit.evidence.gathered import Gathered, choose_runs, gather
from tlkit.evidence.page import Report, write_report
from tlkit.evidence.pairs import Pair, compare_all, verdict
from tlkit.evidence.settings import CompareSettings
from tlkit.evidence.shown import show_mistakes, show_side_by_side
from tlkit.files import write_csv, write_json
from tlkit.runs.prepare import data_of, log_dataset
from tlkit.tracking.run import Tracker, start_run
from tlkit.tracking.store import ui_address


def run_compare(settings: CompareSettings) -> str:
    """Compare, write the report and log it all.

    Returns:
        The verdict.

    Raises:
        UserError: no such runs, runs on different data, or pictures that are no longer there.
    """
    with start_run("compare") as tracker:
        tracker.params(settings.as_dict())
        chosen = choose_runs(settings.runs, tracker.experiment_id)
        run_ids = [one.run_id for one in chosen]
        config, data = data_of(run_ids)
        log_dataset(tracker, config, data)
        runs = gather(chosen)
        group_of = {picture.path: picture.group for picture in data.manifest.of("test")}
        groups = group_numbers([group_of[path] for path in runs[0].paths])
        pairs = compare_all(runs, groups)
        models = [load_models(f"runs:/{run_id}/model") for run_id in run_ids]
        paths = runs[0].paths[: settings.timed]
        files = [(data.manifest.root / path).read_bytes() for path in paths]
        costs = costs_of(runs, models, files)
        report = Report(
            verdict=verdict(runs, pairs),
            source=config.data,
            digest=data.manifest.digest,
            classes=data.manifest.classes,
            runs=runs,
            pairs=pairs,
            costs=costs,
            audit=data.report,
            side_by_side=show_side_by_side(
                runs, models, data.manifest, settings.pictures, config.max_pixels
            ),
            mistakes=show_mistakes(runs, data.manifest, config.max_pixels),
            machine=machine(),
        )
        with tracker.folder() as folder:
            write_report(report, folder / "report.html")
            _write_files(folder, report)
        _log(tracker, runs, pairs, report.verdict)
    return (
        f"{report.verdict}\nThe report: artifact report.html of run {tracker.run_id}, "
        f"in the UI at {ui_address(f'/{_page(tracker)}')}"
    )


def _page(tracker: Tracker) -> str:
    """Of the report within MLflow's UI, which shows it there; `artifact_link` would save it."""
    place = f"experiments/{tracker.experiment_id}/runs/{tracker.run_id}"
    return f"#/{place}/artifacts/report.html"


def _write_files(folder: Path, report: Report) -> None:
    runs = report.runs
    content = {
        "verdict": report.verdict,
        "runs": {
            one.name: {"run_id": one.run_id, "metrics": dict(one.metrics), "cost": asdict(cost)}
            for one, cost in zip(runs, report.costs, strict=True)
        },
        "machine": report.machine,
        "pairs": [
            {**asdict(pair), "kappa": None if np.isnan(pair.kappa) else pair.kappa}
            for pair in report.pairs
        ],
    }
    write_json(folder / "comparison.json", content)
    right = np.stack([one.right for one in runs], axis=1).astype(int)
    write_csv(
        folder / "pictures.csv",
        ["path", "right_by", *(f"right_{one.name}" for one in runs)],
        ([path, row.sum(), *row] for path, row in zip(runs[0].paths, right, strict=True)),
    )


def _log(tracker: Tracker, runs: Sequence[Gathered], pairs: Sequence[Pair], said: str) -> None:
    tracker.tags({"tlkit.compared": ",".join(one.run_id for one in runs)})
    for pair in pairs:
        name = f"{pair.candidate}-{pair.reference}".replace("(", "").replace(")", "")
        tracker.metrics(
            {
                f"difference/{name}": pair.found.difference,
                f"difference_low/{name}": pair.found.low,
                f"difference_high/{name}": pair.found.high,
                f"p_holm/{name}": pair.p_holm,
            }
        )
    tracker.describe(f"**{said}**\n\n[The report]({_page(tracker)}), under Artifacts.")
