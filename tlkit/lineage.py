"""A run that another one begins from: its weights, and what it has seen."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlkit.data.manifest import Manifest, read
from tlkit.errors import UserError
from tlkit.tracking.lookup import artifact_names, downloaded, find_run
from tlkit.tracking.tags import INIT_TAG, PHASE_TAG


@contextmanager
def best_checkpoint(init_from: str) -> Iterator[Path]:
    """The weights that the run to begin from kept, as `load_checkpoint` takes it, for as long
    as the block lasts.

    Raises:
        UserError: no such run, or one of which no epoch was kept.
    """
    with downloaded(init_from, "checkpoints") as folder:
        if not (folder / "best.json").exists():
            raise UserError(
                f"init_from={init_from} has no checkpoint: it failed before an epoch of it was "
                "kept; name a finished run of head or finetune, or use init_from=auto"
            )
        yield folder / "best"


def has_checkpoint(run_id: str) -> bool:
    """Whether the run still has one: artifacts can be deleted without it."""
    return {"best.json", "best.safetensors"} <= artifact_names(run_id, "checkpoints")


def refuse_seen(init_from: str, manifest: Manifest) -> None:
    """Raise UserError where the run to begin from, or one that it began from itself, has seen in
    training or validation what `manifest` holds out: a test of it would say nothing. Of groups it
    may be the name alone that is the same, so that is a warning."""
    groups: set[str] = set()
    seen: dict[str, set[str]] = {"val": set(), "test": set()}
    for theirs in _manifests(init_from, manifest.root):
        trained, held_out = (
            {picture.sha256 for picture in theirs.of(split)} for split in ("train", "val")
        )
        seen["val"] |= trained
        seen["test"] |= trained | held_out
        groups |= {one.group for split in ("train", "val") for one in theirs.of(split)}
    for split, hashes in seen.items():
        pictures = manifest.of(split)
        if known := sum(picture.sha256 in hashes for picture in pictures):
            raise UserError(
                f"init_from={init_from} has seen {known} of the {len(pictures)} {split} pictures "
                "in training or validation; use its data, data_seed and fractions, or "
                "init_from=auto"
            )
    tested = {picture.group for picture in manifest.of("test")} - {""}
    if known := len(tested & groups):
        print(
            f"warning: init_from={init_from} has seen, in training or validation, groups with the "
            f"names of {known} of the {len(tested)} groups of the test; where they are the same, "
            "its test says too much: use its data, data_seed and fractions, or init_from=auto",
            file=sys.stderr,
        )


def learned_from(run_id: str) -> frozenset[str]:
    """The sha256 of the pictures that a run, or one that it began from, trained or was validated
    on; none where that is not known."""
    known: set[str] = set()
    try:
        for manifest in _manifests(run_id, Path()):
            known |= {one.sha256 for split in ("train", "val") for one in manifest.of(split)}
    except UserError:
        return frozenset()
    return frozenset(known)


def _manifests(run_id: str, root: Path) -> Iterator[Manifest]:
    """Of the run, and of those that it began from as far as they are still there."""
    yield _manifest(run_id, root)
    last = find_run(run_id)
    while before := last.tags.get(INIT_TAG):
        try:
            last = find_run(before)
            if last.tags.get(PHASE_TAG) == "trial":
                return  # its pictures were those of the run that was made of it
            theirs = _manifest(before, root)
        except UserError as error:
            print(
                f"warning: what run {before}, from which run {run_id} began, has seen in training "
                f"or validation is not known: {error}",
                file=sys.stderr,
            )
            return
        yield theirs


def _manifest(run_id: str, root: Path) -> Manifest:
    with downloaded(run_id, "data/manifest.csv") as path:
        return read(path, root)
