"""Inputs for the law tests, by name: what each primitive's `samples=` points to.

Comes in: a NumPy generator and the element type under test. Goes out: pairs (operands, parameters),
operands being arrays. Guaranteed: an array of the reference type of the dtype under test stands for
that dtype (a float32 array stands for bfloat16 while bfloat16 is tested, and is rounded to it),
every other array for its own. Values stay away from points where a derivative does not exist; ties,
NaN and infinities are judged elsewhere, against PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from avalon import dtype as dtypes
from avalon.dtype import DType

Array = np.ndarray[Any, np.dtype[Any]]
Sample = tuple[tuple[Array, ...], dict[str, Any]]
Sampler = Callable[["np.random.Generator", DType], Iterator[Sample]]  # quoted: importing it is slow

TARGETS = tuple(dtype for dtype in dtypes.ALL if not dtype.is_complex)
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (3, 5), (2, 0, 3), (2, 1, 4))


def values(
    rng: np.random.Generator, dtype: DType, shape: tuple[int, ...], low: float, high: float
) -> Array:
    """Random elements of `dtype`'s reference type in [low, high), cut to what the type can hold."""
    if dtype.kind == "bool":
        return rng.random(shape) < 0.5
    if dtype.is_integer:
        least = max(int(low), 0) if dtype.kind == "unsigned" else int(low)
        return rng.integers(least, max(int(high), least + 1), shape).astype(dtype.reference)
    found = rng.uniform(low, high, shape)
    if dtype.is_complex:
        return np.asarray(found + 1j * rng.uniform(low, high, shape), dtype.reference)
    return np.asarray(found, dtype.reference)


