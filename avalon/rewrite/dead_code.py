"""Dead code: calls that no output needs are not computed.

Comes in: a graph. Goes out: the same graph without them. Guaranteed: inputs stay, used or not,
for they say what the program is called with.
"""

from __future__ import annotations

from avalon.graph.graph import Graph
from avalon.graph.node import Call, Input, Node


def remove_dead_code(graph: Graph) -> None:
    """Drop every call and constant that no output depends on.

    >>> from avalon import ops
    >>> from avalon.dtype import float32
    >>> graph = Graph()
    >>> x = graph.input((3,), float32)
    >>> spare, graph.outputs = ops.exp(x), [ops.sin(x)]
    >>> remove_dead_code(graph)
    >>> graph.nodes
    [<input: float32 (3,)>, <sin: float32 (3,)>]
    """
    live: set[Node] = set(graph.outputs)
    for node in reversed(graph.nodes):
        if isinstance(node, Input):
            live.add(node)
        elif isinstance(node, Call) and node in live:
            live.update(node.operands)
    if len(live) < len(graph):
        graph.keep_only(live)
