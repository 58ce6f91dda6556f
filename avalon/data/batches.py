"""What `fit` accepts as data, made into batches.

Comes in: arrays, tensors, data sets, iterables of batches. Goes out: an iterable of batches, each a
tuple of tensors; of data in memory only the numbers of the rows, which a step cuts out itself, and
which lie side by side, so that several steps can be told at once where theirs are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avalon import ops
from avalon.data.dataset import TensorDataset
from avalon.data.loader import DataLoader, indices_of
from avalon.dtype import int64
from avalon.random import Generator
from avalon.runtime.buffer import Buffer
from avalon.tensor import Tensor, tensor
from avalon.tracing.values import Value

Batch = tuple[Tensor, ...]


def as_batches(
    data: Any, batch_size: int, shuffle: bool, drop_last: bool, generator: Generator | None
) -> Iterable[Any]:
    """Batches of arrays or a data set; what is an iterable of batches already stays.

    Raises:
        ValueError: there are no rows, or `data` is none of these.
    """
    if isinstance(data, (Tensor, np.ndarray)):
        data = (data,)
    if isinstance(data, tuple):
        data = TensorDataset(*data)
    elif isinstance(data, list) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        if not hasattr(data, "__iter__"):
            raise ValueError(
                f"[fit] data is a {type(data).__name__}: give a tuple of arrays (inputs, targets), "
                f"a data set, or an iterable of batches"
            )
        return data
    if len(data) == 0:
        raise ValueError("[fit] the data has no rows: there is nothing to train on")
    if batch_size < 1:
        raise ValueError(f"[fit] batch_size is {batch_size}: give 1 or more")
    loader = DataLoader(data, batch_size, shuffle=shuffle, drop_last=drop_last, generator=generator)
    return InMemory(data, loader) if type(data) is TensorDataset else loader


class InMemory:
    """Batches of tensors in memory, as the numbers of their rows: a step cuts the rows out itself.

    Attributes:
        generator: what the order is drawn from; None for the default one.
    """

    def __init__(self, dataset: TensorDataset, loader: DataLoader) -> None:
        # What NumPy may write to is copied once, or each step would have to look again.
        self._tensors = [
            t.detach().clone() if t._cell.foreign() is not None else t.detach()
            for t in dataset.tensors
        ]
        self._loader = loader
        self.generator = loader.generator

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Walk:
        loader = self._loader
        assert loader.batch_size is not None
        order = indices_of(loader.sampler)
        rows = min(len(order), len(self) * loader.batch_size)
        return Walk(Rows(Buffer.from_numpy(order), 0, rows, loader.batch_size))

    def cut(self, rows: Tensor) -> Batch:
        """The rows of each tensor; recorded, as everything else of a step."""
        return tuple(ops.take(tensor, rows) for tensor in self._tensors)


class Rows:
    """Batches of row numbers, one after the other in memory, each as a tuple of one tensor.

    `order` holds the numbers; those from `start` up to `stop` are cut into batches of `size`.
    """

    def __init__(self, order: Buffer, start: int, stop: int, size: int) -> None:
        self.size = size
        self._order = order
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return -(-(self._stop - self._start) // self.size)

    def __getitem__(self, number: int) -> Batch:
        first = self._start + number * self.size
        count = min(self.size, self._stop - first)
        part = Buffer.foreign(self._order.address + 8 * first, 8 * count, self._order)
        return (Tensor._make(Value((count,), int64, part)),)

    def following(self, number: int, limit: int) -> Rows:
        """Whole batches from that one on, at most `limit`."""
        start = self._start + number * self.size
        whole = max(self._stop - start, 0) // self.size
        return Rows(self._order, start, start + min(whole, limit) * self.size, self.size)

    def addresses(self) -> NDArray[np.uint64]:
        """Where the numbers of each batch lie."""
        starts = np.arange(self._start, self._stop, self.size, dtype=np.uint64)
        return self._order.address + np.uint64(8) * starts


class Walk(Iterator[Batch]):
    """The batches of an epoch one by one, or some at a time."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._next = 0

    def __next__(self) -> Batch:
        if self._next == len(self._rows):
            raise StopIteration
        self._next += 1
        return self._rows[self._next - 1]

    def ahead(self, limit: int) -> Rows:
        """The whole batches that come next, at most `limit`; they still come."""
        return self._rows.following(self._next, limit)

    def skip(self, count: int) -> None:
        """Leave out so many batches."""
        self._next += count


def cutting(loader: Iterable[Any]) -> Callable[..., Batch]:
    """How a step gets a batch from what the loader gives."""
    return loader.cut if isinstance(loader, InMemory) else _whole


def _whole(*batch: Tensor) -> Batch:
    return batch


def as_batch(raw: Any) -> Batch:
    """One batch as a tuple of tensors.

    Raises:
        ValueError: it is empty, or a dict.
    """
    parts = raw if isinstance(raw, (tuple, list)) else (raw,)
    if not parts or isinstance(raw, dict):
        raise ValueError(
            f"[fit] a batch is a {type(raw).__name__} of {len(parts)}: expected a tensor or a "
            f"tuple (inputs..., target)"
        )
    return tuple(part if isinstance(part, Tensor) else tensor(part) for part in parts)


def number_of_batches(loader: Iterable[Any]) -> int | None:
    """The number of batches, or None if it cannot be known."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None
