"""Matrix products and what is written with them; triangles, diagonals and Kronecker products.

Comes in: tensors of one dtype whose inner sizes agree. Goes out: tensors; every product is the
primitive `contract` over [batch, rows, inner] and [batch, inner, columns]. Guaranteed: a matrix on
the right of a batch is multiplied once, not once for every member of the batch.

Source: https://docs.pytorch.org/docs/stable/torch.html#blas-and-lapack-operations
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalon import ops
from avalon.errors import DTypeError, ShapeError
from avalon.functions.statistics import sum as sum_along
from avalon.functions.support import (
    Number,
    broadcast,
    cast,
    dtypes,
    in_place,
    iota,
    part,
    reshape,
    scalar,
    together,
)
from avalon.shape import Shape, broadcast_shapes, normalize_axis, size_of
from avalon.tensor import Tensor, as_tensor, method
from avalon.tensor.composite import composite


def _same_dtype(operation: str, a: Tensor, b: Tensor) -> None:
    if a.dtype is not b.dtype:
        raise DTypeError(
            f"[{operation}] dtypes {a.dtype!r} and {b.dtype!r} of shapes {a.shape} and {b.shape} "
            "must be equal; convert one with .to()"
        )


def _misfit(operation: str, a: Tensor, b: Tensor, relation: str) -> ShapeError:
    return ShapeError(
        f"[{operation}] shapes {tuple(a.shape)} and {tuple(b.shape)} do not multiply: {relation}"
    )


def _product(a: Tensor, b: Tensor) -> Tensor:
    """contract, with bools counted as PyTorch does: true if any product is."""
    if a.dtype is dtypes.bool_:
        counted = ops.contract(cast(a, dtypes.int32), cast(b, dtypes.int32))
        return ops.not_equal(counted, counted.constant(0))
    return ops.contract(a, b)


@method("__matmul__")
@method("matmul")
@composite
def matmul(input: Any, other: Any) -> Tensor:
    """Matrix product over the last two axes; vectors are rows or columns, leading axes broadcast.

    Shapes: (..., M, K) and (..., K, N) to (..., M, N).
    Source: https://docs.pytorch.org/docs/stable/generated/torch.matmul.html

    Raises:
        ShapeError: the inner sizes differ, or the leading axes do not broadcast.
        DTypeError: the dtypes differ.

    >>> import avalon as av
    >>> av.matmul(av.ones(2, 3), av.ones(3)).shape
    (2,)
    """
    a, b = as_tensor(input), as_tensor(other)
    _same_dtype("matmul", a, b)
    if a.ndim == 0 or b.ndim == 0:
        raise _misfit("matmul", a, b, "both need at least one axis; use * for numbers")
    inner, rows = a.shape[-1], b.shape[-2 if b.ndim > 1 else -1]
    if inner != rows:
        raise _misfit(
            "matmul", a, b, f"the last size of the first, {inner}, must equal {rows} of the second"
        )
    columns = b.shape[-1] if b.ndim > 1 else 1
    if b.ndim <= 2:  # one matrix for the whole batch: its rows are all multiplied together
        # A batch of one is reshaped too, though to its own shape: all batches record the same.
        flat = ops.reshape(a, shape=(1, size_of(a.shape[:-1]), inner))
        result = _product(flat, reshape(b, (1, inner, columns)))
        tail = (columns,) if b.ndim == 2 else ()
        return ops.reshape(result, shape=(*a.shape[:-1], *tail))
    height = a.shape[-2] if a.ndim > 1 else 1
    batch = broadcast_shapes("matmul", a.shape[:-2], b.shape[:-2])
    left = broadcast(reshape(a, (*a.shape[:-2], height, inner)), (*batch, height, inner))
    right = broadcast(b, (*batch, inner, columns))
    count = size_of(batch)
    result = _product(
        reshape(left, (count, height, inner)), reshape(right, (count, inner, columns))
    )
    middle = (height,) if a.ndim > 1 else ()
    return reshape(result, (*batch, *middle, columns))


@method("__rmatmul__")
def _matmul_reversed(x: Tensor, other: Any) -> Tensor:
    return matmul(other, x)


method("__matmul__")(matmul)


@method("__rmatmul__")
def _matmul_from_right(x: Tensor, other: Any) -> Tensor:
    """other @ x."""
    return matmul(other, x)


def _ranks(operation: str, a: Tensor, b: Tensor, first: int, second: int) -> None:
    _same_dtype(operation, a, b)
    if a.ndim != first or b.ndim != second:
        names = {1: "a vector", 2: "a matrix", 3: "a batch of matrices"}
        raise _misfit(operation, a, b, f"expected {names[first]} and {names[second]}")


@method("mm")
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """Matrix product (M, K) and (K, N) to (M, N); nothing broadcasts."""
    _ranks("mm", input, mat2, 2, 2)
    return matmul(input, mat2)


@method("bmm")
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Batched matrix product (B, M, K) and (B, K, N) to (B, M, N); nothing broadcasts."""
    _ranks("bmm", input, mat2, 3, 3)
    if input.shape[0] != mat2.shape[0]:
        raise _misfit("bmm", input, mat2, "the first sizes must be equal")
    return matmul(input, mat2)


