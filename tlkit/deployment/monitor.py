"""Compare a window of served requests with the validation pictures, and alarm."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tlkit.deployment.logs import opened, seconds_of, without_password
from tlkit.deployment.models import load_models
from tlkit.deployment.settings import MonitorSettings
from tlkit.errors import UserError
from tlkit.evaluation.canvas import save
from tlkit.evaluation.drift import LIGHT, Finding, Sample, drift, psi_reading
from tlkit.evaluation.drift_figure import drift_figure
from tlkit.serving.reference import REFERENCE_FILE, Reference
from tlkit.summary import columns
from tlkit.tracking import local_model, run


@dataclass(frozen=True)
class MonitorReport:
    """What a look found, for a terminal, and whether it is an alarm."""

    text: str
    alarm: bool


def run_monitor(settings: MonitorSettings) -> MonitorReport:
    """Look at the newest requests, as a run called `monitor`.

    Raises:
        UserError: no such model or log, or no requests in it.
    """
    with run("monitor", system_metrics=False) as tracker:
        tracker.params(settings.as_dict() | {"log": without_password(settings.log)})
        classes = load_models(settings.model).classes
        reference = _reference(settings.model)
        window = _window(settings, reference, classes)
        findings = drift(reference, window, len(classes), alpha=settings.alpha)
        alarm = any(finding.alarm for finding in findings)
        title = f"the newest {len(window)} requests against {len(reference)} validation pictures"
        with tempfile.TemporaryDirectory(prefix="tlkit-") as name:
            folder = Path(name)
            save(drift_figure(reference, window, findings, classes, title), folder / "drift.png")
            facts = [asdict(finding) for finding in findings]
            text = json.dumps({"alarm": alarm, "findings": facts}, indent=2)
            (folder / "drift.json").write_text(text + "\n", encoding="utf-8")
            tracker.artifacts(folder)
        for finding in findings:
            slug = finding.name.replace(" ", "_")
            tracker.metrics(
                {f"drift/{slug}_psi": finding.psi, f"drift/{slug}_p": finding.adjusted_p_value}
            )
        tracker.metrics({"drift/alarm": float(alarm), "drift/requests": float(len(window))})
        verdict, remark = _verdict(findings, settings.alpha), _remark(findings)
        link = tracker.artifact_link("drift.png")
        tracker.describe(f"**{verdict}**{remark}\n\n{title}.\n\n![drift]({link})")
    return MonitorReport(f"{title}\n{_table(findings)}\n{verdict}{remark}", alarm)


def _reference(model: str) -> Sample:
    with local_model(model) as folder:
        if not (folder / REFERENCE_FILE).exists():
            raise UserError(
                f"model={model} has no reference (it is of before that was saved); watch the model "
                "of a newer run of baseline, head, finetune or ensemble"
            )
        known = Reference.load(folder)
    return Sample(known.predicted, known.confidence, known.embedding, known.light)


def _window(settings: MonitorSettings, reference: Sample, classes: Sequence[str]) -> Sample:
    served_by = None if settings.served_by == "any" else settings.served_by
    log, since = without_password(settings.log), seconds_of(settings.since)
    with opened(settings.log) as requests:
        entries = requests.read(since=since, last=settings.window, served_by=served_by)
    if not entries:
        raise UserError(
            f"log={log} holds no requests (since={settings.since}, served_by={settings.served_by})"
        )
    named = dict(enumerate(classes))
    strange = sorted({e.class_name for e in entries if named.get(e.predicted) != e.class_name})
    if strange:
        raise UserError(
            f"log={log} has the class {strange[0]} and the model {', '.join(classes)} in this "
            "order; these are another model's requests: narrow them by since or served_by"
        )
    lengths = {len(entry.embedding) for entry in entries}
    if lengths != {reference.directions}:
        raise UserError(
            f"log={log} has embeddings of length {sorted(lengths)} and the model's reference of "
            f"{reference.directions}; these are another model's requests: narrow them by since or "
            "served_by"
        )
    light = [
        (entry.brightness, entry.contrast) for entry in entries if entry.brightness is not None
    ]
    return Sample(
        np.array([entry.predicted for entry in entries]),
        np.array([entry.confidence for entry in entries]),
        np.array([list(entry.embedding) for entry in entries]).reshape(len(entries), -1),
        np.array(light, dtype=np.float64).reshape(-1, len(LIGHT)),
    )


def _table(findings: Sequence[Finding]) -> str:
    rows = [("quantity", "PSI", "reading", "adjusted p", "")]
    for finding in findings:
        rows.append(
            (
                finding.name,
                f"{finding.psi:.3f}",
                psi_reading(finding.psi),
                f"{finding.adjusted_p_value:.2g}",
                "ALARM" if finding.alarm else "",
            )
        )
    return columns(rows)


def _remark(findings: Sequence[Finding]) -> str:
    if {*LIGHT} <= {finding.name for finding in findings}:
        return ""
    return (
        " Brightness and contrast are not compared: the model, or what logged these requests, is "
        "of before they were kept."
    )


def _verdict(findings: Sequence[Finding], alpha: float) -> str:
    moved = [finding.name for finding in findings if finding.alarm]
    if moved:
        return f"ALARM: {', '.join(moved)} differ (at most {alpha:.1%} of looks alarm falsely)."
    return "No alarm: nothing differs beyond chance."
