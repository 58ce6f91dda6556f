"""Running totals and extremes, sorting, and what sorting gives: medians, quantiles, unique values.

Comes in: tensors and an axis. Goes out: named tuples (values, indices) where PyTorch has them;
indices are int64. Guaranteed: sorting is stable, NaN sorts last (as the largest), gradients go to
the elements that were chosen.

Source: https://docs.pytorch.org/docs/stable/torch.html#comparison-ops
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from avalon import ops
from avalon.dtype import DType
from avalon.errors import IndexOutOfRange, ShapeError
from avalon.functions.comparison import isnan
from avalon.functions.statistics import Extreme, summable
from avalon.functions.support import (
    broadcast,
    cast,
    dtypes,
    in_place,
    iota,
    kept,
    part,
    reshape,
    spread,
)
from avalon.graph.primitive import Primitive
from avalon.shape import normalize_axis
from avalon.tensor import Tensor, as_tensor, method


@in_place
@method("cumsum")
def cumsum(input: Any, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Sums of the elements so far along `dim`; integers and bools sum to int64."""
    input = summable(input, dtype)
    axis = normalize_axis("cumsum", dim, input.ndim)
    return input if input.ndim == 0 else ops.cumulative_sum(input, axis=axis, reverse=False)


@in_place
@method("cumprod")
def cumprod(input: Any, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Products of the elements so far along `dim`; integers and bools multiply to int64."""
    input = summable(input, dtype)
    axis = normalize_axis("cumprod", dim, input.ndim)
    return input if input.ndim == 0 else ops.cumulative_product(input, axis=axis, reverse=False)


def _running(operation: str, find: Primitive, x: Any, dim: int) -> Extreme:
    x = as_tensor(x)
    axis = normalize_axis(operation, dim, x.ndim)
    if x.ndim == 0:
        return Extreme(x, x.constant(0, dtype=dtypes.int64))
    index = find(x, axis=axis)
    return Extreme(ops.gather(x, index, axis=axis), index)


@method("cummax")
def cummax(input: Any, dim: int) -> Extreme:
    """The largest element so far along `dim`, and its index: the last of equals."""
    return _running("cummax", ops.cumulative_argmax, input, dim)


@method("cummin")
def cummin(input: Any, dim: int) -> Extreme:
    """The smallest element so far along `dim`, and its index: the last of equals."""
    return _running("cummin", ops.cumulative_argmin, input, dim)


@method("logcumsumexp")
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """log(cumsum(exp(input))) along `dim`, from input minus its largest element."""
    axis = normalize_axis("logcumsumexp", dim, input.ndim)
    if input.ndim == 0 or input.numel() == 0:
        return input
    largest = ops.reduce_max(ops.stop_gradient(input), axes=(axis,))
    finite = ops.less(ops.absolute(largest), largest.constant(math.inf))
    shift = spread(ops.where(finite, largest, largest.constant(0)), input.shape, (axis,))
    return ops.log(ops.cumulative_sum(ops.exp(input - shift), axis=axis, reverse=False)) + shift


@method("diff")
def diff(input: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """Differences of neighbours along `dim`, n times."""
    axis = normalize_axis("diff", dim, input.ndim)
    for _ in range(n):
        count = input.shape[axis]
        if count == 0:
            return input
        input = part(input, axis, 1, count - 1) - part(input, axis, 0, count - 1)
    return input


# --- sorting ------------------------------------------------------------------------------------


def _order(x: Tensor, axis: int, descending: bool = False) -> Tensor:
    """The indices that put all of an axis in order."""
    return ops.argsort(x, axis=axis, descending=descending, count=x.shape[axis])


@method("sort")
def sort(input: Any, dim: int = -1, descending: bool = False, stable: bool = True) -> Extreme:
    """The elements in order along `dim`, and where they came from; equal ones keep their order.

    >>> import avalon as av
    >>> av.sort(av.tensor([3.0, 1.0, 2.0])).values
    tensor([1., 2., 3.])
    """
    input = as_tensor(input)
    axis = normalize_axis("sort", dim, input.ndim)
    if input.ndim == 0:
        return Extreme(input, input.constant(0, dtype=dtypes.int64))
    index = _order(input, axis, descending=descending)
    return Extreme(ops.gather(input, index, axis=axis), index)


@method("argsort")
def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The indices that put `input` in order along `dim`."""
    return sort(input, dim, descending).indices


@method("msort")
def msort(input: Any) -> Tensor:
    """The elements in order along the first axis."""
    return sort(input, 0).values


@method("topk")
def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Extreme:
    """The k largest (or smallest) elements along `dim` in order, and their indices.

    Raises:
        ShapeError: k exceeds the size of the axis.
    """
    input = as_tensor(input)
    axis = normalize_axis("topk", dim, input.ndim)
    size = input.shape[axis] if input.ndim else 1
    if not 0 <= k <= size:
        raise ShapeError(
            f"[topk] k = {k} is out of range: axis {dim} of shape {input.shape} has {size} elements"
        )
    if input.ndim == 0:
        return Extreme(input, input.constant(0, dtype=dtypes.int64))
    index = ops.argsort(input, axis=axis, descending=largest, count=k)
    return Extreme(ops.gather(input, index, axis=axis), index)


@method("kthvalue")
def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Extreme:
    """The k-th smallest element (from 1) along `dim`, and its index."""
    input = as_tensor(input)
    axis = normalize_axis("kthvalue", dim, input.ndim)
    size = input.shape[axis] if input.ndim else 1
    if not 1 <= k <= size:
        raise ShapeError(f"[kthvalue] k = {k} must lie in [1, {size}], the size of axis {dim}")
    if input.ndim == 0:
        return Extreme(input, input.constant(0, dtype=dtypes.int64))
    index = part(ops.argsort(input, axis=axis, descending=False, count=k), axis, k - 1, 1)
    found = ops.gather(input, index, axis=axis)
    shape = kept(input.shape, (axis,)) if keepdim else input.shape[:axis] + input.shape[axis + 1 :]
    return Extreme(reshape(found, shape), reshape(index, shape))


@method("median")
def median(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median, the lower of two; NaN if one is there. With `dim`: (values, indices) along it.

    The gradient of `median(input)` is shared evenly among equal elements.
    """
    input = as_tensor(input)
    if dim is not None:
        return _median_along(input, normalize_axis("median", dim, input.ndim), keepdim)
    flat = reshape(input, (input.numel(),))
    if input.numel() == 0:
        return input.constant(math.nan, shape=())
    chosen = _median_along(ops.stop_gradient(flat), 0, False).values
    chosen = spread(chosen, flat.shape, (0,))
    if not input.dtype.is_floating_point:
        return ops.reduce_max(chosen, axes=(0,))
    same = ops.equal(flat, chosen) | (isnan(flat) & isnan(chosen))
    # The largest of the equal ones: reduce_max shares its gradient as the median does.
    return ops.reduce_max(ops.where(same, flat, flat.constant(-math.inf)), axes=(0,))


def _median_along(x: Tensor, axis: int, keepdim: bool) -> Extreme:
    if x.ndim == 0:
        return Extreme(x, x.constant(0, dtype=dtypes.int64))
    size = x.shape[axis]
    if size == 0:
        raise IndexOutOfRange(f"[median] axis {axis} of shape {x.shape} has no elements")
    order = _order(x, axis)
    middle = part(order, axis, (size - 1) // 2, 1)
    if x.dtype.is_floating_point:  # NaN sorts last: the first of them is the answer
        last = part(order, axis, size - 1, 1)
        missing = isnan(ops.gather(x, last, axis=axis))
        first_missing = ops.argmax(cast(isnan(x), dtypes.int64), axis=axis)
        middle = ops.where(missing, reshape(first_missing, middle.shape), middle)
    found = ops.gather(x, middle, axis=axis)
    shape = kept(x.shape, (axis,)) if keepdim else x.shape[:axis] + x.shape[axis + 1 :]
    return Extreme(reshape(found, shape), reshape(middle, shape))


@method("mode")
def mode(input: Any, dim: int = -1, keepdim: bool = False) -> Extreme:
    """The most frequent element along `dim`, the smallest of several, and its last index."""
    input = as_tensor(input)
    axis = normalize_axis("mode", dim, input.ndim)
    if input.ndim == 0:
        return Extreme(input, input.constant(0, dtype=dtypes.int64))
    order = _order(input, axis)
    ordered = ops.gather(input, order, axis=axis)
    size, position = input.shape[axis], iota(input.shape, axis)
    first = part(position.constant(True, dtype=dtypes.bool_), axis, 0, min(size, 1))
    later = ops.not_equal(part(ordered, axis, 1, size - 1), part(ordered, axis, 0, size - 1))
    starts = ops.concatenate(first, later, axis=axis)
    begun = ops.where(starts, position, position.constant(0))
    run_start = ops.gather(begun, ops.cumulative_argmax(begun, axis=axis), axis=axis)
    best = ops.argmax(position - run_start, axis=axis)  # the last element of the longest run
    index = ops.gather(order, reshape(best, kept(input.shape, (axis,))), axis=axis)
    found = ops.gather(input, index, axis=axis)
    shape = kept(input.shape, (axis,)) if keepdim else input.shape[:axis] + input.shape[axis + 1 :]
    return Extreme(reshape(found, shape), reshape(index, shape))


@method("quantile")
def quantile(
    input: Tensor,
    q: float | Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    """The q-th quantiles along `dim` (the flattened tensor if None); NaN if one is there.

    `interpolation` between two elements: linear, lower, higher, nearest or midpoint.
    """
    weights = as_tensor(q, dtype=input.dtype)
    source = reshape(input, (input.numel(),)) if dim is None else input
    axis = 0 if dim is None else normalize_axis("quantile", dim, input.ndim)
    rank = source.ndim
    moved = ops.transpose(source, permutation=(*(a for a in range(rank) if a != axis), axis))
    size = moved.shape[-1]
    ordered = sort(moved, -1).values
    flat = reshape(weights, (weights.numel(),))
    place = flat * flat.constant(size - 1)
    below, above = ops.floor(place), ops.ceil(place)
    if interpolation == "lower":
        above = below
    elif interpolation == "higher":
        below = above
    elif interpolation == "nearest":
        below = above = ops.round(place)
    fraction = place.constant(0.5) if interpolation == "midpoint" else place - below
    lead = ordered.shape[:-1]
    low, high = (_positions(ordered, index, lead) for index in (below, above))
    found = low + (high - low) * broadcast(fraction, low.shape)
    missing = ops.reduce_max(isnan(ordered), axes=(moved.ndim - 1,))
    found = ops.where(
        spread(missing, found.shape, (found.ndim - 1,)), found.constant(math.nan), found
    )
    found = ops.transpose(found, permutation=(found.ndim - 1, *range(found.ndim - 1)))
    if keepdim:
        one = (1,) * input.ndim if dim is None else kept(input.shape, (axis,))
        found = reshape(found, (weights.numel(), *one))
    return reshape(found, found.shape[1:]) if weights.ndim == 0 else found


def _positions(ordered: Tensor, place: Tensor, lead: tuple[int, ...]) -> Tensor:
    """The elements of the last axis at `place`, a vector of whole floats."""
    index = broadcast(cast(place, dtypes.int64), (*lead, place.shape[0]))
    return ops.gather(ordered, index, axis=ordered.ndim - 1)


# --- values in sorted tables --------------------------------------------------------------------


def searchsorted(
    sorted_sequence: Tensor, input: Any, *, right: bool = False, side: str | None = None
) -> Tensor:
    """For each element of `input` the index (int64) at which it keeps the last axis in order."""
    values = as_tensor(input, dtype=sorted_sequence.dtype)
    if sorted_sequence.ndim > 1 and sorted_sequence.shape[:-1] != values.shape[:-1]:
        raise ShapeError(
            f"[searchsorted] shapes {sorted_sequence.shape} and {values.shape} must agree but for "
            "the last axis"
        )
    lead = (1,) * values.ndim if sorted_sequence.ndim == 1 else (*values.shape[:-1], 1)
    full = (*values.shape, sorted_sequence.shape[-1])
    table = broadcast(reshape(sorted_sequence, (*lead, full[-1])), full)
    sought = broadcast(reshape(values, (*values.shape, 1)), full)
    before = ops.less_equal(table, sought) if right or side == "right" else ops.less(table, sought)
    return ops.reduce_sum(cast(before, dtypes.int64), axes=(len(full) - 1,))


def bucketize(input: Any, boundaries: Tensor, *, right: bool = False) -> Tensor:
    """The index of the bucket between `boundaries` that each element falls into."""
    return searchsorted(boundaries, input, right=right)


@method("bincount")
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often (or with what weight) 0, 1, 2, ... occur in a vector. Computes the largest."""
    if input.ndim != 1:
        raise ShapeError(f"[bincount] expected a vector, got shape {input.shape}")
    length = max(minlength, int(input.max().item()) + 1) if input.numel() else minlength
    amounts = input.constant(1, dtype=dtypes.int64) if weights is None else weights
    if weights is not None and not weights.dtype.is_floating_point:
        amounts = cast(weights, dtypes.float64)
    zeros = amounts.constant(0, shape=(length,))
    return ops.scatter_add(zeros, cast(input, dtypes.int64), amounts, axis=0)


class Unique(NamedTuple):
    """What `unique` returns when it is asked for more than the values."""

    values: Tensor
    inverse: Tensor
    counts: Tensor


@method("unique")
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The different elements in order; on request where each came from and how often it occurs.

    Computes the values: how many there are decides the shape.
    """
    if dim is not None:
        raise NotImplementedError(
            "[unique] compares elements, not slices; unique(dim=...) is not there"
        )
    flat = reshape(input, (input.numel(),))
    ordered, order = sort(flat, 0)
    starts = _run_starts(ordered)
    result = _unique_of_runs(ordered, starts)
    inverse_ordered = ops.cumulative_sum(cast(starts, dtypes.int64), axis=0, reverse=False)
    inverse_ordered = inverse_ordered - inverse_ordered.constant(1)
    inverse = ops.scatter(inverse_ordered, order, inverse_ordered, axis=0)
    return _unique_result(result, reshape(inverse, input.shape), return_inverse, return_counts)


@method("unique_consecutive")
def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False
) -> Any:
    """Elements that differ from the one before them in the flattened tensor."""
    flat = reshape(input, (input.numel(),))
    starts = _run_starts(flat)
    number = ops.cumulative_sum(cast(starts, dtypes.int64), axis=0, reverse=False)
    inverse = reshape(number - number.constant(1), input.shape)
    return _unique_result(_unique_of_runs(flat, starts), inverse, return_inverse, return_counts)


def _run_starts(ordered: Tensor) -> Tensor:
    size = ordered.shape[0]
    if size == 0:
        return ordered.constant(True, dtype=dtypes.bool_)
    changes = ops.not_equal(part(ordered, 0, 1, size - 1), part(ordered, 0, 0, size - 1))
    return ops.concatenate(ordered.constant(True, shape=(1,), dtype=dtypes.bool_), changes, axis=0)


def _unique_of_runs(ordered: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Values of the runs that begin at `starts`, and their lengths."""
    (places,) = starts.nonzero(as_tuple=True)
    end = places.constant(ordered.shape[0], shape=(1,))
    if places.shape[0] == 0:
        return ordered, places
    following = ops.concatenate(part(places, 0, 1, places.shape[0] - 1), end, axis=0)
    return ops.take(ordered, places), following - places


def _unique_result(
    runs: tuple[Tensor, Tensor], inverse: Tensor, return_inverse: bool, return_counts: bool
) -> Any:
    values, counts = runs
    if return_inverse and return_counts:
        return Unique(values, inverse, counts)
    if return_inverse:
        return values, inverse
    return (values, counts) if return_counts else values


@method("histc")
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Counts of elements in `bins` equal parts of [min, max], the data's range if both are 0."""
    flat = reshape(input, (input.numel(),))
    if min == max == 0:
        low, high = float(flat.amin().item()), float(flat.amax().item())
    else:
        low, high = float(min), float(max)
    if low == high:
        low, high = low - 1, high + 1
    place = ops.floor((flat - low) * (bins / (high - low)))
    place = ops.minimum(place, place.constant(bins - 1))
    inside = (flat >= low) & (flat <= high)
    index = cast(ops.where(inside, place, place.constant(0)), dtypes.int64)
    amounts = cast(inside, input.dtype)
    return ops.scatter_add(input.constant(0, shape=(bins,)), index, amounts, axis=0)
