"""Labels that are wrong are doubted, by what was fitted without them."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Entry, MakeFolder
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from tlkit.evaluation import label_check
from tlkit.evaluation.label_check import Doubt
from tlkit.features.inputs import StoredInputs
from tlkit.phases import engine
from tlkit.phases.engine import Engine
from tlkit.phases.prepare import Phase

Data = tuple[NDArray[np.float32], NDArray[np.int64]]


def left_out_scores(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    alone = np.arange(len(labels))
    return in_order(label_check.left_out_scores(features, labels, classes, alone))


def in_order(parts: Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    rows, scores = zip(*parts, strict=True)
    found = np.concatenate(scores)
    return found[np.argsort(np.concatenate(rows))]


def doubts(features: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> list[Doubt]:
    """Where each picture stands for itself."""
    return label_check.doubts(features, labels, classes, np.arange(len(labels)))


def clusters(count: int, size: int, classes: int, apart: float, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = rng.normal(size=(classes, size)) * apart
    features = centres[labels] + rng.normal(size=(count, size)) * np.geomspace(3, 0.1, size)
    return features.astype(np.float32), labels


@pytest.mark.parametrize(("count", "size"), [(40, 12), (12, 40), (20, 20)])
def test_scores_are_those_of_a_fit_without_the_picture(
    count: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = clusters(count, size, classes=3, apart=0.3)
    part, centred = 0.01, features - features.mean(axis=0, dtype=np.float64)
    ridge = part * np.linalg.svd(centred, compute_uv=False)[0] ** 2
    monkeypatch.setattr(label_check, "_RIDGES", np.array([part]))
    monkeypatch.setattr(label_check, "_AT_ONCE", 7)
    found = left_out_scores(features, labels, 3)
    for index in range(count):
        others = np.arange(count) != index
        fitted = Ridge(alpha=ridge).fit(
            features[others].astype(np.float64), np.eye(3)[labels[others]]
        )
        expected = fitted.predict(features[[index]].astype(np.float64))[0]
        np.testing.assert_allclose(found[index], expected, atol=1e-9)


@pytest.mark.parametrize(("count", "size"), [(40, 12), (12, 40)])
def test_scores_are_those_of_a_fit_without_the_pictures_group(
    count: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = clusters(count, size, classes=3, apart=0.3)
    sizes = [1, 3] * (count // 4)
    groups = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    monkeypatch.setattr(label_check, "_RIDGES", np.array([0.01]))
    monkeypatch.setattr(label_check, "_AT_ONCE", 7)
    centred = features - features.mean(axis=0, dtype=np.float64)
    ridge = 0.01 * np.linalg.svd(centred, compute_uv=False)[0] ** 2
    found = in_order(label_check.left_out_scores(features, labels, 3, groups))
    for group in set(groups):
        own = groups == group
        fitted = Ridge(alpha=ridge).fit(features[~own].astype(np.float64), np.eye(3)[labels[~own]])
        expected = fitted.predict(features[own].astype(np.float64))
        np.testing.assert_allclose(found[own], expected, atol=1e-9)


def test_the_ridge_of_groups_is_that_of_the_lowest_error_without_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = clusters(60, 30, classes=3, apart=0.5)
    groups = np.arange(60) // 4
    parts = np.array([1e-5, 1e-3, 0.03, 0.3])
    monkeypatch.setattr(label_check, "_AT_ONCE", 7)

    def scores(of: NDArray[np.float64]) -> NDArray[np.float64]:
        monkeypatch.setattr(label_check, "_RIDGES", of)
        return in_order(label_check.left_out_scores(features, labels, 3, groups))

    each = [scores(np.array([part])) for part in parts]
    errors = [float(((np.eye(3)[labels] - one) ** 2).sum()) for one in each]
    best = int(np.argmin(errors))
    assert 0 < best < len(parts) - 1
    np.testing.assert_array_equal(scores(parts), each[best])


def test_a_film_with_a_wrong_label_is_doubted_as_a_whole() -> None:
    rng = np.random.default_rng(2)
    labels, groups = np.repeat(np.arange(30) % 2, 10), np.repeat(np.arange(30), 10)
    films = clusters(30, 40, classes=2, apart=2)[0] + rng.normal(size=(30, 40))
    features = (films[groups] + 0.1 * rng.normal(size=(300, 40))).astype(np.float32)
    wrong = np.where(groups == 4, 1, labels)
    assert not {one.index for one in doubts(features, wrong, 2)} & set(range(40, 50))
    found = {one.index for one in label_check.doubts(features, wrong, 2, groups)}
    assert found == set(range(40, 50))
    # Of a class in one group, or of a single group, nothing can be said.
    alone = np.where(groups == 4, 2, labels)
    assert not {one.index for one in label_check.doubts(features, alone, 3, groups)} & set(
        range(40, 50)
    )
    assert not label_check.doubts(features, labels, 2, np.zeros(300, dtype=np.int64))


def test_the_ridge_is_that_of_generalised_cross_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(60, 30, classes=3, apart=0.2)
    centred = features - features.mean(axis=0, dtype=np.float64)
    targets = np.eye(3)[labels] - 1 / 3
    largest = np.linalg.svd(centred, compute_uv=False)[0] ** 2

    def error(part: float) -> float:
        inverse = np.linalg.inv(centred.T @ centred + part * largest * np.eye(30))
        hat = centred @ inverse @ centred.T
        return float(((targets - hat @ targets) ** 2).sum() / (60 - 1 - np.trace(hat)) ** 2)

    by_all = left_out_scores(features, labels, 3)
    best = min(label_check._RIDGES, key=error)
    assert label_check._RIDGES[0] < best < label_check._RIDGES[-1]
    monkeypatch.setattr(label_check, "_RIDGES", np.array([best]))
    np.testing.assert_array_equal(by_all, left_out_scores(features, labels, 3))


def test_changed_labels_are_doubted_first() -> None:
    features, labels = clusters(300, 40, classes=3, apart=0.7)
    assert not doubts(features, labels, 3)
    changed = {7: 2, 100: 0, 250: 0}
    wrong = labels.copy()
    for index, label in changed.items():
        assert wrong[index] != label
        wrong[index] = label
    found = doubts(features, wrong, 3)
    assert {one.index: one.looks_like for one in found} == {i: labels[i] for i in changed}
    margins = [one.margin for one in found]
    assert margins == sorted(margins, reverse=True)
    assert margins[-1] > 0


def test_nothing_is_said_of_a_class_with_one_picture_or_of_features_that_are_all_the_same() -> None:
    features, labels = clusters(30, 5, classes=2, apart=3)
    labels[4] = 2
    assert 4 not in {one.index for one in doubts(features, labels, 3)}
    same = np.ones((90, 4), dtype=np.float32)
    for counts in ((45, 45), (80, 10), (87, 3)):
        labels = np.repeat([0, 1], counts)
        assert np.isfinite(left_out_scores(same, labels, 2)).all()
        assert not doubts(same, labels, 2)


def test_pictures_of_a_rare_class_are_not_named_for_being_rare() -> None:
    features, labels = clusters(620, 60, classes=2, apart=0.15)
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:9]]))
    rare, features = labels[chosen] == 1, features[chosen]
    scores = left_out_scores(features, labels[chosen], 2)
    assert (scores.argmax(axis=1)[rare] == 0).any()
    named = {one.index for one in doubts(features, labels[chosen], 2)}
    assert not named & set(np.flatnonzero(rare).tolist())


def test_a_head_names_pictures_that_lie_in_the_wrong_folder(
    entry: Entry, make_folder: MakeFolder, experiment: str
) -> None:
    root = make_folder()
    moved = {"train/cat/d3.png": "train/dog/3.png", "val/dog/c2.png": "val/cat/2.png"}
    for target, source in moved.items():
        (root / source).rename(root / target)
    assert entry("finetune", "--data", str(root)) == 0  # trains a head of its own first
    runs = {
        run.info.run_name: run for run in mlflow.search_runs([experiment], output_format="list")
    }
    folder = Path(mlflow.artifacts.download_artifacts(runs["head"].info.artifact_uri))
    rows = pd.read_csv(folder / "label_check.csv")
    assert list(rows.columns) == ["path", "split", "label", "looks_like", "margin"]
    assert set(rows["path"][:2]) == set(moved)
    first = rows.set_index("path").loc["train/cat/d3.png"]
    assert (first["split"], first["label"], first["looks_like"]) == ("train", "cat", "dog")
    assert runs["head"].data.metrics["labels/doubted"] == len(rows)
    said = f"Doubtful labels: {len(rows)} (`label_check.png`)."
    assert said in runs["head"].data.tags["mlflow.note.content"]
    assert "Doubtful" not in runs["finetune"].data.tags["mlflow.note.content"]
    assert not set(rows["split"]) & {"test"}
    assert (folder / "label_check.png").is_file()
    assert "labels/doubted" not in runs["finetune"].data.metrics


def test_more_pictures_than_are_read_are_spread_evenly(
    entry: Entry, make_folder: MakeFolder, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def counted(
        features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, groups: object
    ) -> list[Doubt]:
        seen.append((features.shape[0], np.bincount(labels).tolist()))
        return []

    monkeypatch.setattr("tlkit.outcome.doubts", counted)
    monkeypatch.setattr("tlkit.phases.engine._MOST_FEATURES", 12)
    data = ["--data", str(make_folder())]
    assert entry("head", *data) == 0  # 24 to train on, 12 to validate
    assert seen == [(12, [6, 6])]
    assert entry("head", *data, "--engine", "plain") == 0
    assert entry("head", *data, "--seed", "1", "--store_gigabytes", "0") == 0
    assert len(seen) == 1


def test_the_features_are_the_mean_of_a_pictures_views(
    entry: Entry, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[NDArray[np.float32]] = []
    stored: list[NDArray[np.float32]] = []
    frozen_features = engine.frozen_features

    def watched(phase: Phase, started: Engine) -> object:
        every = list(range(24))
        inputs = started.inputs
        assert isinstance(inputs, StoredInputs)
        stored.extend(next(view.batches([every])).float().numpy() for view in inputs.views)
        pictures, features = frozen_features(phase, started) or ([], np.empty(0))
        found.append(features[:24])
        return pictures, features

    monkeypatch.setattr("tlkit.phases.train.frozen_features", watched)
    recipe = ("--views", "3", "--head_epochs", "3", "--augment", "recipe")
    assert entry("head", "--data", str(make_folder()), *recipe) == 0
    assert len(stored) == 3
    assert np.abs(stored[0] - stored[1]).max() > 1e-3
    np.testing.assert_allclose(found[0], np.mean(stored, axis=0), rtol=1e-5, atol=1e-6)
