"""`DataLoader`: batches of a data set, in order or shuffled, fetched ahead by threads if asked.

Comes in: a data set and PyTorch's arguments. Goes out: batches of tensors. Guaranteed: batches
come in the sampler's order whatever the threads do; an error in a thread is raised where the
batch is asked for, with the items named; leaving the loop early leaves no thread behind.

Threads take the place of PyTorch's worker processes: NumPy, files and pictures release the
interpreter's lock, and nothing has to be pickled. `pin_memory`, `persistent_workers` and
`multiprocessing_context` are accepted, so that moved code runs, and change nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avalon.data.dataset import IterableDataset
from avalon.data.order import draw_permutation
from avalon.functions.shaping import stack
from avalon.random import Generator
from avalon.tensor import Tensor, tensor


class Sampler:
    """An order of indices: subclasses define `__iter__` and `__len__`."""

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"[Sampler] {type(self).__name__} must define __iter__(self)")


class SequentialSampler(Sampler):
    """0, 1, 2, ... up to the length of a set."""

    def __init__(self, data_source: Any) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """A new random order of a set's indices each time, drawn from `generator`."""

    def __init__(self, data_source: Any, generator: Generator | None = None) -> None:
        self.data_source = data_source
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw().tolist())

    def draw(self) -> NDArray[np.int64]:
        """The next order."""
        return draw_permutation(len(self), self.generator)

    def __len__(self) -> int:
        return len(self.data_source)


def indices_of(sampler: Any) -> NDArray[np.int64]:
    """What a sampler gives next, as an array."""
    if type(sampler) is RandomSampler:
        return sampler.draw()
    return np.fromiter(sampler, np.int64)


