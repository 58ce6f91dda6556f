"""What `fit` accepts as data, made into batches.

Comes in: arrays, tensors, data sets, iterables of batches. Goes out: an iterable of batches, and
each batch as a tuple of tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from avalon.data.dataset import TensorDataset
from avalon.data.loader import DataLoader
from avalon.random import Generator
from avalon.tensor import Tensor, tensor

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
    return DataLoader(data, batch_size, shuffle=shuffle, drop_last=drop_last, generator=generator)


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
