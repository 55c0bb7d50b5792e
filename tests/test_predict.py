"""Prediction on files: what is printed, written and logged, and that it is what was evaluated."""

import csv
import errno
import gzip
import json
import logging
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Entry, MakeFolder, Trained
from matplotlib.figure import Figure
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException

from tlkit.data.given import find_pictures
from tlkit.data.images import UnreadablePicture
from tlkit.data.manifest import read as read_manifest
from tlkit.deployment import predict
from tlkit.deployment.models import load_models
from tlkit.deployment.tally import Tally
from tlkit.errors import UserError
from tlkit.evaluation.tiles import Tile, gradcam_sheet
from tlkit.models.backbones import create_model, data_config
from tlkit.serving.answer import Question, Served
from tlkit.serving.classifier import BATCH, DESCRIPTION_FILE, Classifier, Description
from tlkit.serving.ensemble import Ensemble
from tlkit.serving.stream import Prediction, classify_files
from tlkit.tracking.lookup import local_model
from tlkit.tracking.registry import find_model


def test_models_for_many_pictures_keep_freed_memory(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []
    monkeypatch.setattr("tlkit.deployment.models.keep_freed_memory", lambda: kept.append(True))
    load_models(trained.model())
    assert kept


def columns(table: pd.DataFrame) -> np.ndarray:
    return table.filter(like="probability_").to_numpy()


def artifact(experiment: str, path: str) -> Path:
    [run] = mlflow.search_runs([experiment], max_results=1, output_format="list")
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path))


