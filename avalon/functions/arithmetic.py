"""Pointwise arithmetic beyond the operators of `Tensor`, by PyTorch's names.

Comes in: tensors, numbers and arrays that broadcast together. Goes out: tensors of PyTorch's result
type; functions of the reals turn integers and bools into the default float dtype. Guaranteed:
values are accurate where a naive formula cancels or overflows (hypot, logaddexp, sinh, asinh near
0), and gradients are PyTorch's at ties and kinks (clamp gives 1 at its limits).

Source of the names and meanings: https://docs.pytorch.org/docs/stable/torch.html#pointwise-ops
"""

from __future__ import annotations

import builtins
import math
from typing import Any

from avalon import ops
from avalon.errors import DTypeError
from avalon.functions.custom import with_gradient
from avalon.functions.support import (
    Number,
    alias,
    cast,
    dtypes,
    floating,
    floats_together,
    in_place,
    scalar,
    together,
)
from avalon.graph.primitive import Primitive
from avalon.tensor import Tensor, as_tensor, binary, method, operators, unary


def _real_function(name: str, primitive: Primitive, formula: str) -> Any:
    def function(input: Any) -> Tensor:
        return unary(primitive, input)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"{formula} of each element; integers and bools become the default float dtype."
    )
    method(name)(function)
    return in_place(function)


exp = _real_function("exp", ops.exp, "e to the power")
expm1 = _real_function("expm1", ops.expm1, "exp(x) - 1, accurate near 0,")
log = _real_function("log", ops.log, "Natural logarithm")
log1p = _real_function("log1p", ops.log1p, "log(1 + x), accurate near 0,")
sqrt = _real_function("sqrt", ops.sqrt, "Square root")
sin = _real_function("sin", ops.sin, "Sine")
cos = _real_function("cos", ops.cos, "Cosine")
tanh = _real_function("tanh", ops.tanh, "Hyperbolic tangent")
erf = _real_function("erf", ops.erf, "Error function")
erfinv = _real_function("erfinv", ops.erfinv, "Inverse error function")
lgamma = _real_function("lgamma", ops.lgamma, "Logarithm of the absolute gamma function")
digamma = _real_function("digamma", ops.digamma, "Derivative of lgamma")


@in_place
@method("abs")
def abs(input: Any) -> Tensor:
    """Absolute value; the gradient at 0 is 0."""
    input = as_tensor(input)
    return input if input.dtype.kind in ("unsigned", "bool") else ops.absolute(input)


@in_place
@method("neg")
def neg(input: Any) -> Tensor:
    """-input."""
    input = as_tensor(input)
    if input.dtype is dtypes.bool_:
        raise DTypeError("[neg] `-` is not defined for bool tensors; write logical_not(x) or ~x")
    return ops.negative(input)


@method("positive")
def positive(input: Tensor) -> Tensor:
    """input itself."""
    if input.dtype is dtypes.bool_:
        raise DTypeError("[positive] `+` is not defined for bool tensors")
    return input


def _scaled(other: Any, alpha: Number) -> Any:
    return other if alpha == 1 else operators.multiply(other, alpha)


