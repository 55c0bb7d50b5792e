"""From the `data` key to a manifest that is fit to train on."""

from pathlib import Path

from tlkit.data.audit import AuditReport, audit
from tlkit.data.manifest import Manifest
from tlkit.data.sources import open_source


def prepare(
    data: str,
    *,
    cache: Path,
    seed: int,
    max_pixels: int,
    val_fraction: float,
    test_fraction: float,
    workers: int,
) -> tuple[Manifest, AuditReport]:
    """Find, or make, the pictures that `data` names (`open_source`) and look at each (`audit`).

    Raises UserError for anything a user can put right.
    """
    source = open_source(data, cache, seed)
    return audit(
        source,
        seed=seed,
        max_pixels=max_pixels,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        workers=workers,
    )
