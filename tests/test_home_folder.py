"""`~` is the home folder in every path that a user writes; one that is not known is told."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tlkit.cli import main
from tlkit.config import Config
from tlkit.data.given import find_pictures
from tlkit.data.sources import open_source
from tlkit.deployment.abtest import read_outcomes
from tlkit.errors import UserError
from tlkit.files import cache_folder, output_folder, scratch_folder
from tlkit.models.weights import file_digest, load_weights
from tlkit.tracking.lookup import local_model


def use_model(path: str) -> None:
    with local_model(path):
        pass


def use_weights(path: str) -> None:
    load_weights(torch.nn.Linear(1, 1), "any", path)


def use_cache(path: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", path)
        cache_folder()


USES: list[Callable[[str], object]] = [
    lambda path: open_source(path, Path("cache"), 0),
    lambda path: find_pictures(path, Path("cache")),
    lambda path: read_outcomes(Path(path)),
    output_folder,
    file_digest,
    use_weights,
    use_model,
    use_cache,
]


@pytest.mark.parametrize("use", USES)
def test_a_home_folder_that_is_not_known_is_told(
    use: Callable[[str], object], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"^~nosuchuser/x: the home folder ~nosuchuser is not known"
    ):
        use("~nosuchuser/x")
    assert not list(tmp_path.iterdir())


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TLKIT_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "cache"
    (tmp_path / "w.pth").write_bytes(b"")
    assert len(file_digest("~/w.pth")) == 64
    with pytest.raises(UserError, match=r"w\.pth cannot be read"):
        use_weights("~/w.pth")
    (tmp_path / "mine.yaml").write_text("seed: 7")
    found: list[Config] = []
    with pytest.raises(SystemExit, match=r"^0$"):
        main(found.append, Config, ["--config", "~/mine.yaml"])
    assert found == [Config(seed=7)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "mine.yaml", "w.pth"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="the system has no user ids")
def test_a_temporary_folder_that_others_may_write_into_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # beside a cache that is only read
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = scratch_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(UserError, match="others may write into it"):
        scratch_folder()
    folder.chmod(0o700)
    folder.rename(tmp_path / "mine")
    folder.symlink_to(tmp_path / "mine")  # which somebody may turn to another place
    with pytest.raises(UserError, match="others may write into it"):
        scratch_folder()
    folder.unlink()
    (tmp_path / "mine").rename(folder)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    folder.rename(tmp_path / f"tlkit-{user + 1}")
    with pytest.raises(UserError, match="is another user's"):
        scratch_folder()


def test_an_output_folder_is_made_and_has_to_be_empty(tmp_path: Path) -> None:
    assert output_folder("none") is None
    folder = tmp_path / "a" / "b"
    assert output_folder(str(folder)) == output_folder(str(folder)) == folder
    (folder / "mine").touch()
    with pytest.raises(UserError, match="holds mine already; name a new or empty folder"):
        output_folder(str(folder))
    with pytest.raises(UserError, match="is no folder and cannot be made"):
        output_folder(str(folder / "mine"))
