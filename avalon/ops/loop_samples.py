"""Small loops and branches for the law tests: random operands, and bodies built by hand.

Each function yields pairs (operands, parameters). The loops carry values of two dtypes, read what
is the same in every round, run forward and in reverse, and some never run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.graph.body import Body
from avalon.graph.graph import Graph
from avalon.ops.contraction import contract
from avalon.ops.elementwise import add, multiply, tanh
from avalon.ops.logic import less
from avalon.ops.movement import reshape

Sample = tuple[tuple[Any, ...], dict[str, Any]]


def none(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    """No samples: the primitive takes what only another call gives."""
    yield from ()


def _floats(rng: np.random.Generator, dtype: DType, *shape: int) -> Any:
    return rng.normal(size=shape).astype(dtype.reference)


def _recurrence(dtype: DType) -> Body:
    """h, n, x, w -> tanh(h @ w + x), n + 1, h * x."""
    graph = Graph("recurrence")
    h = graph.input((2, 3), dtype, "h")
    n = graph.input((), dtypes.int64, "n")
    x = graph.input((2, 3), dtype, "x")
    w = graph.input((3, 3), dtype, "w")
    product = contract(reshape(h, shape=(1, 2, 3)), reshape(w, shape=(1, 3, 3)))
    following = tanh(add(reshape(product, shape=(2, 3)), x))
    graph.outputs = [following, add(n, n.constant(1)), multiply(h, x)]
    return Body(graph)


def scans(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    if not dtype.is_floating_point:
        return
    for length, reverse in ((3, False), (2, True), (0, False), (1, False)):
        operands = (
            _floats(rng, dtype, 2, 3),
            np.array(length, np.int64),
            _floats(rng, dtype, length, 2, 3),
            _floats(rng, dtype, 3, 3),
        )
        body = _recurrence(dtype)
        yield operands, {"body": body, "carries": 2, "sequences": 1, "reverse": reverse}
    graph = Graph("doubling")
    x = graph.input((3,), dtype, "x")
    graph.outputs = [add(x, x)]
    yield (
        (_floats(rng, dtype, 3),),
        {"body": Body(graph), "carries": 1, "sequences": 0, "length": 3},
    )


def _formula(dtype: DType, curved: bool) -> Body:
    graph = Graph("curved" if curved else "straight")
    x = graph.input((3,), dtype, "x")
    y = graph.input((3,), dtype, "y")
    graph.outputs = [multiply(tanh(x), y) if curved else add(x, y), multiply(x, x)]
    return Body(graph)


def branches(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    if not dtype.is_floating_point:
        return
    for predicate in (True, False):
        operands = (np.array(predicate), _floats(rng, dtype, 3), _floats(rng, dtype, 3))
        yield operands, {"then": _formula(dtype, True), "otherwise": _formula(dtype, False)}


def repeats(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    if not dtype.is_floating_point:
        return
    for start in (1, 9):
        more = Graph("more")
        n = more.input((), dtypes.int64, "n")
        more.input((3,), dtype, "x")
        limit = more.input((), dtypes.int64, "limit")
        more.outputs = [less(n, limit)]
        step = Graph("step")
        n = step.input((), dtypes.int64, "n")
        x = step.input((3,), dtype, "x")
        step.input((), dtypes.int64, "limit")
        step.outputs = [add(n, n), multiply(x, tanh(x))]
        operands = np.array(start, np.int64), _floats(rng, dtype, 3), np.array(7, np.int64)
        yield operands, {"condition": Body(more), "body": Body(step), "carries": 2}
