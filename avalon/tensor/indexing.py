"""`x[...]` and `x[...] = y` for integers, slices, None, Ellipsis, masks and integer arrays.

Comes in: a tensor and what stands in the brackets. Goes out: a view where only integers, slices,
None and Ellipsis are there, else a copy, as in PyTorch. Guaranteed: starts and indices are run-time
arguments; indices that are known are checked at once, others when they are computed; a mask that is
assigned one number needs no count of its elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from avalon import dtype as dtypes, ops
from avalon.errors import DTypeError, IndexOutOfRange, ShapeError
from avalon.shape import Shape, broadcast_shapes, contiguous_strides
from avalon.tensor import views
from avalon.tensor.cell import Move
from avalon.tensor.core import Tensor, method
from avalon.tensor.creation import as_tensor, from_numpy
from avalon.tensor.interchange import readable
from avalon.tensor.layout import iterated_strides, spread_strides
from avalon.tensor.operators import broadcast_to, cast_to, scalar_value
from avalon.tensor.writes import assign_, check_in_place, check_overlap, copy_, fill_
from avalon.tracing.modes import modes
from avalon.tracing.values import Value


@dataclass(frozen=True)
class _New:
    """A new axis of size 1, and its stride; `array` indexes it where a bool stood for it."""

    step: int
    array: Tensor | None = None


@dataclass
class _Plan:
    """An index, sorted: what is cut first, then which axes of the window integer arrays index."""

    starts: list[int | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    # one entry for each axis of the window: None for an axis as it is, a new one, or the index
    # array of an axis
    axes: list[_New | Tensor | None] = field(default_factory=list)

    def arrays(self) -> list[Tensor | None]:
        """The index array of each axis of the window, if it has one."""
        return [axis.array if isinstance(axis, _New) else axis for axis in self.axes]


def _items(index: Any) -> list[Any]:
    if isinstance(index, tuple):
        return list(index)
    return [index]


def _is_array(item: Any) -> bool:
    return isinstance(item, (Tensor, np.ndarray, list, range)) or (
        isinstance(item, tuple) and not isinstance(item, str)
    )


def _index_tensor(item: Any) -> Tensor:
    """An index array as a tensor of bools or integers."""
    if isinstance(item, np.ndarray):
        item = from_numpy(item)
    elif not isinstance(item, Tensor):
        array = np.array(readable(item) if isinstance(item, Tensor) else _nested(item))
        if array.size == 0:
            array = array.astype(np.int64)
        item = Tensor._make(Value.from_numpy(array, dtypes.from_numpy(array.dtype)))
    if item.dtype is not dtypes.bool_ and not item.dtype.is_integer:
        raise IndexOutOfRange(
            f"[index] tensors used as indices must be long, int, byte or bool tensors, not "
            f"{item.dtype.name}"
        )
    return item


def _nested(item: Any) -> Any:
    if isinstance(item, (list, tuple)):
        return [_nested(part) for part in item]
    return readable(item) if isinstance(item, Tensor) else item


def _consumed(item: Any) -> int:
    """How many axes of the tensor an item of the index stands for."""
    if item is None or isinstance(item, (bool, np.bool_)):
        return 0
    if isinstance(item, Tensor) and item.dtype is dtypes.bool_:
        return item.ndim
    return 1


def _normalize(x: Tensor, index: Any) -> list[Any]:
    """The index with arrays as tensors and the Ellipsis written out."""
    items: list[Any] = []
    for item in _items(index):
        if _is_array(item):
            tensor = _index_tensor(item)
            if not tensor.shape and tensor.dtype is not dtypes.bool_ and not tensor.requires_grad:
                items.append(int(tensor) if tensor.value().known else tensor)
            else:
                items.append(tensor)
        else:
            items.append(item)
    wanted = sum(_consumed(item) for item in items if item is not Ellipsis)
    if wanted > x.ndim:
        raise IndexError(
            f"[index] too many indices for tensor of dimension {x.ndim} (shape {x.shape}): {wanted}"
        )
    ellipses = sum(item is Ellipsis for item in items)
    if ellipses > 1:
        raise IndexError("[index] an index can only have a single ellipsis ('...')")
    rest = [slice(None)] * (x.ndim - wanted)
    if not ellipses:
        return items + rest
    place = next(place for place, item in enumerate(items) if item is Ellipsis)
    return items[:place] + rest + items[place + 1 :]


def _sorted(x: Tensor, index: Any) -> _Plan:
    plan = _Plan()
    axis = 0
    for item in _normalize(x, index):
        if item is None:
            plan.axes.append(_New(_new_step(x, axis)))
        elif isinstance(item, (bool, np.bool_)):
            plan.axes.append(_New(_new_step(x, axis), _zeros(int(item))))
        elif isinstance(item, slice):
            _plan_slice(plan, x, axis, item)
            axis += 1
        elif isinstance(item, Tensor):
            axis = _plan_array(plan, x, axis, item)
        else:
            _plan_integer(plan, x, axis, item)
            axis += 1
    return plan


def _new_step(x: Tensor, axis: int) -> int:
    """The stride of a new axis in front of `axis`."""
    return int(x.stride()[axis] * x.shape[axis]) if axis < x.ndim else 1


def _zeros(count: int) -> Tensor:
    """What indexes a new axis where a bool stood: its one element, or none."""
    return Tensor._make(Value.from_numpy(np.zeros(count, np.int64), dtypes.int64))


def _plan_slice(plan: _Plan, x: Tensor, axis: int, item: slice) -> None:
    extent = x.shape[axis]
    step = 1 if item.step is None else int(item.step)
    if step <= 0:
        raise ValueError(
            f"[index] slice step must be positive, got {step}; write x.flip(...) instead"
        )
    start, stop, _ = slice(
        None if item.start is None else int(item.start),
        None if item.stop is None else int(item.stop),
    ).indices(extent)
    size = max(0, -(-(stop - start) // step))
    whole = size == extent and step == 1
    # the start is the user's number: an argument, unless nothing is cut
    plan.starts.append(None if whole or (item.start is None and start == 0) else start)
    plan.sizes.append(size)
    plan.steps.append(step)
    plan.axes.append(None)


def _plan_integer(plan: _Plan, x: Tensor, axis: int, item: Any) -> None:
    try:
        number = item.__index__()
    except AttributeError:
        raise TypeError(
            "[index] only integers, slices (`:`), ellipsis (`...`), None and long, int, byte or "
            f"bool Tensors are valid indices (got {type(item).__name__})"
        ) from None
    plan.starts.append(views.index_in("index", number, x.shape, axis))
    plan.sizes.append(1)
    plan.steps.append(1)
    plan.dropped.append(axis)


def _plan_array(plan: _Plan, x: Tensor, axis: int, item: Tensor) -> int:
    """Put an index array at its axis; a mask becomes one index array for each of its axes."""
    arrays = [item]
    if item.dtype is dtypes.bool_:
        expected = x.shape[axis : axis + item.ndim]
        if item.shape != expected:
            raise IndexError(
                f"[index] the shape of the mask {item.shape} does not match the shape {expected} "
                f"of the indexed tensor {x.shape} at axis {axis}"
            )
        if item.shape:
            places = np.nonzero(readable(item))
            arrays = [
                Tensor._make(Value.from_numpy(np.ascontiguousarray(p), dtypes.int64))
                for p in places
            ]
        else:
            plan.axes.append(_New(_new_step(x, axis), _zeros(int(readable(item)))))
            return axis
    for offset, array in enumerate(arrays):
        extent = x.shape[axis + offset]
        plan.starts.append(None)
        plan.sizes.append(extent)
        plan.steps.append(1)
        plan.axes.append(wrapped_index("index", array, extent))
    return axis + len(arrays)


def wrapped_index(operation: str, indices: Tensor, extent: int) -> Tensor:
    """Indices with negative ones counted from the end, as int64, checked against `extent`.

    Indices whose values are known are checked now, the others when they are computed.

    Raises:
        IndexOutOfRange: an index is outside.
    """
    indices = cast_to(indices, dtypes.int64)
    value = indices.value()
    message = f"[{operation}] index {{value}} is out of bounds for dimension with size {extent}"
    known = value.known  # recording below may compute it
    if known:
        array = value.host()
        if array.size:
            low, high = int(array.min()), int(array.max())
            if low < -extent or high >= extent:
                wrong = low if low < -extent else high
                raise IndexOutOfRange(message.format(value=wrong))
            if low >= 0:
                return indices
    shifted = ops.add(indices, indices.constant(extent))
    inside = ops.where(ops.less(indices, indices.constant(0)), shifted, indices)
    if known:
        return inside
    return ops.check_index(inside, size=extent, message=message)


def _window(x: Tensor, plan: _Plan) -> Tensor:
    """The view that integers, slices and None cut."""
    window = x
    if (
        any(start is not None for start in plan.starts)
        or plan.dropped
        or (tuple(plan.sizes) != x.shape or any(step != 1 for step in plan.steps))
    ):
        window = views.cut(x, plan.starts, plan.sizes, plan.steps, plan.dropped)
    if any(isinstance(axis, _New) for axis in plan.axes):
        sizes: list[int] = []
        strides: list[int] = []
        given = iter(zip(window.shape, window.stride(), strict=True))
        for axis in plan.axes:
            extent, step = (1, axis.step) if isinstance(axis, _New) else next(given)
            sizes.append(extent)
            strides.append(step)
        window = views.reshaped(window, tuple(sizes), tuple(strides))
    return window


@dataclass
class _Advanced:
    """How integer arrays index a window: by a flat index into its indexed axes, brought to the
    front.
    """

    permutation: Shape
    extents: Shape  # of the indexed axes
    rest: Shape
    flat: Tensor  # one index into the flattened indexed axes
    front: int  # where the index's axes belong among the rest
    result: Shape  # permutation that puts them there


def _advanced(window: Tensor, axes: Sequence[Tensor | None]) -> _Advanced:
    indexed = [axis for axis, array in enumerate(axes) if array is not None]
    others = [axis for axis in range(window.ndim) if axis not in indexed]
    arrays = [array for array in axes if array is not None]
    try:
        shape = broadcast_shapes("index", *[array.shape for array in arrays])
    except ShapeError as error:
        raise IndexOutOfRange(
            f"[index] shape mismatch: indexing tensors could not be broadcast together: {error}"
        ) from None
    extents = tuple(window.shape[axis] for axis in indexed)
    flat: Any = None
    for position, array in enumerate(arrays):
        one = broadcast_to(array, shape)
        step = prod(extents[position + 1 :])
        if step != 1:
            one = ops.multiply(one, one.constant(step))
        flat = one if flat is None else ops.add(flat, one)
    rest = tuple(window.shape[axis] for axis in others)
    adjacent = indexed == list(range(indexed[0], indexed[0] + len(indexed)))
    front = indexed[0] if adjacent else 0
    places = len(shape)
    order = [
        *range(places, places + front),
        *range(places),
        *range(places + front, places + len(rest)),
    ]
    return _Advanced((*indexed, *others), extents, rest, flat, front, tuple(order))


def _flattened(window: Tensor, how: _Advanced) -> Tensor:
    moved = window
    if how.permutation != tuple(range(window.ndim)):
        moved = ops.transpose(window, permutation=how.permutation)
    shape = (prod(how.extents), *how.rest)
    return moved if moved.shape == shape else ops.reshape(moved, shape=shape)


def _inverse(permutation: Shape) -> Shape:
    undo = [0] * len(permutation)
    for place, axis in enumerate(permutation):
        undo[axis] = place
    return tuple(undo)


def _transposed(x: Tensor, permutation: Shape) -> Tensor:
    if permutation == tuple(range(x.ndim)):
        return x
    return ops.transpose(x, permutation=permutation)


def _at_once(x: Tensor, index: Any) -> Tensor | None:
    """The view that plain integers, slices without a step and None cut, by what an index of this
    form gave before. None if there is something else in it.
    """
    shape = x.shape
    form: list[Any] = [shape, x._strides, x.dtype]
    starts: list[int] = []  # of those axes that are cut
    begun: list[int] = []  # those axes
    axis, rank = 0, len(shape)
    for item in index if type(index) is tuple else (index,):
        kind = type(item)
        if item is None:
            form.append(None)
            continue
        if axis == rank:
            return None
        if kind is int:
            form.append("integer")
            within = 0 <= item < shape[axis]
            starts.append(item if within else views.index_in("index", item, shape, axis))
            begun.append(axis)
        elif kind is slice and item.step is None:
            extent = shape[axis]
            start, stop, _ = item.indices(extent)
            size = max(stop - start, 0)
            whole = size == extent or (item.start is None and not start)
            form.append((size, whole))
            if not whole:
                starts.append(start)
                begun.append(axis)
        else:
            return None
        axis += 1
    key = tuple(form)
    look = _looks.get(key)
    if look is None:
        if len(_looks) >= _CAPACITY:
            _looks.clear()
        made = _general(x, index)
        _looks[key] = made._moves[len(x._moves) :], made.stride()
        return made
    moves, strides = look
    offset = x._offset
    if starts:
        cut = moves[0]
        numbers = tuple([scalar_value(start) for start in starts])
        begin = Move(cut.primitive, numbers, cut.parameters, cut.shape, cut.operation)
        moves = (begin, *moves[1:])
        steps = x.stride()
        for axis, start in zip(begun, starts, strict=True):
            offset += steps[axis] * start
    return x._view(moves, strides, offset)


_looks: dict[Any, tuple[tuple[Move, ...], Shape]] = {}
_CAPACITY = 20_000


@method("__getitem__")
def get_item(x: Tensor, index: Any) -> Tensor:
    """The elements that the index names: a view for integers and slices, a copy for arrays and
    masks.

    Raises:
        IndexError: out of range, too many indices, or arrays that do not broadcast.

    Source: https://docs.pytorch.org/docs/stable/tensor_view.html
    """
    view = _at_once(x, index)
    return _general(x, index) if view is None else view


def _general(x: Tensor, index: Any) -> Tensor:
    plan = _sorted(x, index)
    window = _window(x, plan)
    arrays = plan.arrays()
    if window is x:  # a view of all of it
        window = views.cut(x, [None] * x.ndim, x.shape, (1,) * x.ndim)
    if not any(array is not None for array in arrays):
        return window
    if window._cell.memory is not None:
        picked = _picked(window, arrays)
        if picked is not None:
            return picked
    how = _advanced(window, arrays)
    taken = ops.take(_flattened(window, how), how.flat)
    result = _transposed(taken, how.result)
    if window._strides is not None or any(a is not None and a._strides is not None for a in arrays):
        result._set_strides(_result_strides(window, arrays, how, result.shape))
    return result


def _picked(window: Tensor, arrays: Sequence[Tensor | None]) -> Tensor | None:
    """The elements, taken at once, of memory that others can write: a batch of a large array of the
    user's is read without a snapshot of it all. None where that does not fit.
    """
    memory = window._cell.foreign()
    fits = (
        memory is not None
        and modes.replay is None
        and window._strides is None
        and not window.requires_grad
        and all(array is None or array.value().known for array in arrays)
    )
    if memory is None or not fits:
        return None
    index = tuple(slice(None) if array is None else array.value().host() for array in arrays)
    found = memory.window(window.shape, window.stride(), window._offset)[index]
    return Tensor._make(Value.from_numpy(found, window.dtype))


def _result_strides(
    window: Tensor, arrays: Sequence[Tensor | None], how: _Advanced, shape: Shape
) -> Shape:
    """The strides that PyTorch gives the result: its axes in the order of the operands' strides."""
    if 0 in shape:
        return contiguous_strides(shape)
    strides = window.stride()
    rest = tuple(strides[axis] for axis in how.permutation[len(how.extents) :])
    front, places = how.front, how.flat.ndim
    steps = [(*rest[:front], *(0,) * places, *rest[front:])]
    for array in arrays:
        if array is not None:
            own = spread_strides(array.shape, array.stride(), how.flat.shape)
            steps.append((*(0,) * front, *own, *(0,) * (len(rest) - front)))
    return iterated_strides(shape, steps)


