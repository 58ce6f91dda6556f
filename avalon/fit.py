"""`fit`: the training loop.

Comes in: a model, data, a loss, an optimizer. Goes out: the trained model (in place) and a
`History`. Guaranteed: the same numbers, bit for bit, as the loop written by hand; a run that goes
on from a checkpoint ends with the bits of one that was never stopped; ctrl-C ends the run after a
whole step; a loss that is not a number is an error that names where it arose, and the model is as
it was before that batch; the model's mode is put back.
"""

from __future__ import annotations

import difflib
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
from avalon.data.batches import Batch, as_batch, as_batches, number_of_batches
from avalon.diagnosis.nans import explain, is_finite
from avalon.dtype import float64
from avalon.functions import argmax, clamp
from avalon.history import History
from avalon.model import in_mode
from avalon.nn.utils.clip import get_total_norm
from avalon.optim import Optimizer, update
from avalon.progress import Progress
from avalon.random import Generator
from avalon.replay import CompiledStep
from avalon.tensor import Tensor, no_grad, tensor
from avalon.transforms import grad

Metric = Callable[[Any, Any], Any]
Step = Callable[[Batch], tuple[Tensor, ...]]

_SETTLED = 6  # steps after which a compiled step that still records will go on recording


def fit(
    model: Any,
    data: Any,
    loss: Callable[[Any, Any], Tensor],
    optimizer: Optimizer,
    *,
    epochs: int = 1,
    batch_size: int = 32,
    validation: Any = None,
    metrics: Sequence[str | Metric] | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
    schedule: Any = None,
    clip: float | None = None,
    callbacks: Sequence[Callable[[History], Any]] = (),
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    generator: Generator | None = None,
    progress: bool = True,
) -> History:
    """Train a model.

    Each batch is `(inputs..., target)` and costs `loss(model(inputs...), target)`; where a batch
    is one tensor, it is its own target, as for an autoencoder.

    Args:
        model: a `nn.Module` or any object that is callable and has tensors in its fields. data: a
        tuple of arrays or tensors with a row for each example, the last one the targets; one
            such array; a data set; or an iterable of batches, which is walked once an epoch.
        loss: a function of the model's outputs and the targets, such as `nn.NLLLoss()`.
        optimizer: `Adam(lr=1e-3)`, or one made with the model's parameters.
        epochs: passes over the data, those before a resumed checkpoint included.
        batch_size, shuffle, drop_last, generator: how arrays and data sets are cut into batches.
        validation: more data, on which the model is measured after each epoch, in evaluation mode.
        metrics: names ("accuracy") or functions of outputs and targets; unless given, the accuracy
            where the targets are classes.
        schedule: a function from the epoch (2.5 is in the middle of the third) to the learning
        rate;
            or one of `optim.lr_scheduler`, stepped after each epoch.
        clip: the norm that the gradients together may have.
        callbacks: called with the history after each epoch; one that returns True ends the run.
        checkpoint: a file from which the run can go on, written after each epoch, on ctrl-C, and
            after every `checkpoint_every` batches.
        resume: go on from `checkpoint` if that file exists.
        progress: show a progress bar.

    Returns:
        The history: "loss", the metrics, and each again with "validation " before it.

    Raises:
        ValueError: there is no data, or an argument does not make sense.
        NonFiniteError: the loss became infinite or not a number.
        CheckpointError: the checkpoint is damaged, or is not of this model and data.

    >>> import avalon as av
    >>> x = av.linspace(-1, 1, 64).reshape(64, 1)
    >>> line = av.nn.Linear(1, 1)
    >>> history = av.fit(line, (x, 3 * x + 1), av.nn.MSELoss(), av.optim.SGD(lr=0.5), epochs=20,
    ...                  progress=False)
    >>> round(line.bias.item(), 2)
    1.0
    """
    if resume and checkpoint is None:
        raise ValueError("[fit] resume=True needs checkpoint='FILE' to go on from")
    loader = as_batches(data, batch_size, shuffle, drop_last, generator)
    held_out = (
        None if validation is None else as_batches(validation, batch_size, False, False, None)
    )
    measures = None if metrics is None else {_name(m): _metric(m) for m in metrics}
    if not struct.trained(model):
        raise ValueError(
            f"[fit] {type(model).__name__} has nothing to train: no field holds a floating tensor "
            f"that is not a buffer. Give it nn.Parameter fields, or requires_grad_() what is frozen"
        )
    measured = _Measured(measures)
    step = CompiledStep(training_step(model, loss, optimizer, clip, measured), strict=False)
    state = RunState(model, optimizer, loader, schedule)
    if resume and checkpoint is not None and Path(checkpoint).exists():
        state.load(Path(checkpoint))
    show = Progress(epochs, progress)
    run = _Run(model, loss, optimizer, schedule, step, measured, state, show)
    history = state.history
    with in_mode(model, training=True), _deferred_interrupts() as interrupted:
        try:
            while state.epoch < epochs:
                for _ in run.epoch(loader):
                    if interrupted():
                        raise KeyboardInterrupt
                    if checkpoint and checkpoint_every and state.batch % checkpoint_every == 0:
                        state.save(Path(checkpoint))
                run.finish_epoch(held_out)
                if checkpoint is not None:
                    state.save(Path(checkpoint))
                stops = [callback(history) for callback in callbacks]
                if any(stops):
                    break
        except KeyboardInterrupt:
            history.interrupted = True
            if checkpoint is not None:
                state.save(Path(checkpoint))
            kept = f", {checkpoint} goes on from here" if checkpoint is not None else ""
            show.say(
                f"interrupted in epoch {state.epoch + 1}, batch {state.batch}: the model keeps "
                f"what it has learned{kept}"
            )
        finally:
            show.close()
            if _is_function(schedule):
                optimizer.lr = float(optimizer.lr)
    return history


