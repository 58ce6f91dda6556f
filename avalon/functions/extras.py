"""Functions that are written with others: sets, integrals, covariance, small conveniences.

Comes in: tensors. Goes out: tensors. Guaranteed: PyTorch's names, arguments and results.

Source: https://docs.pytorch.org/docs/stable/torch.html
"""

from __future__ import annotations

from typing import Any

from avalon import ops, random
from avalon.errors import ShapeError
from avalon.functions.activation import softmax
from avalon.functions.comparison import isnan
from avalon.functions.linear_algebra import matmul
from avalon.functions.order import median, quantile
from avalon.functions.shaping import cat
from avalon.functions.statistics import pick, sum as sum_along
from avalon.functions.support import (
    broadcast,
    cast,
    dtypes,
    floating,
    iota,
    reshape,
    spread,
    together,
)
from avalon.shape import Shape, broadcast_shapes as common_shape, normalize_axis
from avalon.tensor import Tensor, as_tensor, constant_tensor, method


def is_tensor(obj: Any) -> bool:
    """True for tensors."""
    return isinstance(obj, Tensor)


def scalar_tensor(s: float, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor without axes that holds one number."""
    return constant_tensor(s, (), dtype, device)


def broadcast_shapes(*shapes: Any) -> Shape:
    """The shape that the given ones broadcast to.

    >>> broadcast_shapes((3, 1), (4,))
    (3, 4)
    """
    return common_shape(
        "broadcast_shapes", *((s,) if isinstance(s, int) else tuple(s) for s in shapes)
    )


@method("argwhere")
def argwhere(input: Tensor) -> Tensor:
    """Indices (n, axes) of the elements that are not 0. Computes the values."""
    result: Tensor = input.nonzero()
    return result


def isin(elements: Any, test_elements: Any, *, invert: bool = False) -> Tensor:
    """True where an element is one of `test_elements`."""
    a, b = as_tensor(elements), as_tensor(test_elements)
    pairs = together("isin", a.unsqueeze(-1), b.reshape(-1))
    same = ops.equal(*pairs)
    if same.shape[-1] == 0:
        found = same.constant(False, tuple(a.shape))
    else:
        found = ops.reduce_max(same, axes=(same.ndim - 1,))
    return ops.logical_not(found) if invert else found


@method("heaviside")
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below 0, 1 above, `values` at 0."""
    x, at_zero = together("heaviside", input, values)
    zero = x.constant(0)
    above = ops.where(ops.less(zero, x), x.constant(1), zero)
    return ops.where(isnan(x), x, ops.where(ops.equal(x, zero), at_zero, above))


@method("polygamma")
def polygamma(n: int, input: Tensor) -> Tensor:
    """The n-th derivative of digamma."""
    if isinstance(n, Tensor):  # x.polygamma(n)
        n, input = input, n
    x = floating(input)
    return ops.digamma(x) if n == 0 else ops.polygamma(x, order=n)


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float = 1.0, dim: int = -1) -> Tensor:
    """Integral along `dim` by trapezoids."""
    axis = normalize_axis("trapezoid", dim, y.ndim)
    count = y.shape[axis]
    both = y.narrow(axis, 1, count - 1) + y.narrow(axis, 0, count - 1)
    if x is None:
        return sum_along(both, axis) * (dx / 2)
    if x.ndim == 1:
        x = x.reshape([count if a == axis else 1 for a in range(y.ndim)])
    place = normalize_axis("trapezoid", dim, x.ndim)
    width = x.narrow(place, 1, count - 1) - x.narrow(place, 0, count - 1)
    return sum_along(both * width, axis) / 2


trapz = trapezoid


@method("nanmedian")
def nanmedian(input: Tensor) -> Tensor:
    """The median of the elements that are not NaN. Computes which these are."""
    flat = input.reshape(-1)
    result: Tensor = median(flat[~isnan(flat)])
    return result


@method("nanquantile")
def nanquantile(input: Tensor, q: Any) -> Tensor:
    """Quantiles of the elements that are not NaN. Computes which these are."""
    flat = input.reshape(-1)
    return quantile(flat[~isnan(flat)], q)


@method("cov")
def cov(input: Tensor, *, correction: int = 1) -> Tensor:
    """Covariance matrix of variables (rows) over observations (columns)."""
    if input.ndim > 2:
        raise ShapeError(f"[cov] expected at most two axes, got shape {tuple(input.shape)}")
    rows = input.reshape(1, -1) if input.ndim < 2 else input
    count = rows.shape[1]
    centred = rows - rows.mean(1, keepdim=True)
    found = matmul(centred, centred.T) / max(count - correction, 0)
    return found if input.ndim == 2 else found.reshape(())


@method("corrcoef")
def corrcoef(input: Tensor) -> Tensor:
    """Correlation matrix of variables (rows) over observations (columns)."""
    if input.ndim < 2:
        return input.sum() * 0 + 1
    matrix = cov(input)
    deviation = matrix.diagonal().sqrt()
    result: Tensor = (matrix / deviation.unsqueeze(1) / deviation).clamp(-1, 1)
    return result


