"""Joining, repeating, reordering and padding; views as functions.

Comes in: tensors. Goes out: tensors; joined, repeated and reordered ones are new, what `Tensor`
offers as a view (squeeze, split, permute, ...) is a view here too. Guaranteed: PyTorch's names,
arguments and errors.

Source: https://docs.pytorch.org/docs/stable/torch.html#indexing-slicing-joining-mutating-ops
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from avalon import ops
from avalon.errors import ShapeError
from avalon.functions.support import (
    Dims,
    axes_of,
    broadcast,
    cast,
    dtypes,
    iota,
    part,
    reshape as reshaped,
)
from avalon.shape import broadcast_shapes, normalize_axis
from avalon.tensor import Tensor, as_tensor, method, result_type
from avalon.tensor.composite import composite


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along `dim`; other sizes must be equal.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.cat.html

    >>> import avalon as av
    >>> av.cat([av.ones(2), av.zeros(1)])
    tensor([1., 1., 0.])
    """
    parts = [as_tensor(x) for x in tensors]
    if not parts:
        raise ValueError("[cat] expected a non-empty list of tensors")
    dtype = result_type(*parts)
    if any(x.ndim == 0 for x in parts):
        raise ShapeError("[cat] tensors without axes cannot be concatenated; use stack")
    # An empty vector joins anything, as it always did in PyTorch.
    kept = [x for x in parts if tuple(x.shape) != (0,)] or parts[:1]
    axis = normalize_axis("cat", dim, kept[0].ndim)
    first = kept[0].shape
    for x in kept:
        same = x.ndim == len(first) and all(
            x.shape[a] == first[a] for a in range(x.ndim) if a != axis
        )
        if not same:
            raise ShapeError(
                f"[cat] shapes {tuple(first)} and {tuple(x.shape)} must agree in all sizes but "
                "that of "
                f"dim {dim}"
            )
    return ops.concatenate(*(cast(x, dtype) for x in kept), axis=axis)


