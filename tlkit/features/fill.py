"""Filling the store: each output of a frozen prefix is computed once, and never again."""

import ctypes
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from tlkit.features.inputs import (
    Batches,
    Outputs,
    Pictures,
    Rendition,
    StoredInputs,
    load_together,
)
from tlkit.features.prefix import PASS, Frozen, Prefix
from tlkit.features.store import RECORD_BYTES, Entry, Filling, Rows, Store, Unwritable

# Passes after which the rates are known. The first one waits for the loader to start, and the next
# find what its workers prepared meanwhile: a few alone would look faster than all.
_WARM_UP, _MEASURED = 1, 12

# Readings of one pass, of which the fastest counts: the first allocates, and while the loader's
# workers are at work, which in training they are not, one takes up to twenty times as long.
_READINGS = 8

# Batches after which free memory is given back to the system.
_TRIM = 16

# Views that are rendered from one reading of a picture; all of them are in memory at once.
_TOGETHER = 8


@dataclass
class Report:
    """What filling did, for the log.

    Attributes:
        what: is filled, in messages.
        hits: outputs that were in the store.
        wanted: outputs in all.
        bytes: of the stored outputs that training reads.
        decision: "store", or why outputs are computed again whenever they are used.
        rates: seconds a picture, "compute", "write" and "read", where measured.
        seconds: wall time.
    """

    what: str = "frozen part"
    hits: int = 0
    wanted: int = 0
    bytes: int = 0
    decision: str = "store"
    rates: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def decide(self, decision: str) -> None:
        """Take a decision, and tell it once."""
        if self.decision != decision:
            self.decision = decision
            print(f"{self.what}: {decision}", file=sys.stderr)

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
    store: Store,
    prefix: Frozen,
    pictures: Pictures,
    epochs: int,
    compiling: str = "off",
    *,
    epochs_to_come: int = 0,
    sharing: int = 1,
) -> tuple[StoredInputs, Report]:
    """What a suffix trains on: every output that is not in the store is computed and put there.

    What does not fit, or is not worth its place, is computed again whenever it is used, with the
    same result.

    Args:
        epochs: how many will train on the inputs; with 0 there are no views.
        compiling: "on", "off", or "auto" where it saves time.
        epochs_to_come: of a run after this one, which trains on the outputs at the cuts
            `prefix.also`. Views that it needs are stored too where they can be rendered beside
            this run's.
        sharing: processes that train at the same time, on one device.
    """
    started = time.perf_counter()
    report = Report()
    store.release()
    views = min(pictures.different, epochs)
    # How often an output is used: once more than this run needs, for the next one.
    uses = {"train": -(-epochs // max(1, views)) + 1, "val": epochs + 1}
    renditions = [
        *(Rendition(pictures, "train", view) for view in range(views)),
        Rendition(pictures, "val", None),
    ]
    if isinstance(prefix, Prefix):
        prefix = _with_compiler(store, prefix, renditions, compiling)
    to_come = [
        Rendition(pictures, "train", view)
        for view in range(views, min(pictures.different, epochs_to_come))
    ]
    found = _filled(store, prefix, renditions, report, uses, to_come)
    report.bytes = sum(
        int((rows.slots >= 0).sum()) * rows.mapped[0].nbytes for rows in found if len(rows.mapped)
    )
    if isinstance(prefix, Prefix) and _fits(prefix.device, report.bytes, sharing):
        # Of processes that share a card another may have been faster.
        with suppress(torch.OutOfMemoryError):
            found = [rows.to(prefix.device) for rows in found]
    outputs = [
        Outputs(rendition, prefix, rows) for rendition, rows in zip(renditions, found, strict=True)
    ]
    report.seconds = time.perf_counter() - started
    return StoredInputs(tuple(outputs[:-1]), outputs[-1]), report


def evaluation_outputs(store: Store, prefix: Prefix, pictures: Pictures) -> tuple[Outputs, Report]:
    """The outputs for the test pictures, which all runs with this frozen part evaluate from.

    They take no room of what was opened for training.
    """
    report = Report("frozen part for the test")
    rendition = Rendition(pictures, "test", None)
    # Once by this run and once by another, or nothing would be worth its place.
    [rows] = _filled(store, prefix, [rendition], report, {"test": 2})
    return Outputs(rendition, prefix, rows), report


def _filled(
    store: Store,
    prefix: Frozen,
    renditions: Sequence[Rendition],
    report: Report,
    uses: Mapping[str, int],
    to_come: Sequence[Rendition] = (),
) -> list[Rows]:
    """The stored rows of the renditions, after computing and storing what is missing.

    Args:
        uses: of each split, how often an output is used.
        to_come: renditions of training pictures that a run after this one needs, at the cuts
            `prefix.also`.
    """
    found = _read(store, prefix, renditions)
    report.wanted = sum(len(rows.slots) for rows in found)
    missing = _absent(found)
    report.hits = report.wanted - missing
    if not missing:
        return found
    threads, left = torch.get_num_threads(), missing
    with (
        tqdm(total=missing, desc=report.what, unit="picture", disable=None, leave=None) as progress,
        _torch_threads(1 if prefix.own_threads else threads),
    ):
        for split, number in uses.items():
            wanted = [
                _Wanted(rendition, (*prefix.also, prefix.depth), len(rows.missing))
                for rendition, rows in zip(renditions, found, strict=True)
                if rendition.split == split and rows.missing
            ]
            if split == "train" and wanted and prefix.also:
                wanted += [_Wanted(rendition, prefix.also) for rendition in to_come]
            for some in _together(wanted):
                left -= sum(one.missing for one in some)
                _Fill(
                    store, prefix, some, report, progress, uses=number, left=left, threads=threads
                ).run()
    found = _read(store, prefix, renditions)
    if _absent(found) and report.decision == "store":
        report.decide("recompute: some outputs are gone, or the disk gives them back damaged")
    return found


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Let torch compute by so many. When an operation is done its threads spin for a while, which
    takes the cores from the frozen part's own and from the workers that decode."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fits(device: torch.device, size: int, sharing: int) -> bool:
    """Whether so many bytes may stay on a GPU: half of what is free is left to training, and of the
    other half each process takes its share, for all may look at the same time."""
    if device.type != "cuda":
        return False
    torch.cuda.empty_cache()  # what a training before this one had is free
    return size < torch.cuda.mem_get_info(device)[0] // (2 * sharing)


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
    pictures = renditions[-1].pictures
    train, val = (len(pictures.manifest.of(split)) for split in ("train", "val"))
    # By what a training takes, not by what is missing: the bits are not to depend on what is
    # stored, nor on whether it is trained or taken over.
    wanted = pictures.different * train + val
    if compiling == "off" or (compiling == "auto" and not prefix.pays_to_compile(wanted)):
        return prefix
    compiled = replace(prefix, compiled=True)
    found = _read(store, compiled, renditions)
    if not _absent(found):
        return compiled
    rendition, rows = next(both for both in zip(renditions, found, strict=True) if both[1].missing)
    every = rendition.names
    names = [every[index] for index in rows.missing]
    start, stored = _nearest(store, compiled, rendition, names, compiled.depth)
    size = rendition.pictures.views.preprocessing.config["input_size"]
    example = torch.zeros(1, *size) if stored is None else compiled.inputs(stored.gather([0]))
    if fault := compiled.compile_fault(example, start):
        print(f"frozen part: runs uncompiled, for compiling failed: {fault}", file=sys.stderr)
        return prefix
    return compiled


def _entry(store: Store, prefix: Frozen, depth: int, rendition: Rendition) -> Entry:
    return store.entry(prefix.key(depth, rendition.key()))


def _nearest(
    store: Store, prefix: Frozen, rendition: Rendition, names: Sequence[str], above: int
) -> tuple[int, Rows | None]:
    """The depth of the nearest cut above `above` that has outputs of all these pictures, and those
    outputs; or the depth of the pictures, and None.

    The outputs are mapped: they can be read even when another process has deleted the entry.
    """
    for depth in range(above + 1, prefix.whole):
        rows = _entry(store, prefix, depth, rendition).read(names)
        if not rows.missing:
            return depth, rows
    return prefix.whole, None


@dataclass(frozen=True)
class _Wanted:
    """A rendition whose outputs are wanted.

    Attributes:
        depths: of the cuts.
        missing: outputs that this run needs; 0 for a rendition that a run to come needs.
    """

    rendition: Rendition
    depths: tuple[int, ...]
    missing: int = 0


def _together(wanted: Sequence[_Wanted]) -> Iterator[Sequence[_Wanted]]:
    """Those whose pictures are read once for all of them, as far as this run needs some of them."""
    for begin in range(0, len(wanted), _TOGETHER):
        if wanted[begin].missing:
            yield wanted[begin : begin + _TOGETHER]


@dataclass
class _Fill:
    """Fills in the outputs of some renditions of one split; those of this run, which has them at
    the cut that it trains from, come first.

    Attributes:
        uses: how often an output is used.
        left: outputs that this run needs and that will be filled in later.
        threads: of torch in training.
    """

    store: Store
    prefix: Frozen
    wanted: Sequence[_Wanted]
    report: Report
    progress: "tqdm[NoReturn]"
    uses: int
    left: int
    threads: int

    def run(self) -> None:
        """Compute and store what is missing."""
        if not self._is_worthwhile():
            return
        try:
            with ExitStack() as stack:
                plans: dict[tuple[int, tuple[int, ...]], list[_Part]] = {}
                for one in self.wanted:
                    # One order for all processes, or two would wait for one another.
                    depths = sorted(set(one.depths), reverse=True)
                    fillings = {
                        depth: stack.enter_context(
                            self._entry(one.rendition, depth).filling(self._wait)
                        )
                        for depth in depths
                    }
                    # Read under the locks: another process may have been faster.
                    missing = self._missing(one.rendition, depths)
                    if not missing[depths[-1]]:
                        continue
                    start, todo, stored = self._plan(one.rendition, missing)
                    part = _Part(one.rendition, fillings, missing, stored)
                    # For a run to come no picture is read that this one can do without.
                    if self._is_of_this_run(part) or (start, todo) in plans:
                        plans.setdefault((start, todo), []).append(part)
                for (start, todo), parts in plans.items():
                    if not self._fill(parts, start, todo):
                        return
        except Unwritable as error:
            self.report.decide(f"recompute: {error}")

    def _is_of_this_run(self, part: "_Part") -> bool:
        return self.prefix.depth in part.fillings

    def _plan(
        self, rendition: Rendition, missing: dict[int, set[str]]
    ) -> tuple[int, tuple[int, ...], Rows | None]:
        """The cut whose outputs what is missing is computed from, of which pictures, and these
        outputs, unless they are the pictures."""
        names = rendition.names
        # Each content once, however many pictures have it.
        first = {name: index for index, name in reversed(list(enumerate(names)))}
        todo = sorted(first[name] for name in set().union(*missing.values()))
        above = max(depth for depth, some in missing.items() if some)
        wanted = [names[index] for index in todo]
        start, stored = _nearest(self.store, self.prefix, rendition, wanted, above)
        return start, tuple(todo), stored

    def _fill(self, parts: "list[_Part]", start: int, todo: Sequence[int]) -> bool:
        """Compute the pictures `todo` of all parts; whether the rest is to be computed too."""
        names, wanted = parts[0].rendition.names, self.prefix.depth
        batches = [list(todo[i : i + PASS]) for i in range(0, len(todo), PASS)]
        laps: list[tuple[float, float]] = []
        before = time.perf_counter()
        pairs = zip(batches, self._inputs(parts, batches), strict=True)
        for number, (batch, inputs) in enumerate(pairs, 1):
            full, computed, writing = False, 0, 0.0
            for part, x in zip(parts, inputs, strict=True):
                own = self._is_of_this_run(part)
                if not own and part.room and not any(part.room.values()):
                    continue
                depths = [depth for depth in part.fillings if depth < start]
                outputs = {
                    depth: self.prefix.rows(output).cpu()
                    for depth, output in zip(
                        depths, self.prefix.outputs(x, start, depths), strict=True
                    )
                }
                ready = time.perf_counter()
                if not part.room:
                    self._reserve(parts, outputs)
                for depth, rows in outputs.items():
                    stored = part.append([names[index] for index in batch], depth, rows)
                    full = full or (depth == wanted and not stored)
                if own:
                    self.progress.update(len(batch))
                writing += time.perf_counter() - ready
                computed += 1
            passes = computed * PASS
            laps.append(((time.perf_counter() - before - writing) / passes, writing / passes))
            measured = len(laps) == _WARM_UP - (-_MEASURED // len(parts))
            if measured and start == self.prefix.whole and not self.report.rates:
                some = [names[index] for index in batch]
                self.report.rates = self._rates(laps, parts[0].rendition, some)
                if not self._is_worthwhile():
                    self.report.decide("recompute: faster here than writing and reading")
                    return False
            if full:
                self.report.decide("recompute: no room for all outputs; raise store_gigabytes")
                return False
            if number % _TRIM == 0:
                _trim()
            before = time.perf_counter()
        return True

    def _reserve(self, parts: "list[_Part]", outputs: dict[int, Tensor]) -> None:
        """Find out how many rows fit; what this run needs comes first."""
        for depth in sorted(outputs, key=lambda depth: depth != self.prefix.depth):
            shape, dtype = outputs[depth].shape[1:], outputs[depth].dtype
            # Other runs' outputs take no room that this one's will need.
            own = outputs[self.prefix.depth]
            spare = 0 if depth == self.prefix.depth else self.left * (own[0].nbytes + RECORD_BYTES)
            filled = [part for part in parts if depth in part.fillings]
            most = [len(part.missing[depth]) for part in filled]
            for _ in range(2):
                room = [
                    part.fillings[depth].reserve(some, shape, dtype, spare)
                    for part, some in zip(filled, most, strict=True)
                ]
                if sum(room) == sum(most):
                    break
                # As much of each, so that all end at one picture.
                most = [min(some, sum(room) // len(filled)) for some in most]
            for part, some in zip(filled, room, strict=True):
                part.room[depth] = some

    def _inputs(self, parts: "list[_Part]", batches: Batches) -> Iterator[Sequence[Tensor]]:
        """What the parts are computed from, batch by batch."""
        stored = [part.stored for part in parts if part.stored is not None]
        if not stored:
            return load_together([part.rendition for part in parts], batches)
        places = torch.split(torch.arange(sum(map(len, batches))), PASS)
        return ([self.prefix.inputs(rows.gather(some)) for rows in stored] for some in places)

    def _rates(
        self, laps: list[tuple[float, float]], rendition: Rendition, names: list[str]
    ) -> dict[str, float]:
        """Seconds a picture, the reading measured now."""
        rows = self._entry(rendition, self.prefix.depth).read(names)
        stored = [index for index in range(len(names)) if rows.slots[index] >= 0]
        readings = []
        with _torch_threads(self.threads):
            for _ in range(_READINGS):
                before = time.perf_counter()
                self.prefix.inputs(rows.gather(stored))
                readings.append(time.perf_counter() - before)
        compute, write = (statistics.mean(lap) for lap in zip(*laps[_WARM_UP:], strict=True))
        return {"compute": compute, "write": write, "read": min(readings) / len(names)}

    def _is_worthwhile(self) -> bool:
        """Whether storing an output takes less time than computing it at each use."""
        if not self.report.rates:
            return True
        compute, write, read = (self.report.rates[name] for name in ("compute", "write", "read"))
        return compute + write + self.uses * read < self.uses * compute

    def _entry(self, rendition: Rendition, depth: int) -> Entry:
        return _entry(self.store, self.prefix, depth, rendition)

    def _missing(self, rendition: Rendition, depths: Sequence[int]) -> dict[int, set[str]]:
        names = rendition.names
        found = {depth: self._entry(rendition, depth).read(names).missing for depth in depths}
        return {depth: {names[index] for index in some} for depth, some in found.items()}

    def _wait(self) -> None:
        print("frozen part: another process computes it; waiting for it", file=sys.stderr)


@dataclass
class _Part:
    """A rendition that is filled in.

    Attributes:
        fillings: by depth, deepest cut last.
        missing: by depth, the names of the rows that are not stored.
        stored: the outputs that they are computed from, row by row as they are to be computed;
            None where it is done from the pictures.
        room: by depth, how many more rows fit; empty as long as nobody knows.
    """

    rendition: Rendition
    fillings: dict[int, Filling]
    missing: dict[int, set[str]]
    stored: Rows | None
    room: dict[int, int] = field(default_factory=dict)

    def append(self, names: list[str], depth: int, rows: Tensor) -> bool:
        """Store those of the rows that are missing; whether all of them had room."""
        some = [index for index, name in enumerate(names) if name in self.missing[depth]]
        fit = some[: self.room[depth]]
        self.room[depth] -= len(fit)
        self.fillings[depth].append([names[index] for index in fit], rows[fit])
        return len(fit) == len(some)


def _trim() -> None:
    """Give free memory back to the system, where the C library can (glibc). torch asks for aligned
    blocks, and what those leave over lies between the free ones and keeps them from being joined:
    half a gigabyte would be held for nothing."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
