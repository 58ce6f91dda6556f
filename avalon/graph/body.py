"""Bodies: graphs that calls hold, and calls that have several results.

Comes in: a finished graph. Goes out: a `Body`, which is a parameter like any other: it hashes and
compares by the graph's structure, and its text is the same in every process. Guaranteed: nothing
changes the graph of a body; a pass that wants another one makes another body.

A call of several results is a node without a value of its own (its dtype is `several`); the calls
of `result` on it are the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from avalon.dtype import DType
from avalon.graph.node import Call, Node
from avalon.graph.signature import Signature
from avalon.shape import Shape

if TYPE_CHECKING:
    from avalon.graph.graph import Graph

Type = tuple[Shape, DType]


class Body:
    """A graph inside a call.

    >>> from avalon.dtype import float32
    >>> from avalon.graph.graph import Graph
    >>> graph = Graph("halves")
    >>> graph.outputs = [graph.input((2,), float32) * 0.5]
    >>> Body(graph) == Body(graph.copy())
    True
    """

    __slots__ = ("_signature", "graph")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._signature: Signature | None = None

    @property
    def signature(self) -> Signature:
        """The structure of the graph, by which bodies compare."""
        if self._signature is None:
            self._signature = self.graph.signature()
        return self._signature

    @property
    def inputs(self) -> tuple[Type, ...]:
        """Shapes and dtypes of what the body takes."""
        return tuple((node.shape, node.dtype) for node in self.graph.inputs)

    @property
    def outputs(self) -> tuple[Type, ...]:
        """Shapes and dtypes of what the body gives."""
        return tuple((node.shape, node.dtype) for node in self.graph.outputs)

    def __hash__(self) -> int:
        return hash(self.signature)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Body):
            return NotImplemented
        return self is other or self.signature == other.signature

    def __repr__(self) -> str:
        return f"Body({self.signature.digest()})"


def bodies_of(node: Node) -> Iterator[tuple[str, Body]]:
    """The bodies that a node holds, by the names of the parameters."""
    if isinstance(node, Call):
        for name, value in node.parameters.items():
            if isinstance(value, Body):
                yield name, value


def every_node(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and of all bodies inside it."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().nodes:
            yield node
            waiting.extend(body.graph for _, body in bodies_of(node))


def map_bodies(graph: Graph, change: Callable[[Graph], object]) -> None:
    """Let `change` edit a copy of each body's graph, innermost bodies first, and put it in the
    place of the body.
    """
    for node in graph.nodes:
        for name, body in list(bodies_of(node)):
            assert isinstance(node, Call)
            copy = body.graph.copy()
            map_bodies(copy, change)
            change(copy)
            node.parameters = node.parameters | {name: Body(copy)}
