"""Comparisons, tests for special values, logic on truth values and on bits, and choice by
condition.

Comes in: tensors, numbers and arrays that broadcast together. Goes out: bool tensors, except for
the bitwise functions and the choices. Guaranteed: NaN compares as in IEEE arithmetic; nothing here
but `where` has a gradient.

Source of the meanings: https://docs.pytorch.org/docs/stable/torch.html#comparison-ops
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from avalon import ops
from avalon.errors import DTypeError
from avalon.functions.support import (
    broadcast,
    dtypes,
    in_place,
    together,
)
from avalon.shape import broadcast_shapes
from avalon.tensor import Tensor, as_tensor, binary, method, operators


def _comparison(name: str, symbol: str, compare: Callable[[Any, Any], Tensor]) -> Any:
    def function(input: Any, other: Any) -> Tensor:
        return compare(input, other)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"x {symbol} other, as a bool tensor."
    return method(name)(function)


eq = _comparison("eq", "==", operators.equal)
ne = _comparison("ne", "!=", operators.not_equal)
lt = _comparison("lt", "<", operators.less)
le = _comparison("le", "<=", operators.less_equal)
gt = _comparison("gt", ">", operators.greater)
ge = _comparison("ge", ">=", operators.greater_equal)
not_equal = method("not_equal")(ne)
less = method("less")(lt)
less_equal = method("less_equal")(le)
greater = method("greater")(gt)
greater_equal = method("greater_equal")(ge)


@method("isnan")
def isnan(input: Any) -> Tensor:
    """True where input is NaN."""
    input = as_tensor(input)
    return ops.not_equal(input, input)


@method("isinf")
def isinf(input: Any) -> Tensor:
    """True where input is an infinity."""
    input = as_tensor(input)
    if not input.dtype.is_floating_point:
        return input.constant(False, dtype=dtypes.bool_)
    return ops.equal(ops.absolute(input), input.constant(math.inf))


@method("isposinf")
def isposinf(input: Any) -> Tensor:
    """True where input is +infinity."""
    input = as_tensor(input)
    if not input.dtype.is_floating_point:
        return input.constant(False, dtype=dtypes.bool_)
    return ops.equal(input, input.constant(math.inf))


@method("isneginf")
def isneginf(input: Any) -> Tensor:
    """True where input is -infinity."""
    input = as_tensor(input)
    if not input.dtype.is_floating_point:
        return input.constant(False, dtype=dtypes.bool_)
    return ops.equal(input, input.constant(-math.inf))


@method("isfinite")
def isfinite(input: Any) -> Tensor:
    """True where input is neither NaN nor an infinity."""
    input = as_tensor(input)
    if not input.dtype.is_floating_point:
        return input.constant(True, dtype=dtypes.bool_)
    return ops.less(ops.absolute(input), input.constant(math.inf))


@method("isreal")
def isreal(input: Any) -> Tensor:
    """True everywhere for real tensors."""
    input = as_tensor(input)
    return input.constant(True, dtype=dtypes.bool_)


@method("isclose")
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """True where |input - other| <= atol + rtol * |other|, or the two are equal infinities."""
    if input.dtype is not other.dtype:
        raise DTypeError(
            f"[isclose] dtypes {input.dtype!r} and {other.dtype!r} must be equal; convert one "
            "with .to()"
        )
    input, other = together("isclose", input, other)
    close = ops.equal(input, other)
    if equal_nan:
        close = close | (isnan(input) & isnan(other))
    allowed = atol + abs(rtol * other)
    return close | (isfinite(other) & isfinite(input) & le(abs(input - other), allowed))


@method("allclose")
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """True if all elements are close in the sense of `isclose`. Computes the value."""
    return bool(_everywhere(isclose(input, other, rtol, atol, equal_nan)).item())


@method("equal")
def equal(input: Tensor, other: Tensor) -> bool:
    """True if both have the same shape and elements. Computes the value."""
    if input.shape != other.shape:
        return False
    return bool(_everywhere(binary(ops.equal, input, other)).item())


def _everywhere(truth: Tensor) -> Tensor:
    return (
        ops.reduce_min(truth, axes=tuple(range(truth.ndim))) if truth.numel() else as_tensor(True)
    )


def truth(x: Any) -> Tensor:
    """x != 0, as a bool tensor."""
    x = as_tensor(x)
    return x if x.dtype is dtypes.bool_ else ops.not_equal(x, x.constant(0))


def _truths(name: str, x: Any, other: Any) -> list[Tensor]:
    a, b = truth(x), truth(other)
    shape = broadcast_shapes(name, a.shape, b.shape)
    return [broadcast(a, shape), broadcast(b, shape)]


@in_place
@method("logical_and")
def logical_and(input: Any, other: Any) -> Tensor:
    """True where both are not 0."""
    return ops.bit_and(*_truths("logical_and", input, other))


@in_place
@method("logical_or")
def logical_or(input: Any, other: Any) -> Tensor:
    """True where one is not 0."""
    return ops.bit_or(*_truths("logical_or", input, other))


@in_place
@method("logical_xor")
def logical_xor(input: Any, other: Any) -> Tensor:
    """True where exactly one is not 0."""
    return ops.bit_xor(*_truths("logical_xor", input, other))


@in_place
@method("logical_not")
def logical_not(input: Any) -> Tensor:
    """True where input is 0."""
    return ops.logical_not(truth(input))


@in_place
@method("bitwise_not")
def bitwise_not(input: Any) -> Tensor:
    """~input: all bits flipped; logical not for bools."""
    return ~as_tensor(input)


def _bitwise(name: str, symbol: str, apply: Callable[[Any, Any], Tensor]) -> Any:
    def function(input: Any, other: Any) -> Tensor:
        return apply(input, other)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"x {symbol} other, of integers (or bools, except for shifts)."
    return method(name)(function)


bitwise_and = _bitwise("bitwise_and", "&", operators.bit_and)
bitwise_or = _bitwise("bitwise_or", "|", operators.bit_or)
bitwise_xor = _bitwise("bitwise_xor", "^", operators.bit_xor)
bitwise_left_shift = _bitwise("bitwise_left_shift", "<<", operators.shift_left)
bitwise_right_shift = _bitwise("bitwise_right_shift", ">>", operators.shift_right)


def _condition(operation: str, mask: Any) -> Tensor:
    mask = as_tensor(mask)
    if mask.dtype is not dtypes.bool_:
        raise DTypeError(
            f"[{operation}] the condition must be a bool tensor, got {mask.dtype!r} of shape "
            f"{mask.shape}; write a comparison, or mask.bool()"
        )
    return mask


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """`input` where the condition holds, else `other`; the three broadcast together.

    With the condition alone: the indices where it holds, one int64 tensor per axis.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.where.html

    >>> import avalon as av
    >>> av.where(av.tensor([True, False]), 1.0, av.tensor([5.0, 6.0]))
    tensor([1., 6.])
    """
    if input is None and other is None:
        return as_tensor(condition).nonzero(as_tuple=True)
    mask = _condition("where", condition)
    a, b = together("where", input, other)
    shape = broadcast_shapes("where", mask.shape, a.shape)
    return ops.where(broadcast(mask, shape), broadcast(a, shape), broadcast(b, shape))


@method("where")
def _where_method(x: Tensor, condition: Tensor, other: Any) -> Tensor:
    """x where the condition holds, else other."""
    return where(condition, x, other)
