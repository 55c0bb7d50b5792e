"""Configuration: precedence, checks, and the files that mirror it."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from tlkit.config import Config
from tlkit.deployment.settings import PredictSettings
from tlkit.errors import UserError

CONFIGS = Path(__file__).parents[1] / "experiments" / "configs"


def test_a_flag_beats_the_file_and_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("head_lr: 1e-2\nseed: 5\n")
    config = Config.load(file, {"seed": "7"})
    assert (config.head_lr, config.seed, config.views) == (0.01, 7, Config().views)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_loads(file: Path) -> None:
    Config.load(file, {})


def test_the_default_file_mirrors_the_dataclass() -> None:
    content = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    assert list(content) == list(Config.names())
    assert Config.load(CONFIGS / "default.yaml", {}) == Config()


def test_the_default_file_says_of_each_key_what_the_dataclass_says() -> None:
    text = (CONFIGS / "default.yaml").read_text()
    found = re.findall(r"((?:^# .*\n)+)^(\w+):", text, re.MULTILINE)
    in_file = {key: " ".join(comment.replace("# ", "").split()) for comment, key in found}
    for key, _, meaning, _ in Config.describe():
        # The comment of the first key of a group has the group's name before it.
        assert in_file[key].endswith(meaning), key


def test_on_and_no_are_words(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("compile: on\nclear: no\n")
    config = Config.load(file, {})
    assert (config.compile, config.clear) == ("on", "no")


@pytest.mark.parametrize("name", ["2024_01", "010", "12:30", "2024.10", "2026-99-99", "1e3"])
def test_a_name_in_a_file_is_the_text_that_stands_there(tmp_path: Path, name: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"study: {name}\nhead_lr: 1e-3\nviews: 010\n")
    config = Config.load(file, {})
    assert config == Config.load(None, {"study": name, "head_lr": "0.001", "views": "10"})
    assert config.study == name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("head_lr: 1\nseed: 0\nhead_lr: 2\n", "it has the key head_lr twice"),
        ("search: {dropout: {low: 0, low: 0.1}}", "it has the key low twice"),
        ("seed: !!int abc", "is not a YAML file"),
        ("a: " + 5000 * "[", "is not a YAML file"),
        ("a: &a [x]\nb: *a\n", "it has an alias (*); write out what it stands for"),
        ("null: 3\n", "unknown key None; keys: data"),
        ("data: [a, b]", "data=['a', 'b']: one value wanted, no list"),
        ("head_lr: |\n  x\n  y\n", "head_lr=x y: a number wanted"),
    ],
)
def test_a_slip_in_a_file_is_told_on_one_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        Config.load(file, {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["mine.yaml/x", "n" * 5000])
def test_a_path_that_can_be_no_file_is_told_on_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 1")
    with pytest.raises(UserError, match=r"config=.*; a file wanted") as caught:
        Config.load(tmp_path / name, {})
    assert len(str(caught.value)) < 500


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    config = Config.load(None, {"head_lr": "0.00012", "image_size": "96", "init_from": "123"})
    config.write(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml", {}) == config


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql+psycopg://me:s@cret@db/x", "postgresql+psycopg://me:***@db/x"),
        ("postgresql://db/x?user=me&password=s@cret", "postgresql://db/x?user=me&password=***"),
        ("sqlite:////tmp/me:a@b.db", "sqlite:////tmp/me:a@b.db"),
    ],
)
def test_a_password_is_there_and_is_neither_logged_nor_written(
    address: str, shown: str, tmp_path: Path
) -> None:
    config = Config(storage=address)
    config.write(tmp_path / "config.yaml")
    assert config.storage == address
    assert config.as_dict()["storage"] == shown
    assert Config.load(tmp_path / "config.yaml", {}).storage == shown


@pytest.mark.parametrize("name", ["Anna's", 'the "best"', "`pets`", "a/b", "a:b", " "])
def test_a_name_that_the_registry_cannot_be_asked_for_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="not allowed; none or a name without /, :, quotes and"):
        Config.load(None, {"register": name})


def test_all_faults_are_told_together() -> None:
    with pytest.raises(UserError) as caught:
        Config.load(None, {"heed_lr": "1", "dropout": "1.5", "views": "two", "engine": "fast"})
    message = str(caught.value)
    assert "unknown key heed_lr; did you mean head_lr" in message
    assert "dropout=1.5 is not allowed; from 0 up to" in message
    assert "views=two: a number wanted" in message
    assert "engine=fast is not allowed; one of cached, plain" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("head_lr", "0"),
        ("head_lr", "nan"),
        ("head_lr", "inf"),
        ("batch_size", "0"),
        ("batch_size", "2.5"),
        ("image_size", "automatic"),
        ("image_size", "8"),
        ("image_size", "1000000"),
        ("baseline_image_size", "100000"),
        ("threads", "100000"),
        ("loader_workers", "100000"),
        ("seed", "-1"),
        ("data", "''"),
        ("early_stopping", "-1"),
        ("label_smoothing", "1"),
        ("dropout", "-0.1"),
        ("views", "0"),
        ("accumulate", "0"),
        ("seed", "2147483648"),
        ("baseline_image_size", "15"),
        ("image_size", "4097"),
        ("train_fraction", "0"),
        ("train_fraction", "1.1"),
        ("fractions", "0.5, 2"),
        ("fractions", "0.5, half"),
        ("search", "{}"),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_allowed(key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{key}={value}"):
        Config.load(None, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 16),
        ("image_size", 4096),
        ("baseline_image_size", 16),
        ("baseline_image_size", 4096),
        ("loader_workers", 0),
        ("seed", 2**31 - 1),
        ("train_fraction", 1.0),
        ("dropout", 0.0),
        ("weight_decay", 0.0),
        ("early_stopping", 0),
    ],
)
def test_what_is_just_allowed_is_taken(key: str, value: float) -> None:
    assert getattr(Config.load(None, {key: str(value)}), key) == value


def test_what_a_configuration_stands_for() -> None:
    given = Config.load(None, {"fractions": "1, 0.5,0.25, 0.5", "seed": "3"})
    assert given.fractions_in_order == [0.25, 0.5, 1.0]
    assert (given.pictures_seed, Config(seed=3, data_seed=0).pictures_seed) == (3, 0)
    given.search["dropout"]["high"] = 0.9  # is its own
    assert Config().search["dropout"]["high"] == 0.5


def test_whole_numbers_are_written_alike_for_every_key(tmp_path: Path) -> None:
    given = {"views": "2.0", "seed": "1e3", "image_size": "32.0", "data_seed": "1e3"}
    config = Config.load(None, given)
    assert (config.views, config.seed, config.image_size, config.data_seed) == (2, 1000, 32, 1000)
    assert type(config.image_size) is int
    assert Config.load(None, {"data_seed": str(2**60 + 1)}).data_seed == 2**60 + 1
    with pytest.raises(UserError, match=r"views=1\.5: a whole.*threads=1\.5: a whole"):
        Config.load(None, {"views": "1.5", "threads": "1.5"})


def test_a_value_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UserError, match=r"data=caf.: UTF-8 wanted"):
        Config.load(None, {"data": "caf\udce9"})


def test_contradicting_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"must be below 1"):
        Config.load(None, {"val_fraction": "0.5", "test_fraction": "0.5"})
    for fraction in ("val_fraction", "test_fraction"):
        with pytest.raises(UserError, match=f"{fraction}=0 is not allowed; above 0 and"):
            Config.load(None, {fraction: "0"})
    with pytest.raises(UserError, match=r"the last seed would be 2147483648, .* seeds to 1$"):
        Config.load(None, {"seed": str(2**31 - 1), "seeds": "2"})
    assert Config.load(None, {"seed": str(2**31 - 2), "seeds": "2"}).seeds == 2
    with pytest.raises(UserError, match="one picture has no statistics"):
        Config.load(None, {"batch_norm": "moving", "batch_size": "1"})


def test_an_empty_value_in_a_file_does_not_become_a_word(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("weights:\n")
    with pytest.raises(UserError, match="weights="):
        Config.load(file, {})


@pytest.mark.parametrize("content", ["", "# all is as it is by default\n"])
def test_a_file_without_keys_is_the_default(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    assert Config.load(file, {}) == Config()


@pytest.mark.parametrize("search", ["[" * 5000, "!!int x", "{a: 1"])
def test_a_search_that_cannot_be_read_is_told(search: str) -> None:
    with pytest.raises(UserError, match="a mapping wanted, such as"):
        Config.load(None, {"search": search})


def test_spaces_around_a_value_are_none_of_it() -> None:
    assert Config.load(None, {"engine": " plain ", "data": " a b "}).data == "a b"


def test_true_and_false_have_four_words_each() -> None:
    given = {"model": "m", "images": "i"}
    for words, value in (("true Yes ON 1", True), ("false No OFF 0", False)):
        for word in words.split():
            assert PredictSettings.load(None, {**given, "gradcam": word}).gradcam is value
    with pytest.raises(UserError, match="gradcam=maybe: true or false wanted"):
        PredictSettings.load(None, {**given, "gradcam": "maybe"})


def test_a_key_that_has_to_be_given_is_told_once() -> None:
    with pytest.raises(UserError) as caught:
        PredictSettings.load(None, {"model": ""})
    model, images = str(caught.value).split("; images is not given; -P images=VALUE, ")
    assert model.startswith("model= is not allowed; ")
    assert "model is not given" not in model
    assert images


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused_on_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        Config.load(file, {})
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        Config.load(Path("nowhere.yaml"), {})


def test_every_key_says_what_it_means() -> None:
    for item in fields(Config):
        assert item.metadata["help"], item.name
        assert item.metadata["allowed"], item.name
