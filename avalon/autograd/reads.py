"""What a gradient rule reads: which values of the forward pass its backward pass needs.

Comes in: a primitive, the types of its operands, its parameters, and which operand's gradient is
asked for. Goes out: whether the rule reads the output, and which operands. Found by running the
rule once on a scratch graph, so no second table of rules can disagree with the first; remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from avalon.dtype import DType
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Node
from avalon.graph.primitive import Primitive
from avalon.shape import Shape


class Reads(NamedTuple):
    """What the gradient of one operand is made of, besides the output's cotangent.

    Attributes:
        flows: whether the operand gets a gradient at all.
        output: whether the rule reads the output.
        operands: positions of the operands that it reads.
    """

    flows: bool
    output: bool
    operands: tuple[int, ...]


def reads(
    primitive: Primitive,
    types: Sequence[tuple[Shape, DType]],
    parameters: dict[str, Any],
    operand: int,
) -> Reads:
    """What the gradient rule of `primitive` reads for operand number `operand`.

    >>> from avalon import ops
    >>> from avalon.dtype import float32
    >>> reads(ops.sqrt, [((3,), float32)], {}, 0)
    Reads(flows=True, output=True, operands=())
    """
    return _reads(primitive, tuple(types), tuple(parameters.items()), operand)


@lru_cache(maxsize=4096)
def _reads(
    primitive: Primitive,
    types: tuple[tuple[Shape, DType], ...],
    parameters: tuple[tuple[str, Any], ...],
    operand: int,
) -> Reads:
    graph = Graph("gradient")
    operands: list[Node] = [graph.input(shape, dtype) for shape, dtype in types]
    keywords = dict(parameters)
    output = graph.call(primitive, operands, keywords)
    g = graph.input(output.shape, output.dtype)
    cotangent = primitive.cotangents(g, output, operands, keywords)[operand]
    if cotangent is None:
        return Reads(False, False, ())
    read = {cotangent}
    for node in reversed(graph.nodes):
        if node in read and isinstance(node, Call) and node is not output:
            read.update(node.operands)
    positions = tuple(i for i, node in enumerate(operands) if node in read)
    return Reads(True, output in read, positions)
