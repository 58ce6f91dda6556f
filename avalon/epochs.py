"""The epochs of a training run.

Comes in: a compiled step, batches, the state of the run. Goes out: the trained model, and the
history. Guaranteed: steps are taken one after the other, short ones on data in memory many in one
native call, and what they measured is read some at a time, at least every 50 ms: so ctrl-C is
answered at once, and no step is cut in half; the bits are those of single steps; a loss that
is not a number is an error that names where it arose, and brings the model back to before the
batch that spoiled it.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from avalon import struct
from avalon.checkpoint import Rewind, RunState
from avalon.data.batches import Batch, Walk, as_batch, cutting, number_of_batches
from avalon.diagnosis.nans import explain, is_finite
from avalon.dtype import float64
from avalon.history import History
from avalon.model import in_mode
from avalon.optim import Optimizer
from avalon.progress import Progress
from avalon.replay import CompiledStep
from avalon.tensor import Tensor, no_grad, tensor
from avalon.training_step import Measured, forward
from avalon.transforms import grad

_SETTLED = 6  # steps after which a compiled step that still records will go on recording
_PATIENCE = 8  # refusals in a row after which steps are taken one by one
_UNREAD_SECONDS = 0.05  # of steps whose results nobody has looked at yet


@dataclass
class Run:
    """The epochs of one run."""

    model: Any
    loss: Callable[[Any, Any], Tensor]
    optimizer: Optimizer
    schedule: Any
    step: CompiledStep
    cut: Callable[..., Batch]
    measured: Measured
    state: RunState
    show: Progress
    read_every: int | None  # batches after which everything is to be read, for a checkpoint
    interrupted: Callable[[], bool]

    def __post_init__(self) -> None:
        self.rewind = Rewind(self.state)
        self._start = 0.0  # of the epoch
        self._unread: list[tuple[int, tuple[Tensor, ...]]] = []  # rows, and what was measured
        self._read_at = 0.0
        self._refusals = 0  # of steps that were to be taken several at a time

    def train(
        self,
        loader: Iterable[Any],
        held_out: Iterable[Any] | None,
        epochs: int,
        checkpoint: Path | None,
        callbacks: Sequence[Callable[[History], Any]],
    ) -> None:
        """Train up to so many epochs, until a callback says so, or until ctrl-C."""
        state = self.state
        try:
            while state.epoch < epochs:
                for _ in self._epoch(loader):
                    if self.interrupted():
                        raise KeyboardInterrupt
                    if checkpoint and self.read_every and state.batch % self.read_every == 0:
                        state.save(checkpoint)
                self._finish_epoch(held_out)
                if checkpoint is not None:
                    state.save(checkpoint)
                stops = [callback(state.history) for callback in callbacks]
                if any(stops):
                    break
        except KeyboardInterrupt:
            self._read()
            state.history.interrupted = True
            if checkpoint is not None:
                state.save(checkpoint)
            kept = f", {checkpoint} goes on from here" if checkpoint is not None else ""
            self.show.say(
                f"interrupted in epoch {state.epoch + 1}, batch {state.batch}: the model keeps "
                f"what it has learned{kept}"
            )

    def put_rate_back(self) -> None:
        """Make the learning rate a number again, if a function of the epoch made it a tensor."""
        if _is_function(self.schedule):
            self.optimizer.lr = float(self.optimizer.lr)

    def _epoch(self, loader: Iterable[Any]) -> Iterator[None]:
        """Take the steps of an epoch, or of what is left of it, some each time it is resumed."""
        state = self.state
        total = number_of_batches(loader)
        self._start = self._read_at = time.perf_counter()
        self.show.begin(state.epoch, total, state.batch)
        batches = state.batches_left(loader)
        for raw in batches:
            if self._take_one(as_batch(raw), total):
                yield
            while isinstance(batches, Walk) and self._take_several(batches):
                yield
        if self._unread:
            self._read()
            yield
        if state.batch == 0:
            raise ValueError(_no_batches(state.epoch))

    def _take_one(self, batch: Batch, total: int | None) -> bool:
        """Take a step; true if all results are read now."""
        state = self.state
        done = state.batch + len(self._unread)
        if len(batch[0]) == 0:
            raise ValueError(
                f"[fit] batch {done + 1} of epoch {state.epoch + 1} has no rows: leave "
                f"empty batches out"
            )
        if self.rewind.full:
            self._read()
        self._set_rate(state.epoch + (done / total if total else 0.0))
        self.rewind.remember([batch])
        replayed = self.step.replayed
        self._unread.append((len(batch[0]), self.step(*batch)))
        if self.step.replayed != replayed and not self._must_read():
            return False
        self._read()
        return True

    def _take_several(self, batches: Walk) -> bool:
        """Take the next steps in one native call of at most 50 ms, if they are short and replayed.
        False if they have to be taken one by one.
        """
        if self._refusals > _PATIENCE or self.rewind.full or _is_function(self.schedule):
            return False
        limit = self.step.calls_within(_UNREAD_SECONDS)
        if self.read_every is not None:
            done = self.state.batch + len(self._unread)
            limit = min(limit, self.read_every - done % self.read_every)
        if limit < 2 or len(rows := batches.ahead(limit)) < 2:
            return False
        self._read()
        self.rewind.remember(rows)
        measures = self.step.run_series(rows[0], {0: rows.addresses()}, len(rows))
        if measures is None:
            self._refusals += 1
            self.rewind.forget(len(rows))
            return False
        self._refusals = 0
        batches.skip(len(rows))
        self._count(rows.size, [measure.tolist() for measure in measures])
        self._read_at = time.perf_counter()
        return True

    def _must_read(self) -> bool:
        if time.perf_counter() - self._read_at > _UNREAD_SECONDS or self.interrupted():
            return True
        done = self.state.batch + len(self._unread)
        return self.read_every is not None and done % self.read_every == 0

    def _read(self) -> None:
        """Look at what the last steps measured."""
        for number, (rows, measures) in enumerate(self._unread, 1):
            self._count(rows, [[m.item()] for m in measures], len(self._unread) - number)
        self._unread = []
        self._read_at = time.perf_counter()
        if self.step.recorded == _SETTLED and not self.step.replayed:
            self.show.say(f"steps are recorded one by one, not replayed: {self.step.reason}")

    def _count(self, rows: int, measures: list[list[float]], later: int = 0) -> None:
        """Count steps on so many rows each, by the lists of what they measured; `later` steps were
        taken after them.
        """
        losses = measures[0]
        sound = next((n for n, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
        if sound:
            self.state.add(self.measured.named([values[:sound] for values in measures]), rows)
            self.show.batches(sound, self.state.means())
        if sound < len(losses):
            self.rewind.forget(len(losses) - 1 - sound + later)
            self._stop(losses[sound])

    def _finish_epoch(self, held_out: Iterable[Any] | None) -> None:
        """Measure the model on data that it was not trained on, and write the history."""
        values = self.state.means()
        if held_out is not None:
            validated = self._validate(held_out)
            values |= {f"validation {name}": value for name, value in validated.items()}
        self.show.end(self.state.epoch, values)
        self.state.finish_epoch(values, time.perf_counter() - self._start)
        if self.schedule is not None and hasattr(self.schedule, "step"):
            self.schedule.step()

    def _validate(self, held_out: Iterable[Any]) -> dict[str, float]:
        sums: dict[str, float] = {}
        count = 0
        with in_mode(self.model, training=False), no_grad():
            cut = cutting(held_out)
            for raw in held_out:
                batch = cut(*as_batch(raw))
                outputs, target = forward(self.model, batch)
                measures = (self.loss(outputs, target), *self.measured(outputs, target))
                for name, value in self.measured.named(measures).items():
                    sums[name] = sums.get(name, 0.0) + value.item() * len(batch[0])
                count += len(batch[0])
        if count == 0:
            raise ValueError("[fit] the validation data has no rows: leave it out, or give some")
        return {name: total / count for name, total in sums.items()}

    def _set_rate(self, epoch: float) -> None:
        if _is_function(self.schedule):
            # As a tensor it is an input of the step; as a number a new one would be a new step. In
            # float64 all arithmetic on it is that of Python's numbers.
            self.optimizer.lr = tensor(float(self.schedule(epoch)), dtype=float64)

    def _stop(self, value: float) -> None:
        """Go back to before the batch that spoiled the weights, and say where that arose."""
        state = self.state
        what = f"[fit] the loss became {value} in epoch {state.epoch + 1}, batch {state.batch + 1}"
        culprit, ago = self.rewind.undo(
            self.step, lambda: all(map(is_finite, struct.leaves(self.model).values()))
        )
        if ago:
            ago_words = "the batch before" if ago == 1 else f"the batch {ago} before"
            what += f"; the weights were spoiled by {ago_words}, this batch's gradient"

        with no_grad():
            batch = self.cut(*culprit)
        for part in batch:
            part.value().force()

        def again() -> list[Tensor]:
            cost, (gradients,) = grad(lambda model: self.loss(*forward(model, batch)), self.model)
            return [cost, *struct.leaves(gradients).values()]

        raise explain(self.model, again, what)


def _no_batches(epoch: int) -> str:
    if epoch == 0:
        return "[fit] the data gave no batches: there is nothing to train on"
    return (
        f"[fit] the data gave no batches in epoch {epoch + 1}: a generator can be walked only "
        f"once; give a list, a DataLoader, or any object whose __iter__ begins anew"
    )


def _is_function(schedule: Any) -> bool:
    """True for a function of the epoch, False for one of `optim.lr_scheduler`."""
    return callable(schedule) and not hasattr(schedule, "step")


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Inside, the first ctrl-C is only noted, so that no step is cut in half; a second one acts."""
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
