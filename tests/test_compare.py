"""`-e compare`: runs against one another, and the report that a person reads."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import Entry, Trained, run_entry
from matplotlib.figure import Figure
from mlflow.entities import Run
from PIL import Image
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from tlkit.data.audit import AuditReport, Damaged, Dropped
from tlkit.data.images import UnreadablePicture
from tlkit.data.manifest import Manifest
from tlkit.data.transforms import Preprocessing
from tlkit.deployment.tested import predictions
from tlkit.errors import UserError
from tlkit.evaluation.compared_figures import Interval, forest, reliabilities
from tlkit.evaluation.comparison import compare_paired
from tlkit.evaluation.metrics import expected_calibration_error
from tlkit.evidence.costs import Cost, latencies
from tlkit.evidence.gathered import Gathered, _names, choose_runs, gather
from tlkit.evidence.page import Report, as_svg, calibration_error_by_chance, write_report
from tlkit.evidence.pairs import compare_all, verdict
from tlkit.evidence.shown import choose_pictures, show_mistakes, show_side_by_side
from tlkit.heat_maps import NoHeatMaps
from tlkit.models.backbones import create_model, data_config
from tlkit.tracking import lookup
from tlkit.tracking.lookup import LoggedRun
from tlkit.tracking.run import Tracker, start_run


def said(name: str, predicted: np.ndarray, labels: np.ndarray, seed: int = 0) -> Gathered:
    """A run that predicted these classes."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.55, 0.99, len(labels))
    probabilities = np.empty((len(labels), 2))
    probabilities[np.arange(len(labels)), predicted] = confidence
    probabilities[np.arange(len(labels)), 1 - predicted] = 1 - confidence
    paths = tuple(f"test/{index}.jpg" for index in range(len(labels)))
    return Gathered(name, name, {}, paths, labels, probabilities, 1.0, [], {})


def three_runs() -> list[Gathered]:
    rng = np.random.default_rng(1)
    labels = np.arange(300) % 2
    hard = rng.random(300)
    return [
        said(name, np.where(hard + 0.2 * rng.random(300) < share, labels, 1 - labels), labels, seed)
        for seed, (name, share) in enumerate([("baseline", 0.7), ("head", 0.9), ("finetune", 0.93)])
    ]


METRICS = {
    **dict.fromkeys(("accuracy_low", "accuracy_high", "f1", "auroc"), 0.5),
    **dict.fromkeys(("ece", "loss", "ece_uncalibrated", "loss_uncalibrated"), 0.25),
}


CURVES = ("deletion", "deletion_random", "insertion", "insertion_random")
UNPROVEN = {
    **dict.fromkeys(("follows_weights", "points_at_evidence"), False),
    **{name: 4 * [[0.9, 0.8]] for name in CURVES},
    "removed": [0.0, 0.5],
    "stages": ["head", "all units"],
    "similarity": [[0.7, 0.5, 0.6, 0.2], [0.1, 0.0, -0.1, 0.2]],
    "verdict": "",
}


COUNTS = {split: {"cat": 150, "dog": 150} for split in ("train", "val", "test")}
AUDITED = AuditReport("pictures", 900, COUNTS, (), (), (), (), (), (), (), {}, 0, ())


def report_of(
    runs: list[Gathered],
    file: Path,
    *,
    source: str = "pictures",
    audited: AuditReport = AUDITED,
    classes: tuple[str, ...] = ("cat", "dog"),
) -> str:
    """The page of runs, without pictures."""
    costs = [Cost(1.0, 2, 3, 4.0, 0.01)] * len(runs)
    write_report(
        Report(
            "verdict", source, "digest", classes, runs, compare_all(runs), costs, audited, [], {},
            "a processor, 2 threads",
        ),
        file,
    )  # fmt: skip
    return file.read_text(encoding="utf-8")


def with_metrics(one: Gathered, **metrics: float) -> Gathered:
    """The run with all metrics that a report needs, some of them as given."""
    return replace(
        one, metrics={f"test/{name}": value for name, value in {**METRICS, **metrics}.items()}
    )


