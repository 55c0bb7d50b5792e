"""Compare a window of served requests with the validation pictures, and alarm."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np

from tlkit.deployment.logs import opened, seconds_of
from tlkit.deployment.models import find_and_log, opened_model
from tlkit.deployment.settings import MonitorSettings
from tlkit.errors import UserError, without_password
from tlkit.evaluation.canvas import save
from tlkit.evaluation.drift import Finding, Sample, drift, psi_reading
from tlkit.evaluation.drift_figure import drift_figure
from tlkit.files import write_json
from tlkit.serving.classifier import Description
from tlkit.serving.ensemble import member_folders
from tlkit.serving.log_entry import Entry
from tlkit.serving.reference import REFERENCE_FILE, Reference, identity
from tlkit.summary import columns
from tlkit.tracking.run import start_run

# Of fewer requests it is not said that they are like the validation pictures: little shows in them.
FEW = 50


@dataclass(frozen=True)
class MonitorReport:
    """What a look found, for a terminal, and whether it is an alarm."""

    text: str
    alarm: bool


@dataclass(frozen=True)
class Watched:
    """A model as it is watched.

    Attributes:
        identity: what the log calls it.
        reference: what it said of its validation pictures.
    """

    classes: tuple[str, ...]
    identity: str
    reference: Sample


@dataclass(frozen=True)
class Requests:
    """The newest entries of a log that are to be looked at, oldest first.

    Attributes:
        window: the same as arrays.
        first: when the oldest one came, as an ISO time.
        last: when the newest one came.
        others: how many more there are, in the same time, that another model answered.
    """

    entries: Sequence[Entry]
    window: Sample
    first: str
    last: str
    others: int


def run_monitor(settings: MonitorSettings) -> MonitorReport:
    """Look at the newest requests, as a run called `monitor`.

    Raises:
        UserError: no such model or log, or no requests of the model in it.
    """
    with start_run("monitor") as tracker:
        tracker.params(settings.as_dict())
        [model] = find_and_log(tracker, [settings.model])
        watched = _watched(model.address)
        classes, reference = watched.classes, watched.reference
        requests = _requests(settings, watched)
        window = requests.window
        findings = drift(reference, window, len(classes), alpha=settings.alpha)
        alarm = any(finding.alarm for finding in findings)
        title = _title(requests, len(reference))
        with tracker.folder() as folder:
            save(drift_figure(reference, window, findings, classes, title), folder / "drift.png")
            facts = [asdict(finding) for finding in findings]
            write_json(
                folder / "drift.json",
                {
                    "alarm": alarm,
                    "first_request": requests.first,
                    "last_request": requests.last,
                    "findings": facts,
                },
            )
        for finding in findings:
            slug = finding.name.replace(" ", "_")
            tracker.metrics(
                {f"drift/{slug}_psi": finding.psi, f"drift/{slug}_p": finding.adjusted_p_value}
            )
        tracker.metrics({"drift/alarm": float(alarm), "drift/requests": float(len(window))})
        verdict = _verdict(findings, settings.alpha, len(window))
        remark = "".join(f" {text}" for text in _remarks(requests))
        link = tracker.artifact_link("drift.png")
        tracker.describe(f"**{verdict}**{remark}\n\n{title}.\n\n![drift]({link})")
    return MonitorReport(f"{title}\n{_table(findings)}\n{verdict}{remark}", alarm)


def _watched(model: str) -> Watched:
    with opened_model(model) as folder:
        classes = Description.load(member_folders(folder)[0]).classes
        if not (folder / REFERENCE_FILE).exists():
            raise UserError(
                f"model={model} has no reference; watch the model that a run of baseline, head, "
                "finetune or ensemble left"
            )
        known = Reference.load(folder)
        sample = Sample(known.predicted, known.confidence, known.embedding, known.light)
        return Watched(classes, identity(folder), sample)


def _requests(settings: MonitorSettings, watched: Watched) -> Requests:
    """Those of the model that is watched, and those that do not say whose they are: a model
    without a reference answered them."""
    served_by = None if settings.served_by == "any" else settings.served_by
    log, since = without_password(settings.log), seconds_of(settings.since)
    model = watched.identity
    narrowed = f"since={settings.since}, served_by={settings.served_by}"
    with opened(settings.log) as kept:
        entries = kept.read(since=since, last=settings.window, served_by=served_by, model=model)
        others = kept.others(model, since=since, served_by=served_by)
        if not entries and others:
            raise UserError(
                f"log={log} holds no requests that model={settings.model} answered, and "
                f"{others:,} of another model ({narrowed}); watch that one, or start the server "
                "anew if it is to serve this one"
            )
        if not entries:
            raise UserError(f"log={log} holds no requests ({narrowed})")
        _check(entries, watched, log)
        window, times = _sample(entries), [entry.time for entry in entries]
        return Requests(entries, window, _iso(min(times)), _iso(max(times)), others)


def _iso(time: float) -> str:
    """In the machine's own zone, as `since` takes it."""
    return datetime.fromtimestamp(time).astimezone().isoformat(timespec="seconds")


