"""Views: other shapes on the same storage.

Comes in: a tensor and how to look at it. Goes out: a tensor that shares its cell, with the strides
and the offset that PyTorch would give it. Guaranteed: what is a view in PyTorch is one here, and
what copies there (a `reshape` that strides forbid) copies here.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Sequence
from math import prod
from operator import index as to_index
from typing import Any

from avalon import ops
from avalon.errors import ShapeError
from avalon.shape import Shape, contiguous_strides, normalize_axis
from avalon.tensor.cell import Kind, Move, moved, moves_along
from avalon.tensor.core import DEFAULT, MULTIPLE, Tensor, method
from avalon.tensor.operators import scalar_value

Look = tuple[tuple[Move, ...], Shape]  # the movements to a view, and its strides
_looks: dict[Any, Any] = {}
_CAPACITY = 20_000


def looked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function of a tensor's shape, strides and dtype, and of numbers, gives."""

    @functools.wraps(function)
    def kept(x: Tensor, *numbers: Any) -> Any:
        key = (function, x.shape, x._strides, x.dtype, *numbers)
        try:
            return _looks[key]
        except KeyError:
            if len(_looks) >= _CAPACITY:
                _looks.clear()
            found = _looks[key] = function(x, *numbers)
            return found

    return kept


def sizes_of(arguments: Sequence[Any]) -> Shape:
    """Sizes given one by one or as one sequence."""
    if (
        len(arguments) == 1
        and not isinstance(arguments[0], int)
        and hasattr(arguments[0], "__iter__")
    ):
        arguments = tuple(arguments[0])
    return tuple([size if type(size) is int else _index(size) for size in arguments])


def _index(size: Any) -> int:
    try:
        return int(size.__index__())
    except AttributeError:
        raise TypeError(f"[shape] expected integers, got {type(size).__name__}") from None