def test_the_page_claims_nothing_that_was_not_tested(tmp_path: Path) -> None:
    one, other, _ = three_runs()
    logged = {f"test/{name}": value for name, value in METRICS.items()}
    of_mean = {name: value for name, value in logged.items() if "uncalibrated" not in name}
    mean = replace(other, name="ensemble", temperature=None, metrics=of_mean)
    text = report_of([replace(one, metrics=logged), mean], tmp_path / "report.html")
    [row] = re.findall(
        r'<tr><th scope="row">ensemble</th>\s*(<td>none.*?)</tr>', text, flags=re.DOTALL
    )
    *cells, chance, before, after = re.findall(r"<td>(.*?)</td>", row)
    assert (cells, before, after) == (["none", "none", "0.250"], "none", "0.250")
    assert 0 < float(chance) < 0.25
    assert "ensemble: not tested</h3>" in text
    few = replace(one, metrics=logged, check=UNPROVEN)
    more = replace(other, metrics=logged, check=UNPROVEN | {"deletion": 5 * [[0.9, 0.8]]})
    text = report_of([few, more], tmp_path / "report.html")
    assert "baseline: not tested: fewer than 5 pictures</h3>" in text
    assert "head: not shown by both tests</h3>" in text
    asked = "asked on 4 or 5 pictures of each model"
    assert asked in text
    assert "the second at 5 % for each model by itself, not corrected" in " ".join(text.split())
    assert asked not in report_of([replace(one, metrics=logged)] * 2, tmp_path / "report.html")
    with_temperature, without = (list(each.by_calibration) for each in (one, mean))
    assert (with_temperature, without) == (["before", "after"], ["as it is"])


def test_a_temperature_that_does_harm_is_told(tmp_path: Path) -> None:
    one, other, _ = three_runs()
    runs = [
        with_metrics(one, ece=0.114, ece_uncalibrated=0.0671),
        with_metrics(other, ece=0.0504, ece_uncalibrated=0.0503),  # nothing to be seen
    ]
    text = " ".join(report_of(runs, tmp_path / "report.html").split())
    [name, before, after] = re.findall(
        r"The temperature of (\w+) made the calibration error on the test pictures larger, (\S+) "
        r"before and (\S+) after",
        text,
    )[0]
    assert (name, before, after) == ("baseline", "0.067", "0.114")
    assert text.count("larger, ") == 1


def test_what_chance_gives_of_a_calibration_error_is_that_of_labels_drawn_by_the_model() -> None:
    rng = np.random.default_rng(0)
    rows = rng.dirichlet([0.5] * 3, 200)
    found = calibration_error_by_chance(rows)
    drawn = [
        expected_calibration_error(rows, (rng.random((200, 1)) > rows[:, :2].cumsum(1)).sum(1))
        for _ in range(1000)
    ]
    assert found == pytest.approx(np.quantile(drawn, 0.95), rel=0.05)
    assert calibration_error_by_chance(rows) == found


def test_what_the_audit_found_is_listed_by_name(tmp_path: Path) -> None:
    runs = [with_metrics(one) for one in three_runs()]
    found = replace(
        AUDITED,
        conflicting_labels=(("train/cat/a.jpg", "train/dog/<b>.jpg"),),
        dropped_duplicates=(Dropped("train/cat/c.jpg", "train", "test/cat/d.jpg", "test"),),
        copies=(("train/cat/e.jpg", "train/cat/f.jpg"),) * 101,
        kept_together=(("train/dog/h.jpg", "train/dog/i.jpg"),),
        mismatched_extensions={"val/dog/g.png": "extension says png, content is jpeg"},
        damaged=(Damaged("val/dog/j.jpg", "bad Huffman code"),),
    )
    text = report_of(runs, tmp_path / "report.html", audited=found)
    for said_of_it in (
        "1 under two labels",
        "<code>train/cat/a.jpg</code> = <code>train/dog/&lt;b&gt;.jpg</code>",
        "<code>train/cat/c.jpg</code> (train), as <code>test/cat/d.jpg</code> (test)",
        "101 several times within a class",
        "<code>train/cat/e.jpg</code> = <code>train/cat/f.jpg</code>",
        "and more, in <code>data/audit.json</code>",
        "groups that look alike, each drawn into one split: 1",
        "<code>train/dog/h.jpg</code>, <code>train/dog/i.jpg</code>",
        "<code>val/dog/g.png</code>: extension says png, content is jpeg",
        "1 damaged, and kept",
        "<code>val/dog/j.jpg</code>: bad Huffman code",
    ):
        assert said_of_it in text
    assert "<details>" not in report_of(runs, tmp_path / "report.html")


def test_of_many_classes_the_pairs_that_are_confused_most_are_listed(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(21), 4)
    one = with_metrics(said("one", np.zeros(84, dtype=int), np.zeros(84, dtype=int)))
    predicted = labels.copy()
    predicted[20:22], predicted[8:11] = 7, 5  # two pictures of class 5, three of class 2
    runs = [
        replace(one, name=name, labels=labels, probabilities=np.eye(21)[answers])
        for name, answers in (("one", predicted), ("other", labels))
    ]
    classes = tuple(f"class {index}" for index in range(21))
    counts = {split: dict.fromkeys(classes, 4) for split in COUNTS}
    text = report_of(
        runs,
        tmp_path / "report.html",
        audited=replace(AUDITED, counts=counts),
        classes=classes,
    )
    rows = re.findall(r'<th scope="row">(class \d+)</th><td>(class \d+)</td><td>(\d+)', text)
    assert rows == [("class 2", "class 5", "3"), ("class 5", "class 7", "2")]
    assert '<tr><td colspan="3">none</td></tr>' in text


