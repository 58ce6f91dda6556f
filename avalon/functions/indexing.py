"""Choosing and placing elements by indices that are data.

Comes in: tensors and integer indices (negative ones only where PyTorch allows them). Goes out:
tensors.
Guaranteed: an index out of range is an error, at the user's line if the indices are known,
otherwise in the program, which then changes nothing.

Source: https://docs.pytorch.org/docs/stable/torch.html#indexing-slicing-joining-mutating-ops
"""

from __future__ import annotations

from typing import Any

import numpy as np

from avalon import ops
from avalon.errors import DTypeError, IndexOutOfRange, ShapeError
from avalon.functions.support import (
    broadcast,
    cast,
    dtypes,
    in_place,
    known_values,
    reshape,
    scalar,
)
from avalon.shape import broadcast_shapes, normalize_axis
from avalon.tensor import Tensor, as_tensor, method, tensor


def _indices(operation: str, index: Tensor, size: int, wrap: bool = False) -> Tensor:
    """Indices as int64 in [0, size); `wrap` lets negative ones count from the end."""
    if not index.dtype.is_integer:
        raise DTypeError(
            f"[{operation}] indices must be integers (int64), got {index.dtype!r}; use index.long()"
        )
    known = known_values(index)
    index = cast(index, dtypes.int64)
    low = -size if wrap else 0
    if known is not None and known.size and (known.min() < low or known.max() >= size):
        wrong = known[(known < low) | (known >= size)].flat[0]
        raise IndexOutOfRange(
            f"[{operation}] index {wrong} is out of range for an axis of size {size}"
        )
    if wrap:
        index = ops.where(ops.less(index, index.constant(0)), index + index.constant(size), index)
    if known is not None:
        return index
    message = f"[{operation}] index {{value}} is out of range for an axis of size {size}"
    return ops.check_index(index, size=size, message=message)


def _axis_and_index(
    operation: str, x: Tensor, dim: int, index: Tensor
) -> tuple[Tensor, int, Tensor]:
    """x and index with at least one axis, the axis, and the checked index."""
    axis = normalize_axis(operation, dim, x.ndim)
    if x.ndim == 0:
        x = reshape(x, (1,))
    if index.ndim == 0:
        index = reshape(index, (1,))
    if index.ndim != x.ndim:
        raise ShapeError(
            f"[{operation}] index of shape {tuple(index.shape)} must have as many axes as the "
            "input of "
            f"shape {tuple(x.shape)}"
        )
    return x, axis, _indices(operation, index, x.shape[axis])


