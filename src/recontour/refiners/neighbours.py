"""Exact nearest neighbours, at the speed of the matrix product they need."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recontour.devices import pick_learning_device

# The same cell given twice differs by less in float32, depending on where the product puts it.
TIE = 2.0**-20
MEMORY = 256 << 20  # bytes of maxima held at a time
TILE = 1024  # queries and references a product: its result is still in the cache when reduced
GROUP = 32  # references that share one maximum, at least; TILE is a multiple


def nearest(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    k: int,
    *,
    exclude: NDArray[np.intp] | None = None,
    device: str = "auto",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest references of each query by cosine, which on unit rows is by distance.

    Every pair is compared, however many there are. Products are reduced to one maximum for each
    group of references while they are in the cache, and not kept; the groups with the largest
    maxima hold the nearest, so only those are multiplied again and looked into. Where queries and
    references are one and the same array, half of the products are enough (up to 260,000 rows).
    There is no approximate variant, which would miss some: the cells of a slide are few enough.

    Cosines closer than `TIE` are equal, because float32 cannot tell them apart: of equal ones the
    lower index is nearer.

    Parameters
    ----------
    queries : float32 (m, d), unit rows
    references : float32 (n, d), unit rows
    k : 1 to n, or to n - 1 where something is excluded
    exclude : (m,) the one reference that each query must not find (itself), -1 for none
    device : "auto" (a CUDA device if there is one), "cpu", "cuda", …

    Returns
    -------
    index : int64 (m, k), nearest first
    cosine : float32 (m, k)

    Raises
    ------
    ValueError : fewer references than k
    UsageError : no such device here
    UnknownNameError : no kind of device is called that
    """
    m, n = len(queries), len(references)
    excluding = exclude is not None and bool((exclude >= 0).any())
    if not 1 <= k <= n - excluding:
        raise ValueError(f"{k} neighbours wanted of {n - excluding}")
    place = pick_learning_device(device)
    size = _group_size(n) if queries is references else GROUP
    groups = -(-n // size)
    rows = max(1, MEMORY // (4 * groups))  # queries a pass
    index = np.empty((m, k), np.int64)
    cosine = np.empty((m, k), np.float32)
    with torch.no_grad():
        ours = torch.from_numpy(references).to(place)
        for i in range(0, m, rows):
            end = min(i + rows, m)
            itself = queries is references and end - i == m
            theirs = ours if itself else torch.from_numpy(queries[i:end]).to(place)
            skip = torch.full((end - i,), -1, device=place)
            if exclude is not None:
                skip = torch.from_numpy(exclude[i:end]).to(place)
            # One group more for what is excluded, and one to see whether the last has equals.
            best = _maxima(theirs, ours, size).topk(min(k + 2, groups)).indices
            few = max(1, MEMORY // 4 // (4 * size * best.shape[1]))
            for part in torch.split(torch.arange(end - i, device=place), few):
                found, value = _among(theirs[part], ours, best[part], size, k, skip[part])
                here = slice(i + int(part[0]), i + int(part[-1]) + 1)
                index[here], cosine[here] = found.cpu().numpy(), value.cpu().numpy()
    return index, cosine


def _group_size(n: int) -> int:
    """References that share one maximum, so that those of n queries fit into memory at once."""
    size = GROUP
    while 4 * n * -(-n // size) > MEMORY and size < TILE:
        size *= 2
    return size


def _maxima(queries: Tensor, references: Tensor, size: int) -> Tensor:
    """(m, groups) the largest product of each query with each `size` references."""
    m, n = len(queries), len(references)
    same = queries is references
    maxima = torch.empty((m, -(-n // size)), device=queries.device)
    for i in range(0, m, TILE):
        a = queries[i : i + TILE]
        for j in range(i if same else 0, n, TILE):
            tile = torch.mm(a, references[j : j + TILE].T)
            here = slice(j // size, -(-min(j + TILE, n) // size))
            maxima[i : i + TILE, here] = _reduced(tile, size)
            if same and j > i:
                here = slice(i // size, (i + TILE) // size)
                maxima[j : j + TILE, here] = tile.view(TILE // size, size, -1).amax(1).T
    return maxima


def _reduced(tile: Tensor, size: int) -> Tensor:
    """Maxima of `size` columns each; the last group may have fewer."""
    full = tile.shape[1] // size * size
    maxima: Tensor = tile[:, :full].view(len(tile), full // size, size).amax(2)
    if full == tile.shape[1]:
        return maxima
    return torch.cat([maxima, tile[:, full:].amax(1, keepdim=True)], 1)


def _among(
    queries: Tensor, references: Tensor, groups: Tensor, size: int, k: int, skip: Tensor
) -> tuple[Tensor, Tensor]:
    """The k nearest of each query among its `groups` (m, g), `skip` (m,) left out."""
    n = len(references)
    products = torch.full((len(queries), groups.shape[1], size), -torch.inf, device=queries.device)
    order = groups.flatten().argsort(stable=True)
    ends = torch.bincount(groups.flatten(), minlength=-(-n // size)).cumsum(0).tolist()
    start = 0
    for group, end in enumerate(ends):
        query, slot = order[start:end] // groups.shape[1], order[start:end] % groups.shape[1]
        members = references[group * size : (group + 1) * size]
        products[query, slot, : len(members)] = torch.mm(queries[query], members.T)
        start = end
    column = groups[:, :, None] * size + torch.arange(size, device=groups.device)
    products.masked_fill_(column == skip[:, None, None], -torch.inf)
    value, position = products.flatten(1).topk(min(k + 1, products[0].numel()))
    index = column.flatten(1).gather(1, position)
    if value.shape[1] > k:
        # The next one is as near as the last: which of all is the lower has to be looked for.
        unsure = torch.nonzero(value[:, k - 1] - value[:, k] <= TIE).view(-1)
        for rows in torch.split(unsure, MEMORY // 16 // (4 * n) + 1):
            cosines = torch.mm(queries[rows], references.T)
            for row, cosine in zip(rows.tolist(), cosines, strict=True):
                if skip[row] >= 0:
                    cosine[skip[row]] = -torch.inf
                index[row, :k], value[row, :k] = _among_equals(cosine, k, value[row, k - 1])
    return _in_order(index[:, :k], value[:, :k])


def _among_equals(cosine: Tensor, k: int, last: Tensor) -> tuple[Tensor, Tensor]:
    """The k nearest where several are as near as the last, whose cosine is `last`."""
    above = torch.nonzero(cosine > last + TIE).view(-1)
    equal = torch.nonzero((cosine - last).abs() <= TIE).view(-1)
    index = torch.cat([above, equal])[:k]
    return index, cosine[index]


def _in_order(index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest first, and the lower index first among equals."""
    value, order = value.sort(dim=1, descending=True, stable=True)
    index = index.gather(1, order)
    step = torch.zeros_like(index)
    step[:, 1:] = value[:, :-1] - value[:, 1:] > TIE
    rank = step.cumsum(1)  # equals share a rank
    by_index = index.argsort(dim=1, stable=True)
    order = by_index.gather(1, rank.gather(1, by_index).argsort(dim=1, stable=True))
    return index.gather(1, order), value.gather(1, order)