def training_step(
    model: Any,
    loss: Callable[[Any, Any], Tensor],
    optimizer: Optimizer,
    clip: float | None,
    measured: _Measured,
) -> Step:
    """One whole step as a function of the batch: it returns the loss and the metrics' values.

    The function reads no value and branches on none, so that it can be compiled.
    """

    def step(batch: Batch) -> tuple[Tensor, ...]:
        def cost(model: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
            outputs, target = _forward(model, batch)
            return loss(outputs, target), measured(outputs, target)

        (value, measures), (gradients,) = grad(cost, model)
        _check_reached(model, gradients)
        if clip is not None:
            gradients = clipped(gradients, clip)
        apply_gradients(optimizer, model, gradients)
        return (value, *measures)

    return step


def clipped(gradients: Any, limit: float) -> Any:
    """A structure of gradients, scaled so that their norm together is at most `limit`."""
    total = get_total_norm(struct.leaves(gradients).values())
    factor = clamp(limit / (total + 1e-6), max=1.0)
    return struct.map_leaves(lambda gradient: gradient * factor.to(gradient.dtype), gradients)


def apply_gradients(optimizer: Optimizer, model: Any, gradients: Any) -> None:
    """Let the optimizer take a step, whichever way it was made."""
    if not optimizer.param_groups:
        update(optimizer, model, gradients)
        return
    found = struct.leaves(gradients)
    for path, parameter in struct.trained(model).items():
        parameter.grad = found[path]
    optimizer.step()
    optimizer.zero_grad()


def accuracy(outputs: Tensor, target: Tensor) -> Tensor:
    """The part of the rows whose greatest output is at the target's class, between 0 and 1."""
    return (argmax(outputs, dim=1) == target).float().mean()


METRICS: dict[str, Metric] = {"accuracy": accuracy}


class _Measured:
    """The metrics of a run; unless given, they are chosen when the first outputs are seen."""

    def __init__(self, metrics: dict[str, Metric] | None) -> None:
        self.metrics = metrics

    def __call__(self, outputs: Any, target: Any) -> tuple[Tensor, ...]:
        if self.metrics is None:
            classes = isinstance(outputs, Tensor) and isinstance(target, Tensor)
            classes = classes and target.dtype.is_integer and outputs.ndim == target.ndim + 1
            self.metrics = {"accuracy": accuracy} if classes else {}
        with no_grad():
            detached = struct.map_leaves(Tensor.detach, outputs)
            return tuple(_as_scalar(m(detached, target)) for m in self.metrics.values())

    @property
    def names(self) -> list[str]:
        """The names of what a step returns."""
        return ["loss", *(self.metrics or {})]


@dataclass
class _Run:
    """The epochs of one run."""

    model: Any
    loss: Callable[[Any, Any], Tensor]
    optimizer: Optimizer
    schedule: Any
    step: CompiledStep
    measured: _Measured
    state: RunState
    show: Progress
    start: float = 0.0  # of the epoch

    def __post_init__(self) -> None:
        self.rewind = Rewind(self.state)

    def epoch(self, loader: Iterable[Any]) -> Iterator[None]:
        """Take the steps of an epoch, or of what is left of it, one each time it is resumed."""
        state = self.state
        total = number_of_batches(loader)
        self.start = time.perf_counter()
        self.show.begin(state.epoch, total, state.batch)
        for raw in state.batches_left(loader):
            batch = as_batch(raw)
            rows = len(batch[0])
            if rows == 0:
                raise ValueError(
                    f"[fit] batch {state.batch + 1} of epoch {state.epoch + 1} has no rows: leave "
                    f"empty batches out"
                )
            self._set_rate(state.epoch + (state.batch / total if total else 0.0))
            self.rewind.remember(batch)
            values = [value.item() for value in self.step(batch)]
            if not math.isfinite(values[0]):
                self._stop_at(batch, values[0])
            state.add(dict(zip(self.measured.names, values, strict=True)), rows)
            self.show.batch(state.means())
            if self.step.recorded == _SETTLED and not self.step.replayed:
                self.show.say(f"steps are recorded one by one, not replayed: {self.step.reason}")
            yield
        if state.batch == 0:
            raise ValueError(_no_batches(state.epoch))

    def finish_epoch(self, held_out: Iterable[Any] | None) -> None:
        """Measure the model on data that it was not trained on, and write the history."""
        values = self.state.means()
        if held_out is not None:
            validated = self._validate(held_out)
            values |= {f"validation {name}": value for name, value in validated.items()}
        self.show.end(self.state.epoch, values)
        self.state.finish_epoch(values, time.perf_counter() - self.start)
        if self.schedule is not None and hasattr(self.schedule, "step"):
            self.schedule.step()

    def _validate(self, held_out: Iterable[Any]) -> dict[str, float]:
        sums: dict[str, float] = {}
        count = 0
        with in_mode(self.model, training=False), no_grad():
            for raw in held_out:
                batch = as_batch(raw)
                outputs, target = _forward(self.model, batch)
                measures = (self.loss(outputs, target), *self.measured(outputs, target))
                for name, value in zip(self.measured.names, measures, strict=True):
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

    def _stop_at(self, batch: Batch, value: float) -> None:
        """Go back to before the batch that spoiled the weights, and say where that arose."""
        state = self.state
        what = f"[fit] the loss became {value} in epoch {state.epoch + 1}, batch {state.batch + 1}"
        culprit, ago = self.rewind.undo(
            self.step, lambda: all(map(is_finite, struct.leaves(self.model).values()))
        )
        if ago:
            ago_words = "the batch before" if ago == 1 else f"the batch {ago} before"
            what += f"; the weights were spoiled by {ago_words}, this batch's gradient"

        def again() -> list[Tensor]:
            cost, (gradients,) = grad(
                lambda model: self.loss(*_forward(model, culprit)), self.model
            )
            return [cost, *struct.leaves(gradients).values()]

        raise explain(self.model, again, what)


def _forward(model: Any, batch: Batch) -> tuple[Any, Any]:
    """The model's outputs and the target; a batch of one tensor is its own target."""
    inputs = batch[:-1] or batch
    return model(*inputs), batch[-1]


def _no_batches(epoch: int) -> str:
    if epoch == 0:
        return "[fit] the data gave no batches: there is nothing to train on"
    return (
        f"[fit] the data gave no batches in epoch {epoch + 1}: a generator can be walked only "
        f"once; give a list, a DataLoader, or any object whose __iter__ begins anew"
    )


def _check_reached(model: Any, gradients: Any) -> None:
    found = struct.leaves(gradients)
    left = [path for path in struct.trained(model) if path not in found]
    if left:
        shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        raise ValueError(
            f"[fit] the loss does not depend on {shown}: use what the model holds, or freeze it "
            f"with requires_grad_(False)"
        )


def _is_function(schedule: Any) -> bool:
    """True for a function of the epoch, False for one of `optim.lr_scheduler`."""
    return callable(schedule) and not hasattr(schedule, "step")


def _metric(metric: str | Metric) -> Metric:
    if callable(metric):
        return metric
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"[fit] unknown metric {metric!r}: {hint}known are {', '.join(METRICS)}; or give a "
            f"function of outputs and targets"
        )
    return METRICS[metric]


def _name(metric: str | Metric) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")


def _as_scalar(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else tensor(float(value))


@contextmanager
def _deferred_interrupts() -> Iterator[Callable[[], bool]]:
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
