"""Learning from less: accuracy against the number of training pictures, as a run called `curve`."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields, replace

from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.evaluation.canvas import save
from tlkit.evaluation.compared_figures import learning_curves
from tlkit.evaluation.comparison import repeated
from tlkit.files import write_csv
from tlkit.phases.network import refuse_network
from tlkit.runs.phase import run_phase
from tlkit.runs.prepare import log_dataset, prepare_data, thinned
from tlkit.summary import columns, of_data
from tlkit.tracking.run import start_run

CURVES = ("baseline", "head")


@dataclass(frozen=True)
class Point:
    """A phase on some of the training pictures.

    Attributes:
        low, high: 95 % interval: of one training, for the chance of the test pictures; of several
            seeds, of their mean.
    """

    phase: str
    pictures: int
    accuracy: float
    low: float
    high: float


def run_curve(config: Config) -> str:
    """Train each phase on each of the `fractions`, `seeds` times, as children of one run.

    Where classes are small, several fractions may give the very same pictures: of those the largest
    alone is trained on, and the rest are told.

    Returns:
        The accuracies as a table, and what they say.

    Raises:
        UserError: as `run_phase`, or for a `train_fraction`.
    """
    if config.train_fraction != 1:
        raise UserError(
            f"train_fraction={config.train_fraction:g} is for one training; curve takes the shares "
            "from fractions"
        )
    with ExitStack() as until, start_run("curve") as tracker:
        tracker.params(config.as_dict())
        refuse_network("head", config)
        data = prepare_data(config)
        log_dataset(tracker, config, data)
        points: list[Point] = []
        left_out: list[str] = []
        seeds = range(config.seed, config.seed + config.seeds)
        # The larger part first: it holds the smaller ones, whose outputs are then stored.
        for fraction in reversed(config.fractions_in_order):
            parts = [thinned(data, fraction, seed) for seed in seeds]
            pictures = len(parts[0].manifest.of("train"))  # and in the others as many
            if points and points[-1].pictures == pictures:
                left_out.append(f"{fraction:g}")
                continue
            for phase in CURVES:
                results = []
                for seed, part in zip(seeds, parts, strict=True):
                    one = replace(
                        config,
                        seed=seed,
                        seeds=1,
                        data_seed=config.pictures_seed,
                        train_fraction=fraction,
                    )
                    result = run_phase(phase, one, data=part, parent=tracker.run_id, until=until)
                    results.append(result.metrics)
                points.append(_point(phase, pictures, results))
        points.sort(key=lambda point: (point.pictures, CURVES.index(point.phase)))
        curves = {
            phase: [
                (point.pictures, point.accuracy, point.low, point.high)
                for point in points
                if point.phase == phase
            ]
            for phase in CURVES
        }
        of_what = _of_what(config.seeds)
        said = f"{_said(curves)}\n95 % intervals {of_what}."
        if left_out:
            rest = ", ".join(left_out)
            said += (
                f"\nFractions left out, for they give just the pictures of a larger one: {rest}."
            )
        names = [field.name for field in fields(Point)]
        with tracker.folder() as folder:
            save(learning_curves(curves, of_what), folder / "curve.png")
            write_csv(folder / "curve.csv", names, map(astuple, points))
        for point in points:
            tracker.metrics({f"{point.phase}/test_accuracy": point.accuracy}, step=point.pictures)
        link = tracker.artifact_link("curve.png")
        tracker.describe(f"{said}\n\n{of_data(config, data.manifest)}\n\n![learning curve]({link})")
    return f"{_table(points)}\n{said}"


def _point(phase: str, pictures: int, results: Sequence[dict[str, float]]) -> Point:
    if len(results) == 1:
        (one,) = results
        accuracy, low, high = (
            one[name] for name in ("test/accuracy", "test/accuracy_low", "test/accuracy_high")
        )
    else:
        found = repeated([one["test/accuracy"] for one in results])
        accuracy, low, high = found.mean, found.low, found.high
    return Point(phase, pictures, accuracy, low, high)


def _said(curves: dict[str, list[tuple[int, float, float, float]]]) -> str:
    """How few pictures the head needs to do as well as the baseline with all of them."""
    pictures, best, *_ = curves["baseline"][-1]
    enough = [count for count, accuracy, *_ in curves["head"] if accuracy >= best]
    if not enough:
        return (
            f"The head never reaches the baseline's {best:.3f} on {pictures:,} pictures; see the "
            "intervals."
        )
    return (
        f"The head on {enough[0]:,} pictures scores at least as much as the baseline on "
        f"{pictures:,} ({best:.3f}); see the intervals."
    )


def _of_what(seeds: int) -> str:
    """What the intervals are of."""
    if seeds == 1:
        return "for the chance of the test pictures (Wilson)"
    return f"of the mean over {seeds} seeds (Student), without the chance of the test pictures"


def _table(points: Sequence[Point]) -> str:
    rows = [["phase", "pictures", "test accuracy", "95 % interval"]]
    rows += [
        [one.phase, f"{one.pictures:,}", f"{one.accuracy:.3f}", f"{one.low:.3f} to {one.high:.3f}"]
        for one in points
    ]
    return columns(rows)
