"""What a run has seen that another one begins from."""

from tlkit.data.manifest import Manifest, read
from tlkit.errors import UserError
from tlkit.tracking import INIT_TAG, PHASE_TAG, downloaded, find_run


def refuse_seen(init_from: str, manifest: Manifest) -> None:
    """Raise UserError where the run to begin from, or one that it began from itself, has seen in
    training what `manifest` holds out: a test of it would say nothing."""
    seen: dict[str, set[str]] = {"val": set(), "test": set()}
    run_id: str | None = init_from
    while run_id:
        with downloaded(run_id, "data/manifest.csv") as path:
            theirs = read(path, manifest.root)
        trained, held_out = (
            {picture.sha256 for picture in theirs.of(split)} for split in ("train", "val")
        )
        seen["val"] |= trained
        seen["test"] |= trained | held_out
        run_id = find_run(run_id).tags.get(INIT_TAG)
        if run_id and find_run(run_id).tags.get(PHASE_TAG) == "trial":
            break  # its pictures were those of the run that was made of it
    for split, hashes in seen.items():
        pictures = manifest.of(split)
        if known := sum(picture.sha256 in hashes for picture in pictures):
            raise UserError(
                f"init_from={init_from} has seen {known} of the {len(pictures)} {split} pictures "
                "in training; use its data, data_seed and fractions, or init_from=auto"
            )
