"""Ensembles, export, routing, A/B tests and monitoring, through their entry points."""

import base64
import json
import re
import shutil
import sqlite3
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import safetensors.numpy
import torch
from conftest import Entry, Trained
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations
from PIL import Image

import tlkit.runs.phase
from tlkit.data.transforms import Preprocessing
from tlkit.deployment import ensemble
from tlkit.deployment.abtest import ARMS, assignments, read_outcomes
from tlkit.deployment.models import load_models
from tlkit.deployment.soup import greedy_soup
from tlkit.errors import UserError
from tlkit.evaluation.drift import Finding, drift
from tlkit.evaluation.sequential import needed_trials, sequential_difference
from tlkit.evidence.gathered import gather
from tlkit.serving.classifier import DESCRIPTION_FILE, Classifier
from tlkit.serving.log_entry import MAX_KEY
from tlkit.serving.log_entry import Entry as Logged
from tlkit.serving.reference import Reference, identity
from tlkit.serving.request_log import RequestLog, open_log
from tlkit.serving.router import assign
from tlkit.serving.sql_log import SqlLog
from tlkit.tracking.lookup import find_run, local_model


def newest(experiment: str) -> Run:
    return mlflow.search_runs([experiment], max_results=1, output_format="list")[0]


def artifact(experiment: str, path: str) -> Path:
    run_id = newest(experiment).info.run_id
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


