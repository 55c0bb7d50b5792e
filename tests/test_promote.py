"""Promotion in the registry: what a worse, an equal and a better candidate become; rollback."""

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import Entry
from filelock import Timeout
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from tlkit.data.manifest import Manifest, Picture
from tlkit.deployment import promote as promotion
from tlkit.deployment import tested
from tlkit.deployment.promote import decide, run_promote
from tlkit.deployment.settings import PromoteSettings
from tlkit.errors import UserError
from tlkit.evaluation.comparison import compare_paired

MakeRun = Callable[..., str]
RNG = np.random.default_rng(0)
PICTURES = 200


def right(rate: float) -> np.ndarray:
    """The first pictures are right, so that two rates differ in the pictures between them."""
    return np.arange(PICTURES) < round(rate * PICTURES)


@pytest.fixture
def make_run(experiment: str, tmp_path: Path) -> MakeRun:
    """A run that was right on given test pictures, with what promotion reads of it."""

    def make(correct: Sequence[bool], first: int = 0, classes: tuple[str, str] = ("a", "b")) -> str:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        (folder / "data").mkdir(parents=True)
        (folder / "model").mkdir()
        (folder / "model" / "MLmodel").write_text("flavors: {}\n")
        names = [f"{index + first:04d}" for index in range(len(correct))]
        pictures = [
            Picture(f"test/{name}.png", int(name) % 2, "test", name.ljust(64, "0"))
            for name in names
        ]
        Manifest(folder, classes, tuple(pictures)).write(folder / "data" / "manifest.csv")
        lines = ["path,label,predicted"]
        for picture, hit in zip(pictures, correct, strict=True):
            true = picture.label
            lines.append(f"{picture.path},{classes[true]},{classes[true if hit else 1 - true]}")
        (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(folder))
        return str(run.info.run_id)

    return make


def promote(entry: Entry, run_id: str, name: str) -> None:
    assert entry("promote", "--candidate", f"runs:/{run_id}/model", "--name", name) == 0


def champion(name: str, alias: str = "champion") -> str | None:
    aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    version = aliases.get(alias)
    return (
        None if version is None else mlflow.MlflowClient().get_model_version(name, version).run_id
    )


def test_a_worse_an_equal_and_a_better_candidate(
    entry: Entry, experiment: str, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    good, worse, equal, better = (make_run(right(r)) for r in (0.9, 0.7, 0.9, 0.97))
    promote(entry, good, "pets")
    assert champion("pets") == good
    assert "had no champion" in capsys.readouterr().out

    promote(entry, worse, "pets")
    said, found = capsys.readouterr().out, compare_paired(right(0.7), right(0.9), confidence=0.9)
    assert "refused" in said
    assert f"(one-sided p = {found.p_value / 2:.2g}" in said
    candidate, reference = found.only_candidate, found.only_reference
    assert f"the candidate on {candidate} of the pictures, the champion on {reference}:" in said
    assert candidate != reference
    assert (champion("pets"), champion("pets", "challenger")) == (good, None)

    promote(entry, equal, "pets")
    assert "challenger" in capsys.readouterr().out
    assert (champion("pets"), champion("pets", "challenger")) == (good, equal)

    promote(entry, better, "pets")
    assert champion("pets") == better
    [run] = mlflow.search_runs([experiment], max_results=1, output_format="list")
    assert run.data.metrics["promote/difference"] == pytest.approx(0.07)
    assert run.data.tags["tlkit.verdict"] == "champion"
    found = compare_paired(right(0.97), right(0.9), confidence=0.9)  # one-sided, its ends at 95 %
    assert run.data.metrics["promote/low"] == pytest.approx(found.low)
    assert "(90 % interval " in run.data.tags["mlflow.note.content"]
    assert f"one-sided p = {found.p_value / 2:.2g}" in run.data.tags["mlflow.note.content"]
    file = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="comparison.json"
    )
    facts = json.loads(Path(file).read_text())
    assert (facts["champion"], facts["candidate"]) == ("1", "4")
    assert facts["difference"] == run.data.metrics["promote/difference"]
    version = mlflow.MlflowClient().get_model_version_by_alias("pets", "champion")
    assert "better" in version.tags["tlkit.reason"]

    promote(entry, better, "pets")
    assert "is the champion already" in capsys.readouterr().out

    assert entry("promote", "--name", "pets", "--rollback", "true") == 0
    assert champion("pets") == good
    assert entry("promote", "--name", "pets", "--rollback", "true") == 2
    assert "had no champion before" in capsys.readouterr().err
    assert champion("pets") == good


