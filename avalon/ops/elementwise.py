"""Elementwise arithmetic and functions: equal shapes and dtypes in, the same shape out.

Broadcasting and promotion are separate nodes (`broadcast`, `cast`), so no rule here meets them.
Gradients are PyTorch's, also at kinks, poles and ties. Comparisons, bits and choice are in `logic`.
"""

from __future__ import annotations

import math

import numpy as np

from avalon import dtype as dtypes
from avalon.graph.primitive import Elementwise, primitive
from avalon.ops import samples, special
from avalon.ops.logic import bit_and, equal, less, less_equal, where

# --- one operand --------------------------------------------------------------------------------


@primitive(Elementwise, accepts="number", operator="neg", samples=samples.anything)
def negative(x):
    """Minus each element; integers wrap around."""
    return np.negative(x)


@negative.gradient
def _(g, y, x):
    return negative(g)


@negative.lower
def _(emit, x):
    return emit.negative(x)


@primitive(Elementwise, accepts="number", samples=samples.broken)
def absolute(x):
    """Magnitude of each element. The gradient at zero is zero."""
    return np.absolute(x)


@absolute.gradient
def _(g, y, x):
    return multiply(g, sign(x))


@absolute.lower
def _(emit, x):
    return emit.absolute(x)


def sign(x):
    """-1, 0 or 1 by the sign of each element; 0 for NaN. A composite of primitives."""
    zero = x.constant(0)
    negative_or_zero = where(less(x, zero), x.constant(-1), zero)
    return where(less(zero, x), x.constant(1), negative_or_zero)


@primitive(Elementwise, accepts="float", samples=samples.positive)
def sqrt(x):
    """Square root of each element."""
    return np.sqrt(x)


@sqrt.gradient
def _(g, y, x):
    return divide(g, add(y, y))


@sqrt.lower
def _(emit, x):
    return emit.sqrt(x)


@primitive(Elementwise, accepts="float", samples=samples.anything)
def exp(x):
    """e to the power of each element."""
    return np.exp(x)


@exp.gradient
def _(g, y, x):
    return multiply(g, y)


@exp.lower
def _(emit, x):
    return emit.exp(x)


@primitive(Elementwise, accepts="float", samples=samples.anything)
def expm1(x):
    """exp(x) - 1, exact near zero."""
    return np.expm1(x)


@expm1.gradient
def _(g, y, x):
    return multiply(g, add(y, y.constant(1)))


@expm1.lower
def _(emit, x):
    return emit.expm1(x)


@primitive(Elementwise, accepts="float", samples=samples.positive)
def log(x):
    """Natural logarithm of each element."""
    return np.log(x)


@log.gradient
def _(g, y, x):
    return divide(g, x)


@log.lower
def _(emit, x):
    return emit.log(x)


@primitive(Elementwise, accepts="float", samples=samples.positive)
def log1p(x):
    """log(1 + x), exact near zero."""
    return np.log1p(x)


@log1p.gradient
def _(g, y, x):
    return divide(g, add(x, x.constant(1)))


@log1p.lower
def _(emit, x):
    return emit.log1p(x)


@primitive(Elementwise, accepts="float", samples=samples.anything)
def sin(x):
    """Sine of each element, in radians."""
    return np.sin(x)


@sin.gradient
def _(g, y, x):
    return multiply(g, cos(x))


@sin.lower
def _(emit, x):
    return emit.sin(x)


@primitive(Elementwise, accepts="float", samples=samples.anything)
def cos(x):
    """Cosine of each element, in radians."""
    return np.cos(x)


@cos.gradient
def _(g, y, x):
    return multiply(g, negative(sin(x)))


@cos.lower
def _(emit, x):
    return emit.cos(x)


@primitive(Elementwise, accepts="float", samples=samples.anything)
def tanh(x):
    """Hyperbolic tangent of each element."""
    return np.tanh(x)


@tanh.gradient
def _(g, y, x):
    return multiply(g, subtract(y.constant(1), multiply(y, y)))


@tanh.lower
def _(emit, x):
    return emit.tanh(x)


