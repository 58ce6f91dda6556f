"""Inputs for the law tests of movements, indexing, contractions, sources and structure.

Comes in and goes out as in `samples`, of which this is the second half.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from avalon.device import CPU
from avalon.dtype import DType
from avalon.ops.samples import Array, Sample, distinct, values

# --- movements ----------------------------------------------------------------------------------


def _some(rng: np.random.Generator, dtype: DType, *shape: int) -> Array:
    return values(rng, dtype, shape, -3, 3)


def reshapes(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for before, after in (((6,), (2, 3)), ((2, 3, 4), (4, 6)), ((), (1, 1)), ((0, 3), (5, 0))):
        yield (_some(rng, dtype, *before),), {"shape": after}


def transposes(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    yield (_some(rng, dtype),), {"permutation": ()}
    yield (_some(rng, dtype, 3, 5),), {"permutation": (1, 0)}
    yield (_some(rng, dtype, 33, 18),), {"permutation": (1, 0)}
    yield (_some(rng, dtype, 2, 3, 4),), {"permutation": (2, 0, 1)}
    yield (_some(rng, dtype, 2, 3, 0, 2),), {"permutation": (0, 3, 1, 2)}


def broadcasts(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    cases: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((), (3, 2)), ((1,), (4,)), ((3, 1), (2, 3, 4)), ((2, 3), (2, 3)), ((1, 3), (0, 3)),
        ((1, 1), (1, 1, 1)),
    )  # fmt: skip
    for before, after in cases:
        yield (_some(rng, dtype, *before),), {"shape": after}


def reversals(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for axes in ((), (0,), (1,), (0, 2)):
        yield (_some(rng, dtype, 2, 3, 4),), {"axes": axes}


_PARTS: tuple[tuple[tuple[int | None, ...], tuple[int, ...], tuple[int, ...]], ...] = (
    ((0, 0), (4, 5), (1, 1)),
    ((1, 2), (2, 2), (2, 1)),
    ((None, 1), (2, 3), (1, 1)),
    ((None, None), (1, 2), (1, 2)),
    ((4, 0), (0, 5), (1, 1)),
)


def slices(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for starts, sizes, steps in _PARTS:
        parameters = {"starts": starts, "sizes": sizes, "steps": steps}
        yield (_some(rng, dtype, 4, 5), *_run_time(starts)), parameters


def slice_assignments(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for starts, sizes, steps in _PARTS:
        operands = (_some(rng, dtype, 4, 5), _some(rng, dtype, *sizes), *_run_time(starts))
        yield operands, {"starts": starts, "steps": steps}


def _run_time(starts: tuple[int | None, ...]) -> list[Array]:
    return [np.array(1, np.int64) for start in starts if start is None]


def pads(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    value = _some(rng, dtype)
    yield (_some(rng, dtype), value), {"low": (), "high": ()}
    for low, high in (((1, 0), (2, 3)), ((-1, 2), (0, -2)), ((0, -1), (-1, 0)), ((2, 2), (-3, -1))):
        yield (_some(rng, dtype, 3, 4), value), {"low": low, "high": high}
    yield (_some(rng, dtype, 0, 2), value), {"low": (1, 0), "high": (1, 0)}


def concatenations(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    yield (_some(rng, dtype, 3),), {"axis": 0}
    yield (_some(rng, dtype, 3), _some(rng, dtype, 1), _some(rng, dtype, 0)), {"axis": 0}
    yield (_some(rng, dtype, 2, 3), _some(rng, dtype, 2, 4)), {"axis": 1}
    yield (_some(rng, dtype, 1, 3, 2), _some(rng, dtype, 2, 3, 2)), {"axis": 0}


_DIAGONALS = (((4, 5), 0, 0, 1), ((4, 5), 2, 0, 1), ((4, 5), -3, 1, 0), ((3, 2, 4), -1, 0, 2))


def diagonals(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for shape, offset, axis1, axis2 in _DIAGONALS:
        yield (_some(rng, dtype, *shape),), {"offset": offset, "axis1": axis1, "axis2": axis2}


def diagonal_assignments(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for (base,), parameters in diagonals(rng, dtype):
        shape = np.diagonal(base, **parameters).shape
        yield (base, _some(rng, dtype, *shape)), parameters


_WINDOWS: tuple[tuple[tuple[int, ...], ...], ...] = (
    # shape, axes, sizes, strides, dilations, shape of the windows
    ((7,), (0,), (3,), (1,), (1,), (5, 3)),
    ((7,), (0,), (2,), (3,), (2,), (2, 2)),
    ((2, 6, 5), (1, 2), (2, 3), (2, 1), (1, 2), (2, 3, 1, 2, 3)),
    ((4, 3), (0,), (2,), (2,), (1,), (2, 3, 2)),
)


def _places(case: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    return dict(zip(("axes", "sizes", "strides", "dilations"), case[1:5], strict=True))


def windows(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for case in _WINDOWS:
        yield (_some(rng, dtype, *case[0]),), _places(case)


def window_assignments(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for case in _WINDOWS:
        yield (_some(rng, dtype, *case[0]), _some(rng, dtype, *case[5])), _places(case)


def window_folds(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for case in _WINDOWS:
        yield (_some(rng, dtype, *case[5]),), {"shape": case[0], **_places(case)}


# --- indexing -----------------------------------------------------------------------------------

_ROWS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((5,), (3,)), ((5,), ()), ((5, 3), (2, 4)), ((4, 2, 3), (2,)), ((3, 2), (0,)),
)  # fmt: skip


def takes(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for shape, count in _ROWS:
        yield (_some(rng, dtype, *shape), rng.integers(0, shape[0], count)), {}


def puts(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """Without repeated rows, of which only the last one's update would have a derivative."""
    for shape, count in (((5,), (3,)), ((5, 3), (2, 2)), ((4, 2, 3), (2,)), ((3, 2), (0,))):
        indices = rng.permutation(shape[0])[: int(np.prod(count))].reshape(count)
        updates = _some(rng, dtype, *count, *shape[1:])
        yield (_some(rng, dtype, *shape), indices.astype(np.int64), updates), {}


