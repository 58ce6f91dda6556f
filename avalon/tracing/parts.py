"""Parts of a recorded graph: what some of its nodes need, and computing just that.

Comes in: a graph's nodes, and which of them are wanted. Goes out: the graph cut down to those, or
their buffers. Guaranteed: inputs keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input, Node
from avalon.runtime.buffer import Buffer


def restrict(graph: Graph, outputs: Sequence[Node]) -> list[int]:
    """Drop what `outputs` do not need; which inputs are left, by their old places."""
    graph.outputs = list(outputs)
    needed = _needed(graph.outputs)
    kept = [place for place, node in enumerate(graph.inputs) if node in needed]
    graph.keep_only(needed)
    return kept


def _needed(wanted: Sequence[Node]) -> set[Node]:
    """The nodes that some nodes are computed from, themselves included."""
    needed: set[Node] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            if isinstance(node, Call):
                waiting.extend(node.operands)
    return needed


def run_nodes(nodes: Sequence[Node], wanted: Sequence[Node], feeds: list[Any]) -> list[Buffer]:
    """Compute some of a recorded graph's nodes, apart from the rest and from all programs."""
    if not wanted:
        return []
    needed = _needed(wanted)
    graph = Graph("part")
    copies: dict[Node, Node] = {}
    given: list[Any] = []
    inputs = iter(feeds)
    for node in nodes:
        feed = next(inputs) if isinstance(node, Input) else None
        if node not in needed:
            continue
        graph.note, graph.source = node.note, node.source
        if isinstance(node, Input):
            copies[node] = graph.input(node.shape, node.dtype, node.name, node.scalar)
            given.append(feed)
        elif isinstance(node, Constant):
            copies[node] = graph.constant(node.value, node.shape, node.dtype)
        elif isinstance(node, Call):
            operands = [copies[operand] for operand in node.operands]
            copies[node] = graph.call(node.primitive, operands, node.parameters)
    graph.outputs = [copies[node] for node in wanted]
    return list(compile_graph(graph, "cold").run(given))
