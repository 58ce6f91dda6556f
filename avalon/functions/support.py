"""What all functions share: operands to tensors, axes, broadcasting, constants of a formula.

Comes in: what a user passes (tensors, numbers, arrays, negative axes). Goes out: tensors of one
dtype and one shape, sorted axes in range. Guaranteed: a number that belongs to a formula becomes a
constant of the graph; a number that the user passed becomes a run-time scalar, so that another one
does not compile again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from avalon import dtype as dtypes, ops
from avalon.dtype import DType
from avalon.errors import DTypeError, ShapeError
from avalon.shape import Shape, broadcast_shapes, normalize_axis
from avalon.tensor import Tensor, as_tensor, get_default_dtype, method, result_type, source
from avalon.tracing.modes import modes

Number = bool | int | float
Dims = int | Sequence[int] | None
Function = TypeVar("Function", bound=Callable[..., Any])


def cast(x: Tensor, dtype: DType) -> Tensor:
    """`x` as `dtype`; `x` itself when it is that already."""
    return x if x.dtype is dtype else ops.cast(x, dtype=dtype)


def floating(x: Any) -> Tensor:
    """`x` as a tensor of floats: integers and bools become the default dtype, as in PyTorch."""
    x = as_tensor(x)
    if x.dtype.is_floating_point or x.dtype.is_complex:
        return x
    return cast(x, get_default_dtype())


def must_float(operation: str, x: Tensor) -> None:
    """Raise DTypeError unless `x` holds floats; the message says how to convert it."""
    if not x.dtype.is_floating_point:
        raise DTypeError(
            f"[{operation}] is defined for floating point tensors, got {x.dtype!r} of shape "
            f"{x.shape}; "
            "convert it first, for example with x.float()"
        )


def broadcast(x: Tensor, shape: Shape) -> Tensor:
    """`x` broadcast to `shape` (aligned at the right)."""
    return x if x.shape == shape else ops.broadcast(x, shape=shape)


def together(operation: str, *operands: Any) -> list[Tensor]:
    """The operands as tensors of PyTorch's result type and of their common shape."""
    dtype = result_type(*operands)
    tensors = [cast(as_tensor(x, dtype=dtype), dtype) for x in operands]
    shape = broadcast_shapes(operation, *(x.shape for x in tensors))
    return [broadcast(x, shape) for x in tensors]


def floats_together(operation: str, *operands: Any) -> list[Tensor]:
    """Like `together`, with integers and bools turned into the default float dtype."""
    dtype = result_type(*operands)
    if not dtype.is_floating_point:
        dtype = get_default_dtype()
    tensors = [cast(as_tensor(x, dtype=dtype), dtype) for x in operands]
    shape = broadcast_shapes(operation, *(x.shape for x in tensors))
    return [broadcast(x, shape) for x in tensors]


def scalar(x: Tensor, number: Number) -> Tensor:
    """A number of the user's as a run-time scalar, in every element of `x`'s shape and dtype."""
    return broadcast(as_tensor(number, dtype=x.dtype, device=x.device), x.shape)


def known_values(x: Tensor) -> NDArray[Any] | None:
    """The elements of `x` if nothing has to run for them, else None: `x` holds data, or is a window
    on data. Never while a step is recorded for replay: the next call may bring other elements.
    """
    if modes.replay is not None:
        return None
    here = x._cell.memory is not None or x._lies_in_one_piece()
    value = x.value() if here else x._cell.value
    if not value.known:
        return None
    array = value.host()
    for move in () if here else x._moves:
        if not all(operand.known for operand in move.operands):
            return None
        places = [operand.host() for operand in move.operands]
        array = move.primitive.reference(array, *places, **move.parameters)
    return array


def axes_of(operation: str, dim: Dims, rank: int) -> tuple[int, ...]:
    """`dim` (an axis, several, or None for all) as sorted axes in range.

    Raises:
        IndexError: an axis is out of range.
        RuntimeError: an axis is named twice.
    """
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return tuple(range(rank))
    named = (dim,) if isinstance(dim, int) else tuple(dim)
    axes = [normalize_axis(operation, axis, rank) for axis in named]
    if len(set(axes)) != len(axes):
        raise ShapeError(f"[{operation}] dim {tuple(named)} names an axis twice")
    return tuple(sorted(axes)) if rank else ()


def kept(shape: Shape, axes: Sequence[int]) -> Shape:
    """`shape` with size 1 on `axes`: what a reduction with keepdim gives."""
    return tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))


def spread(reduced: Tensor, shape: Shape, axes: Sequence[int]) -> Tensor:
    """A value that was reduced over `axes` of `shape`, repeated along them again."""
    return broadcast(ops.reshape(reduced, shape=kept(shape, axes)), shape)


def iota(shape: Shape, axis: int) -> Tensor:
    """0, 1, 2, ... along `axis`, the same along the others; int64."""
    return source(ops.iota, shape=shape, axis=axis, dtype=dtypes.int64)


def reshape(x: Tensor, shape: Shape) -> Tensor:
    """`x` with another shape of as many elements; never an alias."""
    return x if x.shape == shape else ops.reshape(x, shape=shape)


def part(x: Tensor, axis: int, start: int, length: int) -> Tensor:
    """`length` elements of `axis` from `start`; a copy whose place is part of the structure."""
    starts = tuple(start if a == axis else 0 for a in range(x.ndim))
    sizes = tuple(length if a == axis else extent for a, extent in enumerate(x.shape))
    return ops.slice(x, starts=starts, sizes=sizes, steps=(1,) * x.ndim)


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector laid along `axis` of a tensor of `rank`: shape (1, ..., n, ..., 1)."""
    shape = [1] * rank
    shape[axis] = vector.shape[0]
    return reshape(vector, tuple(shape))


def in_place(function: Function, name: str = "") -> Function:
    """Register `x.name_(...)`, which writes `function(x, ...)` into `x`; returns `function`."""

    def write(x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        return x.assign_(function(x.before_write(), *arguments, **named))

    name = (name or function.__name__) + "_"
    write.__name__ = write.__qualname__ = name
    write.__doc__ = f"In-place version of `{name[:-1]}`."
    method(name)(write)
    return function


def alias(name: str, function: Function) -> Function:
    """Register a method and its in-place version under another name too; returns the function."""
    written = getattr(Tensor, function.__name__ + "_", None)
    if written is not None:
        method(name + "_")(written)
    return method(name)(function)


def pair(value: int | Sequence[int], count: int, operation: str, name: str) -> tuple[int, ...]:
    """One int for all of `count` axes, or one for each.

    >>> pair(2, 3, "conv3d", "stride")
    (2, 2, 2)
    """
    if isinstance(value, int):
        return (value,) * count
    values = tuple(int(v) for v in value)
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise ShapeError(f"[{operation}] {name} must be one int or {count} of them, got {values}")
    return values
