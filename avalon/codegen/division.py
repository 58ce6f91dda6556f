"""Remainders of floats, exact whatever the quotient's size.

Comes in: float32 or float64 values. Goes out: the exact remainder, or the quotient rounded down, as
Python and PyTorch have them. Guaranteed: no function is called.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from avalon import dtype as dtypes
from avalon.codegen.builder import Value
from avalon.codegen.exact import exact_fma

if TYPE_CHECKING:
    from avalon.codegen.emit import Emit


def _rest(emit: Emit, dividend: Value, divisor: Value) -> Value:
    """|dividend| modulo |divisor| (float64, divisor neither 0 nor infinite; NaN and infinite dividends
    give garbage).

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
        huge = emit.multiply(b, emit.like(b, 2.0**900))
        step = emit.where(emit.compare("ogt", rest, huge), huge, b)
        quotient = emit.truncate(emit.divide(rest, step))
        quotient = emit.where(active, quotient, zero)
        left = exact_fma(emit, emit.negative(quotient), step, rest)
        below = emit.compare("olt", left, zero)
        few = emit.compare("olt", quotient, emit.like(a, 2.0**53))
        corrected = emit.where(few, emit.add(left, step), emit.negative(left))
        flipped = emit.bit_xor(
            flipped, emit.bit_and(below, emit.logical_not(few))
        )
        loop.next(emit.where(below, corrected, left), flipped)
    rest, flipped = loop.results
    turned = emit.where(emit.compare("oeq", rest, zero), rest, emit.subtract(b, rest))
    return emit.where(flipped, turned, rest)


def remainder(emit: Emit, dividend: Value, divisor: Value) -> Value:
    """The remainder with the divisor's sign; NaN where the divisor is 0."""
    dtype = dividend.dtype
    wide = emit.cast(dividend, dtypes.float64)
    size = emit.cast(divisor, dtypes.float64)
    rest = emit.copysign(_rest(emit, wide, size), wide)
    rest = emit.cast(_edges(emit, rest, wide, size), dtype)
    zero = emit.like(rest, 0.0)
    opposite = emit.bit_xor(emit.compare("olt", divisor, zero), emit.compare("olt", rest, zero))
    wrong = emit.bit_and(opposite, emit.compare("une", rest, zero))
    return emit.where(wrong, emit.add(rest, divisor), rest)


def _edges(emit: Emit, rest: Value, dividend: Value, divisor: Value) -> Value:
    """NaN for x % 0, inf % y and NaN operands; x for x % inf."""
    infinity = emit.like(rest, math.inf)
    finite = emit.compare("olt", emit.absolute(dividend), infinity)
    rest = emit.where(emit.compare("oeq", emit.absolute(divisor), infinity), dividend, rest)
    defined = emit.bit_and(finite, emit.compare("one", divisor, emit.like(rest, 0.0)))
    return emit.where(defined, rest, emit.like(rest, math.nan))


def floor_divide(emit: Emit, dividend: Value, divisor: Value) -> Value:
    """(dividend - remainder) / divisor rounded to the whole number that it is near; a / 0 as division."""
    zero, half = emit.like(dividend, 0.0), emit.like(dividend, 0.5)
    rest = remainder(emit, dividend, divisor)
    ratio = emit.divide(dividend, divisor)
    quotient = emit.divide(emit.subtract(dividend, rest), divisor)
    floor = emit.floor(quotient)
    up = emit.compare("ogt", emit.subtract(quotient, floor), half)
    floor = emit.where(up, emit.add(floor, emit.like(floor, 1.0)), floor)
    result = emit.where(emit.compare("une", quotient, zero), floor, emit.copysign(zero, ratio))
    return emit.where(emit.compare("oeq", divisor, zero), ratio, result)
