"""A user's mistakes: one clear line, an exit code that is not 0, a failed run, nothing touched."""

import errno
import hashlib
import os
import pickle
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import timm
import torch
from conftest import Entry, MakeFolder
from mlflow.exceptions import MlflowException
from PIL import Image
from safetensors import SafetensorError

import tlkit.runs.phase
from tlkit.errors import UserError
from tlkit.files import disk_faults_told
from tlkit.training import loop

Case = Callable[[Path, MakeFolder], list[str]]


def data(folder: Path) -> list[str]:
    return ["--data", str(folder)]


def path_not_there(tmp_path: Path, make: MakeFolder) -> list[str]:
    return data(tmp_path / "nowhere")


def empty_folder(tmp_path: Path, make: MakeFolder) -> list[str]:
    (tmp_path / "empty").mkdir()
    return data(tmp_path / "empty")


def empty_class_that_is_not_utf8(tmp_path: Path, make: MakeFolder) -> list[str]:
    folder = make()
    (folder / "train" / os.fsdecode(b"caf\xe9")).mkdir()
    return data(folder)


def one_class(tmp_path: Path, make: MakeFolder) -> list[str]:
    return data(make(classes=("cat",)))


def class_without_readable_picture(tmp_path: Path, make: MakeFolder) -> list[str]:
    folder = make(classes=("ant", "bee", "cow"), counts=(20, 9, 9))
    (folder / "train" / "dog").mkdir()
    (folder / "train" / "dog" / "0.jpg").write_bytes(b"")
    return data(folder)


def split_without_a_class(tmp_path: Path, make: MakeFolder) -> list[str]:
    folder = make(classes=("ant", "bee", "cow"))
    for path in (folder / "val" / "cow").iterdir():
        path.unlink()
    return data(folder)


def half_broken(tmp_path: Path, make: MakeFolder) -> list[str]:
    folder = make()
    for path in list(folder.rglob("*.png"))[::2]:
        path.write_bytes(path.read_bytes()[:60])
    return data(folder)


def climbing_zip(tmp_path: Path, make: MakeFolder) -> list[str]:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "out")
    return data(tmp_path / "bad.zip")


def huge_picture(tmp_path: Path, make: MakeFolder) -> list[str]:
    folder = make()
    Image.new("1", (50_000, 50_000)).save(tmp_path / "huge.png")
    for path in folder.glob("*/cat/*"):
        shutil.copy(tmp_path / "huge.png", path)
    return data(folder)


def unknown_backbone(tmp_path: Path, make: MakeFolder) -> list[str]:
    return [*data(make()), "--backbone", "resnet51"]


def other_weights(tmp_path: Path, make: MakeFolder) -> list[str]:
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "other.pth")
    return [*data(make()), "--weights", str(tmp_path / "other.pth")]


class Payload:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("ran",)


def evil_pickle(tmp_path: Path, make: MakeFolder) -> list[str]:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Payload()))
    return [*data(make()), "--weights", str(tmp_path / "evil.pth")]


def too_deep(tmp_path: Path, make: MakeFolder) -> list[str]:
    return [*data(make()), "--unfreeze_depth", "99"]


def impossible_value(tmp_path: Path, make: MakeFolder) -> list[str]:
    return [*data(make()), "--dropout", "7"]


def unknown_key(tmp_path: Path, make: MakeFolder) -> list[str]:
    return [*data(make()), "--backbone_rl", "1e-4"]


CASES: list[Any] = [
    (path_not_there, "nowhere"),
    (empty_folder, "empty"),
    pytest.param(
        empty_class_that_is_not_utf8,
        "no file (caf?)",
        marks=pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere"),
    ),
    (one_class, "one class"),
    (class_without_readable_picture, "dog"),
    (split_without_a_class, "cow"),
    (half_broken, "24 of 48"),
    (climbing_zip, "../../escaped.txt"),
    (huge_picture, "50000x50000"),
    (unknown_backbone, "resnet50"),
    (other_weights, "other.pth"),
    (evil_pickle, "evil.pth"),
    (too_deep, "unfreeze_depth=99"),
    (impossible_value, "dropout=7"),
    (unknown_key, "backbone_lr"),
]


def content_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "cache" not in path.parts and "mlruns" not in path.parts
    }