@method("mv")
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """Product of a matrix (M, K) and a vector (K,) to (M,)."""
    _ranks("mv", input, vec, 2, 1)
    return matmul(input, vec)


@method("dot")
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Inner product of two vectors."""
    _ranks("dot", input, tensor, 1, 1)
    return matmul(input, tensor)


vdot = method("vdot")(dot)


@method("inner")
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Inner products over the last axes of both."""
    if input.ndim == 0 or other.ndim == 0:
        return input * other
    return tensordot(input, other, dims=([-1], [-1]))


@method("outer")
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """Outer product of two vectors, (M,) and (N,) to (M, N)."""
    if input.ndim != 1 or vec2.ndim != 1:
        raise _misfit("outer", input, vec2, "expected two vectors")
    return reshape(input, (input.shape[0], 1)) * reshape(vec2, (1, vec2.shape[0]))


ger = method("ger")(outer)


def _blend(x: Tensor, product: Tensor, beta: Number, alpha: Number) -> Tensor:
    """beta * x + alpha * product; x takes no part, NaN included, if beta is 0."""
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    return (x if beta == 1 else x * beta) + product


@in_place
@method("addmm")
def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2); input broadcasts to (M, N)."""
    return _blend(input, mm(mat1, mat2), beta, alpha)


@in_place
@method("addmv")
def addmv(
    input: Tensor, mat: Tensor, vec: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """beta * input + alpha * (mat @ vec)."""
    return _blend(input, mv(mat, vec), beta, alpha)


@in_place
@method("addr")
def addr(
    input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """beta * input + alpha * outer(vec1, vec2)."""
    return _blend(input, outer(vec1, vec2), beta, alpha)


@in_place
@method("baddbmm")
def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """beta * input + alpha * (batch1 @ batch2) over batches (B, M, K) and (B, K, N)."""
    return _blend(input, bmm(batch1, batch2), beta, alpha)


@in_place
@method("addbmm")
def addbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """beta * input + alpha * (sum over the batch of batch1 @ batch2)."""
    return _blend(input, sum_along(bmm(batch1, batch2), 0), beta, alpha)


def chain_matmul(*matrices: Tensor) -> Tensor:
    """Product of several matrices, left to right."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = mm(result, matrix)
    return result


def tensordot(input: Tensor, other: Tensor, dims: int | Sequence[Sequence[int]] = 2) -> Tensor:
    """Sum of products over paired axes: the last `dims` of input with the first of other, or two
    lists.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.tensordot.html
    """
    _same_dtype("tensordot", input, other)
    if isinstance(dims, int):
        left, right = list(range(input.ndim - dims, input.ndim)), list(range(dims))
    else:
        left = [normalize_axis("tensordot", a, input.ndim) for a in dims[0]]
        right = [normalize_axis("tensordot", a, other.ndim) for a in dims[1]]
    summed = [input.shape[a] for a in left]
    if summed != [other.shape[a] for a in right]:
        raise _misfit("tensordot", input, other, f"axes {left} and {right} must have equal sizes")
    free_left = [a for a in range(input.ndim) if a not in left]
    free_right = [a for a in range(other.ndim) if a not in right]
    rows, columns = [input.shape[a] for a in free_left], [other.shape[a] for a in free_right]
    a = ops.transpose(input, permutation=(*free_left, *left))
    b = ops.transpose(other, permutation=(*right, *free_right))
    count = size_of(summed)
    product = _product(
        reshape(a, (1, size_of(rows), count)), reshape(b, (1, count, size_of(columns)))
    )
    return reshape(product, (*rows, *columns))


# --- diagonals and triangles --------------------------------------------------------------------