@primitive(Elementwise, accepts="float", samples=samples.anything)
def sigmoid(x):
    """1 / (1 + exp(-x)); a primitive, for the gradient of the formula itself overflows."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    return (1 / (1 + np.exp(-wide))).astype(x.dtype)


@sigmoid.gradient
def _(g, y, x):
    return multiply(multiply(g, subtract(y.constant(1), y)), y)


@sigmoid.lower
def _(emit, x):
    wide = emit.cast(x, dtypes.float32) if x.dtype.itemsize == 2 else x
    one = emit.like(wide, 1)
    return emit.cast(emit.divide(one, emit.add(one, emit.exp(emit.negative(wide)))), x.dtype)


@primitive(Elementwise, accepts="float", samples=samples.anything)
def erf(x):
    """The error function of each element."""
    return special.each(math.erf, x)


@erf.gradient
def _(g, y, x):
    slope = multiply(x.constant(2 / math.sqrt(math.pi)), exp(negative(multiply(x, x))))
    return multiply(slope, g)


@erf.lower
def _(emit, x):
    return emit.erf(x)


@primitive(Elementwise, accepts="float", samples=samples.inside_one)
def erfinv(x):
    """The inverse of erf; infinite at -1 and 1, NaN outside."""
    return special.each(special.erfinv, x)


@erfinv.gradient
def _(g, y, x):
    slope = multiply(x.constant(math.sqrt(math.pi) / 2), exp(multiply(y, y)))
    return multiply(slope, g)


@erfinv.lower
def _(emit, x):
    return emit.erfinv(x)


@primitive(Elementwise, accepts="float", samples=samples.positive)
def lgamma(x):
    """Logarithm of the absolute value of the gamma function of each element."""
    return special.each(special.lgamma, x)


@lgamma.gradient
def _(g, y, x):
    return multiply(g, digamma(x))


@lgamma.lower
def _(emit, x):
    return emit.lgamma(x)


@primitive(Elementwise, accepts="float", samples=samples.positive)
def digamma(x):
    """Derivative of lgamma at each element."""
    return special.each(special.digamma, x)


@digamma.gradient
def _(g, y, x):
    return multiply(g, polygamma(x, order=1))


@digamma.lower
def _(emit, x):
    return emit.digamma(x)


@primitive(Elementwise, accepts="float", samples=samples.derivatives_of_digamma)
def polygamma(x, order):
    """The `order`-th derivative of digamma at each element."""
    return special.each(lambda value: special.polygamma(order, value), x)


@polygamma.gradient
def _(g, y, x, order):
    return multiply(g, polygamma(x, order=order + 1))


@polygamma.lower
def _(emit, x, order):
    return emit.polygamma(x, order)


@primitive(Elementwise, accepts="float", samples=samples.steps)
def floor(x):
    """The largest whole number that is not greater."""
    return np.floor(x)


@floor.gradient
def _(g, y, x):
    return g.constant(0)


@floor.lower
def _(emit, x):
    return emit.floor(x)


@primitive(Elementwise, accepts="float", samples=samples.steps)
def ceil(x):
    """The smallest whole number that is not less."""
    return np.ceil(x)


@ceil.gradient
def _(g, y, x):
    return g.constant(0)


@ceil.lower
def _(emit, x):
    return emit.ceil(x)


@primitive(Elementwise, accepts="float", samples=samples.steps)
def round(x):
    """The nearest whole number; of two equally near, the even one."""
    return np.rint(x)


@round.gradient
def _(g, y, x):
    return g.constant(0)


@round.lower
def _(emit, x):
    return emit.round(x)


@primitive(Elementwise, accepts="float", samples=samples.steps)
def truncate(x):
    """The whole part, towards zero."""
    return np.trunc(x)


@truncate.gradient
def _(g, y, x):
    return g.constant(0)


@truncate.lower
def _(emit, x):
    return emit.truncate(x)


# --- two operands -------------------------------------------------------------------------------


@primitive(Elementwise, accepts="number", operator="add", samples=samples.two)
def add(a, b):
    """Sum of elements; integers wrap around."""
    return np.add(a, b)


@add.gradient
def _(g, y, a, b):
    return g, g


@add.lower
def _(emit, a, b):
    return emit.add(a, b)


@primitive(Elementwise, accepts="number", operator="sub", samples=samples.two)
def subtract(a, b):
    """Difference of elements; integers wrap around."""
    return np.subtract(a, b)


@subtract.gradient
def _(g, y, a, b):
    return g, negative(g)


@subtract.lower
def _(emit, a, b):
    return emit.subtract(a, b)


@primitive(Elementwise, accepts="number", operator="mul", samples=samples.two)
def multiply(a, b):
    """Product of elements; integers wrap around."""
    return np.multiply(a, b)


@multiply.gradient
def _(g, y, a, b):
    return multiply(g, b), multiply(g, a)


@multiply.lower
def _(emit, a, b):
    return emit.multiply(a, b)


@primitive(Elementwise, accepts="number", operator="truediv", samples=samples.quotient)
def divide(a, b):
    """Quotient of elements; of integers the whole part towards zero, and 0 where b is 0."""
    if a.dtype.kind == "f":
        return np.true_divide(a, b)
    safe = np.where(b == 0, b.dtype.type(1), b)
    rounded_down = np.floor_divide(a, safe)
    inexact = rounded_down * safe != a
    towards_zero = rounded_down + (inexact & ((a < 0) != (safe < 0))).astype(a.dtype)
    return np.where(b == 0, a.dtype.type(0), towards_zero)


@divide.gradient
def _(g, y, a, b):
    return divide(g, b), negative(multiply(g, divide(y, b)))


@divide.lower
def _(emit, a, b):
    return emit.divide(a, b)


@primitive(Elementwise, accepts="number", samples=samples.remainders)
def floor_divide(a, b):
    """Quotient rounded down, as Python's //; 0 where b is the integer 0."""
    if a.dtype.kind == "f":
        return np.floor_divide(a, b)
    return np.where(
        b == 0, a.dtype.type(0), np.floor_divide(a, np.where(b == 0, b.dtype.type(1), b))
    )


