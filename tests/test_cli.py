"""The command line: flags, help, exit codes."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, run_entry

from tlkit.cli import main, parse_flags
from tlkit.config import Config
from tlkit.errors import UserError, one_line
from tlkit.process import is_entry_point


def test_flags_take_both_forms() -> None:
    words = ["--head_lr", "1e-3", "--seed=4", "--unfreeze-depth", "2"]
    assert parse_flags(words) == {"head_lr": "1e-3", "seed": "4", "unfreeze_depth": "2"}


@pytest.mark.parametrize(("words", "said"), [(["seed"], "'seed'"), (["--seed"], "--seed has no")])
def test_what_is_no_flag_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_flags(words)


def test_a_user_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def task(config: Config) -> None:
        raise UserError("seen; allowed; do")

    with pytest.raises(SystemExit) as stop:
        main(task, Config, [])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: seen; allowed; do\n"


def test_an_error_of_ours_keeps_its_traceback() -> None:
    def task(config: Config) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        main(task, Config, [])


def test_help_lists_every_key_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def task(config: Config) -> None:
        raise AssertionError("the task ran")

    with pytest.raises(SystemExit, match=r"^0$"):
        main(task, Config, ["--help"])
    shown = capsys.readouterr().out
    assert "--head_lr" in shown
    assert "--unfreeze_depth" in shown


@pytest.mark.parametrize("name", ["head", "promote"])
def test_help_begins_with_the_usage_and_what_the_entry_point_does(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_entry(name, "--help")
    usage, empty, does, _, config, *_ = capsys.readouterr().out.splitlines()
    assert usage == f"usage: python -m experiments.{name} [--config FILE] [--key value ...]"
    source = ROOT / "experiments" / f"{name}.py"
    assert (empty, does) == ("", ast.get_docstring(ast.parse(source.read_text())))
    assert config == "--config FILE"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [(), ("--help",)])
def test_printing_into_a_pipe_that_is_closed_ends_quietly(
    unbuffered: str, words: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does, before all of it is written
    code = "from tlkit.cli import main; from tlkit.config import Config; main(print, Config)"
    with os.fdopen(writing, "wb") as pipe:
        process = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_where_there_is_no_place_to_print_to_a_task_goes_on(closed: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tqdm import tqdm; "
        "from tlkit.cli import main; from tlkit.config import Config; "
        "main(lambda _: (print('seen'), sys.stderr.write('seen'), list(tqdm('ab')), "
        "Path(sys.argv[1]).touch()), Config, [])"
    )
    shell = f'exec "$0" -c "$1" "$2" {closed}'
    done = tmp_path / "done"
    subprocess.run(["sh", "-c", shell, sys.executable, code, done], cwd=ROOT, check=True)
    assert done.exists()


def test_another_pipe_that_breaks_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def task(config: Config) -> None:
        raise BrokenPipeError("a worker is gone")

    with pytest.raises(BrokenPipeError, match="a worker is gone"):
        main(task, Config, [])


def test_what_the_terminal_has_no_letters_for_is_a_question_mark() -> None:
    code = (
        "from tlkit.cli import main; from tlkit.config import Config; "
        "main(lambda _: print('b\\xfcrste.jpg'), Config)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert process.stdout == "b?rste.jpg\n"


def test_ctrl_c_before_main_begins_is_one_line() -> None:
    code = "import experiments; raise {}"
    ends = [
        subprocess.run(
            [sys.executable, "-c", code.format(error)], cwd=ROOT, capture_output=True, text=True
        )
        for error in ("KeyboardInterrupt", "RuntimeError('a bug')")
    ]
    assert [(end.returncode, end.stderr.splitlines()[-1]) for end in ends] == [
        (130, "interrupted"),
        (1, "RuntimeError: a bug"),
    ]
    assert "Traceback" not in ends[0].stderr


def test_an_error_out_of_a_worker_loses_the_workers_traceback() -> None:
    text = "Caught UserError in DataLoader worker process 0.\nOriginal Traceback:\n  File\n"
    assert one_line(UserError(text + "tlkit.errors.UserError: the reason\n")) == "the reason"


def test_a_line_break_in_a_message_cuts_nothing_off() -> None:
    assert one_line(UserError("data=/x/a\nb  c is not there")) == "data=/x/a b  c is not there"
    assert one_line(UserError("data=\x1b[2J\u202ex\ud800")) == "data=?[2J?x?"
    assert one_line(UserError("")) == ""


_TASK = """
import sys, time
from tlkit.cli import main
from tlkit.config import Config

def task(config):
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        print("closing", flush=True)
        time.sleep(1)
        print("closed", flush=True)

main(task, Config, [])
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_task_close_and_a_second_one_does_not_cut_it_off(first: int) -> None:
    command = [sys.executable, "-c", _TASK]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(first)
        assert process.stdout.readline() == "closing\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "closed\n"
        assert process.stderr.read() == f"{Config.interrupted}\n"
        assert process.wait() == 128 + first


def test_what_fails_after_a_signal_failed_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A signal to all processes of a group ends the loader's too, which torch tells by an error."""

    def task(config: Config) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise RuntimeError("DataLoader worker (pid 9) is killed by signal: Terminated. ")

    with pytest.raises(SystemExit) as stop:
        main(task, Config, [])
    assert stop.value.code == 143
    assert capsys.readouterr().err == f"{Config.interrupted}\n"


def test_a_signal_that_comes_while_an_object_is_deleted_is_not_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Deleted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def task(config: Config) -> None:
        Deleted()
        for _ in range(100):
            time.sleep(0.1)

    with pytest.raises(SystemExit) as stop:
        main(task, Config, [])
    assert stop.value.code == 143
    assert capsys.readouterr().err == f"{Config.interrupted}\n"


