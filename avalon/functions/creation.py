"""New tensors of a given shape: constants, ranges, identity matrices, grids, draws.

Comes in: sizes (as ints or as one sequence) and options. Goes out: leaf tensors. Guaranteed:
PyTorch's names, argument order and default dtypes; `empty` is zeros, so that no run depends on old
memory.

Source: https://docs.pytorch.org/docs/stable/torch.html#creation-ops
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from avalon import ops, random
from avalon.device import Device
from avalon.dtype import DType
from avalon.errors import DTypeError, ShapeError
from avalon.functions.support import Number, broadcast, cast, dtypes, iota, reshape, scalar
from avalon.random import Generator
from avalon.shape import Shape, broadcast_shapes
from avalon.tensor import (
    Tensor,
    as_tensor,
    constant_tensor,
    get_default_dtype,
    method,
    result_type,
)

Where = Device | str | None


def _shape(operation: str, sizes: Sequence[Any]) -> Shape:
    """Sizes given one by one or as one sequence."""
    if len(sizes) == 1 and not isinstance(sizes[0], int) and hasattr(sizes[0], "__iter__"):
        sizes = tuple(sizes[0])
    shape = tuple(int(extent) for extent in sizes)
    if any(extent < 0 for extent in shape):
        raise ShapeError(f"[{operation}] sizes must not be negative, got {shape}")
    return shape


def _filled(value: Any, shape: Shape, dtype: DType, device: Where, requires_grad: bool) -> Tensor:
    made = constant_tensor(value, shape, dtypes.checked(dtype), device)
    return made.requires_grad_() if requires_grad else made


def zeros(
    *size: Any, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """Zeros: `zeros(2, 3)` or `zeros((2, 3))`."""
    shape = _shape("zeros", size)
    return _filled(0, shape, dtype or get_default_dtype(), device, requires_grad)


def ones(
    *size: Any, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """Ones.

    >>> import avalon as av
    >>> av.ones(2, 2)
    tensor([[1., 1.],
            [1., 1.]])
    """
    shape = _shape("ones", size)
    return _filled(1, shape, dtype or get_default_dtype(), device, requires_grad)


def empty(
    *size: Any, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """A tensor whose elements are to be written; they are zeros until then."""
    return zeros(*size, dtype=dtype, device=device, requires_grad=requires_grad)


def full(
    size: Any, fill_value: Number | Tensor, *, dtype: DType | None = None, device: Where = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """`fill_value` in every element; the dtype is that of the value unless given."""
    shape = _shape("full", (size,))
    wide = dtype is not None and isinstance(fill_value, float)  # rounded once, to `dtype`
    value = as_tensor(fill_value, dtype=dtypes.float64 if wide else None)
    if value.ndim:
        raise ShapeError(f"[full] fill_value must be a number, got shape {tuple(value.shape)}")
    made = broadcast(value if dtype is None else cast(value, dtype), shape)
    made = ops.stop_gradient(made)
    return made.requires_grad_() if requires_grad else made


@method("zeros_like")
def zeros_like(
    input: Tensor, *, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of `input`'s shape, dtype and device."""
    return _filled(0, tuple(input.shape), dtype or input.dtype, device, requires_grad)