def test_what_is_not_defined_is_called_so(tmp_path: Path) -> None:
    one = with_metrics(said("one", np.ones(4, dtype=int), np.arange(4) % 2), auroc=float("nan"))
    text = report_of([one, replace(one, name="other")], tmp_path / "report.html")
    assert text.count("<td>not defined</td>") == 2 * 2 + 1  # AUROC, balanced accuracy; kappa
    assert "nan<" not in text


def test_a_colour_of_the_accuracies_is_that_of_no_difference() -> None:
    names = ["finetune (seed 0)", "finetune (seed 1)"]
    accuracies = [Interval((name,), 0.9, 0.8, 0.95) for name in names]
    difference = Interval((names[1], f"vs {names[0]}"), 0.125, -0.1, 0.3)
    figure = forest(accuracies, [difference])
    upper, lower = figure.axes
    of_models = {line.get_color() for line in upper.lines}
    assert len(of_models) == 2
    assert {line.get_color() for line in lower.lines}.isdisjoint(of_models)
    figure.draw_without_rendering()
    [label] = lower.get_yticklabels()
    assert label.get_text() == "finetune (seed 1)\nvs finetune (seed 0)"  # whole
    assert {tick.get_text() for tick in lower.get_xticklabels()} >= {"-10", "0", "+10"}


def test_one_picture_in_a_bin_is_not_drawn() -> None:
    labels = np.zeros(30, dtype=np.int64)
    sure = np.where(np.arange(30) < 1, 0.6, 0.97)  # one picture in a bin of its own, and 29
    rows = np.stack([sure, 1 - sure], axis=1)
    _, curve = reliabilities({"one": {"after": rows}}, labels).axes[0].lines
    assert np.array(curve.get_xdata()) == pytest.approx([0.97])


def test_pairs_are_those_of_statsmodels() -> None:
    runs = three_runs()
    pairs = compare_all(runs)
    assert [(pair.candidate, pair.reference) for pair in pairs] == [
        ("head", "baseline"), ("finetune", "baseline"), ("finetune", "head"),
    ]  # fmt: skip
    by_name = {one.name: one.right for one in runs}
    raw = []
    for pair in pairs:
        a, b = by_name[pair.candidate], by_name[pair.reference]
        table = pd.crosstab(a, b).to_numpy()
        raw.append(mcnemar(table, exact=True).pvalue)
        assert pair.found.p_value == pytest.approx(raw[-1])
        assert pair.found.difference == pytest.approx(a.mean() - b.mean())
    adjusted = multipletests(raw, method="holm")[1]
    assert [pair.p_holm for pair in pairs] == pytest.approx(list(adjusted))


def test_what_tells_two_apart_alone_may_not_do_so_among_three() -> None:
    labels = np.arange(100) % 2
    six_wrong = np.where(np.arange(100) < 6, 1 - labels, labels)
    predicted = {"head": six_wrong, "finetune": labels, "baseline": six_wrong}
    runs = [said(name, of_run, labels) for name, of_run in predicted.items()]
    alone, *_ = compare_all(runs[:2])
    assert (alone.found.p_value, alone.p_holm) == (2**-5, 2**-5)  # six of six
    assert alone.told_apart
    pairs = compare_all(runs)
    assert [pair.p_holm for pair in pairs] == [3 * 2**-5, 1, 3 * 2**-5]
    assert not any(pair.told_apart for pair in pairs)
    text = verdict(runs, pairs)
    assert text.startswith(
        "finetune, right on 100 of 100 test pictures, is not told apart from head"
    )
    assert text.count("(+6.0 points, 95 % interval +") == 2
    assert text.count("p = 0.094)") == 2


def test_two_that_are_wrong_in_different_ways_do_not_agree() -> None:
    one = said("one", np.zeros(4, dtype=int), np.zeros(4, dtype=int))
    runs = [replace(one, probabilities=np.eye(3)[row]) for row in ([0, 1, 1, 0], [0, 2, 1, 0])]
    [pair] = compare_all(runs)
    assert pair.agreement == 0.75
    assert 0 < pair.kappa < 1
    [same] = compare_all([replace(one, probabilities=np.eye(3)[[1] * 4])] * 2)
    assert (same.agreement, np.isnan(same.kappa)) == (1, True)


def test_what_is_asked_for_each_picture_is_computed_once() -> None:
    one = three_runs()[0]
    assert one.right is one.right
    assert one.predicted is one.predicted