def _band(shape: Shape, diagonal: int) -> tuple[Tensor, Tensor]:
    """Row numbers moved by `diagonal`, and column numbers, over the last two axes of `shape`."""
    rows, columns = iota(shape, len(shape) - 2), iota(shape, len(shape) - 1)
    return rows + scalar(rows, diagonal), columns


def _matrices(operation: str, x: Tensor) -> None:
    if x.ndim < 2:
        raise ShapeError(f"[{operation}] needs at least two axes, got shape {tuple(x.shape)}")


@in_place
@method("tril")
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """input with zeros above a diagonal of its last two axes."""
    _matrices("tril", input)
    rows, columns = _band(input.shape, diagonal)
    return ops.where(ops.less_equal(columns, rows), input, input.constant(0))


@in_place
@method("triu")
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """input with zeros below a diagonal of its last two axes."""
    _matrices("triu", input)
    rows, columns = _band(input.shape, diagonal)
    return ops.where(ops.less_equal(rows, columns), input, input.constant(0))


@method("diag")
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The matrix with this vector on a diagonal, or the diagonal of this matrix."""
    if input.ndim == 1:
        return diag_embed(input, diagonal)
    if input.ndim == 2:
        return ops.diagonal(input, offset=diagonal, axis1=0, axis2=1)
    raise ShapeError(f"[diag] expected a vector or a matrix, got shape {tuple(input.shape)}")


@method("diag_embed")
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices with the last axis of input on a diagonal of new axes dim1 and dim2."""
    rank = input.ndim + 1
    first = normalize_axis("diag_embed", dim1, rank)
    second = normalize_axis("diag_embed", dim2, rank)
    size = input.shape[-1] + abs(offset)
    shape = list(input.shape[:-1])
    for axis in sorted((first, second)):
        shape.insert(axis, size)
    base = input.constant(0, shape=tuple(shape))
    return ops.assign_diagonal(base, input, offset=offset, axis1=first, axis2=second)


@method("diagflat")
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The matrix with the elements of input on a diagonal."""
    return diag_embed(reshape(input, (input.numel(),)), offset)


@method("trace")
def trace(input: Tensor) -> Tensor:
    """Sum of a matrix's diagonal."""
    if input.ndim != 2:
        raise ShapeError(f"[trace] expected a matrix, got shape {tuple(input.shape)}")
    return sum_along(diag(input))


@method("kron")
def kron(input: Tensor, other: Tensor) -> Tensor:
    """Kronecker product: every element of input times the whole of other."""
    rank = max(input.ndim, other.ndim)
    a = (1,) * (rank - input.ndim) + tuple(input.shape)
    b = (1,) * (rank - other.ndim) + tuple(other.shape)
    spread_a = tuple(size for extent in a for size in (extent, 1))
    spread_b = tuple(size for extent in b for size in (1, extent))
    product = reshape(input, spread_a) * reshape(other, spread_b)
    return reshape(product, tuple(p * q for p, q in zip(a, b, strict=True)))


@method("cross")
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """Cross product of vectors of 3 along `dim`, the first axis of size 3 unless given."""
    a, b = together("cross", input, other)
    if dim is None:
        fitting = [axis for axis, extent in enumerate(a.shape) if extent == 3]
        dim = fitting[0] if fitting else -1
    axis = normalize_axis("cross", dim, a.ndim)
    if a.shape[axis] != 3:
        raise _misfit("cross", input, other, f"axis {dim} must have size 3")

    def turned(v: Tensor, by: int) -> Tensor:
        return ops.concatenate(part(v, axis, by, 3 - by), part(v, axis, 0, by), axis=axis)

    return turned(a, 1) * turned(b, 2) - turned(a, 2) * turned(b, 1)


def vander(input: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Matrix of the powers of a vector."""
    count = input.shape[0] if N is None else N
    powers = iota((input.shape[0], count), 1)
    if not increasing:
        powers = powers.constant(count - 1) - powers
    base = broadcast(reshape(input, (input.shape[0], 1)), (input.shape[0], count))
    return ops.power(base, cast(powers, input.dtype))


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0) -> Tensor:
    """Distances of all pairs of rows: (..., P, M) and (..., R, M) to (..., P, R)."""
    if x1.shape[-1] != x2.shape[-1]:
        raise _misfit("cdist", x1, x2, "the last sizes must be equal")
    difference = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    return difference.norm(p, dim=-1)
