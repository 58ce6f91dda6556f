"""Data sets: things with a length and items, and how to cut them into parts.

Comes in: tensors, arrays, or a user's own items. Goes out: items, and whole batches where a set
can cut them at once. Guaranteed: a set that has `take(indices)` is never walked item by item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isclose, prod
from typing import Any

import numpy as np

from avalon.data.order import draw_permutation
from avalon.random import Generator
from avalon.runtime.buffer import Buffer
from avalon.tensor import Tensor, tensor
from avalon.tracing.values import Value

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Dataset:
    """A set of items: subclasses define `__len__` and `__getitem__`.

    A subclass that can cut a whole batch at once also defines `take(indices)`; `DataLoader` prefers
    it. Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.Dataset
    """

    def __getitem__(self, index: Any) -> Any:
        raise TypeError(f"[Dataset] {type(self).__name__} must define __getitem__(self, index)")

    def __len__(self) -> int:
        raise TypeError(f"[Dataset] {type(self).__name__} must define __len__(self)")


class IterableDataset:
    """A stream of items: subclasses define `__iter__`."""

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"[IterableDataset] {type(self).__name__} must define __iter__(self)")


class TensorDataset(Dataset):
    """Tensors (or arrays) of equal first extent; item i is the tuple of their rows i.

    Raises:
        ValueError: no tensors, or their first extents differ.

    Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.TensorDataset
    """

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            raise ValueError("[TensorDataset] no tensors: give at least one, TensorDataset(x, y)")
        lengths = [len(t) for t in tensors]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"[TensorDataset] the tensors have {lengths} rows: every tensor must have one row "
                f"for each item"
            )
        self.tensors = tuple(t if isinstance(t, Tensor) else tensor(t) for t in tensors)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """The batch of the items at `indices`, cut from each tensor at once."""
        rows = np.asarray(indices, np.int64)
        return tuple(take_rows(t, rows) for t in self.tensors)


class Subset(Dataset):
    """The items of another set at `indices`.

    Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.Subset
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices
        if hasattr(dataset, "take"):
            self.take = self._take

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (list, np.ndarray)):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)

    def _take(self, indices: Sequence[int]) -> Any:
        return self.dataset.take([self.indices[i] for i in indices])


def random_split(
    dataset: Any, lengths: Sequence[float], generator: Generator | None = None
) -> list[Subset]:
    """Cut a set at random into subsets of the given lengths, or fractions that sum to 1.

    Raises:
        ValueError: the lengths do not sum to the set's length.

    Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.random_split
    """
    total = len(dataset)
    if isclose(sum(lengths), 1) and sum(lengths) <= 1 + 1e-9 and total != 1:
        counts = [int(total * fraction) for fraction in lengths]
        for i in range(total - sum(counts)):  # what rounding left, dealt out from the first
            counts[i % len(counts)] += 1
    else:
        counts = [int(length) for length in lengths]
    if sum(counts) != total:
        raise ValueError(
            f"[random_split] lengths {list(lengths)} sum to {sum(counts)}, the data set has "
            f"{total} items: give lengths that sum to {total}, or fractions that sum to 1"
        )
    order = draw_permutation(total, generator).tolist()
    starts = np.cumsum([0, *counts]).tolist()
    return [Subset(dataset, order[start:stop]) for start, stop in pairwise(starts)]


def take_rows(source: Tensor, rows: Indices) -> Tensor:
    """The rows of a tensor at `rows`, as a computed tensor of its own.

    Raises:
        IndexError: a row that the tensor does not have.
    """
    array = source.detach().value().host()
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(array):
        raise IndexError(
            f"[take] rows {rows.min()} to {rows.max()} were asked for, there are {len(array)}"
        )
    shape = (len(rows), *source.shape[1:])
    value = Value(shape, source.dtype, Buffer(prod(shape) * source.dtype.itemsize))
    # The rows are known to be there; any mode but "clip" makes NumPy copy them twice.
    np.take(array, rows, axis=0, out=value.host(), mode="clip")
    return Tensor._make(value)
