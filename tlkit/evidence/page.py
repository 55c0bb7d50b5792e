"""The report: one HTML file that needs nothing else."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tlkit.data.audit import AuditReport
from tlkit.evaluation.calibration import reliability
from tlkit.evaluation.canvas import percent
from tlkit.evaluation.compared_figures import (
    FEWEST_IN_BIN,
    Interval,
    curves_over_one_another,
    faithfulness,
    forest,
    randomisation,
    reliabilities,
)
from tlkit.evaluation.gradcam_check import FEWEST
from tlkit.evaluation.metrics import confusion
from tlkit.evidence.costs import TRIES, Cost
from tlkit.evidence.gathered import Gathered
from tlkit.evidence.pairs import Pair, points
from tlkit.evidence.shown import RULE, Shown

TEMPLATE = "report.html.j2"
# Beyond, a matrix of numbers is no longer read on a page.
MANY_CLASSES = 20
# Of the pairs of classes that are confused, how many are listed where there is no matrix.
_CONFUSED = 10
# Of labels, for what calibration error chance alone gives.
_DRAWS = 2000
_SEED = 0


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        mistakes: the most confident ones by model.
        machine: what the latency was measured with.
    """

    verdict: str
    source: str
    digest: str
    classes: tuple[str, ...]
    runs: Sequence[Gathered]
    pairs: Sequence[Pair]
    costs: Sequence[Cost]
    audit: AuditReport
    side_by_side: Sequence[Shown]
    mistakes: Mapping[str, Sequence[Shown]]
    machine: str


@dataclass(frozen=True)
class Confused:
    """A model's confusion matrix.

    Attributes:
        counts: rows true, columns predicted.
        shares: of the true class's pictures, in 0..1.
        most: the pairs that most pictures fall into: true, predicted, how many.
    """

    name: str
    counts: list[list[int]]
    shares: list[list[float]]
    most: list[tuple[str, str, int]]


def write_report(report: Report, path: Path) -> None:
    """Render the page."""
    groups = report.pairs[0].found.groups
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["p_value"] = p_value
    environment.filters["points"] = points
    environment.filters["number"] = number
    page = environment.get_template(TEMPLATE).render(
        report=report,
        rows=list(zip(report.runs, report.costs, strict=True)),
        chance=[calibration_error_by_chance(one.probabilities) for one in report.runs],
        confusions=_confusions(report),
        many_classes=MANY_CLASSES,
        checked=sorted({len(one.check["deletion"]) for one in report.runs if one.check}),
        groups=groups if groups < len(report.runs[0].labels) else None,
        rule=RULE,
        tries=TRIES,
        fewest_in_bin=FEWEST_IN_BIN,
        fewest_checked=FEWEST,
        figures=_figures(report),
    )
    path.write_text(page, encoding="utf-8")


def p_value(value: float) -> str:
    """Two digits, or a bound where they would say nothing."""
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def number(value: float | None, digits: int = 3) -> str:
    """With that many digits after the point."""
    if value is None or np.isnan(value):
        return "not defined"
    return f"{value:.{digits}f}"


def calibration_error_by_chance(probabilities: NDArray[np.float64]) -> float:
    """Below which the calibration error of 95 % of the models lies that answer like this one and
    are right as often as they say.

    probabilities: float64 (n, classes).
    """
    # Of a label the error depends on one thing: whether the answer, here class 0, is right.
    confidence = probabilities.max(axis=1)
    answers = np.stack([confidence, np.zeros_like(confidence)], axis=1)
    rng = np.random.default_rng(_SEED)
    errors = []
    for _ in range(_DRAWS):
        labels = (rng.random(len(confidence)) >= confidence).astype(int)
        errors.append(reliability(answers, labels).error)
    return float(np.quantile(errors, 0.95))


def _figures(report: Report) -> dict[str, Markup]:
    accuracies = [
        Interval(
            (one.name,),
            float(one.right.mean()),
            one.metrics["test/accuracy_low"],
            one.metrics["test/accuracy_high"],
        )
        for one in report.runs
    ]
    differences = [
        Interval(
            (pair.candidate, f"vs {pair.reference}"),
            pair.found.difference,
            pair.found.low,
            pair.found.high,
        )
        for pair in report.pairs
    ]
    histories = {one.name: one.history for one in report.runs if one.history}
    answers = {one.name: one.by_calibration for one in report.runs}
    figures = {
        "forest": (
            forest(accuracies, differences),
            "Test accuracies and their differences with 95 % intervals; the numbers are in the "
            "tables.",
        ),
        "reliability": (
            reliabilities(answers, report.runs[0].labels),
            "Accuracy against confidence of each model before and after calibration.",
        ),
    }
    if histories:
        figures["curves"] = (
            curves_over_one_another(histories),
            "Validation loss and accuracy of each model by epoch.",
        )
    checks = {one.name: one.check for one in report.runs if one.check}
    if checks:
        figures["randomisation"] = (
            randomisation(checks),
            "Rank correlation of the heat maps with those of random weights, the more of them "
            "random the further right, for each model.",
        )
        figures["deletion"] = (
            faithfulness(checks),
            "Probability of the predicted class while cells are blurred, and while they are shown, "
            "the hottest first and in random order, for each model.",
        )
    return {name: as_svg(figure, name, label) for name, (figure, label) in figures.items()}


def as_svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure for an HTML page: black follows the page's text colour, white its background.

    Args:
        name: unlike that of any other figure on the page.
        label: what is said to those who do not see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = drawing.replace("#000000", "currentColor")
    # What one figure calls by its id must not be found in another.
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    head = Markup('<svg role="img" aria-label="{}" ').format(label)
    return head + Markup(drawing.removeprefix("<svg "))


def _confusions(report: Report) -> list[Confused]:
    found = []
    for one in report.runs:
        counts = confusion(one.probabilities, one.labels)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        found.append(
            Confused(one.name, counts.tolist(), shares.tolist(), _most(counts, report.classes))
        )
    return found


def _most(counts: NDArray[np.int64], classes: Sequence[str]) -> list[tuple[str, str, int]]:
    """The pairs of classes that were confused most, those of equal counts in the classes' order."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    places = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSED]
    pairs = zip(*np.unravel_index(places, wrong.shape), strict=True)
    return [(classes[a], classes[b], int(wrong[a, b])) for a, b in pairs if wrong[a, b]]
