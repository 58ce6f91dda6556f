"""x to the power of y for float32 and float64.

Comes in: an `Emit`, base and exponent. Goes out: the power. Guaranteed: as for `math_functions`;
the logarithm is kept to more bits than the result has (float32: in float64; float64: in pairs), so
that large exponents lose nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from avalon import dtype as dtypes
from avalon.codegen.exact import Pair, quick_two_sum, two_product, two_sum
from avalon.codegen.math_functions import (
    at_least,
    at_most,
    exp_reduced,
    nearest,
    normalized,
    polynomial,
    scale,
    scale_normal,
    split,
    whole,
)
from avalon.codegen.values import Value

if TYPE_CHECKING:
    from avalon.codegen.emit import Emit

# (2 atanh(s) - 2 s) / s^3 in s^2: relative to the logarithm 2^-51.2
_LOG = (
    0.6666666666658664, 0.40000000052587986, 0.2857141707455899, 0.22223375866175837,
    0.18123500213682778, 0.1682160924039754,
)  # fmt: skip
# (e^r - 1 - r) / r^2 for |r| <= ln(2)/2: relative to e^r 2^-39.6
_EXP = (
    0.49999999999522066, 0.16666666786944195, 0.041666667053301396, 0.008333281180842044,
    0.001388879654859982, 0.00019909301993992052, 2.4887550740843115e-05,
)  # fmt: skip
# (2 atanh(s) - 2 s - 2/3 s^3) / s^5 in s^2: relative to the logarithm 2^-72.5
_LOG_TAIL = (
    0.3999999999999998, 0.28571428571443874, 0.22222222217776377, 0.18181818846083295,
    0.15384558263271, 0.13336271526240154, 0.11675627300352542, 0.11983103995832597,
)  # fmt: skip
_LN2 = (0.6931471803691238, 1.9082149292705877e-10, -4.6e-27)


def power(emit: Emit, base: Value, exponent: Value) -> Value:
    """base ** exponent, with C's rules for zeros, infinities, NaN and negative bases."""
    if base.dtype is dtypes.float32:
        x, y = emit.cast(base, dtypes.float64), emit.cast(exponent, dtypes.float64)
        return emit.cast(_edges(emit, x, y, _from_single(emit, emit.absolute(x), y)), base.dtype)
    result = _from_double(emit, emit.absolute(base), exponent)
    return _edges(emit, base, exponent, result)


def _from_single(emit: Emit, x: Value, y: Value) -> Value:
    """x ** y within 2^-39 for x >= 0, where float32 can hold the result."""
    count, mantissa = split(emit, x)
    f = emit.subtract(mantissa, emit.like(x, 1.0))
    s = emit.divide(f, emit.add(f, emit.like(x, 2.0)))
    z = emit.multiply(s, s)
    logarithm = emit.fma(emit.multiply(z, s), polynomial(emit, z, _LOG), emit.add(s, s))
    k = whole(emit, count, x.dtype)
    logarithm = emit.fma(k, emit.like(x, math.log(2)), logarithm)
    t = emit.multiply(y, _log_edges(emit, x, logarithm))
    t = at_least(emit, at_most(emit, t, 200.0), -200.0)
    steps = nearest(emit, t, 1 / math.log(2))
    r = emit.fma(steps.number, emit.like(x, -math.log(2)), t)
    rest = emit.fma(emit.multiply(r, r), polynomial(emit, r, _EXP), r)
    return scale_normal(emit, emit.add(rest, emit.like(x, 1.0)), steps)


def _log_edges(emit: Emit, x: Value, logarithm: Value) -> Value:
    """The logarithm of x >= 0, put right for 0, infinity and NaN."""
    logarithm = emit.where(emit.compare("olt", x, emit.like(x, math.inf)), logarithm, x)
    is_zero = emit.compare("oeq", x, emit.like(x, 0.0))
    return emit.where(is_zero, emit.like(x, -math.inf), logarithm)


