"""Results in words: the description of a run, and the table that a suite ends with."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tlkit.config import Config
from tlkit.data.audit import AuditReport
from tlkit.data.manifest import SPLITS, Manifest
from tlkit.errors import printable_line
from tlkit.evaluation.comparison import repeated
from tlkit.features.store import Store
from tlkit.outcome import Outcome


@dataclass(frozen=True)
class PhaseResult:
    """What a finished phase amounts to.

    Attributes:
        metrics: those of the contract that are logged once.
        shares_head: whether it began from the head that the other seeds began from.
    """

    phase: str
    run_id: str
    metrics: dict[str, float]
    shares_head: bool = False


COLUMNS: tuple[tuple[str, Callable[[PhaseResult], str]], ...] = (
    ("phase", lambda r: r.phase),
    ("val accuracy", lambda r: f"{r.metrics['val/best_accuracy']:.3f}"),
    ("test accuracy", lambda r: f"{r.metrics['test/accuracy']:.3f}"),
    (
        "95 % interval",
        lambda r: f"{r.metrics['test/accuracy_low']:.3f} to {r.metrics['test/accuracy_high']:.3f}",
    ),
    ("test F1", lambda r: f"{r.metrics['test/f1']:.3f}"),
    ("seconds", lambda r: f"{r.metrics['time/total_seconds']:.0f}"),
    ("trainable", lambda r: f"{r.metrics['parameters/trainable']:,.0f}"),
)


def table(results: Sequence[PhaseResult]) -> str:
    """The phases side by side, for a terminal."""
    rows = [[name for name, _ in COLUMNS], *([cell(r) for _, cell in COLUMNS] for r in results)]
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of which is the heading, under one another; the first column to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in
                  enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_table(results: Sequence[PhaseResult]) -> str:
    """The phases side by side, for MLflow's description."""
    head = "| " + " | ".join(name for name, _ in COLUMNS) + " |"
    rule = "|" + " --- |" * len(COLUMNS)
    rows = ["| " + " | ".join(cell(r) for _, cell in COLUMNS) + " |" for r in results]
    return "\n".join([head, rule, *rows])


def _escaped(name: str) -> str:
    """A class's name as Markdown shows it, so that *, [ or < in it are not taken for markup."""
    return re.sub(r"([][\\`*_~<>#|!&])", r"\\\1", printable_line(name))


def of_data(config: Config, manifest: Manifest) -> str:
    """One sentence on the pictures."""
    sizes = ", ".join(f"{len(manifest.of(split))} {split}" for split in SPLITS)
    shown = _some([_escaped(name) for name in manifest.classes])
    return (
        f"Pictures: `{config.data}`, {len(manifest.classes)} classes ({shown}); {sizes}; "
        f"digest `{manifest.digest}`."
    )


def of_phase(
    phase: str,
    config: Config,
    manifest: Manifest,
    outcome: Outcome,
    picture: str,
    epoch: int,
    share: float,
    doubted: int | None,
) -> str:
    """The description of a phase: what was trained on what, the result, and one picture.

    Args:
        picture: address of the picture worth seeing first, or "".
        epoch: the best one, from 0.
        share: how far the weights that were kept are on the way to those of that epoch.
        doubted: how many labels are, where they were looked at.
    """
    low, high = outcome.interval
    groups = outcome.metrics.get("test/groups")
    in_groups = f", in {groups:.0f} groups" if groups else ""
    trained = {
        "baseline": "A small CNN, from scratch",
        "head": f"A linear head on the frozen `{config.backbone}`",
        "finetune": f"The top {config.unfreeze_depth} units and the head of `{config.backbone}`",
    }[phase]
    return (
        f"**Test accuracy {outcome.metrics['test/accuracy']:.3f}** "
        f"(95 % interval {low:.3f} to {high:.3f}; "
        f"{outcome.correct} of {len(outcome.labels)} pictures right{in_groups}).\n\n"
        f"{trained}, at its best {at_its_best(epoch, share)}."
        + (f" Doubtful labels: {doubted} (`label_check.png`)." if doubted else "")
        + f"\n\n{of_data(config, manifest)}"
        # Last, for the UI shows the first lines alone, where it would be cut off at its title.
        + (f"\n\n![Grad-CAM]({picture})" if picture else "")
    )


