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

from tlkit.data.audit import AuditReport
from tlkit.evaluation.canvas import percent
from tlkit.evaluation.compared_figures import (
    FEWEST_IN_BIN,
    Interval,
    curves_over_one_another,
    faithfulness,
    forest,
    reliabilities,
)
from tlkit.evaluation.gradcam_check import FEWEST
from tlkit.evaluation.metrics import confusion
from tlkit.evidence.costs import Cost
from tlkit.evidence.gathered import Gathered
from tlkit.evidence.pairs import Pair
from tlkit.evidence.shown import RULE, Shown

TEMPLATE = "report.html.j2"
# Beyond, a matrix of numbers is no longer read on a page.
MANY_CLASSES = 20


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        mistakes: the most confident ones by model.
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


@dataclass(frozen=True)
class Confused:
    """A model's confusion matrix.

    Attributes:
        counts: rows true, columns predicted.
        shares: of the true class's pictures, in 0..1.
    """

    name: str
    counts: list[list[int]]
    shares: list[list[float]]


def write_report(report: Report, path: Path) -> None:
    """Render the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["p_value"] = p_value
    page = environment.get_template(TEMPLATE).render(
        report=report,
        rows=list(zip(report.runs, report.costs, strict=True)),
        confusions=_confusions(report) if len(report.classes) <= MANY_CLASSES else [],
        rule=RULE,
        fewest_in_bin=FEWEST_IN_BIN,
        fewest_checked=FEWEST,
        figures=_figures(report),
    )
    path.write_text(page, encoding="utf-8")


def p_value(value: float) -> str:
    """Two digits, or a bound where they would say nothing."""
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def _figures(report: Report) -> dict[str, Markup]:
    accuracies = [
        Interval(
            one.name,
            float(one.right.mean()),
            one.metrics["test/accuracy_low"],
            one.metrics["test/accuracy_high"],
        )
        for one in report.runs
    ]
    differences = [
        Interval(
            f"{pair.candidate} vs {pair.reference}",
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
        found.append(Confused(one.name, counts.tolist(), shares.tolist()))
    return found
