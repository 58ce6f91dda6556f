"""Rebuild a graph from the Python that it prints as.

Comes in: the text that `show` gives, as it is or edited. Goes out: the graph, with the notes and
sources of the comments.
"""

from __future__ import annotations

import re
from typing import Any

from avalon import dtype as dtypes
from avalon.errors import GraphError
from avalon.graph.graph import Graph
from avalon.graph.node import Source
from avalon.graph.primitive import Primitive, lookup
from avalon.graph.show import MARK


class _Primitives:
    """What `ops` means in a printed graph: the sealed table."""

    def __getattr__(self, name: str) -> Primitive:
        return lookup(name)


def rebuild(text: str) -> Graph:
    """The graph that `show` printed as `text`, with its notes and sources.

    Raises:
        GraphError: if the text holds no function.

    >>> graph = rebuild('''def halves(graph):
    ...     x = graph.input((2,), float32, 'x')
    ...     half = graph.constant(0.5, (2,), float32)
    ...     y = ops.multiply(x, half)
    ...     graph.outputs = [y]
    ... ''')
    >>> graph
    <graph halves: 1 inputs, 3 nodes, 1 outputs>
    """
    lines = text.splitlines()
    header = re.match(r"def (\w+)\(graph\):", lines[0]) if lines else None
    if header is None:
        raise GraphError("[rebuild] the text must begin with `def name(graph):`")
    scope: dict[str, Any] = {dtype.name: dtype for dtype in dtypes.ALL}
    scope["bool"] = dtypes.bool_
    scope["ops"] = _Primitives()
    exec(compile(text, f"<graph {header[1]}>", "exec"), scope)
    graph = Graph(header[1])
    scope[header[1]](graph)
    for node, line in zip(graph.nodes, lines[1:-1], strict=True):
        node.note, node.source = _parse_comment(line.rpartition(MARK)[2])
    return graph


def _parse_comment(comment: str) -> tuple[str, Source]:
    """Note and source out of what `_comment` wrote."""
    before, _, place = comment.rpartition(" @ ")
    file, _, line = place.rpartition(":")
    source = (file, int(line)) if before and line.isdigit() else None
    return (before if source else comment).partition("; ")[2], source
