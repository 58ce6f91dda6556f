"""The three kinds of node: Input, Constant, Call. A node is one value: a shape, an element type.

Comes in: nothing but what the graph hands over. Goes out: nodes on which primitives can be called
(`multiply(a, b)` with nodes appends a Call to their graph). Guaranteed: a node knows its graph,
where it came from (`source`, the user's file and line) and why it exists (`note`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avalon.dtype import DType
from avalon.shape import Shape

if TYPE_CHECKING:
    from avalon.graph.graph import Graph
    from avalon.graph.primitive import Primitive

Source = tuple[str, int] | None  # file and line of the user's code


class Node:
    """One value of a graph."""

    __slots__ = (
        "__weakref__",
        "dtype",
        "graph",
        "next",
        "note",
        "order",
        "previous",
        "shape",
        "source",
    )
    order: int  # grows along the graph: `a.order < b.order` says that a is computed first
    previous: Node | None
    next: Node | None

    def __init__(self, graph: Graph, shape: Shape, dtype: DType, note: str, source: Source) -> None:
        self.graph = graph
        self.shape = shape
        self.dtype = dtype
        self.note = note
        self.source = source

    def __repr__(self) -> str:
        origin = f" ({self.source[0]}:{self.source[1]})" if self.source else ""
        note = f", {self.note}" if self.note else ""
        return f"<{self.what()}: {self.dtype.name} {self.shape}{note}{origin}>"

    def what(self) -> str:
        """In a word, what kind of node this is."""
        return type(self).__name__.lower()

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def apply(
        self, primitive: Primitive, operands: tuple[Any, ...], parameters: dict[str, Any]
    ) -> Call:
        """Append a call of `primitive` to this node's graph: how primitives act on nodes."""
        return self.graph.call(primitive, operands, parameters)

    def apply_several(
        self, primitive: Primitive, operands: tuple[Any, ...], parameters: dict[str, Any]
    ) -> tuple[Call, ...]:
        """Append a call of several results, and the calls that stand for each of them."""
        return self.graph.call_several(primitive, operands, parameters)

    def constant(
        self, value: Any, shape: Shape | None = None, dtype: DType | None = None
    ) -> Constant:
        """A constant like this node (its shape and dtype unless given), every element `value`."""
        return self.graph.constant(
            value, self.shape if shape is None else shape, self.dtype if dtype is None else dtype
        )


class Input(Node):
    """A value that comes from outside at run time.

    A `scalar` input has shape () and is handed over as a Python number: learning rates, slice
    starts, the 2.5 in `x + 2.5`. It never becomes part of the program's structure.
    """

    __slots__ = ("name", "scalar")
    name: str
    scalar: bool


class Constant(Node):
    """A value that is part of the graph's structure: one number, in every element of the shape."""

    __slots__ = ("value",)
    value: bool | int | float | complex


class Call(Node):
    """A primitive applied to nodes. Arrays are operands, everything else is a parameter."""

    __slots__ = ("operands", "parameters", "primitive")
    primitive: Primitive
    operands: tuple[Node, ...]
    parameters: dict[str, Any]

    def what(self) -> str:
        return self.primitive.name

    @property
    def results(self) -> tuple[tuple[Shape, DType], ...]:
        """Shapes and dtypes of the results of a call that has several."""
        return tuple(self.primitive.rules["results"](*self.operands, **self.parameters))