@method("matrix_power")
def matrix_power(input: Tensor, n: int) -> Tensor:
    """The product of n copies of a matrix, by squaring."""
    if n < 0:
        raise NotImplementedError("[matrix_power] negative powers need an inverse")
    size = input.shape[-1]
    result = cast(ops.equal(iota((size, size), 0), iota((size, size), 1)), input.dtype)
    result = broadcast(result, tuple(input.shape))
    while n:
        if n % 2:
            result = matmul(result, input)
        input, n = matmul(input, input) if n > 1 else input, n // 2
    return result


@method("index_put")
def index_put(
    input: Tensor, indices: tuple[Tensor, ...], values: Tensor, accumulate: bool = False
) -> Tensor:
    """input with `values` at the given indices, or added to what is there."""
    return index_put_(input.clone(), indices, values, accumulate)


@method("index_put_")
def index_put_(
    input: Tensor, indices: tuple[Tensor, ...], values: Tensor, accumulate: bool = False
) -> Tensor:
    """Write `values` at the given indices, or add them to what is there."""
    index = tuple(indices)
    if not accumulate:
        input[index] = values
        return input
    flat = iota((input.numel(),), 0).reshape(input.shape)[index]
    places = reshape(flat, (flat.numel(),))
    added = reshape(broadcast(values, tuple(flat.shape)), (flat.numel(),))
    total = ops.put_add(reshape(input, (input.numel(),)), places, added)
    return input.assign_(reshape(total, tuple(input.shape)))


def row_stack(tensors: Any) -> Tensor:
    """Joined along the first axis, vectors as rows."""
    return cat([x.reshape(1, -1) if x.ndim < 2 else x for x in tensors], 0)


def atleast_3d(input: Tensor) -> Tensor:
    """input with at least three axes."""
    if input.ndim >= 3:
        return input
    shape = {0: (1, 1, 1), 1: (1, input.numel(), 1)}.get(input.ndim, (*input.shape, 1))
    result: Tensor = input.reshape(shape)
    return result


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Positions in the flattened tensor as one index for each axis of `shape`."""
    found = []
    for extent in reversed((shape,) if isinstance(shape, int) else tuple(shape)):
        found.append(indices % extent)
        indices = indices // extent
    return tuple(reversed(found))


@method("sum_to_size")
def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """Summed over the axes along which a tensor of `size` would be broadcast."""
    shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
    lead = input.ndim - len(shape)
    axes = [a for a in range(input.ndim) if a < lead or shape[a - lead] == 1 != input.shape[a]]
    return reshape(sum_along(input, tuple(axes)) if axes else input, tuple(shape))


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """A sample of a relaxed one-hot distribution; `hard` rounds it, with the soft gradient."""
    waits = random.exponential(tuple(logits.shape), logits.dtype)
    soft = softmax((logits - ops.log(waits)) / tau, dim)
    if not hard:
        return soft
    axis = normalize_axis("gumbel_softmax", dim, logits.ndim)
    best = ops.argmax(ops.stop_gradient(soft), axis=axis)
    places = spread(best, tuple(soft.shape), (axis,))
    sharp = cast(ops.equal(iota(tuple(soft.shape), axis), places), soft.dtype)
    return sharp - ops.stop_gradient(soft) + soft


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """sum over other classes of max(0, margin - x[target] + x[class]) ** p, over their number."""
    rows = input if input.ndim == 2 else input.unsqueeze(0)
    labels = target.reshape(-1)
    own = spread(pick(rows, cast(labels, dtypes.int64), 1), tuple(rows.shape), (1,))
    excess = (margin - own + rows).clamp(min=0)
    if p == 2:
        excess = excess * excess
    if weight is not None:
        excess = excess * ops.take(weight, labels).unsqueeze(1)
    others = ops.not_equal(iota(tuple(rows.shape), 1), spread(labels, tuple(rows.shape), (1,)))
    excess = ops.where(others, excess, excess.constant(0))
    loss = sum_along(excess, 1) / rows.shape[1]
    if input.ndim == 1:
        loss = reshape(loss, ())
    if reduction == "mean":
        return loss.mean()
    return sum_along(loss) if reduction == "sum" else loss


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross entropy of logits, averaged over classes."""
    zero = input.constant(0)
    negative = ops.less(input, zero)
    tail = ops.log1p(ops.exp(ops.where(negative, input, -input)))
    log_p = ops.where(negative, input, zero) - tail
    log_q = log_p - input
    loss = -(target * log_p + (1 - target) * log_q)
    if weight is not None:
        loss = loss * weight
    loss = loss.mean(-1)
    if reduction == "mean":
        return loss.mean()
    return sum_along(loss) if reduction == "sum" else loss


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Distances of all pairs of different rows, as a vector."""
    count = input.shape[0]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    first = as_tensor([i for i, _ in pairs], dtype=dtypes.int64)
    second = as_tensor([j for _, j in pairs], dtype=dtypes.int64)
    difference = ops.take(input, first) - ops.take(input, second)
    result: Tensor = difference.norm(p, dim=1)
    return result
