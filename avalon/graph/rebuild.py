"""Rebuild a graph from the Python that it prints as.

Comes in: the text that `show` gives, as it is or edited. Goes out: the graph, with the notes and
sources of the comments.
"""

from __future__ import annotations

import re
from typing import Any

from avalon import dtype as dtypes
from avalon.errors import GraphError
from avalon.graph.body import Body
from avalon.graph.graph import Graph
from avalon.graph.node import Source
from avalon.graph.primitive import Primitive, lookup
from avalon.graph.show import MARK

_INSIDE = " " * 8  # the lines of a function inside the function


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
    text, bodies = _take_bodies(lines)
    scope.update((name, Body(rebuild(held))) for name, held in bodies.items())
    lines = text.splitlines()
    exec(compile(text, f"<graph {header[1]}>", "exec"), scope)
    graph = Graph(header[1])
    scope[header[1]](graph)
    for node, line in zip(graph.nodes, lines[1:-1], strict=True):
        node.note, node.source = _parse_comment(line.rpartition(MARK)[2])
    return graph


def _take_bodies(lines: list[str]) -> tuple[str, dict[str, str]]:
    """The text without the functions inside the function, and those by name."""
    own: list[str] = []
    bodies: dict[str, list[str]] = {}
    held: list[str] | None = None
    for line in lines:
        header = re.match(r"    def (\w+)\(graph\):", line)
        if header:
            held = bodies[header[1]] = []
        elif held is not None and not line.startswith(_INSIDE):
            held = None
        (own if held is None else held).append(line)
    return "\n".join(own) + "\n", {name: _dedented(held) for name, held in bodies.items()}


def _dedented(lines: list[str]) -> str:
    return "\n".join(line[4:] for line in lines) + "\n"


def _parse_comment(comment: str) -> tuple[str, Source]:
    """Note and source out of what `_comment` wrote."""
    before, _, place = comment.rpartition(" @ ")
    file, _, line = place.rpartition(":")
    source = (file, int(line)) if before and line.isdigit() else None
    return (before if source else comment).partition("; ")[2], source