@pytest.mark.parametrize(("case", "said"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_one_line_a_failed_run_and_nothing_touched(
    case: Case,
    said: str,
    tmp_path: Path,
    make_folder: MakeFolder,
    entry: Entry,
    experiment: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = case(tmp_path, make_folder)
    before = content_of(tmp_path)
    capfd.readouterr()
    assert entry("finetune", *arguments) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert content_of(tmp_path) == before
    assert not (tmp_path.parent / "escaped.txt").exists()
    assert not (tmp_path / "ran").exists()
    for run in mlflow.search_runs([experiment], output_format="list"):
        assert run.info.status == "FAILED"
        assert "**Failed.**" in run.data.tags["mlflow.note.content"]


def test_a_run_that_ends_by_unreadable_files_lists_them(
    make_folder: MakeFolder, tmp_path: Path, entry: Entry, experiment: str
) -> None:
    arguments = half_broken(tmp_path, make_folder)
    for name in ("suite", "data"):
        assert entry(name, *arguments) == 2
        (run,) = mlflow.search_runs([experiment], max_results=1, output_format="list")
        listed = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/data/unreadable.csv")
        assert len(listed.splitlines()) == 1 + 24


def test_a_list_that_cannot_be_kept_is_told(
    make_folder: MakeFolder, tmp_path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mlflow.MlflowClient, "log_text", full)
    assert entry("data", *half_broken(tmp_path, make_folder)) == 2
    said = capfd.readouterr().err
    assert "warning: data/unreadable.csv could not be kept: " in said
    assert "No space left on device" in said
    assert "24 of 48 files" in said.splitlines()[-1]


def test_a_run_that_the_store_cannot_end_is_told(
    tmp_path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise MlflowException("database or disk is full")

    monkeypatch.setattr("tlkit.tracking.run.mlflow.end_run", full)
    assert entry("head", *data(tmp_path / "nowhere")) == 2
    said = capfd.readouterr().err
    assert "could not be marked as FAILED, and is shown as running: database or disk is" in said


def test_the_traceback_stays_away(
    tmp_path: Path, entry: Entry, capfd: pytest.CaptureFixture[str]
) -> None:
    entry("head", *data(tmp_path / "nowhere"))
    assert "Traceback" not in capfd.readouterr().err


def test_a_picture_that_is_changed_meanwhile_is_told_alike_at_the_terminal_and_in_the_run(
    make_folder: MakeFolder,
    entry: Entry,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, train_phase = make_folder(), tlkit.runs.phase.train_phase

    def change_first(*given: Any, **named: Any) -> Any:
        for path in (folder / "train").rglob("*.png"):
            Image.new("RGB", (40, 40)).save(path)
        return train_phase(*given, **named)

    monkeypatch.setattr(tlkit.runs.phase, "train_phase", change_first)
    assert entry("baseline", *data(folder), "--loader_workers", "1") == 2
    said = capfd.readouterr().err.splitlines()[-1].removeprefix("error: ")
    assert "has other content than when the data was audited" in said
    (run,) = mlflow.search_runs([experiment], output_format="list")
    assert run.data.tags["mlflow.note.content"] == f"**Failed.** {said}"


def test_a_file_in_the_place_of_a_folder_of_the_cache_is_told(
    entry: Entry, make_folder: MakeFolder, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_cache.mkdir()
    (own_cache / "runs").touch()
    assert entry("head", "--data", str(make_folder(counts=(4, 2, 2)))) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert str(own_cache / "runs") in line
    assert "rename the file that is in the place of a folder" in line


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_full_disk_says_where(
    fault: Exception,
    make_folder: MakeFolder,
    entry: Entry,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise fault

    monkeypatch.setattr("tlkit.training.checkpoints.save_file", full)
    assert entry("head", *data(make_folder())) == 2
    message = capfd.readouterr().err
    assert re.search(r"no disk space left while writing \S+best\.safetensors; free some", message)
    (run,) = mlflow.search_runs([experiment], output_format="list")
    assert run.info.status == "FAILED"


def test_a_full_temporary_folder_is_named_in_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    usage = shutil.disk_usage(tmp_path)
    elsewhere, within = tmp_path / "a" / "b", temporary / "b"
    for free, written, told in (
        (0, elsewhere, temporary),
        (2**29, elsewhere, elsewhere),  # it may be a quota
        (0, within, within),
    ):
        monkeypatch.setattr(
            shutil,
            "disk_usage",
            lambda path, free=free: usage._replace(free=free if path == temporary else 2**30),
        )
        full = pytest.raises(UserError, match=f"while writing {told}; free some")
        with full, disk_faults_told(written):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_without_room_for_any_temporary_file_is_told(
    entry: Entry,
    make_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/no/such/folder"])
    assert entry("head", *data(make_folder())) == 2
    error = capsys.readouterr().err
    line = error.splitlines()[-1]
    assert line.startswith("error: no temporary file can be written (No usable temporary directory")
    assert line.endswith("free disk space, or point TMPDIR at another disk")
    assert "Traceback" not in error


def test_ctrl_c_ends_with_130_and_keeps_the_checkpoint(
    make_folder: MakeFolder, entry: Entry, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, calls = loop._summary, []

    def interrupt(metrics: dict[str, float]) -> str:
        calls.append(metrics)
        if len(calls) == 2:
            raise KeyboardInterrupt(2)  # as a signal does
        return summary(metrics)

    monkeypatch.setattr(loop, "_summary", interrupt)
    assert entry("head", *data(make_folder()), "--head_epochs", "5") == 130
    (run,) = mlflow.search_runs([experiment], output_format="list")
    assert run.info.status == "KILLED"
    assert run.data.tags["mlflow.note.content"] == "**Interrupted.**"
    found = mlflow.artifacts.list_artifacts(run_id=run.info.run_id, artifact_path="checkpoints")
    assert "checkpoints/last.safetensors" in {item.path for item in found}