def _log_pair(emit: Emit, x: Value) -> Pair:
    """The logarithm of a positive float64 in two parts, to some 65 bits."""
    extra, scaled = normalized(emit, x)
    count, mantissa = split(emit, scaled)
    k = emit.add(whole(emit, count, x.dtype), extra)
    one, two = emit.like(x, 1.0), emit.like(x, 2.0)
    f = emit.subtract(mantissa, one)
    # s = f / (2 + f) in two parts: the quotient, and what is left over the divisor.
    divisor, divisor_low = quick_two_sum(emit, two, f)
    s = emit.divide(f, divisor)
    product, error = two_product(emit, s, divisor)
    left = emit.subtract(emit.subtract(f, product), emit.fma(s, divisor_low, error))
    s_low = emit.divide(left, divisor)
    # z = s^2, cube = s^3 * 2/3, both in two parts; the rest of the series needs one.
    z, z_low = two_product(emit, s, s)
    z_low = emit.fma(emit.add(s, s), s_low, z_low)
    cube, cube_low = two_product(emit, z, s)
    cube_low = emit.add(cube_low, emit.fma(z, s_low, emit.multiply(z_low, s)))
    third = emit.like(x, 2 / 3)
    term, term_low = two_product(emit, cube, third)
    third_low = emit.like(x, 3.700743415417188e-17)  # 2/3 less its rounded value
    term_low = emit.add(term_low, emit.fma(cube_low, third, emit.multiply(cube, third_low)))
    tail = emit.multiply(emit.multiply(cube, z), polynomial(emit, z, _LOG_TAIL))
    # k ln(2): the first part's product is exact.
    first = emit.multiply(k, emit.like(x, _LN2[0]))
    second, second_low = two_product(emit, k, emit.like(x, _LN2[1]))
    total, low = two_sum(emit, first, emit.add(s, s))
    total, error = two_sum(emit, total, second)
    low = emit.add(low, error)
    total, error = two_sum(emit, total, term)
    low = emit.add(low, error)
    low = emit.add(low, emit.add(emit.add(s_low, s_low), emit.add(second_low, term_low)))
    low = emit.add(low, tail)
    return quick_two_sum(emit, total, low)


def _from_double(emit: Emit, x: Value, y: Value) -> Value:
    """x ** y for x >= 0."""
    high, low = _log_pair(emit, x)
    high = _log_edges(emit, x, high)
    infinity = emit.like(x, math.inf)
    regular = emit.compare("olt", emit.absolute(emit.multiply(y, high)), emit.like(x, 2000.0))
    product, error = two_product(emit, y, high)
    error = emit.fma(y, low, error)
    error = emit.where(regular, error, emit.like(x, 0.0))
    # A denormal result is rounded once only: by the last multiplication.
    t = at_least(emit, at_most(emit, product, 800.0), -800.0)
    exponent, rest = exp_reduced(emit, t)
    rest = emit.add(rest, emit.fma(rest, error, error))
    result = scale(emit, emit.add(rest, emit.like(x, 1.0)), exponent)
    return emit.where(emit.compare("oeq", product, infinity), infinity, result)


def _edges(emit: Emit, x: Value, y: Value, result: Value) -> Value:
    """`result`, |x| ** y, with the sign of x ** y, and right where a logarithm is of no use."""
    zero, one = emit.like(x, 0.0), emit.like(x, 1.0)
    size = emit.absolute(x)
    half = emit.multiply(y, emit.like(x, 0.5))
    is_whole = emit.compare("oeq", emit.truncate(y), y)
    odd = emit.bit_and(is_whole, emit.compare("one", emit.truncate(half), half))
    unit = emit.where(emit.compare("uno", y, y), y, one)
    result = emit.where(emit.compare("oeq", size, one), unit, result)
    negative = emit.less(emit.bitcast(x, dtypes.int64), 0)
    result = emit.where(emit.bit_and(odd, negative), emit.negative(result), result)
    below = emit.compare("olt", x, zero)
    infinite_x = emit.compare("oeq", size, emit.like(x, math.inf))
    undefined = emit.bit_and(below, emit.logical_not(emit.bit_or(is_whole, infinite_x)))
    result = emit.where(undefined, emit.like(x, math.nan), result)
    trivial = emit.bit_or(emit.compare("oeq", y, zero), emit.compare("oeq", x, one))
    return emit.where(trivial, one, result)
