"""Integer arithmetic that wraps, folds what is known, and never traps.

Comes in: values of one integer dtype. Goes out: values. Guaranteed: division by zero gives 0, the
most negative integer over -1 gives itself, shifts past the width give 0 or the sign.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from avalon import dtype as dtypes
from avalon.codegen import conversion
from avalon.codegen.values import Value, wrap

if TYPE_CHECKING:
    from avalon.codegen.emit import Emit


def _is_index(value: Value) -> bool:
    return value.lanes == 1 and value.dtype is dtypes.int64


def _linear(value: Value) -> tuple[Value, int, int]:
    """x, a, b with value = a x + b."""
    if value.number is not None:
        return value, 0, int(value.number)
    return value.linear or (value, 1, 0)


def scaled(emit: Emit, value: Value, factor: int) -> Value:
    """value * factor, as one instruction."""
    if factor == 1:
        return value
    return emit.binary("mul", value, emit.like(value, factor))


def _combined(emit: Emit, value: Value, factor: int, offset: int) -> Value:
    """value * factor + offset, which knows what it is made of.

    Constants stay outermost, so that many addresses share all but a constant, which costs nothing.
    What ends up unread is left out of the text.
    """
    factor, offset = wrap(factor, dtypes.int64), wrap(offset, dtypes.int64)
    if factor == 0:
        return emit.like(value, offset)
    result = scaled(emit, value, factor)
    if offset:
        result = emit.binary("add", result, emit.like(value, offset))
    return result if result is value else replace(result, linear=(value, factor, offset))


def add(emit: Emit, first: Value, second: Value) -> Value:
    """first + second"""
    if first.number is not None and second.number is not None:
        return emit.like(first, int(first.number) + int(second.number))
    if first.number == 0:
        return second
    if second.number == 0:
        return first
    if not _is_index(first):
        return emit.binary("add", first, second)
    x, a, b = _linear(first)
    y, c, d = _linear(second)
    if a == 0:
        return _combined(emit, y, c, b + d)
    if c == 0 or x.name == y.name:
        return _combined(emit, x, a + c, b + d)
    total = emit.binary("add", scaled(emit, x, a), scaled(emit, y, c))
    return _combined(emit, total, 1, b + d)


def subtract(emit: Emit, first: Value, second: Value) -> Value:
    """first - second"""
    if first.number is not None and second.number is not None:
        return emit.like(first, int(first.number) - int(second.number))
    if second.number == 0:
        return first
    if not _is_index(first):
        return emit.binary("sub", first, second)
    x, a, b = _linear(first)
    y, c, d = _linear(second)
    if a == 0:
        return _combined(emit, y, -c, b - d)
    if c == 0 or x.name == y.name:
        return _combined(emit, x, a - c, b - d)
    total = emit.binary("sub", scaled(emit, x, a), scaled(emit, y, c))
    return _combined(emit, total, 1, b - d)


def multiply(emit: Emit, first: Value, second: Value) -> Value:
    """first * second"""
    if first.number is not None and second.number is not None:
        return emit.like(first, int(first.number) * int(second.number))
    for one, other in ((first, second), (second, first)):
        if one.number == 0:
            return one
        if one.number == 1:
            return other
        if one.number is not None and _is_index(one):
            x, a, b = _linear(other)
            return _combined(emit, x, a * int(one.number), b * int(one.number))
    return emit.binary("mul", first, second)


def _truncated(emit: Emit, first: Value, second: Value) -> Value:
    """The quotient toward zero, for a divisor that is neither 0 nor -1."""
    unsigned = first.dtype.kind == "unsigned"
    if first.lanes > 1 and first.dtype.itemsize <= 4 and second.number is None:
        # float64 holds these exactly, and its quotient never rounds up to a whole number.
        quotient = emit.divide(emit.cast(first, dtypes.float64), emit.cast(second, dtypes.float64))
        return conversion.whole_part(emit, quotient, first.dtype)
    return emit.binary("udiv" if unsigned else "sdiv", first, second)


def divide(emit: Emit, first: Value, second: Value) -> Value:
    """The quotient toward zero; 0 where the divisor is 0."""
    zero, one = emit.like(first, 0), emit.like(first, 1)
    if second.number is not None:
        number = int(second.number)
        if first.number is not None and number:
            magnitude = abs(int(first.number)) // abs(number)
            return emit.like(first, magnitude if (first.number < 0) == (number < 0) else -magnitude)
        if number in (0, 1):
            return first if number else zero
        if number == -1 and first.dtype.kind == "signed":
            return emit.negative(first)
        return _truncated(emit, first, second)
    is_zero = emit.equal(second, zero)
    if first.dtype.kind == "unsigned":
        return emit.where(is_zero, zero, _truncated(emit, first, emit.where(is_zero, one, second)))
    is_minus = emit.equal(second, emit.like(first, -1))
    safe = emit.where(emit.bit_or(is_zero, is_minus), one, second)
    quotient = _truncated(emit, first, safe)
    return emit.where(is_zero, zero, emit.where(is_minus, emit.negative(first), quotient))


def _rest(emit: Emit, first: Value, second: Value) -> Value:
    """first - second * (first / second), with the sign of the first; 0 where the divisor is 0."""
    rest = emit.subtract(first, emit.multiply(second, divide(emit, first, second)))
    if second.number is not None:
        return rest if second.number else emit.like(first, 0)
    zero = emit.like(first, 0)
    return emit.where(emit.equal(second, zero), zero, rest)


def floor_divide(emit: Emit, first: Value, second: Value) -> Value:
    """The quotient rounded down; 0 where the divisor is 0."""
    if first.number is not None and second.number:
        return emit.like(first, int(first.number) // int(second.number))
    quotient = divide(emit, first, second)
    if first.dtype.kind == "unsigned":
        return quotient
    down = _signs_differ(emit, _rest(emit, first, second), second)
    return emit.where(down, emit.subtract(quotient, emit.like(first, 1)), quotient)


def remainder(emit: Emit, first: Value, second: Value) -> Value:
    """The remainder with the divisor's sign; 0 where the divisor is 0."""
    if first.number is not None and second.number:
        return emit.like(first, int(first.number) % int(second.number))
    rest = _rest(emit, first, second)
    if first.dtype.kind == "unsigned":
        return rest
    return emit.where(_signs_differ(emit, rest, second), emit.add(rest, second), rest)


