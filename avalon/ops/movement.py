"""Movements: elements go to other places, no arithmetic is done.

Each declares its `write` too, (base, new window, other operands) -> new base: what an assignment to
the window does to what it looks into. Shapes are tuples, permutations and axes have one entry an
axis and are not negative; starts that are numbers of the user come as int64 scalars at run time.
"""

from __future__ import annotations

import builtins
from math import prod
from typing import Any

import numpy as np

from avalon import dtype as dtypes
from avalon.errors import ShapeError
from avalon.graph.primitive import Movement, lookup, primitive
from avalon.ops import placement_samples as samples
from avalon.ops.logic import where

# --- the whole array ----------------------------------------------------------------------------


@primitive(Movement, samples=samples.reshapes)
def reshape(x, shape):
    """The same elements, in row-major order, in another shape."""
    return np.reshape(x, shape)


@reshape.shape
def _(x, shape):
    if prod(x.shape) != prod(shape):
        raise ShapeError(
            f"[reshape] cannot view shape {x.shape} as {shape}: {prod(x.shape)} elements against "
            f"{prod(shape)}"
        )
    return shape, x.dtype


@reshape.gradient
def _(g, y, x, shape):
    return reshape(g, shape=x.shape)


@reshape.write
def _(base, new, shape):
    return reshape(new, shape=base.shape)


reshape.lowering("reshape")


@primitive(Movement, samples=samples.transposes)
def transpose(x, permutation):
    """Axis i of the result is axis permutation[i] of x."""
    return np.transpose(x, permutation)


@transpose.shape
def _(x, permutation):
    if sorted(permutation) != list(range(x.ndim)):
        raise ShapeError(
            f"[transpose] {permutation} is not a permutation of the {x.ndim} axes of shape "
            f"{x.shape}"
        )
    return tuple(x.shape[axis] for axis in permutation), x.dtype


def inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes another."""
    undo = [0] * len(permutation)
    for position, axis in enumerate(permutation):
        undo[axis] = position
    return tuple(undo)


@transpose.gradient
def _(g, y, x, permutation):
    return transpose(g, permutation=inverse(permutation))


@transpose.write
def _(base, new, permutation):
    return transpose(new, permutation=inverse(permutation))


transpose.lowering("transpose")


@primitive(Movement, samples=samples.broadcasts)
def broadcast(x, shape):
    """x repeated along axes of extent 1 and along new leading axes."""
    return np.broadcast_to(x, shape)


@broadcast.shape
def _(x, shape):
    added = len(shape) - x.ndim
    fits = added >= 0 and all(
        extent in (wanted, 1) for extent, wanted in zip(x.shape, shape[added:], strict=True)
    )
    if not fits:
        raise ShapeError(
            f"[broadcast] shape {x.shape} does not broadcast to {shape}: aligned at the right, "
            "each "
            "size must be equal or 1"
        )
    return shape, x.dtype


def repeated_axes(x: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of `shape` along which a broadcast of `x` repeats elements."""
    added = len(shape) - x.ndim
    return tuple(
        axis
        for axis, extent in enumerate(shape)
        if axis < added or (x.shape[axis - added] == 1 and extent != 1)
    )


def _sum(x, axes):
    """reduce_sum, by name: reductions are built on movements and come after them."""
    return lookup("reduce_sum")(x, axes=axes)


@broadcast.gradient
def _(g, y, x, shape):
    return reshape(_sum(g, repeated_axes(x, shape)), shape=x.shape)


@broadcast.write
def _(base, new, shape):
    if prod(shape) != prod(base.shape):
        raise ShapeError(
            f"[broadcast] cannot write to shape {base.shape} expanded to {shape}: one element "
            "would "
            "get several values. Write to a clone(), or to the tensor before it was expanded"
        )
    return reshape(new, shape=base.shape)


broadcast.lowering("broadcast")


@primitive(Movement, samples=samples.reversals)
def reverse(x, axes):
    """The order of elements reversed along `axes`."""
    return np.flip(x, axes)


@reverse.shape
def _(x, axes):
    if any(not 0 <= axis < x.ndim for axis in axes):
        raise ShapeError(f"[reverse] axes {axes} of shape {x.shape} must be in [0, {x.ndim})")
    return x.shape, x.dtype


@reverse.gradient
def _(g, y, x, axes):
    return reverse(g, axes=axes)


@reverse.write
def _(base, new, axes):
    return reverse(new, axes=axes)


reverse.lowering("reverse")

# --- parts --------------------------------------------------------------------------------------


def _slices(shape, dynamic, starts, sizes, steps):
    """NumPy slices; starts at run time are clamped so that nothing outside is read."""
    given = iter(dynamic)
    found = []
    for extent, start, size, step in zip(shape, starts, sizes, steps, strict=True):
        if start is None:
            start = builtins.max(0, builtins.min(int(next(given)), extent - (size - 1) * step - 1))
        found.append(builtins.slice(start, start + (size - 1) * step + 1 if size else start, step))
    return tuple(found)


