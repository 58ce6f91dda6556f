"""Sliding windows: what pooling and unfold see, its write and its adjoint.

Window position p and offset k of an axis meet at element p * stride + k * dilation. There is no
padding here: `pad` comes first. Position axes stay in place, window axes are appended in the order
of `axes`.
"""

from __future__ import annotations

import itertools
from math import prod

import numpy as np

from avalon import dtype as dtypes
from avalon.errors import ShapeError
from avalon.graph.primitive import Movement, primitive
from avalon.ops import placement_samples as samples
from avalon.ops.logic import equal, where
from avalon.ops.movement import reshape
from avalon.ops.source import iota


def window_shape(operation, shape, axes, sizes, strides, dilations):
    """The shape of all windows over `shape`."""
    if not len(axes) == len(sizes) == len(strides) == len(dilations):
        raise ShapeError(f"[{operation}] axes {axes} need one size, stride and dilation each")
    if len(set(axes)) != len(axes) or any(not 0 <= axis < len(shape) for axis in axes):
        raise ShapeError(f"[{operation}] axes {axes} of shape {shape} must be different ones of it")
    result = list(shape)
    for axis, size, stride, dilation in zip(axes, sizes, strides, dilations, strict=True):
        extent = dilation * (size - 1) + 1
        if size < 1 or stride < 1 or dilation < 1 or extent > shape[axis]:
            raise ShapeError(
                f"[{operation}] a window of {size} elements {dilation} apart, moved by {stride}, "
                "does "
                f"not fit axis {axis} of shape {shape}"
            )
        result[axis] = (shape[axis] - extent) // stride + 1
    return (*result, *sizes)


def _offsets(shape, axes, sizes, strides, dilations):
    """For every window offset, last first: the elements of the whole that it meets.

    An element that several windows share meets them in order of position, for the later window
    holds it at the smaller offset.
    """
    positions = window_shape("window", shape, axes, sizes, strides, dilations)
    for offset in itertools.product(*(range(size - 1, -1, -1) for size in sizes)):
        places = [slice(None)] * len(shape)
        for axis, k, stride, dilation in zip(axes, offset, strides, dilations, strict=True):
            start = k * dilation
            places[axis] = slice(start, start + (positions[axis] - 1) * stride + 1, stride)
        yield tuple(places), (..., *offset)


@primitive(Movement, samples=samples.windows)
def window(x, axes, sizes, strides, dilations):
    """Every window over `axes`: position axes in place, window axes appended."""
    shape = window_shape("window", x.shape, axes, sizes, strides, dilations)
    result = np.empty(shape, x.dtype)
    for places, offset in _offsets(x.shape, axes, sizes, strides, dilations):
        result[offset] = x[places]
    return result


@window.shape
def _(x, axes, sizes, strides, dilations):
    return window_shape("window", x.shape, axes, sizes, strides, dilations), x.dtype


@window.gradient
def _(g, y, x, **places):
    return fold_window(g, shape=x.shape, **places)


@window.write
def _(base, new, **places):
    return assign_window(base, new, **places)


window.lowering("window")


@primitive(Movement, samples=samples.window_assignments)
def assign_window(base, update, axes, sizes, strides, dilations):
    """base with its windows (as `window` takes them) replaced by update; a later window wins."""
    result = base.copy()
    for places, offset in _offsets(base.shape, axes, sizes, strides, dilations):
        result[places] = update[offset]
    return result


@assign_window.shape
def _(base, update, axes, sizes, strides, dilations):
    wanted = window_shape("assign_window", base.shape, axes, sizes, strides, dilations)
    if update.shape != wanted or update.dtype is not base.dtype:
        raise ShapeError(
            f"[assign_window] the windows of {base.dtype.name} {base.shape} have shape {wanted}; "
            "got "
            f"{update.dtype.name} {update.shape}"
        )
    return base.shape, base.dtype


@assign_window.gradient
def _(g, y, base, update, **places):
    kept = assign_window(g, g.constant(0, shape=update.shape), **places)
    # Only the window that wrote an element last gets its gradient: let the windows write their
    # numbers and see which are left.
    count = prod(update.shape)
    numbers = g.apply(iota, (), {"shape": (count,), "axis": 0, "dtype": dtypes.int64})
    numbers = reshape(numbers, shape=update.shape)
    nobody = g.constant(-1, shape=base.shape, dtype=dtypes.int64)
    survivors = window(assign_window(nobody, numbers, **places), **places)
    zero = g.constant(0, shape=update.shape)
    return kept, where(equal(survivors, numbers), window(g, **places), zero)


assign_window.no_write("it is a new array")
assign_window.lowering("assign_window")


@primitive(Movement, accepts="number", samples=samples.window_folds)
def fold_window(x, shape, axes, sizes, strides, dilations):
    """Adjoint of `window`: an array of `shape` in which every window is added at its place, in
    order of position; elements outside all windows are 0.
    """
    wide = np.dtype(np.float32) if x.dtype == np.float16 else x.dtype
    result = np.zeros(shape, wide)
    for places, offset in _offsets(shape, axes, sizes, strides, dilations):
        result[places] += x[offset]
    return result.astype(x.dtype)


@fold_window.shape
def _(x, shape, axes, sizes, strides, dilations):
    wanted = window_shape("fold_window", shape, axes, sizes, strides, dilations)
    if x.shape != wanted:
        raise ShapeError(
            f"[fold_window] the windows of shape {shape} have shape {wanted}; got {x.shape}"
        )
    return shape, x.dtype


@fold_window.gradient
def _(g, y, x, shape, **places):
    return window(g, **places)


fold_window.no_write("it adds elements")
fold_window.lowering("fold_window")