def test_a_folder_gives_the_probabilities_of_the_evaluation(
    entry: Entry, experiment: str, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained.pictures / "test"
    arguments = ("--model", trained.model(), "--images", str(folder), "--gradcam", "true")
    assert entry("predict", *arguments) == 0
    printed = capsys.readouterr().out
    assert "cat/0.png" in printed
    assert "on the 12 pictures in folders called after a class" in printed
    ours = pd.read_csv(artifact(experiment, "predictions.csv")).set_index("path")
    theirs = trained.evaluated()
    theirs.index = [name.removeprefix("test/") for name in theirs.index]
    np.testing.assert_allclose(columns(ours), columns(theirs.loc[ours.index]), atol=1e-6)
    [run] = mlflow.search_runs([experiment], output_format="list")
    expected = trained.runs["head"].data.metrics
    for name in ("accuracy", "precision", "recall", "f1", "loss"):
        assert run.data.metrics[f"predict/{name}"] == pytest.approx(expected[f"test/{name}"])
    assert run.data.metrics["predict/seen"] == 0
    assert len(list(artifact(experiment, "gradcam").glob("*.png"))) == 12
    assert artifact(experiment, "gradcam.png").exists()
    assert artifact(experiment, "confusion_matrix.png").exists()


def test_the_sheet_shows_all_classes_that_are_named(
    entry: Entry, experiment: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def recorded(tiles: list[Tile], title: str, **options: bool) -> Figure:
        shown.extend(tile.predicted for tile in tiles)
        return gradcam_sheet(tiles, title, **options)

    monkeypatch.setattr(predict, "SHEET", 3)
    monkeypatch.setattr(predict, "gradcam_sheet", recorded)
    folder = str(trained.pictures / "test")
    arguments = ("--model", trained.model(), "--images", folder, "--gradcam", "true")
    assert entry("predict", *arguments) == 0
    named = pd.read_csv(artifact(experiment, "predictions.csv"))["predicted"]
    first = [*named[named == "cat"][:2], *named[named == "dog"][:2]]
    assert len(shown) == 3
    assert set(shown) == set(first)


def test_what_cannot_be_read_is_listed_and_stops_nothing(
    entry: Entry, experiment: str, trained: Trained, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    picture = (trained.pictures / "test" / "dog" / "1.png").read_bytes()
    (folder / "deep" / "good.png").write_bytes(picture)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "notes, and more.txt").write_text("hello")
    if sys.platform == "linux":  # where a name may be of any bytes
        (folder / os.fsdecode(b"latin\xe9.png")).write_bytes(picture)
    output = tmp_path / "out"
    arguments = ("--model", trained.model(), "--images", str(folder), "--output", str(output))
    assert entry("predict", *arguments) == 0
    assert "unreadable: broken.jpg" in capsys.readouterr().out
    listed = list(csv.DictReader((output / "unreadable.csv").open()))
    assert [row["path"] for row in listed if "?" not in row["path"]] == [
        "broken.jpg",
        "notes, and more.txt",
    ]
    if sys.platform == "linux":
        assert {"path": "latin?.png", "reason": "its name is not UTF-8"} in listed
    document = json.loads((output / "predictions.json").read_text())
    by_path = {item["path"]: item for item in document}
    assert by_path["broken.jpg"]["error"]
    good = by_path["deep/good.png"]
    assert sum(good["probabilities"].values()) == pytest.approx(1)
    [row] = csv.DictReader((output / "predictions.csv").open())
    assert list(row) == ["path", "predicted", "probability_cat", "probability_dog"]
    for name, value in good["probabilities"].items():
        assert value == float(row[f"probability_{name}"])
    assert entry("predict", *arguments) == 2
    assert re.search(r"output=.*out holds .* already", capsys.readouterr().err)
    assert artifact(experiment, "predictions.csv").exists()


def test_where_nothing_can_be_read_the_command_fails_once_the_reasons_are_logged(
    entry: Entry, experiment: str, trained: Trained, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    broken = tmp_path / "broken.jpg"
    assert entry("predict", "--model", trained.model(), "--images", str(broken)) == 2
    [error] = capsys.readouterr().err.splitlines()
    said = f"images={broken} holds no picture that can be read: broken.jpg (truncated); unreadable"
    assert said in error
    [row] = csv.DictReader(artifact(experiment, "unreadable.csv").open())
    assert row == {"path": "broken.jpg", "reason": "truncated"}
    (tmp_path / "two").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "two" / name).write_text("hello")
    assert entry("predict", "--model", trained.model(), "--images", str(tmp_path / "two")) == 2
    assert "a.txt (not a picture) and 1 more; unreadable.csv in" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="Windows allows no such names")
def test_a_name_is_printed_on_one_line_without_escapes(
    entry: Entry, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = (trained.pictures / "test" / "cat" / "0.png").read_bytes()
    folder = tmp_path / "cat"
    folder.mkdir()
    (folder / "a\n\x1b[31mb.png").write_bytes(picture)
    (folder / "c\n\x1b[31md.png").write_bytes(b"")
    output = tmp_path / "out"
    arguments = ("--model", trained.model(), "--images", str(folder), "--output", str(output))
    assert entry("predict", *arguments) == 0
    printed = capsys.readouterr().out
    assert "a ?[31mb.png" in printed
    assert "unreadable: c ?[31md.png (empty file)" in printed
    assert "on the 1 picture in folders called after a class" in printed
    assert "\x1b" not in printed
    assert list(pd.read_csv(output / "predictions.csv")["path"]) == ["a\n\x1b[31mb.png"]


@pytest.mark.parametrize("command", ["predict", "export"])
def test_nothing_in_the_output_folder_is_overwritten(
    command: str, entry: Entry, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    for name in ("unreadable.csv", "model.json"):
        (tmp_path / "full" / name).write_text("mine")
    picture = trained.pictures / "test" / "cat" / "0.png"
    arguments = ("--model", trained.model(), "--images", str(picture))
    mine = tmp_path / "full" / "model.json"
    for output, said in (
        (tmp_path / "full", "already; name a new or empty folder"),
        (mine, "is no folder and cannot be made"),
        (mine / "below", "is no folder and cannot be made"),
    ):
        assert entry(command, *arguments, "--output", str(output)) == 2
        assert said in capsys.readouterr().err
    assert mine.read_text() == (tmp_path / "full" / "unreadable.csv").read_text() == "mine"


def test_the_overlay_of_a_long_name_has_a_shorter_one_that_an_address_can_hold(
    entry: Entry, experiment: str, trained: Trained, tmp_path: Path
) -> None:
    long = tmp_path / f"a%2F..#?{'ü' * 120}.png"
    long.write_bytes((trained.pictures / "test" / "cat" / "0.png").read_bytes())
    arguments = ("--model", trained.model(), "--images", str(long), "--gradcam", "true")
    assert entry("predict", *arguments) == 0
    [overlay] = artifact(experiment, "gradcam").iterdir()
    assert overlay.name == f"000000-a-2F..--{'ü' * 96}.png"


def test_a_zip_a_pattern_and_a_file_are_found(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test, classes = make_folder() / "test", ("cat", "dog")
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in test.rglob("*.png"):
            opened.write(path, path.relative_to(test))
    given = find_pictures(str(archive), tmp_path / "cache")
    assert given.names == find_pictures(str(test), tmp_path).names
    assert given.label("dog/1.png", classes) == 1
    assert given.label("dog/cat/mine/1.png", classes) == 0  # the nearest
    assert given.label("mine/1.png", classes) is None
    assert find_pictures(str(test / "dog"), tmp_path).label("mine/1.png", classes) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (f"{test}/*/1.png", "~/pictures/test/*/1.png", f"{tmp_path}/pictures/**/1.png"):
        pattern = find_pictures(words, tmp_path)
        folders = [Path(name).parent.relative_to(test.parent) for name in pattern.names]
        within = [folder.name for folder in folders if folder.parent.name == "test"]
        assert within == ["cat", "dog"]
        assert list(pattern.names) == sorted(pattern.names)
    assert len(find_pictures(f"{test}/**", tmp_path).names) == 12  # without the folders
    one = find_pictures(str(test / "cat" / "1.png"), tmp_path)
    assert (one.names, one.label("1.png", classes)) == (("1.png",), 0)
    for nothing in (str(tmp_path / "none"), f"{test}/*.gif"):
        with pytest.raises(UserError, match="no such file"):
            find_pictures(nothing, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no files"):
        find_pictures(str(tmp_path / "empty"), tmp_path)


def test_folders_above_a_pattern_are_no_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes, inside = ("cat", "dog"), tmp_path / "dog" / "unsorted"
    (inside / "cat").mkdir(parents=True)
    for file in (inside / "1.png", inside / "cat" / "1.png"):
        file.write_bytes(b"")

    def labels(pattern: str) -> list[int | None]:
        given = find_pictures(pattern, tmp_path)
        return [given.label(name, classes) for name in given.names]

    assert labels(f"{inside}/*.png") == labels(str(inside))[:1] == [None]
    assert labels(f"{inside}/**/*.png") == [None, 0]
    assert labels(f"{inside}/cat/*.png") == labels(f"{inside}/ca*/1.png") == [0]
    assert labels(f"{tmp_path}/dog/*/1.png") == labels(f"{tmp_path}/d*/*/1.png") == [1]
    monkeypatch.chdir(tmp_path / "dog")
    assert labels("unsorted/*.png") == labels("*/1.png") == [None]
    monkeypatch.chdir(inside)
    assert labels("cat/*.png") == labels("*/1.png") == [0]


def test_an_archive_that_is_cut_off_is_no_picture(tmp_path: Path) -> None:
    for length in (0, 12):
        (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(1000))[:length])
        with pytest.raises(UserError, match="is damaged"):
            find_pictures(str(tmp_path / "a.tar.gz"), tmp_path / "cache")


def test_circles_of_links_are_walked_once(tmp_path: Path) -> None:
    for name, link, target in (("a", "x", "../b"), ("b", "y", "../a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
        (tmp_path / name / link).symlink_to(target)
    found = find_pictures(str(tmp_path), tmp_path).names
    assert found == ("a/1.png", "a/x/1.png", "b/1.png", "b/y/1.png")


def test_several_models_give_the_mean_of_their_probabilities(trained: Trained) -> None:
    both = load_models(trained.model("head"), trained.model("baseline"))
    pictures = sorted((trained.pictures / "test").rglob("*.png"))
    rows = both.probabilities([path.read_bytes() for path in pictures])
    names = [path.relative_to(trained.pictures).as_posix() for path in pictures]
    mean = sum(columns(trained.evaluated(phase).loc[names]) for phase in ("head", "baseline")) / 2
    np.testing.assert_allclose(rows, mean, atol=1e-6)


def test_views_are_averaged_and_always_the_same(trained: Trained) -> None:
    ensemble = load_models(trained.model())
    picture = (trained.pictures / "test" / "cat" / "0.png").read_bytes()
    one, eight, again = (ensemble.probabilities([picture], views) for views in (1, 8, 8))
    assert (eight == again).all()
    assert not np.allclose(one, eight)
    [views] = ensemble.prepare(picture, 8)
    assert views.shape[0] == 8
    by_view = [ensemble.classify([(view[None],)]) for view in views]
    np.testing.assert_allclose(eight, np.mean(by_view, axis=0), atol=1e-6)


def test_views_are_those_of_training_and_refused_where_it_had_none(
    entry: Entry, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with local_model(trained.model()) as folder:
        shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / DESCRIPTION_FILE
    told = json.loads(path.read_text())
    assert told["augment"] == "recipe"
    file = trained.pictures / "test" / "cat" / "0.png"
    by_augment = {}
    for augment in ("recipe", "trivial", "none"):
        path.write_text(json.dumps(told | {"augment": augment}))
        by_augment[augment] = Ensemble.load(path.parent)
    one, other = by_augment["recipe"].members + by_augment["trivial"].members
    plain, turned = Ensemble((one, other)).prepare(file.read_bytes(), 2)
    by_one, by_other = Ensemble((one, other)).prepare(file.read_bytes())
    assert by_one is by_other  # the plain view of both, made once
    assert torch.equal(plain[0], turned[0])
    assert not torch.equal(plain[1], turned[1])
    assert not Ensemble((one, *by_augment["none"].members)).has_views

    asked = ("predict", "--model", str(path.parent), "--images", str(file), "--tta")
    assert entry(*asked, "2") == 2
    assert "tta=2; the model was trained with augment=none" in capsys.readouterr().err
    assert entry(*asked, "1") == 0
    served = Served.load(path.parent)
    with pytest.raises(MlflowException, match="tta=2; the model was trained with augment=none"):
        served.answer(Question([file.read_bytes()], 2, 0.0))
    assert served.answer(Question([file.read_bytes()], 1, 0.0)).loc[0, "predicted"]


def test_a_network_for_pictures_of_another_size_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    model = create_model("test_vit", num_classes=2, dropout=0.0, image_size=32)
    told = Description("test_vit", 32, 0.0, ("cat", "dog"), data_config(model), 10**6, "none")
    Classifier(model, told).save(tmp_path)
    loaded = Classifier.load(tmp_path).model
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_many_views_go_through_the_network_32_at_a_time(trained: Trained) -> None:
    ensemble = load_models(trained.model())
    path = trained.pictures / "test" / "cat" / "0.png"
    sizes: list[int] = []
    network = ensemble.members[0].model
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for views, passes in ((1, [3]), (12, [24, 12]), (64, [32] * 6)):
        sizes.clear()
        rows = ensemble.probabilities([path.read_bytes()] * 3, views)
        assert sizes == passes
        streamed = [p.probabilities for p in classify_files(ensemble, [path] * 3, views=views)]
        assert sizes == passes * 2
        np.testing.assert_allclose(streamed, rows, atol=1e-12)


def test_a_picture_is_called_by_its_number_among_all(trained: Trained) -> None:
    picture = (trained.pictures / "test" / "cat" / "0.png").read_bytes()
    many = [picture] * (BATCH + 1)
    with pytest.raises(UnreadablePicture, match=f"^picture {len(many) + 1} of {len(many) + 1}: "):
        load_models(trained.model()).probabilities([*many, b"junk"])


def test_abstaining_names_no_class_and_keeps_the_probabilities(
    entry: Entry, experiment: str, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(trained.pictures / "test" / "cat" / "0.png")
    arguments = ("--model", trained.model(), "--images", picture, "--abstain", "0.99999")
    assert entry("predict", *arguments) == 0
    assert "1 of 1 pictures have a confidence below" in capsys.readouterr().out
    table = pd.read_csv(artifact(experiment, "predictions.csv"))
    assert table["predicted"].isna().all()
    assert columns(table).sum() == pytest.approx(1)


def test_what_was_answered_is_counted_apart() -> None:
    tally = Tally(("a", "b"), 0.8, np.zeros((2, 2), dtype=np.int64))
    for row, label in (([0.9, 0.1], 0), ([0.3, 0.7], 0), ([0.05, 0.95], 0), ([0.2, 0.8], None)):
        tally.add("x", Prediction(Path("x"), np.array(row)), label)
    assert tally.metrics()["predict/accuracy"] == pytest.approx(1 / 3)
    assert tally.metrics()["predict/answered"] == pytest.approx(2 / 3)
    assert tally.metrics()["predict/answered_accuracy"] == 0.5
    assert "2 were answered, 0.500 of them right" in tally.text()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_what_is_counted_while_pictures_stream_by() -> None:
    tally = Tally(("cat", "dog", "emu"), 0.6, np.zeros((3, 3), dtype=np.int64))
    assert tally.metrics() == {
        f"predict/{name}": 0.0 for name in ("pictures", "unreadable", "abstained")
    }
    assert (tally.text(), tally.verdicts()) == ("", [])
    for row, label, named in (
        ([0.6, 0.4, 0.0], 0, "cat"),  # 0.6 is enough
        ([0.7, 0.3, 0.0], 1, "cat"),
        ([0.5, 0.3, 0.2], 0, ""),  # right, and left without a class
        ([0.2, 0.8, 0.0], 2, "dog"),  # which it had ruled out
        ([0.0, 0.1, 0.9], None, "emu"),
    ):
        assert tally.add("a\nb", Prediction(Path(), np.array(row)), label) == named
    assert tally.add("c\nd", Prediction(Path(), None, "damaged"), 0) is None
    assert tally.confusion.tolist() == [[2, 0, 0], [1, 0, 0], [0, 1, 0]]
    found = tally.metrics()
    for name, value in {
        **{"pictures": 5, "unreadable": 1, "abstained": 1, "accuracy": 2 / 4},
        **{"answered": 3 / 4, "answered_accuracy": 1 / 3},
        "loss": -np.log([0.6, 0.3, 0.5, np.finfo(float).eps]).mean(),
    }.items():
        assert found[f"predict/{name}"] == pytest.approx(value), name
    assert "Of these, 3 were answered, 0.333 of them right." in tally.verdicts()
    assert len(tally.text().splitlines()) == 2 + 5 + 1 + 3  # a line a picture, whatever its name
    assert "more" not in tally.text()


def test_where_all_or_none_are_answered_nothing_is_said_of_those() -> None:
    for row, named in (([0.9, 0.1], "cat"), ([0.5, 0.5], "")):
        tally = Tally(("cat", "dog"), 0.6, np.zeros((2, 2), dtype=np.int64))
        for _ in range(21):
            assert tally.add("x", Prediction(Path(), np.array(row)), 0) == named
            tally.add("y", Prediction(Path(), None, "damaged"), None)
        assert tally.metrics().get("predict/answered") == (None if named else 0.0)
        assert "predict/answered_accuracy" not in tally.metrics()
        assert not any("were answered" in said for said in tally.verdicts())
        assert [len(tally.first), len(tally.reasons)] == [20, 20]
        assert "and 1 more\n" in tally.text()
        assert "and 1 more unreadable" in tally.text()


def test_memory_holds_a_few_batches_whatever_the_number(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = load_models(trained.model())
    picture = trained.pictures / "test" / "cat" / "0.png"
    asked = 0

    def paths():
        nonlocal asked
        for _ in range(1000):
            asked += 1
            yield picture

    stream = classify_files(ensemble, paths(), workers=1)
    next(stream)
    assert asked <= 3 * 32
    stream.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--images", "x"), "model is not given"),
        (("--model", "nowhere", "--images", "."), "model nowhere: no such folder"),
        (
            ("--model", "runs:/0123/model", "--images", "."),
            "model runs:/0123/model cannot be fetched",
        ),
        (("--model", "models:/none@champion", "--images", "."), "is not at"),
        (("--model", "m", "--images", ".", "--tta", "0"), "tta=0 is not allowed"),
        (("--model", "m", "--images", ".", "--workers", "100000"), "workers=100000 is not allowed"),
        (("--model", "m", "--images", ".", "--gradcam", "maybe"), "true or false wanted"),
        (("--model", "m", "--images", ".", "--seed", "1"), "unknown key seed"),
    ],
)
def test_mistakes_are_told_in_one_line(
    entry: Entry, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "a.png").write_bytes(b"")
    assert entry("predict", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("by_run", [True, False])
def test_a_full_temporary_folder_is_told(
    trained: Trained, entry: Entry, by_run: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    run = trained.runs["head"]
    model = trained.model() if by_run else f"models:/{run.outputs.model_outputs[0].model_id}"
    monkeypatch.setattr(shutil, "copy2", full)
    logger = logging.getLogger("mlflow.store.artifact.runs_artifact_repo")
    before = logger.level, logger.propagate
    assert entry("predict", "--model", model, "--images", str(trained.pictures)) == 2
    [line] = capsys.readouterr().err.splitlines()
    told = rf"error: model {model} .*: \S+: \[Errno 28\] No space .* \(and \d+ more\); free"
    assert re.match(told, line)
    assert "point TMPDIR at another disk" in line
    assert len(line) < 1000
    assert (logger.level, logger.propagate) == before


def test_pictures_that_the_model_was_trained_on_are_counted(
    entry: Entry, experiment: str, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    written = f"runs:/{trained.runs['head'].info.run_id}/data/manifest.csv"
    manifest = read_manifest(Path(mlflow.artifacts.download_artifacts(written)), Path())
    learned = len(manifest.of("train")) + len(manifest.of("val"))
    models = f"{trained.model()},{trained.model('baseline')}"
    assert entry("predict", "--model", models, "--images", str(trained.pictures)) == 0
    assert f"was trained or validated on {learned} of the {learned + 12}" in capsys.readouterr().out
    [run] = mlflow.search_runs([experiment], output_format="list")
    assert run.data.metrics["predict/seen"] == learned


def test_a_run_says_which_model_an_alias_was(
    entry: Entry, experiment: str, trained: Trained
) -> None:
    run_id = trained.runs["head"].info.run_id
    [left] = mlflow.get_run(run_id).outputs.model_outputs
    version = mlflow.register_model(trained.model(), "aliased").version
    mlflow.MlflowClient().set_registered_model_alias("aliased", "champion", version)
    picture = str(trained.pictures / "test" / "cat" / "0.png")
    for address in ("models:/aliased@champion", "models:/aliased/latest", f"runs:/{run_id}"):
        assert entry("predict", "--model", address, "--images", picture) == 0
        [run] = mlflow.search_runs([experiment], max_results=1, output_format="list")
        inputs = mlflow.get_run(run.info.run_id).inputs.model_inputs  # a search gives none
        assert [one.model_id for one in inputs] == [left.model_id]
        assert run.data.tags["tlkit.model"] == f"models:/{left.model_id}"
    for address in ("models:/aliased", "models:/", "runs:/", f"runs:/{run_id}/data"):
        with pytest.raises(UserError, match="names no run's model; runs:/RUN_ID/model, models:/"):
            find_model(address)


def test_what_a_model_learned_from_is_asked_for_where_classes_are_known_alone(
    entry: Entry, experiment: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = tmp_path / "some.png"
    shutil.copy(trained.pictures / "test" / "cat" / "0.png", unknown)
    with monkeypatch.context() as patch:
        patch.setattr(predict, "learned_from", lambda model: pytest.fail("asked"))
        assert entry("predict", "--model", trained.model(), "--images", str(unknown)) == 0
    with local_model(trained.model()) as folder:  # whose run nobody knows
        shutil.copytree(folder, tmp_path / "model")
    own, classed = str(tmp_path / "model"), str(trained.pictures / "test")
    assert entry("predict", "--model", own, "--images", classed) == 0
    for run in mlflow.search_runs([experiment], output_format="list"):
        assert "predict/seen" not in run.data.metrics


def test_a_run_over_others_has_no_model_and_names_theirs(
    entry: Entry, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")

    def logs_a_model() -> None:
        known = mlflow.initialize_logged_model("model")
        mlflow.log_outputs([LoggedModelOutput(known.model_id, step=0)])

    with mlflow.start_run(run_name="suite") as suite:
        with mlflow.start_run(run_name="trial-0", nested=True) as trial:
            pass
        with mlflow.start_run(run_name="finetune", nested=True) as finetune:
            logs_a_model()
            with mlflow.start_run(run_name="head", nested=True):  # is not to be taken for it
                logs_a_model()
    for address, said in (
        (f"{suite.info.run_id}/model", f"those under it have: finetune {finetune.info.run_id}\n"),
        (f"{trial.info.run_id}/model", "see that it is there"),
        (f"{finetune.info.run_id}/modl", "modl names no run's model; runs:/RUN_ID/model, models:"),
        (suite.info.run_id, f"those under it have: finetune {finetune.info.run_id}\n"),
    ):
        assert entry("predict", "--model", f"runs:/{address}", "--images", str(picture)) == 2
        assert said in capsys.readouterr().err
