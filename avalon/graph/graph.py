"""The graph: an ordered list of nodes, inputs, outputs, and the verbs that edit it.

Comes in: calls recorded by tracing or written by hand. Goes out: what autograd, the rewriter and
the scheduler read and edit. Guaranteed: operands come before their users; every call has the shape
and dtype that its primitive's rule gives; nothing here is recursive, so that 100,000 nodes work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalon.dtype import DType
from avalon.graph.node import Call, Constant, Input, Node, Source
from avalon.graph.primitive import Primitive
from avalon.shape import Shape


class Graph:
    """A program over values: nodes in an order in which they can be computed."""

    __slots__ = ("__weakref__", "inputs", "name", "nodes", "note", "outputs", "source")

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.inputs: list[Input] = []
        self.outputs: list[Node] = []
        self.note = ""  # why the nodes that are appended next exist
        self.source: Source = None  # where the nodes that are appended next come from

    def input(self, shape: Shape, dtype: DType, name: str = "", scalar: bool = False) -> Input:
        """Append an input."""
        node = Input(self, shape, dtype, self.note, self.source)
        node.name = name or f"x{len(self.inputs)}"
        node.scalar = scalar
        self.inputs.append(node)
        self.nodes.append(node)
        return node

    def constant(self, value: Any, shape: Shape, dtype: DType) -> Constant:
        """Append a constant: `value` in every element of `shape`."""
        node = Constant(self, shape, dtype, self.note, self.source)
        node.value = value
        self.nodes.append(node)
        return node

    def call(
        self, primitive: Primitive, operands: Sequence[Node], parameters: dict[str, Any]
    ) -> Call:
        """Append a call; its shape and dtype come from the primitive's rule."""
        shape, dtype = primitive.infer(operands, parameters)
        node = Call(self, shape, dtype, self.note, self.source)
        node.primitive = primitive
        node.operands = tuple(operands)
        node.parameters = parameters
        self.nodes.append(node)
        return node