def _crop(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The corner of x of the given shape."""
    if tuple(x.shape) == shape:
        return x
    return ops.slice(x, starts=(0,) * x.ndim, sizes=shape, steps=(1,) * x.ndim)


def _fits(operation: str, index: Tensor, x: Tensor, axis: int) -> None:
    for a in range(x.ndim):
        if a != axis and index.shape[a] > x.shape[a]:
            raise ShapeError(
                f"[{operation}] index of shape {tuple(index.shape)} must not exceed the tensor of "
                "shape "
                f"{tuple(x.shape)} outside dim {axis}"
            )


@method("gather")
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0: the shape is that of `index`.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.gather.html

    Raises:
        ShapeError: index has another number of axes, or is larger than input outside `dim`.
        IndexOutOfRange: an index lies outside the axis.
    """
    whole, axis, places = _axis_and_index("gather", input, dim, index)
    _fits("gather", places, whole, axis)
    shape = tuple(whole.shape[a] if a == axis else places.shape[a] for a in range(whole.ndim))
    return reshape(ops.gather(_crop(whole, shape), places, axis=axis), tuple(index.shape))


@method("take_along_dim")
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Like gather, with input and the indices broadcast outside `dim`."""
    if dim is None:
        return take(input, indices)
    axis = normalize_axis("take_along_dim", dim, input.ndim)
    lead = [list(s) for s in (input.shape, indices.shape)]
    for sizes in lead:
        sizes[axis] = 1
    common = list(broadcast_shapes("take_along_dim", tuple(lead[0]), tuple(lead[1])))
    shapes = []
    for y in (input, indices):
        common[axis] = y.shape[axis]
        shapes.append(tuple(common))
    return gather(broadcast(input, shapes[0]), axis, broadcast(indices, shapes[1]))


@method("take")
def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened tensor; negative indices count from the end."""
    flat = reshape(input, (input.numel(),))
    return ops.take(flat, _indices("take", index, input.numel(), wrap=True))


@method("index_select")
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of input along `dim` that a vector of indices names."""
    axis = normalize_axis("index_select", dim, input.ndim)
    if index.ndim > 1:
        raise ShapeError(f"[index_select] index must be a vector, got shape {tuple(index.shape)}")
    if input.ndim == 0:
        return input
    places = _indices("index_select", reshape(index, (index.numel(),)), input.shape[axis])
    return along_axis(input, axis, places)


def _front(axis: int, rank: int) -> tuple[int, ...]:
    return (axis, *(a for a in range(rank) if a != axis))


def _back(axis: int, rank: int) -> tuple[int, ...]:
    return (*range(1, axis + 1), 0, *range(axis + 1, rank))


def along_axis(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """The slices of x along `axis` at a vector of indices in range."""
    if axis == 0:
        return ops.take(x, places)
    rows = ops.take(ops.transpose(x, permutation=_front(axis, x.ndim)), places)
    return ops.transpose(rows, permutation=_back(axis, x.ndim))


def _placed(
    operation: str, x: Tensor, dim: int, index: Tensor, source: Tensor, add: bool
) -> Tensor:
    axis = normalize_axis(operation, dim, x.ndim)
    places = _indices(operation, reshape(index, (index.numel(),)), x.shape[axis])
    expected = (*x.shape[:axis], places.shape[0], *x.shape[axis + 1 :])
    if tuple(source.shape) != expected:
        raise ShapeError(
            f"[{operation}] source of shape {tuple(source.shape)} must have shape {expected}: a "
            "slice "
            f"of {tuple(x.shape)} for each index"
        )
    if source.dtype is not x.dtype:
        raise DTypeError(
            f"[{operation}] source is {source.dtype!r} and the tensor {x.dtype!r}; convert the "
            "source"
        )
    order, rank = _front(axis, x.ndim), x.ndim
    place = ops.put_add if add else ops.put
    rows = place(
        ops.transpose(x, permutation=order), places, ops.transpose(source, permutation=order)
    )
    return ops.transpose(rows, permutation=_back(axis, rank))


@in_place
@method("index_add")
def index_add(
    input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1
) -> Tensor:
    """input with slices of `source` added at the indices along `dim`."""
    return _placed("index_add", input, dim, index, source if alpha == 1 else source * alpha, True)


@in_place
@method("index_copy")
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """input with slices of `source` in place of those at the indices along `dim`."""
    return _placed("index_copy", input, dim, index, source, False)


@in_place
@method("index_fill")
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """input with a number in the slices at the indices along `dim`."""
    axis = normalize_axis("index_fill", dim, input.ndim)
    shape = (*input.shape[:axis], index.numel(), *input.shape[axis + 1 :])
    source = broadcast(as_tensor(value, dtype=input.dtype), shape)
    return _placed("index_fill", input, dim, index, source, False)


@method("masked_select")
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """A vector of the elements where the mask holds. Computes the mask."""
    shape = broadcast_shapes("masked_select", tuple(input.shape), tuple(mask.shape))
    result: Tensor = broadcast(input, shape)[broadcast(mask, shape)]
    return result


@in_place
@method("masked_scatter")
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """input with elements of `source`, in order, where the mask holds."""
    shape = tuple(input.shape)
    flat = reshape(broadcast(mask, shape), (input.numel(),))
    position = ops.cumulative_sum(cast(flat, dtypes.int64), axis=0, reverse=False)
    position = position - position.constant(1)
    safe = ops.where(flat, position, position.constant(0))
    found = ops.take(
        reshape(source, (source.numel(),)), _indices("masked_scatter", safe, source.numel())
    )
    return ops.where(broadcast(mask, shape), reshape(found, shape), input)


@method("nonzero")
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Indices (int64) of the elements that are not 0: a row each, or one vector per axis.

    Computes input: how many there are decides the shape.
    """
    array = input.detach().numpy()
    if as_tuple:
        return tuple(tensor(place.astype(np.int64)) for place in np.nonzero(np.atleast_1d(array)))
    return tensor(np.argwhere(array).astype(np.int64))


# --- scatter ------------------------------------------------------------------------------------


def _scattered(
    operation: str, x: Tensor, dim: int, index: Tensor, source: Any, reduce: str
) -> Tensor:
    whole, axis, places = _axis_and_index(operation, x, dim, index)
    if isinstance(source, Tensor):
        if source.dtype is not x.dtype:
            raise DTypeError(
                f"[{operation}] source is {source.dtype!r} and the tensor {x.dtype!r}; convert one"
            )
        updates = source if source.ndim else reshape(source, (1,))
        _fits(operation, places, updates, -1)
        updates = _crop(updates, tuple(places.shape))
    else:
        updates = broadcast(as_tensor(source, dtype=x.dtype), tuple(places.shape))
    _fits(operation, places, whole, axis)
    # Indices that name a corner leave the rest alone: work on the corner, then put it back.
    shape = tuple(whole.shape[a] if a == axis else places.shape[a] for a in range(whole.ndim))
    corner = _crop(whole, shape)
    place = ops.scatter_add if reduce == "add" else ops.scatter
    result = place(corner, places, updates, axis=axis)
    if shape != tuple(whole.shape):
        rank = whole.ndim
        result = ops.assign_slice(whole, result, starts=(0,) * rank, steps=(1,) * rank)
    return reshape(result, tuple(x.shape))


@in_place
@method("scatter")
def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None,
    reduce: str | None = None,
) -> Tensor:  # fmt: skip
    """input with input[index[i][j]][j] = src[i][j] for dim 0; of several to one place the last
    stays.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.Tensor.scatter_.html
    """
    source = value if src is None else src
    if reduce not in (None, "add"):
        raise NotImplementedError(
            f"[scatter] reduce must be None or 'add', got {reduce!r}; see scatter_reduce"
        )
    return _scattered("scatter", input, dim, index, source, reduce or "last")


@in_place
@method("scatter_add")
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """input with src[i][j] added to input[index[i][j]][j] for dim 0, in the order of the source."""
    return _scattered("scatter_add", input, dim, index, src, "add")


@in_place
@method("scatter_reduce")
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Like scatter_add, for reduce "sum" or "mean"."""
    if reduce not in ("sum", "mean"):
        raise NotImplementedError(
            f"[scatter_reduce] reduce must be 'sum' or 'mean', got {reduce!r}"
        )
    ones = src.constant(1)
    zeros = input.constant(0)
    count = scatter_add(zeros, dim, index, ones)
    hit = ops.less(zeros, count)
    start = input if include_self else ops.where(hit, zeros, input)
    total = scatter_add(start, dim, index, src)
    if reduce == "sum":
        return total
    number = count + scalar(count, 1) if include_self else count
    return ops.where(hit, total / ops.maximum(number, number.constant(1)), input)
