"""Sums, means, extremes and their kin along axes.

Comes in: tensors of any shape; `dim` is an axis, several, or None for all. Goes out: tensors
without those axes, or with size 1 there (`keepdim`). Guaranteed: PyTorch's result types (integers
sum to int64), its values for empty input (sum 0, mean NaN; extremes raise) and its gradients at
ties: `max()` and `amax` share it evenly, `max(dim)` gives it to one index.

Source: https://docs.pytorch.org/docs/stable/torch.html#reduction-ops
"""

from __future__ import annotations

import builtins
import math
from typing import Any, NamedTuple

from avalon import ops
from avalon.dtype import DType
from avalon.errors import DTypeError, IndexOutOfRange, ShapeError
from avalon.functions.comparison import isnan, truth
from avalon.functions.custom import with_gradient
from avalon.functions.precision import in_float32
from avalon.functions.support import (
    Dims,
    axes_of,
    cast,
    dtypes,
    floating,
    iota,
    kept,
    reshape,
    spread,
    together,
)
from avalon.graph.primitive import Primitive
from avalon.shape import normalize_axis, size_of
from avalon.tensor import Tensor, as_tensor, method
from avalon.tensor.composite import composite

FLOATING = dtypes.category(dtypes.float32)


class Extreme(NamedTuple):
    """Values along an axis, and where they were found (int64)."""

    values: Tensor
    indices: Tensor


