"""What is kept on disk between runs, shown and deleted."""

from contextlib import suppress

from tlkit.config import Config
from tlkit.data.looks import MAX_BYTES
from tlkit.files import cache_folder
from tlkit.phases.engine import open_store
from tlkit.runs.prepare import LOOKS
from tlkit.summary import of_store
from tlkit.tracking.run import start_run
from tlkit.training.progress import forget, interrupted_trainings, trainings_folder


def run_cache(config: Config) -> str:
    """Show what is stored of frozen parts, audits and interrupted trainings, as a run called
    `cache`, and delete it if wanted.

    Returns:
        The listing, and what was freed.
    """
    with start_run("cache") as tracker:
        store = open_store(config.store_gigabytes)
        looks = cache_folder() / LOOKS
        size = looks.stat().st_size if looks.exists() else 0
        begun = interrupted_trainings()
        listing = (
            f"{of_store(store)}\n{size / 1e6:,.1f} MB of at most {MAX_BYTES / 1e6:,.0f} MB on what "
            f"the audit saw in pictures in {looks}\n{sum(begun.values()) / 1e6:,.1f} MB on how far "
            f"trainings came, interrupted or under way: {len(begun)} in {trainings_folder()}"
        )
        if config.clear == "yes":
            there = sum(info.size for info in store.entries()) + size + sum(begun.values())
            freed = store.clear()
            with suppress(OSError):  # Windows: in use; or another user's
                looks.unlink(missing_ok=True)
                freed += size
            freed += forget(begun)
            listing += f"\nFreed {freed / 1e6:,.1f} MB."
            if there > freed:
                listing += f" {(there - freed) / 1e6:,.1f} MB stay: in use, or another user's."
        tracker.describe(f"```\n{listing}\n```")
    return listing