def test_the_verdict_names_what_is_better_and_what_is_not_told_apart() -> None:
    runs = three_runs()
    text = verdict(runs, compare_all(runs))
    best = max(runs, key=lambda one: one.right.mean())
    assert text.startswith(f"{best.name}, right on {best.right.sum()} of 300 test pictures")
    assert "is better than baseline (+" in text
    same = [runs[2], said("other", runs[2].predicted, runs[2].labels)]
    assert "is not told apart from" in verdict(same, compare_all(same))
    assert "better" not in verdict(same, compare_all(same))
    for order in (same, same[::-1]):
        assert "(+0.0 points, 95 % interval -" in verdict(order, compare_all(order))


def test_two_seeds_of_one_model_are_told_apart_in_at_most_5_of_100() -> None:
    claimed = 0
    for repeat in range(100):
        rng = np.random.default_rng(repeat)
        labels = np.arange(200) % 2
        # Each picture has its difficulty, and each training its own luck with it.
        chance = rng.beta(8, 1, 200)
        runs = [
            said(name, np.where(rng.random(200) < chance, labels, 1 - labels), labels)
            for name in ("seed 0", "seed 1")
        ]
        claimed += compare_all(runs)[0].told_apart
    assert claimed <= 5


def test_pictures_are_chosen_by_the_rule_that_the_report_states() -> None:
    runs = three_runs()
    right = np.stack([one.right for one in runs])
    confidence = np.stack([one.probabilities.max(axis=1) for one in runs])
    chosen = choose_pictures(runs, 12)
    assert len(set(chosen)) == 12
    split, none = chosen[:6], chosen[6:9]
    assert all(right[:, place].any() and not right[:, place].all() for place in split)
    surest = [confidence[~right[:, place], place].max() for place in split]
    assert surest == sorted(surest, reverse=True)
    assert not right[:, none].any()
    agreed = chosen[9:]
    assert right[:, agreed].all()
    assert {int(runs[0].labels[place]) for place in agreed} == {0, 1}


def two_runs() -> list[Gathered]:
    """On eight pictures; each run's confidence of each, below 0 where it is wrong."""
    labels = np.arange(8) % 2
    runs = []
    for name, of_run in (
        ("one", [0.9, 0.8, 0.95, 0.6, -0.7, 0.99, -0.8, -0.95]),
        ("other", [0.7, 0.8, 0.95, 0.6, 0.99, -0.9, -0.6, -0.7]),
    ):
        found = said(name, np.where(np.array(of_run) > 0, labels, 1 - labels), labels)
        rows = np.abs(of_run)[:, None] * np.eye(2)[found.predicted]
        rows += (1 - np.abs(of_run))[:, None] * np.eye(2)[1 - found.predicted]
        runs.append(replace(found, probabilities=rows))
    return runs


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(1, [2]), (2, [5, 2]), (4, [5, 4, 7, 2]), (8, [5, 4, 7, 6, 2, 1, 0, 3])],
)
def test_the_rule_by_hand(count: int, chosen: list[int]) -> None:
    assert choose_pictures(two_runs(), count) == chosen


def test_of_equals_the_first_are_shown() -> None:
    labels = np.zeros(50, dtype=int)
    one = replace(said("one", labels, labels), probabilities=np.tile([0.9, 0.1], (50, 1)))
    assert choose_pictures([one, one], 4) == [0, 1, 2, 3]


def test_where_all_are_disputed_more_of_those_are_shown() -> None:
    runs = [
        replace(one, labels=one.labels[4:6], probabilities=one.probabilities[4:6])
        for one in two_runs()
    ]
    assert choose_pictures(runs, 1) == [1]
    assert choose_pictures(runs, 2) == choose_pictures(runs, 9) == [1, 0]


def drawn(tmp_path: Path) -> Manifest:
    """The pictures of `two_runs`."""
    (tmp_path / "test").mkdir()
    for index in range(8):
        Image.new("RGB", (30, 20)).save(tmp_path / "test" / f"{index}.jpg")
    return Manifest(tmp_path, ("cat", "dog"), ())


def test_mistakes_are_shown_with_what_was_said(tmp_path: Path) -> None:
    found = show_mistakes(two_runs(), drawn(tmp_path), max_pixels=600)
    shown = [
        (each.path, each.true, answer.predicted, answer.confidence, answer.right)
        for each in found["one"]
        for answer in each.answers
    ]
    assert shown == [
        ("test/7.jpg", "dog", "cat", 0.95, False),
        ("test/6.jpg", "cat", "dog", 0.8, False),
        ("test/4.jpg", "cat", "dog", 0.7, False),
    ]


