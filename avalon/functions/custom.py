"""Formulas with a gradient of their own, where the one that follows from the formula would
overflow, divide zero by zero or cost more.

Comes in: a function of tensors and its gradient, both written with ordinary operations. Goes out: a
tensor whose backward pass uses that gradient. Guaranteed: the gradient sees the operands as they
were, and is differentiable itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avalon.tensor import History, Tensor, is_grad_enabled, no_grad, wrap
from avalon.tracing.history import GradientFunction
from avalon.tracing.recorded import user_place

Formula = Callable[..., Tensor]
# (cotangent, result, *operands) -> one cotangent (or None) for each operand
Backward = Callable[..., Sequence[Tensor | None]]


def with_gradient(name: str, formula: Formula, backward: Backward, *operands: Tensor) -> Tensor:
    """formula(*operands), whose gradient is what `backward` says."""
    with no_grad():
        value = formula(*operands).value()
    if not is_grad_enabled():
        return wrap(value, None)
    edges = tuple(operand._edge() for operand in operands)
    if all(edge is None for edge in edges):
        return wrap(value, None)
    kept = [value, *[operand.value() for operand in operands]]
    made = History(name, edges, value, GradientFunction(backward), kept, user_place())
    return wrap(value, made)


def with_slope(
    name: str, x: Tensor, formula: Formula, slope: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """An elementwise formula(x) whose derivative is slope(x, y)."""
    return with_gradient(name, formula, lambda g, y, x: (g * slope(x, y),), x)
