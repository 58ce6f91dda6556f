"""One step of training as a function of a batch: loss, gradients, metrics, update.

Comes in: a model, a loss, an optimizer, metrics. Goes out: a function that takes a batch and
returns the loss and the metrics' values. Guaranteed: the function reads no value and branches on
none, so that it can be compiled.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from avalon import struct
from avalon.data.batches import Batch
from avalon.functions import argmax, clamp
from avalon.nn.utils.clip import get_total_norm
from avalon.optim import Optimizer, update
from avalon.tensor import Tensor, no_grad, tensor
from avalon.transforms import grad

Metric = Callable[[Any, Any], Any]
Step = Callable[..., tuple[Tensor, ...]]
Value = TypeVar("Value")


def training_step(
    model: Any,
    loss: Callable[[Any, Any], Tensor],
    optimizer: Optimizer,
    clip: float | None,
    measured: Measured,
    cut: Callable[..., Batch],
) -> Step:
    """One whole step as a function of what `cut` makes a batch of; it returns the loss and the
    metrics' values.
    """

    def step(*given: Tensor) -> tuple[Tensor, ...]:
        batch = cut(*given)

        def cost(model: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
            outputs, target = forward(model, batch)
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
_OF_CLASSES: dict[str, Metric] = {"accuracy": accuracy}  # unless others are given


class Measured:
    """The metrics of a run; unless given, the accuracy where the targets are classes. That is seen
    from each step's outputs and kept nowhere, so that the first step is like the others.
    """

    def __init__(self, metrics: dict[str, Metric] | None) -> None:
        self.metrics = metrics

    def __call__(self, outputs: Any, target: Any) -> tuple[Tensor, ...]:
        metrics = self.metrics
        if metrics is None:
            metrics = _OF_CLASSES if _are_classes(outputs, target) else {}
        with no_grad():
            detached = struct.map_leaves(Tensor.detach, outputs)
            return tuple(_as_scalar(m(detached, target)) for m in metrics.values())

    def named(self, values: Sequence[Value]) -> dict[str, Value]:
        """By its name each of the values that a step returned."""
        metrics = self.metrics
        if metrics is None:
            metrics = _OF_CLASSES if len(values) > 1 else {}
        return dict(zip(["loss", *metrics], values, strict=True))


def _are_classes(outputs: Any, target: Any) -> bool:
    if not (isinstance(outputs, Tensor) and isinstance(target, Tensor)):
        return False
    return target.dtype.is_integer and outputs.ndim == target.ndim + 1


def forward(model: Any, batch: Batch) -> tuple[Any, Any]:
    """The model's outputs and the target; a batch of one tensor is its own target."""
    inputs = batch[:-1] or batch
    return model(*inputs), batch[-1]


def _check_reached(model: Any, gradients: Any) -> None:
    found = struct.leaves(gradients)
    left = [path for path in struct.trained(model) if path not in found]
    if left:
        shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        raise ValueError(
            f"[fit] the loss does not depend on {shown}: use what the model holds, or freeze it "
            f"with requires_grad_(False)"
        )


def metric_of(metric: str | Metric) -> Metric:
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


def name_of(metric: str | Metric) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")


def _as_scalar(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else tensor(float(value))