def test_the_evidence_is_that_of_the_first_member_for_the_class_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = data_config(create_model("test_resnet", num_classes=2, dropout=0.0, image_size=32))
    first, second, without = (
        SimpleNamespace(model=name, preprocessing=Preprocessing(config))
        for name in ("a", "b", "without")
    )
    asked = []

    def heat(model: str, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        if model == "without":
            raise NoHeatMaps("no heat maps of this network")
        asked.append((model, *classes.tolist()))
        return torch.zeros(1, 32, 32)

    monkeypatch.setattr("tlkit.evidence.shown.heat_maps", heat)
    models = [SimpleNamespace(members=[first, second]), SimpleNamespace(members=[without])]
    runs = two_runs()
    shown = show_side_by_side(runs, models, drawn(tmp_path), 4, max_pixels=600)  # type: ignore[arg-type]
    assert [each.path for each in shown] == [f"test/{place}.jpg" for place in (5, 4, 7, 2)]
    assert asked == [("a", int(runs[0].predicted[place])) for place in (5, 4, 7, 2)]
    assert [each.true for each in shown] == ["dog", "cat", "dog", "cat"]
    assert capsys.readouterr().err == "no heat maps of this network\n"


def test_latencies_are_medians_of_the_fastest_without_the_first_and_taken_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, asked = [0.0], []

    class Model:
        def __init__(self, *seconds: float) -> None:
            self.left = list(seconds)

        def prepare(self, content: bytes) -> bytes:
            asked.append((self, content))
            return content

        def classify(self, batch: list[bytes]) -> None:
            clock[0] += self.left.pop(0)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    models = [Model(100, 1, 9, 3, 2, 2, 5, 9, 9, 9), Model(50, 40, 30, 31, 99, 99, 20, 10, 10, 10)]
    assert latencies(models, [b"a", b"b", b"c"]) == [2, 20]  # type: ignore[arg-type]
    assert asked == [(model, content) for content in [b"a", *3 * [b"a"], *3 * [b"b"], *3 * [b"c"]]
                     for model in models]  # fmt: skip


def test_pictures_are_read_up_to_the_limit_of_the_audit(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for index in range(300):
        Image.new("RGB", (30, 20)).save(tmp_path / "test" / f"{index}.jpg")
    runs, manifest = three_runs(), Manifest(tmp_path, ("cat", "dog"), ())
    assert len(show_mistakes(runs, manifest, max_pixels=600)) == 3
    with pytest.raises(UnreadablePicture, match="over the limit of 599 pixels"):
        show_mistakes(runs, manifest, max_pixels=599)
    with pytest.raises(UnreadablePicture, match="over the limit of 599 pixels"):
        show_side_by_side(runs, [], manifest, 12, max_pixels=599)


class Page(HTMLParser):
    """What a report calls for, shows and says."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img":
            self.pictures.append(found)
        self.addresses += [
            str(found[name]) for name in ("src", "href", "xlink:href") if name in found
        ]
        if "id" in found:
            self.ids.append(str(found["id"]))


@pytest.fixture(scope="module")
def compared(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run `compare` of the session's two trainings, newest by itself."""
    mlflow.set_experiment("trained for prediction")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(tmp_path_factory.mktemp("compared")))
        assert run_entry("compare", "--pictures", "4", "--timed", "3") == 0
    (found,) = mlflow.search_runs(
        experiment_names=["trained for prediction"],
        filter_string="attributes.run_name = 'compare'",
        output_format="list",
    )
    return found


def artifact(found: Run, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=found.info.run_id, artifact_path=name))


def test_a_comparison_is_what_the_runs_predicted(trained: Trained, compared: Run) -> None:
    head, baseline = trained.evaluated("head"), trained.evaluated("baseline")
    labels = head["label"].to_numpy()
    wanted = compare_paired(
        (head["predicted"] == labels).to_numpy(),
        (baseline["predicted"] == labels).to_numpy(),
    )
    content = json.loads(artifact(compared, "comparison.json").read_text())
    (pair,) = content["pairs"]
    assert (pair["candidate"], pair["reference"]) == ("head", "baseline")
    assert pair["found"]["difference"] == pytest.approx(wanted.difference)
    assert pair["found"]["p_value"] == pytest.approx(wanted.p_value)
    assert compared.data.metrics["difference/head-baseline"] == pytest.approx(wanted.difference)
    cost = content["runs"]["head"]["cost"]
    assert cost["latency"] > 0
    known = trained.runs["head"].data.metrics
    assert cost["seconds"] == known["time/total_seconds"]
    assert cost["trainable"] == known["parameters/trainable"] < cost["parameters"]
    assert cost["parameters"] == known["parameters/total"]
    assert cost["megabytes"] * 1e6 > 4 * cost["parameters"]
    pictures = pd.read_csv(artifact(compared, "pictures.csv"), keep_default_na=False)
    assert list(pictures["path"]) == list(head.index)
    right = (head["predicted"] == head["label"]).astype(int)
    assert list(pictures["right_head"]) == list(right)
    assert (
        compared.data.tags["tlkit.data_digest"]
        == trained.runs["head"].data.tags["tlkit.data_digest"]
    )
    note = compared.data.tags["mlflow.note.content"]
    assert content["verdict"] in note
    place = f"#/experiments/{compared.info.experiment_id}/runs/{compared.info.run_id}"
    assert f"[The report]({place}/artifacts/report.html)" in note  # shown in place
    text = artifact(compared, "report.html").read_text()
    assert re.search(r"\d threads?$", content["machine"])
    assert text.count(content["machine"]) == 2
    assert "<code>pictures.csv</code>" in text