def test_a_challenger_that_wins_is_challenger_no_more(entry: Entry, make_run: MakeRun) -> None:
    first, second = make_run(right(0.9)), make_run(right(0.905))
    for run_id in (first, second):
        promote(entry, run_id, "names")
    assert champion("names", "challenger") == second
    mlflow.MlflowClient().set_registered_model_alias("names", "champion", "2")
    third = make_run(right(0.98))
    promote(entry, third, "names")
    assert champion("names") == third


def test_a_challenger_that_is_refused_is_challenger_no_more(
    entry: Entry, make_run: MakeRun
) -> None:
    rates = (0.9, 0.905, 0.5, 0.99)
    first, second, worse, third = (make_run(right(rate)) for rate in rates)
    for run_id in (first, second, worse):
        promote(entry, run_id, "again")
    assert champion("again", "challenger") == second  # another one was refused
    for run_id in (third, second):
        promote(entry, run_id, "again")
    assert champion("again") == third
    assert champion("again", "challenger") is None
    version = mlflow.MlflowClient().get_model_version("again", "2")
    assert version.tags["tlkit.verdict"] == "refused"


@pytest.mark.parametrize(("rate", "failing"), [(0.5, 0), *((1.0, n) for n in range(4))])
def test_a_registry_that_fails_once_changes_nothing(
    rate: float, failing: int, entry: Entry, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    name = f"steady-{rate}-{failing}"
    good, other = make_run(right(0.8)), make_run(right(rate))
    promote(entry, good, name)
    ask, calls = mlflow.MlflowClient.get_registered_model, itertools.count()

    def once(client: mlflow.MlflowClient, name: str) -> RegisteredModel:
        if next(calls) == failing:
            raise MlflowException("come back later", error_code=TEMPORARILY_UNAVAILABLE)
        return ask(client, name)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "get_registered_model", once)
        assert entry("promote", "--candidate", f"runs:/{other}/model", "--name", name) == 2
    assert "error: MLflow fails at sqlite" in capsys.readouterr().err.splitlines()[-1]
    assert champion(name) == good
    tags = mlflow.MlflowClient().get_registered_model(name).tags
    assert json.loads(tags["tlkit.champions"]) == ["1"]


def test_a_candidate_may_be_a_logged_model(
    entry: Entry, experiment: str, make_run: MakeRun
) -> None:
    run_id = make_run(right(0.9))
    logged = mlflow.create_external_model("model", source_run_id=run_id)
    named = ("--candidate", f"models:/{logged.model_id}", "--name", "logged")
    assert entry("promote", *named) == 0
    assert champion("logged") == run_id
    [run] = mlflow.search_runs([experiment], max_results=1, output_format="list")
    assert run.data.tags["tlkit.model"] == f"models:/{logged.model_id}"
    inputs = mlflow.get_run(run.info.run_id).inputs.model_inputs  # a search gives none
    assert [one.model_id for one in inputs] == [logged.model_id]


@pytest.mark.parametrize("version", ["@champion", "/1"])
def test_a_candidate_may_be_a_version_under_another_name(
    entry: Entry, make_run: MakeRun, version: str
) -> None:
    run_id = make_run(right(0.9))
    name = f"staged{version[1:]}"
    promote(entry, run_id, name)
    given = ("--candidate", f"models:/{name}{version}", "--name", f"{name}-live")
    assert entry("promote", *given) == 0
    assert champion(f"{name}-live") == run_id