def _signs_differ(emit: Emit, rest: Value, divisor: Value) -> Value:
    """Where `rest` is not 0 and has another sign than `divisor`."""
    zero = emit.like(rest, 0)
    opposite = emit.less(emit.bit_xor(rest, divisor), zero)
    return emit.bit_and(opposite, emit.not_equal(rest, zero))


def shift(emit: Emit, instruction: str, first: Value, second: Value) -> Value:
    """Shift ("shl", "ashr", "lshr") by a count that may be past the width; negative counts are."""
    width = 8 * first.dtype.itemsize
    if second.number is not None:
        if 0 <= second.number < width:
            return first if second.number == 0 else emit.binary(instruction, first, second)
        if instruction != "ashr":
            return emit.like(first, 0)
        return emit.binary(instruction, first, emit.like(first, width - 1))
    inside = emit.compare("ult", second, emit.like(second, width))
    if instruction == "ashr":
        return emit.binary(
            instruction, first, emit.where(inside, second, emit.like(second, width - 1))
        )
    shifted = emit.binary(instruction, first, emit.where(inside, second, emit.like(second, 0)))
    return emit.where(inside, shifted, emit.like(first, 0))


def power(emit: Emit, base: Value, exponent: Value) -> Value:
    """base ** exponent by repeated squaring; negative exponents give 0 but for bases 1 and -1."""
    zero, one = emit.like(base, 0), emit.like(base, 1)
    with emit.while_((one, base, exponent)) as loop:
        result, square, rest = loop.values
        loop.check(emit.any_lane(emit.less(zero, rest)))
        odd = emit.not_equal(emit.bit_and(rest, one), zero)
        loop.next(
            emit.where(odd, emit.multiply(result, square), result),
            emit.multiply(square, square),
            emit.shift_right(rest, one),
        )
    result = loop.results[0]
    if base.dtype.kind == "unsigned":
        return result
    odd = emit.not_equal(emit.bit_and(exponent, one), zero)
    minus = emit.like(base, -1)
    sign = emit.where(odd, minus, one)
    reciprocal = emit.where(
        emit.equal(base, one), one, emit.where(emit.equal(base, minus), sign, zero)
    )
    return emit.where(emit.less(exponent, zero), reciprocal, result)