def test_the_report_needs_nothing_else(compared: Run) -> None:
    text = artifact(compared, "report.html").read_text()
    page = Page()
    page.feed(text)
    assert len(page.pictures) >= 4 * 3
    assert all(str(picture["alt"]).strip() for picture in page.pictures)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "url(http" not in text
    assert "@import" not in text
    assert len(page.ids) == len(set(page.ids))
    drawings = re.findall(r'<svg role="img" aria-label="[^"]+"', text)
    assert len(drawings) == 5  # accuracies, curves, reliability, randomisation, deletion


def test_a_name_cannot_break_out_of_the_page() -> None:
    assert "<script" not in as_svg(Figure(), "one", '"><script>alert(1)</script>')


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_report_in_a_browser(compared: Run, browser: Any, width: int, scheme: str) -> None:
    faults: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(artifact(compared, "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#results figure svg").bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= width  # the accuracies are seen without scrolling
    # In a table that scrolls a row keeps its name.
    table = page.locator("#differences .scroll")
    table.evaluate("one => { one.scrollLeft = 10_000 }")
    name = table.locator("tbody th").bounding_box()
    assert name is not None
    assert name["x"] >= 0
    hints = page.locator("figure:has(> svg)").evaluate_all(
        "all => all.map(one => [one.scrollWidth > one.clientWidth,"
        " getComputedStyle(one, '::before').content !== 'none'])"
    )
    assert all(wider == told for wider, told in hints)
    assert [True, True] in hints or width > 390
    for picture in page.locator("img").all():
        assert picture.evaluate("one => one.complete && one.naturalWidth > 0")
    for shown in page.locator("img, svg").all():
        box = shown.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 20
    for caption in page.locator("caption").all():
        words = caption.evaluate(
            "one => { const range = document.createRange(); range.selectNodeContents(one);"
            " return range.getBoundingClientRect().right }"
        )
        assert words <= width
    # Sorting moves rows and leaves what is copied the same.
    table = page.locator("#results table").first
    before = table.inner_text().split("\n")
    heading = table.get_by_role("button", name="accuracy", exact=True)
    heading.focus()
    page.keyboard.press("Enter")
    rising = table.inner_text().split("\n")
    page.keyboard.press("Enter")
    falling = table.inner_text().split("\n")
    assert sorted(before) == sorted(rising) == sorted(falling)
    cells = table.locator("tbody tr td:nth-child(2)").all_inner_texts()
    values = [float(cell) for cell in cells]
    assert values == sorted(values, reverse=True)
    assert faults == []


@pytest.mark.slow
def test_the_report_in_mlflows_ui(browser: Any, tmp_path: Path) -> None:
    """A sandboxed blob within a page, which no link of its own may lead into."""
    source = f"/data/{50 * 'pictures-of-dogs-and-cats'}"  # a name without a gap, wider than a phone
    report = report_of([with_metrics(one) for one in three_runs()], tmp_path / "r", source=source)
    faults: list[str] = []
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.set_content('<iframe sandbox="allow-scripts" width="380" height="800"></iframe>')
    page.evaluate(
        "text => { document.querySelector('iframe').src ="
        " URL.createObjectURL(new Blob([text], {type: 'text/html'})) }",
        report,
    )
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="Method").wait_for(state="attached")
    inner = page.frames[1]
    assert inner.evaluate("document.documentElement.scrollWidth <= innerWidth")
    links = frame.locator("nav a")
    assert links.count() == 10
    for link in links.all():
        address = link.get_attribute("href")
        link.focus()
        page.keyboard.press("Enter")
        found = inner.evaluate(
            "address => { const section = document.querySelector(address);"
            " return [section.getBoundingClientRect().top, scrollY,"
            " section.contains(document.activeElement)] }",
            address,
        )
        top, scrolled, focused = found
        assert top < 800
        assert scrolled > 0
        assert focused
    assert faults == []


def known(run_id: str, phase: str, **tags: str) -> LoggedRun:
    tags = {"tlkit.phase": phase, **{f"tlkit.{key}": value for key, value in tags.items()}}
    return LoggedRun(run_id * 32, phase, "FINISHED", 1, tags, {}, {})


