"""The inverse error function, and the gamma family computed in float64, as vector code.

Comes in: an `Emit` and a float32 or float64 value. Goes out: the function's value. Guaranteed: as
for `math_functions`. In float64 the relative error grows next to a zero of `lgamma` (but 1 and 2)
or of `digamma`; the absolute error does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING

from avalon import dtype as dtypes
from avalon.codegen.math_functions import log, nearest, polynomial
from avalon.codegen.trigonometry import sine_of_parts
from avalon.codegen.values import Value

if TYPE_CHECKING:
    from avalon.codegen.emit import Emit

Function = Callable[["Emit", Value], Value]


def _in_double(function: Function) -> Function:
    """The function of float64 values made one of float32 values too."""

    def compute(emit: Emit, x: Value) -> Value:
        return emit.cast(function(emit, emit.cast(x, dtypes.float64)), x.dtype)

    compute.__doc__ = function.__doc__
    return compute


# erfinv(x) / x - 1 by w = -log(1 - x^2). In float32: in w up to 5 (within 2^-27.3), then in
# sqrt(w) - 3 (2^-25.2). In float64: in w - 3.125 up to 6.25 (2^-52.3), then in sqrt(w) - 3.25 up to
# w = 16 (2^-51.6), then in sqrt(w) - 5 (2^-54.1).
_ERFINV_CENTRE_SINGLE = (
    -0.11377307772636414, 0.2320137917995453, 0.011548749171197414, -0.0023344489745795727,
    -0.0001273497473448515, 4.449839980225079e-05, 4.003700723842485e-06,
    -1.9801877897407394e-06, 2.2140186217711744e-07, -8.806606111022575e-09,
)  # fmt: skip
_ERFINV_EDGE_SINGLE = (
    1.8329768180847168, 1.0016745328903198, 0.009444274008274078, -0.0076303682290017605,
    0.005695100873708725, -0.003627506550401449, 0.001465936191380024,
    -7.68185782362707e-06, -0.0002962912549264729, 8.889069431461394e-05,
)  # fmt: skip
_ERFINV_CENTRE = (
    0.653654562683103, 0.24015818242558956, -0.006033670871433159, -0.0007407025341659128,
    0.00018673420804664166, -1.388252336337495e-05, -1.3654692205527348e-06,
    4.2347877869300354e-07, -2.907035292011108e-08, -4.112634116119986e-09,
    1.0512040159317297e-09, -5.415410457321875e-11, -1.2972642527108066e-11,
    2.633511718820377e-12, -8.200111657592895e-14, -4.054668962272973e-14,
    6.697422470216071e-15, 2.1109598370507985e-17, -1.379183705475817e-16,
    1.114940560979099e-17, 1.4857582984157364e-18, -1.683002201251492e-19,
    -7.391528709943045e-21,
)  # fmt: skip
_ERFINV_EDGE = (
    2.0838856104922203, 1.0052589676941586, 0.005370914553663153, -0.0037512085075002625,
    0.002491442092548232, -0.0016882755579716972, 0.000953289446316689,
    -0.00035503749616247384, 2.403048792472328e-05, 6.828469458415767e-05,
    -4.7314966219698775e-05, 1.2475873951020492e-05, 2.913415627510305e-06,
    -4.015032393975542e-06, 1.5206797066234323e-06, 1.949267119536649e-08,
    -2.9245313260647515e-07, 9.02058016208103e-08, 9.139191158303438e-09,
)  # fmt: skip
_ERFINV_LAST = (
    3.8499064014085844, 1.0103004648645455, -0.00013871931837792278, -0.0002150301198388811,
    7.599527803177285e-05, -1.968177054379634e-05, 4.526053240958923e-06,
    -9.93030384031405e-07, 2.2904894685716975e-07, -6.755280145893586e-08,
    2.90302708917419e-08, -1.5261612622756245e-08, 7.80113815461797e-09,
    -3.4641607773300156e-09, 1.3365048566084e-09, -4.417110656878442e-10,
    5.845009755630289e-11, 4.385276488237522e-11, -1.7890617042399336e-11,
)  # fmt: skip


def erfinv(emit: Emit, x: Value) -> Value:
    """The inverse of the error function: infinite at -1 and 1, NaN outside."""
    single = x.dtype is dtypes.float32
    a, one = emit.absolute(x), emit.like(x, 1.0)
    w = emit.negative(log(emit, emit.multiply(emit.subtract(one, a), emit.add(one, a))))
    if single:
        centre = polynomial(emit, w, _ERFINV_CENTRE_SINGLE)
    else:
        centre = polynomial(emit, emit.subtract(w, emit.like(x, 3.125)), _ERFINV_CENTRE)
    outside = emit.compare("oge", w, emit.like(x, 5.0 if single else 6.25))
    with emit.if_(emit.any_lane(outside), carried=(centre,)) as branch:
        edge = (_erfinv_edge_single if single else _erfinv_edge)(emit, w)
        branch.next(emit.where(outside, edge, centre))
    result = emit.fma(a, branch.results[0], a)
    result = emit.where(emit.compare("oeq", a, one), emit.like(x, math.inf), result)
    return emit.copysign(result, x)


def _erfinv_edge_single(emit: Emit, w: Value) -> Value:
    root = emit.subtract(emit.sqrt(w), emit.like(w, 3.0))
    return polynomial(emit, root, _ERFINV_EDGE_SINGLE)


def _erfinv_edge(emit: Emit, w: Value) -> Value:
    root = emit.sqrt(w)
    edge = polynomial(emit, emit.subtract(root, emit.like(w, 3.25)), _ERFINV_EDGE)
    last = polynomial(emit, emit.subtract(root, emit.like(w, 5.0)), _ERFINV_LAST)
    return emit.where(emit.compare("olt", w, emit.like(w, 16.0)), edge, last)


# lgamma(2 + t) / ((1 + t) t) for |t| <= 1: relative 2^-51.6
_LGAMMA = (
    0.42278433509846713, -0.10031730167435428, 0.03296500062115769, -0.01238419219332882,
    0.004998641164580969, -0.002108130835451032, 0.0009153769251079785,
    -0.00040570737303906253, 0.0001825526025672933, -8.309535132860209e-05,
    3.816916796137821e-05, -1.7660390178470117e-05, 8.22081779803974e-06,
    -3.852164925472392e-06, 1.812660934525307e-06, -8.405729018184434e-07,
    3.9324920600577257e-07, -2.134617466868171e-07, 1.0797749455664302e-07,
    -1.725610921026022e-08, 2.2826115487107773e-09, -3.092978999852827e-08,
    1.8441111521551324e-08, 8.015142303459547e-09, -5.1216741494913474e-09,
    -3.122769046782199e-09, 1.7034283474714436e-09,
)  # fmt: skip


@cache
def _bernoulli(count: int) -> tuple[Fraction, ...]:
    """The Bernoulli numbers B_2, B_4, ... ("Concrete Mathematics", section 6.5)."""
    numbers = [Fraction(1)]
    for n in range(1, 2 * count + 1):
        total = sum((math.comb(n + 1, k) * numbers[k] for k in range(n)), Fraction(0))
        numbers.append(-total / (n + 1))
    return tuple(numbers[2::2])


def _half_turns(emit: Emit, x: Value) -> tuple[Value, Value, Value]:
    """x less the nearest whole number, and the sine and cosine of pi times that."""
    fraction = emit.subtract(x, emit.round(x))
    steps, quadrant = nearest(emit, fraction, 2.0)
    rest = emit.multiply(
        emit.subtract(fraction, emit.multiply(steps, emit.like(x, 0.5))), emit.like(x, math.pi)
    )
    sine = sine_of_parts(emit, quadrant, rest)
    return fraction, sine, sine_of_parts(emit, emit.add(quadrant, 1), rest)


def _lgamma_positive(emit: Emit, x: Value) -> Value:
    """lgamma for x > 0."""
    one = emit.like(x, 1.0)
    # Stirling's series from 8 on.
    far = emit.where(emit.compare("oge", x, emit.like(x, 8.0)), x, emit.like(x, 8.0))
    inverse = emit.divide(one, far)
    series = [float(b / (2 * k * (2 * k - 1))) for k, b in enumerate(_bernoulli(8), 1)]
    correction = polynomial(emit, emit.multiply(inverse, inverse), series)
    correction = emit.fma(inverse, correction, emit.like(x, 0.5 * math.log(2 * math.pi) - 0.5))
    stirling = emit.fma(
        emit.subtract(far, emit.like(x, 0.5)), emit.subtract(log(emit, far), one), correction
    )
    # Below, a step up (x < 1) or steps down to [1, 3], where a polynomial knows the zeros 1 and 2.
    low = emit.compare("olt", x, one)
    with emit.loop(0, 5, carried=(x, one)) as loop:
        y, product = loop.values
        smaller = emit.subtract(y, one)
        high = emit.compare("oge", y, emit.like(y, 3.0))
        loop.next(
            emit.where(high, smaller, y),
            emit.where(high, emit.multiply(product, smaller), product),
        )
    y, product = loop.results
    above_one = emit.where(low, x, emit.subtract(y, one))
    t = emit.subtract(above_one, one)
    zeros = emit.multiply(above_one, t)
    centre = emit.multiply(zeros, polynomial(emit, t, _LGAMMA))
    shift = log(emit, emit.where(low, x, product))
    shifted = emit.where(low, emit.subtract(centre, shift), emit.add(centre, shift))
    return emit.where(emit.compare("olt", x, emit.like(x, 8.0)), shifted, stirling)


@_in_double
def lgamma(emit: Emit, x: Value) -> Value:
    """log |gamma(x)|: infinite at 0, -1, -2, ... and at both infinities."""
    size = emit.absolute(x)
    positive = _lgamma_positive(emit, size)
    _, sine, _ = _half_turns(emit, x)
    area = emit.multiply(size, emit.absolute(sine))
    mirrored = emit.subtract(log(emit, emit.divide(emit.like(x, math.pi), area)), positive)
    # Next to 0 both are the same, and the area would underflow.
    turned = emit.compare("olt", x, emit.like(x, -(2.0**-500)))
    result = emit.where(turned, mirrored, positive)
    pole = emit.bit_and(
        emit.compare("ole", x, emit.like(x, 0.0)), emit.compare("oeq", x, emit.round(x))
    )
    infinite = emit.bit_or(pole, emit.compare("oeq", size, emit.like(x, math.inf)))
    result = emit.where(infinite, emit.like(x, math.inf), result)
    return emit.where(emit.compare("uno", x, x), x, result)


@_in_double
def digamma(emit: Emit, x: Value) -> Value:
    """The derivative of lgamma: NaN at -1, -2, ..., infinite at 0 with the sign of -x."""
    zero, one = emit.like(x, 0.0), emit.like(x, 1.0)
    negative = emit.compare("olt", x, zero)
    start = emit.where(negative, emit.subtract(one, x), x)
    with emit.loop(0, 10, carried=(start, zero)) as loop:
        y, total = loop.values
        low = emit.compare("olt", y, emit.like(x, 10.0))
        loop.next(
            emit.where(low, emit.add(y, one), y),
            emit.where(low, emit.subtract(total, emit.divide(one, y)), total),
        )
    y, total = loop.results
    inverse = emit.divide(one, y)
    square = emit.multiply(inverse, inverse)
    series = polynomial(emit, square, [float(b / (2 * k)) for k, b in enumerate(_bernoulli(8), 1)])
    tail = emit.fma(square, series, emit.multiply(inverse, emit.like(x, 0.5)))
    result = emit.add(emit.subtract(log(emit, y), tail), total)
    fraction, sine, cosine = _half_turns(emit, x)
    cotangent = emit.divide(emit.multiply(cosine, emit.like(x, math.pi)), sine)
    mirrored = emit.subtract(result, cotangent)
    pole = emit.compare("oeq", fraction, zero)
    mirrored = emit.where(pole, emit.like(x, math.nan), mirrored)
    result = emit.where(negative, mirrored, result)
    at_zero = emit.copysign(emit.like(x, math.inf), emit.negative(x))
    return emit.where(emit.compare("oeq", x, zero), at_zero, result)


def _inverse_power(emit: Emit, x: Value, exponent: int) -> Value:
    """x ** -exponent."""
    square = emit.divide(emit.like(x, 1.0), x)
    result = None
    while exponent:
        if exponent & 1:
            result = square if result is None else emit.multiply(result, square)
        exponent >>= 1
        if exponent:
            square = emit.multiply(square, square)
    assert result is not None
    return result


def _zeta(emit: Emit, s: int, x: Value) -> Value:
    """The sum of (x + k) ** -s over k >= 0, for x >= 0, by Euler's and Maclaurin's formula."""
    one = emit.like(x, 1.0)
    with emit.loop(0, 10 + s, carried=(x, emit.like(x, 0.0))) as loop:
        y, total = loop.values
        loop.next(emit.add(y, one), emit.add(total, _inverse_power(emit, y, s)))
    y, total = loop.results
    inverse = emit.divide(one, y)
    factors = []
    for k, b in enumerate(_bernoulli(9), 1):
        rising = math.prod(range(s, s + 2 * k - 1))
        factors.append(float(b * rising / math.factorial(2 * k)))
    tail = polynomial(emit, emit.multiply(inverse, inverse), factors)
    tail = emit.fma(inverse, tail, emit.like(x, 0.5))
    tail = emit.fma(inverse, tail, emit.like(x, 1 / (s - 1)))
    return emit.fma(_inverse_power(emit, y, s - 1), tail, total)


def polygamma(emit: Emit, x: Value, order: int) -> Value:
    """The derivative of that order of digamma, order >= 1: infinite at 0, -1, -2, ...

    A sum over the terms of a negative x is one over its positive ones, and two more for the rest.
    """
    if x.dtype is not dtypes.float64:
        wide = polygamma(emit, emit.cast(x, dtypes.float64), order)
        return emit.cast(wide, x.dtype)
    s, zero, one = order + 1, emit.like(x, 0.0), emit.like(x, 1.0)
    negative = emit.compare("ole", x, zero)
    below = emit.subtract(x, emit.floor(x))
    total = _zeta(emit, s, emit.where(negative, below, x))
    with emit.if_(emit.any_lane(negative), carried=(total,)) as branch:
        near = _zeta(emit, s, emit.subtract(one, below))
        near = emit.subtract(near, _zeta(emit, s, emit.subtract(one, x)))
        both = emit.subtract(total, near) if s % 2 else emit.add(total, near)
        pole = emit.compare("oeq", below, zero)
        both = emit.where(pole, emit.like(x, math.inf), both)
        branch.next(emit.where(negative, both, total))
    factor = float(math.factorial(order)) if order <= 170 else math.inf
    return emit.multiply(branch.results[0], emit.like(x, factor if order % 2 else -factor))