class BatchSampler(Sampler):
    """The indices of another sampler in lists of `batch_size`; the last one may be shorter."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if batch_size < 1:
            raise ValueError(f"[DataLoader] batch_size is {batch_size}: give 1 or more")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        while batch := list(islice(indices, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        length = len(self.sampler)  # type: ignore[arg-type]
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)


class DataLoader:
    """Iterate over a data set in batches.

    Args:
        dataset: anything with `__len__` and `__getitem__`, or an `IterableDataset`.
        batch_size: items in a batch; None gives items one by one, as they are.
        shuffle: a new random order each time, drawn from `generator`.
        sampler, batch_sampler: the order of the items, or of whole batches, instead of `shuffle`.
        num_workers: threads that fetch batches ahead; 0 fetches in the caller's thread.
        collate_fn: makes a batch of a list of items; `default_collate` unless given.
        drop_last: leave out a last batch that is shorter than the others.
        timeout: seconds to wait for a batch of a thread; 0 waits for ever.
        worker_init_fn: called in each thread with its number, before its first item.
        prefetch_factor: batches that each thread fetches ahead, 2 unless given.

    Raises:
        ValueError: arguments that exclude each other, or a `batch_size` below 1.

    Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.DataLoader
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.collate_fn = collate_fn
        self.drop_last = drop_last
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.generator = generator
        self.prefetch_factor = prefetch_factor
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        streaming = isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
        self._check(bool(shuffle), streaming)
        if streaming:
            return
        if sampler is None and batch_sampler is None:
            self.sampler = (
                RandomSampler(dataset, generator) if shuffle else SequentialSampler(dataset)
            )
        if batch_sampler is None and batch_size is not None:
            assert self.sampler is not None
            self.batch_sampler = BatchSampler(self.sampler, batch_size, drop_last)

    def _check(self, shuffle: bool, streaming: bool) -> None:
        ordered = self.sampler is not None or self.batch_sampler is not None
        if shuffle and ordered:
            raise ValueError(
                "[DataLoader] a sampler decides the order itself: leave out shuffle, or the sampler"
            )
        if streaming and (shuffle or ordered):
            raise ValueError(
                "[DataLoader] a stream of items has no indices to shuffle or sample: shuffle "
                "inside the data set, or give it __len__ and __getitem__"
            )
        if self.batch_sampler is not None and (self.batch_size != 1 or self.drop_last):
            raise ValueError(
                "[DataLoader] batch_sampler makes the batches itself: leave out batch_size and "
                "drop_last"
            )
        if self.num_workers < 0:
            raise ValueError(f"[DataLoader] num_workers is {self.num_workers}: give 0 or more")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(
                f"[DataLoader] batch_size is {self.batch_size}: give 1 or more, or None for items "
                f"one by one"
            )

    def __len__(self) -> int:
        """The number of batches; a stream has no length (TypeError)."""
        order = self.batch_sampler if self.batch_sampler is not None else self.sampler
        if order is None:
            length = len(self.dataset)
            if self.batch_size is None:
                return length
            return length // self.batch_size if self.drop_last else -(-length // self.batch_size)
        return len(order)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        order = self.batch_sampler if self.batch_sampler is not None else self.sampler
        if order is None:
            return self._stream()
        if self.num_workers == 0:
            return map(self._fetch, order)
        return self._fetch_ahead(order)

    def _stream(self) -> Iterator[Any]:
        items = iter(self.dataset)
        if self.batch_size is None:
            yield from map(self.collate_fn or _as_tensors, items)
            return
        collate = self.collate_fn or default_collate
        while batch := list(islice(items, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield collate(batch)

    def _fetch(self, indices: Any) -> Any:
        try:
            if self.batch_sampler is None:
                return (self.collate_fn or _as_tensors)(self.dataset[indices])
            if self.collate_fn is None and hasattr(self.dataset, "take"):
                return self.dataset.take(indices)
            items = [self.dataset[i] for i in indices]
            return (self.collate_fn or default_collate)(items)
        except Exception as error:
            shown = str(indices) if len(str(indices)) < 80 else f"{str(indices)[:80]}..."
            error.add_note(f"[DataLoader] while fetching the items {shown}")
            raise

    def _fetch_ahead(self, order: Iterable[Any]) -> Iterator[Any]:
        numbers = count()

        def initialize() -> None:
            if self.worker_init_fn is not None:
                self.worker_init_fn(next(numbers))

        ahead = self.num_workers * (2 if self.prefetch_factor is None else self.prefetch_factor)
        pool = ThreadPoolExecutor(self.num_workers, "avalon-loader", initialize)
        waiting: deque[Future[Any]] = deque()
        indices = iter(order)
        try:
            for batch in islice(indices, ahead):
                waiting.append(pool.submit(self._fetch, batch))
            while waiting:
                yield self._wait(waiting.popleft())
                waiting.extend(pool.submit(self._fetch, batch) for batch in islice(indices, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _wait(self, future: Future[Any]) -> Any:
        try:
            return future.result(self.timeout or None)
        except TimeoutError:
            if future.done():
                raise
            raise TimeoutError(
                f"[DataLoader] no batch within {self.timeout} s: raise timeout, or look for items "
                f"that take long"
            ) from None


def default_collate(items: Sequence[Any]) -> Any:
    """Make one batch of a list of items: numbers and arrays are stacked, containers entered.

    Items may be tensors, arrays, numbers, strings (kept in a list), or mappings and sequences of
    these. Floats become float64 as in PyTorch.

    Raises:
        TypeError: an item of another type.

    Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.default_collate
    """
    first = items[0]
    if isinstance(first, Tensor):
        return stack(list(items))
    if isinstance(first, (np.ndarray, np.generic)):
        return tensor(np.stack(items))
    if isinstance(first, bool | int):
        return tensor(np.array(items))
    if isinstance(first, float):
        return tensor(np.array(items, np.float64))
    if isinstance(first, str | bytes):
        return list(items)
    if isinstance(first, Mapping):
        return {key: default_collate([item[key] for item in items]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*map(default_collate, zip(*items, strict=True)))
    if isinstance(first, Sequence):
        return [default_collate(column) for column in zip(*items, strict=True)]
    raise TypeError(
        f"[DataLoader] cannot make a batch of {type(first).__name__} items: return tensors, "
        f"arrays, numbers, or containers of these, or give a collate_fn"
    )


def _as_tensors(item: Any) -> Any:
    """An item by itself: arrays become tensors, containers are entered, the rest stays."""
    if isinstance(item, (np.ndarray, np.generic)):
        return tensor(item)
    if isinstance(item, Mapping):
        return {key: _as_tensors(value) for key, value in item.items()}
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*map(_as_tensors, item))
    if isinstance(item, Sequence) and not isinstance(item, str | bytes):
        return [_as_tensors(value) for value in item]
    return item