def test_runs_of_two_searches_have_names_of_their_own() -> None:
    runs = [
        known("a", "head"),
        *(known(run_id, "finetune", trial=trial) for run_id, trial in ("b0", "c4", "d0")),
        known("e", "finetune"),
    ]
    assert _names(runs) == [
        "head", "finetune (trial 0) bbbbbb", "finetune (trial 4)", "finetune (trial 0) dddddd",
        "finetune eeeeee",
    ]  # fmt: skip
    assert _names(runs[2:4]) == ["finetune (trial 4)", "finetune (trial 0)"]
    assert _names([runs[0], known("f", "head"), runs[1]]) == [
        "head aaaaaa", "head ffffff", "finetune"
    ]  # fmt: skip


def test_runs_of_a_phase_are_told_apart_by_their_seeds_where_those_do_it() -> None:
    seeds = [replace(known(run_id, "head"), params={"seed": run_id}) for run_id in "012"]
    assert _names(seeds) == ["head (seed 0)", "head (seed 1)", "head (seed 2)"]
    other = known("e", "finetune")
    assert _names([*seeds[:2], other]) == ["head (seed 0)", "head (seed 1)", "finetune"]
    again = replace(seeds[0], run_id="f" * 32)
    assert _names([*seeds[:2], again]) == ["head 000000", "head 111111", "head ffffff"]
    trial = replace(known("e", "head", trial="4"), params={"seed": "9"})
    assert _names([seeds[0], trial]) == ["head 000000", "head (trial 4)"]


def test_runs_are_compared_on_the_same_test_pictures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame(
        {
            **{"path": ["test/1", "test/2"], "label": ["dog", "cat"]},
            **{"probability_cat": [0.1, 0.7], "probability_dog": [0.9, 0.3]},
        }
    )
    tables = {
        "a": table,
        "b": table.assign(probability_cat=[0.6, 0.2], probability_dog=[0.4, 0.8]),
        "path": table.assign(path=["test/1", "test/3"]),
        "label": table.assign(label=["dog", "dog"]),
    }
    monkeypatch.setattr("tlkit.evidence.gathered.predictions", tables.__getitem__)
    monkeypatch.setattr("tlkit.evidence.gathered._json", lambda *_, missing=(): missing)
    of = {run_id: replace(known(run_id, "head"), run_id=run_id) for run_id in tables}
    one, other = gather([of["a"], of["b"]])
    assert one.labels.tolist() == [1, 0]
    assert (one.right.tolist(), other.right.tolist()) == ([True, True], [False, False])
    for different in ("path", "label"):
        with pytest.raises(UserError, match=f"a and {different} do not have the same test pict"):
            gather([of["a"], of[different]])


def test_what_was_before_the_temperature_is_sharper_where_that_is_above_1() -> None:
    one = replace(three_runs()[0], temperature=2.0)
    found = one.by_calibration
    assert found["after"] is one.probabilities
    assert (found["before"].max(axis=1) > found["after"].max(axis=1)).all()
    assert list(replace(one, temperature=None).by_calibration) == ["as it is"]


def test_runs_that_are_named_come_in_the_order_of_the_phases_once(experiment: str) -> None:
    suite = logged("suite")
    head, baseline = logged("head", suite), logged("baseline", suite)
    with start_run("data", parent=suite) as tracker:  # reads no test pictures
        tracker.tags({"tlkit.phase": "data"})
    finetune = logged("finetune")
    failed = logged("head", suite)
    mlflow.MlflowClient().set_terminated(failed, "FAILED")
    chosen = choose_runs(f"{finetune} , {suite},{head}", experiment)
    assert [one.run_id for one in chosen] == [baseline, head, finetune]
    for wanted, said_of_it in (
        (failed, "is FAILED; a finished one wanted"),
        (head, "is one training; two or more wanted"),
        (tracker.run_id, r"\(data\) read no test pictures"),
    ):
        with pytest.raises(UserError, match=said_of_it):
            choose_runs(wanted, experiment)


@pytest.mark.parametrize(
    ("phases", "said_of_it"),
    [((), "no finished baseline, head or"), (("head",), "only head was trained on the newest")],
)
def test_too_few_runs_to_compare_are_told(
    experiment: str, phases: tuple[str, ...], said_of_it: str
) -> None:
    for phase in phases:
        logged(phase)
    with pytest.raises(UserError, match=said_of_it):
        choose_runs("auto", experiment)


def logged(phase: str, parent: str | None = None, /, **tags: str) -> str:
    """The id of a run that has nothing but tags."""
    with start_run(phase, parent=parent) as tracker:
        tracker.tags({f"tlkit.{key}": value for key, value in {"data_digest": "d", **tags}.items()})
    return tracker.run_id


