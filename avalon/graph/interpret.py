"""Run a graph by the NumPy meanings of its primitives: the oracle that compiled programs are judged
by.

Comes in: a graph, and a NumPy array (or a Python number for a scalar input) for each of its inputs.
Goes out: an array for each output. Guaranteed: every call is computed for itself and rounded to its
dtype. bfloat16, which NumPy lacks, travels as float32 and is rounded to bfloat16 after every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from avalon.dtype import DType, bfloat16, several
from avalon.errors import GraphError
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input, Node
from avalon.graph.primitive import Primitive

Array = np.ndarray[Any, np.dtype[Any]]


def round_to_bfloat16(x: Array) -> Array:
    """float32 rounded to the nearest bfloat16 (ties to even), still as float32."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32)).astype(np.float32)


def to_storage(x: Array, dtype: DType) -> Array:
    """From the reference type to the bytes in memory: bfloat16 becomes uint16."""
    if dtype is bfloat16:
        return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.asarray(x, dtype.storage)


def from_storage(x: Array, dtype: DType) -> Array:
    """From the bytes in memory to the reference type."""
    if dtype is bfloat16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x


def evaluate(
    primitive: Primitive, operands: Sequence[Array], parameters: dict[str, Any], dtype: DType
) -> Array:
    """The meaning of one call whose result has `dtype`; overflow and NaN come silently."""
    with np.errstate(all="ignore"):
        found = primitive.reference(*operands, **parameters)
    if dtype is several:
        return found  # a tuple, which only `result` reads
    result = np.asarray(found)
    return round_to_bfloat16(result) if dtype is bfloat16 else result


def interpret(graph: Graph, inputs: Sequence[Any]) -> list[Array]:
    """The values of the graph's outputs for the given values of its inputs.

    Raises:
        GraphError: if the number of inputs or the shape of one differs from the graph's.
        IndexOutOfRange: if a `check_index` in the graph fails.

    >>> from avalon import ops
    >>> from avalon.dtype import float32
    >>> graph = Graph()
    >>> x = graph.input((2,), float32)
    >>> graph.outputs = [ops.sqrt(x) + 1.0]
    >>> interpret(graph, [np.array([4, 9])])
    [array([3., 4.], dtype=float32)]
    """
    if len(inputs) != len(graph.inputs):
        raise GraphError(
            f"[interpret] {graph.name} has {len(graph.inputs)} inputs; {len(inputs)} values were "
            "given"
        )
    values: dict[Node, Array] = {}
    for accepted, given in zip(graph.inputs, inputs, strict=True):
        values[accepted] = _accept(accepted, given)
    last_use: dict[Node, Node | None] = dict.fromkeys(graph.outputs)
    for node in reversed(graph.nodes):
        if isinstance(node, Call) and node in last_use:
            for operand in node.operands:
                last_use.setdefault(operand, node)
    for node in graph.nodes:
        if node not in last_use:
            continue
        if isinstance(node, Constant):
            one = np.asarray(node.value).astype(node.dtype.reference)
            if node.dtype is bfloat16:
                one = round_to_bfloat16(one)
            values[node] = np.broadcast_to(one, node.shape)
        elif isinstance(node, Call):
            operands = [values[operand] for operand in node.operands]
            values[node] = evaluate(node.primitive, operands, node.parameters, node.dtype)
            for operand in node.operands:
                if last_use[operand] is node:
                    values.pop(operand, None)
    return [values[node] for node in graph.outputs]


def _accept(node: Input, given: Any) -> Array:
    value = np.asarray(given).astype(node.dtype.reference)
    if value.shape != node.shape:
        raise GraphError(
            f"[interpret] input {node.name} has shape {node.shape}; a value of shape "
            f"{value.shape} was "
            "given"
        )
    return round_to_bfloat16(value) if node.dtype is bfloat16 else value
