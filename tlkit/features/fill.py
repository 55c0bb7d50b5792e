"""Filling the store: each output of a frozen prefix is computed once, and never again."""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from tlkit.features.inputs import Batches, Outputs, Pictures, Rendition, StoredInputs
from tlkit.features.prefix import PASS, Frozen, Prefix
from tlkit.features.store import Entry, Filling, Rows, Store, Unwritable

# Passes after which the rates are known. The first one waits for the loader to start, and the next
# find what its workers prepared meanwhile: a few alone would look faster than all.
_WARM_UP, _MEASURED = 1, 12


@dataclass
class Report:
    """What filling did, for the log.

    Attributes:
        hits: outputs that were in the store.
        wanted: outputs in all.
        bytes: of the stored outputs that training reads.
        decision: "store", or why outputs are computed again in every epoch.
        rates: seconds a picture, "compute", "write" and "read", where measured.
        seconds: wall time.
    """

    hits: int = 0
    wanted: int = 0
    bytes: int = 0
    decision: str = "store"
    rates: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers, by their names in MLflow."""
        return {
            "time/prefix_seconds": self.seconds,
            "features/hits": float(self.hits),
            "features/wanted": float(self.wanted),
            "features/bytes": float(self.bytes),
            **{f"features/{name}_seconds": rate for name, rate in self.rates.items()},
        }


def stored_inputs(
    store: Store, prefix: Frozen, pictures: Pictures, epochs: int, compiling: str = "off"
) -> tuple[StoredInputs, Report]:
    """What a suffix trains on: every output that is not in the store is computed and put there.

    What does not fit, or is not worth its place, is computed again whenever it is used, with the
    same result.

    Args:
        epochs: how many will train on the inputs.
        compiling: "on", "off", or "auto" where it saves time.
    """
    started = time.perf_counter()
    report = Report()
    views = min(pictures.count, epochs)
    # Once more than this run needs, for the next one.
    uses = [-(-epochs // views) + 1] * views + [epochs + 1]
    renditions = [
        *(Rendition(pictures, "train", view) for view in range(views)),
        Rendition(pictures, "val", None),
    ]
    if isinstance(prefix, Prefix):
        prefix = _with_compiler(store, prefix, renditions, compiling)
    found = _read(store, prefix, renditions)
    report.wanted = sum(len(rows.slots) for rows in found)
    missing = _absent(found)
    report.hits = report.wanted - missing
    with tqdm(
        total=missing, desc="frozen part", unit="picture", disable=None, leave=None
    ) as progress:
        for index, rendition in enumerate(renditions):
            if found[index].missing:
                fill = _Fill(store, prefix, rendition, uses[index], report, progress)
                found[index] = fill.run()
    report.bytes = sum(
        int((rows.slots >= 0).sum()) * rows.mapped[0].nbytes for rows in found if len(rows.mapped)
    )
    if isinstance(prefix, Prefix) and _fits(prefix.device, report.bytes):
        found = [rows.to(prefix.device) for rows in found]
    outputs = [
        Outputs(rendition, prefix, rows) for rendition, rows in zip(renditions, found, strict=True)
    ]
    report.seconds = time.perf_counter() - started
    return StoredInputs(tuple(outputs[:-1]), outputs[-1]), report


def _fits(device: torch.device, size: int) -> bool:
    """Whether so many bytes may stay on a GPU, which leaves half of what is free to training."""
    return device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] // 2


def _read(store: Store, prefix: Frozen, renditions: Sequence[Rendition]) -> list[Rows]:
    return [
        _entry(store, prefix, prefix.depth, rendition).read(rendition.names)
        for rendition in renditions
    ]


def _absent(found: Sequence[Rows]) -> int:
    return sum(len(rows.missing) for rows in found)


def _with_compiler(
    store: Store, prefix: Prefix, renditions: Sequence[Rendition], compiling: str
) -> Prefix:
    """The prefix as compiled code, where that is wanted and possible."""
    compiled = replace(prefix, compiled=True)
    if compiling == "off":
        return prefix
    found = _read(store, compiled, renditions)
    if not _absent(found):
        return compiled
    size = renditions[0].pictures.views.preprocessing.config["input_size"]
    left = _absent(_read(store, prefix, renditions))
    if compiling == "auto" and not prefix.pays_to_compile(left, size):
        return prefix
    rendition, rows = next(both for both in zip(renditions, found, strict=True) if both[1].missing)
    names = [rendition.names[index] for index in rows.missing]
    start = _nearest(store, compiled, rendition, names, compiled.depth)
    example = torch.zeros(1, *size)
    if start < compiled.whole:
        example = compiled.inputs(_entry(store, compiled, start, rendition).read(names).gather([0]))
    if fault := compiled.compile_fault(example, start):
        print(f"frozen part: runs uncompiled, for compiling failed: {fault}", file=sys.stderr)
        return prefix
    return compiled


def _entry(store: Store, prefix: Frozen, depth: int, rendition: Rendition) -> Entry:
    return store.entry(prefix.key(depth, rendition.key()))


def _nearest(
    store: Store, prefix: Frozen, rendition: Rendition, names: Sequence[str], above: int
) -> int:
    """The depth of the nearest cut above `above` that has outputs of all these pictures, or that of
    the pictures."""
    for depth in range(above + 1, prefix.whole):
        if not _entry(store, prefix, depth, rendition).read(names).missing:
            return depth
    return prefix.whole


@dataclass
class _Fill:
    """Fills in the outputs of one rendition, at the cut that is wanted and those beside it."""

    store: Store
    prefix: Frozen
    rendition: Rendition
    uses: int
    report: Report
    progress: "tqdm[NoReturn]"

    def run(self) -> Rows:
        """Compute and store what is missing; the rows of the rendition after it."""
        depth, names = self.prefix.depth, self.rendition.names
        if self._is_worthwhile():
            try:
                # One order for all processes, or two would wait for one another.
                depths = sorted({depth, *self.prefix.also}, reverse=True)
                with ExitStack() as stack:
                    fillings = {
                        each: stack.enter_context(self._entry(each).filling(self._wait))
                        for each in depths
                    }
                    self._fill(fillings, names)
            except Unwritable as error:
                self._say(f"recompute: {error}")
        return self._entry(depth).read(names)

    def _fill(self, fillings: dict[int, Filling], names: Sequence[str]) -> None:
        # Read again under the locks: another process may have been faster.
        missing = {depth: self._missing(depth, names) for depth in fillings}
        if not missing[self.prefix.depth]:
            return
        # Each content once, however many pictures have it.
        first = {name: index for index, name in reversed(list(enumerate(names)))}
        todo = sorted(first[name] for name in set().union(*missing.values()))
        above = max(depth for depth, some in missing.items() if some)
        wanted = [names[index] for index in todo]
        start = _nearest(self.store, self.prefix, self.rendition, wanted, above)
        depths = [depth for depth in fillings if depth < start]
        batches = [todo[i : i + PASS] for i in range(0, len(todo), PASS)]
        room: dict[int, int] = {}
        laps: list[tuple[float, float]] = []
        before = time.perf_counter()
        for batch, x in zip(batches, self._inputs(start, batches), strict=True):
            outputs = {
                depth: self.prefix.rows(output).cpu()
                for depth, output in zip(depths, self.prefix.outputs(x, start, depths), strict=True)
            }
            computed = time.perf_counter()
            room = room or self._reserve(fillings, missing, outputs)
            for depth, rows in outputs.items():
                some = [i for i, index in enumerate(batch) if names[index] in missing[depth]]
                some = some[: room[depth]]
                room[depth] -= len(some)
                fillings[depth].append([names[batch[i]] for i in some], rows[some])
            self.progress.update(len(batch))
            written = time.perf_counter()
            laps.append((computed - before, written - computed))
            measured = len(laps) == _WARM_UP + _MEASURED and start == self.prefix.whole
            if measured and not self.report.rates:
                self.report.rates = self._rates(laps, [names[index] for index in batch])
                if not self._is_worthwhile():
                    self._say("recompute: faster here than writing and reading")
                    return
            if not room[self.prefix.depth] and len(laps) < len(batches):
                self._say("recompute: no room for all outputs; raise store_gigabytes")
                return
            before = time.perf_counter()

    def _reserve(
        self,
        fillings: dict[int, Filling],
        missing: dict[int, set[str]],
        outputs: dict[int, Tensor],
    ) -> dict[int, int]:
        """How many rows fit, by depth; what this run needs comes first."""
        order = sorted(outputs, key=lambda depth: depth != self.prefix.depth)
        return {
            depth: fillings[depth].reserve(
                len(missing[depth]), outputs[depth].shape[1:], outputs[depth].dtype
            )
            for depth in order
        }

    def _inputs(self, start: int, batches: Batches) -> Iterator[Tensor]:
        if start == self.prefix.whole:
            return (pictures for pictures, _ in self.rendition.load(batches))
        rows = self._entry(start).read(self.rendition.names)
        return (self.prefix.inputs(rows.gather(batch)) for batch in batches)

    def _rates(self, laps: list[tuple[float, float]], names: list[str]) -> dict[str, float]:
        rows = self._entry(self.prefix.depth).read(names)
        stored = [index for index in range(len(names)) if rows.slots[index] >= 0]
        for _ in range(2):  # the first one allocates
            before = time.perf_counter()
            self.prefix.inputs(rows.gather(stored))
            read = time.perf_counter() - before
        compute, write = (statistics.mean(lap) for lap in zip(*laps[_WARM_UP:], strict=True))
        return {"compute": compute / PASS, "write": write / PASS, "read": read / len(names)}

    def _is_worthwhile(self) -> bool:
        """Whether storing an output takes less time than computing it at each use."""
        if not self.report.rates:
            return True
        compute, write, read = (self.report.rates[name] for name in ("compute", "write", "read"))
        return compute + write + self.uses * read < self.uses * compute

    def _entry(self, depth: int) -> Entry:
        return _entry(self.store, self.prefix, depth, self.rendition)

    def _missing(self, depth: int, names: Sequence[str]) -> set[str]:
        return {names[index] for index in self._entry(depth).read(names).missing}

    def _say(self, decision: str) -> None:
        if self.report.decision != decision:
            self.report.decision = decision
            print(f"frozen part: {decision}", file=sys.stderr)

    def _wait(self) -> None:
        print("frozen part: another process computes it; waiting for it", file=sys.stderr)