@method("ones_like")
def ones_like(
    input: Tensor, *, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """Ones of `input`'s shape, dtype and device."""
    return _filled(1, tuple(input.shape), dtype or input.dtype, device, requires_grad)


def empty_like(
    input: Tensor, *, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of `input`'s shape, dtype and device, to be written; zeros until then."""
    return zeros_like(input, dtype=dtype, device=device, requires_grad=requires_grad)


def full_like(
    input: Tensor, fill_value: Number, *, dtype: DType | None = None, device: Where = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """`fill_value` in `input`'s shape, dtype and device."""
    return full(
        tuple(input.shape), fill_value, dtype=dtype or input.dtype, device=device,
        requires_grad=requires_grad,
    )  # fmt: skip


@method("new_zeros")
def _new_zeros(x: Tensor, *size: Any, dtype: DType | None = None, **options: Any) -> Tensor:
    """Zeros of x's dtype and device."""
    return zeros(*size, dtype=dtype or x.dtype, **options)


@method("new_ones")
def _new_ones(x: Tensor, *size: Any, dtype: DType | None = None, **options: Any) -> Tensor:
    """Ones of x's dtype and device."""
    return ones(*size, dtype=dtype or x.dtype, **options)


@method("new_empty")
def _new_empty(x: Tensor, *size: Any, dtype: DType | None = None, **options: Any) -> Tensor:
    """A tensor of x's dtype and device, to be written."""
    return empty(*size, dtype=dtype or x.dtype, **options)


@method("new_full")
def _new_full(
    x: Tensor, size: Any, fill_value: Number, dtype: DType | None = None, **options: Any
) -> Tensor:
    """`fill_value` in x's dtype and device."""
    return full(size, fill_value, dtype=dtype or x.dtype, **options)


# --- ranges and grids ---------------------------------------------------------------------------


def arange(
    start: Number, end: Number | None = None, step: Number = 1, *, dtype: DType | None = None,
    device: Where = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """start, start + step, ... below end; int64 if all three are ints.

    >>> import avalon as av
    >>> av.arange(1, 7, 2)
    tensor([1, 3, 5])
    """
    if end is None:
        start, end = 0, start
    start, end, step = (v.item() if isinstance(v, Tensor) else v for v in (start, end, step))
    if step == 0:
        raise RuntimeError("[arange] step must not be zero")
    if (end - start) * (1 if step > 0 else -1) < 0:
        raise RuntimeError(
            f"[arange] end {end} cannot be reached from start {start} by steps of {step}"
        )
    whole = all(isinstance(v, int) for v in (start, end, step))
    dtype = dtype or (dtypes.int64 if whole else get_default_dtype())
    count = -(-(end - start) // step) if whole else math.ceil((end - start) / step)
    position = iota((int(count),), 0)
    wide = dtypes.int64 if dtypes.checked(dtype).is_integer else dtypes.float64
    position = cast(position, wide)
    if whole and start == 0 and step == 1:
        made = cast(position, dtype)
        return made.requires_grad_() if requires_grad else made
    if not whole and dtype.is_integer:
        start, step = int(start), int(step)
    made = cast(position * scalar(position, step) + scalar(position, start), dtype)
    return made.requires_grad_() if requires_grad else made


def linspace(
    start: Number, end: Number, steps: int, *, dtype: DType | None = None, device: Where = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """`steps` numbers from start to end, both included, at equal distances."""
    if steps < 0:
        raise RuntimeError(f"[linspace] steps must not be negative, got {steps}")
    dtype = dtype or get_default_dtype()
    position = cast(iota((steps,), 0), dtypes.float64)
    step = (float(end) - float(start)) / max(steps - 1, 1)
    from_start = scalar(position, float(start)) + position * scalar(position, step)
    to_end = position.constant(steps - 1) - position
    from_end = scalar(position, float(end)) - to_end * scalar(position, step)
    half = ops.less(position, position.constant(steps / 2))  # both ends are exact
    made = cast(ops.where(half, from_start, from_end), dtype)
    return made.requires_grad_() if requires_grad else made


def logspace(
    start: Number, end: Number, steps: int, base: float = 10.0, *, dtype: DType | None = None,
    device: Where = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """base ** linspace(start, end, steps)."""
    exponent = linspace(start, end, steps, dtype=dtypes.float64)
    made = cast(ops.power(scalar(exponent, float(base)), exponent), dtype or get_default_dtype())
    return made.requires_grad_() if requires_grad else made


def eye(
    n: int, m: int | None = None, *, dtype: DType | None = None, device: Where = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Ones on the diagonal of an n by m matrix (m is n unless given), zeros elsewhere."""
    shape = (n, n if m is None else m)
    made = cast(ops.equal(iota(shape, 0), iota(shape, 1)), dtype or get_default_dtype())
    return made.requires_grad_() if requires_grad else made


def _triangle(row: int, col: int, lower: bool, offset: int, dtype: DType) -> Tensor:
    rows, columns = iota((row, col), 0), iota((row, col), 1)
    limit = rows + scalar(rows, offset)
    inside = ops.less_equal(columns, limit) if lower else ops.less_equal(limit, columns)
    return cast(inside.nonzero().T.contiguous(), dtype)


def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: DType = dtypes.int64, device: Where = None
) -> Tensor:
    """Row and column numbers, (2, n), of a matrix's lower triangle."""
    return _triangle(row, col, True, offset, dtype)


def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: DType = dtypes.int64, device: Where = None
) -> Tensor:
    """Row and column numbers, (2, n), of a matrix's upper triangle."""
    return _triangle(row, col, False, offset, dtype)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinates of a grid: one tensor per vector, each of shape (n1, n2, ...)."""
    vectors = (
        list(tensors[0]) if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else tensors
    )
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f"[meshgrid] indexing must be 'ij' or 'xy', got {indexing!r}")
    flat = [reshape(v, (v.numel(),)) for v in vectors]
    shape = tuple(v.shape[0] for v in flat)
    swap = indexing == "xy" and len(flat) > 1
    grids = []
    for axis, vector in enumerate(flat):
        column = tuple(extent if a == axis else 1 for a, extent in enumerate(shape))
        grid = broadcast(reshape(vector, column), shape)
        if swap:
            grid = ops.transpose(grid, permutation=(1, 0, *range(2, len(shape))))
        grids.append(grid)
    return tuple(grids)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of the vectors' elements, one per row."""
    if len(tensors) == 1:
        return tensors[0]
    columns = [reshape(grid, (grid.numel(), 1)) for grid in meshgrid(*tensors)]
    return ops.concatenate(*columns, axis=1)


# --- draws --------------------------------------------------------------------------------------


def _drawn(made: Tensor, requires_grad: bool) -> Tensor:
    return made.requires_grad_() if requires_grad else made


def rand(
    *size: Any, generator: Generator | None = None, dtype: DType | None = None,
    device: Where = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Uniform numbers in [0, 1).

    Source: https://docs.pytorch.org/docs/stable/generated/torch.rand.html
    """
    shape = _shape("rand", size)
    return _drawn(random.uniform(shape, dtype or get_default_dtype(), generator), requires_grad)


def randn(
    *size: Any, generator: Generator | None = None, dtype: DType | None = None,
    device: Where = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Numbers of the normal distribution with mean 0 and deviation 1."""
    shape = _shape("randn", size)
    return _drawn(random.normal(shape, dtype or get_default_dtype(), generator), requires_grad)


def randint(
    low: int, high: Any = None, size: Any = None, *, generator: Generator | None = None,
    dtype: DType = dtypes.int64, device: Where = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Whole numbers in [low, high): `randint(10, (2, 3))` or `randint(5, 10, (2, 3))`."""
    if size is None:  # randint(high, size)
        low, high, size = 0, low, high
    if high is None or size is None:
        raise TypeError("[randint] expects (high, size) or (low, high, size)")
    if high <= low:
        raise RuntimeError(f"[randint] high {high} must exceed low {low}")
    shape = _shape("randint", (size,))
    return _drawn(random.integers(low, high, shape, dtype, generator), requires_grad)


def randperm(
    n: int, *, generator: Generator | None = None, dtype: DType = dtypes.int64,
    device: Where = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """The numbers below n in random order."""
    return _drawn(random.permutation(n, dtype, generator), requires_grad)


def _float_of(input: Tensor, dtype: DType | None) -> DType:
    dtype = dtype or input.dtype
    if not dtype.is_floating_point:
        raise DTypeError(f"[rand] draws floats, got {dtype!r}; pass dtype=avalon.float32")
    return dtype


def rand_like(
    input: Tensor, *, generator: Generator | None = None, dtype: DType | None = None,
    device: Where = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Uniform numbers of `input`'s shape and dtype."""
    dtype = _float_of(input, dtype)
    return _drawn(random.uniform(tuple(input.shape), dtype, generator), requires_grad)


def randn_like(
    input: Tensor, *, generator: Generator | None = None, dtype: DType | None = None,
    device: Where = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Normal numbers of `input`'s shape and dtype."""
    dtype = _float_of(input, dtype)
    return _drawn(random.normal(tuple(input.shape), dtype, generator), requires_grad)


def randint_like(
    input: Tensor, low: int, high: int | None = None, *, generator: Generator | None = None,
    dtype: DType | None = None, device: Where = None,
) -> Tensor:  # fmt: skip
    """Whole numbers in [low, high) of `input`'s shape and dtype."""
    if high is None:
        low, high = 0, low
    return random.integers(low, high, tuple(input.shape), dtype or input.dtype, generator)


def normal(
    mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None,
    dtype: DType | None = None, device: Where = None,
) -> Tensor:  # fmt: skip
    """Normal numbers with the given means and deviations, numbers (then with a size) or tensors."""
    if size is None:
        given = [v for v in (mean, std) if isinstance(v, Tensor)]
        if not given:
            raise TypeError("[normal] needs a size when mean and std are both numbers")
        shape = broadcast_shapes("normal", *(tuple(v.shape) for v in given))
        dtype = dtype or result_type(*given)
    else:
        shape = _shape("normal", (size,))
    noise = random.normal(shape, dtype or get_default_dtype(), generator)
    return noise * std + mean


@method("bernoulli")
def bernoulli(input: Tensor, p: Any = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that each element (or p) gives, else 0."""
    probability = input if p is None else p
    if not input.dtype.is_floating_point and p is None:
        raise DTypeError(f"[bernoulli] probabilities must be floats, got {input.dtype!r}")
    return random.bernoulli(probability, tuple(input.shape), input.dtype, generator)


@method("multinomial")
def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Indices (int64) drawn with probabilities proportional to the weights of each row.

    Raises:
        RuntimeError: more samples than categories without replacement.
    """
    if input.ndim not in (1, 2):
        raise ShapeError(f"[multinomial] expected a vector or a matrix, got {tuple(input.shape)}")
    if not input.dtype.is_floating_point:
        raise DTypeError(f"[multinomial] weights must be floats, got {input.dtype!r}")
    categories = input.shape[-1]
    if replacement:
        weights, last = ops.stop_gradient(input), input.ndim - 1
        totals = ops.cumulative_sum(weights, axis=last, reverse=False)
        lead = tuple(input.shape[:-1])
        drawn = random.uniform((*lead, num_samples), weights.dtype, generator)
        whole = totals.narrow(-1, categories - 1, 1)
        sought = (drawn * whole).unsqueeze(-1)
        below = totals.unsqueeze(-2) <= sought
        found = ops.reduce_sum(cast(below, dtypes.int64), axes=(input.ndim,))
        return ops.minimum(found, found.constant(categories - 1))
    if num_samples > categories:
        raise RuntimeError(
            f"[multinomial] cannot draw {num_samples} of {categories} categories without "
            "replacement; pass replacement=True"
        )
    # The largest of weight / exponential draws are a sample without replacement.
    weights = input.detach() if input.requires_grad else input
    return random.exponential_races(weights, num_samples, generator)


@method("uniform_")
def _uniform_in_place(
    x: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Generator | None = None,
    **named: float,
) -> Tensor:  # fmt: skip
    """Fill with uniform numbers in [from, to)."""
    low = named.pop("from", from_)
    if named:
        raise TypeError(f"[uniform_] unexpected arguments {sorted(named)}")
    if low > to:
        raise RuntimeError(f"[uniform_] from {low} must not exceed to {to}")
    drawn = random.uniform(tuple(x.shape), x.dtype, generator)
    return x.assign_(drawn * (to - low) + low)


@method("normal_")
def _normal_in_place(
    x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fill with normal numbers."""
    if std < 0:
        raise RuntimeError(f"[normal_] std must not be negative, got {std}")
    return x.assign_(random.normal(tuple(x.shape), x.dtype, generator) * std + mean)


@method("bernoulli_")
def _bernoulli_in_place(x: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill with 1 where a draw falls below p, else 0."""
    return x.assign_(random.bernoulli(p, tuple(x.shape), x.dtype, generator))


@method("exponential_")
def _exponential_in_place(
    x: Tensor, lambd: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fill with numbers of the exponential distribution of rate lambd."""
    return x.assign_(random.exponential(tuple(x.shape), x.dtype, generator) / lambd)


@method("random_")
def _random_in_place(
    x: Tensor, low: int = 0, high: int | None = None, *, generator: Generator | None = None
) -> Tensor:
    """Fill with whole numbers in [low, high)."""
    if high is None:
        low, high = (0, low) if low else (0, 1 << 24 if x.dtype.is_floating_point else 1 << 31)
    return x.assign_(random.integers(low, high, tuple(x.shape), x.dtype, generator))