def infer_size(operation: str, x: Tensor, sizes: Shape) -> Shape:
    """`sizes` with its -1 replaced by what is left of `x`'s elements."""
    total = prod(x.shape)
    if -1 in sizes:
        known = prod(size for size in sizes if size != -1)
        if sizes.count(-1) > 1:
            raise ShapeError(f"[{operation}] only one dimension can be inferred, got {sizes}")
        if known == 0 and total == 0:
            raise ShapeError(
                f"[{operation}] cannot reshape shape {x.shape}, of 0 elements, into {sizes}: the "
                "dimension -1 can be any value and is ambiguous"
            )
        if known and total % known == 0:
            sizes = tuple(total // known if size == -1 else size for size in sizes)
    if prod(sizes) != total or any(size < 0 for size in sizes):
        raise ShapeError(
            f"[{operation}] shape {sizes} is invalid for input of size {total}: the sizes of a "
            f"tensor of shape {x.shape} must multiply to {total}"
        )
    return sizes


def viewed_strides(shape: Shape, strides: Shape, sizes: Shape) -> Shape | None:
    """Strides under which a tensor can be seen in other sizes without a copy, or None."""
    if 0 in shape:
        return contiguous_strides(sizes) if shape != sizes else strides
    result = [0] * len(sizes)
    axis = len(sizes) - 1
    chunk_step = strides[-1] if strides else 1
    chunk, viewed = 1, 1
    for place in reversed(builtins.range(len(shape))):
        chunk *= shape[place]
        ends = place == 0 or (shape[place - 1] != 1 and strides[place - 1] != chunk * chunk_step)
        if not ends:
            continue
        while axis >= 0 and (viewed < chunk or sizes[axis] == 1):
            result[axis] = viewed * chunk_step
            viewed *= sizes[axis]
            axis -= 1
        if viewed != chunk:
            return None
        if place > 0:
            chunk_step = strides[place - 1]
            chunk, viewed = 1, 1
    if not shape:
        return contiguous_strides(sizes)
    return tuple(result) if axis == -1 else None


def reshaped(x: Tensor, sizes: Shape, strides: Shape, creation: str = DEFAULT) -> Tensor:
    """The view of `x` in other sizes, whose strides are known."""
    moves = (Move.of(ops.reshape, x, shape=sizes),)
    return x._view(moves, strides, x._offset, creation)


@method("view")
def view(x: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape, sharing the storage.

    Raises:
        RuntimeError: the number of elements differs, or the strides do not allow it.
    """
    sizes, moves, strides = _sized(x, "view", sizes_of(shape))
    if strides is None:
        raise ShapeError(
            f"[view] size {sizes} is not compatible with input tensor's size {x.shape} and stride "
            f"{x.stride()} (at least one dimension spans across two contiguous subspaces). Use "
            ".reshape(...) instead."
        )
    return x._view(moves, strides, x._offset)


@looked
def _sized(x: Tensor, operation: str, sizes: Shape) -> tuple[Shape, tuple[Move, ...], Shape | None]:
    """Sizes without -1, the movement there, and the strides of a view; None if it has none."""
    sizes = infer_size(operation, x, sizes)
    strides = viewed_strides(x.shape, x.stride(), sizes)
    return sizes, (Move.of(ops.reshape, x, shape=sizes),), strides


@method("reshape")
def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape: a view where strides allow it, else a copy."""
    sizes, moves, strides = _sized(x, "reshape", sizes_of(shape))
    if strides is None:
        if moves_along(x):
            return Tensor._make(moved(x._cell.value, (*x._moves, *moves)))
        copied: Tensor = ops.reshape(x, shape=sizes)
        return copied
    return x._view(moves, strides, x._offset)


@method("view_as")
def view_as(x: Tensor, other: Tensor) -> Tensor:
    """`x` viewed in the shape of `other`."""
    return view(x, other.shape)


@method("reshape_as")
def reshape_as(x: Tensor, other: Tensor) -> Tensor:
    """`x` in the shape of `other`."""
    return reshape(x, other.shape)


@method("flatten")
def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes `start_dim` to `end_dim` (both included) as one."""
    start = normalize_axis("flatten", start_dim, x.ndim)
    end = normalize_axis("flatten", end_dim, x.ndim)
    if start > end:
        raise ShapeError(
            f"[flatten] flatten() has invalid args: start_dim {start_dim} comes after end_dim "
            f"{end_dim}"
        )
    if not x.shape:
        return reshape(x, 1)
    if start == end:
        return x
    middle = prod(x.shape[start : end + 1])
    return reshape(x, *x.shape[:start], middle, *x.shape[end + 1 :])


@method("unflatten")
def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Axis `dim` as several axes of the given sizes."""
    axis = normalize_axis("unflatten", dim, x.ndim)
    return view(x, *_split_axis(x, axis, tuple(sizes)))


def _split_axis(x: Tensor, axis: int, sizes: Shape) -> Shape:
    extent = x.shape[axis]
    known = prod(size for size in sizes if size != -1)
    inferred = tuple(extent // known if size == -1 else size for size in sizes)
    if prod(inferred) != extent:
        raise ShapeError(
            f"[unflatten] sizes {sizes} must multiply to the size {extent} of axis {axis} of "
            f"{x.shape}"
        )
    return (*x.shape[:axis], *inferred, *x.shape[axis + 1 :])


@method("permute")
def permute(x: Tensor, *dims: Any) -> Tensor:
    """The axes in another order."""
    moves, strides = _permuted(x, sizes_of(dims))
    return x._view(moves, strides, x._offset)


@looked
def _permuted(x: Tensor, given: Shape) -> Look:
    if len(given) != x.ndim:
        raise ShapeError(
            "[permute] permute(sparse_coo): number of dimensions in the tensor input does not "
            f"match the length of the desired ordering of dimensions: {x.ndim} against {len(given)}"
        )
    order = tuple(normalize_axis("permute", axis, x.ndim) for axis in given)
    if len(set(order)) != len(order):
        raise ShapeError(f"[permute] duplicate dims are not allowed, got {given}")
    strides = x.stride()
    move = Move.of(ops.transpose, x, permutation=order)
    return (move,), tuple(strides[axis] for axis in order)


@method("transpose")
def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes swapped."""
    moves, strides = _transposed(x, to_index(dim0), to_index(dim1))
    return x._view(moves, strides, x._offset)


@looked
def _transposed(x: Tensor, dim0: int, dim1: int) -> Look:
    first = normalize_axis("transpose", dim0, x.ndim)
    second = normalize_axis("transpose", dim1, x.ndim)
    order = list(builtins.range(x.ndim))
    if order:
        order[first], order[second] = second, first
    look: Look = _permuted(x, tuple(order))
    return look


@method("t")
def t(x: Tensor) -> Tensor:
    """A matrix transposed; vectors and scalars as they are.

    Raises:
        RuntimeError: more than two axes.
    """
    if x.ndim > 2:
        raise ShapeError(f"[t] expects a tensor with <= 2 dimensions, but self is {x.ndim}D")
    return permute(x, tuple(reversed(builtins.range(x.ndim))))


@method("movedim")
def movedim(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Axes moved to other places, the others keeping their order."""
    sources = [source] if isinstance(source, int) else list(source)
    targets = [destination] if isinstance(destination, int) else list(destination)
    if len(sources) != len(targets):
        raise ShapeError(
            f"[movedim] source {sources} and destination {targets} must have the same number of "
            "axes"
        )
    sources = [normalize_axis("movedim", axis, x.ndim) for axis in sources]
    targets = [normalize_axis("movedim", axis, x.ndim) for axis in targets]
    if len(set(sources)) != len(sources) or len(set(targets)) != len(targets):
        raise ShapeError("[movedim] an axis is repeated")
    places = dict(zip(targets, sources, strict=True))
    others = iter([axis for axis in builtins.range(x.ndim) if axis not in sources])
    order = [places[axis] if axis in places else next(others) for axis in builtins.range(x.ndim)]
    return permute(x, order)


@method("expand")
def expand(x: Tensor, *sizes: Any) -> Tensor:
    """Axes of size 1 repeated, and new axes in front, without a copy; -1 keeps a size."""
    wanted = list(sizes_of(sizes))
    added = len(wanted) - x.ndim
    if added < 0:
        raise ShapeError(
            f"[expand] the number of sizes provided ({len(wanted)}) must be greater or equal to "
            f"the number of dimensions in the tensor ({x.ndim})"
        )
    for axis, size in enumerate(wanted):
        if size == -1 and axis < added:
            raise ShapeError(
                f"[expand] the expanded size {tuple(wanted)} has -1 in a new leading axis"
            )
        if size == -1:
            wanted[axis] = x.shape[axis - added]
        elif size < 0:
            raise ShapeError(f"[expand] size {size} is negative")
        elif axis >= added and x.shape[axis - added] not in (1, size):
            raise ShapeError(
                f"[expand] the expanded size of the tensor ({size}) must match the existing size "
                f"({x.shape[axis - added]}) at non-singleton dimension {axis}. Target sizes: "
                f"{tuple(wanted)}. Tensor sizes: {x.shape}"
            )
    strides = [
        step if size == x.shape[axis] else 0
        for axis, (step, size) in enumerate(zip(x.stride(), wanted[added:], strict=True))
    ]
    for axis in reversed(builtins.range(added)):
        follows = wanted[axis] == 1 and x.ndim > 0
        strides.insert(0, wanted[axis + 1] * strides[0] if follows else 0)
    moves = (Move.of(ops.broadcast, x, shape=tuple(wanted)),)
    if tuple(wanted) == x.shape:
        moves = (Move.of(ops.reshape, x, shape=x.shape),)
    return x._view(moves, tuple(strides), x._offset)


@method("expand_as")
def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """`x` expanded to the shape of `other`."""
    return expand(x, other.shape)


@method("broadcast_to")
def broadcast_to(x: Tensor, *sizes: Any) -> Tensor:
    """`x` expanded to a shape."""
    return expand(x, *sizes)


@method("unsqueeze")
def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """A new axis of size 1 at `dim`."""
    moves, strides = _unsqueezed(x, to_index(dim))
    return x._view(moves, strides, x._offset)


@looked
def _unsqueezed(x: Tensor, dim: int) -> Look:
    axis = normalize_axis("unsqueeze", dim, x.ndim + 1)
    strides = x.stride()
    step = strides[axis] * x.shape[axis] if axis < x.ndim else 1
    sizes = (*x.shape[:axis], 1, *x.shape[axis:])
    return (Move.of(ops.reshape, x, shape=sizes),), (*strides[:axis], step, *strides[axis:])


@method("squeeze")
def squeeze(x: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without the axes of size 1, or without those of them that are named."""
    if dim is None:
        named = set(builtins.range(x.ndim))
    else:
        given = [dim] if isinstance(dim, int) else list(dim)
        named = {normalize_axis("squeeze", axis, x.ndim) for axis in given}
    kept = [axis for axis in builtins.range(x.ndim) if axis not in named or x.shape[axis] != 1]
    strides = x.stride()
    return reshaped(x, tuple(x.shape[a] for a in kept), tuple(strides[a] for a in kept))


def cut(
    x: Tensor,
    starts: Sequence[int | None],
    sizes: Sequence[int],
    steps: Sequence[int],
    dropped: Sequence[int] = (),
    creation: str = DEFAULT,
) -> Tensor:
    """The window from `starts` (None: the whole axis), with the axes `dropped` taken out.

    Starts are run-time arguments of the program, but for those of a split.
    """
    strides = x.stride()
    offset = x._offset + sum(
        start * step for start, step in zip(starts, strides, strict=True) if start is not None
    )
    moves: list[Move] = []
    shape = tuple(sizes)
    if (
        shape != x.shape
        or any(start is not None for start in starts)
        or any(step != 1 for step in steps)
    ):
        # Pieces of a split start where their sizes say, and sizes are part of the structure.
        known = creation == MULTIPLE
        numbers = [scalar_value(start) for start in starts if start is not None and not known]
        fixed = tuple(0 if start is None else start if known else None for start in starts)
        moves.append(Move.of(ops.slice, x, *numbers, starts=fixed, sizes=shape, steps=tuple(steps)))
    new_strides = [step * stride for step, stride in zip(steps, strides, strict=True)]
    if dropped or not moves:
        kept = [axis for axis in builtins.range(x.ndim) if axis not in dropped]
        new_strides = [new_strides[axis] for axis in kept]
        piece = Kind(shape, x.dtype)
        moves.append(Move.of(ops.reshape, piece, shape=tuple(shape[axis] for axis in kept)))
    return x._view(tuple(moves), tuple(new_strides), offset, creation)


@method("narrow")
def narrow(x: Tensor, dim: int, start: int | Tensor, length: int) -> Tensor:
    """`length` elements of axis `dim` from `start` on."""
    axis = normalize_axis("narrow", dim, x.ndim)
    begin = int(start)
    extent = x.shape[axis] if x.shape else 0
    if not x.shape:
        raise ShapeError("[narrow] narrow() cannot be applied to a 0-dim tensor.")
    if not -extent <= begin <= extent:
        raise IndexError(
            f"[narrow] start {begin} is out of range for axis {axis} of shape {x.shape}"
        )
    begin += extent if begin < 0 else 0
    if length < 0 or begin + length > extent:
        raise ShapeError(
            f"[narrow] start ({begin}) + length ({length}) exceeds dimension size ({extent})."
        )
    return _along(x, axis, begin, length)


def _along(x: Tensor, axis: int, begin: int, length: int, creation: str = DEFAULT) -> Tensor:
    starts: list[int | None] = [None] * x.ndim
    starts[axis] = begin
    sizes = list(x.shape)
    sizes[axis] = length
    return cut(x, starts, sizes, (1,) * x.ndim, (), creation)


@method("select")
def select(x: Tensor, dim: int, index: int, creation: str = DEFAULT) -> Tensor:
    """The slice at `index` of axis `dim`, without that axis."""
    if not x.shape:
        raise IndexError("[select] select() cannot be applied to a 0-dim tensor.")
    axis = normalize_axis("select", dim, x.ndim)
    place = index_in("select", index, x.shape, axis)
    starts: list[int | None] = [None] * x.ndim
    starts[axis] = place
    sizes = list(x.shape)
    sizes[axis] = 1
    return cut(x, starts, sizes, (1,) * x.ndim, (axis,), creation)


def index_in(operation: str, index: int, shape: Shape, axis: int) -> int:
    """A possibly negative index of an axis as one that is not.

    Raises:
        IndexError: out of range.
    """
    extent = shape[axis]
    place = int(index)
    if not -extent <= place < extent:
        raise IndexError(
            f"[{operation}] index {place} is out of bounds for dimension {axis} with size {extent} "
            f"(shape {shape})"
        )
    return place + extent if place < 0 else place


@method("unbind")
def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices of axis `dim`."""
    if not x.shape:
        raise ShapeError("[unbind] Dimension specified as 0 but tensor has no dimensions")
    axis = normalize_axis("unbind", dim, x.ndim)
    return tuple(select(x, axis, index, MULTIPLE) for index in builtins.range(x.shape[axis]))


@method("split")
def split(
    x: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Pieces of axis `dim`: of one size (the last may be smaller), or of the given sizes."""
    if not isinstance(split_size_or_sections, int):
        split_size_or_sections = tuple(map(to_index, split_size_or_sections))
    return tuple([
        x._view(moves, strides, x._offset + further, MULTIPLE)
        for moves, strides, further in _pieces(x, split_size_or_sections, to_index(dim))
    ])  # fmt: skip


@looked
def _pieces(
    x: Tensor, split_size_or_sections: int | Shape, dim: int
) -> list[tuple[tuple[Move, ...], Shape, int]]:
    """The look of each piece, and how far behind the start of `x` it begins."""
    axis = normalize_axis("split", dim, x.ndim)
    if not x.shape:
        raise ShapeError("[split] expects at least a 1-dimensional tensor")
    extent = x.shape[axis]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 0 or (size == 0 and extent):
            raise ShapeError(
                f"[split] split_size can only be 0 if dimension size is 0, but got {size} for a "
                f"dimension of size {extent}"
            )
        count = max(-(-extent // size), 1) if size else 1
        lengths = [min(size, extent - place * size) for place in builtins.range(count)]
    else:
        lengths = list(split_size_or_sections)
        if sum(lengths) != extent or min(lengths, default=0) < 0:
            raise ShapeError(
                f"[split] sections {lengths} must sum to the size {extent} of axis {axis} of "
                f"{x.shape}"
            )
    pieces, begin = [], 0
    for length in lengths:
        piece = _along(x, axis, begin, length, MULTIPLE)
        moves = piece._moves[len(x._moves) :]
        pieces.append((moves, piece.stride(), piece._offset - x._offset))
        begin += length
    return pieces


@method("chunk")
def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of axis `dim`, all but the last of one size."""
    if chunks <= 0:
        raise ShapeError(f"[chunk] expects chunks to be greater than 0, got {chunks}")
    axis = normalize_axis("chunk", dim, x.ndim)
    if not x.shape:
        raise ShapeError("[chunk] chunk expects at least a 1-dimensional tensor")
    size = -(-x.shape[axis] // chunks)
    return split(x, [0] * chunks if size == 0 else size, axis)


@method("diagonal")
def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two axes, as the last axis."""
    first = normalize_axis("diagonal", dim1, x.ndim)
    second = normalize_axis("diagonal", dim2, x.ndim)
    if first == second or x.ndim < 2:
        raise ShapeError(f"[diagonal] diagonal dimensions cannot be identical {dim1}, {dim2}")
    move = Move.of(ops.diagonal, x, offset=int(offset), axis1=first, axis2=second)
    strides = x.stride()
    kept = [strides[axis] for axis in builtins.range(x.ndim) if axis not in (first, second)]
    start = offset * strides[second] if offset >= 0 else -offset * strides[first]
    start = start if move.shape[-1] else 0
    return x._view((move,), (*kept, strides[first] + strides[second]), x._offset + start)


@method("unfold")
def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements along an axis, every `step`; the window is a new last axis."""
    axis = normalize_axis("unfold", dimension, x.ndim)
    extent = x.shape[axis] if x.shape else 1
    if size < 0 or size > extent:
        raise ShapeError(
            f"[unfold] maximum size for tensor at dimension {axis} is {extent} but size is {size}"
        )
    if step <= 0:
        raise ShapeError(f"[unfold] step is {step} but must be > 0")
    if not x.shape:
        return reshape(x, size)
    move = Move.of(ops.window, x, axes=(axis,), sizes=(size,), strides=(step,), dilations=(1,))
    strides = list(x.stride())
    last = strides[axis]
    strides[axis] *= step
    return x._view((move,), (*strides, last), x._offset)


def _aliases(name: str, function: Any) -> None:
    method(name)(function)


_aliases("swapaxes", transpose)
_aliases("swapdims", transpose)
_aliases("moveaxis", movedim)
_aliases("ravel", flatten)
Tensor.T = property(lambda x: permute(x, tuple(reversed(range(x.ndim)))), doc="All axes reversed.")
Tensor.mT = property(lambda x: transpose(x, -2, -1), doc="The last two axes swapped.")
Tensor.H = property(lambda x: transpose(x, 0, 1), doc="A real matrix transposed.")