@method("__setitem__")
def set_item(x: Tensor, index: Any, value: Any) -> None:
    """Write `value`, broadcast, to the elements that the index names.

    Raises:
        IndexError: as for reading.
        RuntimeError: the value does not broadcast, or `x` must not be written in place.
    """
    if isinstance(index, np.ndarray) and index.dtype == np.bool_:
        index = from_numpy(index)
    given_tensor = isinstance(value, Tensor)
    if not given_tensor:
        value = as_tensor(value, dtype=x.dtype if np.ndim(value) == 0 else None)
    if isinstance(index, Tensor) and index.dtype is dtypes.bool_ and value.numel() == 1:
        _set_masked(x, index, value)
        return
    plan = _sorted(x, index)
    window = _window(x, plan)
    arrays = plan.arrays()
    if not any(array is not None for array in arrays):
        _copy_into(window, value)
        return
    how = _advanced(window, arrays)
    check_in_place(x, value.requires_grad)
    check_overlap(window, _without_leading_ones(value), exactly=False)
    if value.dtype is not x.dtype:
        if given_tensor:
            raise DTypeError(
                "[index] Index put requires the source and destination dtypes match, got "
                f"{x.dtype.name} for the destination and {value.dtype.name} for the source."
            )
        value = cast_to(value, x.dtype)
    base = _flattened(window.before_write(), how)
    shape = _transposed_shape(how)
    update = broadcast_to(_without_leading_ones(value), shape)
    written = ops.put(base, how.flat, _transposed(update, _inverse(how.result)))
    moved = tuple(window.shape[axis] for axis in how.permutation)
    if written.shape != moved:
        written = ops.reshape(written, shape=moved)
    assign_(window, _transposed(written, _inverse(how.permutation)))


