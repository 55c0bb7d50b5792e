"""The search space: what a study may vary, and what is refused before any work."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.search.space import DEFAULT, Space, as_written
from tlkit.search.study import _FREE, identity, sampler, study_name

BASE = Config(backbone="test_resnet", weights="none", unfreeze_depth=2)
UNITS = 5  # of test_resnet: the stem and a block in each of four stages

SCHEDULES = ("head_schedule", "finetune_schedule")
RATE = {"low": 1e-4, "high": 1e-2, "log": True}


def space_of(search: dict[str, Any], **values: Any) -> Space:
    return Space.of(replace(BASE, search=search, **values))


def fault_of(search: dict[str, Any], **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        space_of(search, **values)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("search: ")
    return message


def test_by_default_the_rates_the_depth_the_decay_and_the_dropout_are_searched() -> None:
    assert dict(Space.of(BASE).dimensions) == {
        "unfreeze_depth": IntDistribution(0, UNITS),
        "head_lr": FloatDistribution(1e-4, 1e-2, log=True),
        "backbone_lr": FloatDistribution(1e-6, 1e-3, log=True),
        "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
    }


@pytest.mark.parametrize(
    ("key", "wanted", "dimension"),
    [
        ("batch_size", [8, "16"], CategoricalDistribution([8, 16])),
        ("head_schedule", ["cosine", "plateau"], CategoricalDistribution(["cosine", "plateau"])),
        ("image_size", ["auto", "96"], CategoricalDistribution(["auto", 96])),
        ("head_lr", ["1e-3", 1e-2], CategoricalDistribution([1e-3, 1e-2])),
        ("head_lr", {"low": "1e-4", "high": "1e-2", "log": True},
         FloatDistribution(1e-4, 1e-2, log=True)),
        ("label_smoothing", {"low": 0, "high": 0.2, "step": 0.1},
         FloatDistribution(0.0, 0.2, step=0.1)),
        ("batch_size", {"low": 8, "high": 64, "log": True}, IntDistribution(8, 64, log=True)),
        ("batch_size", {"low": 8, "high": 64, "step": 8}, IntDistribution(8, 64, step=8)),
        ("image_size", {"low": 32, "high": 64, "step": 16}, IntDistribution(32, 64, step=16)),
        ("unfreeze_depth", {"low": 1, "high": "all"}, IntDistribution(1, UNITS)),
        ("unfreeze_depth", [0, UNITS], CategoricalDistribution([0, UNITS])),
    ],
)  # fmt: skip
def test_a_range_or_a_list_becomes_a_dimension_in_the_type_of_its_key(
    key: str, wanted: Any, dimension: optuna.distributions.BaseDistribution
) -> None:
    assert space_of({key: wanted}).dimensions[key] == dimension


def test_all_units_are_those_of_the_smallest_backbone_where_backbones_are_searched() -> None:
    search = {
        "backbone": ["test_vit", "test_resnet"],
        "unfreeze_depth": {"low": 0, "high": "all"},
    }
    dimensions = space_of(search, backbone="test_vit").dimensions
    assert dimensions["unfreeze_depth"] == IntDistribution(0, UNITS)


@pytest.mark.parametrize("key", ["backbone_lr", "batch_norm"])
def test_what_only_unfrozen_units_have_is_not_sampled_at_depth_0(key: str) -> None:
    wanted = RATE if key == "backbone_lr" else ["still", "moving"]
    value = 5e-3 if key == "backbone_lr" else "moving"
    # The depth is asked first, wherever it stands.
    space = space_of({key: wanted, "unfreeze_depth": {"low": 0, "high": "all"}})
    frozen = FixedTrial({"unfreeze_depth": 0, key: value})
    assert getattr(space.sample(frozen), key) == getattr(BASE, key)
    assert set(frozen.params) == {"unfreeze_depth"}
    open_top = FixedTrial({"unfreeze_depth": 1, key: value})
    assert getattr(space.sample(open_top), key) == value
    assert set(open_top.params) == {"unfreeze_depth", key}


def test_a_fixed_depth_of_0_is_known_too() -> None:
    space = space_of({"head_lr": RATE, "backbone_lr": RATE}, unfreeze_depth=0)
    trial = FixedTrial({"head_lr": 2e-3})
    assert space.sample(trial) == replace(space.base, head_lr=2e-3)


def test_at_a_fixed_depth_of_0_the_rate_of_the_backbone_alone_is_nothing_to_search() -> None:
    assert "nothing to search" in fault_of({"backbone_lr": RATE}, unfreeze_depth=0)
    assert space_of({"backbone_lr": RATE, "unfreeze_depth": [0, 1]}, unfreeze_depth=0)


@pytest.mark.parametrize(
    ("key", "reads", "other"),
    [("warmup_epochs", "cosine", "plateau"), ("early_stopping", "plateau", "cosine")],
)
def test_what_one_schedule_alone_reads_is_sampled_under_it_alone(
    key: str, reads: str, other: str
) -> None:
    some = {key: {"low": 1, "high": 3}}
    for searched, fixed in (SCHEDULES, SCHEDULES[::-1]):
        space = space_of({**some, searched: [other, reads]}, **{fixed: other})
        for schedule, value in ((reads, 2), (other, getattr(BASE, key))):
            trial = FixedTrial({searched: schedule, key: 2})
            assert getattr(space.sample(trial), key) == value
        assert space_of(some, **{searched: reads, fixed: other})
    told = fault_of(some, **dict.fromkeys(SCHEDULES, other))
    assert "nothing to search" in told
    assert f"{key} changes nothing where no schedule is {reads}" in told
    # A head that is there already is trained by no schedule.
    given = {"init_from": "0" * 32, "head_schedule": reads, "finetune_schedule": other}
    assert "nothing to search" in fault_of(some, **given)
    told = fault_of({"head_schedule": [other, reads]}, init_from="0" * 32)
    assert "head_schedule changes nothing with an init_from" in told


def test_a_latency_that_no_key_changes_is_refused() -> None:
    for search in ({"head_lr": RATE}, {"head_lr": RATE, "image_size": [64]}):
        message = fault_of(search, second_objective="latency")
        assert "only backbone and image_size do" in message
    for served in ({"image_size": [32, 64]}, {"backbone": ["test_resnet", "test_vit"]}):
        assert space_of({"head_lr": RATE, **served}, second_objective="latency")


def test_the_epochs_of_a_head_that_is_given_are_nothing_to_search() -> None:
    assert "head_epochs changes nothing with an init_from" in fault_of(
        {"head_epochs": [5, 10]}, init_from="a"
    )
    assert space_of({"head_epochs": [5, 10]})


def test_trials_of_a_study_lie_in_the_space_and_give_their_configuration_back() -> None:
    space = Space.of(BASE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    depths = set()
    for _ in range(40):
        trial = study.ask()
        config = space.sample(trial)
        study.tell(trial, 0.0)
        frozen = study.trials[-1]
        assert space.of_trial(frozen) == config
        assert frozen.distributions == {key: space.dimensions[key] for key in frozen.params}
        missing = set(space.dimensions) - set(frozen.params)
        assert missing == ({"backbone_lr"} if config.unfreeze_depth == 0 else set())
        depths.add(config.unfreeze_depth)
    assert depths == set(range(UNITS + 1))


@pytest.mark.parametrize(
    ("wanted", "value", "held"),
    [
        ({"low": 0.1, "high": 0.5}, 0.1, True),
        ({"low": 0.1, "high": 0.5}, 0.5, True),
        ({"low": 0.1, "high": 0.5}, 0.51, False),
        ({"low": 0.1, "high": 0.5}, 0.09, False),
        ({"low": 0.1, "high": 0.5, "step": 0.1}, 0.3, True),
        ({"low": 0.1, "high": 0.5, "step": 0.1}, 0.35, False),
        ([0.1, 0.3], 0.3, True),
        ([0.1, 0.3], 0.2, False),
    ],
)
def test_the_default_is_tried_whether_the_space_holds_it_or_not(
    wanted: Any, value: float, held: bool
) -> None:
    space = space_of({"dropout": wanted, "head_lr": RATE}, dropout=value)
    assert space.default() == {"head_lr": 1e-3} | ({"dropout": value} if held else {})
    study = optuna.create_study()
    study.enqueue_trial(space.default(), user_attrs={DEFAULT: True})
    trial = study.ask()
    assert space.sample(trial) == space.base
    study.tell(trial, 0.0)
    assert space.of_trial(study.trials[0]) == space.base


def test_the_values_of_a_trial_are_those_of_its_configuration_that_apply() -> None:
    search = {"unfreeze_depth": [0, 2], "backbone_lr": RATE, "dropout": [0.3, 0.4]}
    space = space_of(search, dropout=0.1)
    study = optuna.create_study()
    study.enqueue_trial(space.default(), user_attrs={DEFAULT: True})
    study.enqueue_trial({"unfreeze_depth": 0, "dropout": 0.3})
    for _ in range(2):
        trial = study.ask()
        space.sample(trial)
        study.tell(trial, 0.0)
    default, heads_alone = study.trials
    assert space.values(default) == {
        "unfreeze_depth": 2, "backbone_lr": BASE.backbone_lr, "dropout": 0.1
    }  # fmt: skip
    assert space.values(heads_alone) == {"unfreeze_depth": 0, "dropout": 0.3}


def test_a_word_is_not_held_by_a_range_of_numbers() -> None:
    space = space_of({"image_size": {"low": 32, "high": 64}}, image_size="auto")
    assert space.default() == {}


FAULTS: list[tuple[dict[Any, Any], tuple[str, ...]]] = [
    ({"heed_lr": RATE}, ("unknown key heed_lr", "did you mean head_lr")),
    ({"head_lr": {"low": 1e-2, "high": 1e-4}}, ("low=0.01 is above high=0.0001",)),
    ({"dropout": {"low": 0, "high": 1.5}}, ("dropout=1.5 is not allowed; from 0 up to",)),
    ({"dropout": [0.1, 7]}, ("dropout=7 is not allowed",)),
    ({"batch_size": {"low": 1.5, "high": 8}}, ("batch_size=1.5", "whole number")),
    ({"head_schedule": {"low": "cosine", "high": "plateau"}},
     ("head_schedule", "give a list of values")),
    ({"head_schedule": ["cosine", "linear"]}, ("head_schedule=linear", "cosine")),
    ({"image_size": {"low": 32, "high": "auto"}}, ("image_size", "give a list of values")),
    ({"head_lr": 0.1}, ("head_lr: 0.1 is neither a range", "nor a list")),
    ({"head_lr": []}, ("head_lr", "neither a range")),
    ({"head_lr": {"low": 0.1}}, ("head_lr", "neither a range")),
    ({"head_lr": {**RATE, "lgo": True}}, ("head_lr: unknown lgo; low, high, log, step",)),
    ({"head_lr": {**RATE, "log": "yes, please"}}, ("head_lr: log=yes, please",)),
    ({"weight_decay": {"low": 0, "high": 0.1, "log": True}}, ("weight_decay", "log")),
    ({"dropout": {"low": 0, "high": 0.5, "step": -0.1}}, ("dropout", "step")),
    ({"batch_size": {"low": 1, "high": 8, "step": 1.5}}, ("batch_size: step=1.5",)),
    ({"batch_size": {"low": 1, "high": 8, "step": math.inf}}, ("batch_size: step=inf",)),
    ({"dropout": {"low": 0, "high": 0.5, "step": 1e-320}}, ("dropout: step=1e-320",)),
    ({"dropout": {"low": 0, "high": 0.5, "step": math.nan}}, ("dropout: step=nan",)),
    ({"dropout": {"low": 0, "high": 0.5, "step": 0.2}},
     ("step=0.2 does not lead from low=0.0 to high=0.5; change one",)),
    ({"backbone": [], "unfreeze_depth": {"low": 0, "high": "all"}}, ("backbone: [] is neither",)),
    ({"backbone": [["a"]], "unfreeze_depth": {"low": 0, "high": "all"}}, ("backbone=['a']",)),
    ({5: [1, 2]}, ("unknown key 5",)),
    ({"batch_size": {"low": 1, "high": 8, "step": "two"}}, ("batch_size", "two")),
    ({"unfreeze_depth": {"low": 0, "high": UNITS + 1}}, ("6 is more than the 5 units",)),
    ({"unfreeze_depth": [1, UNITS + 1]}, ("6 is more than the 5 units",)),
    ({"head_lr": {"low": 0.1, "high": 0.1}},
     ("search: head_lr has one value, so there is nothing to search; widen",)),
    ({"head_lr": [0.1], "dropout": {"low": 0.2, "high": 0.2}},
     ("search: head_lr has one value, dropout has one value, so there is nothing",)),
    ({"unfreeze_depth": [0], "backbone_lr": RATE, "batch_norm": ["still", "moving"]},
     ("search: unfreeze_depth has one value, backbone_lr changes nothing at unfreeze_depth 0, "
      "batch_norm changes nothing at unfreeze_depth 0, so there is nothing to search",)),
    ({"unfreeze_depth": {"low": 0, "high": 0}, "backbone_lr": RATE}, ("nothing to search",)),
    ({"batch_size": [16, "16"]}, ("batch_size: 16 is more than once in [16, '16']", "once")),
    ({"head_lr": [1e-3, 1e-2, 0.001]}, ("head_lr: 0.001 is more than once",)),
    ({"backbone": "test_resnet", "unfreeze_depth": {"low": 0, "high": "all"}},
     ("backbone: test_resnet is neither",)),
]  # fmt: skip


@pytest.mark.parametrize(("search", "said"), FAULTS, ids=lambda value: str(value)[:50])
def test_a_fault_says_what_was_seen_and_what_is_allowed(
    search: dict[str, Any], said: tuple[str, ...]
) -> None:
    message = fault_of(search)
    for words in said:
        assert words in message


MOVING: dict[str, Any] = {"batch_norm": ["still", "moving"]}


@pytest.mark.parametrize(
    ("search", "values"),
    [
        ({**MOVING, "batch_size": [1, 4]}, {}),
        ({"dropout": [0.1, 0.2], "batch_size": [4, 1], **MOVING}, {}),
        ({**MOVING, "batch_size": {"low": 1, "high": 8}}, {}),
        (MOVING, {"batch_size": 1}),
        ({"batch_size": [1, 4]}, {"batch_norm": "moving"}),
    ],
)
def test_values_that_contradict_one_another_are_refused(
    search: dict[str, Any], values: dict[str, Any]
) -> None:
    message = fault_of(search, **values)
    assert message.count("batch_norm=moving and batch_size=1: one picture has no statistics") == 1


def test_values_that_no_trial_has_together_contradict_nothing() -> None:
    assert space_of({**MOVING, "batch_size": [2, 4]}).dimensions
    assert space_of({**MOVING, "batch_size": [1, 4], "unfreeze_depth": [0]}).dimensions


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("data", "the same pictures"),
        ("seed", "the same pictures"),
        ("groups", "the same pictures"),
        ("baseline_lr", "not the baseline"),
        ("baseline_schedule", "not the baseline"),
        ("engine", "how a trial is computed"),
        ("threads", "how a trial is computed"),
        ("trials", "a setting of the search itself"),
        ("search", "a setting of the search itself"),
    ],
)
def test_keys_that_make_no_sense_are_refused_with_the_reason(key: str, reason: str) -> None:
    message = fault_of({key: [1, 2]})
    assert f"{key} cannot be searched: " in message
    assert reason in message


def test_what_may_differ_within_a_study_cannot_be_searched_in_it() -> None:
    for key in _FREE:
        assert f"{key} cannot be searched: " in fault_of({key: [1, 2]})


def test_all_faults_are_told_together() -> None:
    search = {
        "heed_lr": RATE,
        "dropout": {"low": 0.5, "high": 0.1},
        "batch_size": [0, 8],
        "head_lr": RATE,
        "data": ["a", "b"],
    }
    message = fault_of(search)
    assert message.count("search: ") == 4
    for words in ("unknown key heed_lr", "low=0.5 is above", "batch_size=0", "data cannot"):
        assert words in message


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        ([16, 32], "[16, 32]"),
        ({"low": 8, "high": 64}, "{low: 8, high: 64}"),
        ({"low": 8, "high": 64, "step": 8}, "{low: 8, high: 64, step: 8}"),
        ({"low": 8, "high": 64, "log": True}, "{low: 8, high: 64, log: true}"),
    ],
)
def test_a_dimension_is_told_as_it_is_written(wanted: Any, written: str) -> None:
    assert as_written(space_of({"batch_size": wanted}).describe()["batch_size"]) == written
    rates = space_of({"head_lr": [1e-3, 1e-2], "head_schedule": ["cosine", "plateau"]}).describe()
    assert [as_written(each) for each in rates.values()] == ["[cosine, plateau]", "[0.001, 0.01]"]
    kept_otherwise = "CategoricalDistribution(choices=(1, 2))"
    assert as_written(kept_otherwise) == kept_otherwise


def test_one_key_of_several_may_have_a_single_value() -> None:
    space = space_of({"head_lr": [0.1], "dropout": [0.1, 0.2]})
    assert space.sample(FixedTrial({"head_lr": 0.1, "dropout": 0.2})).head_lr == 0.1


def test_studies_are_of_one_name_only_where_their_trials_can_be_compared() -> None:
    def name(digest: str = "d", **values: Any) -> str:
        space = Space.of(replace(BASE, **values))
        own = identity(space, digest)
        assert json.loads(json.dumps(own)) == own  # what a storage gives back
        return study_name(space.base, own)

    assert name() == name(trials=99, workers=2, threads=1, timeout=3.0, data="moved/elsewhere")
    others = [
        name(),
        name("other data"),
        name(head_epochs=3),
        name(objective="accuracy"),
        name(search={"dropout": [0.1, 0.2]}),
        name(search={"dropout": [0.1, 0.3]}),
    ]
    assert len(set(others)) == len(others)
    assert name(study="mine") == "mine"


def test_each_seed_that_is_allowed_is_one_for_the_sampler() -> None:
    study = optuna.create_study(sampler=sampler(2**31 - 1, 20, 1))
    assert 0 <= study.ask().suggest_float("dropout", 0, 1) <= 1


@pytest.mark.parametrize("listed", [True, False])
def test_a_file_of_weights_with_another_content_is_another_study(
    listed: bool, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    values = {"weights": "none" if listed else str(file)}
    search = {"head_lr": RATE, **({"weights": ["none", str(file)]} if listed else {})}
    space = space_of(search, **values)
    with pytest.raises(UserError, match="is not a file; pass auto"):
        identity(space, "d")
    file.write_bytes(b"one")
    first = identity(space, "d")
    assert identity(space, "d") == first
    file.write_bytes(b"two")
    second = identity(space, "d")
    assert {key for key in first if first[key] != second[key]} == {f"content of {file}"}
    assert study_name(space.base, first) != study_name(space.base, second)


@pytest.mark.parametrize(
    ("depths", "rungs"),
    [
        ([0], []),
        ({"low": 0, "high": 0}, []),
        ([0, 2, 4], [2, 4]),
        ({"low": 0, "high": 4, "step": 2}, [2, 4]),
        ({"low": 0, "high": "all"}, [2, 4]),
    ],
)
def test_outputs_are_kept_at_depths_that_are_searched(depths: Any, rungs: list[int]) -> None:
    assert space_of({"unfreeze_depth": depths, "head_lr": RATE}).rungs() == rungs
