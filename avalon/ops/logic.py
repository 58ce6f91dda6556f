"""Comparisons, bits, conversions and choice: elementwise primitives that do no arithmetic.

Equal shapes in, the same shape out. Comparisons give bool; `greater` is `less` with swapped
operands.
"""

from __future__ import annotations

import numpy as np

from avalon import dtype as dtypes
from avalon.errors import DTypeError, ShapeError
from avalon.graph.primitive import Elementwise, primitive
from avalon.ops import samples

# --- comparisons --------------------------------------------------------------------------------


@primitive(Elementwise, accepts="real", result=dtypes.bool_, samples=samples.comparison)
def less(a, b):
    """Whether a < b; false where one is NaN."""
    return np.less(a, b)


less.no_gradient("a comparison is a step")


@less.lower
def _(emit, a, b):
    return emit.less(a, b)


@primitive(Elementwise, accepts="real", result=dtypes.bool_, samples=samples.comparison)
def less_equal(a, b):
    """Whether a <= b; false where one is NaN."""
    return np.less_equal(a, b)


less_equal.no_gradient("a comparison is a step")


@less_equal.lower
def _(emit, a, b):
    return emit.less_equal(a, b)


@primitive(Elementwise, accepts="real", result=dtypes.bool_, samples=samples.comparison)
def equal(a, b):
    """Whether a == b; false where one is NaN."""
    return np.equal(a, b)


equal.no_gradient("a comparison is a step")


@equal.lower
def _(emit, a, b):
    return emit.equal(a, b)


@primitive(Elementwise, accepts="real", result=dtypes.bool_, samples=samples.comparison)
def not_equal(a, b):
    """Whether a != b; true where one is NaN, so that `not_equal(x, x)` finds NaN."""
    return np.not_equal(a, b)


not_equal.no_gradient("a comparison is a step")


@not_equal.lower
def _(emit, a, b):
    return emit.not_equal(a, b)


# --- bits ---------------------------------------------------------------------------------------


@primitive(Elementwise, accepts="bool", samples=samples.one_of_bits)
def logical_not(x):
    """Whether an element is false."""
    return np.logical_not(x)


logical_not.no_gradient("bool valued")


@logical_not.lower
def _(emit, x):
    return emit.logical_not(x)


@primitive(Elementwise, accepts="integer", samples=samples.one_of_bits)
def bit_not(x):
    """Every bit inverted."""
    return np.invert(x)


bit_not.no_gradient("integer valued")


@bit_not.lower
def _(emit, x):
    return emit.bit_not(x)


@primitive(Elementwise, accepts="bits", samples=samples.bits)
def bit_and(a, b):
    """Bits set in both; of bool, whether both are true."""
    return np.bitwise_and(a, b)


bit_and.no_gradient("integer valued")


@bit_and.lower
def _(emit, a, b):
    return emit.bit_and(a, b)


@primitive(Elementwise, accepts="bits", samples=samples.bits)
def bit_or(a, b):
    """Bits set in either; of bool, whether one is true."""
    return np.bitwise_or(a, b)


bit_or.no_gradient("integer valued")


@bit_or.lower
def _(emit, a, b):
    return emit.bit_or(a, b)


@primitive(Elementwise, accepts="bits", samples=samples.bits)
def bit_xor(a, b):
    """Bits that differ; of bool, whether just one is true."""
    return np.bitwise_xor(a, b)


bit_xor.no_gradient("integer valued")


@bit_xor.lower
def _(emit, a, b):
    return emit.bit_xor(a, b)


def _within_width(x, amount):
    """Which shift amounts are in [0, width), and the amounts with the others set to zero."""
    fits = (amount >= 0) & (amount < x.dtype.itemsize * 8)
    return fits, np.where(fits, amount, amount.dtype.type(0))


@primitive(Elementwise, accepts="integer", samples=samples.shifts)
def shift_left(x, amount):
    """Bits moved up; 0 where the amount is negative or not less than the width."""
    fits, safe = _within_width(x, amount)
    return np.where(fits, np.left_shift(x, safe), x.dtype.type(0))


shift_left.no_gradient("integer valued")


