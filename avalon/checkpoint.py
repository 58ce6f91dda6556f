"""The state of a training run: where it stands, and everything that the next step depends on.

Comes in: a model, an optimizer and its data. Goes out: files, and the state they hold.
Guaranteed: a run that goes on from a file takes the same steps, bit for bit, as the run that
wrote it: weights, optimizer, random numbers, order of the data and position in the epoch are all
there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

from avalon import struct
from avalon.data.batches import Batch, Rows, Walk, number_of_batches
from avalon.errors import CheckpointError
from avalon.history import History
from avalon.model import load_state_dict, state_dict
from avalon.optim import Optimizer
from avalon.random import Generator, default_generator
from avalon.save import load, save
from avalon.tensor import no_grad

_REWIND_BYTES = 64 << 20
_REWIND_STEPS = 64
_REWIND_SECONDS = 0.3  # a copy is not made sooner, however short the steps are


class RunState:
    """A run at one moment.

    Attributes:
        epoch: epochs that are over; batch: batches of the current one that are.
        history: what was measured in the epochs that are over.
    """

    def __init__(
        self, model: Any, optimizer: Optimizer, loader: Iterable[Any], schedule: Any = None
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.epoch = 0
        self.batch = 0
        self.history = History()
        self._sums: dict[str, float] = {}
        self._rows = 0
        self._batches = number_of_batches(loader)
        self._generators = [default_generator]
        own = getattr(loader, "generator", None)
        if isinstance(own, Generator):
            self._generators.append(own)
        self._at_start = self._random_state()

    def batches_left(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of the current epoch that are not done yet."""
        if not self.batch:
            self._at_start = self._random_state()
            return iter(loader)
        # The order was drawn when the epoch began: draw it again, then go on where the run was.
        now = self._random_state()
        self._set_random_state(self._at_start)
        batches = iter(loader)
        if isinstance(batches, Walk):
            batches.skip(self.batch)
        else:
            for _ in islice(batches, self.batch):
                pass
        self._set_random_state(now)
        return batches

    def add(self, values: dict[str, Sequence[float]], rows: int) -> None:
        """More batches of so many rows are done; `values` are the means over each one's rows."""
        for name, means in values.items():
            total = self._sums.get(name, 0.0)
            for mean in means:
                total += mean * rows
            self._sums[name] = total
        done = len(next(iter(values.values())))
        self._rows += rows * done
        self.batch += done

    def means(self) -> dict[str, float]:
        """The means over the rows of the epoch so far."""
        return {name: total / self._rows for name, total in self._sums.items()}

    def finish_epoch(self, values: dict[str, float], seconds: float) -> None:
        """The epoch is over, with these values."""
        self.history.add(values, seconds)
        self.epoch += 1
        self.batch = 0
        self._at_start = self._random_state()
        self._sums = {}
        self._rows = 0

    def save(self, path: Path) -> None:
        """Write the state to a file."""
        position = {
            "epoch": self.epoch,
            "batch": self.batch,
            "batches": self._batches,
            "sums": self._sums,
            "rows": self._rows,
            "history": dict(self.history),
            "seconds": self.history.seconds,
            # Before an epoch's first step is done, its order is to be drawn again.
            "random": self._random_state() if self.batch else self._at_start,
            "random at start": self._at_start,
        }
        parts = {
            "model": state_dict(self.model),
            "optimizer": self.optimizer.state_dict(),
            "position": position,
        }
        if hasattr(self.schedule, "state_dict"):
            parts["schedule"] = self.schedule.state_dict()
        save(parts, path)

    def load(self, path: Path) -> None:
        """Go on from a file.

        Raises:
            CheckpointError: it is damaged, no checkpoint of a run, or of another model or data.
        """
        parts = load(path)
        if not isinstance(parts, dict) or not {"model", "optimizer", "position"} <= parts.keys():
            raise CheckpointError(
                f"[fit] {path} is no checkpoint of a run: expected a file that fit wrote with "
                f"checkpoint=; weights alone are read by av.load(path, into=model)"
            )
        position = parts["position"]
        if position["batches"] != self._batches:
            raise CheckpointError(
                f"[fit] {path} is of a run with {position['batches']} batches an epoch, this data "
                f"has {self._batches}: give the same data and batch_size, or leave resume out"
            )
        load_state_dict(self.model, parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        if hasattr(self.schedule, "load_state_dict") and "schedule" in parts:
            self.schedule.load_state_dict(parts["schedule"])
        self.epoch = position["epoch"]
        self.batch = position["batch"]
        self._sums = position["sums"]
        self._rows = position["rows"]
        self.history.update(position["history"])
        self.history.seconds = position["seconds"]
        self._at_start = position["random at start"]
        self._set_random_state(position["random"])

    def _random_state(self) -> list[list[int]]:
        return [[g.initial_seed(), g.offset] for g in self._generators]

    def _set_random_state(self, state: list[list[int]]) -> None:
        for generator, (seed, offset) in zip(self._generators, state, strict=False):
            generator.manual_seed(seed)
            generator.offset = offset


class Rewind:
    """Goes back to before a step: copies of the state now and then, and the batches since.

    A step whose loss is not a number has already spoiled the weights, and one whose gradient is not
    spoils the next step's loss. Copying the weights before every step would cost time, keeping all
    batches memory; steps give the same bits again, so a copy every 64 steps (or 64 MB of batches)
    and taking the steps since once more is the same. Short steps are
    copied more seldom, at most once in 0.3 s.
    """

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._since: _Since | None = None
        self._before: _Since | None = None  # kept until a step from the newest copy was sound

    @property
    def full(self) -> bool:
        """Whether the next step begins with a new copy: read what the steps before it gave."""
        since = self._since
        if since is None or since.nbytes >= _REWIND_BYTES:
            return True
        return len(since.batches) >= _REWIND_STEPS and perf_counter() > since.old

    def remember(self, batches: Sequence[Batch] | Rows) -> None:
        """Call it before the steps on `batches`."""
        since = self._since
        if since is None or self.full:
            self._before, self._since = since, _Since(self._state)
        elif len(since.batches) == 1:
            self._before = None
        assert self._since is not None
        self._since.add(batches)

    def forget(self, count: int) -> None:
        """Forget the last steps: they came after the one that failed."""
        if count:
            assert self._since is not None
            del self._since.batches[-count:], self._since.rates[-count:]

    def undo(self, step: Callable[..., Any], sound: Callable[[], bool]) -> tuple[Batch, int]:
        """Bring model, optimizer and random numbers to where they were before the step that spoiled
        them: the last one, or the first after which `sound()` is false.

        Returns:
            That step's batch, and how many steps before the last one it was.
        """
        since = self._since
        assert since is not None
        later = 0
        since.restore()
        if not sound() and self._before is not None:
            later = len(since.batches)
            since = self._before
            since.restore()
        last = len(since.batches) - 1
        for number in range(last):
            since.take(step, number)
            if not sound():
                since.restore()
                for earlier in range(number):
                    since.take(step, earlier)
                return since.batch(number), last - number + later
        return since.batch(last), later


class _Since:
    """A copy of what a step changes, and the steps since."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        with no_grad():
            leaves = struct.leaves(state.model).values()
            self._tensors = [(leaf, leaf.detach().clone()) for leaf in leaves]
            self._optimizer = copy.deepcopy(state.optimizer.state_dict())
        self._random = state._random_state()
        self.batches: list[tuple[Sequence[Batch] | Rows, int]] = []  # where each is
        self.rates: list[Any] = []
        self.nbytes = 0
        self.old = perf_counter() + _REWIND_SECONDS

    def restore(self) -> None:
        with no_grad():
            for leaf, copied in self._tensors:
                leaf.copy_(copied)
        self._state.optimizer.load_state_dict(copy.deepcopy(self._optimizer))
        self._state._set_random_state(self._random)

    def add(self, batches: Sequence[Batch] | Rows) -> None:
        self.batches += [(batches, number) for number in range(len(batches))]
        self.rates += [self._state.optimizer.lr] * len(batches)
        self.nbytes += len(batches) * sum(p.numel() * p.dtype.itemsize for p in batches[0])

    def batch(self, number: int) -> Batch:
        batches, place = self.batches[number]
        return batches[place]

    def take(self, step: Callable[..., Any], number: int) -> None:
        self._state.optimizer.lr = self.rates[number]
        step(*self.batch(number))