def with_axes(x: Tensor, reduced: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """What was reduced over `axes` of x, with size 1 there if `keepdim`."""
    return reshape(reduced, kept(x.shape, axes)) if keepdim else reduced


def summable(x: Any, dtype: DType | None) -> Tensor:
    """x as the type in which it is summed or multiplied: integers and bools as int64."""
    x = as_tensor(x)
    if dtype is not None:
        return cast(x, dtype)
    return x if dtypes.category(x.dtype) >= FLOATING else cast(x, dtypes.int64)


@method("sum")
@composite
def sum(
    input: Any, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Sum along `dim`; integers and bools sum to int64.

    >>> import avalon as av
    >>> av.sum(av.ones(2, 3), dim=1)
    tensor([3., 3.])
    """
    input = summable(input, dtype)
    axes = axes_of("sum", dim, input.ndim)
    return with_axes(input, ops.reduce_sum(input, axes=axes), axes, keepdim)


@method("nansum")
def nansum(
    input: Any, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Sum along `dim` of the elements that are not NaN."""
    input = summable(input, dtype)
    if input.dtype.is_floating_point:
        input = ops.where(isnan(input), input.constant(0), input)
    return sum(input, dim, keepdim)


@method("mean")
@composite
@in_float32
def mean(
    input: Any, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Mean along `dim`; NaN over no elements.

    Raises:
        DTypeError: input holds integers or bools, and no float dtype is asked for.
    """
    input = as_tensor(input)
    if dtype is not None:
        input = cast(input, dtype)
    if dtypes.category(input.dtype) < FLOATING:
        raise DTypeError(
            f"[mean] the mean of {input.dtype!r} is not defined; convert x first, for example "
            "x.float().mean(), or pass dtype=avalon.float32"
        )
    axes = axes_of("mean", dim, input.ndim)
    total = ops.reduce_sum(input, axes=axes)
    count = size_of([input.shape[axis] for axis in axes])
    return with_axes(input, total / total.constant(count), axes, keepdim)


@method("nanmean")
def nanmean(
    input: Any, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Mean along `dim` of the elements that are not NaN."""
    input = floating(input) if dtype is None else cast(as_tensor(input), dtype)
    count = sum(cast(ops.logical_not(isnan(input)), input.dtype), dim, keepdim)
    return nansum(input, dim, keepdim) / count


def moments(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared distances from it, both without `axes`."""
    count = size_of([x.shape[axis] for axis in axes])
    total = ops.reduce_sum(x, axes=axes)
    centre = total / total.constant(count)
    distance = x - spread(centre, x.shape, axes)
    return centre, ops.reduce_sum(distance * distance, axes=axes)


@method("var")
@composite
@in_float32
def var(
    input: Any,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Variance along `dim`: squared distances from the mean over max(0, n - correction).

    `correction` is 1 unless given; `unbiased=False` is the older way to write correction=0.
    """
    return _variance("var", input, dim, unbiased, keepdim, correction)[0]


def _variance(
    operation: str,
    x: Any,
    dim: Dims | bool,
    unbiased: bool | None,
    keepdim: bool,
    correction: float | None,
) -> tuple[Tensor, Tensor]:
    x = as_tensor(x)
    if not x.dtype.is_floating_point:
        raise DTypeError(
            f"[{operation}] is defined for floats, got {x.dtype!r}; convert x first: x.float()"
        )
    if isinstance(dim, bool):  # var(x, unbiased)
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    axes = axes_of(operation, dim, x.ndim)
    count = size_of([x.shape[axis] for axis in axes])
    centre, squares = moments(x, axes)
    divisor = builtins.max(count - correction, 0)
    result = squares / squares.constant(divisor)
    return with_axes(x, result, axes, keepdim), with_axes(x, centre, axes, keepdim)


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0, as PyTorch defines it for norms and deviations."""
    zero, one = x.constant(0), x.constant(1)
    none = ops.equal(x, zero)
    return ops.where(none, zero, ops.sqrt(ops.where(none, one, x)))


@method("std")
@composite
@in_float32
def std(
    input: Any,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Standard deviation along `dim`: the square root of `var`; its gradient at 0 is 0."""
    return safe_sqrt(_variance("std", input, dim, unbiased, keepdim, correction)[0])


@in_float32
def var_mean(
    input: Any,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Variance and mean along `dim`."""
    return _variance("var_mean", input, dim, unbiased, keepdim, correction)


@in_float32
def std_mean(
    input: Any,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean along `dim`."""
    variance, centre = _variance("std_mean", input, dim, unbiased, keepdim, correction)
    return safe_sqrt(variance), centre


@method("prod")
def prod(
    input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Product along one axis, or of all elements; integers and bools multiply to int64."""
    input = summable(input, dtype)
    axes = axes_of("prod", dim, input.ndim)
    return with_axes(input, ops.reduce_product(input, axes=axes), axes, keepdim)


# --- extremes -----------------------------------------------------------------------------------


def _not_empty(operation: str, x: Tensor, axes: tuple[int, ...]) -> None:
    if size_of([x.shape[axis] for axis in axes]) == 0:
        raise IndexOutOfRange(
            f"[{operation}] shape {x.shape} has no elements along dim {axes}, and no identity "
            "stands for them; check x.numel() first"
        )


def pick(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """The element of x at `index` along `axis`; `index` has x's shape without that axis.

    A short axis is summed under a mask, which fuses with what surrounds it, backward too.
    """
    if x.shape[axis] > SHORT_AXIS:
        lone = reshape(index, kept(x.shape, (axis,)))
        return reshape(ops.gather(x, lone, axis=axis), index.shape)
    position = iota(x.shape, axis)
    chosen = ops.equal(position, spread(index, x.shape, (axis,)))
    return ops.reduce_sum(ops.where(chosen, x, x.constant(0)), axes=(axis,))


SHORT_AXIS = 16


def _extreme_at(operation: str, find: Primitive, x: Tensor, dim: int, keepdim: bool) -> Extreme:
    axis = normalize_axis(operation, dim, x.ndim)
    if x.ndim == 0:
        return Extreme(reshape(x, ()), x.constant(0, dtype=dtypes.int64))
    _not_empty(operation, x, (axis,))
    index = find(x, axis=axis)
    values = pick(x, index, axis)
    return Extreme(with_axes(x, values, (axis,), keepdim), with_axes(x, index, (axis,), keepdim))


def _extreme(
    operation: str, x: Any, dim: Any, keepdim: bool, other: Any, reduce: Primitive,
    find: Primitive, between: Primitive,
) -> Any:  # fmt: skip
    x = as_tensor(x)
    if isinstance(dim, Tensor):
        dim, other = None, dim
    if other is not None:
        return between(*together(operation, x, other))
    if dim is not None:
        return _extreme_at(operation, find, x, dim, keepdim)
    axes = tuple(range(x.ndim))
    if x.numel() == 0:
        raise ShapeError(
            f"[{operation}] shape {x.shape} has no elements, and no identity stands for them; "
            "check x.numel() first"
        )
    return reduce(x, axes=axes)


@method("max")
def max(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest element; with `dim`, (values, indices) along it; with a tensor, `maximum`.

    NaN counts as largest. The gradient of `max(input)` is shared evenly among ties; that of
    `max(input, dim)` goes to the index that is returned, the first of equals.

    >>> import avalon as av
    >>> av.max(av.tensor([[1.0, 3.0], [4.0, 2.0]]), dim=1).indices
    tensor([1, 0])
    """
    return _extreme("max", input, dim, keepdim, other, ops.reduce_max, ops.argmax, ops.maximum)


@method("min")
def min(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The smallest element; with `dim`, (values, indices) along it; with a tensor, `minimum`."""
    return _extreme("min", input, dim, keepdim, other, ops.reduce_min, ops.argmin, ops.minimum)


@method("amax")
def amax(input: Any, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The largest elements along `dim`; ties share the gradient evenly."""
    input = as_tensor(input)
    axes = axes_of("amax", dim, input.ndim)
    _not_empty("amax", input, axes)
    return with_axes(input, ops.reduce_max(input, axes=axes), axes, keepdim)


@method("amin")
def amin(input: Any, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The smallest elements along `dim`; ties share the gradient evenly."""
    input = as_tensor(input)
    axes = axes_of("amin", dim, input.ndim)
    _not_empty("amin", input, axes)
    return with_axes(input, ops.reduce_min(input, axes=axes), axes, keepdim)


@method("aminmax")
def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The smallest and the largest elements along `dim`."""
    return amin(input, dim, keepdim), amax(input, dim, keepdim)


def _where_extreme(
    operation: str, find: Primitive, x: Any, dim: int | None, keepdim: bool
) -> Tensor:
    x = as_tensor(x)
    if dim is None:
        _not_empty(operation, x, tuple(range(x.ndim)))
        index = find(reshape(x, (x.numel(),)), axis=0)
        return reshape(index, (1,) * x.ndim) if keepdim else index
    axis = normalize_axis(operation, dim, x.ndim)
    if x.ndim == 0:
        return x.constant(0, dtype=dtypes.int64)
    _not_empty(operation, x, (axis,))
    return with_axes(x, find(x, axis=axis), (axis,), keepdim)


@method("argmax")
def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index (int64) of the largest element along `dim`, or in the flattened tensor."""
    return _where_extreme("argmax", ops.argmax, input, dim, keepdim)


@method("argmin")
def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index (int64) of the smallest element along `dim`, or in the flattened tensor."""
    return _where_extreme("argmin", ops.argmin, input, dim, keepdim)


# --- truth and counts ---------------------------------------------------------------------------


def _quantified(
    operation: str, reduce: Primitive, empty: bool, x: Any, dim: Dims, keepdim: bool
) -> Tensor:
    x = as_tensor(x)
    axes = axes_of(operation, dim, x.ndim)
    if size_of([x.shape[axis] for axis in axes]) == 0:
        rest = tuple(extent for axis, extent in enumerate(x.shape) if axis not in axes)
        found = x.constant(empty, shape=rest, dtype=dtypes.bool_)
    else:
        found = reduce(truth(x), axes=axes)
    if x.dtype is dtypes.uint8:
        found = cast(found, dtypes.uint8)
    return with_axes(x, found, axes, keepdim)


@method("all")
def all(input: Any, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """True where every element along `dim` is not 0."""
    return _quantified("all", ops.reduce_min, True, input, dim, keepdim)


@method("any")
def any(input: Any, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """True where some element along `dim` is not 0."""
    return _quantified("any", ops.reduce_max, False, input, dim, keepdim)


@method("count_nonzero")
def count_nonzero(input: Any, dim: Dims = None) -> Tensor:
    """Number (int64) of elements along `dim` that are not 0."""
    return sum(cast(truth(input), dtypes.int64), dim)


# --- logarithms of sums, norms ------------------------------------------------------------------


@method("logsumexp")
@in_float32
def logsumexp(input: Any, dim: Dims, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) along `dim`, from input - max(input)."""
    input = floating(input)
    axes = axes_of("logsumexp", dim, input.ndim)
    if size_of([input.shape[axis] for axis in axes]) == 0:
        return with_axes(input, ops.log(ops.reduce_sum(input, axes=axes)), axes, keepdim)

    def formula(input: Tensor) -> Tensor:
        largest = ops.reduce_max(input, axes=axes)
        infinite = ops.equal(ops.absolute(largest), largest.constant(math.inf))
        shift = ops.where(infinite, largest.constant(0), largest)
        return (
            ops.log(ops.reduce_sum(ops.exp(input - spread(shift, input.shape, axes)), axes=axes))
            + shift
        )

    def backward(g: Tensor, y: Tensor, input: Tensor) -> tuple[Tensor]:
        return (spread(g, input.shape, axes) * ops.exp(input - spread(y, input.shape, axes)),)

    return with_axes(input, with_gradient("logsumexp", formula, backward, input), axes, keepdim)


@method("norm")
@in_float32
def norm(
    input: Tensor,
    p: float | str | None = "fro",
    dim: Dims = None,
    keepdim: bool = False,
    dtype: DType | None = None,
) -> Tensor:
    """The p-norm of the elements along `dim` (the flattened tensor if None); gradient 0 at 0.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.norm.html
    """
    if dtype is not None:
        input = cast(input, dtype)
    if not input.dtype.is_floating_point:
        raise DTypeError(f"[norm] is defined for floats, got {input.dtype!r}; convert: x.float()")
    axes = axes_of("norm", dim, input.ndim)
    if p is None or p in ("fro", 2):
        return with_axes(input, safe_sqrt(ops.reduce_sum(input * input, axes=axes)), axes, keepdim)
    if isinstance(p, str):
        raise ValueError(f"[norm] p must be a number or 'fro', got {p!r}")
    size = ops.absolute(input)
    if p == math.inf:
        return with_axes(input, ops.reduce_max(size, axes=axes), axes, keepdim)
    if p == -math.inf:
        return with_axes(input, ops.reduce_min(size, axes=axes), axes, keepdim)
    if p == 0:
        return sum(cast(truth(ops.stop_gradient(input)), input.dtype), axes, keepdim)
    if p == 1:
        return with_axes(input, ops.reduce_sum(size, axes=axes), axes, keepdim)
    none = ops.equal(size, size.constant(0))
    powers = ops.where(none, input.constant(0 if p > 0 else math.inf), _power(size, none, p))
    total = ops.reduce_sum(powers, axes=axes)
    empty = ops.equal(total, total.constant(0))
    root = ops.where(empty, total.constant(0), _power(total, empty, 1 / p))
    return with_axes(input, root, axes, keepdim)


def _power(x: Tensor, unused: Tensor, exponent: float) -> Tensor:
    """x to a power, with 1 in the places that are not used, whose gradient would be infinite."""
    return ops.power(ops.where(unused, x.constant(1), x), x.constant(exponent))


@method("dist")
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of input - other."""
    return norm(input - other, p)
