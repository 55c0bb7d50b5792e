"""The keys of the entry points that look at several runs."""

from dataclasses import dataclass

from tlkit.keys import Settings, at_least, key


@dataclass(frozen=True)
class CompareSettings(Settings):
    """Of `-e compare`."""

    runs: str = key(
        "auto",
        "run ids with commas between them; that of a suite, a search or a repetition stands for "
        "the trainings below it; auto: the newest baseline, head and finetune on the same data",
        "auto, or run ids",
        lambda value: value != "",
    )
    pictures: int = at_least(12, 1, "test pictures that the heat maps of all models are shown for")
    timed: int = at_least(20, 1, "pictures that the seconds for one picture are measured on")
