"""Trigonometric and hyperbolic functions and their inverses.

Comes in: tensors of any shape; integers and bools become the default float dtype. Goes out: the
same shape.
Guaranteed: accurate near 0 and free of overflow before the result itself overflows; the gradients
are the textbook's derivatives, not those of the formulas that compute the values.

Source: https://docs.pytorch.org/docs/stable/torch.html#pointwise-ops
"""

from __future__ import annotations

import math
from typing import Any

from avalon import ops
from avalon.functions.custom import with_slope
from avalon.functions.support import alias, floating, floats_together, in_place
from avalon.tensor import Tensor, method


def _one(x: Tensor) -> Tensor:
    return x.constant(1)


@in_place
@method("tan")
def tan(input: Any) -> Tensor:
    """Tangent."""

    def formula(input: Tensor) -> Tensor:
        return ops.sin(input) / ops.cos(input)

    return with_slope("tan", floating(input), formula, lambda x, y: _one(x) + y * y)


def _leg(x: Tensor) -> Tensor:
    """sqrt(1 - x * x), exact near 1."""
    return ops.sqrt((_one(x) - x) * (_one(x) + x))


@in_place
@method("asin")
def asin(input: Any) -> Tensor:
    """Inverse sine; NaN outside [-1, 1]."""

    def formula(input: Tensor) -> Tensor:
        return ops.atan2(input, _leg(input))

    return with_slope("asin", floating(input), formula, lambda x, y: _one(x) / _leg(x))


@in_place
@method("acos")
def acos(input: Any) -> Tensor:
    """Inverse cosine; NaN outside [-1, 1]."""

    def formula(input: Tensor) -> Tensor:
        return ops.atan2(_leg(input), input)

    return with_slope("acos", floating(input), formula, lambda x, y: -(_one(x) / _leg(x)))


@in_place
@method("atan")
def atan(input: Any) -> Tensor:
    """Inverse tangent."""

    def formula(input: Tensor) -> Tensor:
        return ops.atan2(input, _one(input))

    return with_slope("atan", floating(input), formula, lambda x, y: _one(x) / (x * x + _one(x)))


@in_place
@method("atan2")
def atan2(input: Any, other: Any) -> Tensor:
    """Angle of the point (other, input), in [-pi, pi]."""
    return ops.atan2(*floats_together("atan2", input, other))


def _signed(x: Tensor, size: Tensor) -> Tensor:
    """`size` with the sign of x, that of a zero included."""
    return ops.where(
        ops.less(x, x.constant(0)), -size, ops.where(ops.equal(x, x.constant(0)), x, size)
    )


def _sinh(x: Tensor) -> Tensor:
    one, half = _one(x), x.constant(0.5)
    size = ops.absolute(x)
    grown = ops.expm1(ops.minimum(size, one))
    near = half * (grown + grown / (grown + one))
    root = ops.exp(size * half)  # exp(|x|) itself would overflow too early
    far = half * root * root - half / root / root
    return _signed(x, ops.where(ops.less(size, one), near, far))


def _cosh(x: Tensor) -> Tensor:
    half = x.constant(0.5)
    root = ops.exp(ops.absolute(x) * half)
    return half * root * root + half / root / root


@in_place
@method("sinh")
def sinh(input: Any) -> Tensor:
    """Hyperbolic sine, by expm1 near 0."""
    return with_slope("sinh", floating(input), _sinh, lambda x, y: cosh(x))


@in_place
@method("cosh")
def cosh(input: Any) -> Tensor:
    """Hyperbolic cosine."""
    return with_slope("cosh", floating(input), _cosh, lambda x, y: sinh(x))


def _asinh(x: Tensor) -> Tensor:
    one, limit = _one(x), x.constant(1e4)
    size = ops.absolute(x)
    small = ops.minimum(size, limit)  # keeps the square finite
    near = ops.log1p(small + small * small / (one + ops.sqrt(small * small + one)))
    far = ops.log(ops.maximum(size, limit)) + x.constant(math.log(2))
    return _signed(x, ops.where(ops.less(limit, size), far, near))


@in_place
@method("asinh")
def asinh(input: Any) -> Tensor:
    """Inverse hyperbolic sine."""
    return with_slope(
        "asinh", floating(input), _asinh, lambda x, y: _one(x) / ops.sqrt(x * x + _one(x))
    )


def _acosh(x: Tensor) -> Tensor:
    one, limit = _one(x), x.constant(1e4)
    above = ops.minimum(x, limit) - one
    near = ops.log1p(above + ops.sqrt(above * (above + x.constant(2))))
    far = ops.log(ops.maximum(x, limit)) + x.constant(math.log(2))
    return ops.where(ops.less(limit, x), far, near)


@in_place
@method("acosh")
def acosh(input: Any) -> Tensor:
    """Inverse hyperbolic cosine; NaN below 1."""
    return with_slope(
        "acosh", floating(input), _acosh, lambda x, y: _one(x) / ops.sqrt(x * x - _one(x))
    )


@in_place
@method("atanh")
def atanh(input: Any) -> Tensor:
    """Inverse hyperbolic tangent; NaN outside [-1, 1]."""

    def formula(input: Tensor) -> Tensor:
        return input.constant(0.5) * (ops.log1p(input) - ops.log1p(-input))

    return with_slope("atanh", floating(input), formula, lambda x, y: _one(x) / (_one(x) - x * x))


@in_place
@method("deg2rad")
def deg2rad(input: Any) -> Tensor:
    """Degrees to radians."""
    input = floating(input)
    return input * input.constant(math.pi / 180)


@in_place
@method("rad2deg")
def rad2deg(input: Any) -> Tensor:
    """Radians to degrees."""
    input = floating(input)
    return input * input.constant(180 / math.pi)


@in_place
@method("sinc")
def sinc(input: Any) -> Tensor:
    """sin(pi input) / (pi input), and 1 at 0."""
    input = floating(input)
    origin = ops.equal(input, input.constant(0))
    angle = ops.where(origin, input.constant(1), input) * input.constant(math.pi)
    return ops.where(origin, input.constant(1), ops.sin(angle) / angle)


arccos = alias("arccos", acos)
arcsin = alias("arcsin", asin)
arctan = alias("arctan", atan)
arctan2 = alias("arctan2", atan2)
arccosh = alias("arccosh", acosh)
arcsinh = alias("arcsinh", asinh)
arctanh = alias("arctanh", atanh)
