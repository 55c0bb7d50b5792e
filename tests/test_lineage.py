"""What a run has seen that another one begins from: who is asked, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tlkit.config import Config
from tlkit.data.manifest import Manifest, Picture
from tlkit.errors import UserError
from tlkit.lineage import learned_from, refuse_seen
from tlkit.phases import identity
from tlkit.phases.identity import head_settings
from tlkit.phases.machine import Machine
from tlkit.phases.network import build_network
from tlkit.tracking.run import start_run
from tlkit.tracking.tags import INIT_TAG

pytestmark = pytest.mark.usefixtures("experiment")


def manifest(root: Path, **splits: str) -> Manifest:
    """With a picture for each letter of a split."""
    pictures = [
        Picture(f"{split}/{letter}.png", 0, split, letter * 64)
        for split, letters in splits.items()
        for letter in letters
    ]
    return Manifest(root, ("cat",), tuple(pictures))


def made(root: Path, begun: str = "", /, phase: str = "finetune", **splits: str) -> str:
    """The id of a run on these pictures, begun from another one; without pictures it keeps none."""
    with start_run(phase) as tracker:
        if splits:
            folder = root / tracker.run_id
            (folder / "data").mkdir(parents=True)
            manifest(root, **splits).write(folder / "data" / "manifest.csv")
            tracker.artifacts(folder)
        if begun:
            tracker.tags({INIT_TAG: begun})
    return tracker.run_id


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"train": "abt"}, "1 of the 2 test pictures"),
        ({"train": "ab", "val": "tu"}, "2 of the 2 test pictures"),
        ({"train": "abv"}, "1 of the 1 val pictures"),
        ({"train": "ab", "val": "v", "test": "tu"}, ""),
    ],
)
@pytest.mark.parametrize("generations", [1, 2, 3])
def test_what_is_held_out_must_be_new_to_all_that_a_run_began_from(
    theirs: dict[str, str], said: str, generations: int, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run_id = made(tmp_path, **theirs)
    for _ in range(generations - 1):
        run_id = made(tmp_path, run_id, train="a")
    wanted = manifest(tmp_path, train="ab", val="v", test="tu")
    if said:
        with pytest.raises(UserError, match=f"init_from={run_id} has seen {said} in training or"):
            refuse_seen(run_id, wanted)
    else:
        refuse_seen(run_id, wanted)
    assert capsys.readouterr().err == ""


def test_a_trial_had_the_pictures_of_the_run_made_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = made(tmp_path, made(tmp_path, "0" * 32, phase="trial"), train="a")
    refuse_seen(run_id, manifest(tmp_path, train="a", val="v", test="t"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("gone", ["run", "manifest"])
def test_one_that_is_gone_is_told_and_the_others_are_asked(
    gone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = "0" * 32 if gone == "run" else made(tmp_path)
    run_id = made(tmp_path, made(tmp_path, before, train="at"), train="a")
    refuse_seen(run_id, manifest(tmp_path, train="a", val="v", test="u"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: what run {before}, from which run {run_id} began, has")
    reason = {"run": f"no run {before} at", "manifest": "has no artifact data/manifest.csv"}
    assert reason[gone] in line
    with pytest.raises(UserError, match="1 of the 1 test pictures"):
        refuse_seen(run_id, manifest(tmp_path, train="a", val="v", test="t"))
    with pytest.raises(UserError, match=f"no run {'1' * 32}"):
        refuse_seen("1" * 32, manifest(tmp_path, train="a", val="v", test="t"))


def test_a_model_learned_from_what_the_runs_before_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made(tmp_path, train="a", val="b", test="c")
    last = made(tmp_path, made(tmp_path, first, train="d", test="e"), train="f", val="a")
    assert learned_from(last) == {letter * 64 for letter in "abdf"}
    assert learned_from(made(tmp_path)) == frozenset()
    assert learned_from("0" * 32) == frozenset()
    assert capsys.readouterr().err == ""


def test_a_head_is_the_same_by_what_it_was_computed_in_and_not_by_what_was_asked() -> None:
    def settings(**asked: str) -> list[str]:
        config = Config.load(None, {"backbone": "test_resnet", "weights": "none", **asked})
        torch.manual_seed(0)
        network = build_network("head", config, ("cat", "dog"))
        return [
            head_settings(config, network, Machine(torch.device(device), dtype, True, threads, 0))
            for device in ("cpu", "cuda")
            for dtype in (torch.float32, torch.bfloat16)
            for threads in (1, 2)
        ]

    auto = settings()
    assert auto == settings(precision="fp32", threads="1", image_size="160")
    assert len(set(auto)) == 8
    assert not set(auto) & set(settings(image_size="96"))


def test_a_head_without_augmentation_is_the_same_after_a_revision_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(torch.device("cpu"), torch.float32, True, 1, 0)
    words = {"backbone": "test_resnet", "weights": "none"}
    plain, turned = (Config.load(None, {**words, "augment": how}) for how in ("none", "recipe"))
    network = build_network("head", plain, ("cat", "dog"))
    before = [head_settings(config, network, machine) for config in (plain, turned)]
    monkeypatch.setattr(identity, "AUGMENTATION_REVISION", -1)
    assert head_settings(plain, network, machine) == before[0]
    assert head_settings(turned, network, machine) != before[1]


def test_a_head_on_other_weights_is_another() -> None:
    machine = Machine(torch.device("cpu"), torch.float32, True, 1, 0)
    config = Config.load(None, {"backbone": "test_resnet", "weights": "none"})
    network = build_network("head", config, ("cat", "dog"))
    other = replace(network, weights="0" * 64)
    assert head_settings(config, network, machine) != head_settings(config, other, machine)
