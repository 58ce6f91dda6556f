"""Gradients against finite differences, both of one recorded graph.

Comes in: a recorded call with one number as its value, and the gradients that it computes. Goes
out: the tensors whose gradient is wrong. Guaranteed: the value is computed by the primitives'
meanings in float64, whatever the graph's dtype, so that a difference of 1e-6 is visible; random
numbers are the same in every evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from avalon import ops
from avalon.dtype import DType, float64, several
from avalon.graph.body import Body, bodies_of
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input, Node

Array = np.ndarray[Any, Any]

_BODIES = 100  # of loops, that are kept widened
_STEP = 1e-6  # relative to the size of what is moved
# What the slope along a direction may be off, relative to the sum of the slope's terms.
_ALLOWED = {"float64": 1e-5, "float32": 2e-3, "float16": 0.1, "bfloat16": 0.3}


@dataclass(frozen=True)
class WrongSlope:
    """A tensor along which the value changes otherwise than its gradient says."""

    name: str
    expected: float  # by finite differences
    found: float

    def __str__(self) -> str:
        return f"slope {self.found:.6g} instead of {self.expected:.6g} along a random direction"


def wrong_slopes(
    graph: Graph,
    value: Node,
    gradients: Mapping[Input, Array],
    names: Mapping[Input, str],
    feeds: Sequence[Any],
) -> list[WrongSlope]:
    """The inputs whose gradient does not fit the value's change.

    All inputs are moved together first; only if that does not fit is each moved alone.
    """
    program = _Wide(graph, value, feeds)
    rng = np.random.default_rng(0)
    directions = {
        node: rng.choice([-1.0, 1.0], size=node.shape) * _scale(program.start[node])
        for node in gradients
    }
    if not directions or _slope(program, directions, gradients, value.dtype) is None:
        return []
    found = []
    for node, direction in directions.items():
        slopes = _slope(program, {node: direction}, gradients, value.dtype)
        if slopes is not None:
            found.append(WrongSlope(names[node], *slopes))
    return found


def _slope(
    program: _Wide, directions: Mapping[Input, Array], gradients: Mapping[Input, Array],
    dtype: DType,
) -> tuple[float, float] | None:  # fmt: skip
    """The slope by differences and by the gradients, if they do not fit each other."""
    terms = [gradients[node].astype(np.float64) * d for node, d in directions.items()]
    by_gradients = float(sum(term.sum() for term in terms))
    size = float(sum(np.abs(term).sum() for term in terms))
    behind, here, ahead = (
        program.value({node: sign * _STEP * d for node, d in directions.items()})
        for sign in (-1, 0, 1)
    )
    by_differences = (ahead - behind) / (2 * _STEP)
    allowed = _ALLOWED[dtype.name] * max(size, abs(by_differences)) + 1e-7 * abs(ahead)
    # At a kink, such as relu's at 0, any slope between those of both sides is right.
    low, high = sorted(((here - behind) / _STEP, (ahead - here) / _STEP))
    if low - allowed <= by_gradients <= high + allowed or not np.isfinite(by_differences):
        return None
    return by_differences, by_gradients


def _scale(start: Array) -> float:
    return float(np.abs(start).mean()) + 1e-3 if start.size else 1.0


class _Wide:
    """One value of a graph, computed in float64."""

    def __init__(self, graph: Graph, value: Node, feeds: Sequence[Any]) -> None:
        self._value = value
        self._needed = _ancestors(value)
        self.start = {
            node: _widened(np.asarray(feed), node.dtype)
            for node, feed in zip(graph.inputs, feeds, strict=True)
        }
        self._calls = [node for node in graph.nodes if node in self._needed]

    def value(self, moved: Mapping[Input, Array]) -> float:
        values: dict[Node, Array] = {}
        for node in self._calls:
            if isinstance(node, Input):
                start = self.start[node]
                values[node] = start + moved[node] if node in moved else start
            elif isinstance(node, Constant):
                one = _widened(np.asarray(node.value), node.dtype)
                values[node] = np.broadcast_to(one, node.shape)
            elif isinstance(node, Call):
                values[node] = _evaluate(node, [values[x] for x in node.operands])
        return float(values[self._value].reshape(()))


def _evaluate(node: Call, operands: list[Array]) -> Array:
    if node.primitive is ops.cast and node.dtype.is_floating_point:
        return operands[0].astype(np.float64)
    if node.primitive is ops.bitcast:
        kinds = [x.dtype.reference for x in node.operands]
        operands = [x.astype(kind) for x, kind in zip(operands, kinds, strict=True)]
    parameters = node.parameters | {name: _wide_body(body) for name, body in bodies_of(node)}
    with np.errstate(all="ignore"):
        made = node.primitive.reference(*operands, **parameters)
    # The values of a loop come as a tuple, computed by bodies that are wide themselves.
    return made if node.dtype is several else _widened(np.asarray(made), node.dtype)


@lru_cache(_BODIES)
def _wide_body(body: Body) -> Body:
    """A body with float64 in the place of every floating type."""
    graph = Graph(body.graph.name)
    made: dict[Node, Node] = {}
    for node in body.graph.nodes:
        if isinstance(node, Input):
            made[node] = graph.input(node.shape, _wide(node.dtype), node.name)
        elif isinstance(node, Constant):
            made[node] = graph.constant(node.value, node.shape, _wide(node.dtype))
        elif isinstance(node, Call):
            made[node] = _wide_call(graph, node, [made[operand] for operand in node.operands])
    graph.inputs = [made[node] for node in body.graph.inputs]  # type: ignore[misc]
    graph.outputs = [made[node] for node in body.graph.outputs]
    return Body(graph)


def _wide_call(graph: Graph, node: Call, operands: list[Node]) -> Node:
    parameters = node.parameters | {name: _wide_body(body) for name, body in bodies_of(node)}
    if node.primitive is ops.bitcast:  # the bits of the type that was recorded
        narrow = ops.cast(operands[0], dtype=node.operands[0].dtype)
        made: Node = graph.call(ops.bitcast, [narrow], parameters)
        return ops.cast(made, dtype=_wide(made.dtype))
    if "dtype" in parameters:
        parameters["dtype"] = _wide(parameters["dtype"])
    return graph.call(node.primitive, operands, parameters)


def _wide(dtype: DType) -> DType:
    return float64 if dtype.is_floating_point else dtype


def _widened(array: Array, dtype: DType) -> Array:
    return array.astype(np.float64 if dtype.is_floating_point else dtype.reference)


def _ancestors(node: Node) -> set[Node]:
    found, waiting = {node}, [node]
    while waiting:
        here = waiting.pop()
        for operand in here.operands if isinstance(here, Call) else ():
            if operand not in found:
                found.add(operand)
                waiting.append(operand)
    return found
