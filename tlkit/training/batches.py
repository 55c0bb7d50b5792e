"""Which pictures make which batch: a function of the seed and the epoch alone."""

import torch


def epoch_batches(
    count: int, batch_size: int, seed: int, epoch: int, passes: int = 1
) -> list[list[int]]:
    """Indices 0 to count - 1 in a shuffled order, `passes` times, cut into batches.

    A last batch of a single picture joins the one before it, unless all are of one: batch norm in
    training cannot take the variance of one value.
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = [
        index
        for _ in range(passes)
        for index in torch.randperm(count, generator=generator).tolist()
    ]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches


def plain_batches(count: int, batch_size: int) -> list[list[int]]:
    """Indices 0 to count - 1 in order, cut into batches."""
    return [
        list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)
    ]
