"""An interrupted training goes on where it was, and ends as if it had never been interrupted."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import mlflow
import pytest
import torch
from conftest import SMOKE, Entry, MakeFolder
from filelock import FileLock
from mlflow.entities import Run
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tlkit.config import Config
from tlkit.phases import identity
from tlkit.phases.identity import training_key
from tlkit.phases.machine import machine_for
from tlkit.phases.prepare import prepare_phase
from tlkit.phases.train import train_phase
from tlkit.runs.prepare import prepare_data
from tlkit.training import loop, progress
from tlkit.training.optimizer import Schedule, adamw, learning_rates

WENT_ON = "tlkit.went_on_from"


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SHARE", 1e9)


def runs(experiment: str, name: str) -> list[Run]:
    """Oldest first."""
    return mlflow.search_runs(
        [experiment],
        filter_string=f"run_name = '{name}'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )


def interrupt(entry: Entry, name: str, words: list[str], phase: str = "") -> None:
    """Give a command that ends as by Ctrl-C, once two epochs of a phase are kept."""
    fit, summary, calls = loop.fit, loop._summary, []

    def interrupted(metrics: dict[str, float]) -> str:
        calls.append(metrics)
        if len(calls) == 2:
            raise KeyboardInterrupt(2)
        return summary(metrics)

    with pytest.MonkeyPatch.context() as patch:

        def fitted(*given: object, **named: object) -> loop.Result:
            if named["description"] == (phase or name):
                patch.setattr(loop, "_summary", interrupted)
            return fit(*given, **named)  # type: ignore[arg-type]

        patch.setattr("tlkit.phases.train.fit", fitted)
        assert entry(name, *words) == 130


def left(run: Run) -> dict[str, object]:
    """What a training leaves that depends on its weights."""
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))
    files = {
        f"{name}.safetensors": (folder / "checkpoints" / f"{name}.safetensors").read_bytes()
        for name in ("best", "last")
    }
    client = mlflow.MlflowClient()
    curves = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in ("train/loss", "val/loss", "lr/head")
    }
    best = {"best": (folder / "checkpoints" / "best.json").read_text()}
    return {**files, **curves, **best, "predictions": (folder / "predictions.csv").read_text()}


@pytest.mark.parametrize(
    ("phase", "settings"),
    [
        ("baseline", "baseline_epochs=4 warmup_epochs=1"),
        (
            "baseline",
            "baseline_epochs=5 baseline_schedule=plateau early_stopping=1 baseline_lr=0.2",
        ),
        ("head", "head_epochs=4 dropout=0.5"),
        ("finetune", "finetune_epochs=4 unfreeze_depth=2 dropout=0.5 batch_norm=moving"),
        ("finetune", "finetune_epochs=4 unfreeze_depth=2 dropout=0.5 engine=plain accumulate=2"),
    ],
)
def test_it_ends_as_if_it_had_not_been_interrupted(
    phase: str,
    settings: str,
    make_folder: MakeFolder,
    entry: Entry,
    experiment: str,
    own_cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["--data", str(make_folder()), *(f"--{word}" for word in settings.split())]
    interrupt(entry, phase, words)
    capfd.readouterr()
    assert entry(phase, *words, "--loader_workers", "0") == 0
    first = runs(experiment, phase)[0]
    said = f"{phase}: goes on after epoch 2 of {settings.split('_epochs=')[1][0]}"
    assert f"{said}, where run {first.info.run_id} ended" in capfd.readouterr().err
    assert not list((own_cache / "trainings").glob("*.safetensors"))
    assert entry(phase, *words) == 0
    first, went_on, anew = runs(experiment, phase)
    assert [run.info.status for run in (first, went_on, anew)] == ["KILLED", "FINISHED", "FINISHED"]
    assert went_on.data.tags[WENT_ON] == first.info.run_id
    assert WENT_ON not in anew.data.tags
    assert left(went_on) == left(anew)


@pytest.mark.slow
def test_kill_9_in_the_midst_of_training(
    make_folder: MakeFolder, entry: Entry, experiment: str, own_cache: Path
) -> None:
    words = ["--data", str(make_folder()), "--baseline_epochs", "30"]
    command = [sys.executable, "-m", "experiments.baseline", "--config", str(SMOKE), *words]
    root = SMOKE.parents[2]
    own = {**os.environ, "PYTHONPATH": str(root), "MLFLOW_EXPERIMENT_ID": experiment}
    process = subprocess.Popen(command, env=own, start_new_session=True)
    try:
        file: list[Path] = []
        until = time.monotonic() + 120
        while not file and time.monotonic() < until:
            assert process.poll() is None
            file = list((own_cache / "trainings").glob("*.safetensors"))
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert file
    assert [run.info.status for run in runs(experiment, "baseline")] == ["RUNNING"]
    assert entry("baseline", *words) == 0
    assert entry("baseline", *words) == 0
    killed, went_on, anew = runs(experiment, "baseline")
    assert killed.info.status == "KILLED"
    assert went_on.data.tags[WENT_ON] == killed.info.run_id
    assert left(went_on) == left(anew)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def other_facts(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'best_epoch\\": 1', b'best_epoch\\": 7'))


def no_checksum(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"crc32"', b'"crc33"'))


def test_a_damaged_file_is_no_beginning(
    make_folder: MakeFolder,
    entry: Entry,
    experiment: str,
    own_cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["--data", str(make_folder()), "--head_epochs", "3"]
    interrupt(entry, "head", words)
    (file,) = (own_cache / "trainings").glob("*.safetensors")
    sound = file.read_bytes()
    for damage in (other_facts, no_checksum, cut, empty, flip):
        file.write_bytes(sound)
        damage(file)
        assert file.read_bytes() != sound
        assert progress.Progress(file, "").restore(cast(progress.Training, None)) is None
    capfd.readouterr()
    assert entry("head", *words) == 0
    assert f"is damaged in {file}: it begins anew" in capfd.readouterr().err
    _, anew = runs(experiment, "head")
    assert WENT_ON not in anew.data.tags
    assert not file.exists()


def test_only_what_changes_no_number_may_change(make_folder: MakeFolder) -> None:
    folder = make_folder()

    def key(name: str, begun: float = 0.0, **settings: object) -> str:
        own = {"data": str(folder), "backbone": "test_resnet", "weights": "none", **settings}
        config = Config.load(SMOKE, own)
        phase = prepare_phase(name, config, prepare_data(config).manifest, machine_for(config))
        with torch.no_grad():  # as another head has it
            phase.network.classifier.model.get_classifier().bias.add_(begun)
        return training_key(phase)

    same = key("head")
    assert key("head", loader_workers=3, store_gigabytes=1, init_from="a" * 32) == same
    for name, value in {
        "head_lr": 0.5, "seed": 1, "head_epochs": 4, "batch_size": 5, "dropout": 0.3,
        "threads": 1 + torch.get_num_threads(), "precision": "bf16", "train_fraction": 0.5,
        "backbone": "test_vit", "image_size": 96,
    }.items():  # fmt: skip
        assert key("head", **{name: value}) != same, name
    assert len({same, key("finetune"), key("finetune", begun=0.1)}) == 3
    picture = next((folder / "train" / "cat").iterdir())
    Image.new("RGB", (20, 20), "red").save(picture)  # another in its place
    assert key("head") != same


def test_other_code_packages_or_kernels_train_another_way(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"data": str(make_folder()), "backbone": "test_resnet", "weights": "none"}
    config = Config.load(SMOKE, {**own, "precision": "fp32"})
    phase = prepare_phase("head", config, prepare_data(config).manifest, machine_for(config))

    def key(**machine: object) -> str:
        identity._code_digest.cache_clear()
        return training_key(replace(phase, machine=replace(phase.machine, **machine)))

    code = tmp_path / "code" / "training"
    code.mkdir(parents=True)
    monkeypatch.setattr(identity, "PACKAGE", code.parent)
    keys = []
    for text in ("a = 1", "a = 2"):
        (code / "loop.py").write_text(text)
        keys.append(key())
    keys += [key(fast_kernels=not phase.machine.fast_kernels), key(dtype=torch.bfloat16)]
    monkeypatch.setattr(identity, "package_versions", lambda: {"torch": "2.0.0"})
    keys.append(key())
    identity._code_digest.cache_clear()
    assert len(set(keys)) == 5


def test_two_that_train_the_same_do_not_disturb_each_other(
    make_folder: MakeFolder,
    entry: Entry,
    experiment: str,
    own_cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["--data", str(make_folder()), "--head_epochs", "3"]
    interrupt(entry, "head", words)
    (file,) = (own_cache / "trainings").glob("*.safetensors")
    before = file.read_bytes()
    with FileLock(file.with_suffix(".lock")):  # as the other holds it
        assert entry("head", *words) == 0
    assert "another process trains the same" in capfd.readouterr().err
    assert file.read_bytes() == before
    assert entry("head", *words) == 0
    first, alone, went_on = runs(experiment, "head")
    assert WENT_ON not in alone.data.tags
    assert went_on.data.tags[WENT_ON] == first.info.run_id
    assert left(alone) == left(went_on)


def test_a_suite_does_not_train_again_what_it_had_trained(
    make_folder: MakeFolder,
    entry: Entry,
    experiment: str,
    own_cache: Path,
) -> None:
    words = ["--data", str(make_folder()), "--finetune_epochs", "3"]
    interrupt(entry, "suite", words, "finetune")
    assert entry("suite", *words) == 0
    for phase in ("baseline", "head", "finetune"):
        first, again = runs(experiment, phase)
        assert again.data.tags[WENT_ON] == first.info.run_id
        if phase != "finetune":
            assert first.info.status == "FINISHED"
            assert left(first) == left(again)
    assert not list((own_cache / "trainings").glob("*.safetensors"))


def test_the_cache_shows_them_and_clears_them(
    make_folder: MakeFolder,
    entry: Entry,
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--data", str(make_folder()), "--head_epochs", "3"]
    interrupt(entry, "head", words)
    (file,) = (own_cache / "trainings").glob("*.safetensors")
    assert entry("cache") == 0
    assert "on how far trainings came, interrupted or under way: 1 in" in capsys.readouterr().out
    with FileLock(file.with_suffix(".lock")):
        assert entry("cache", "--clear", "yes") == 0
    assert file.exists()
    assert entry("cache", "--clear", "yes") == 0
    assert not file.exists()


def small_training(inputs: str = "") -> progress.Training:
    network = torch.nn.Linear(2, 2)
    optimizer = adamw(
        network.named_parameters(), frozenset(), head_lr=0.1, backbone_lr=0.1, weight_decay=0
    )
    schedule = Schedule(optimizer, "plateau", epochs=9, steps_per_epoch=1, warmup_epochs=0)
    cpu = torch.device("cpu")
    return progress.Training(
        network.state_dict, network.load_state_dict, optimizer, schedule, cpu, inputs
    )


def after(epochs: int) -> loop.Result:
    result = loop.Result([], 0, 0.0)
    for _ in range(epochs):
        result = result.after({loop.CRITERION: 1.0 / (1 + len(result.history))}, 1.0)
    return result


def test_a_plateau_goes_on_counting_where_it_was(tmp_path: Path) -> None:
    kept, training = progress.Progress(tmp_path / "one.safetensors", "a run"), small_training()
    for _ in range(3):  # the best one and two without progress
        training.schedule.after_epoch(1.0)
    kept.save(after(3), training, tmp_path / "best")
    again = small_training()
    assert progress.Progress(kept.file, "another").restore(again)
    again.schedule.after_epoch(1.0)
    assert learning_rates(again.optimizer) == {"lr/backbone": 0.05}


def test_it_is_written_seldom_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 19.0, 22.0, 22.5, 23.0, 24.0, 25.0])  # the first took 1 s to write
    monkeypatch.setattr(progress, "_SHARE", 0.05)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    kept, training = progress.Progress(tmp_path / "one.safetensors", "a run"), small_training()
    written = []
    for epochs, now in ((1, False), (2, False), (3, False), (3, True), (4, True)):
        kept.save(after(epochs), training, tmp_path / "best", now=now)
        found = progress.Progress(kept.file, "another").restore(small_training())
        assert found is not None
        written.append(len(found.result.history))
        assert found.best.keys() == training.state().keys()
    assert written == [1, 1, 3, 3, 4]


def train_head(folder: Path, kept: progress.Progress, compiling: str) -> None:
    own = {"data": str(folder), "backbone": "test_resnet", "weights": "none", "precision": "fp32"}
    config = Config.load(SMOKE, {**own, "head_epochs": 3, "compile": compiling})
    phase = prepare_phase("head", config, prepare_data(config).manifest, machine_for(config))
    checkpoints = kept.file.parent / f"checkpoints-{compiling}"
    checkpoints.mkdir()
    train_phase(phase, log=lambda *_: None, checkpoints=checkpoints, progress=kept)


def test_the_end_of_a_training_is_kept_however_seldom_it_is_written(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SHARE", 1e-9)
    kept = progress.Progress(tmp_path / "one.safetensors", "a run")
    train_head(make_folder(), kept, "off")
    with safe_open(kept.file, "pt") as opened:
        facts = json.loads(opened.metadata()["facts"])
    assert len(facts["result"]["history"]) == 3


def test_a_training_does_not_go_on_with_outputs_that_are_compiled_since(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = make_folder(), tmp_path / "one.safetensors"
    for compiling in ("off", "on"):
        train_head(folder, progress.Progress(file, compiling), compiling)
    assert "from inputs that were computed in another way" in capsys.readouterr().err


def test_what_nobody_goes_on_with_is_forgotten() -> None:
    month, folder = 30 * 24 * 3600, progress.trainings_folder()
    folder.mkdir()
    for name, age in (("old", month + 60), ("young", month - 60)):
        file = folder / f"{name}.safetensors"
        file.touch()
        os.utime(file, times=(time.time() - age,) * 2)
    with progress.progress_of("key", "a run", lost=unexpected, went_on=unexpected):
        assert (folder / "key.run").read_text() == "a run"
    assert [file.stem for file in progress.interrupted_trainings()] == ["young"]
    assert not (folder / "key.run").exists()


def unexpected(run_id: str) -> None:
    raise AssertionError(run_id)


def test_who_was_killed_is_named_to_whoever_trains_the_same() -> None:
    folder = progress.trainings_folder()
    folder.mkdir()
    (folder / "key.run").write_text("killed")
    named: list[str] = []
    with progress.progress_of("key", "a run", lost=named.append, went_on=unexpected):
        assert named == ["killed"]


def test_who_can_write_nothing_holds_up_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    folder = progress.trainings_folder()
    (folder / "key.run").mkdir(parents=True)
    with progress.progress_of("key", "a run", lost=unexpected, went_on=unexpected) as kept:
        assert kept is None
        assert "this training does not go on after a kill" in capsys.readouterr().err
        with FileLock(folder / "key.lock", blocking=False):
            pass


def test_what_was_not_written_to_its_end_is_shown_and_cleared() -> None:
    folder = progress.trainings_folder()
    folder.mkdir()
    old, young = folder / ".key.safetensors.0af", folder / ".tmpA1b2"
    for file, age in ((old, 3700), (young, 3500)):
        file.write_bytes(b"123")
        os.utime(file, times=(time.time() - age,) * 2)
    assert progress.interrupted_trainings() == {old: 3, young: 3}
    assert progress.forget([old, young]) == 3
    assert progress.interrupted_trainings() == {young: 3}
    (folder / ".gone").symlink_to(folder / "nothing")  # as a part that is written to its end now
    assert progress.interrupted_trainings() == {young: 3}


def test_inputs_that_are_computed_in_another_way_are_another_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = progress.Progress(tmp_path / "one.safetensors", "a run")
    kept.save(after(1), small_training("compiled"), tmp_path / "best")
    other = progress.Progress(kept.file, "another", unexpected)
    assert other.restore(small_training("uncompiled")) is None
    assert "from inputs that were computed in another way" in capsys.readouterr().err
    assert progress.Progress(kept.file, "another").restore(small_training("compiled"))


def test_a_training_that_was_interrupted_twice_tells_so_and_takes_all_its_seconds(
    make_folder: MakeFolder, entry: Entry, experiment: str, own_cache: Path
) -> None:
    words = ["--data", str(make_folder()), "--head_epochs", "6"]
    interrupt(entry, "head", words)
    (file,) = (own_cache / "trainings").glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        facts = json.loads(opened.metadata()["facts"])
    facts["result"]["seconds"] = 1000.0
    said = json.dumps(facts)
    crc = str(progress._crc32(said, tensors))
    save_file(tensors, file, metadata={"facts": said, "crc32": crc})
    interrupt(entry, "head", words)
    assert entry("head", *words) == 0
    first, second, third = runs(experiment, "head")
    assert second.data.tags[WENT_ON] == first.info.run_id
    assert third.data.tags[WENT_ON] == second.info.run_id
    assert third.data.metrics["time/total_seconds"] > third.data.metrics["time/train_seconds"]
    assert third.data.metrics["time/train_seconds"] > 1000


@pytest.mark.parametrize(
    ("command", "parent"),
    [("baseline --seeds 2", "baseline-seeds"), ("curve --fractions 0.5,1", "curve")],
)
def test_seeds_and_a_curve_train_nothing_twice(
    command: str,
    parent: str,
    make_folder: MakeFolder,
    entry: Entry,
    experiment: str,
) -> None:
    name, *options = command.split()
    words = ["--data", str(make_folder()), *options]
    interrupt(entry, name, words, "baseline")
    done = [run for run in runs(experiment, "baseline") if run.info.status == "FINISHED"]
    assert len(done) == 1
    assert entry(name, *words) == 0
    assert done[0].info.run_id in {
        run.data.tags.get(WENT_ON) for run in runs(experiment, "baseline")
    }
    assert [run.info.status for run in runs(experiment, parent)] == ["KILLED", "FINISHED"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no disk space left"),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "cannot be used"),
        (SafetensorError("something else"), "something else"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_disk_that_takes_nothing_ends_no_training(
    fault: Exception,
    said: str,
    make_folder: MakeFolder,
    entry: Entry,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(progress, "save_file", refuse)
    assert entry("head", "--data", str(make_folder()), "--head_epochs", "3") == 0
    told = capfd.readouterr().err
    assert "warning: how far the training came is not kept: " in told
    assert said in told
    assert told.count("how far the training came") == 2  # after the first epoch and at the end


def test_a_file_in_the_place_of_their_folder_ends_no_training(
    make_folder: MakeFolder, entry: Entry, own_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own_cache.mkdir()
    (own_cache / "trainings").touch()
    assert entry("head", "--data", str(make_folder())) == 0
    assert "File exists" in (said := capfd.readouterr().err)
    assert "this training does not go on after a kill" in said