# Imported before all else: tells what holds when exit functions run, and when it is deleted.
_WATCHED = """
import atexit, gc, os, sys

class Watched:
    def __del__(self, write=os.write):
        write(2, b"taken apart")

def tell():
    print("collects", gc.isenabled(), "frozen", gc.get_freeze_count() > 100_000, file=sys.stderr)

watched = Watched()
atexit.register(tell)
"""


@pytest.mark.parametrize(
    ("cache", "status", "said"), [("new", 0, ""), ("sitecustomize.py", 2, "is no folder")]
)
def test_an_entry_point_leaves_its_objects_to_the_system_and_nothing_else(
    cache: str, status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_WATCHED)
    own = {"PYTHONPATH": str(tmp_path), "TLKIT_CACHE": str(tmp_path / cache)}
    ends = [
        subprocess.run(
            [sys.executable, *options, "-m", "experiments.cache"], cwd=ROOT, text=True,
            capture_output=True, env={**os.environ, **own},
        )
        for options in ([], ["-X", "dev"])
    ]  # fmt: skip
    assert [end.returncode for end in ends] == [status, status]
    for end in ends:
        assert said in end.stderr
        assert bool(end.stdout) == (status == 0)
    assert ends[0].stderr.endswith("collects True frozen True\n")
    assert "collects True frozen False\ntaken apart" in ends[1].stderr


@pytest.mark.parametrize(
    "name", [path.stem for path in sorted((ROOT / "experiments").glob("[a-z]*.py"))]
)
@pytest.mark.parametrize(("word", "status"), [("--help", 0), ("--oops=1", 2)])
def test_help_and_mistakes_wait_for_no_import(name: str, word: str, status: int) -> None:
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"experiments.{name}", word], cwd=ROOT,
        text=True, capture_output=True,
    )  # fmt: skip
    assert process.returncode == status
    *_, last = process.stderr.splitlines()
    assert last.startswith("error: unknown key oops") == (status == 2)
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "tlkit.cli" in imported
    heavy = "torch mlflow optuna numpy scipy pandas pyarrow sqlalchemy sklearn matplotlib"
    assert not imported & set(heavy.split())


_IMPORTED = """
import gc, signal, sys
print("collects", gc.isenabled(), flush=True)
print("imported", file=sys.stderr)
"""
_MONITOR = ["monitor", "--model", "runs:/x/model", "--log", "sqlite:///x.db"]


@pytest.mark.parametrize(
    ("words", "then", "status", "said"),
    [
        (["head"], "signal.raise_signal(signal.SIGINT)", 130, Config.interrupted),
        (["head"], "signal.raise_signal(signal.SIGTERM)", 143, "imported"),
        (_MONITOR, "signal.raise_signal(signal.SIGTERM)", 143, "imported"),
        (["head"], "raise ImportError('no torch')", 1, "ImportError: no torch"),
        (_MONITOR, "raise ImportError('no torch')", 3, "ImportError: no torch"),  # 1 is an alarm
    ],
)
def test_what_happens_while_libraries_are_imported(
    words: list[str], then: str, status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(f"{_IMPORTED}\n{then}\n")
    process = subprocess.run(
        [sys.executable, "-m", f"experiments.{words[0]}", *words[1:]], cwd=ROOT, text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert process.returncode == status
    assert process.stdout == "collects False\n"
    assert process.stderr.splitlines()[-1] == said


# When the cache's folder is made, which is after the imports.
_AT_WORK = """
import signal, sys

def hook(event, words):
    if event == "os.mkdir" and str(words[0]).endswith("new cache"):
        signal.raise_signal(signal.SIGTERM)

sys.addaudithook(hook)
"""


def test_a_signal_after_the_imports_lets_an_entry_point_close(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_AT_WORK)
    own = {"PYTHONPATH": str(tmp_path), "TLKIT_CACHE": str(tmp_path / "new cache")}
    process = subprocess.run(
        [sys.executable, "-m", "experiments.cache"], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, **own},
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (143, f"{Config.interrupted}\n")


# As an entry point, whose thread sends Ctrl-C while the end waits for it, and would go on.
_WAITED_FOR = """
import atexit, os, signal, sys, threading, time
sys.orig_argv = ["python", "-m", "experiments.head"]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" has it ignored
from tlkit.process import end

def go_on():
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    while True:  # one that comes just before the waiting does not end it
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

atexit.register(print, "at exit")
threading.Thread(target=go_on).start()
print("done")
end(2)
"""


def test_ctrl_c_at_the_end_ends_the_waiting_for_threads_alone() -> None:
    process = subprocess.run(
        [sys.executable, "-c", _WAITED_FOR], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert (process.returncode, process.stdout) == (2, "done\nat exit\n")


def test_an_error_in_a_session_that_imports_entry_points_does_not_end_it() -> None:
    code = (
        "import sys, experiments; "
        "sys.excepthook(ValueError, ValueError('a bug'), None); print('alive')"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (process.stdout, process.stderr) == ("alive\n", "ValueError: a bug\n")


@pytest.mark.parametrize(
    ("started", "ours"),
    [
        (["python", "-m", "experiments.head"], True),
        (["python", "-m", "cProfile", "-m", "experiments.head"], False),
        (["python", "bin/coverage", "run", "-m", "experiments.head"], False),
        (["python", "-c", "import experiments.head"], False),
        (["python", "-m", "pytest"], False),
        (["python"], False),
    ],
)
def test_what_else_runs_an_entry_point_ends_as_ever(
    started: list[str], ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", started)
    assert is_entry_point() == ours
