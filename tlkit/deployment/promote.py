"""Champion and challenger in the model registry: a better model takes over, with its reason."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from filelock import FileLock

from tlkit.deployment.models import log_models
from tlkit.deployment.settings import PromoteSettings
from tlkit.deployment.tested import Shared, shared, tested
from tlkit.errors import UserError
from tlkit.evaluation.comparison import PairedComparison, compare_paired
from tlkit.files import scratch_folder, write_json
from tlkit.tracking.registry import Registered, find_model, register_model
from tlkit.tracking.run import Tracker, start_run

CHAMPION, CHALLENGER, REFUSED = "champion", "challenger", "refused"

# Of the name in the registry: the versions that were champion, the present one last; JSON.
HISTORY_TAG = "tlkit.champions"
VERDICT_TAG, REASON_TAG = "tlkit.verdict", "tlkit.reason"


@dataclass(frozen=True)
class Verdict:
    """What becomes of a candidate: `champion`, `challenger` or `refused`, and why."""

    what: str
    reason: str


def decide(found: PairedComparison, confidence: float) -> Verdict:
    """Champion where the candidate is better with that confidence (exact one-sided test on the
    pictures that only one of the two got right); refused where it is worse with that
    confidence; else, a tie included, challenger, for live traffic to tell.

    Args:
        found: with the interval of `_two_sided(confidence)`.
    """
    level, least = f"{100 * _two_sided(confidence):g} % interval", 1 - confidence
    said = (
        f"accuracy {found.difference:+.4f} against the champion "
        f"({level} {found.low:+.4f} to {found.high:+.4f}); right alone: the candidate on "
        f"{found.only_candidate} of the pictures, the champion on {found.only_reference}"
    )
    if found.difference > 0 and found.p_better <= least:
        return Verdict(
            CHAMPION,
            f"{said}: better (one-sided p = {found.p_better:.2g}, at most {least:.2g} wanted; of "
            "each candidate by itself: the more are tried, the likelier is a lucky one)",
        )
    if found.difference < 0 and found.p_value / 2 <= least:
        return Verdict(REFUSED, f"{said}: worse (one-sided p = {found.p_value / 2:.2g})")
    return Verdict(
        CHALLENGER,
        f"{said}: not told apart (one-sided p = {found.p_better:.2g} for better, at most "
        f"{least:.2g} wanted)",
    )


def _two_sided(confidence: float) -> float:
    """Level of the interval whose lower end alone holds with that confidence, as the one-sided test
    does."""
    return round(2 * confidence - 1, 12)


def run_promote(settings: PromoteSettings) -> str:
    """Register and judge the candidate, or roll back, as a run called `promote`.

    Returns:
        The verdict in a sentence.

    Raises:
        UserError: no such candidate, no test pictures in common, or nothing to roll back to.
    """
    registered = Registered(settings.name)
    with start_run("promote") as tracker, _one_at_a_time(settings.name):
        tracker.params(settings.as_dict())
        said = _roll_back(registered) if settings.rollback else _judge(settings, tracker)
        tracker.describe(said)
    return said


def _one_at_a_time(name: str) -> FileLock:
    """Two that judge against the same champion at once would not see what the other did."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return FileLock(scratch_folder() / f"promote-{digest}.lock")


def _judge(settings: PromoteSettings, tracker: Tracker) -> str:
    registered = Registered(settings.name)
    given = find_model(settings.candidate)
    log_models(tracker, [given])
    run_id = given.run_id
    candidate = tested(run_id)
    champion = registered.version(CHAMPION)
    # Before the candidate is registered: what cannot be judged is no version.
    both = None
    if champion is not None:
        both = shared(candidate, tested(find_model(f"models:/{settings.name}/{champion}").run_id))
    version = register_model(run_id, settings.name)
    if champion == version:
        return f"{settings.name} version {version} is the champion already."
    if both is not None:
        versions = {"champion": champion, "candidate": version}
        verdict = _compared(both, settings.confidence, versions, tracker)
    else:
        verdict = Verdict(CHAMPION, f"{settings.name} had no champion")
    _apply(registered, verdict, version)
    tracker.tags({VERDICT_TAG: verdict.what})
    return f"{settings.name} version {version}: {verdict.what}; {verdict.reason}."


def _compared(
    both: Shared, confidence: float, versions: Mapping[str, str | None], tracker: Tracker
) -> Verdict:
    found = compare_paired(
        both.candidate, both.reference, both.groups, confidence=_two_sided(confidence)
    )
    facts = asdict(found) | {"pictures": len(both.names), "left_out": both.left_out}
    tracker.metrics({f"promote/{name}": float(value) for name, value in facts.items()})
    with tracker.folder() as folder:
        write_json(folder / "comparison.json", {**versions, **facts})
    return decide(found, confidence)


def _apply(registered: Registered, verdict: Verdict, version: str) -> None:
    registered.set_tag(VERDICT_TAG, verdict.what, version)
    registered.set_tag(REASON_TAG, verdict.reason, version)
    if verdict.what != CHALLENGER and registered.version(CHALLENGER) == version:
        registered.drop_alias(CHALLENGER)
    if verdict.what == REFUSED:
        return
    history = _history(registered)
    registered.set_alias(verdict.what, version)
    if verdict.what == CHAMPION:
        registered.set_tag(HISTORY_TAG, json.dumps([*history, version]))


def _roll_back(registered: Registered) -> str:
    earlier = [version for version in _history(registered)[:-1] if registered.has(version)]
    champion = registered.version(CHAMPION)
    if champion is None or not earlier:
        raise UserError(
            f"{registered.name} had no champion before this one that is still there, or has none "
            "now; nothing was changed: give the alias champion by hand"
        )
    back = earlier[-1]
    registered.set_alias(CHAMPION, back)
    registered.set_tag(HISTORY_TAG, json.dumps(earlier))
    if registered.version(CHALLENGER) == back:
        registered.drop_alias(CHALLENGER)
    for version, verdict, reason in (
        (back, CHAMPION, f"rolled back to, in place of version {champion}"),
        (champion, "rolled back", f"version {back} is champion again in its place"),
    ):
        registered.set_tag(VERDICT_TAG, verdict, version)
        registered.set_tag(REASON_TAG, reason, version)
    return f"{registered.name} version {back} is champion again, in place of {champion}."


def _history(registered: Registered) -> list[str]:
    """The versions that were champion, the present one last, be it that somebody moved the alias
    in MLflow's UI."""
    versions: list[str] = json.loads(registered.tag(HISTORY_TAG) or "[]")
    champion = registered.version(CHAMPION)
    if champion is not None and versions[-1:] != [champion]:
        versions.append(champion)
    return versions