def distinct(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Elements without ties (where the type has room), so that maxima have derivatives."""
    count = int(np.prod(shape))
    found = rng.permutation(count) - (0 if dtype.kind == "unsigned" else count // 2)
    if dtype.kind == "bool":
        return (found % 2 == 0).reshape(shape)
    scale = 1 if dtype.is_integer else 0.5
    return np.asarray(found.reshape(shape) * scale, dtype.reference)


def elementwise(
    *ranges: tuple[float, float], away_from_zero: bool = False, **parameters: Any
) -> Sampler:
    """One operand per range; `away_from_zero` keeps magnitudes above a quarter."""

    def sample(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
        for shape in SHAPES:
            operands = [values(rng, dtype, shape, low, high) for low, high in ranges]
            if away_from_zero and dtype.is_floating_point:
                operands = [np.where(np.abs(x) < 0.25, x + x.dtype.type(0.5), x) for x in operands]
            yield tuple(operands), parameters

    return sample


anything = elementwise((-3, 3))
positive = elementwise((0.2, 4))
inside_one = elementwise((-0.9, 0.9))
broken = elementwise((-3, 3), away_from_zero=True)  # for functions with a kink at zero
two = elementwise((-3, 3), (-3, 3))
two_positive = elementwise((0.3, 3), (0.3, 3))
quotient = elementwise((-7, 7), (1, 3))


def steps(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """Values half-way inside the steps of floor, ceil, round and truncate, with their ties at the
    end.
    """
    for shape in SHAPES:
        whole = rng.integers(-4, 4, shape)
        yield (np.asarray(whole + rng.uniform(0.1, 0.4, shape), dtype.reference),), {}


def derivatives_of_digamma(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for order in (1, 2, 3):
        yield (values(rng, dtype, (3, 5), 0.5, 4),), {"order": order}


def remainders(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """Quotients half-way between whole numbers, of all four combinations of signs."""
    for shape in SHAPES:
        divisor = values(rng, dtype, shape, 1, 4)
        whole = rng.integers(-3, 3, shape).astype(dtype.reference)
        part = dtype.reference.type(0.5) if dtype.is_floating_point else dtype.reference.type(0)
        if dtype.kind != "unsigned":
            divisor = divisor * rng.choice([-1, 1], shape).astype(dtype.reference)
        yield ((whole + part) * divisor, divisor), {}


def untied(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """Two operands that are equal nowhere."""
    for shape in SHAPES:
        both = distinct(rng, dtype, (2, *shape))
        yield (both[0], both[1]), {}


def comparison(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """Two operands with many ties."""
    for shape in SHAPES:
        yield (values(rng, dtype, shape, 0, 2), values(rng, dtype, shape, 0, 2)), {}


def bits(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """Two operands over the type's whole range."""
    for shape in SHAPES:
        yield (_whole_range(rng, dtype, shape), _whole_range(rng, dtype, shape)), {}


def one_of_bits(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for shape in SHAPES:
        yield (_whole_range(rng, dtype, shape),), {}


def shifts(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """Shift amounts from below zero to past the width."""
    for shape in SHAPES:
        amount = values(rng, dtype, shape, -2, dtype.itemsize * 8 + 3)
        yield (_whole_range(rng, dtype, shape), amount), {}


def _whole_range(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    if dtype.kind == "bool":
        return rng.random(shape) < 0.5
    info = np.iinfo(dtype.reference)
    return rng.integers(info.min, info.max, shape, dtype.reference, endpoint=True)


def choice(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for shape in SHAPES:
        condition = rng.random(shape) < 0.5
        yield (condition, values(rng, dtype, shape, -3, 3), values(rng, dtype, shape, -3, 3)), {}


def conversions(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    from_small = values(rng, dtype, (3, 5), -100, 100)
    for target in TARGETS:
        yield (from_small,), {"dtype": target}


def reinterpretations(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for target in TARGETS:
        if target.itemsize == dtype.itemsize and "bool" not in (target.kind, dtype.kind):
            yield (values(rng, dtype, (3, 5), 1, 100),), {"dtype": target}


def reductions(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """Every position of the reduced axes, long and short."""
    cases: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((), ()), ((1,), (0,)), ((7,), (0,)), ((37, 5), (0,)), ((5, 37), (1,)), ((3, 4, 5), (0, 2)),
        ((3, 4, 5), (1,)), ((3, 4, 5), (0, 1, 2)), ((2, 3), ()), ((0, 3), (1,)),
    )  # fmt: skip
    for shape, axes in cases:
        yield (distinct(rng, dtype, shape),), {"axes": axes}


def sums(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """As `reductions`, with long runs and empty ones too."""
    for (x,), parameters in reductions(rng, dtype):
        yield (values(rng, dtype, x.shape, -3, 3),), parameters
    yield (values(rng, dtype, (3, 0), -3, 3),), {"axes": (1,)}
    yield (values(rng, dtype, (2, 1500), -3, 3),), {"axes": (1,)}
    yield (values(rng, dtype, (1500, 2), -3, 3),), {"axes": (0,)}


def products(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for (x,), parameters in reductions(rng, dtype):
        if x.size < 100:
            yield (values(rng, dtype, x.shape, 0.5, 2),), parameters
    with_zeros = np.array([[2, 0, 3], [0, 5, 0], [1, 2, 3]], dtype.reference)
    yield (with_zeros,), {"axes": (1,)}


def along_axis(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for shape, axis in (
        ((7,), 0),
        ((3, 5), 0),
        ((3, 5), 1),
        ((2, 3, 4), 1),
        ((1, 33), 1),
        ((2, 0), 0),
    ):
        yield (distinct(rng, dtype, shape),), {"axis": axis}


def running(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for reverse in (False, True):
        for shape, axis in (((7,), 0), ((3, 5), 0), ((3, 5), 1), ((2, 3, 4), 1), ((0,), 0)):
            yield (values(rng, dtype, shape, -2, 2),), {"axis": axis, "reverse": reverse}


def along_axis_not_empty(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    for (x,), parameters in along_axis(rng, dtype):
        if x.size:
            yield (x,), parameters