@shift_left.lower
def _(emit, x, amount):
    return emit.shift_left(x, amount)


@primitive(Elementwise, accepts="integer", samples=samples.shifts)
def shift_right(x, amount):
    """Bits moved down, the sign kept; only the sign is left where the amount is negative or not
    less than the width.
    """
    fits, safe = _within_width(x, amount)
    sign = np.where(x < 0, ~x.dtype.type(0), x.dtype.type(0))
    return np.where(fits, np.right_shift(x, safe), sign)


shift_right.no_gradient("integer valued")


@shift_right.lower
def _(emit, x, amount):
    return emit.shift_right(x, amount)


# --- conversions --------------------------------------------------------------------------------


@primitive(Elementwise, samples=samples.conversions)
def cast(x, dtype):
    """Each element converted to `dtype`.

    To bool: whether it is not zero. Between integers: wrap-around. From floats to integers: the
    whole part, the nearest end of the range if it does not fit, 0 for NaN. To floats: rounded to
    nearest even (from float64 to bfloat16 by way of float32, as PyTorch does).
    """
    if dtype.kind == "bool":
        return x != 0
    if x.dtype.kind == "c" and not dtype.is_complex:
        x = x.real
    if x.dtype.kind == "f" and dtype.is_integer:
        info = np.iinfo(dtype.reference)
        whole = np.trunc(
            np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
        )
        # float64(info.max) may be one above the range, so the ends are put in as integers
        inside = (whole > float(info.min)) & (whole < float(info.max))
        ends = np.where(whole > 0, dtype.reference.type(info.max), dtype.reference.type(info.min))
        return np.where(inside, np.where(inside, whole, 0).astype(dtype.reference), ends)
    return x.astype(dtype.reference)


@cast.shape
def _(x, dtype):
    return x.shape, dtype


@cast.gradient
def _(g, y, x, dtype):
    return cast(g, dtype=x.dtype) if x.dtype.is_floating_point else None


@cast.lower
def _(emit, x, dtype):
    return emit.cast(x, dtype)


@primitive(Elementwise, samples=samples.reinterpretations)
def bitcast(x, dtype):
    """The bytes of each element read as another type of the same size."""
    if dtype is dtypes.bfloat16 and x.dtype.itemsize == 2:
        return (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if x.dtype == np.float32 and dtype.itemsize == 2:  # a bfloat16, computed in float32
        halves = (x.view(np.uint32) >> 16).astype(np.uint16)
        return x if dtype is dtypes.bfloat16 else halves.view(dtype.reference)
    return x.view(dtype.reference)


@bitcast.shape
def _(x, dtype):
    if x.dtype.itemsize != dtype.itemsize:
        raise DTypeError(
            f"[bitcast] {x.dtype.name} has {x.dtype.itemsize} bytes and {dtype.name} has "
            f"{dtype.itemsize}; the sizes must be equal. To convert values, use cast"
        )
    return x.shape, dtype


bitcast.no_gradient("a reading of bytes has no derivative")


@bitcast.lower
def _(emit, x, dtype):
    return emit.bitcast(x, dtype)


# --- choice -------------------------------------------------------------------------------------


@primitive(Elementwise, accepts=("bool", "any"), samples=samples.choice)
def where(condition, a, b):
    """a where the condition is true, b elsewhere. What is not chosen gets a gradient of zero, never
    NaN.
    """
    return np.where(condition, a, b)


@where.shape
def _(condition, a, b):
    if not condition.shape == a.shape == b.shape:
        shapes = f"{condition.shape}, {a.shape} and {b.shape}"
        raise ShapeError(f"[where] shapes {shapes} must be equal; broadcast them first")
    if a.dtype is not b.dtype:
        raise DTypeError(
            f"[where] dtypes {a.dtype.name} and {b.dtype.name} must be equal; cast one"
        )
    return a.shape, a.dtype


@where.gradient
def _(g, y, condition, a, b):
    zero = g.constant(0)
    return None, where(condition, g, zero), where(condition, zero, g)


@where.lower
def _(emit, condition, a, b):
    return emit.where(condition, a, b)
