"""What is kept of predictions while they stream by: no more for more pictures of a group."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tlkit.errors import printable_line
from tlkit.evaluation.clusters import effective_size, group_numbers
from tlkit.evaluation.metrics import accuracy_interval, metrics_of_confusion
from tlkit.serving.stream import Prediction
from tlkit.summary import columns

SHOWN = 20


@dataclass
class Tally:
    """Counts, and the first few pictures by name.

    Attributes:
        classes: names.
        abstain: confidence below which no class is named.
        confusion: int64 (classes, classes), the pictures whose class is known: true, predicted.
        answered_known: how many of those have a confidence of at least `abstain`.
        answered_right: how many of these were classified right.
        log_loss: their summed negative log-likelihood, in nats.
        seen: how many of them a model was trained or validated on; None where that is not known.
        of_groups: of each group of them how many were wrong and right; "" where none is named.
    """

    classes: Sequence[str]
    abstain: float
    confusion: NDArray[np.int64]
    pictures: int = 0
    abstained: int = 0
    unreadable: int = 0
    answered_known: int = 0
    answered_right: int = 0
    log_loss: float = 0.0
    seen: int | None = None
    of_groups: dict[str, list[int]] = field(default_factory=dict)
    first: list[tuple[str, str, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(
        self, name: str, prediction: Prediction, label: int | None, group: str = ""
    ) -> str | None:
        """Count a picture; returns the class that is named, "" for abstained, None for unreadable.

        Args:
            label: its class, where that is known.
            group: what it belongs to with others, "" where it stands for itself.
        """
        row = prediction.probabilities
        if row is None:
            self.unreadable += 1
            if len(self.reasons) < SHOWN:
                self.reasons.append(printable_line(f"{name} ({prediction.reason})"))
            return None
        best = int(row.argmax())
        named = self.classes[best] if row[best] >= self.abstain else ""
        self.pictures += 1
        self.abstained += not named
        if len(self.first) < SHOWN:
            self.first.append((printable_line(name), named or "(abstained)", f"{row[best]:.3f}"))
        if label is not None:
            self.answered_known += bool(named)
            self.answered_right += bool(named) and label == best
            self.confusion[label, best] += 1
            self.of_groups.setdefault(group, [0, 0])[label == best] += 1
            self.log_loss -= float(np.log(max(row[label], np.finfo(np.float64).eps)))
        return named

    @property
    def known(self) -> int:
        """How many pictures' class is known."""
        return int(self.confusion.sum())

    @property
    def right(self) -> int:
        """How many of those were classified right, abstained or not."""
        return int(np.trace(self.confusion))

    @property
    def groups(self) -> int:
        """How many groups these fall into, of which one that is not named stands for itself."""
        return len(self.of_groups.keys() - {""}) + sum(self.of_groups.get("", ()))

    @property
    def _grouped(self) -> bool:
        return self.groups < self.known

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy of those whose class is known."""
        if not self._grouped:
            return accuracy_interval(self.right, self.known)
        right, names = [], []
        for group, counts in self.of_groups.items():
            right += [0.0] * counts[0] + [1.0] * counts[1]
            names += [group] * sum(counts)
        effective = effective_size(np.array(right), group_numbers(names))
        return accuracy_interval(self.right, self.known, effective=effective)

    def metrics(self) -> dict[str, float]:
        """`predict/...`: counts, and what can be said where classes are known."""
        values = {
            "pictures": float(self.pictures),
            "unreadable": float(self.unreadable),
            "abstained": float(self.abstained),
        }
        if self.known:
            low, high = self.interval
            values |= metrics_of_confusion(self.confusion)
            values |= {"accuracy_low": low, "accuracy_high": high}
            values["loss"] = self.log_loss / self.known
            if self._grouped:
                values["groups"] = float(self.groups)
            if self.seen is not None:
                values["seen"] = float(self.seen)
            if self.answered_known < self.known:
                values["answered"] = self.answered_known / self.known
            if 0 < self.answered_known < self.known:
                values["answered_accuracy"] = self.answered_right / self.answered_known
        return {f"predict/{name}": value for name, value in values.items()}

    def text(self) -> str:
        """For a terminal: the first pictures, the unreadable ones, and the accuracy."""
        lines = []
        if self.first:
            lines.append(columns([("picture", "predicted", "confidence"), *self.first]))
        if self.pictures > len(self.first):
            lines.append(f"and {self.pictures - len(self.first):,} more")
        lines += [f"unreadable: {reason}" for reason in self.reasons]
        if self.unreadable > len(self.reasons):
            lines.append(f"and {self.unreadable - len(self.reasons):,} more unreadable")
        return "\n".join([*lines, *self.verdicts()])

    def verdicts(self) -> list[str]:
        """Sentences on what was left open, and on the accuracy."""
        said = []
        if self.abstained:
            said.append(
                f"{self.abstained:,} of {self.pictures:,} pictures have a confidence below "
                f"{self.abstain:g} and are left without a class."
            )
        if self.known:
            low, high = self.interval
            in_groups = f", in {self.groups:,} groups" if self._grouped else ""
            said.append(
                f"Accuracy {self.right / self.known:.3f} (95 % interval {low:.3f} to {high:.3f}) "
                f"on the {counted(self.known)} in folders called after a class{in_groups}."
            )
        if 0 < self.answered_known < self.known:
            said.append(
                f"Of these, {self.answered_known:,} were answered, "
                f"{self.answered_right / self.answered_known:.3f} of them right."
            )
        if self.seen:
            said.append(
                f"The model was trained or validated on {self.seen:,} of the {self.known:,}: that "
                "is no test of it. The metrics and predictions.csv of its own run are."
            )
        return said


def counted(pictures: int) -> str:
    """A number of pictures in words."""
    return "1 picture" if pictures == 1 else f"{pictures:,} pictures"