@floor_divide.gradient
def _(g, y, a, b):
    return g.constant(0), g.constant(0)


@floor_divide.lower
def _(emit, a, b):
    return emit.floor_divide(a, b)


@primitive(Elementwise, accepts="number", samples=samples.remainders)
def remainder(a, b):
    """What floor_divide leaves, with the sign of b, as Python's %; 0 where b is the integer 0."""
    if a.dtype.kind == "f":
        left = np.fmod(a, b)
        return np.where((left != 0) & ((left < 0) != (b < 0)), left + b, left)
    return np.where(b == 0, a.dtype.type(0), np.remainder(a, np.where(b == 0, b.dtype.type(1), b)))


@remainder.gradient
def _(g, y, a, b):
    return g, negative(multiply(g, floor_divide(a, b)))


@remainder.lower
def _(emit, a, b):
    return emit.remainder(a, b)


@primitive(Elementwise, accepts="number", samples=samples.two_positive)
def power(a, b):
    """a to the power b; of an integer to a negative integer the whole part."""
    if a.dtype.kind == "f":
        return np.power(a, b)
    result = np.power(a, np.where(b < 0, b.dtype.type(0), b))
    odd = (b & b.dtype.type(1)) == 1
    inverse = np.where(
        a == 1, 1, np.where(a == a.dtype.type(-1 if a.dtype.kind == "i" else 1), 1, 0)
    )
    inverse = np.where(odd & (a != 1), -inverse, inverse).astype(a.dtype)
    return np.where(b < 0, inverse, result)


@power.gradient
def _(g, y, a, b):
    zero, one = a.constant(0), a.constant(1)
    by_base = multiply(g, multiply(b, power(a, subtract(b, one))))
    by_exponent = multiply(g, multiply(y, log(a)))
    settled = bit_and(equal(a, zero), less_equal(zero, b))  # 0**b does not depend on b there
    return where(equal(b, zero), zero, by_base), where(settled, zero, by_exponent)


@power.lower
def _(emit, a, b):
    return emit.power(a, b)


@primitive(Elementwise, accepts="number", samples=samples.untied)
def maximum(a, b):
    """The greater of two elements; NaN wins. A tie sends half the gradient to each."""
    return np.maximum(a, b)


@maximum.gradient
def _(g, y, a, b):
    return _winners(g, a, b, less)


@maximum.lower
def _(emit, a, b):
    return emit.maximum(a, b)


@primitive(Elementwise, accepts="number", samples=samples.untied)
def minimum(a, b):
    """The smaller of two elements; NaN wins. A tie sends half the gradient to each."""
    return np.minimum(a, b)


@minimum.gradient
def _(g, y, a, b):
    return _winners(g, a, b, lambda left, right: less(right, left))


@minimum.lower
def _(emit, a, b):
    return emit.minimum(a, b)


def _winners(g, a, b, loses):
    """Split a cotangent between two competitors: halves on ties, all to both where one is NaN."""
    zero = g.constant(0)
    share = where(equal(a, b), multiply(g, g.constant(0.5)), g)
    return where(loses(a, b), zero, share), where(loses(b, a), zero, share)


@primitive(Elementwise, accepts="float", samples=samples.two_positive)
def atan2(a, b):
    """Angle of the point (b, a): the arc tangent of a / b in the right quadrant."""
    return np.arctan2(a, b)


@atan2.gradient
def _(g, y, a, b):
    square = add(multiply(a, a), multiply(b, b))
    at_origin = equal(square, a.constant(0))  # where the gradient is zero by convention
    scale = where(at_origin, a.constant(0), divide(a.constant(1), square))
    return multiply(g, multiply(b, scale)), multiply(g, multiply(negative(a), scale))


@atan2.lower
def _(emit, a, b):
    return emit.atan2(a, b)