def _transposed_shape(how: _Advanced) -> Shape:
    shape = (*how.flat.shape, *how.rest)
    return tuple(shape[axis] for axis in how.result)


def _copy_into(window: Tensor, value: Tensor) -> None:
    """Write a value, broadcast, into a window. What it sees of the window's own memory follows
    PyTorch: one number is read first, other shapes must not overlap in part.
    """
    if value.shape == window.shape:
        copy_(window, value)
    elif not value.shape:
        fill_(window, value)
    elif value._cell is window._cell:
        copy_(window, views.expand(_without_leading_ones(value), window.shape))
    else:
        copy_(window, _without_leading_ones(value))


def _without_leading_ones(value: Tensor) -> Tensor:
    """As PyTorch's assignments do: leading axes of size 1 are dropped."""
    first = next((axis for axis, extent in enumerate(value.shape) if extent != 1), value.ndim)
    return views.reshape(value, value.shape[first:]) if first else value


def _set_masked(x: Tensor, mask: Tensor, value: Tensor) -> None:
    """x[mask] = number: a choice, which needs no count of the mask's elements."""
    if mask.shape != x.shape[: mask.ndim]:
        raise IndexError(
            f"[index] the shape of the mask {mask.shape} does not match the shape of the indexed "
            f"tensor {x.shape}"
        )
    spread = mask
    if mask.ndim < x.ndim:
        spread = ops.reshape(mask, shape=mask.shape + (1,) * (x.ndim - mask.ndim))
    number = cast_to(views.reshape(value, ()), x.dtype)
    chosen = ops.where(
        broadcast_to(spread, x.shape), broadcast_to(number, x.shape), x.before_write()
    )
    assign_(x, chosen)