concat = concatenate = cat


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors, all of one shape, along a new axis `dim`."""
    parts = [as_tensor(x) for x in tensors]
    if not parts:
        raise ValueError("[stack] expected a non-empty list of tensors")
    shape = tuple(parts[0].shape)
    for x in parts:
        if tuple(x.shape) != shape:
            raise ShapeError(
                f"[stack] shapes {shape} and {tuple(x.shape)} must be equal; use cat to join "
                "unequal ones"
            )
    axis = normalize_axis("stack", dim, len(shape) + 1)
    return _stacked(*parts, axis=axis)


@composite
def _stacked(*parts: Tensor, axis: int) -> Tensor:
    shape = parts[0].shape
    lone = (*shape[:axis], 1, *shape[axis:])
    dtype = result_type(*parts)
    return ops.concatenate(*(reshaped(cast(x, dtype), lone) for x in parts), axis=axis)


def _at_least(x: Tensor, rank: int) -> Tensor:
    return x if x.ndim >= rank else x.reshape((1,) * (rank - x.ndim) + tuple(x.shape))


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the second axis, vectors along the first."""
    parts = [_at_least(x, 1) for x in tensors]
    return cat(parts, 0 if parts[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the first axis, vectors as rows."""
    return cat([_at_least(x, 2) for x in tensors], 0)


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the third axis."""
    parts = [
        x.reshape(*x.shape, 1) if x.ndim == 2 else x for x in (_at_least(x, 2) for x in tensors)
    ]
    return cat(parts, 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the second axis, vectors as columns."""
    return cat([x.reshape(x.numel(), 1) if x.ndim <= 1 else x for x in tensors], 1)


def block_diag(*tensors: Tensor) -> Tensor:
    """The matrices along the diagonal of a larger one, zeros elsewhere."""
    matrices = [_at_least(x, 2) for x in tensors]
    columns = sum(x.shape[1] for x in matrices)
    rows, start = [], 0
    for x in matrices:
        end = columns - start - x.shape[1]
        zero = x.constant(0, shape=())
        rows.append(ops.pad(x, zero, low=(0, start), high=(0, end)))
        start += x.shape[1]
    return cat(rows, 0)


def atleast_1d(input: Tensor) -> Tensor:
    """input with at least one axis."""
    return _at_least(input, 1)


def atleast_2d(input: Tensor) -> Tensor:
    """input with at least two axes."""
    return _at_least(input, 2)


# --- order and repetition -----------------------------------------------------------------------


@method("flip")
def flip(input: Tensor, *dims: Any) -> Tensor:
    """The elements in reverse order along the given axes."""
    named = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    axes = axes_of("flip", tuple(named), input.ndim) if named else ()
    return ops.reverse(input, axes=axes) if input.ndim else input


@method("fliplr")
def fliplr(input: Tensor) -> Tensor:
    """Columns in reverse order."""
    return flip(input, 1)


@method("flipud")
def flipud(input: Tensor) -> Tensor:
    """Rows in reverse order."""
    return flip(input, 0)


@method("rot90")
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turned k times by 90 degrees in the plane of two axes."""
    first, second = dims
    turns = k % 4
    if turns == 0:
        return input.clone()
    if turns == 2:
        return flip(input, first, second)
    return (
        flip(input, second).transpose(first, second)
        if turns == 1
        else flip(input.transpose(first, second), second)
    )


@method("roll")
def roll(input: Tensor, shifts: int | Sequence[int], dims: Dims = None) -> Tensor:
    """Elements moved along axes; those that leave at the end come back at the start."""
    if dims is None:
        flat = reshaped(input, (input.numel(),))
        return reshaped(roll(flat, shifts, 0), tuple(input.shape)) if input.numel() else input
    amounts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    if len(amounts) != len(axes):
        raise ShapeError(f"[roll] shifts {amounts} and dims {axes} must have equal lengths")
    for amount, dim in zip(amounts, axes, strict=True):
        axis = normalize_axis("roll", dim, input.ndim)
        size = input.shape[axis]
        if size:
            turned = amount % size
            input = cat(
                [input.narrow(axis, size - turned, turned), input.narrow(axis, 0, size - turned)],
                axis,
            )
    return input


@method("repeat")
def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """The whole tensor repeated along each axis; more counts than axes add leading axes.

    >>> import avalon as av
    >>> av.tensor([1, 2]).repeat(2, 2)
    tensor([[1, 2, 1, 2],
            [1, 2, 1, 2]])
    """
    counts = repeats[0] if len(repeats) == 1 and not isinstance(repeats[0], int) else repeats
    if len(counts) < input.ndim:
        raise ShapeError(
            f"[repeat] counts {tuple(counts)} must name all {input.ndim} axes of shape "
            f"{tuple(input.shape)}"
        )
    shape = (1,) * (len(counts) - input.ndim) + tuple(input.shape)
    apart = tuple(size for extent in shape for size in (1, extent))
    full = tuple(size for n, extent in zip(counts, shape, strict=True) for size in (int(n), extent))
    result = tuple(n * extent for n, extent in zip(counts, shape, strict=True))
    return reshaped(broadcast(reshaped(input, apart), full), result)


@method("tile")
def tile(input: Tensor, *dims: Any) -> Tensor:
    """Like `repeat`, with missing leading counts taken as 1."""
    counts = tuple(dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)
    return repeat(input, (1,) * (input.ndim - len(counts)) + counts)


@method("repeat_interleave")
def repeat_interleave(
    input: Tensor, repeats: int | Tensor, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element repeated along `dim` (of the flattened tensor if None); counts may differ."""
    if dim is None:
        input, dim = reshaped(input, (input.numel(),)), 0
    axis = normalize_axis("repeat_interleave", dim, input.ndim)
    if isinstance(repeats, Tensor) and repeats.numel() == 1:
        repeats = int(repeats.item())
    shape = tuple(input.shape)
    if isinstance(repeats, int):
        apart = reshaped(input, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        full = broadcast(apart, (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
        return reshaped(full, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))
    counts = [int(n) for n in repeats.tolist()]
    index = [place for place, count in enumerate(counts) for _ in range(count)]
    return input.index_select(axis, as_tensor(index, dtype=dtypes.int64))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Views of the tensors in their common shape."""
    shape = broadcast_shapes("broadcast_tensors", *(tuple(x.shape) for x in tensors))
    return tuple(x.expand(shape) for x in tensors)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """Combinations of r elements of a vector, one per row."""
    count = input.shape[0]
    grids = [iota((count,) * r, axis) for axis in range(r)]
    keep = None
    for before, after in pairwise(grids):
        rule = ops.less_equal if with_replacement else ops.less
        fits = rule(before, after)
        keep = fits if keep is None else ops.bit_and(keep, fits)
    if keep is None:
        return reshaped(input, (count, 1))
    return stack([input[grid[keep]] for grid in grids], 1)


# --- padding ------------------------------------------------------------------------------------


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Elements added (or, if negative, cut) at the ends of the last axes: (left, right, top, ...).

    `mode` fills with a constant, or by reflecting, replicating or continuing from the other side.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.pad.html
    """
    amounts = [int(n) for n in pad]
    count = len(amounts) // 2
    if len(amounts) % 2 or count > input.ndim:
        raise ShapeError(
            f"[pad] amounts {amounts} must be pairs, at most one for each axis of shape "
            f"{tuple(input.shape)}"
        )
    low, high = [0] * input.ndim, [0] * input.ndim
    for i in range(count):
        low[input.ndim - 1 - i], high[input.ndim - 1 - i] = amounts[2 * i], amounts[2 * i + 1]
    if mode == "constant":
        filler = as_tensor(0 if value is None else value, dtype=input.dtype)
        return ops.pad(input, filler, low=tuple(low), high=tuple(high))
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(
            f"[pad] mode must be constant, reflect, replicate or circular, got {mode!r}"
        )
    for axis in range(input.ndim):
        if low[axis] or high[axis]:
            input = _pad_axis(input, axis, low[axis], high[axis], mode)
    return input


def _pad_axis(x: Tensor, axis: int, low: int, high: int, mode: str) -> Tensor:
    size = x.shape[axis]
    limit = {"reflect": size - 1, "circular": size, "replicate": low + high}[mode]
    if max(low, high) > limit or size == 0:
        raise ShapeError(
            f"[pad] {mode} padding ({low}, {high}) of axis {axis} must not exceed {limit}; the "
            "input "
            f"has shape {tuple(x.shape)}"
        )

    def piece(start: int, length: int) -> Tensor:
        return part(x, axis, start, length)

    before, after = max(low, 0), max(high, 0)
    if mode == "reflect":
        parts = [flip(piece(1, before), axis), x, flip(piece(size - 1 - after, after), axis)]
    elif mode == "circular":
        parts = [piece(size - before, before), x, piece(0, after)]
    else:
        shape = tuple(x.shape)
        edges = [
            broadcast(piece(place, 1), (*shape[:axis], length, *shape[axis + 1 :]))
            for place, length in ((0, before), (size - 1, after))
        ]
        parts = [edges[0], x, edges[1]]
    whole = cat([p for p in parts if p.shape[axis]], axis)
    start, length = max(-low, 0), size + low + high
    return whole if whole.shape[axis] == length else whole.narrow(axis, start, length)


# --- views, as functions ------------------------------------------------------------------------


def _of_method(name: str) -> Callable[..., Any]:
    def function(input: Tensor, *arguments: Any, **named: Any) -> Any:
        return getattr(input, name)(*arguments, **named)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`input.{name}(...)`, as a function."
    return function


chunk = _of_method("chunk")
clone = _of_method("clone")
detach = _of_method("detach")
diagonal = _of_method("diagonal")
flatten = _of_method("flatten")
moveaxis = _of_method("moveaxis")
movedim = _of_method("movedim")
narrow = _of_method("narrow")
numel = _of_method("numel")
permute = _of_method("permute")
ravel = _of_method("ravel")
reshape = _of_method("reshape")
select = _of_method("select")
split = _of_method("split")
squeeze = _of_method("squeeze")
swapaxes = _of_method("swapaxes")
swapdims = _of_method("swapdims")
t = _of_method("t")
transpose = _of_method("transpose")
unbind = _of_method("unbind")
unflatten = _of_method("unflatten")
unsqueeze = _of_method("unsqueeze")
broadcast_to = _of_method("broadcast_to")
masked_fill = _of_method("masked_fill")
is_floating_point = _of_method("is_floating_point")
is_complex = _of_method("is_complex")


@method("tensor_split")
def tensor_split(
    input: Tensor, indices_or_sections: int | Sequence[int], dim: int = 0
) -> list[Tensor]:
    """Cut an axis in a number of nearly equal parts, or at the given places."""
    axis = normalize_axis("tensor_split", dim, input.ndim)
    size = input.shape[axis]
    if isinstance(indices_or_sections, int):
        share, more = divmod(size, indices_or_sections)
        sizes = [share + (1 if i < more else 0) for i in range(indices_or_sections)]
        return list(input.split(sizes, axis))
    places = [min(max(p + size if p < 0 else p, 0), size) for p in indices_or_sections]
    bounds = [0, *places, size]
    return [input.narrow(axis, start, max(end - start, 0)) for start, end in pairwise(bounds)]
