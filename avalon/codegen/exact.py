"""Sums and products of two floats with their rounding errors, exactly.

Comes in: float32 or float64 values. Goes out: pairs (rounded, error) whose exact sum is the exact
result. Guaranteed also without fused multiply-add, as long as nothing overflows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalon import dtype as dtypes
from avalon.codegen.values import Value

if TYPE_CHECKING:
    from avalon.codegen.emit import Emit

Pair = tuple[Value, Value]


def two_sum(emit: Emit, a: Value, b: Value) -> Pair:
    """a + b (Knuth, The Art of Computer Programming, volume 2, section 4.2.2)."""
    total = emit.add(a, b)
    b_part = emit.subtract(total, a)
    a_part = emit.subtract(total, b_part)
    return total, emit.add(emit.subtract(a, a_part), emit.subtract(b, b_part))


def quick_two_sum(emit: Emit, a: Value, b: Value) -> Pair:
    """a + b where |a| >= |b|, or a is 0."""
    total = emit.add(a, b)
    return total, emit.subtract(b, emit.subtract(total, a))


def two_product(emit: Emit, a: Value, b: Value) -> Pair:
    """a * b."""
    product = emit.multiply(a, b)
    if emit.target.has_fma:
        return product, emit.fma(a, b, emit.negative(product))
    # Dekker's: halves whose products are exact.
    (a_high, a_low), (b_high, b_low) = _halves(emit, a), _halves(emit, b)
    error = emit.subtract(emit.multiply(a_high, b_high), product)
    error = emit.add(error, emit.multiply(a_high, b_low))
    error = emit.add(error, emit.multiply(a_low, b_high))
    return product, emit.add(error, emit.multiply(a_low, b_low))


def _halves(emit: Emit, value: Value) -> Pair:
    bits = 12 if value.dtype is dtypes.float32 else 27
    spread = emit.multiply(value, emit.like(value, 2.0**bits + 1.0))
    high = emit.subtract(spread, emit.subtract(spread, value))
    return high, emit.subtract(value, high)


def exact_fma(emit: Emit, a: Value, b: Value, c: Value) -> Value:
    """a * b + c where the exact result is representable."""
    if emit.target.has_fma:
        return emit.fma(a, b, c)
    product, error = two_product(emit, a, b)
    total, rest = two_sum(emit, product, c)
    return emit.add(total, emit.add(rest, error))