def _check_part(operation, whole, dynamic, starts, sizes, steps):
    if not len(starts) == len(sizes) == len(steps) == len(whole):
        raise ShapeError(
            f"[{operation}] shape {whole} needs one start, size and step per axis; got starts "
            f"{starts}, sizes {sizes}, steps {steps}"
        )
    if sum(start is None for start in starts) != len(dynamic) or any(s.shape for s in dynamic):
        raise ShapeError(
            f"[{operation}] each None in starts {starts} needs one scalar operand; got "
            f"{len(dynamic)}"
        )
    for axis, (extent, start, size, step) in enumerate(
        zip(whole, starts, sizes, steps, strict=True)
    ):
        reach = (start or 0) + (size - 1) * step + 1 if size else 0
        if step < 1 or size < 0 or (start or 0) < 0 or reach > extent:
            raise ShapeError(
                f"[{operation}] {size} elements from {start} by steps of {step} do not lie inside "
                f"axis {axis} of shape {whole}"
            )


@primitive(Movement, accepts=("any", "index"), samples=samples.slices)
def slice(x, *dynamic, starts, sizes, steps):
    """sizes[i] elements of each axis, from starts[i], every steps[i]-th. A start of None is the
    next operand, an int64 scalar.
    """
    return x[_slices(x.shape, dynamic, starts, sizes, steps)]


@slice.shape
def _(x, *dynamic, starts, sizes, steps):
    _check_part("slice", x.shape, dynamic, starts, sizes, steps)
    return sizes, x.dtype


@slice.gradient
def _(g, y, x, *dynamic, starts, sizes, steps):
    nothing = g.constant(0, shape=x.shape)
    into = assign_slice(nothing, g, *dynamic, starts=starts, steps=steps)
    return into, *(None for _ in dynamic)


@slice.write
def _(base, new, *dynamic, starts, sizes, steps):
    return assign_slice(base, new, *dynamic, starts=starts, steps=steps)


slice.lowering("slice")


@primitive(Movement, accepts=("any", "any", "index"), samples=samples.slice_assignments)
def assign_slice(base, update, *dynamic, starts, steps):
    """base with its slice (as `slice` takes it) replaced by update."""
    result = base.copy()
    result[_slices(base.shape, dynamic, starts, update.shape, steps)] = update
    return result


@assign_slice.shape
def _(base, update, *dynamic, starts, steps):
    _check_types("assign_slice", base, update)
    _check_part("assign_slice", base.shape, dynamic, starts, update.shape, steps)
    return base.shape, base.dtype


@assign_slice.gradient
def _(g, y, base, update, *dynamic, starts, steps):
    kept = assign_slice(g, g.constant(0, shape=update.shape), *dynamic, starts=starts, steps=steps)
    taken = slice(g, *dynamic, starts=starts, sizes=update.shape, steps=steps)
    return kept, taken, *(None for _ in dynamic)


assign_slice.no_write("it is a new array")
assign_slice.lowering("assign_slice")


def _check_types(operation, base, update):
    if base.dtype is not update.dtype:
        raise ShapeError(
            f"[{operation}] base is {base.dtype.name} and update {update.dtype.name}; cast one"
        )


@primitive(Movement, samples=samples.pads)
def pad(x, value, low, high):
    """x with low[i] elements `value` (a scalar operand) before and high[i] after axis i; negative
    amounts cut elements off.
    """
    cut = tuple(
        builtins.slice(builtins.max(0, -before), extent - builtins.max(0, -after))
        for extent, before, after in zip(x.shape, low, high, strict=True)
    )
    widths = [(builtins.max(0, a), builtins.max(0, b)) for a, b in zip(low, high, strict=True)]
    return np.pad(x[cut], widths, constant_values=value) if widths else x


@pad.shape
def _(x, value, low, high):
    if value.shape != () or value.dtype is not x.dtype:
        raise ShapeError(
            f"[pad] the value has shape {value.shape} and dtype {value.dtype.name}; expected () "
            "and "
            f"{x.dtype.name}"
        )
    if not len(low) == len(high) == x.ndim:
        raise ShapeError(f"[pad] low {low} and high {high} need one amount per axis of {x.shape}")
    shape = tuple(low[i] + x.shape[i] + high[i] for i in range(x.ndim))
    cut_past_the_end = any(
        builtins.min(low[i], 0) + x.shape[i] + builtins.min(high[i], 0) < 0 for i in range(x.ndim)
    )
    if cut_past_the_end or any(extent < 0 for extent in shape):
        raise ShapeError(
            f"[pad] low {low} and high {high} cut more than there is off shape {x.shape}"
        )
    return shape, x.dtype