def test_of_a_search_the_best_is_compared_though_the_default_is_newer(experiment: str) -> None:
    head = logged("head")
    search = logged("tune")
    best = logged("finetune", search, trial="3")
    default = logged("finetune", search, trial="0")
    chosen = [one.run_id for one in choose_runs("auto", experiment)]
    assert chosen == [head, default]  # it has not come to its end
    Tracker(search, experiment).tags({"tlkit.best_run": best})
    assert [one.run_id for one in choose_runs("auto", experiment)] == [head, best]
    by_hand = logged("finetune")
    assert [one.run_id for one in choose_runs("auto", experiment)] == [head, by_hand]


def test_a_search_that_was_deleted_for_good_leaves_its_runs_to_compare(experiment: str) -> None:
    head, found = logged("head"), logged("finetune", trial="0")
    Tracker(found, experiment).tags({"mlflow.parentRunId": "0" * 32})
    assert [one.run_id for one in choose_runs("auto", experiment)] == [head, found]


def test_the_newest_run_of_all_says_which_data_are_compared(experiment: str) -> None:
    wanted = logged("baseline", data_digest="new")
    logged("baseline", data_digest="old")
    newest = logged("head", data_digest="new")
    for status in ("FAILED", "KILLED"):
        mlflow.MlflowClient().set_terminated(logged("head", data_digest="newer"), status)
    assert [one.run_id for one in choose_runs("auto", experiment)] == [wanted, newest]


@pytest.mark.parametrize("names", [["c\nd", 'a|b,"\n', "NA", "01"], ["01", "02", "10"]])
def test_predictions_come_back_whatever_the_names(
    experiment: str, tmp_path: Path, names: list[str]
) -> None:
    values = [f"probability_{name}" for name in names]
    rows = [
        {"path": f"test/odd\r\n{place}.png", "label": name, "predicted": names[place - 1]}
        | dict(zip(values, np.roll([0.123456789, 0, 1, 1e-300], place), strict=False))
        for place, name in enumerate(names)
    ]
    left = tmp_path / "left"
    left.mkdir()
    with (left / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with start_run("head") as tracker:
        tracker.artifacts(left)
    assert predictions(tracker.run_id).to_dict("records") == rows


def test_points_of_a_learning_curve_are_not_the_newest(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_PAGE", 1)  # the runs wanted are on a later page
    whole = [logged("baseline"), logged("head")]
    for share in (0.5, 0.05):
        for phase in ("baseline", "head"):
            Tracker(logged(phase, data_digest="thin"), experiment).params({"train_fraction": share})
    assert [one.run_id for one in choose_runs("auto", experiment)] == whole
    again = logged("head")
    Tracker(again, experiment).params({"train_fraction": "1"})  # as typed
    assert [one.run_id for one in choose_runs("auto", experiment)] == [whole[0], again]


def test_a_parent_stands_for_its_trainings_and_one_training_is_refused(
    entry: Entry, make_folder, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = str(make_folder())
    assert entry("head", "--data", pictures, "--seeds", "2") == 0
    parent, one = (
        mlflow.search_runs(filter_string=f"attributes.run_name = '{name}'", output_format="list")[
            0
        ].info.run_id
        for name in ("head-seeds", "head")
    )
    assert entry("compare", "--runs", parent, "--pictures", "2", "--timed", "1") == 0
    said_of_it = capsys.readouterr().out
    assert "test pictures" in said_of_it
    assert "head (seed 1)" in said_of_it
    assert "/artifacts/report.html\n" in said_of_it
    assert entry("compare", "--runs", one) == 2
    assert "two or more wanted" in capsys.readouterr().err
    assert entry("compare") == 2
    assert "only head was trained" in capsys.readouterr().err
    other = str(make_folder("others", counts=(8, 4, 4)))
    assert entry("baseline", "--data", other) == 0
    newest = mlflow.search_runs(
        filter_string="attributes.run_name = 'baseline'", output_format="list"
    )[0].info.run_id
    assert entry("compare", "--runs", f"{one},{newest}") == 2
    err = capsys.readouterr().err
    assert "were trained on 2 sets of pictures" in err
    assert f"run {one} on {pictures}, digest " in err
    assert f"run {newest} on {other}, digest " in err
    assert "Traceback" not in err
    assert entry("compare", "--runs", "0" * 32) == 2
    assert "no run" in capsys.readouterr().err
    Path(pictures).rename(f"{pictures} elsewhere")
    assert entry("compare", "--runs", parent) == 2
    assert f"are needed where it found them, {pictures}: data=" in capsys.readouterr().err


def test_a_run_counts_what_it_trains_and_what_there_is(trained: Trained) -> None:
    network = timm.create_model("test_resnet", num_classes=2)
    every = sum(parameter.numel() for parameter in network.parameters())
    head = sum(parameter.numel() for parameter in network.get_classifier().parameters())
    expected = {"head": (head, every), "baseline": (110242, 110242)}
    for phase, run in trained.runs.items():
        counted = [run.data.metrics[f"parameters/{of}"] for of in ("trainable", "total")]
        assert tuple(counted) == expected[phase]