def epochs_up_to(last: int) -> str:
    """How many epochs there were up to `last`, which is counted from 0."""
    return "1 epoch" if last == 0 else f"{last + 1} epochs"


def at_its_best(epoch: int, share: float) -> str:
    """When that was, in words, by the best epoch, from 0, and by how far the weights that were kept
    are on the way to those of that epoch, 0 to 1."""
    epochs = epochs_up_to(epoch)
    if share == 1:
        return f"after {epochs}"
    if share == 0:
        return "as it began"
    return f"{100 * share:.3g} % of the way from where it began to where it was after {epochs}"


def report(results: Sequence[PhaseResult]) -> str:
    """What a phase ends with: its table, and the mean where it was trained with several seeds."""
    return table(results) if len(results) == 1 else f"{table(results)}\n{of_repeats(results)[0]}"


def of_repeats(results: Sequence[PhaseResult]) -> tuple[str, dict[str, float]]:
    """Two or more trainings of a phase: a sentence, and `test/accuracy_mean`, `..._deviation` and
    the interval of the mean, `..._mean_low` and `..._mean_high`."""
    found = repeated([result.metrics["test/accuracy"] for result in results])
    metrics = {
        "test/accuracy_mean": found.mean,
        "test/accuracy_deviation": found.deviation,
        "test/accuracy_mean_low": found.low,
        "test/accuracy_mean_high": found.high,
    }
    said = (
        f"Test accuracy over {len(results)} seeds: mean {found.mean:.4f}, deviation "
        f"{found.deviation:.4f}, 95 % interval of the mean {found.low:.4f} to {found.high:.4f}; "
        "it tells of the training's chance alone, not of that of the test pictures."
    )
    if all(result.shares_head for result in results):
        said += " Of the fine-tuning alone: all seeds begin from one head."
    return said, metrics


def of_audit(report: AuditReport) -> str:
    """What the audit found, for a terminal: counts, warnings, and the first files that cannot be
    read, are damaged or have two labels."""
    lines = [report.summary]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines += _first(
        [f"unreadable: {item.path} ({item.reason})" for item in report.quarantined], "unreadable"
    )
    lines += _first([f"damaged: {item.path} ({item.reason})" for item in report.damaged], "damaged")
    lines += _first(
        [f"two labels: {' = '.join(group)}" for group in report.conflicting_labels],
        "under two labels",
    )
    return "\n".join(map(printable_line, lines))


def _first(lines: Sequence[str], what: str) -> list[str]:
    more = [f"and {len(lines) - 10} more {what}, in data/audit.json"] if len(lines) > 10 else []
    return [*lines[:10], *more]


def of_classes(manifest: Manifest) -> str:
    """The first classes with their numbers of pictures, for a terminal."""
    counts = Counter(picture.label for picture in manifest.pictures)
    shown = _some([f"{name} ({counts[label]:,})" for label, name in enumerate(manifest.classes)])
    return printable_line(f"{len(manifest.classes)} classes: {shown}")


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")


def of_store(store: Store) -> str:
    """What is stored, the last used first, for a terminal."""
    rows = [("backbone", "frozen units", "numbers", "pictures", "view", "MB", "last used")]
    entries = store.entries()
    for entry in entries:
        key = entry.key or {}
        # A network that trains whole has its pictures stored, as they are decoded.
        rows.append(
            (
                str(key.get("backbone", "damaged" if entry.key is None else "(pictures)")),
                str(key.get("frozen_units", "")),
                str(key.get("dtype", "")),
                f"{entry.rows:,}",
                str(key.get("rendition", {}).get("view", "plain")),
                f"{entry.size / 1e6:,.1f}",
                f"{datetime.fromtimestamp(entry.last_used):%Y-%m-%d %H:%M}",
            )
        )
    total = sum(entry.size for entry in entries) / 1e6
    return (
        f"{columns(rows)}\n{len(entries)} entries, {total:,.1f} MB of at most "
        f"{store.budget / 1e6:,.0f} MB (store_gigabytes) in {store.folder}"
    )
