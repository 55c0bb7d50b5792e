"""Read a router's log: which model does better, and how many requests are still needed."""

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tlkit.deployment.logs import opened, seconds_of
from tlkit.deployment.settings import AbtestSettings
from tlkit.errors import UserError, without_password
from tlkit.evaluation.sequential import SequentialTest, needed_trials, sequential_difference
from tlkit.files import expanded, write_json
from tlkit.summary import columns
from tlkit.tracking.run import start_run

ARMS = ("champion", "challenger")
_WINNERS = {"control": "champion", "treatment": "challenger", None: "none yet"}


@dataclass(frozen=True)
class Arm:
    """Keys that one model served.

    Attributes:
        keys: how many.
        known: how many of them have an outcome.
        successes: how many of those were a success.
    """

    keys: int
    known: int
    successes: int


def run_abtest(settings: AbtestSettings) -> str:
    """Look at a running test, as a run called `abtest`; one may look as often as one likes.

    Returns:
        A table of both arms, the difference with its interval, and what to do.

    Raises:
        UserError: no such log or outcomes, a log that is no router's, or outcomes of other keys.
    """
    with start_run("abtest") as tracker:
        tracker.params(settings.as_dict())
        assigned, share = assignments(settings.log, settings.since)
        outcomes = {} if settings.outcomes == "none" else read_outcomes(Path(settings.outcomes))
        unmatched = _unmatched(settings, assigned, outcomes)
        arms = {name: _arm(name, assigned, outcomes) for name in ARMS}
        champion, challenger = arms["champion"], arms["challenger"]
        test = sequential_difference(
            champion.successes,
            champion.known,
            challenger.successes,
            challenger.known,
            alpha=settings.alpha,
            share=share,
        )
        said = _verdict(test, settings, share)
        if unmatched:
            said += (
                f" Outcomes whose key is not in the log, left out: {unmatched:,} of "
                f"{len(outcomes):,}."
            )
        for name, arm in arms.items():
            tracker.metrics({f"abtest/{name}_{key}": value for key, value in vars(arm).items()})
        if champion.known and challenger.known:
            values = {"difference": test.difference, "low": test.low, "high": test.high}
            tracker.metrics({f"abtest/{name}": value for name, value in values.items()})
        tracker.tags({"tlkit.winner": _WINNERS[test.winner]})
        with tracker.folder() as folder:
            facts = {"share": share, "arms": {name: asdict(arm) for name, arm in arms.items()}}
            facts["outcomes"] = {"given": len(outcomes), "unmatched": unmatched}
            facts["test"] = {k: None if v != v else v for k, v in asdict(test).items()}
            write_json(folder / "abtest.json", facts)
        table = _table(arms)
        tracker.describe(f"{said}\n\n```\n{table}\n```")
    return f"{table}\n{said}"


def assignments(log: str, since: str) -> tuple[dict[str, str], float]:
    """Which model served each key, and the planned share of the challenger.

    A key that asks again counts once: its requests have one outcome.

    Raises:
        UserError: no such log, no router's requests in it, or those of several tests.
    """
    begin = seconds_of(since)
    with opened(log) as requests:
        entries = requests.assignments(since=begin)
    shown = without_password(log)
    if not entries:
        late = "" if since == "none" else f" since {since}"
        raise UserError(f"log={shown} holds no router's requests{late}; serve one of -e route")
    shares = sorted({share for _, _, share in entries})
    if len(shares) > 1:
        raise UserError(
            f"log={shown} is of routers with shares {shares}; take the present one's requests "
            "alone with since"
        )
    assigned: dict[str, str] = {}
    for key, served_by, _ in entries:
        if assigned.setdefault(key, served_by) != served_by:
            raise UserError(
                f"log={shown} is of several tests (another salt, or other models): both models "
                f"served key {key!r}; take the newest one alone with since"
            )
    return assigned, shares[0]


def read_outcomes(file: Path) -> dict[str, bool]:
    """Success by key, from a CSV with the columns key and success; a key's last line counts.

    Raises:
        UserError: no such file, other columns, or a success that is neither 1 nor 0.
    """
    try:
        # Excel's "CSV UTF-8" begins with a mark, which would be taken for part of a name.
        with expanded(file).open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            header, rows = reader.fieldnames or (), list(reader)
        if not {"key", "success"} <= set(header):
            raise UserError(
                f"outcomes={file} begins with the line {','.join(header)!r}; a CSV whose first "
                "line names the columns key and success wanted"
            )
        found = {row["key"]: row["success"].strip() for row in rows}
    except (OSError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"outcomes={file} cannot be read ({type(error).__name__}: {error}); a CSV with the "
            "columns key and success wanted"
        ) from error
    strange = sorted(set(found.values()) - {"0", "1"})
    if strange:
        raise UserError(f"outcomes={file} has success {strange[0]!r}; 1 or 0 wanted")
    return {key: value == "1" for key, value in found.items()}


def _unmatched(
    settings: AbtestSettings, assigned: Mapping[str, str], outcomes: Mapping[str, bool]
) -> int:
    """How many outcomes are of keys that the log does not have; a UserError where all are."""
    missing = [key for key in outcomes if key not in assigned]
    if missing and len(missing) == len(outcomes):
        raise UserError(
            f"outcomes={settings.outcomes} has no key that log={without_password(settings.log)} "
            f"has (since={settings.since}): {missing[0]!r} in the one, {next(iter(assigned))!r} in "
            "the other; the keys of the requests wanted"
        )
    return len(missing)


def _arm(name: str, assigned: Mapping[str, str], outcomes: Mapping[str, bool]) -> Arm:
    keys = [key for key, served_by in assigned.items() if served_by == name]
    known = [outcomes[key] for key in keys if key in outcomes]
    return Arm(len(keys), len(known), sum(known))


def _table(arms: Mapping[str, Arm]) -> str:
    rows = [("model", "keys", "with outcome", "successes", "rate")]
    for name, arm in arms.items():
        rate = f"{arm.successes / arm.known:.4f}" if arm.known else ""
        rows.append((name, f"{arm.keys:,}", f"{arm.known:,}", f"{arm.successes:,}", rate))
    return columns(rows)


def _verdict(test: SequentialTest, settings: AbtestSettings, share: float) -> str:
    if not (test.control_trials and test.treatment_trials):
        return "No outcomes of both models yet; give them with outcomes=FILE.csv."
    seen = (
        f"Difference {test.difference:+.4f} "
        f"({test.low:+.4f} to {test.high:+.4f}, valid at every look). "
    )
    if test.decided:
        winner = _WINNERS[test.winner]
        return f"{seen}Stop: the {winner} is better (false alarms at most {settings.alpha:.1%})."
    known = test.control_trials + test.treatment_trials
    rate = test.control_successes / test.control_trials
    # A difference that leads beyond 0..1 is turned round.
    difference = settings.difference if rate + settings.difference < 1 else -settings.difference
    if rate + difference < 0:
        return (
            f"{seen}Not decided: go on. A difference of {settings.difference:g} is more than a "
            f"champion's rate of {rate:.4f} leaves room for."
        )
    total = needed_trials(rate, difference, alpha=settings.alpha, power=settings.power, share=share)
    return (
        f"{seen}Not decided: go on. A difference of {settings.difference:g} is found with "
        f"probability {settings.power:g} by {total:,} outcomes; {max(0, total - known):,} more."
    )
