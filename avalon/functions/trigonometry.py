"""Trigonometric and hyperbolic functions and their inverses.

Comes in: tensors of any shape; integers and bools become the default float dtype. Goes out: the same shape.
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
def tan(x: Any) -> Tensor:
    """Tangent."""

    def formula(x: Tensor) -> Tensor:
        return ops.sin(x) / ops.cos(x)

    return with_slope("tan", floating(x), formula, lambda x, y: _one(x) + y * y)


def _leg(x: Tensor) -> Tensor:
    """sqrt(1 - x * x), exact near 1."""
    return ops.sqrt((_one(x) - x) * (_one(x) + x))


@in_place
@method("asin")
def asin(x: Any) -> Tensor:
    """Inverse sine; NaN outside [-1, 1]."""

    def formula(x: Tensor) -> Tensor:
        return ops.atan2(x, _leg(x))

    return with_slope("asin", floating(x), formula, lambda x, y: _one(x) / _leg(x))


@in_place
@method("acos")
def acos(x: Any) -> Tensor:
    """Inverse cosine; NaN outside [-1, 1]."""

    def formula(x: Tensor) -> Tensor:
        return ops.atan2(_leg(x), x)

    return with_slope("acos", floating(x), formula, lambda x, y: -(_one(x) / _leg(x)))


@in_place
@method("atan")
def atan(x: Any) -> Tensor:
    """Inverse tangent."""

    def formula(x: Tensor) -> Tensor:
        return ops.atan2(x, _one(x))

    return with_slope("atan", floating(x), formula, lambda x, y: _one(x) / (x * x + _one(x)))


@in_place
@method("atan2")
def atan2(x: Any, other: Any) -> Tensor:
    """Angle of the point (other, x), in [-pi, pi]."""
    return ops.atan2(*floats_together("atan2", x, other))


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
def sinh(x: Any) -> Tensor:
    """Hyperbolic sine, by expm1 near 0."""
    return with_slope("sinh", floating(x), _sinh, lambda x, y: cosh(x))


@in_place
@method("cosh")
def cosh(x: Any) -> Tensor:
    """Hyperbolic cosine."""
    return with_slope("cosh", floating(x), _cosh, lambda x, y: sinh(x))


def _asinh(x: Tensor) -> Tensor:
    one, limit = _one(x), x.constant(1e4)
    size = ops.absolute(x)
    small = ops.minimum(size, limit)  # keeps the square finite
    near = ops.log1p(small + small * small / (one + ops.sqrt(small * small + one)))
    far = ops.log(ops.maximum(size, limit)) + x.constant(math.log(2))
    return _signed(x, ops.where(ops.less(limit, size), far, near))


@in_place
@method("asinh")
def asinh(x: Any) -> Tensor:
    """Inverse hyperbolic sine."""
    return with_slope(
        "asinh", floating(x), _asinh, lambda x, y: _one(x) / ops.sqrt(x * x + _one(x))
    )


def _acosh(x: Tensor) -> Tensor:
    one, limit = _one(x), x.constant(1e4)
    above = ops.minimum(x, limit) - one
    near = ops.log1p(above + ops.sqrt(above * (above + x.constant(2))))
    far = ops.log(ops.maximum(x, limit)) + x.constant(math.log(2))
    return ops.where(ops.less(limit, x), far, near)


@in_place
@method("acosh")
def acosh(x: Any) -> Tensor:
    """Inverse hyperbolic cosine; NaN below 1."""
    return with_slope(
        "acosh", floating(x), _acosh, lambda x, y: _one(x) / ops.sqrt(x * x - _one(x))
    )


@in_place
@method("atanh")
def atanh(x: Any) -> Tensor:
    """Inverse hyperbolic tangent; NaN outside [-1, 1]."""

    def formula(x: Tensor) -> Tensor:
        return x.constant(0.5) * (ops.log1p(x) - ops.log1p(-x))

    return with_slope("atanh", floating(x), formula, lambda x, y: _one(x) / (_one(x) - x * x))


@in_place
@method("deg2rad")
def deg2rad(x: Any) -> Tensor:
    """Degrees to radians."""
    x = floating(x)
    return x * x.constant(math.pi / 180)


@in_place
@method("rad2deg")
def rad2deg(x: Any) -> Tensor:
    """Radians to degrees."""
    x = floating(x)
    return x * x.constant(180 / math.pi)


@in_place
@method("sinc")
def sinc(x: Any) -> Tensor:
    """sin(pi x) / (pi x), and 1 at 0."""
    x = floating(x)
    origin = ops.equal(x, x.constant(0))
    angle = ops.where(origin, x.constant(1), x) * x.constant(math.pi)
    return ops.where(origin, x.constant(1), ops.sin(angle) / angle)


arccos = alias("arccos", acos)
arcsin = alias("arcsin", asin)
arctan = alias("arctan", atan)
arctan2 = alias("arctan2", atan2)
arccosh = alias("arccosh", acosh)
arcsinh = alias("arcsinh", asinh)
arctanh = alias("arctanh", atanh)