def test_a_version_that_was_deleted_is_no_way_back(
    entry: Entry, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate in (0.7, 0.8, 0.99):
        promote(entry, make_run(right(rate)), "gone")
    client = mlflow.MlflowClient()
    client.delete_model_version("gone", "2")
    back = ("promote", "--name", "gone", "--rollback", "true")
    assert entry(*back) == 0
    assert "version 1 is champion again, in place of 3" in capsys.readouterr().out
    client.set_registered_model_alias("gone", "champion", "3")
    client.delete_model_version("gone", "1")
    assert entry(*back) == 2
    assert "had no champion before this one that is still there" in capsys.readouterr().err
    assert str(client.get_model_version_by_alias("gone", "champion").version) == "3"


def test_a_champion_that_was_set_by_hand_is_the_one_before(
    entry: Entry, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate in (0.7, 0.8, 0.75):
        promote(entry, make_run(right(rate)), "by-hand")
    client = mlflow.MlflowClient()

    def version() -> str:
        return str(client.get_model_version_by_alias("by-hand", "champion").version)

    assert version() == "2"
    client.set_registered_model_alias("by-hand", "champion", "3")
    promote(entry, make_run(right(0.99)), "by-hand")
    back = ("promote", "--name", "by-hand", "--rollback", "true")
    assert entry(*back) == 0
    assert "version 3 is champion again, in place of 4" in capsys.readouterr().out
    assert version() == "3"
    client.set_registered_model_alias("by-hand", "champion", "4")
    assert entry(*back) == 0
    assert "version 3 is champion again, in place of 4" in capsys.readouterr().out
    assert client.get_model_version("by-hand", "4").tags["tlkit.verdict"] == "rolled back"
    assert client.get_model_version("by-hand", "3").tags["tlkit.verdict"] == "champion"
    client.delete_registered_model_alias("by-hand", "champion")
    assert entry(*back) == 2
    assert "has none now" in capsys.readouterr().err


def test_the_version_that_is_rolled_back_to_is_champion_alone_and_says_why(
    entry: Entry, make_run: MakeRun
) -> None:
    for rate in (0.8, 0.81, 0.99):
        promote(entry, make_run(right(rate)), "back")
    client = mlflow.MlflowClient()
    client.set_registered_model_tag("back", "tlkit.champions", '["1", "2", "3"]')
    assert client.get_registered_model("back").aliases == {"champion": 3, "challenger": 2}
    assert entry("promote", "--name", "back", "--rollback", "true") == 0
    assert client.get_registered_model("back").aliases == {"champion": 2}
    said = {number: client.get_model_version("back", number).tags for number in "23"}
    assert said["2"]["tlkit.verdict"] == "champion"
    assert said["2"]["tlkit.reason"] == "rolled back to, in place of version 3"
    assert said["3"]["tlkit.verdict"] == "rolled back"
    assert said["3"]["tlkit.reason"] == "version 2 is champion again in its place"


def test_only_pictures_that_both_were_tested_on_count(
    entry: Entry, experiment: str, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(entry, make_run(right(0.5)), "halves")
    promote(entry, make_run([True] * 150, first=100), "halves")
    [run] = mlflow.search_runs([experiment], max_results=1, output_format="list")
    assert run.data.metrics["promote/pictures"] == 100
    assert run.data.metrics["promote/left_out"] == 150
    assert run.data.tags["tlkit.verdict"] == "champion"
    elsewhere = make_run([True] * 10, first=5000)
    assert entry("promote", "--candidate", f"runs:/{elsewhere}/model", "--name", "halves") == 2
    assert "share no test picture" in capsys.readouterr().err
    other = make_run([True] * 150, first=100, classes=("x", "y"))
    assert entry("promote", "--candidate", f"runs:/{other}/model", "--name", "halves") == 2
    assert "different classes" in capsys.readouterr().err
    versions = mlflow.MlflowClient().search_model_versions("name = 'halves'")
    assert {version.run_id for version in versions}.isdisjoint({elsewhere, other})


def test_who_judges_holds_the_lock_of_the_name(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(settings: PromoteSettings, _: object) -> str:
        with pytest.raises(Timeout):
            promotion._one_at_a_time(settings.name).acquire(blocking=False)
        with promotion._one_at_a_time("another").acquire(blocking=False):
            return "judged"

    monkeypatch.setattr(promotion, "_judge", judge)
    assert run_promote(PromoteSettings(name="alone", candidate="runs:/1/model")) == "judged"


def test_two_at_once_leave_one_champion_and_the_better_one(
    experiment: str, make_run: MakeRun
) -> None:
    promote_of = {}
    ids = [make_run(right(rate)) for rate in (0.6, 0.8, 0.99)]
    run_promote(PromoteSettings(name="race", candidate=f"runs:/{ids[0]}/model"))

    def go(run_id: str) -> None:
        promote_of[run_id] = run_promote(
            PromoteSettings(name="race", candidate=f"runs:/{run_id}/model")
        )

    threads = [threading.Thread(target=go, args=(run_id,)) for run_id in (ids[2], ids[1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(promote_of) == 2
    assert champion("race") == ids[2]
    history = json.loads(mlflow.MlflowClient().get_registered_model("race").tags["tlkit.champions"])
    assert len(history) == len(set(history))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--name", "n"), "candidate is not given"),
        (("--candidate", "runs:/1/model"), "name is not given"),
        (("--name", "n", "--candidate", "runs:/1/model", "--rollback", "true"), "give one of them"),
        (("--name", "n", "--candidate", "a/folder"), "names no run's model"),
        (("--name", "n", "--candidate", "runs:/12/other"), "runs:/12/other names no run's model"),
        (("--name", "n", "--candidate", "runs:/12"), "no run 12"),
        (("--name", "n", "--candidate", "runs:/12/model"), "no run 12"),
        (("--name", "n", "--candidate", "models:/none/1"), "is not at"),
        (("--name", "n", "--rollback", "true"), "had no champion before"),
    ],
)
def test_mistakes_are_told_in_one_line(
    entry: Entry, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert entry("promote", *arguments) == 2
    assert said in capsys.readouterr().err


def test_two_runs_are_compared_picture_by_picture() -> None:
    said = {"3": ("a", "a"), "1": ("b", "b"), "2": ("a", "b"), "8": ("a", "a")}
    one = tested.Tested("one", said)
    other = tested.Tested(
        "other", {"1": ("b", "b"), "2": ("a", "a"), "3": ("a", "b"), "9": ("a", "a")}
    )
    both = tested.shared(one, other)
    assert (both.names, both.left_out) == (("1", "2", "3"), 2)
    assert both.candidate.tolist() == [True, False, True]
    assert both.reference.tolist() == [True, True, False]
    other.said["3"] = ("b", "b")  # one picture in another class is enough
    with pytest.raises(UserError, match="give a picture to different classes"):
        tested.shared(one, other)


@pytest.mark.parametrize(
    ("difference", "p_better", "what"),
    [
        (0.1, 0.05, "champion"),
        (0.1, 0.051, "challenger"),
        (0.0, 0.01, "challenger"),
        (0.0, 0.99, "challenger"),
        (-0.1, 0.949, "challenger"),
        (-0.1, 0.95, "refused"),
    ],
)
def test_a_candidate_is_what_the_one_sided_test_says(
    difference: float, p_better: float, what: str
) -> None:
    p_value = 2 * min(p_better, 1 - p_better)
    found = replace(
        compare_paired(right(0.9), right(0.9)),
        difference=difference, p_better=p_better, p_value=p_value,
    )  # fmt: skip
    assert decide(found, 0.95).what == what


def test_equal_models_are_rarely_told_apart() -> None:
    promoted = 0
    for _ in range(300):
        one, other = RNG.random((2, PICTURES)) < 0.9
        found = compare_paired(one, other)
        promoted += decide(found, 0.95).what == "champion"
    assert promoted <= 300 * 0.05 + 2 * np.sqrt(300 * 0.05 * 0.95)
