"""A model behind MLflow's server, asked kindly and not; and MLflow's other ways to load it."""

import asyncio
import base64
import contextlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import torch
from conftest import Trained, web_server
from mlflow.pyfunc import scoring_server
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import parse as parse_version
from PIL import Image
from starlette.requests import Request
from test_documented_commands import of_document

from tlkit.serving import guard
from tlkit.serving.answer import MAX_REQUEST_BYTES, Question, Served, question
from tlkit.serving.classifier import BATCH
from tlkit.serving.ensemble import Ensemble
from tlkit.serving.guard import MAX_BODY_BYTES, MAX_MARKS
from tlkit.serving.log_entry import Entry
from tlkit.serving.reference import identity
from tlkit.serving.request_log import PICTURES_VARIABLE, open_log
from tlkit.tracking.lookup import local_model
from tlkit.training.precision import resolve_precision

pytestmark = pytest.mark.slow
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Server:
    """`mlflow models serve` on a tiny model, with its requests logged."""

    url: str
    log: str

    def ask(self, body: Any, headers: dict[str, str] = JSON) -> requests.Response:
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        return requests.post(f"{self.url}/invocations", data=data, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    log = f"sqlite:///{folder / 'requests.db'}"
    with web_server(
        folder,
        *("models", "serve", "-m", trained.model(), "--env-manager", "local"),
        ping="/ping",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        MLFLOW_TRACKING_URI=mlflow.get_tracking_uri(),
        MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
        TLKIT_REQUEST_LOG=log,
    ) as url:
        yield Server(url, log)


def written(picture: bytes) -> dict[str, str]:
    """Base64 as tools and browsers write it, by name."""
    text = base64.b64encode(picture).decode()
    assert "+" in text or "/" in text
    return {
        "in lines": base64.encodebytes(picture).decode(),
        "with spaces around it": f" \r\n{text} ",
        "without padding": text.rstrip("="),
        "with the letters for addresses": base64.urlsafe_b64encode(picture).decode(),
        "as a data URL": f"data:image/png;base64,{text}",
    }


def record(*pictures: bytes) -> dict[str, Any]:
    return {"dataframe_records": [{"image": base64.b64encode(p).decode()} for p in pictures]}


def said_of_test(trained: Trained) -> tuple[list[bytes], np.ndarray]:
    said = trained.evaluated()
    pictures = [(trained.pictures / name).read_bytes() for name in said.index]
    return pictures, said.filter(like="probability_").to_numpy()


def rows(answer: Any) -> np.ndarray:
    return pd.DataFrame(answer).filter(like="probability_").to_numpy()


def test_one_picture_or_many_have_the_probabilities_of_the_evaluation(
    server: Server, trained: Trained
) -> None:
    pictures, expected = said_of_test(trained)
    many = server.ask(record(*pictures)).json()["predictions"]
    np.testing.assert_allclose(rows(many), expected, atol=1e-5)
    assert {row["predicted"] for row in many} <= {"cat", "dog"}
    text = base64.b64encode(pictures[0]).decode()
    for body in (
        record(pictures[0]),
        {"inputs": [{"image": text}]},
        {"inputs": {"image": [text]}},
        {"instances": [{"image": text}]},
        {"dataframe_split": {"columns": ["image"], "data": [[text]]}},
    ):
        answer = server.ask(body)
        assert answer.ok, answer.text
        np.testing.assert_allclose(rows(answer.json()["predictions"]), expected[:1], atol=1e-5)
    table = server.ask(f"image\n{text}\n", {"content-type": "text/csv"})
    np.testing.assert_allclose(rows(table.json()["predictions"]), expected[:1], atol=1e-5)


def test_base64_is_taken_as_it_is_usually_written(server: Server, trained: Trained) -> None:
    [*_, picture], expected = said_of_test(trained)
    for name, text in written(picture).items():
        for body in ({"inputs": [{"image": text}]}, {"instances": [{"image": text}]}):
            answer = server.ask(body)
            assert answer.ok, (name, answer.text)
            np.testing.assert_allclose(rows(answer.json()["predictions"]), expected[-1:], atol=1e-5)
    for text in ("not base64!", "/9j/4", "data:image/png,AAAA"):
        said = server.ask({"inputs": [{"image": text}]}).json()["message"]
        assert said.startswith("picture 1 is a text that is no base64; the bytes of")


def test_a_plain_ppm_which_is_text_is_a_picture(trained: Trained) -> None:
    model = mlflow.pyfunc.load_model(trained.model())
    plain = b"P3\n2 2 255\n" + b"200 0 0 " * 4
    answer = model.predict(pd.DataFrame({"image": [plain]}))
    assert answer.loc[0, "predicted"] in ("cat", "dog")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_curl_sends_a_picture_too_large_for_an_argument(
    server: Server, tmp_path: Path
) -> None:
    [text] = [block.text for block in of_document("docs/USING.md") if "curl -H" in block.text]
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.jpg", quality=95)
    picture = (tmp_path / "picture.jpg").read_bytes()
    assert len(picture) > 128 * 1024
    typed = text[text.index("{ printf") :].replace("http://127.0.0.1:5001", server.url)
    answer = subprocess.run(
        ["sh", "-c", typed], cwd=tmp_path, capture_output=True, check=True, timeout=60
    )
    assert json.loads(answer.stdout) == server.ask(record(picture)).json()


def test_views_and_abstaining_are_parameters_of_a_request(server: Server, trained: Trained) -> None:
    [picture, *_], expected = said_of_test(trained)
    views = server.ask(record(picture) | {"params": {"tta": 8}}).json()["predictions"]
    assert not np.allclose(rows(views), expected[:1], atol=1e-7)
    [none] = server.ask(record(picture) | {"params": {"abstain": 0.999999}}).json()["predictions"]
    assert none["predicted"] == ""
    null = server.ask(record(picture) | {"params": {"tta": None, "abstain": None}})
    np.testing.assert_allclose(rows(null.json()["predictions"]), expected[:1], atol=1e-5)


def test_requests_are_logged_without_their_pictures(server: Server, trained: Trained) -> None:
    pictures, expected = said_of_test(trained)
    began = time.time()
    server.ask(record(*pictures))
    entries = open_log(server.log).read(since=began)
    assert [entry.predicted for entry in entries] == list(expected.argmax(axis=1))
    np.testing.assert_allclose([e.confidence for e in entries], expected.max(axis=1), atol=1e-5)
    known = trained.reference()
    assert {len(entry.embedding) for entry in entries} == {known.embedding.shape[1]}
    assert all(entry.seconds > 0 and entry.picture is None for entry in entries)
    with local_model(trained.model()) as folder:
        assert {entry.model for entry in entries} == {identity(folder)}


def test_a_validation_picture_is_logged_as_the_reference_has_it(
    server: Server, trained: Trained
) -> None:
    run_id = trained.runs["head"].info.run_id
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="data/manifest.csv")
    listed = pd.read_csv(path)
    names = list(listed[listed["split"] == "val"]["path"])
    began = time.time()
    server.ask(record(*((trained.pictures / name).read_bytes() for name in names)))
    entries = open_log(server.log).read(since=began)
    known = trained.reference()
    # The reference has the precision of training, a served model float32.
    near = 1 if resolve_precision("auto", torch.device("cpu")) == torch.float32 else 5
    embeddings = [list(e.embedding) for e in entries]
    np.testing.assert_allclose(embeddings, known.embedding, atol=near * 1e-3)
    np.testing.assert_allclose([e.confidence for e in entries], known.confidence, atol=near * 1e-4)
    assert [[e.brightness, e.contrast] for e in entries] == known.light.tolist()


