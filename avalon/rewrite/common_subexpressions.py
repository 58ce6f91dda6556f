"""Common subexpressions: equal calls on equal operands are computed once.

Comes in: a graph. Goes out: the same graph, in which later equals have given way to the first one.
Guaranteed: random draws are never merged, for each stands for bits of its own; neither are calls
that run the host's code.
"""

from __future__ import annotations

import struct
from typing import Any

from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Node
from avalon.graph.primitive import Structure
from avalon.ops import random_bits


def merge_common_subexpressions(graph: Graph) -> int:
    """Merge equal calls and constants; returns how many went.

    >>> from avalon import ops
    >>> from avalon.dtype import float32
    >>> graph = Graph()
    >>> x = graph.input((3,), float32)
    >>> graph.outputs = [ops.exp(x) + ops.exp(x)]
    >>> merge_common_subexpressions(graph)
    1
    """
    first: dict[Any, Node] = {}
    merged = 0
    for node in graph.nodes:
        key = _key(node)
        if key is None:
            continue
        earlier = first.setdefault(key, node)
        if earlier is not node:
            graph.replace(node, earlier)
            merged += 1
    return merged


def _key(node: Node) -> Any:
    if isinstance(node, Constant):
        value = node.value
        exact = struct.pack("<d", value) if isinstance(value, float) else (type(value), value)
        return "constant", exact, node.shape, node.dtype
    if not isinstance(node, Call):
        return None
    if node.primitive is random_bits or node.primitive.kind is Structure:
        return None
    if not node.parameters:
        return node.primitive, node.operands
    return node.primitive, node.operands, tuple(sorted(node.parameters.items()))
