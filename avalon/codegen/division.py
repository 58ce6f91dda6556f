"""Remainders of floats, exact whatever the quotient's size.

Comes in: float32 or float64 values. Goes out: the exact remainder, or the quotient rounded down, as
Python and PyTorch have them. Guaranteed: no function is called.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from avalon import dtype as dtypes
from avalon.codegen.exact import exact_fma
from avalon.codegen.values import Value

if TYPE_CHECKING:
    from avalon.codegen.emit import Emit


def _rest(emit: Emit, dividend: Value, divisor: Value) -> Value:
    """|dividend| modulo |divisor| in float64, for a finite dividend and a finite divisor, not 0.

    Subtracts q * divisor with q the rounded quotient until less than the divisor is left: such a
    difference is always representable. Each round takes 53 bits off the quotient, so nearly always
    there is one.
    """
    zero = emit.like(dividend, 0.0)
    a, b = emit.absolute(dividend), emit.absolute(divisor)
    usable = emit.compare("olt", a, emit.like(a, math.inf))
    positive = emit.bit_and(usable, emit.compare("ogt", b, zero))
    a = emit.where(positive, a, zero)
    flips = emit.constant(False, dtypes.bool_, a.lanes)
    with emit.while_((a, flips)) as loop:
        rest, flipped = loop.values
        active = emit.compare("oge", rest, b)
        loop.check(emit.any_lane(emit.bit_and(active, positive)))
        # A divisor scaled up keeps the quotient of a huge and a tiny number finite.
        step = b
        for _ in range(2):
            larger = emit.multiply(step, emit.like(b, 2.0**900))
            step = emit.where(emit.compare("ogt", rest, larger), larger, step)
        quotient = emit.truncate(emit.divide(rest, step))
        quotient = emit.where(active, quotient, zero)
        left = exact_fma(emit, emit.negative(quotient), step, rest)
        below = emit.compare("olt", left, zero)
        few = emit.compare("olt", quotient, emit.like(a, 2.0**53))
        corrected = emit.where(few, emit.add(left, step), emit.negative(left))
        flipped = emit.bit_xor(flipped, emit.bit_and(below, emit.logical_not(few)))
        loop.next(emit.where(below, corrected, left), flipped)
    rest, flipped = loop.results
    turned = emit.where(emit.compare("oeq", rest, zero), rest, emit.subtract(b, rest))
    return emit.where(flipped, turned, rest)


def _truncated(emit: Emit, dividend: Value, divisor: Value) -> Value:
    """The remainder with the dividend's sign: NaN for x % 0, inf % y, NaN; x for x % inf."""
    x, y = emit.cast(dividend, dtypes.float64), emit.cast(divisor, dtypes.float64)
    rest = emit.copysign(_rest(emit, x, y), x)
    infinity = emit.like(x, math.inf)
    rest = emit.where(emit.compare("oeq", emit.absolute(y), infinity), x, rest)
    finite = emit.compare("olt", emit.absolute(x), infinity)
    defined = emit.bit_and(finite, emit.compare("one", y, emit.like(y, 0.0)))
    return emit.cast(emit.where(defined, rest, emit.like(x, math.nan)), dividend.dtype)


def _signs_differ(emit: Emit, rest: Value, divisor: Value) -> Value:
    """Where `rest` is not 0 and has another sign than `divisor`."""
    zero = emit.like(rest, 0.0)
    opposite = emit.bit_xor(emit.compare("olt", divisor, zero), emit.compare("olt", rest, zero))
    return emit.bit_and(opposite, emit.compare("une", rest, zero))


def remainder(emit: Emit, dividend: Value, divisor: Value) -> Value:
    """The remainder with the divisor's sign; NaN where the divisor is 0."""
    rest = _truncated(emit, dividend, divisor)
    return emit.where(_signs_differ(emit, rest, divisor), emit.add(rest, divisor), rest)


def floor_divide(emit: Emit, dividend: Value, divisor: Value) -> Value:
    """The quotient rounded down; what division gives where the divisor is 0."""
    zero, one = emit.like(dividend, 0.0), emit.like(dividend, 1.0)
    rest = _truncated(emit, dividend, divisor)
    quotient = emit.divide(emit.subtract(dividend, rest), divisor)
    down = _signs_differ(emit, rest, divisor)
    quotient = emit.where(down, emit.subtract(quotient, one), quotient)
    # The quotient is a whole number but for its rounding.
    floor = emit.floor(quotient)
    up = emit.compare("ogt", emit.subtract(quotient, floor), emit.like(floor, 0.5))
    floor = emit.where(up, emit.add(floor, one), floor)
    ratio = emit.divide(dividend, divisor)
    result = emit.where(emit.compare("une", quotient, zero), floor, emit.copysign(zero, ratio))
    return emit.where(emit.compare("oeq", divisor, zero), ratio, result)