def test_the_light_of_a_picture_with_many_views_is_that_of_the_plain_one(
    server: Server, trained: Trained
) -> None:
    pictures, _ = said_of_test(trained)
    for views in (1, 3):
        began = time.time()
        assert server.ask(record(*pictures[:2]) | {"params": {"tta": views}}).ok
        logged = open_log(server.log).read(since=began)
        seen = [(entry.brightness, entry.contrast) for entry in logged]
        if views == 1:
            expected = seen
    assert seen == expected
    assert len(set(seen)) == 2


def test_a_long_request_keeps_no_other_waiting_while_both_are_logged(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.serving.answer.is_served", lambda: True)
    log = open_log(f"sqlite:///{tmp_path / 'requests.db'}")
    with local_model(trained.model("head")) as folder:
        served = Served.load(folder, log)
    first, last = said_of_test(trained)[0][:2]
    prepare, quick_is_done = Ensemble.prepare, threading.Event()
    in_second_batch, in_time = threading.Event(), []

    def slow(self: Ensemble, picture: bytes, views: int = 1) -> Any:
        if picture == last:
            in_second_batch.set()
            in_time.append(quick_is_done.wait(60))
        return prepare(self, picture, views)

    monkeypatch.setattr(Ensemble, "prepare", slow)
    long = [first] * BATCH + [last]
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(served.answer, Question(long, 1, 0.0))
        assert in_second_batch.wait(60)
        other = pool.submit(served.answer, Question([first], 1, 0.0))
        other.add_done_callback(lambda _: quick_is_done.set())
    assert in_time == [True]
    assert (len(one.result()), len(other.result())) == (len(long), 1)
    alone, *together = [[*e.embedding, e.brightness, e.contrast] for e in log.read()]
    assert np.allclose(together[:-1], alone, atol=1e-3)
    assert not np.allclose(together[-1], alone, atol=1e-3)


def bomb(side: int = 50_000) -> bytes:
    """A PNG of a few bytes that says it is 2.5 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def bilevel(side: int) -> bytes:
    """A PNG of one bit a pixel, all the same."""
    content = io.BytesIO()
    Image.new("1", (side, side)).save(content, "PNG")
    return content.getvalue()


def test_pictures_that_decode_to_too_much_together_are_refused_undecoded(
    server: Server, trained: Trained
) -> None:
    [picture, *_], _ = said_of_test(trained)
    began = time.monotonic()
    answer = server.ask(record(*[bilevel(9_990)] * 120))
    assert answer.status_code == 400
    assert time.monotonic() - began < 5
    assert server.ask(record(bilevel(9_990), picture)).ok


def test_no_more_of_a_body_is_read_than_is_taken(server: Server) -> None:
    chunks = (b" " * 2**20 for _ in range(100))
    answer = requests.post(f"{server.url}/invocations", data=chunks, headers=JSON, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("the body is larger; at most 48 MiB are taken")
    assert next(chunks, None) is None  # all was sent: the rest was thrown away

    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 2**20
        return {"type": "http.request", "body": b" " * 2**20, "more_body": True}

    async def endpoint(request: Request) -> bytes:
        return await request.body()

    with pytest.raises(mlflow.MlflowException, match="at most 48 MiB are taken"):
        asyncio.run(guard._bounded(endpoint)(Request({"type": "http"}, receive)))
    assert read == MAX_BODY_BYTES + 2**20


def test_what_costs_the_server_much_never_reaches_its_parser() -> None:
    def parsed(*_: object) -> str:
        return "parsed"

    invocations = guard._guarded(parsed)
    assert invocations(b"," * MAX_MARKS, "text/csv") == "parsed"
    for body, kind, said in (
        (b"," * (MAX_MARKS + 1), "text/csv", "over 16,384 commas"),
        (b"[" * (MAX_MARKS + 1), "application/json", "over 16,384 commas"),
        (b"{" * (MAX_MARKS + 1), "application/json", "over 16,384 commas"),
        (b"PAR1", "application/vnd.apache.PARQUET", "Parquet is not taken"),
        (b"{}", None, "no content type"),
    ):
        with pytest.raises(mlflow.MlflowException, match=said):
            invocations(body, kind)


def asked(*cells: Any, **params: Any) -> Question:
    return question(pd.DataFrame({"image": cells}, dtype=object), params)


def test_the_bytes_of_a_file_are_taken_as_they_are_whatever_they_begin_with() -> None:
    for form in ("GIF", "BMP", "WEBP", "PPM", "PNG", "JPEG"):
        content = io.BytesIO()
        Image.new("RGB", (4, 4)).save(content, form)
        data = content.getvalue()
        assert asked(data, bytearray(data)).pictures == [data, data]
        assert asked(base64.b64encode(data)).pictures == [data]
    plain = b"P3\n2 2 255\n" + b"200 0 0 " * 4  # is text as well
    assert asked(plain).pictures == [plain]
    for text in ("not base64!", "/9j/4", "data:image/png,AAAA", None, 3):
        with pytest.raises(mlflow.MlflowException, match="picture 2 is "):
            asked(plain, text)


def test_limits_of_a_request_are_exact_and_a_server_alone_counts_its_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert asked(b"\xff", tta=64, abstain=0.0) == Question([b"\xff"], 64, 0.0)
    for params in ({"tta": 0}, {"tta": 65}, {"abstain": -0.1}, {"abstain": 1.0}):
        with pytest.raises(mlflow.MlflowException, match=r"(tta|abstain)=.* allowed"):
            asked(b"\xff", **params)
    assert len(asked(*[b"\xff"] * 1025).pictures) == 1025
    monkeypatch.setattr("tlkit.serving.answer.is_served", lambda: True)
    assert len(asked(*[b"\xff"] * 1024).pictures) == 1024
    with pytest.raises(mlflow.MlflowException, match="at most 1024 views"):
        asked(*[b"\xff"] * 1025)
    assert asked(b"\xff" * MAX_REQUEST_BYTES).pictures
    with pytest.raises(mlflow.MlflowException, match=r"32\.1 MiB of pictures; at most 32 MiB"):
        asked(b"\xff" * MAX_REQUEST_BYTES, b"\xff")
    small = bilevel(4)
    monkeypatch.setattr("tlkit.serving.answer.MAX_REQUEST_PIXELS", 32)
    assert (
        len(asked(small, small, b"\xff").pictures) == 3
    )  # the last one is none, which is told later
    assert asked(bilevel(9)).pictures  # alone, as many as the model takes
    with pytest.raises(mlflow.MlflowException, match="3 pictures of 0 million pixels together"):
        asked(*[small] * 3)


@pytest.mark.parametrize("wanted", [None, "0", "1"])
def test_pictures_are_logged_where_that_is_asked_for_alone(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str | None
) -> None:
    log, written = open_log(f"sqlite:///{tmp_path / 'requests.db'}"), list[Entry]()
    monkeypatch.setattr(type(log), "write", lambda _, entries: written.extend(entries))
    with local_model(trained.model("head")) as folder:
        served = Served.load(folder, log)
    monkeypatch.delenv(PICTURES_VARIABLE, raising=False)
    if wanted:
        monkeypatch.setenv(PICTURES_VARIABLE, wanted)
    [picture, *_], _ = said_of_test(trained)
    served.answer(Question([picture], 1, 0.0))
    assert written == []  # Python asked, and no server
    monkeypatch.setattr("tlkit.serving.answer.is_served", lambda: True)
    for views in (1, 3):
        served.answer(Question([picture], views, 0.0))
    assert [entry.picture for entry in written] == [picture if wanted == "1" else None] * 2
    # Of several views the mean.
    assert written[0].embedding != written[1].embedding


def test_a_model_without_a_reference_is_logged_without_features_and_without_a_name(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_model(trained.model("head")) as folder:
        shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "reference.safetensors").unlink()
    log = open_log(f"sqlite:///{tmp_path / 'requests.db'}")
    monkeypatch.setattr("tlkit.serving.answer.is_served", lambda: True)
    [picture, *_], _ = said_of_test(trained)
    said = Served.load(tmp_path / "old", log).answer(Question([picture], 3, 0.0))
    [entry] = log.read()
    assert (entry.embedding, entry.model) == ([], None)
    assert entry.class_name == said.loc[0, "predicted"]
    assert entry.confidence == said.filter(like="probability_").max(axis=1)[0]


def test_a_server_is_guarded_once_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    unguarded = scoring_server.invocations
    for name in ("invocations", "_async_catch_mlflow_exception"):
        monkeypatch.setattr(scoring_server, name, getattr(scoring_server, name))
    monkeypatch.delitem(sys.modules, "mlflow.pyfunc.scoring_server.app", raising=False)
    guard.guard_server()
    assert scoring_server.invocations is unguarded
    monkeypatch.setitem(sys.modules, "mlflow.pyfunc.scoring_server.app", scoring_server)
    for _ in range(2):
        guard.guard_server()
        assert scoring_server.invocations.__wrapped__ is unguarded


def test_an_error_in_the_model_shows_no_paths_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def failing(*_: object) -> None:
        raise mlflow.MlflowException("unexpected", stack_trace="in /srv/model.py")

    with pytest.raises(mlflow.MlflowException) as raised:
        guard._guarded(failing)(b"{}", "application/json")
    assert raised.value.message == "unexpected"
    assert "/srv/" not in raised.value.serialize_as_json()
    assert "in /srv/model.py" in caplog.text


def test_of_a_message_what_is_wrong_comes_first_and_no_more_than_500_letters_of_all() -> None:
    def failing(*_: object) -> None:
        raise mlflow.MlflowException("data " * 1000 + "\nError: why")

    with pytest.raises(mlflow.MlflowException) as raised:
        guard._guarded(failing)(b"{}", "application/json")
    assert raised.value.message.startswith("why\ndata data")
    assert len(raised.value.message) == 500


def hostile(picture: bytes) -> Iterator[tuple[Any, dict[str, str]]]:
    """1,000 requests that no client should send: bodies and headers."""
    dice = random.Random(0)
    good = base64.b64encode(picture).decode()
    fixed: list[Any] = [
        "", "[1]", "3", "null", "[" * 100_000, '{"a":' * 50_000, '{"dataframe_records": NaN}',
        {"dataframe_records": []}, {"inputs": []}, {"inputs": 5}, {"dataframe_records": "abc"},
        {"dataframe_split": {"columns": ["image"], "data": []}}, {"dataframe_split": [1]},
        {"dataframe_records": [{"image": None}]}, {"dataframe_records": [{"image": 3}]},
        {"dataframe_records": [{"other": good}]}, {"dataframe_records": [{"image": [1, 2]}]},
        {"dataframe_records": [{"image": "###"}]}, {"inputs": [{"image": "not base64!"}]},
        {"dataframe_records": [{"image": good}], "params": {"tta": 0}},
        {"dataframe_records": [{"image": good}], "params": {"tta": 10**9}},
        {"dataframe_records": [{"image": good}], "params": [1]},
        {"dataframe_records": [{"image": good}, {"image": 3}]}, {"messages": []},
        record(bomb()), record(b""), record(picture, b"junk"),
        record(dice.randbytes(38 * 2**20)), "x" * 50_000_000,
    ]  # fmt: skip
    for body in fixed:
        yield body, JSON
    yield "," * 100_000, {"content-type": "text/csv"}
    yield dice.randbytes(300), {"content-type": "application/vnd.apache.parquet"}
    for kind in ("text/plain", "application/json; charset=latin1", "text/csv", "image/jpeg", ""):
        yield dice.randbytes(300), {"content-type": kind} if kind else {}
    for number in range(1000 - len(fixed) - 7):
        cut = dice.randrange(len(picture) - 12)
        kinds = (
            dice.randbytes(dice.randrange(1, 2000)),
            record(picture[:cut]),
            record(dice.randbytes(dice.randrange(1, 2000))),
            json.dumps(record(picture))[: dice.randrange(1, 60)],
        )
        yield kinds[number % len(kinds)], JSON


def test_a_thousand_hostile_requests_are_refused_and_the_next_good_one_answered(
    server: Server, trained: Trained
) -> None:
    pictures, expected = said_of_test(trained)
    requests_made = list(hostile(pictures[0]))
    assert len(requests_made) == 1000
    for body, headers in requests_made:
        answer = server.ask(body, headers)
        assert 400 <= answer.status_code < 500, (answer.status_code, str(body)[:100], headers)
        assert len(answer.text) > 10
    good = server.ask(record(pictures[0]))
    np.testing.assert_allclose(rows(good.json()["predictions"]), expected[:1], atol=1e-5)


def test_a_message_says_what_is_wrong(server: Server, trained: Trained) -> None:
    [picture, *_], _ = said_of_test(trained)
    for body, said in (
        (record(picture, b"junk"), "picture 2 of 2: not a picture"),
        (record(bomb()), "50000x50000 is over the limit"),
        (record(picture[: len(picture) // 2]), "picture 1 of 1: truncated"),
        ({"dataframe_split": {"columns": ["image"], "data": []}}, "no pictures; give at least one"),
        (record(os.urandom(33 * 2**20)), "33 MiB of pictures; at most 32 MiB"),
        (record(os.urandom(32 * 2**20 + 9)), "32.1 MiB of pictures; at most 32 MiB"),
        (record(*[picture] * 17) | {"params": {"tta": 64}}, "17 pictures with 64 views each; at"),
        (record(*[picture] * 1025), "at most 1024 views go into a request"),
        (record(os.urandom(38 * 2**20)), "at most 48 MiB are taken"),
        (record(*[bilevel(9_990)] * 3), "3 pictures of 299 million pixels together; at most 200"),
        (record(picture) | {"params": {"tta": "two"}}, "tta"),
        ("[" * 10_000, "nested too deep"),
        ('{"inputs": [' + "9" * 5000 + "]}", "JSON that cannot be read: Exceeds the limit"),
        ({"inputs": [{"image": ""}] * 10_000}, "over 16,384 commas and brackets; at most 1024"),
    ):
        assert said in server.ask(body).json()["message"]


def test_an_answer_names_what_is_wrong_first_and_does_not_echo_the_body(
    server: Server, trained: Trained
) -> None:
    for body in (b"\xff" * 2**20, b"x" * 2**20, b'{"inputs": "' + b"x" * 2**20):
        answer = server.ask(body)
        assert answer.status_code == 400
        told = "Invalid input. Ensure that input is"
        if body[0] == 0xFF and parse_version(mlflow.__version__) < parse_version("3.17"):
            told = "JSON that cannot be read: "  # by MLflow 3.11
        assert answer.json()["message"].startswith(told)
        assert len(answer.content) < 4000
    refused = server.ask(record(b"junk")).json()["message"]
    assert refused.startswith("picture 1 of 1: not a picture")


def closure(roots: Iterable[str]) -> set[str]:
    """Distributions that come with `roots`, by canonical names."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):  # of another system
            for requirement in map(Requirement, metadata.requires(name) or []):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    waiting.append(requirement.name)
    return found


# Imports every module of serving, then loads and asks the model: argv is the model, a picture and
# what cannot be imported.
IN_ITS_ENVIRONMENT = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

model, picture, *blocked = sys.argv[1:]

class Environment(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in blocked else super().find_spec(name, path, target)

sys.meta_path = [Environment if finder is PathFinder else finder for finder in sys.meta_path]
import mlflow, pandas as pd
import tlkit.serving
for module in pkgutil.iter_modules(tlkit.serving.__path__, "tlkit.serving."):
    importlib.import_module(module.name)
table = pd.DataFrame({"image": [open(picture, "rb").read()]})
print(mlflow.pyfunc.load_model(model).predict(table).loc[0, "predicted"])
"""


def test_a_model_needs_nothing_but_its_requirements(trained: Trained, tmp_path: Path) -> None:
    model = Path(mlflow.artifacts.download_artifacts(trained.model(), dst_path=str(tmp_path)))
    wanted = (Requirement(line) for line in (model / "requirements.txt").read_text().splitlines())
    known = closure(requirement.name for requirement in wanted)
    blocked = [
        module
        for module, names in metadata.packages_distributions().items()
        if known.isdisjoint(map(canonicalize_name, names)) and module != "tlkit"
    ]
    assert {"optuna", "platformdirs", "pytest"} <= set(blocked)
    picture = next((trained.pictures / "test").rglob("*.png"))
    done = subprocess.run(
        [sys.executable, "-c", IN_ITS_ENVIRONMENT, str(model), str(picture), *blocked],
        env={**os.environ, "PYTHONPATH": str(model / "code")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("cat", "dog")


def test_mlflow_models_predict_says_the_same(trained: Trained, tmp_path: Path) -> None:
    pictures, expected = said_of_test(trained)
    asked, answered = tmp_path / "in.json", tmp_path / "out.json"
    asked.write_text(json.dumps(record(*pictures)))
    mlflow.models.predict(
        trained.model(), input_path=str(asked), output_path=str(answered), env_manager="local"
    )
    answer = json.loads(answered.read_text())["predictions"]
    np.testing.assert_allclose(rows(answer), expected, atol=1e-5)


def test_the_documented_filter_leaves_out_what_spark_would_fail_at(trained: Trained) -> None:
    [block] = [one for one in of_document("docs/USING.md") if "def readable" in one.text]
    body = block.text[block.text.index("from tlkit") : block.text.index("\npictures =")]
    names: dict[str, Any] = {}
    exec(compile(body, block.where, "exec"), names)
    [picture, *_], _ = said_of_test(trained)
    assert [names["readable"](bytearray(one)) for one in (picture, b"junk")] == [True, False]


def test_spark_says_the_same(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyspark.sql")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)  # else the first python3 of the PATH
    pictures, expected = said_of_test(trained)
    with (
        sql.SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .getOrCreate() as spark
    ):
        frame = spark.createDataFrame([(i, bytearray(p)) for i, p in enumerate(pictures)],
                                      ["number", "image"]).repartition(2)  # fmt: skip
        udf = mlflow.pyfunc.spark_udf(spark, trained.model(), env_manager="local")
        answer = frame.withColumn("answer", udf("image")).orderBy("number")
        found = answer.select("answer.*").toPandas()
    np.testing.assert_allclose(rows(found), expected, atol=1e-5)
