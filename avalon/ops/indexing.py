"""Indexing: elements chosen by integers that are data.

Indices are int64, not negative and inside their axis: `Tensor` wraps negative ones and puts
`check_index` in front, which fails the program before anything is written. Kernels clamp besides,
so nothing outside is ever read; so do the meanings here. Where several updates meet, source order
(row-major) decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from avalon import dtype as dtypes
from avalon.errors import DTypeError, IndexOutOfRange, ShapeError
from avalon.graph.primitive import Indexing, primitive
from avalon.ops import placement_samples as samples


def _inside(indices, extent):
    return np.clip(indices, 0, max(extent - 1, 0))


def _wide(x):
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _check_same_dtype(operation: str, base: Any, updates: Any) -> None:
    if base.dtype is not updates.dtype:
        raise DTypeError(
            f"[{operation}] base is {base.dtype.name} and updates are {updates.dtype.name}; cast "
            "one"
        )


# --- along the first axis -----------------------------------------------------------------------


@primitive(Indexing, accepts=("any", "index"), samples=samples.takes)
def take(x, indices):
    """Rows of x: [L, *rest] and indices of any shape to [*indices.shape, *rest]."""
    return x[_inside(indices, len(x))]


@take.shape
def _(x, indices):
    _check_rows("take", x, indices)
    return (*indices.shape, *x.shape[1:]), x.dtype


def _check_rows(operation: str, x: Any, indices: Any) -> None:
    if x.ndim == 0 or (x.shape[0] == 0 and 0 not in indices.shape):
        raise ShapeError(f"[{operation}] shape {x.shape} has no rows to choose from")


@take.gradient
def _(g, y, x, indices):
    return put_add(g.constant(0, shape=x.shape), indices, g), None


take.lowering("take")


@primitive(Indexing, accepts=("any", "index", "any"), samples=samples.puts)
def put(base, indices, updates):
    """base with rows `indices` replaced by updates (shaped as `take` gives); the last one wins."""
    result = base.copy()
    rows = updates.reshape(indices.size, *base.shape[1:])
    for place, row in zip(_inside(indices, len(base)).ravel().tolist(), rows, strict=True):
        result[place] = row
    return result


@put.shape
def _(base, indices, updates):
    return _check_updates("put", base, indices, updates)


def _check_updates(operation: str, base: Any, indices: Any, updates: Any) -> tuple[Any, Any]:
    _check_rows(operation, base, indices)
    _check_same_dtype(operation, base, updates)
    wanted = (*indices.shape, *base.shape[1:])
    if updates.shape != wanted:
        raise ShapeError(
            f"[{operation}] rows {indices.shape} of shape {base.shape} need updates of shape "
            f"{wanted}; "
            f"got {updates.shape}"
        )
    return base.shape, base.dtype


@put.gradient
def _(g, y, base, indices, updates):
    return put(g, indices, g.constant(0, shape=updates.shape)), None, take(g, indices)


put.lowering("put")


@primitive(Indexing, accepts=("number", "index", "number"), samples=samples.put_adds)
def put_add(base, indices, updates):
    """base with updates (shaped as `take` gives) added to rows `indices`, in source order."""
    result = _wide(base).copy()
    rows = updates.reshape(indices.size, *base.shape[1:])
    np.add.at(result, _inside(indices, len(base)).ravel(), rows)
    return result.astype(base.dtype)


@put_add.shape
def _(base, indices, updates):
    return _check_updates("put_add", base, indices, updates)


@put_add.gradient
def _(g, y, base, indices, updates):
    return g, None, take(g, indices)


put_add.lowering("put_add")


# --- element by element along an axis -------------------------------------------------------------


def _places(indices, axis, extent):
    """Index arrays that select, for every element of `indices`, its place in the whole."""
    places = list(np.indices(indices.shape, sparse=True))
    places[axis] = _inside(indices, extent)
    return tuple(places)


def _check_along(operation: str, whole: Any, indices: Any, axis: int) -> None:
    if not (whole.ndim == indices.ndim and 0 <= axis < whole.ndim):
        raise ShapeError(
            f"[{operation}] shape {whole.shape} and indices of shape {indices.shape} need "
            "equally many "
            f"axes, axis {axis} among them"
        )
    for position, (extent, count) in enumerate(zip(whole.shape, indices.shape, strict=True)):
        too_many = count > extent if position != axis else extent == 0 and 0 not in indices.shape
        if too_many:
            raise ShapeError(
                f"[{operation}] indices of shape {indices.shape} reach outside shape "
                f"{whole.shape} at "
                f"axis {position}; sizes other than that of axis {axis} must not be greater"
            )


@primitive(Indexing, accepts=("any", "index"), samples=samples.gathers)
def gather(x, indices, axis):
    """Element [.., indices[i], ..] of x for every i, in the shape of indices (torch.gather)."""
    return x[_places(indices, axis, x.shape[axis])]


@gather.shape
def _(x, indices, axis):
    _check_along("gather", x, indices, axis)
    return indices.shape, x.dtype


@gather.gradient
def _(g, y, x, indices, axis):
    return scatter_add(g.constant(0, shape=x.shape), indices, g, axis=axis), None


gather.lowering("gather")


@primitive(Indexing, accepts=("any", "index", "any"), samples=samples.scatters)
def scatter(base, indices, updates, axis):
    """base with element [.., indices[i], ..] replaced by updates[i] for every i; the last wins."""
    result = base.copy()
    places = np.broadcast_arrays(*_places(indices, axis, base.shape[axis]))
    if not indices.size:
        return result
    flat = np.ravel_multi_index(places, base.shape).ravel()
    for place, update in zip(flat, updates.ravel(), strict=True):
        result.flat[place] = update
    return result


@scatter.shape
def _(base, indices, updates, axis):
    return _check_scattered("scatter", base, indices, updates, axis)


def _check_scattered(
    operation: str, base: Any, indices: Any, updates: Any, axis: int
) -> tuple[Any, Any]:
    _check_along(operation, base, indices, axis)
    _check_same_dtype(operation, base, updates)
    if updates.shape != indices.shape:
        raise ShapeError(
            f"[{operation}] indices of shape {indices.shape} need updates of the same shape; got "
            f"{updates.shape}"
        )
    return base.shape, base.dtype


@scatter.gradient
def _(g, y, base, indices, updates, axis):
    kept = scatter(g, indices, g.constant(0, shape=updates.shape), axis=axis)
    return kept, None, gather(g, indices, axis=axis)


scatter.lowering("scatter")


@primitive(Indexing, accepts=("number", "index", "number"), samples=samples.scatter_adds)
def scatter_add(base, indices, updates, axis):
    """base with updates[i] added to element [.., indices[i], ..] for every i, in source order."""
    result = _wide(base).copy()
    np.add.at(result, _places(indices, axis, base.shape[axis]), updates)
    return result.astype(base.dtype)


@scatter_add.shape
def _(base, indices, updates, axis):
    return _check_scattered("scatter_add", base, indices, updates, axis)


@scatter_add.gradient
def _(g, y, base, indices, updates, axis):
    return g, None, gather(g, indices, axis=axis)


scatter_add.lowering("scatter_add")


# --- order and checks -----------------------------------------------------------------------------


@primitive(Indexing, accepts="real", samples=samples.orders)
def argsort(x, axis, descending, count):
    """Indices (int64) of the first `count` elements in order along `axis`; equals keep their order;
    NaN counts as greatest.
    """
    if descending:
        # A stable descending order is the ascending one of the mirrored array, read backwards.
        backwards = np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
        found = x.shape[axis] - 1 - backwards
    else:
        found = np.argsort(x, axis=axis, kind="stable")
    return found[(slice(None),) * axis + (slice(count),)]


@argsort.shape
def _(x, axis, descending, count):
    if not 0 <= axis < x.ndim:
        raise ShapeError(f"[argsort] axis {axis} of shape {x.shape} must be in [0, {x.ndim})")
    if not 0 <= count <= x.shape[axis]:
        raise ShapeError(
            f"[argsort] count {count} must be in [0, {x.shape[axis]}], the size of axis {axis}"
        )
    return (*x.shape[:axis], count, *x.shape[axis + 1 :]), dtypes.int64


argsort.no_gradient("integer valued")
argsort.lowering("argsort")


@primitive(Indexing, accepts="index", samples=samples.checks)
def check_index(indices, size, message):
    """indices, if all are in [0, size); otherwise the program fails with `message`, in which
    {value} is the first one outside.
    """
    outside = (indices < 0) | (indices >= size)
    if outside.any():
        raise IndexOutOfRange(message.replace("{value}", str(indices[outside].flat[0])))
    return indices


@check_index.shape
def _(indices, size, message):
    return indices.shape, indices.dtype


check_index.no_gradient("integer valued")
check_index.lowering("check_index")
