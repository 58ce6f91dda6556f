"""`fit`: the training loop.

Comes in: a model, data, a loss, an optimizer. Goes out: the trained model (in place) and a
`History`. Guaranteed: the same numbers, bit for bit, as the loop written by hand; a run that goes
on from a checkpoint ends with the bits of one that was never stopped; ctrl-C ends the run after a
whole step; a loss that is not a number is an error that names where it arose, and the model is as
it was before that batch; the model's mode is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avalon import struct
from avalon.checkpoint import RunState
from avalon.data.batches import as_batches, cutting
from avalon.epochs import Run, deferred_interrupts
from avalon.history import History
from avalon.model import in_mode
from avalon.optim import Optimizer
from avalon.progress import Progress
from avalon.random import Generator
from avalon.replay import CompiledStep
from avalon.tensor import Tensor
from avalon.training_step import Measured, Metric, metric_of, name_of, training_step


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
        model: a `nn.Module` or any object that is callable and has tensors in its fields.
        data: a tuple of arrays or tensors with a row for each example, the last one the targets;
            one such array; a data set; or an iterable of batches, which is walked once an epoch.
        loss: a function of the model's outputs and the targets, such as `nn.NLLLoss()`.
        optimizer: `Adam(lr=1e-3)`, or one made with the model's parameters.
        epochs: passes over the data, those before a resumed checkpoint included.
        batch_size, shuffle, drop_last, generator: how arrays and data sets are cut into batches.
        validation: more data, on which the model is measured after each epoch, in evaluation mode.
        metrics: names ("accuracy") or functions of outputs and targets; unless given, the accuracy
            where the targets are classes.
        schedule: a function from the epoch (2.5 is in the middle of the third) to the learning
            rate; or one of `optim.lr_scheduler`, stepped after each epoch.
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
    measured = Measured(None if metrics is None else {name_of(m): metric_of(m) for m in metrics})
    _check_trained(model)
    cut = cutting(loader)
    step = CompiledStep(training_step(model, loss, optimizer, clip, measured, cut), strict=False)
    state = RunState(model, optimizer, loader, schedule)
    path = None if checkpoint is None else Path(checkpoint)
    if resume and path is not None and path.exists():
        state.load(path)
    show = Progress(epochs, progress)
    with in_mode(model, training=True), deferred_interrupts() as interrupted:
        run = Run(
            model, loss, optimizer, schedule, step, cut, measured, state, show,
            checkpoint_every, interrupted,
        )  # fmt: skip
        try:
            run.train(loader, held_out, epochs, path, callbacks)
        finally:
            show.close()
            run.put_rate_back()
    return state.history


def _check_trained(model: Any) -> None:
    if not struct.trained(model):
        raise ValueError(
            f"[fit] {type(model).__name__} has nothing to train: no field holds a floating tensor "
            f"that is not a buffer. Give it nn.Parameter fields, or requires_grad_() what is frozen"
        )
