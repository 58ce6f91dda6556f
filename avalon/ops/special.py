"""Special functions that NumPy lacks, in float64: the meaning of erf, lgamma, digamma and their
kin.

Comes in and goes out: arrays of any float type; the work is done in float64, element by element,
for these are the judges of the generated code, not part of it. Guaranteed: poles, NaN and
infinities as PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# B(2k) / (2k)!, the coefficients of the Euler-Maclaurin tail
_TAIL = tuple(
    numerator / denominator / math.factorial(2 * k)
    for k, (numerator, denominator) in enumerate(
        [(1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730), (7, 6), (-3617, 510)], 1
    )
)


def each(function: Callable[[float], float], x: Array) -> Array:
    """Apply a function of one float64 to every element."""
    found = np.array([function(value) for value in x.astype(np.float64).ravel().tolist()])
    return found.reshape(x.shape).astype(x.dtype)


def lgamma(x: float) -> float:
    """Logarithm of the absolute value of the gamma function; +inf at its poles."""
    if x == -math.inf or (x <= 0 and x == math.floor(x)):
        return math.inf
    return math.lgamma(x)


def digamma(x: float) -> float:
    """Derivative of lgamma; NaN at the negative integers, -inf at +0 and +inf at -0."""
    if x == 0:
        return math.copysign(math.inf, -x)
    if math.isinf(x):
        return x if x > 0 else math.nan
    if x < 0:
        if x == math.floor(x):
            return math.nan
        return digamma(1 - x) - math.pi / math.tan(math.pi * (x - round(x)))
    result = 0.0
    while x < 16:
        result -= 1 / x
        x += 1
    square = 1 / (x * x)
    series = square * (
        1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132)))
    )
    return result + math.log(x) - 0.5 / x - series


def polygamma(order: int, x: float) -> float:
    """The `order`-th derivative of digamma, by the zeta function of Hurwitz."""
    if order == 0:
        return digamma(x)
    sign = 1.0 if order % 2 else -1.0
    return sign * math.factorial(order) * _hurwitz_zeta(order + 1, x)


def _hurwitz_zeta(exponent: int, start: float) -> float:
    """Sum of (start + n)**-exponent over n = 0, 1, ...; +inf at the poles."""
    if math.isnan(start) or start == -math.inf:
        return math.nan
    if start <= 0 and start == math.floor(start):
        return math.inf
    total = 0.0
    while start < 12:
        total += start**-exponent
        start += 1
    if start == math.inf:
        return 0.0
    total += start ** (1 - exponent) / (exponent - 1) + 0.5 * start**-exponent
    rising, power = float(exponent), start ** (-exponent - 1)
    for k, coefficient in enumerate(_TAIL):
        total += coefficient * rising * power
        rising *= (exponent + 2 * k + 1) * (exponent + 2 * k + 2)
        power /= start * start
    return total


def erfinv(y: float) -> float:
    """Inverse of erf: a closed-form guess, then Newton steps."""
    if abs(y) > 1 or math.isnan(y):
        return math.nan
    if abs(y) == 1:
        return math.copysign(math.inf, y)
    if y == 0:
        return y
    target = abs(y)
    logarithm = math.log1p(-target * target)
    middle = 2 / (math.pi * 0.147) + logarithm / 2
    x = math.sqrt(max(0.0, math.sqrt(middle * middle - logarithm / 0.147) - middle))
    for _ in range(4):
        # near 1, erfc keeps the digits that erf loses
        error = math.erf(x) - target if target < 0.5 else (1 - target) - math.erfc(x)
        x -= error * math.sqrt(math.pi) / 2 * math.exp(x * x)
    return math.copysign(x, y)
