"""Sine, cosine and the angle of a point, as vector code for float32 and float64.

Comes in: an `Emit` and values of one of the two types. Goes out: the function's value. Guaranteed:
as for `math_functions`; angles of any size are reduced correctly. Ordinary angles subtract a
multiple of pi/2 held in parts whose products are exact; vectors with a huge angle in some lane
branch to a multiplication by as many digits of 2/pi as that lane needs.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from avalon import dtype as dtypes
from avalon.codegen.exact import two_product, two_sum
from avalon.codegen.math_functions import DOUBLE, format_of, nearest, polynomial
from avalon.codegen.values import Value
from avalon.dtype import DType

if TYPE_CHECKING:
    from avalon.codegen.emit import Emit

_DIGITS = 1400  # binary digits of 2/pi: float64's exponents and a good rest
_GROUP = 16  # exponents that share an entry of the table
_PARTS = 4  # float64 numbers an entry


@cache
def _pi(bits: int) -> int:
    """pi * 2**bits but for the last few bits (Machin: 16 atan(1/5) - 4 atan(1/239))."""

    def arctangent(inverse: int) -> int:
        term = (1 << (bits + 16)) // inverse
        total, k = term, 1
        while term:
            term //= -inverse * inverse
            k += 2
            total += term // k
        return total

    return (16 * arctangent(5) - 4 * arctangent(239)) >> 16


def _parts(value: int, bits: int, widths: tuple[int, ...]) -> list[float]:
    """value / 2**bits as a sum of floats with that many significant bits each, cut off."""
    parts = []
    for width in widths:
        excess = max(value.bit_length() - width, 0)
        head = value >> excess << excess
        parts.append(math.ldexp(head >> excess, excess - bits))
        value -= head
    return parts


@cache
def _two_over_pi() -> tuple[float, ...]:
    """For every group of exponents, 2/pi * 2**(16 j) modulo 4 in four parts."""
    digits = (1 << (2 * _DIGITS + 1)) // _pi(_DIGITS)
    table: list[float] = []
    for group in range(62):
        shifted = (digits << (_GROUP * group)) % (4 << _DIGITS)
        table.extend(_parts(shifted, _DIGITS, (53,) * _PARTS))
    return tuple(table)


@cache
def _half_pi(dtype: DType) -> tuple[float, ...]:
    """pi/2 in parts; the products of the first ones with the whole numbers in use are exact."""
    widths = (12, 12, 24, 24) if dtype is dtypes.float32 else (33, 33, 53)
    return tuple(_parts(_pi(400), 401, widths))


def _modulo_four(emit: Emit, x: Value) -> Value:
    """x less the nearest multiple of 4."""
    whole = emit.round(emit.multiply(x, emit.like(x, 0.25)))
    return emit.subtract(x, emit.multiply(whole, emit.like(x, 4.0)))


def _reduce_large(emit: Emit, x: Value) -> tuple[Value, Value]:
    """Quadrant (int64) and rest of a float64 x >= 1, however large."""
    bits = emit.bitcast(x, dtypes.int64)
    exponent = emit.subtract(emit.shift_right(bits, DOUBLE.fraction), DOUBLE.bias + 52)
    group = emit.shift_right(emit.maximum(exponent, emit.like(exponent, 0)), 4)
    # x 2**(-16 group) is a whole number wherever digits of 2/pi were dropped.
    scale = emit.shift_left(
        emit.subtract(emit.like(group, DOUBLE.bias), emit.shift_left(group, 4)), DOUBLE.fraction
    )
    y = emit.multiply(x, emit.bitcast(scale, dtypes.float64))
    table = emit.table(_two_over_pi(), dtypes.float64)
    first = emit.shift_left(group, 2)
    products = [
        two_product(emit, y, emit.gather(table, emit.add(first, part), dtypes.float64))
        for part in range(_PARTS)
    ]
    (p1, e1), (p2, e2), (p3, e3), (p4, _) = products
    total, low1 = two_sum(emit, _modulo_four(emit, p1), _modulo_four(emit, e1))
    total, low2 = two_sum(emit, total, _modulo_four(emit, p2))
    whole, quadrant = nearest(emit, total, 1.0)
    total, rest = emit.subtract(total, whole), emit.add(e3, p4)
    for term in (e2, p3, low1, low2):
        total, error = two_sum(emit, total, term)
        rest = emit.add(rest, error)
    high, low = _half_pi_pair()
    factor = emit.like(x, high)
    product, error = two_product(emit, total, factor)
    error = emit.add(error, emit.multiply(total, emit.like(x, low)))
    return quadrant, emit.add(product, emit.add(error, emit.multiply(rest, factor)))


@cache
def _half_pi_pair() -> tuple[float, float]:
    high, low = _parts(_pi(400), 401, (53, 53))
    return high, low


def _reduce(emit: Emit, a: Value) -> tuple[Value, Value]:
    """Quadrant (an integer) and rest, at most pi/4 in size, of an angle a >= 0."""
    single = a.dtype is dtypes.float32
    whole, quadrant = nearest(emit, a, 2 / math.pi)
    minus = emit.negative(whole)
    rest = a
    for part in _half_pi(a.dtype):
        rest = emit.fma(minus, emit.like(a, part), rest)
    limit = emit.like(a, 6000.0 if single else 1e6)
    large = emit.logical_not(emit.compare("ole", a, limit))
    with emit.if_(emit.any_lane(large), carried=(quadrant, rest)) as branch:
        wide = emit.cast(emit.where(large, a, limit), dtypes.float64)
        far_quadrant, far_rest = _reduce_large(emit, wide)
        branch.next(
            emit.where(large, emit.cast(far_quadrant, quadrant.dtype), quadrant),
            emit.where(large, emit.cast(far_rest, a.dtype), rest),
        )
    quadrant, rest = branch.results
    return quadrant, rest


# (sin(r) - r) / r^3 in r^2 for r <= pi/4: relative to sin 2^-28.0, 2^-58.0
_SIN_SINGLE = (-0.16666655242443085, 0.008332191035151482, -0.00019518598855938762)
_SIN_DOUBLE = (
    -0.16666666666666632, 0.008333333333322474, -0.00019841269829837366, 2.7557313697913692e-06,
    -2.505075857161813e-08, 1.5896800564373124e-10,
)  # fmt: skip
# (cos(r) - 1 + r^2/2) / r^4 in r^2: absolute 2^-33.1, 2^-64.2
_COS_SINGLE = (0.04166664555668831, -0.00138873013202101, 2.4430681150988676e-05)
_COS_DOUBLE = (
    0.0416666666666666, -0.0013888888888874457, 2.4801587289652868e-05, -2.7557314393877365e-07,
    2.0875728113907722e-09, -1.1359865289708792e-11,
)  # fmt: skip


def sine_of_parts(emit: Emit, quadrant: Value, rest: Value) -> Value:
    """sin(quadrant * pi/2 + rest)."""
    single = rest.dtype is dtypes.float32
    square = emit.multiply(rest, rest)
    sine = emit.fma(
        emit.multiply(square, rest),
        polynomial(emit, square, _SIN_SINGLE if single else _SIN_DOUBLE),
        rest,
    )
    cosine = emit.fma(
        emit.multiply(square, square),
        polynomial(emit, square, _COS_SINGLE if single else _COS_DOUBLE),
        emit.fma(square, emit.like(rest, -0.5), emit.like(rest, 1.0)),
    )
    odd = emit.not_equal(emit.bit_and(quadrant, 1), 0)
    chosen = emit.where(odd, cosine, sine)
    # Bit 1 of the quadrant is the sign.
    width = 8 * rest.dtype.itemsize
    sign = emit.shift_left(emit.bit_and(quadrant, 2), width - 2)
    flipped = emit.bit_xor(emit.bitcast(chosen, sign.dtype), sign)
    return emit.bitcast(flipped, rest.dtype)


def sin(emit: Emit, x: Value) -> Value:
    """The sine of an angle in radians (float32: within 1.58 units in the last place)."""
    form = format_of(x)
    quadrant, rest = _reduce(emit, emit.absolute(x))
    bits = emit.bitcast(x, form.integer)
    sign = emit.bit_and(bits, emit.like(bits, form.bits(-0.0)))
    sine = emit.bitcast(sine_of_parts(emit, quadrant, rest), form.integer)
    return emit.bitcast(emit.bit_xor(sine, sign), x.dtype)


def cos(emit: Emit, x: Value) -> Value:
    """The cosine of an angle in radians (float32: within 1.58 units in the last place)."""
    quadrant, rest = _reduce(emit, emit.absolute(x))
    return sine_of_parts(emit, emit.add(quadrant, 1), rest)


# (atan(t) - t) / t^3 in t^2 for t <= tan(pi/8): relative to atan 2^-59.5
_ATAN = (
    -0.333333333333332, 0.19999999999953824, -0.14285714280221373, 0.11111110784728447,
    -0.09090897794549442, 0.07692060869452251, -0.06663111422365565, 0.05847942107815018,
    -0.05039537684322349, 0.03807033640272855, -0.017913364952352098,
)  # fmt: skip


def atan2(emit: Emit, y: Value, x: Value) -> Value:
    """The angle of the point (x, y), computed in float64."""
    if y.dtype is not dtypes.float64:
        wide = atan2(emit, emit.cast(y, dtypes.float64), emit.cast(x, dtypes.float64))
        return emit.cast(wide, y.dtype)
    zero, one, infinity = emit.like(y, 0.0), emit.like(y, 1.0), emit.like(y, math.inf)
    height, width = emit.absolute(y), emit.absolute(x)
    steep = emit.compare("ogt", height, width)
    small = emit.where(steep, width, height)
    large = emit.where(steep, height, width)
    # Two infinities make 45 degrees; sums of large numbers must not overflow.
    both = emit.compare("oeq", small, infinity)
    small, large = emit.where(both, one, small), emit.where(both, one, large)
    shrink = emit.where(
        emit.compare("ogt", large, emit.like(y, 2.0**1000)), emit.like(y, 2.0**-100), one
    )
    small, large = emit.multiply(small, shrink), emit.multiply(large, shrink)
    # atan(t) = pi/4 + atan((t - 1) / (t + 1)) for t above tan(pi/8)
    limit = emit.multiply(large, emit.like(y, math.tan(math.pi / 8)))
    turned = emit.compare("ogt", small, limit)
    top = emit.where(turned, emit.subtract(small, large), small)
    bottom = emit.where(turned, emit.add(small, large), large)
    t = emit.divide(top, bottom)
    t = emit.where(emit.compare("oeq", large, zero), zero, t)
    square = emit.multiply(t, t)
    angle = emit.fma(emit.multiply(square, t), polynomial(emit, square, _ATAN), t)
    high, low = _half_pi_pair()
    eighth = emit.add(emit.add(angle, emit.like(y, low / 2)), emit.like(y, high / 2))
    angle = emit.where(turned, eighth, angle)
    angle = emit.where(
        steep, emit.subtract(emit.like(y, high), emit.subtract(angle, emit.like(y, low))), angle
    )
    left = emit.less(emit.bitcast(x, dtypes.int64), 0)
    mirrored = emit.subtract(emit.like(y, 2 * high), emit.subtract(angle, emit.like(y, 2 * low)))
    angle = emit.copysign(emit.where(left, mirrored, angle), y)
    return emit.where(emit.compare("uno", y, x), emit.add(y, x), angle)