@method("add")
def add(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input + alpha * other."""
    return operators.add(input, _scaled(other, alpha))


@method("sub")
def sub(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input - alpha * other."""
    return operators.subtract(input, _scaled(other, alpha))


def rsub(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """other - alpha * input."""
    return operators.subtract(other, _scaled(input, alpha))


@method("mul")
def mul(input: Any, other: Any) -> Tensor:
    """input * other."""
    return operators.multiply(input, other)


@method("div")
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other; with rounding_mode "trunc" or "floor", rounded, of the operands' type."""
    if rounding_mode is None:
        return operators.divide(input, other)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode == "trunc":
        quotient = binary(ops.divide, input, other)
        return ops.truncate(quotient) if quotient.dtype.is_floating_point else quotient
    raise RuntimeError(
        f"[div] rounding_mode must be None, 'trunc' or 'floor', got {rounding_mode!r}"
    )


@method("floor_divide")
def floor_divide(input: Any, other: Any) -> Tensor:
    """floor(input / other), of the operands' own type."""
    return operators.floor_divide(input, other)


@method("remainder")
def remainder(input: Any, other: Any) -> Tensor:
    """input - floor(input / other) * other: the sign is the divisor's, as in Python."""
    return operators.remainder(input, other)


@in_place
@method("fmod")
def fmod(input: Any, other: Any) -> Tensor:
    """input - trunc(input / other) * other: the sign is the dividend's, as in C."""
    a, b = together("fmod", input, other)
    if not a.dtype.is_signed:
        return ops.remainder(a, b)
    if a.dtype.is_integer:
        return _fmod(a, b)
    return with_gradient("fmod", _fmod, lambda g, y, a, b: (g, -g * ops.truncate(a / b)), a, b)


def _fmod(a: Tensor, b: Tensor) -> Tensor:
    rest = ops.remainder(ops.absolute(a), ops.absolute(b))
    return ops.where(ops.less(a, a.constant(0)), -rest, rest)


@method("pow")
def pow(input: Any, exponent: Any) -> Tensor:
    """input ** exponent."""
    return operators.power(input, exponent)


@method("float_power")
def float_power(input: Any, exponent: Any) -> Tensor:
    """input ** exponent, computed in float64."""
    base = cast(as_tensor(input), dtypes.float64)
    if isinstance(exponent, Tensor):
        exponent = cast(exponent, dtypes.float64)
    return base**exponent


@in_place
@method("square")
def square(input: Any) -> Tensor:
    """input * input."""
    input = as_tensor(input)
    return input * input


@in_place
@method("reciprocal")
def reciprocal(input: Any) -> Tensor:
    """1 / input."""
    input = floating(input)
    return input.constant(1) / input


@in_place
@method("rsqrt")
def rsqrt(input: Any) -> Tensor:
    """1 / sqrt(input)."""
    input = floating(input)
    return input.constant(1) / ops.sqrt(input)


@in_place
@method("exp2")
def exp2(input: Any) -> Tensor:
    """2 to the power input."""
    input = floating(input)
    return ops.power(input.constant(2), input)


@in_place
@method("log2")
def log2(input: Any) -> Tensor:
    """Logarithm to base 2, exact at powers of 2 of float32 and smaller types."""
    return _logarithm(input, 1 / math.log(2))


@in_place
@method("log10")
def log10(input: Any) -> Tensor:
    """Logarithm to base 10."""
    return _logarithm(input, 1 / math.log(10))


def _logarithm(x: Any, factor: float) -> Tensor:
    x = floating(x)
    wide = cast(x, dtypes.float64)  # the product would round twice in the type itself
    return cast(ops.log(wide) * wide.constant(factor), x.dtype)


@method("logaddexp")
def logaddexp(input: Any, other: Any) -> Tensor:
    """log(exp(input) + exp(other)), from the larger one and the distance of the two."""
    a, b = floats_together("logaddexp", input, other)
    high, low = ops.maximum(a, b), ops.minimum(a, b)
    # Two equal infinities have no distance.
    distance = ops.where(ops.equal(high, low), high.constant(0), low - high)
    return high + ops.log1p(ops.exp(distance))


@method("logaddexp2")
def logaddexp2(input: Any, other: Any) -> Tensor:
    """log2(2**input + 2**other)."""
    a, b = floats_together("logaddexp2", input, other)
    natural = a.constant(math.log(2))
    return logaddexp(a * natural, b * natural) / natural


@in_place
@method("hypot")
def hypot(input: Any, other: Any) -> Tensor:
    """sqrt(input**2 + other**2), without overflow of the squares."""
    a, b = floats_together("hypot", input, other)
    one, zero = a.constant(1), a.constant(0)
    first, second = ops.stop_gradient(ops.absolute(a)), ops.stop_gradient(ops.absolute(b))
    large = ops.maximum(first, second)
    usable = ops.less(zero, large) & ops.less(large, a.constant(math.inf))
    unit = ops.where(usable, large, one)
    p, q = a / unit, b / unit
    return ops.sqrt(p * p + q * q) * unit


@in_place
@method("sign")
def sign(input: Any) -> Tensor:
    """-1, 0 or 1: the sign of each element; the gradient is 0."""
    input = ops.stop_gradient(as_tensor(input))
    if input.dtype is dtypes.bool_:
        return input
    zero, one = input.constant(0), input.constant(1)
    above = ops.where(
        ops.less(zero, input), one, input
    )  # keeps 0, and NaN, which PyTorch maps to 0
    below = ops.where(ops.less(input, zero), -one, above) if input.dtype.is_signed else above
    return ops.where(ops.not_equal(input, input), zero, below)


sgn = method("sgn")(sign)


@method("signbit")
def signbit(input: Any) -> Tensor:
    """True where the sign bit is set, that of -0.0 included."""
    input = as_tensor(input)
    if not input.dtype.is_floating_point:
        return binary(ops.less, input, 0)
    wide = cast(input, dtypes.float64)
    return ops.less(ops.bitcast(wide, dtype=dtypes.int64), wide.constant(0, dtype=dtypes.int64))


@in_place
@method("copysign")
def copysign(input: Any, other: Any) -> Tensor:
    """The size of input with the sign of other."""
    a, b = floats_together("copysign", input, other)
    return ops.where(ops.equal(signbit(a), signbit(b)), a, -a)


@in_place
@method("frac")
def frac(input: Tensor) -> Tensor:
    """The fractional part, input - trunc(input)."""
    return input - ops.truncate(input)


def _rounding(name: str, primitive: Primitive, meaning: str) -> Any:
    def function(input: Any) -> Tensor:
        input = as_tensor(input)
        return primitive(input) if input.dtype.is_floating_point else input

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{meaning}; integers stay as they are, the gradient is 0."
    method(name)(function)
    return in_place(function)


floor = _rounding("floor", ops.floor, "The largest integer not above each element")
ceil = _rounding("ceil", ops.ceil, "The smallest integer not below each element")
trunc = _rounding("trunc", ops.truncate, "Each element without its fractional part")


@in_place
@method("round")
def round(input: Any, *, decimals: int = 0) -> Tensor:
    """The nearest integer, halves to even; or to a number of decimals.

    >>> import avalon as av
    >>> av.round(av.tensor([0.5, 1.5, 2.5]))
    tensor([0., 2., 2.])
    """
    input = as_tensor(input)
    if not input.dtype.is_floating_point:
        return input
    if decimals == 0:
        return ops.round(input)
    scale = input.constant(10.0 ** builtins.abs(decimals))
    return ops.round(input * scale) / scale if decimals > 0 else ops.round(input / scale) * scale


def _tighten(x: Tensor, limit: Tensor, upper: bool) -> Tensor:
    outside = ops.less(limit, x) if upper else ops.less(x, limit)
    return ops.where(outside, limit, x)


def _limited(x: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    """x between limits that have no gradient: they are numbers."""

    def formula(x: Tensor) -> Tensor:
        if low is not None:
            x = _tighten(x, low, upper=False)
        return x if high is None else _tighten(x, high, upper=True)

    def backward(g: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor]:
        inside = [ops.less_equal(low, x)] if low is not None else []
        inside += [ops.less_equal(x, high)] if high is not None else []
        both = inside[0] if len(inside) == 1 else ops.bit_and(*inside)
        return (ops.where(both, g, g.constant(0)),)

    return with_gradient("clamp", formula, backward, x)


@in_place
@method("clamp")
def clamp(input: Any, min: Any = None, max: Any = None) -> Tensor:
    """min(max(input, min), max); either limit may be a number, a tensor or absent.

    The gradient is 1 at the limits; NaN stays NaN.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.clamp.html

    >>> import avalon as av
    >>> av.clamp(av.tensor([-2.0, 0.5, 2.0]), min=-1, max=1)
    tensor([-1.0000,  0.5000,  1.0000])
    """
    input = as_tensor(input)
    if min is None and max is None:
        raise RuntimeError("[clamp] needs min, max or both")
    if not isinstance(min, Tensor) and not isinstance(max, Tensor):
        if not input.dtype.is_floating_point and (isinstance(min, float) or isinstance(max, float)):
            input = floating(input)
        low, high = (None if limit is None else scalar(input, limit) for limit in (min, max))
        return _limited(input, low, high)
    input, *limits = together("clamp", input, *(limit for limit in (min, max) if limit is not None))
    if min is not None:
        input = _nan_wins(limits[0], _tighten(input, limits[0], upper=False))
    if max is not None:
        input = _nan_wins(limits[-1], _tighten(input, limits[-1], upper=True))
    return input


def _nan_wins(limit: Tensor, limited: Tensor) -> Tensor:
    return ops.where(ops.not_equal(limit, limit), limit, limited)


clip = in_place(method("clip")(clamp), "clip")


@in_place
@method("clamp_min")
def clamp_min(input: Any, min: Any) -> Tensor:
    """max(input, min)."""
    return clamp(input, min=min)


@in_place
@method("clamp_max")
def clamp_max(input: Any, max: Any) -> Tensor:
    """min(input, max)."""
    return clamp(input, max=max)


@in_place
@method("lerp")
def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """input + weight * (end - input), computed from the nearer end."""
    input, end, weight = together("lerp", input, end, weight)
    step = end - input
    near_start = input + weight * step
    near_end = end - step * (input.constant(1) - weight)
    return ops.where(ops.less(ops.absolute(weight), input.constant(0.5)), near_start, near_end)


@method("addcmul")
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    return input + _scaled(tensor1, value) * tensor2


@method("addcdiv")
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """input + value * tensor1 / tensor2."""
    return input + _scaled(tensor1, value) / tensor2


@in_place
@method("nan_to_num")
def nan_to_num(
    input: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """input with NaN and infinities replaced, by 0 and the type's largest numbers unless given."""
    input = as_tensor(input)
    if not input.dtype.is_floating_point:
        return input
    largest = dtypes.finfo(input.dtype).max
    infinity = input.constant(math.inf)
    input = ops.where(ops.not_equal(input, input), scalar(input, nan), input)
    input = ops.where(
        ops.equal(input, infinity), scalar(input, largest if posinf is None else posinf), input
    )
    return ops.where(
        ops.equal(input, -infinity), scalar(input, -largest if neginf is None else neginf), input
    )


@method("maximum")
def maximum(input: Any, other: Any) -> Tensor:
    """The larger of two elements; NaN wins, ties share the gradient."""
    return binary(ops.maximum, input, other)


@method("minimum")
def minimum(input: Any, other: Any) -> Tensor:
    """The smaller of two elements; NaN wins, ties share the gradient."""
    return binary(ops.minimum, input, other)


@method("fmax")
def fmax(input: Any, other: Any) -> Tensor:
    """The larger of two elements; a NaN loses to a number, the first wins ties."""
    a, b = together("fmax", input, other)
    return ops.where(ops.less_equal(b, a) | ops.not_equal(b, b), a, b)


@method("fmin")
def fmin(input: Any, other: Any) -> Tensor:
    """The smaller of two elements; a NaN loses to a number, the first wins ties."""
    a, b = together("fmin", input, other)
    return ops.where(ops.less_equal(a, b) | ops.not_equal(b, b), a, b)


@in_place
@method("erfc")
def erfc(input: Any) -> Tensor:
    """1 - erf(input)."""
    input = floating(input)
    return input.constant(1) - ops.erf(input)


@in_place
@method("logit")
def logit(input: Any, eps: float | None = None) -> Tensor:
    """log(input / (1 - input)), with input limited to [eps, 1 - eps] if eps is given."""
    input = floating(input)
    if eps is not None:
        input = clamp(input, eps, 1 - eps)
    return ops.log(input / (input.constant(1) - input))


@in_place
@method("xlogy")
def xlogy(input: Any, other: Any) -> Tensor:
    """input * log(other), and 0 where input is 0 unless other is NaN."""
    a, b = floats_together("xlogy", input, other)
    return with_gradient("xlogy", _xlogy, _xlogy_gradient, a, b)


def _xlogy(a: Tensor, b: Tensor) -> Tensor:
    zero = a.constant(0)
    return ops.where(ops.equal(a, zero) & ops.equal(b, b), zero, a * ops.log(b))


def _xlogy_gradient(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    zero = a.constant(0)
    absent = ops.equal(a, zero) & ops.less_equal(b, zero)
    return g * ops.where(absent, zero, ops.log(b)), g * a / b


absolute = alias("absolute", abs)
negative = alias("negative", neg)
subtract = alias("subtract", sub)
multiply = alias("multiply", mul)
divide = alias("divide", div)
fix = alias("fix", trunc)
true_divide = alias("true_divide", div)
