"""What `fit` accepts as data, made into batches.

Comes in: arrays, tensors, data sets, iterables of batches. Goes out: an iterable of batches, each a
tuple of tensors; of data in memory only the numbers of the rows, which a step cuts out itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from avalon import ops
from avalon.data.dataset import TensorDataset
from avalon.data.loader import DataLoader
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

    def __iter__(self) -> Iterator[Batch]:
        loader = self._loader
        assert loader.sampler is not None
        assert loader.batch_size is not None
        order = Buffer.from_numpy(np.fromiter(loader.sampler, np.int64))
        whole = order.nbytes // 8
        for start in range(0, len(self) * loader.batch_size, loader.batch_size):
            count = min(loader.batch_size, whole - start)
            part = Buffer.foreign(order.address + 8 * start, 8 * count, order)
            yield (Tensor._make(Value((count,), int64, part)),)

    def cut(self, rows: Tensor) -> Batch:
        """The rows of each tensor; recorded, as everything else of a step."""
        return tuple(ops.take(tensor, rows) for tensor in self._tensors)


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