@pad.gradient
def _(g, y, x, value, low, high):
    opposite = {"low": tuple(-a for a in low), "high": tuple(-a for a in high)}
    zero = g.constant(0, shape=())
    inside = pad(
        g.constant(True, shape=x.shape, dtype=dtypes.bool_),
        g.constant(False, shape=(), dtype=dtypes.bool_),
        low=low,
        high=high,
    )
    outside = _sum(where(inside, g.constant(0), g), tuple(range(g.ndim)))
    return pad(g, zero, **opposite), outside


@pad.write
def _(base, new, value, low, high):
    inside = tuple(-before for before in low), tuple(-after for after in high)
    if any(amount > 0 for side in inside for amount in side):
        raise ShapeError(f"[pad] cannot write through amounts {low}, {high} that cut elements off")
    return pad(new, value, low=inside[0], high=inside[1])


pad.lowering("pad")


@primitive(Movement, samples=samples.concatenations)
def concatenate(*xs, axis):
    """Arrays one after the other along `axis`."""
    return np.concatenate(xs, axis=axis)


@concatenate.shape
def _(*xs, axis):
    first = xs[0]
    for other in xs[1:]:
        same = other.ndim == first.ndim and all(
            a == b or i == axis
            for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True))
        )
        if not same or other.dtype is not first.dtype:
            raise ShapeError(
                f"[concatenate] {other.dtype.name} {other.shape} does not continue "
                f"{first.dtype.name} {first.shape}: dtypes and sizes other than that of axis "
                f"{axis} "
                "must be equal"
            )
    if not 0 <= axis < first.ndim:
        raise ShapeError(f"[concatenate] axis {axis} of shape {first.shape} is out of range")
    total = sum(x.shape[axis] for x in xs)
    return (*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype


@concatenate.gradient
def _(g, y, *xs, axis):
    parts, start = [], 0
    for x in xs:
        starts = tuple(start if i == axis else 0 for i in range(x.ndim))
        parts.append(slice(g, starts=starts, sizes=x.shape, steps=(1,) * x.ndim))
        start += x.shape[axis]
    return tuple(parts)


concatenate.no_write("it joins several arrays")
concatenate.lowering("concatenate")


# --- diagonals ----------------------------------------------------------------------------------


@primitive(Movement, samples=samples.diagonals)
def diagonal(x, offset, axis1, axis2):
    """Elements [.., i, .., i + offset, ..] of axes axis1 and axis2, as a new last axis."""
    return np.diagonal(x, offset, axis1, axis2)


def _diagonal_shape(operation, x, offset, axis1, axis2):
    if axis1 == axis2 or not (0 <= axis1 < x.ndim and 0 <= axis2 < x.ndim):
        raise ShapeError(
            f"[{operation}] axes {axis1} and {axis2} of shape {x.shape} must be two different ones"
        )
    rows, columns = x.shape[axis1], x.shape[axis2]
    count = (
        builtins.min(rows, columns - offset)
        if offset >= 0
        else builtins.min(rows + offset, columns)
    )
    rest = tuple(extent for axis, extent in enumerate(x.shape) if axis not in (axis1, axis2))
    return (*rest, builtins.max(count, 0))


@diagonal.shape
def _(x, offset, axis1, axis2):
    return _diagonal_shape("diagonal", x, offset, axis1, axis2), x.dtype


@diagonal.gradient
def _(g, y, x, offset, axis1, axis2):
    nothing = g.constant(0, shape=x.shape)
    return assign_diagonal(nothing, g, offset=offset, axis1=axis1, axis2=axis2)


@diagonal.write
def _(base, new, offset, axis1, axis2):
    return assign_diagonal(base, new, offset=offset, axis1=axis1, axis2=axis2)


diagonal.lowering("diagonal")


@primitive(Movement, samples=samples.diagonal_assignments)
def assign_diagonal(base, update, offset, axis1, axis2):
    """base with its diagonal (as `diagonal` takes it) replaced by update."""
    result = base.copy()
    moved = np.moveaxis(result, (axis1, axis2), (0, 1))
    place = np.arange(update.shape[-1])
    moved[place + builtins.max(0, -offset), place + builtins.max(0, offset)] = np.moveaxis(
        update, -1, 0
    )
    return result


@assign_diagonal.shape
def _(base, update, offset, axis1, axis2):
    _check_types("assign_diagonal", base, update)
    wanted = _diagonal_shape("assign_diagonal", base, offset, axis1, axis2)
    if update.shape != wanted:
        raise ShapeError(
            f"[assign_diagonal] the diagonal of shape {base.shape} has shape {wanted}; got an "
            "update "
            f"of shape {update.shape}"
        )
    return base.shape, base.dtype


@assign_diagonal.gradient
def _(g, y, base, update, offset, axis1, axis2):
    place = {"offset": offset, "axis1": axis1, "axis2": axis2}
    return assign_diagonal(g, g.constant(0, shape=update.shape), **place), diagonal(g, **place)


assign_diagonal.no_write("it is a new array")
assign_diagonal.lowering("assign_diagonal")
