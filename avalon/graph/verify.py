"""The law of a valid graph, checked between passes in tests and on request.

Comes in: a graph. Goes out: nothing, or a GraphError that names the node and prints it. The law:
nodes are in order, every operand is in the graph and before its user, every call has the shape and
dtype that its primitive's rule gives, constants hold one number, inputs and outputs are nodes of
the graph.
"""

from __future__ import annotations

from avalon.errors import GraphError
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input, Node


def verify(graph: Graph) -> None:
    """Check that the graph is valid.

    Raises:
        GraphError: naming the first node that is not.

    >>> from avalon import ops
    >>> from avalon.dtype import float32
    >>> graph = Graph()
    >>> call = ops.exp(graph.input((3,), float32))
    >>> call.shape = (4,)
    >>> verify(graph)
    Traceback (most recent call last):
        ...
    avalon.errors.GraphError: [verify] node 1, exp, has float32 (4,); its rule gives float32 (3,)
    """
    seen: set[Node] = set()
    last = 0
    for number, node in enumerate(graph.nodes):
        if node.graph is not graph:
            _fail(number, node, "belongs to another graph")
        if node.order <= last:
            _fail(number, node, "is out of order")
        last = node.order
        if isinstance(node, Call):
            _verify_call(number, node, seen)
        elif isinstance(node, Constant) and not isinstance(node.value, (bool, int, float, complex)):
            _fail(number, node, f"holds a {type(node.value).__name__} instead of one number")
        elif isinstance(node, Input) and node.scalar and node.shape != ():
            _fail(number, node, f"is a scalar input of shape {node.shape}; expected ()")
        seen.add(node)
    for name, nodes in (("input", graph.inputs), ("output", graph.outputs)):
        for number, node in enumerate(nodes):
            if node not in seen:
                raise GraphError(f"[verify] {name} {number} of {graph.name} is not in the graph")


def _verify_call(number: int, node: Call, seen: set[Node]) -> None:
    for position, operand in enumerate(node.operands):
        if operand not in seen:
            _fail(number, node, f"uses operand {position} before it is computed")
    shape, dtype = node.primitive.infer(node.operands, node.parameters)
    if (shape, dtype) != (node.shape, node.dtype):
        _fail(
            number,
            node,
            f"has {node.dtype.name} {node.shape}; its rule gives {dtype.name} {shape}",
        )


def _fail(number: int, node: Node, what: str) -> None:
    origin = f" ({node.source[0]}:{node.source[1]})" if node.source else ""
    raise GraphError(f"[verify] node {number}, {node.what()}{origin}, {what}")
