"""Reductions and running reductions: elements combined along axes.

`axes` is sorted and without repeats; reduced axes leave the shape. The result has the operand's
dtype (`Tensor` casts before: int32 sums to int64); 16-bit floats are summed in float32 and rounded
once. Lowering rules return (identity, combine): the value that changes nothing, and the name of the
elementwise primitive that joins two elements.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.errors import ShapeError
from avalon.graph.primitive import Reduction, primitive
from avalon.ops import samples
from avalon.ops.elementwise import add, divide, multiply
from avalon.ops.logic import bit_or, cast, equal, not_equal
from avalon.ops.movement import broadcast, pad, reshape, transpose

# --- shared -------------------------------------------------------------------------------------


def _reduced(operation: str, x: Any, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of `x` without `axes`."""
    if list(axes) != sorted(set(axes)) or any(not 0 <= axis < x.ndim for axis in axes):
        raise ShapeError(
            f"[{operation}] axes {axes} of shape {x.shape} must be increasing and in [0, {x.ndim})"
        )
    return tuple(extent for axis, extent in enumerate(x.shape) if axis not in axes)


def _reduced_not_empty(operation: str, x: Any, axes: tuple[int, ...]) -> tuple[int, ...]:
    """As `_reduced`, refusing a choice among no elements (any and all of nothing have a value)."""
    shape = _reduced(operation, x, axes)
    if x.dtype is not dtypes.bool_ and any(x.shape[axis] == 0 for axis in axes):
        raise ShapeError(
            f"[{operation}] shape {x.shape} has no elements along axes {axes}; "
            "expected at least one to choose from"
        )
    return shape


def _along(operation: str, x: Any, axis: int) -> tuple[int, ...]:
    """The shape of `x`, after a check of `axis`."""
    if not 0 <= axis < x.ndim:
        raise ShapeError(f"[{operation}] axis {axis} of shape {x.shape} must be in [0, {x.ndim})")
    shape: tuple[int, ...] = x.shape
    return shape


def restore(reduced, x, axes):
    """Repeat a reduced value along the axes that were reduced, back to the shape of `x`."""
    kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(x.shape))
    return broadcast(reshape(reduced, shape=kept), shape=x.shape)


def _wide(x):
    """The type in which the reference sums: float32 for 16-bit floats."""
    return np.dtype(np.float32) if x.dtype == np.float16 else x.dtype


def lowest(dtype: DType) -> Any:
    """The value that every other is at least."""
    if dtype.kind == "bool":
        return False
    return -float("inf") if dtype.is_floating_point else int(np.iinfo(dtype.reference).min)


def highest(dtype: DType) -> Any:
    """The value that every other is at most."""
    if dtype.kind == "bool":
        return True
    return float("inf") if dtype.is_floating_point else int(np.iinfo(dtype.reference).max)


# --- whole axes ---------------------------------------------------------------------------------


@primitive(Reduction, accepts="number", samples=samples.sums)
def reduce_sum(x, axes):
    """Sum along `axes`; 0 of nothing."""
    return np.sum(x, axis=axes, dtype=_wide(x)).astype(x.dtype)


@reduce_sum.shape
def _(x, axes):
    return _reduced("reduce_sum", x, axes), x.dtype


@reduce_sum.gradient
def _(g, y, x, axes):
    return restore(g, x, axes)


@reduce_sum.lower
def _(dtype):
    return 0, "add"


@primitive(Reduction, accepts="number", samples=samples.products)
def reduce_product(x, axes):
    """Product along `axes`; 1 of nothing. The gradient is right where elements are zero."""
    return np.prod(x, axis=axes, dtype=_wide(x)).astype(x.dtype)


@reduce_product.shape
def _(x, axes):
    return _reduced("reduce_product", x, axes), x.dtype


