"""Work that threads do ahead of whoever takes the results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def done_ahead(
    work: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int
) -> Iterator[R]:
    """What `work` makes of each item, in their order.

    Raises what `work` raises, where its result would come.

    Args:
        threads: at least one is used.
        ahead: items, at least 1, that are begun before their results are taken; `Executor.map`
            begins all of them, however many there are.
    """
    remaining, begun = iter(items), deque[Future[R]]()
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        while True:
            for item in islice(remaining, ahead - len(begun)):
                begun.append(pool.submit(work, item))
            if not begun:
                return
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