def test_an_ensemble_is_a_model_like_any_other(
    entry: Entry, experiment: str, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    both = f"{trained.model('head')},{trained.model('baseline')}"
    assert entry("ensemble", "--models", both, "--register", "both") == 0
    printed = capsys.readouterr().out
    assert "ensemble" in printed
    assert "Registered as both, version 1" in printed
    run = newest(experiment)
    assert run.data.tags["tlkit.data_digest"] == trained.runs["head"].data.tags["tlkit.data_digest"]
    assert run.data.params["models"] == both
    assert {"test/accuracy", "test/ece", "test/accuracy_low"} <= set(run.data.metrics)
    assert 0 < run.data.metrics["time/total_seconds"] < 600
    members = [
        trained.runs[phase].data.metrics["parameters/total"] for phase in ("head", "baseline")
    ]
    assert run.data.metrics["parameters/total"] == sum(members)
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("The mean of probabilities of 2 models.")
    assert "gradcam.png" in note
    assert "backbone: test_resnet" in artifact(experiment, "config.yaml").read_text()
    assert not [name for name in run.data.metrics if "uncalib" in name or name == "temperature"]
    said = pd.read_csv(artifact(experiment, "predictions.csv")).set_index("path")
    parts = [trained.evaluated(phase).loc[said.index] for phase in ("head", "baseline")]
    columns = ["probability_cat", "probability_dog"]
    np.testing.assert_allclose(said[columns], sum(part[columns] for part in parts) / 2, atol=1e-6)
    model = mlflow.pyfunc.load_model("models:/both/1")
    name = said.index[0]
    table = pd.DataFrame({"image": [(trained.pictures / name).read_bytes()]})
    answer = model.predict(table)
    expected = said.loc[name, columns].astype(float)
    np.testing.assert_allclose(answer[columns].iloc[0], expected, atol=1e-6)
    assert entry("ensemble", "--models", f"{both}, runs:/{run.info.run_id}/model") == 0


def test_a_figure_that_fails_costs_no_ensemble(
    entry: Entry, experiment: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no figure")

    monkeypatch.setattr(ensemble, "write_outcome", fail)
    with pytest.raises(RuntimeError, match="no figure"):
        entry("ensemble", "--models", f"{trained.model('head')},{trained.model('baseline')}")
    run = newest(experiment)
    assert "test/accuracy" in run.data.metrics
    assert load_models(f"runs:/{run.info.run_id}/model").classes == ("cat", "dog")


def test_a_soup_wants_one_starting_point_and_keeps_only_what_helps(
    entry: Entry, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    both = f"{trained.model('head')},{trained.model('baseline')}"
    assert entry("ensemble", "--models", both, "--average", "weights") == 2
    assert "one starting point" in capsys.readouterr().err
    [member] = load_models(trained.model("head")).members

    def moved(by: float) -> Classifier:
        other = load_models(trained.model("head")).members[0]
        with torch.no_grad():
            next(iter(other.model.get_classifier().parameters())).add_(by)
        return other

    def score(one: Classifier) -> float:
        mine = next(iter(member.model.get_classifier().parameters()))
        other = next(iter(one.model.get_classifier().parameters()))
        return -float((other - mine).detach().abs().mean())

    members = [moved(0.3), moved(-0.2), moved(2.0)]
    soup, chosen = greedy_soup(members, score)
    assert chosen == [1, 0]
    assert greedy_soup([moved(0.1), moved(0.3), moved(0.2)], score)[1] == [0]
    weights = [next(iter(one.model.get_classifier().parameters())) for one in (soup, member)]
    torch.testing.assert_close(weights[0], weights[1] + 0.05)
    first, *others = members
    trained_otherwise = replace(first.description, dropout=0.4, max_pixels=1000)
    assert greedy_soup([replace(first, description=trained_otherwise), *others], score)[1] == [1, 0]
    another = replace(first, description=replace(first.description, image_size=96))
    with pytest.raises(UserError, match="the networks differ"):
        greedy_soup([another, *others], score)


def test_a_soup_says_what_it_was_calibrated_with(
    entry: Entry, experiment: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "_check_origin", lambda _: None)
    monkeypatch.setattr(ensemble, "greedy_soup", lambda members, _: (members[1], [1]))
    monkeypatch.setattr(ensemble, "fit_temperature", lambda *_: 1.7)
    both = f"{trained.model('head')},{trained.model('baseline')}"
    assert entry("ensemble", "--models", both, "--average", "weights") == 0
    run = newest(experiment)
    assert run.data.metrics["temperature"] == 1.7
    chosen = trained.runs["baseline"]
    assert run.data.tags["tlkit.in_soup"] == chosen.info.run_id
    accuracy = run.data.metrics["val/best_accuracy"]
    assert accuracy == chosen.data.metrics["val/best_accuracy"] != 0.5
    [gathered] = gather([find_run(run.info.run_id)])
    assert gathered.temperature == 1.7


def test_the_export_is_the_model_for_any_number_of_pictures(
    entry: Entry, experiment: str, trained: Trained, tmp_path: Path
) -> None:
    folder = str(trained.pictures / "test")
    output = tmp_path / "onnx"
    arguments = ("--model", trained.model(), "--images", folder, "--output", str(output))
    assert entry("export", *arguments) == 0
    assert newest(experiment).data.metrics["export/difference"] < 1e-4
    facts = json.loads((output / "model.json").read_text())
    assert facts["classes"] == ["cat", "dog"]
    session = onnxruntime.InferenceSession(str(output / "model.onnx"))
    members = load_models(trained.model())
    paths = sorted((trained.pictures / "test").rglob("*.png"))
    tensors = torch.cat([members.prepare(path.read_bytes())[0] for path in paths])
    for part in (tensors, tensors[:1]):
        [rows] = session.run(None, {"pictures": part.numpy()})
        expected = members.classify([(tensor[None],) for tensor in part])
        np.testing.assert_allclose(rows, expected, atol=1e-4)
    assert entry("export", *arguments) == 2


def test_models_of_different_preprocessing_are_refused_before_pictures_are_prepared(
    entry: Entry, trained: Trained, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("tlkit.deployment.export._inputs", lambda *_: pytest.fail("prepared"))
    both = f"{trained.model('head')},{trained.model('baseline')}"
    assert entry("export", "--model", both, "--images", str(trained.pictures / "test")) == 2
    assert "want different preprocessing; export each by itself" in capsys.readouterr().err


def test_a_key_always_goes_to_the_same_model_and_shares_are_kept() -> None:
    keys = [f"user-{number}" for number in range(20_000)]
    names = [assign(key, "salt", 0.2) for key in keys]
    assert names == [assign(key, "salt", 0.2) for key in keys]
    rate = names.count("challenger") / len(names)
    assert rate == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / len(keys)) ** 0.5)
    other = [assign(key, "another", 0.2) for key in keys]
    both = sum(a == b == "challenger" for a, b in zip(names, other, strict=True))
    assert both / len(keys) == pytest.approx(0.04, abs=0.01)


def test_a_key_goes_where_servers_of_earlier_versions_sent_it() -> None:
    sent = [assign(f"user-{number}", "tlkit", 0.5) for number in range(16)]
    challenged = [number for number, name in enumerate(sent) if name == "challenger"]
    assert challenged == [0, 5, 7, 12, 13, 15]


def identity_of(model: str) -> str:
    with local_model(model) as folder:
        return identity(folder)


def test_a_router_answers_as_the_model_that_it_names(
    entry: Entry, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    models = {"champion": trained.model("head"), "challenger": trained.model("baseline")}
    arguments = [word for name, uri in models.items() for word in (f"--{name}", uri)]
    dealt_by = ("--share", "0.3", "--salt", "second")
    assert entry("route", *arguments, *dealt_by, "--register", "pets-router") == 0
    assert "\nmlflow models serve -m models:/pets-router/1 --env-manager" in capsys.readouterr().out
    assert not (tmp_path / "requests.db").exists()  # MLflow asked it its example: no request
    guarded: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr("tlkit.serving.guard.guard_server", lambda: guarded.append(True))
        router = mlflow.pyfunc.load_model("models:/pets-router/1")
    assert guarded
    picture = (trained.pictures / "test" / "cat" / "0.png").read_bytes()
    keys = [str(number) for number in range(12)]
    answer = router.predict(pd.DataFrame({"image": [picture] * 12, "key": keys}))
    assert list(answer["served_by"]) == [assign(key, "second", 0.3) for key in keys]
    assert set(answer["served_by"]) == {"champion", "challenger"}
    for name, uri in models.items():
        expected = load_models(uri).probabilities([picture])[0]
        rows = answer[answer["served_by"] == name].filter(like="probability_").to_numpy()
        np.testing.assert_allclose(rows, np.tile(expected, (len(rows), 1)), atol=1e-6)
    for params in ({"abstain": 0.9999}, {"tta": 3}):
        some = router.predict(pd.DataFrame({"image": [picture] * 12, "key": keys}), params=params)
        for name, uri in models.items():
            expected = load_models(uri).probabilities([picture], params.get("tta", 1))[0]
            rows = some[some["served_by"] == name]
            given = rows.filter(like="probability_").to_numpy()
            np.testing.assert_allclose(given, np.tile(expected, (len(rows), 1)), atol=1e-6)
            assert ("" in set(rows["predicted"])) == ("abstain" in params)
    longest = pd.DataFrame({"image": [picture], "key": ["k" * MAX_KEY]})
    assert list(router.predict(longest)["served_by"]) == [assign("k" * MAX_KEY, "second", 0.3)]
    for nobody in (None, np.nan, "", "\ud800", "k" * (MAX_KEY + 1)):
        table = pd.DataFrame({"image": [picture] * 2, "key": ["a", nobody]}, dtype=object)
        with pytest.raises(MlflowException, match="the key of picture 2") as refused:
            router.predict(table)
        assert str(refused.value).isascii()  # half a letter cannot be printed
    monkeypatch.setattr("tlkit.serving.answer.is_served", lambda: True)
    router.predict(pd.DataFrame({"image": [picture] * 12, "key": keys}))
    entries = open_log(f"sqlite:///{tmp_path / 'requests.db'}").read()
    assert {(each.served_by, each.model) for each in entries} == {
        (name, identity_of(uri)) for name, uri in models.items()
    }
    dealt = {each.key: each.served_by for each in entries}
    assert dealt == dict(zip(keys, answer["served_by"], strict=True))
    assert {each.share for each in entries} == {0.3}
    with sqlite3.connect(tmp_path / "requests.db") as log:
        log.execute("ALTER TABLE tlkit_requests RENAME COLUMN share TO portion")
    router.predict(pd.DataFrame({"image": [picture], "key": ["me@example.com"]}))
    assert "cannot be written: table tlkit_requests has no column named share" in caplog.text
    assert "me@example.com" not in caplog.text


def test_a_router_says_which_models_it_was_made_of_and_is_told_from_a_model(
    entry: Entry, experiment: str, trained: Trained, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    version = mlflow.register_model(trained.model(), "routed").version
    mlflow.MlflowClient().set_registered_model_alias("routed", "champion", version)
    champion = ("route", "--champion", "models:/routed@champion", "--challenger")
    with local_model(trained.model()) as folder:
        shutil.copytree(folder, tmp_path / "copy")
    for same in (trained.model(), "models:/routed/1", str(tmp_path / "copy")):
        assert entry(*champion, same) == 2
        assert f"challenger={same} are the same model; two wanted" in capsys.readouterr().err
    assert entry(*champion, trained.model("baseline")) == 0
    run = newest(experiment)
    head, baseline = (
        f"models:/{mlflow.get_run(trained.runs[phase].info.run_id).outputs.model_outputs[0].model_id}"
        for phase in ("head", "baseline")
    )
    assert run.data.tags["tlkit.model"] == f"{head}, {baseline}"
    assert run.data.params["champion"] == "models:/routed@champion"
    inputs = mlflow.get_run(run.info.run_id).inputs.model_inputs  # a search gives none
    ids = {one.model_id for one in inputs}
    assert ids == {head.removeprefix("models:/"), baseline.removeprefix("models:/")}
    note = run.data.tags["mlflow.note.content"]
    assert f"Champion `models:/routed@champion` ({head}), challenger" in note
    router = f"runs:/{run.info.run_id}/model"
    pictures = str(trained.pictures / "test")
    for name, rest in (
        ("predict", ("--images", pictures)),
        ("export", ("--images", pictures)),
        ("monitor", ("--log", "sqlite:///none.db")),
    ):
        assert entry(name, "--model", router, *rest) == 2
        said = capsys.readouterr().err
        assert f"{router} is a router of two models; give one of them: {head} or {baseline}" in said


def test_models_of_different_classes_make_no_router(
    entry: Entry, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with local_model(trained.model()) as folder:
        shutil.copytree(folder, tmp_path / "birds")
    told = tmp_path / "birds" / DESCRIPTION_FILE
    told.write_text(json.dumps(json.loads(told.read_text()) | {"classes": ["emu", "owl"]}))
    models = ("--champion", trained.model(), "--challenger", str(tmp_path / "birds"))
    assert entry("route", *models) == 2
    said = "birds tells emu, owl apart and the first one cat, dog; models of the same classes"
    assert said in capsys.readouterr().err


def test_a_request_that_a_router_refuses_is_not_logged_by_either_model(
    entry: Entry, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ("--champion", trained.model("head"), "--challenger", trained.model("baseline"))
    assert entry("route", *models, "--register", "strict") == 0
    router = mlflow.pyfunc.load_model("models:/strict/1")
    picture = (trained.pictures / "test" / "cat" / "0.png").read_bytes()
    monkeypatch.setattr("tlkit.serving.answer.is_served", lambda: True)
    keys = ["1", "2", "3", "4"]
    names = [assign(key, "tlkit", 0.5) for key in keys]
    assert len(set(names)) == 2
    for bad in range(4):
        pictures = [b"junk" if index == bad else picture for index in range(4)]
        table = pd.DataFrame({"image": pictures, "key": keys})
        with pytest.raises(MlflowException, match=f"^picture {bad + 1} of 4: not a picture"):
            router.predict(table)
    assert not (tmp_path / "requests.db").exists()
    router.predict(pd.DataFrame({"image": [picture] * 4, "key": keys}))
    log = open_log(f"sqlite:///{tmp_path / 'requests.db'}")
    assert sorted(each.key or "" for each in log.read()) == keys
    assert len({each.time for each in log.read()}) == 1  # of one request

    image, schema = base64.b64encode(picture).decode(), router.metadata.get_input_schema()
    for missing in (None, float("nan")):
        rows = [{"image": image, "key": key} for key in ("a", missing)]
        for body in (
            {"inputs": rows},
            {"instances": rows},
            {"dataframe_records": rows},
            {"inputs": {"image": [image] * 2, "key": ["a", missing]}},
            {"dataframe_split": {"columns": ["key", "image"],
                                 "data": [["a", image], [missing, image]]}},
        ):  # fmt: skip
            with pytest.raises(MlflowException, match="the key of picture 2 is "):
                invocations(json.dumps(body).encode(), "application/json", router, schema)
    assert len(log.read()) == 4


def logged(key: str, served_by: str, share: float = 0.5) -> Logged:
    return Logged(1.0, 0.01, 0, "cat", 0.9, [], 0.5, 0.1, served_by, key, share)


@pytest.mark.parametrize("kept", ["sqlite:///{}/requests.db", "parquet:///{}/requests"])
def test_an_ab_test_names_the_better_model_or_how_many_are_missing(
    entry: Entry, experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    url = kept.format(tmp_path)
    arguments = ("--log", url)
    assert entry("abtest", *arguments) == 2
    assert "cannot be read" in capsys.readouterr().err
    generator = np.random.default_rng(0)
    keys = [f"k{number}" for number in range(4000)]
    names = [assign(key, "tlkit", 0.5) for key in keys]
    log = open_log(url)
    log.write([logged(key, name) for key, name in zip(keys, names, strict=True)])
    log.write([logged(keys[0], names[0])])  # asks again, and counts once
    assert entry("abtest", *arguments) == 0
    assert "No outcomes of both models yet" in capsys.readouterr().out
    assert "abtest/low" not in newest(experiment).data.metrics
    rates = {"champion": 0.85, "challenger": 0.92}
    success = [int(generator.random() < rates[name]) for name in names]
    outcomes = tmp_path / "outcomes.csv"
    pd.DataFrame({"key": keys[:200], "success": success[:200]}).to_csv(outcomes, index=False)
    assert entry("abtest", *arguments, "--outcomes", str(outcomes)) == 0
    printed = capsys.readouterr().out
    assert "Not decided: go on" in printed
    assert " more." in printed
    pd.DataFrame({"key": keys, "success": success}).to_csv(outcomes, index=False)
    assert entry("abtest", *arguments, "--outcomes", str(outcomes)) == 0
    assert "the challenger is better" in capsys.readouterr().out
    run = newest(experiment)
    assert run.data.tags["tlkit.winner"] == "challenger"
    assert run.data.metrics["abtest/challenger_keys"] == names.count("challenger")
    outcomes.write_text("key,success\nk1,maybe\n")
    assert entry("abtest", *arguments, "--outcomes", str(outcomes)) == 2
    assert "'maybe'; 1 or 0 wanted" in capsys.readouterr().err


def test_an_ab_test_goes_by_the_share_of_the_log_and_the_rates_that_are_given(
    entry: Entry, experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, outcomes = f"sqlite:///{tmp_path / 'requests.db'}", tmp_path / "outcomes.csv"
    keys = [f"k{number}" for number in range(100)]
    dealt = [ARMS[number % 5 == 0] for number in range(100)]
    open_log(url).write([logged(key, name, 0.2) for key, name in zip(keys, dealt, strict=True)])
    success = [int(number % 4 > 0 if number % 5 else number % 50 > 0) for number in range(100)]
    pd.DataFrame({"key": keys, "success": success}).to_csv(outcomes, index=False)
    rates = ("--alpha", "0.1", "--power", "0.9", "--difference", "0.05")
    assert entry("abtest", "--log", url, "--outcomes", str(outcomes), *rates) == 0
    expected = sequential_difference(60, 80, 18, 20, alpha=0.1, share=0.2)
    found = newest(experiment).data.metrics
    assert (found["abtest/low"], found["abtest/high"]) == (expected.low, expected.high)
    total = needed_trials(0.75, 0.05, alpha=0.1, power=0.9, share=0.2)
    said = f"with probability 0.9 by {total:,} outcomes; {total - 100:,} more."
    assert said in capsys.readouterr().out
    assert entry("abtest", "--log", url, "--outcomes", str(outcomes), "--difference", "0.7") == 0
    assert " outcomes; 0 more." in capsys.readouterr().out


def test_outcomes_as_excel_writes_them_are_read_and_broken_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.csv"
    file.write_bytes(b"\xef\xbb\xbfkey,success\r\na,1\r\nb,0\r\n")
    assert read_outcomes(file) == {"a": True, "b": False}
    file.write_text('key,success\n"a,1\n' + "b,0\n" * 40_000)
    with pytest.raises(UserError, match=r"cannot be read \(Error: field larger .*; a CSV with"):
        read_outcomes(file)
    file.write_text("key,success\na, 1\nb,0\nb,1 \n")
    assert read_outcomes(file) == {"a": True, "b": True}  # the last line counts
    for content, said in (
        ("key,success\na,1\n".encode("utf-16"), "UnicodeDecodeError"),
        (b"key,won\na,1\n", "begins with the line 'key,won'; a CSV whose first line names"),
        (b"a,1\n", "begins with the line 'a,1'; a CSV whose"),
        (b"", "begins with the line ''; a CSV whose"),
        (b"key,success\na\n", "AttributeError"),
        (b"key,success\na,\n", "has success ''; 1 or 0 wanted"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_outcomes(file)


def test_outcomes_of_keys_that_the_log_does_not_have_are_told(
    entry: Entry, experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, outcomes = f"sqlite:///{tmp_path / 'requests.db'}", tmp_path / "outcomes.csv"
    open_log(url).write([logged(f"k{number}", ARMS[number % 2]) for number in range(4)])
    arguments = ("--log", url, "--outcomes", str(outcomes))
    outcomes.write_text("key,success\nk0,1\nk1,0\nother,1\n")
    assert entry("abtest", *arguments) == 0
    told = "Outcomes whose key is not in the log, left out: 1 of 3."
    assert told in capsys.readouterr().out
    assert told in newest(experiment).data.tags["mlflow.note.content"]
    facts = json.loads(artifact(experiment, "abtest.json").read_text())
    assert facts["outcomes"] == {"given": 3, "unmatched": 1}
    outcomes.write_text("key,success\nK0,1\nK1,0\n")
    assert entry("abtest", *arguments) == 2
    said = capsys.readouterr().err
    assert f"has no key that log={url} has (since=none): 'K0' in the one, 'k0' in the" in said
    outcomes.write_text("key,success\n")  # none is known yet
    assert entry("abtest", *arguments) == 0
    outcomes.write_text("key,success\nk0,1\n")  # one of the two models alone
    capsys.readouterr()
    assert entry("abtest", *arguments) == 0
    assert "No outcomes of both models yet" in capsys.readouterr().out
    assert "abtest/low" not in newest(experiment).data.metrics
    facts = json.loads(artifact(experiment, "abtest.json").read_text())
    assert facts["test"]["difference"] is None


def test_a_log_of_routers_with_two_shares_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'requests.db'}"
    log = open_log(url)
    log.write([logged("a", "champion", 0.2), logged("b", "challenger", 0.2)])
    assert assignments(url, "none") == ({"a": "champion", "b": "challenger"}, 0.2)
    log.write([replace(logged("c", "champion", 0.5), time=2000.0)])
    with pytest.raises(UserError, match=r"is of routers with shares \[0.2, 0.5\]"):
        assignments(url, "none")
    assert assignments(url, "1970-01-01T00:20:00+00:00") == ({"c": "champion"}, 0.5)


def test_a_log_without_a_routers_requests_says_from_when_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'requests.db'}"
    open_log(url).write([replace(logged("a", "champion"), key=None)])
    for since, late in (("none", ""), ("2026-01-01", " since 2026-01-01")):
        with pytest.raises(UserError, match=f"holds no router's requests{late}; serve one of"):
            assignments(url, since)


def test_two_tests_in_one_log_are_not_taken_for_one(
    entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'requests.db'}"
    keys = [f"k{number}" for number in range(40)]
    for began, salt in ((1.0, "first"), (2000.0, "second")):
        open_log(url).write(
            [replace(logged(key, assign(key, salt, 0.5)), time=began) for key in keys]
        )
    assert entry("abtest", "--log", url) == 2
    assert "both models served key" in capsys.readouterr().err
    assert entry("abtest", "--log", url, "--since", "1970-01-01T00:20:00+00:00") == 0


def test_a_difference_that_no_rate_leaves_room_for_has_no_number_of_outcomes(
    entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, outcomes = f"sqlite:///{tmp_path / 'requests.db'}", tmp_path / "outcomes.csv"
    keys = [f"k{number}" for number in range(8)]
    open_log(url).write([logged(key, ARMS[number % 2]) for number, key in enumerate(keys)])
    pd.DataFrame({"key": keys, "success": [0, 0, 1, 1] * 2}).to_csv(outcomes, index=False)
    arguments = ("--log", url, "--outcomes", str(outcomes), "--difference")
    assert entry("abtest", *arguments, "0.6") == 0
    assert "is more than a champion's rate of 0.5000 leaves room for" in capsys.readouterr().out
    assert entry("abtest", *arguments, "0.5") == 0
    assert " more." in capsys.readouterr().out
    assert entry("abtest", *arguments, "1e-6") == 0
    assert entry("abtest", *arguments, "1e-7") == 2
    assert "from 0.000001 up to, not including, 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://me:secret@127.0.0.1:1/logs",
        "postgresql+psycopg://me:secret@127.0.0.1:54x2/logs",
        "postgresql+psycopg://127.0.0.1:1/logs?user=me&password=secret",
    ],
)
def test_a_password_that_mlflow_stored_is_told(
    address: str, entry: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mlflow.start_run() as begun:  # as `mlflow run -P` does
        mlflow.log_params({"log": address, "alpha": "0.05"})
    monkeypatch.setenv("MLFLOW_RUN_ID", begun.info.run_id)
    assert entry("abtest", "--log", address) == 2
    told, error = capsys.readouterr().err.strip().splitlines()
    assert "MLflow has stored log with its password" in told
    assert "PGPASSWORD or ~/.pgpass" in told
    assert "cannot be read" in error
    assert "secret" not in told + error


def test_errors_about_a_log_say_its_address_without_the_password(
    entry: Entry, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = tmp_path / "outcomes.csv"
    outcomes.write_text("key,success\nk,1\n")
    # SQLite, told that a file's name is an address, heeds no word that it does not know.
    address = f"sqlite:///file:{tmp_path / 'requests.db'}?uri=true&password=secret"
    log = open_log(address)
    watch = ("monitor", "--model", trained.model(), "--log", address)
    judge = ("abtest", "--log", address, "--outcomes", str(outcomes))
    here, elsewhere = logged("k", "champion"), logged("k2", "challenger", 0.2)
    for command, written, expected in (
        (watch, replace(here, model="another"), "holds no requests that model="),
        ((*watch, "--served_by", "challenger"), replace(here, model="another"), "requests (since"),
        ((*watch, "--since", "2100-01-01"), here, "holds no requests (since"),
        (watch, here, "has embeddings of length"),
        (judge, elsewhere, "is of routers with shares"),
    ):
        log.write([written])
        assert entry(*command) == 2
        said = capsys.readouterr().err
        assert expected in said
        assert "password=***" in said
        assert "secret" not in said


def requests_of(
    trained: Trained,
    log: RequestLog,
    change: float,
    served_by: str | None,
    dark: float = 1.0,
    model: str | None = None,
) -> None:
    """Validation pictures as they would be logged, their features moved by `change`, their
    brightness times `dark`; by `model`, or as a version logged them that did not say by which."""
    known = trained.reference()
    embedding = known.embedding + change * known.embedding.std(axis=0)
    log.write(
        [
            Logged(1.0, 0.01, int(p), ("cat", "dog")[p], float(c),
                   [float(v) for v in row], dark * float(brightness), float(contrast), served_by,
                   model=model)
            for p, c, row, (brightness, contrast) in zip(
                known.predicted, known.confidence, embedding, known.light, strict=True
            )
        ]
        * 5
    )  # fmt: skip


def lights(trained: Trained, split: str) -> list[tuple[float, float]]:
    """Brightness and contrast of a split's pictures in the order of their paths, by Pillow."""
    preprocessing = load_models(trained.model()).members[0].description.preprocessing
    found = []
    for path in sorted((trained.pictures / split).rglob("*.png")):
        seen = Preprocessing(preprocessing).picture(Image.open(path).convert("RGB"))
        luma = np.asarray(seen) / 255 @ [0.299, 0.587, 0.114]
        found.append((luma.mean(), luma.std()))
    return found


def test_a_model_without_a_reference_cannot_be_watched(
    entry: Entry, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with local_model(trained.model()) as folder:
        shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "reference.safetensors").unlink()
    assert entry("monitor", "--model", str(tmp_path / "old"), "--log", "sqlite:///none.db") == 2
    [said] = capsys.readouterr().err.splitlines()
    assert "has no reference; watch the model that a run of baseline, head" in said


def test_the_reference_holds_the_light_of_the_validation_pictures(
    entry: Entry, experiment: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = lights(trained, "val")
    np.testing.assert_allclose(trained.reference().light, expected, rtol=0, atol=1e-12)
    assert np.ptp(expected, axis=0).min() > 1e-4
    both = f"{trained.model('head')},{trained.model('baseline')}"
    assert entry("ensemble", "--models", both) == 0
    with local_model(f"runs:/{newest(experiment).info.run_id}/model") as folder:
        np.testing.assert_array_equal(Reference.load(folder).light, trained.reference().light)
    monkeypatch.setattr(tlkit.runs.phase, "MOST_LIT", 5)
    assert entry("head", "--data", str(trained.pictures)) == 0
    with local_model(f"runs:/{newest(experiment).info.run_id}/model") as folder:
        some = Reference.load(folder)
    chosen = [0, 2, 5, 8, 11]
    np.testing.assert_array_equal(some.light, trained.reference().light[chosen])
    assert len(some.predicted) == len(expected) == 12


@pytest.mark.parametrize("phase", ["baseline", "head"])
def test_the_reference_holds_what_the_calibrated_model_says(
    phase: str, entry: Entry, experiment: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlkit.runs.phase, "fit_temperature", lambda *_: 0.25)
    assert entry(phase, "--data", str(trained.pictures), "--precision", "fp32") == 0
    address = f"runs:/{newest(experiment).info.run_id}/model"
    files = sorted((trained.pictures / "val").rglob("*.png"))
    table = pd.DataFrame({"image": [file.read_bytes() for file in files]})
    said = mlflow.pyfunc.load_model(address).predict(table)
    with local_model(address) as folder:
        kept = Reference.load(folder)
    confidence = said[["probability_cat", "probability_dog"]].max(axis=1)
    np.testing.assert_allclose(kept.confidence, confidence, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(kept.predicted, said.predicted == "dog")
    assert np.ptp(confidence) > 1e-3


def test_a_look_at_the_log_alarms_where_pictures_have_changed(
    entry: Entry, experiment: str, trained: Trained, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    url = f"sqlite:///{tmp_path / 'requests.db'}"
    requests_of(trained, open_log(url), 0.0, None)
    arguments = ("--model", trained.model(), "--log", url, "--window", "60")
    assert entry("monitor", *arguments) == 0
    printed = capsys.readouterr().out
    assert "No alarm" in printed
    assert "Of 60 of these requests it is not known which model answered" in printed
    assert newest(experiment).data.metrics["drift/alarm"] == 0
    requests_of(trained, open_log(url), 3.0, "challenger")
    assert entry("monitor", *arguments, "--served_by", "challenger") == 1
    printed = capsys.readouterr().out
    assert re.search(r"ALARM: embedding .* \(at most 1\.0% of looks alarm falsely\)", printed)
    facts = json.loads(artifact(experiment, "drift.json").read_text())
    for one in facts["findings"]:
        level = re.escape(format(one["adjusted_p_value"], ".2g"))
        row = rf"^{one['name']} +{one['psi']:.3f} .* {level} *(ALARM)?$"
        assert re.search(row, printed, re.MULTILINE)
    run = newest(experiment)
    assert run.data.metrics["drift/alarm"] == 1
    assert run.data.metrics["drift/requests"] == 60
    assert "drift/class_mix_psi" in run.data.metrics
    assert artifact(experiment, "drift.png").exists()
    assert facts["alarm"] is True
    levels: list[float] = []

    def looked(*samples: Any, alpha: float) -> list[Finding]:
        levels.append(alpha)
        return drift(*samples, alpha=alpha)

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.deployment.monitor.drift", looked)
        assert entry("monitor", *arguments, "--served_by", "challenger", "--alpha", "0.2") == 1
    assert levels == [0.2]
    capsys.readouterr()
    requests_of(trained, open_log(url), 0.0, None, dark=0.3)
    assert entry("monitor", *arguments) == 1
    printed = capsys.readouterr().out
    assert "ALARM: brightness differs" in printed
    assert re.findall(r"^(\w+) .* ALARM$", printed, re.MULTILINE) == ["brightness"]
    assert newest(experiment).data.metrics["drift/contrast_p"] == 1
    assert entry("monitor", *arguments, "--served_by", "champion") == 2
    for strange in (replace(logged("k", "champion"), predicted=2, class_name="emu"),
                    replace(logged("k", "champion"), class_name="dog")):  # fmt: skip
        other = f"sqlite:///{tmp_path / f'{strange.class_name}.db'}"
        open_log(other).write([strange])
        capsys.readouterr()
        assert entry("monitor", "--model", trained.model(), "--log", other) == 2
        assert f"has the class {strange.class_name} and the model cat, dog" in (
            capsys.readouterr().err
        )
    open_log(url).write([logged("k", "champion")])
    assert entry("monitor", *arguments) == 2
    assert "another model's requests" in capsys.readouterr().err


@pytest.mark.parametrize("kept", ["sqlite:///{}/requests.db", "parquet:///{}/requests"])
def test_requests_that_another_model_answered_are_left_out(
    entry: Entry, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    url = kept.format(tmp_path)
    arguments = ("--model", trained.model(), "--log", url, "--window", "60")
    requests_of(trained, open_log(url), 3.0, None, model="another")
    assert entry("monitor", *arguments) == 2
    [said] = capsys.readouterr().err.splitlines()
    assert f"no requests that model={trained.model()} answered, and 60 of another model" in said
    requests_of(trained, open_log(url), 0.0, None, model=identity_of(trained.model()))
    requests_of(trained, open_log(url), 3.0, None, model="another")
    assert entry("monitor", *arguments) == 0
    printed = capsys.readouterr().out
    assert "the newest 60 requests (" in printed
    assert "Requests that another model answered, left out: 120." in printed
    assert "not known which model" not in printed


def test_a_look_says_how_old_its_requests_are_and_where_they_are_too_few(
    entry: Entry, experiment: str, trained: Trained, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    url = f"sqlite:///{tmp_path / 'requests.db'}"
    written: list[Logged] = []
    with monkeypatch.context() as patch:
        patch.setattr(SqlLog, "write", lambda _, entries: written.extend(entries))
        requests_of(trained, open_log(url), 0.0, None)
    for number, one in enumerate(written):
        open_log(url).write([replace(one, time=1.7e9 + 3600 * number)])
    begin, end = 1.7e9 + 3600 * (len(written) - 50), 1.7e9 + 3600 * (len(written) - 1)
    assert entry("monitor", "--model", trained.model(), "--log", url, "--window", "50") == 0
    printed = capsys.readouterr().out
    assert "No alarm: these requests are not told apart" in printed
    facts = json.loads(artifact(experiment, "drift.json").read_text())
    for key, time in (("first_request", begin), ("last_request", end)):
        assert datetime.fromisoformat(facts[key]).timestamp() == time
        assert facts[key] in printed
        assert facts[key] in newest(experiment).data.tags["mlflow.note.content"]
    for window, said in (
        ("49", "No alarm, but 49 requests are too few to tell: look again with 50 or more."),
        ("1", "No alarm, but 1 request is too few to tell"),
    ):
        assert entry("monitor", "--model", trained.model(), "--log", url, "--window", window) == 0
        printed = capsys.readouterr().out
        assert said in printed
        assert "not told apart" not in printed
    assert f"the newest request ({facts['last_request']}) against 12 validation" in printed


def test_what_is_wrong_with_a_log_is_no_alarm(
    entry: Entry, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    url = f"sqlite:///{tmp_path / 'requests.db'}"
    arguments = ("--model", trained.model(), "--log", url, "--window", "60")
    requests_of(trained, open_log(url), 0.0, None)
    with monkeypatch.context() as patched:
        patched.setattr("tlkit.deployment.monitor.drift", lambda *_, **__: 1 / 0)
        assert entry("monitor", *arguments) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err
    for damage in ("embedding = 'x'", "embedding = 'null'", "confidence = 'x'", "contrast = 9e999"):
        with sqlite3.connect(tmp_path / "requests.db") as rows:
            rows.execute(f"UPDATE tlkit_requests SET {damage}")
        assert entry("monitor", *arguments) == 2
        assert "requests.db cannot be read (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", safetensors.numpy.save({"x": np.zeros(2)})),
        ("model.json", b"[" * 100_000),
        ("MLmodel", b""),
        ("MLmodel", b"{{{"),
        ("MLmodel", b"flavors: {python_function: [1]}"),
    ],
)
def test_a_damaged_model_is_told_on_one_line(
    trained: Trained, tmp_path: Path, file: str, content: bytes
) -> None:
    with local_model(trained.model()) as folder:
        shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(content)
    with pytest.raises(UserError, match="is no model of tlkit, or is damaged"):
        load_models(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("ensemble", ("--models", "runs:/1/model"), "is one model"),
        ("ensemble", ("--models", "runs:/1/model,runs:/2/model"), "no run 1"),
        ("route", ("--champion", "a", "--challenger", "b"), "model a: no such folder"),
        ("route", ("--champion", "a", "--challenger", "b", "--share", "1"), "share=1"),
        ("abtest", ("--log", "nonsense"), "log=nonsense is not allowed"),
        ("abtest", ("--log", "mysql://me:secret@h/db"), "log=mysql://me:***@h/db is not allowed"),
        ("monitor", ("--model", "m", "--log", "duckdb:///x.db"), "sqlite:///FILE, postgresql+psyc"),
        ("abtest", ("--log", "sqlite://", "--since", "noon"), "since=noon is no time"),
        ("monitor", ("--model", "a", "--log", "sqlite://"), "model a: no such folder"),
        ("monitor", ("--log", "sqlite://"), "model is not given"),
        ("abtest", ("--log", "sqlite:///none.db"), "no such file: none.db"),
        ("promote", ("--name", "a/b", "--candidate", "runs:/1/model"), "name=a/b is not allowed"),
        ("ensemble", ("--models", "m", "--register", "a:b"), "register=a:b is not allowed"),
        ("tune", ("--register", "a/b"), "register=a/b is not allowed"),
        ("export", ("--model", "a", "--images", "none"), "images=none: no such file"),
    ],
)
def test_mistakes_are_told_in_one_line(
    entry: Entry, capsys: pytest.CaptureFixture[str], name: str, arguments: tuple[str, ...],
    said: str,
) -> None:  # fmt: skip
    assert entry(name, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