def _title(requests: Requests, pictures: int) -> str:
    count = len(requests.entries)
    newest = (
        f"the newest request ({requests.last})"
        if count == 1
        else f"the newest {count:,} requests ({requests.first} to {requests.last})"
    )
    return f"{newest} against {pictures:,} validation picture{'s' * (pictures != 1)}"


def _check(entries: Sequence[Entry], watched: Watched, log: str) -> None:
    """Refuse another model's entries, where they do not say so but cannot be this one's."""
    named = dict(enumerate(watched.classes))
    strange = sorted({e.class_name for e in entries if named.get(e.predicted) != e.class_name})
    if strange:
        raise UserError(
            f"log={log} has the class {strange[0]} and the model {', '.join(watched.classes)} in "
            "this order; these are another model's requests: narrow them by since or served_by"
        )
    lengths = {len(entry.embedding) for entry in entries}
    if lengths != {watched.reference.directions}:
        raise UserError(
            f"log={log} has embeddings of length {sorted(lengths)} and the model's reference of "
            f"{watched.reference.directions}; these are another model's requests: narrow them by "
            "since or served_by"
        )


def _sample(entries: Sequence[Entry]) -> Sample:
    """Raises ValueError or TypeError for what is no number: SQLite keeps anything in any column."""
    confidence = np.array([entry.confidence for entry in entries], dtype=float)
    embedding = np.array([entry.embedding for entry in entries], dtype=float)
    light = np.array([(entry.brightness, entry.contrast) for entry in entries], dtype=float)
    for values in (confidence, embedding, light):
        if not np.isfinite(values).all():
            raise ValueError("it has a number that is not finite")
    predicted = np.array([entry.predicted for entry in entries])
    return Sample(predicted, confidence, embedding, light)


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


def _remarks(requests: Requests) -> list[str]:
    """Sentences on what the look did not take in, or could not tell."""
    said = []
    unnamed = sum(entry.model is None for entry in requests.entries)
    if requests.others:
        said.append(f"Requests that another model answered, left out: {requests.others:,}.")
    if unnamed:
        said.append(
            f"Of {unnamed:,} of these requests it is not known which model answered: it has no "
            "reference."
        )
    return said


def _verdict(findings: Sequence[Finding], alpha: float, requests: int) -> str:
    moved = [finding.name for finding in findings if finding.alarm]
    if moved:
        differ = "differs" if len(moved) == 1 else "differ"
        return f"ALARM: {', '.join(moved)} {differ} (at most {alpha:.1%} of looks alarm falsely)."
    if requests < FEW:
        count = "1 request is" if requests == 1 else f"{requests} requests are"
        return f"No alarm, but {count} too few to tell: look again with {FEW} or more."
    return "No alarm: these requests are not told apart from the validation pictures."