@reduce_product.gradient
def _(g, y, x, axes):
    if 0 in x.shape:
        return g.constant(0, shape=x.shape)
    # The product of all others: of those before times of those after. No division, so zeros are
    # fine.
    order = tuple(axis for axis in range(x.ndim) if axis not in axes) + axes
    kept = tuple(extent for axis, extent in enumerate(x.shape) if axis not in axes)
    moved = transpose(x, permutation=order)
    rows = reshape(moved, shape=(prod(kept), prod(x.shape[axis] for axis in axes)))
    before = _shifted(cumulative_product(rows, axis=1, reverse=False), 1, 1, False)
    after = _shifted(cumulative_product(rows, axis=1, reverse=True), 1, 1, True)
    others = reshape(multiply(before, after), shape=moved.shape)
    back = tuple(order.index(axis) for axis in range(x.ndim))
    return multiply(restore(g, x, axes), transpose(others, permutation=back))


@reduce_product.lower
def _(dtype):
    return 1, "multiply"


@primitive(Reduction, accepts="real", samples=samples.reductions)
def reduce_max(x, axes):
    """Greatest element along `axes`; NaN wins; of bool, whether any is true. The gradient is split
    evenly among equals.
    """
    return np.max(x, axis=axes, initial=False) if x.dtype == bool else np.max(x, axis=axes)


@reduce_max.shape
def _(x, axes):
    return _reduced_not_empty("reduce_max", x, axes), x.dtype


@reduce_max.gradient
def _(g, y, x, axes):
    return _shared_among_equals(g, y, x, axes)


@reduce_max.lower
def _(dtype):
    return lowest(dtype), "bit_or" if dtype is dtypes.bool_ else "maximum"


@primitive(Reduction, accepts="real", samples=samples.reductions)
def reduce_min(x, axes):
    """Smallest element along `axes`; NaN wins; of bool, whether all are true. The gradient is split
    evenly among equals.
    """
    return np.min(x, axis=axes, initial=True) if x.dtype == bool else np.min(x, axis=axes)


@reduce_min.shape
def _(x, axes):
    return _reduced_not_empty("reduce_min", x, axes), x.dtype


@reduce_min.gradient
def _(g, y, x, axes):
    return _shared_among_equals(g, y, x, axes)


@reduce_min.lower
def _(dtype):
    return highest(dtype), "bit_and" if dtype is dtypes.bool_ else "minimum"


def _shared_among_equals(g, y, x, axes):
    same = equal(x, restore(y, x, axes))
    if x.dtype.is_floating_point:
        same = bit_or(same, not_equal(x, x))  # a NaN that won is not equal to itself
    chosen = cast(same, dtype=x.dtype)
    share = divide(g, reduce_sum(chosen, axes=axes))
    return multiply(restore(share, x, axes), chosen)


def _without(x: Any, axis: int) -> tuple[int, ...]:
    return tuple(extent for position, extent in enumerate(x.shape) if position != axis)


@primitive(Reduction, accepts="real", samples=samples.along_axis_not_empty)
def argmax(x, axis):
    """Index (int64) of the first greatest element along `axis`; NaN counts as greatest."""
    return np.argmax(x, axis=axis).astype(np.int64)


@argmax.shape
def _(x, axis):
    _along("argmax", x, axis)
    _reduced_not_empty("argmax", x, (axis,))
    return _without(x, axis), dtypes.int64


argmax.no_gradient("integer valued")


@argmax.lower
def _(dtype):
    return lowest(dtype), "maximum"


@primitive(Reduction, accepts="real", samples=samples.along_axis_not_empty)
def argmin(x, axis):
    """Index (int64) of the first smallest element along `axis`; NaN counts as smallest."""
    return np.argmin(x, axis=axis).astype(np.int64)


@argmin.shape
def _(x, axis):
    _along("argmin", x, axis)
    _reduced_not_empty("argmin", x, (axis,))
    return _without(x, axis), dtypes.int64


argmin.no_gradient("integer valued")


@argmin.lower
def _(dtype):
    return highest(dtype), "minimum"


# --- running ------------------------------------------------------------------------------------


def _directed(x, axis, reverse):
    return np.flip(x, axis) if reverse else x


@primitive(Reduction, accepts="number", samples=samples.running)
def cumulative_sum(x, axis, reverse):
    """Sum of the elements up to and including each (from the end if `reverse`)."""
    total = np.cumsum(_directed(x, axis, reverse), axis=axis, dtype=_wide(x))
    return _directed(total, axis, reverse).astype(x.dtype)


