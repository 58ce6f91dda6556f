"""Reverse mode, graph to graph: append the calls that compute gradients.

Comes in: a graph, its outputs, the nodes to differentiate by, and cotangents of the outputs
(seeds). Goes out: nodes of the same graph, one gradient for each of the nodes asked for.
Guaranteed: calls are visited from the last to the first, so sums have one fixed order; the rules
are written in primitives, so gradients can be differentiated again; nothing is recursive; each new
node says which call it is the gradient of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalon.differentiation.accumulate import Parts, accumulate
from avalon.differentiation.rules import gradient_of
from avalon.dtype import several
from avalon.errors import AutogradError
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Node
from avalon.ops import result


def gradients(
    graph: Graph,
    outputs: Sequence[Node],
    inputs: Sequence[Node],
    seeds: Sequence[Node | None] | None = None,
) -> list[Node | None]:
    """Append the gradients of `outputs` with respect to `inputs`, which may be any nodes.

    Args:
        seeds: the cotangent of each output, of its shape and dtype; None stands for 1 and needs an
            output with one element.

    Returns:
        One node for each input, of its shape and dtype; None where no output depends on it in a way
        that has a derivative.

    Raises:
        AutogradError: if a seed does not fit, or is missing for an output of many elements.

    >>> from avalon import ops
    >>> from avalon.dtype import float32
    >>> graph = Graph()
    >>> x = graph.input((), float32)
    >>> gradients(graph, [ops.sqrt(x)], [x])
    [<divide: float32 (), gradient of sqrt>]
    """
    before = graph.note, graph.source
    graph.note = "seed"
    cotangents: dict[Node, Any] = {}
    given = seeds if seeds is not None else [None] * len(outputs)
    for output, seed in zip(outputs, given, strict=True):
        cotangents[output] = accumulate(cotangents.get(output), _seed(graph, output, seed))

    depends = _depending(graph, inputs)
    for call in reversed(_between(graph, outputs, depends)):
        g = cotangents.get(call)
        if g is None:
            continue
        graph.note = describe(call)
        graph.source = call.source
        if call.primitive is result:
            (bundle,) = call.operands
            part = Parts({call.parameters["index"]: g})
            cotangents[bundle] = accumulate(cotangents.get(bundle), part)
            continue
        needed = tuple(operand in depends for operand in call.operands)
        if call.dtype is several:
            made = call.primitive.cotangents(g, call, call.operands, call.parameters)
            found = [one if need else None for one, need in zip(made, needed, strict=True)]
        else:
            rule = gradient_of(call.primitive, call.operands, call, call.parameters, needed)
            found = rule.apply(g, call, call.operands)
        for operand, cotangent in zip(call.operands, found, strict=True):
            cotangents[operand] = accumulate(cotangents.get(operand), cotangent)
    graph.note, graph.source = before
    return [cotangents.get(node) for node in inputs]


def describe(call: Call) -> str:
    """Why the nodes of a call's gradient exist: "gradient of sqrt (net.py:14)"."""
    origin = f" ({call.source[0].rpartition('/')[2]}:{call.source[1]})" if call.source else ""
    return f"gradient of {call.note or call.primitive.name}{origin}"


def _seed(graph: Graph, output: Node, seed: Node | None) -> Node:
    if seed is None:
        if any(extent != 1 for extent in output.shape):
            raise AutogradError(
                f"[backward] an output of shape {output.shape} needs a seed of that shape; 1 is "
                "implied for one element only. Reduce it first, for example with .sum()"
            )
        return graph.constant(1, output.shape, output.dtype)
    if (seed.shape, seed.dtype) != (output.shape, output.dtype):
        raise AutogradError(
            f"[backward] the seed is {seed.dtype.name} {seed.shape}; expected "
            f"{output.dtype.name} {output.shape} like the output"
        )
    return seed


def _depending(graph: Graph, inputs: Sequence[Node]) -> set[Node]:
    """The floating nodes that depend on `inputs` through floating ones, `inputs` included."""
    found = {node for node in inputs if node.dtype.is_floating_point}
    for node in graph.nodes:
        if (
            isinstance(node, Call)
            and (node.dtype.is_floating_point or node.dtype is several)
            and any(operand in found for operand in node.operands)
        ):
            found.add(node)
    return found


def _between(graph: Graph, outputs: Sequence[Node], depends: set[Node]) -> list[Call]:
    """The calls among `depends` that an output needs, in order."""
    needed = set(outputs)
    found = []
    for node in reversed(graph.nodes):
        if node in needed and isinstance(node, Call):
            needed.update(node.operands)
            if node in depends:
                found.append(node)
    found.reverse()
    return found
