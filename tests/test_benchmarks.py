"""What benchmarks count, and what they say to a mistake; what they measure is in PERFORMANCE.md."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from benchmarks import measure, rates, scale, serve, sweep, two_phase
from benchmarks.peers import __main__ as peers
from tlkit.config import Config
from tlkit.data.manifest import Manifest, Picture
from tlkit.errors import UserError


def run(module: ModuleType, *words: str, patch: pytest.MonkeyPatch) -> int:
    """`python -m benchmarks.NAME` in this process; its exit code."""
    patch.setattr(sys, "argv", ["benchmark", *words])
    try:
        measure.start(module.main, getattr(module, "measure", None))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        (two_phase, "--bogus 3", "bogus"),
        (two_phase, "--repeats x", "repeats=x is not allowed; a whole number above 0"),
        (two_phase, "--repeats", "--repeats has no value"),
        (scale, "--pictures 0", "pictures=0 is not allowed"),
        (scale, "--bogus 3", "bogus"),
        (rates, "--backbone test_resnet --image_size 32 --unfreeze_depth 99", "allowed: 0"),
        (
            serve,
            "--model runs:/1/model",
            "--model given; needs --model ADDRESS and --images FOLDER",
        ),
        (serve, "--seconds nan", "seconds=nan is not allowed; a number above 0"),
        (peers, "--peers nosuch", "peers=nosuch is not allowed; one or more of fastai, autotimm"),
        (sweep, "--configurations 5", "configurations=5 is not allowed; a multiple of 4"),
        (sweep, "--sample 1", "sample=1 is not allowed; 2 to configurations=20"),
        (sweep, "--configurations 4 --sample 5", "sample=5 is not allowed; 2 to"),
    ],
)
def test_a_mistake_is_told_in_a_line_before_any_work(
    module: ModuleType,
    words: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rates, "product", lambda machine, dtype: None)
    assert run(module, *words.split(), patch=monkeypatch) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("module", [two_phase, serve, rates, peers])
def test_help_is_what_the_module_says_of_itself(
    module: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(module, "--help", patch=monkeypatch) == 0
    assert capsys.readouterr().out.strip() == str(module.__doc__).strip()


def test_a_child_that_fails_is_told_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="ended with 2 instead of 0"):
        measure.in_own_process("benchmarks.scale", {"data": str(tmp_path / "absent")})
    printed = capfd.readouterr().err
    assert "error: " in printed
    assert "Traceback" not in printed


def some_manifest(train: int, val: int, passes: int = 1) -> Manifest:
    pictures = [
        Picture(f"{split}/{index}", 0, split, f"{split}{index}")
        for split, count in (("train", train), ("val", val))
        for index in range(count)
    ]
    return Manifest(Path(), ("a",), tuple(pictures), passes)


def test_the_floor_counts_all_views_all_passes_and_batches_of_their_size() -> None:
    config = Config(head_epochs=3, finetune_epochs=5, batch_size=32)
    assert two_phase.least_work(config, some_manifest(64, 32), 5) == (11, 10, 5)
    assert two_phase.least_work(config, some_manifest(64, 32, passes=4), 5) == (11, 40, 5)
    more = Config(head_epochs=8, finetune_epochs=5, batch_size=16)
    assert two_phase.least_work(more, some_manifest(64, 32), 9) == (17, 20, 10)


@pytest.mark.parametrize(("count", "sample"), [(20, 2), (20, 5), (8, 3), (4, 4), (40, 6)])
def test_a_sample_of_a_sweep_is_as_deep_as_the_whole(count: int, sample: int) -> None:
    configs = sweep.configurations(Config(), count)
    depths = [config.unfreeze_depth for config in sweep.sampled(configs, sample)]
    assert len(depths) == sample
    assert abs(sum(depths) / sample - 1.5) <= 0.2
    assert min(depths) == 0
    assert max(depths) == 3


def test_a_search_finds_data_and_weights_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "w.safetensors").touch()
    found = sweep.anywhere(Config(data="pictures", weights="w.safetensors"))
    assert found == {
        "data": str(tmp_path / "pictures"),
        "weights": str(tmp_path / "w.safetensors"),
    }
    assert sweep.anywhere(Config()) == {"data": "synthetic", "weights": "auto"}


@contextmanager
def one_at_a_time(seconds: float, code: int = 200) -> Iterator[str]:
    """The address of a server that answers one request after another, each after some seconds."""
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            with turn:
                time.sleep(seconds)
            self.send_response(code)
            self.send_header("content-length", "4")
            self.end_headers()
            self.wfile.write(b"what")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_requests_are_counted_until_the_last_answer() -> None:
    with one_at_a_time(0.05) as url:
        taken, lasted = serve.ask(url, ["{}"], clients=8, seconds=0.2)
    assert lasted >= 0.05 * len(taken) > 0.2  # more than 20 a second there cannot be


def test_an_answer_that_is_none_stops_the_clients() -> None:
    started = time.perf_counter()
    with (
        one_at_a_time(0.0, code=400) as url,
        pytest.raises(UserError, match="answered 400 instead of 200: what"),
    ):
        serve.ask(url, ["{}"], clients=3, seconds=60)
    assert time.perf_counter() - started < 30


def test_a_server_that_does_not_start_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = subprocess.Popen

    def ends_at_once(*_: object, **options: object) -> subprocess.Popen[bytes]:
        code = "import sys; sys.exit('no such model')"
        process = begin([sys.executable, "-c", code], **options)  # type: ignore[call-overload]
        process.wait()
        return process  # type: ignore[no-any-return]

    monkeypatch.setattr(serve.subprocess, "Popen", ends_at_once)
    with pytest.raises(UserError, match="ended with 1"), serve.served("models:/absent/1"):
        pass
    assert "no such model" in capsys.readouterr().err


def test_peers_are_given_the_size_of_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run_script(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.extend(command)
        return subprocess.CompletedProcess(command, 0, stdout="{}")

    monkeypatch.setattr(peers.subprocess, "run", run_script)
    peers.train_peer(Path("python"), "fastai", Config(), tmp_path / "w", 96)
    assert asked[-1] == "96"
    for peer in peers.PEERS:
        script = (ROOT / "benchmarks" / "peers" / f"train_{peer}.py").read_text()
        assert "int(size)" in script
        assert "batch, size = sys.argv[1:]" in script