def put_adds(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for (x, indices), parameters in takes(rng, dtype):
        yield (x, indices, _some(rng, dtype, *indices.shape, *x.shape[1:])), parameters


_ALONG: tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...] = (
    ((5,), (3,), 0), ((4, 3), (2, 3), 0), ((4, 3), (4, 7), 1), ((2, 3, 4), (2, 5, 3), 1),
    ((2, 3), (0, 3), 0),
)  # fmt: skip


def gathers(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for shape, count, axis in _ALONG:
        indices = rng.integers(0, shape[axis], count)
        yield (_some(rng, dtype, *shape), indices), {"axis": axis}


def scatters(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """Without repeated places, as in `puts`."""
    for shape, axis in (((5,), 0), ((4, 3), 0), ((4, 3), 1), ((2, 3, 4), 1)):
        indices = np.argsort(rng.random(shape), axis=axis)
        base, updates = _some(rng, dtype, *shape), _some(rng, dtype, *shape)
        yield (base, indices, updates), {"axis": axis}


def scatter_adds(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for (x, indices), parameters in gathers(rng, dtype):
        yield (x, indices, _some(rng, dtype, *indices.shape)), parameters


def orders(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for descending in (False, True):
        for shape, axis in (((9,), 0), ((4, 5), 0), ((4, 5), 1), ((2, 40), 1), ((0,), 0)):
            chosen = {"axis": axis, "descending": descending}
            count = shape[axis]
            yield (distinct(rng, dtype, shape),), {**chosen, "count": count // 2}
            yield (distinct(rng, dtype, shape),), {**chosen, "count": count}
            yield (values(rng, dtype, shape, 0, 3),), {**chosen, "count": count}


def checks(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for shape in ((), (4,), (2, 3)):
        yield (np.asarray(rng.integers(0, 5, shape)),), {"size": 5, "message": "index {value}"}


# --- contractions -------------------------------------------------------------------------------


def matrix_products(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    cases = ((1, 1, 1, 1), (2, 3, 4, 5), (1, 17, 33, 9), (3, 1, 8, 2), (1, 4, 0, 3), (0, 2, 3, 2),
             (1, 2, 1100, 3))  # fmt: skip
    for batch, rows, depth, columns in cases:
        yield (_some(rng, dtype, batch, rows, depth), _some(rng, dtype, batch, depth, columns)), {}


def convolutions(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """One to three spatial axes; strides, dilations, groups, flips; padding of both signs."""
    cases: tuple[tuple[Any, ...], ...] = (
        # x, w, stride, input dilation, kernel dilation, low, high, flip
        ((1, 2, 3), (1, 4, 3), (), (), (), (), (), False),
        ((1, 2, 3, 7), (1, 4, 3, 3), (1,), (1,), (1,), (0,), (0,), False),
        ((2, 1, 2, 9), (2, 2, 2, 3), (2,), (1,), (2,), (1,), (2,), True),
        ((1, 1, 1, 5), (1, 2, 1, 2), (2,), (3,), (2,), (-1,), (-2,), False),
        ((1, 2, 1, 6, 5), (1, 3, 1, 3, 3), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), False),
        ((2, 2, 2, 5, 6), (2, 1, 2, 2, 3), (2, 1), (1, 2), (1, 2), (1, -1), (0, 3), True),
        ((1, 1, 2, 3, 4, 3), (1, 2, 2, 2, 2, 2),
         (1, 2, 1), (1, 1, 2), (1, 1, 1), (1, 0, 0), (0, 1, 1), False),
    )  # fmt: skip
    names = ("stride", "input_dilation", "kernel_dilation", "low", "high", "flip")
    for shape, kernel, *parameters in cases:
        operands = (_some(rng, dtype, *shape), _some(rng, dtype, *kernel))
        yield operands, dict(zip(names, parameters, strict=True))


# --- sources and structure ----------------------------------------------------------------------


def counts(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    if dtype.kind != "bool":
        for shape, axis in (((5,), 0), ((2, 3), 0), ((2, 3), 1), ((0,), 0), ((3, 2, 4), 1)):
            yield (), {"shape": shape, "axis": axis, "dtype": dtype}


def draws(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for shape in ((), (1,), (7,), (3, 5), (0,), (40, 3)):
        key = np.array(rng.integers(0, 2**63), np.uint64)
        offset = np.array(rng.choice([0, 5, 2**32 - 1]), np.uint64)
        yield (key, offset), {"shape": shape}


def copies(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    yield (_some(rng, dtype, 2, 3),), {}


def transfers(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    yield (_some(rng, dtype, 2, 3),), {"device": str(CPU)}


def host_calls(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """`structure` registers "identity" for this sample."""
    parameters = {"function_key": "identity", "shapes": ((2, 3),), "dtypes": (dtype,)}
    yield (_some(rng, dtype, 2, 3),), parameters
