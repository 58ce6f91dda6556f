"""The functional way: one step of an optimizer on a model, with gradients shaped like the model.

Comes in: an optimizer made without parameters, a model (any structure), and the gradients that
`av.grad` gave for it. Goes out: the model's tensors and the optimizer's state, written in place.
Guaranteed: the state is kept by the leaf's path in the model; shared leaves are updated once; a
leaf without gradient is left alone.
"""

from __future__ import annotations

from typing import Any

from avalon.errors import AutogradError
from avalon.optim.optimizer import Optimizer
from avalon.struct import leaves, trained
from avalon.tensor import Tensor, no_grad, synchronize
from avalon.tracing.modes import modes


def update(optimizer: Optimizer, model: Any, gradients: Any) -> None:
    """Take one step: `loss, g = av.grad(f, model, x)`, then `av.update(optimizer, model, g[0])`.

    Args:
        optimizer: made without parameters, such as `Adam(lr=1e-3)`.
        model: any object with tensors in its fields.
        gradients: a structure like the model, with a gradient or None for each of its tensors.

    Raises:
        AutogradError: no trained tensor of the model has a gradient, or one has another shape.
        TypeError: the optimizer was made with parameters.
    """
    if optimizer.param_groups:
        raise TypeError(
            f"[update] this {type(optimizer).__name__} was made with parameters: call "
            f"optimizer.step(), or make it without them, {type(optimizer).__name__}(lr=...)"
        )
    parameters = trained(model)
    given = {"": gradients} if isinstance(gradients, Tensor) else leaves(gradients)
    updates = [(path, leaf, given[path]) for path, leaf in parameters.items() if path in given]
    if not updates:
        raise AutogradError(
            f"[update] none of the {len(parameters)} trained tensors of {type(model).__name__} "
            "has a "
            "gradient: does the loss depend on the model, and are these gradients those of this "
            "model (av.grad gives one structure for each argument)?"
        )
    for path, leaf, gradient in updates:
        if tuple(gradient.shape) != tuple(leaf.shape):
            raise AutogradError(
                f"[update] gradient of {path!r} has shape {tuple(gradient.shape)}, the tensor "
                f"{tuple(leaf.shape)}"
            )
    with no_grad():
        optimizer.apply(optimizer.defaults, updates)
    if modes.replay is None:
        synchronize()