@cumulative_sum.shape
def _(x, axis, reverse):
    return _along("cumulative_sum", x, axis), x.dtype


@cumulative_sum.gradient
def _(g, y, x, axis, reverse):
    return cumulative_sum(g, axis=axis, reverse=not reverse)


@cumulative_sum.lower
def _(dtype):
    return 0, "add"


@primitive(Reduction, accepts="number", samples=samples.running)
def cumulative_product(x, axis, reverse):
    """Product of the elements up to and including each (from the end if `reverse`). The gradient is
    right where elements are zero.
    """
    total = np.cumprod(_directed(x, axis, reverse), axis=axis, dtype=_wide(x))
    return _directed(total, axis, reverse).astype(x.dtype)


@cumulative_product.shape
def _(x, axis, reverse):
    return _along("cumulative_product", x, axis), x.dtype


@cumulative_product.gradient
def _(g, y, x, axis, reverse):
    if 0 in x.shape:
        return g
    # With s[k] = g[k] + x[k+1] s[k+1] the answer is s[k] times the product before k. The recurrence
    # is solved by doubling its stride, without a division, so zeros are fine at every order.
    total, factor = g, _shifted(x, axis, 0, not reverse)
    stride, length = 1, x.shape[axis]
    while stride < length:
        later_total = _moved(total, axis, stride, not reverse)
        later_factor = _moved(factor, axis, stride, not reverse)
        total = add(total, multiply(factor, later_total))
        factor = multiply(factor, later_factor)
        stride *= 2
    return multiply(total, _shifted(y, axis, 1, reverse))


@cumulative_product.lower
def _(dtype):
    return 1, "multiply"


def _shifted(x, axis, fill, reverse):
    """Elements moved one place up along `axis` (down if `reverse`); `fill` enters."""
    return _moved(x, axis, 1, reverse, fill)


def _moved(x, axis, places, reverse, fill=0):
    """Elements moved up along `axis` (down if `reverse`) by `places`; `fill` enters."""
    ends = tuple(places if position == axis else 0 for position in range(x.ndim))
    crop = tuple(-extent for extent in ends)
    low, high = (crop, ends) if reverse else (ends, crop)
    return pad(x, x.constant(fill, shape=()), low=low, high=high)


def _running_index(x, axis, wins):
    """Index of the running winner: the last among equals, and the last NaN once there is one."""
    rows = np.moveaxis(x, axis, 0)
    index = np.zeros(rows.shape, np.int64)
    for position in range(1, len(rows)):
        best = np.take_along_axis(rows, index[position - 1][None], 0)[0]
        here = rows[position]
        better = np.isnan(here) if x.dtype.kind == "f" else np.zeros(here.shape, bool)
        standing = ~np.isnan(best) if x.dtype.kind == "f" else np.ones(here.shape, bool)
        index[position] = np.where(
            better | (standing & wins(here, best)), position, index[position - 1]
        )
    return np.moveaxis(index, 0, axis)


@primitive(Reduction, accepts="real", samples=samples.along_axis)
def cumulative_argmax(x, axis):
    """Index (int64) of the greatest element up to and including each; the last among equals, and
    NaN counts as greatest.
    """
    return _running_index(x, axis, np.greater_equal)


@cumulative_argmax.shape
def _(x, axis):
    return _along("cumulative_argmax", x, axis), dtypes.int64


cumulative_argmax.no_gradient("integer valued")


@cumulative_argmax.lower
def _(dtype):
    return lowest(dtype), "maximum"


@primitive(Reduction, accepts="real", samples=samples.along_axis)
def cumulative_argmin(x, axis):
    """Index (int64) of the smallest element up to and including each; the last among equals, and
    NaN counts as smallest.
    """
    return _running_index(x, axis, np.less_equal)


@cumulative_argmin.shape
def _(x, axis):
    return _along("cumulative_argmin", x, axis), dtypes.int64


cumulative_argmin.no_gradient("integer valued")


@cumulative_argmin.lower
def _(dtype):
    return highest(dtype), "minimum"
