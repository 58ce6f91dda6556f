"""Print a graph as Python that rebuilds it, each line with the reason and the origin of its node.

Comes in: a graph. Goes out: text such as

    def step(graph):
        x = graph.input((32, 784), float32, 'x')    # float32 (32, 784)
        v1 = ops.multiply(x, x)                     # float32 (32, 784); square @ train.py:9
        graph.outputs = [v1]

A graph that a call holds stands in front of the call, as a function inside the function.
Guaranteed: `rebuild` makes of it a graph of the same signature, names, notes and sources.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from avalon.dtype import DType, several
from avalon.graph.body import Body, bodies_of
from avalon.graph.node import Call, Constant, Input, Node

if TYPE_CHECKING:
    from avalon.graph.graph import Graph

_COMMENT_COLUMN = 56
MARK = "  # "


def show(graph: Graph) -> str:
    """The graph as Python source: a function that fills an empty graph."""
    names: dict[Any, str] = {}  # of nodes and bodies
    taken: set[str] = {"graph", "ops"}
    for given in graph.inputs:
        names[given] = _fresh(given.name, taken)
    lines = [f"def {_identifier(graph.name)}(graph):"]
    for number, node in enumerate(graph.nodes):
        if node not in names:
            names[node] = _fresh(f"v{number}", taken)
        for parameter, body in bodies_of(node):
            names[body] = _fresh(f"{names[node]}_{parameter}", taken)
            held = show(body.graph).splitlines()
            held[0] = f"def {names[body]}(graph):"
            lines.extend(f"    {line}" for line in held)
        code = f"    {names[node]} = {_expression(node, names)}"
        lines.append(f"{code:<{_COMMENT_COLUMN}}{MARK}{_comment(node)}")
    lines.append(f"    graph.outputs = [{', '.join(names[node] for node in graph.outputs)}]")
    return "\n".join(lines) + "\n"


def _expression(node: Node, names: dict[Any, str]) -> str:
    if isinstance(node, Input):
        scalar = ", scalar=True" if node.scalar else ""
        return f"graph.input({node.shape}, {node.dtype.name}, {node.name!r}{scalar})"
    if isinstance(node, Constant):
        return f"graph.constant({_literal(node.value)}, {node.shape}, {node.dtype.name})"
    assert isinstance(node, Call)
    operands = [names[operand] for operand in node.operands]
    literals = {
        name: names[value] if isinstance(value, Body) else _literal(value)
        for name, value in node.parameters.items()
    }
    parameters = [f"{name}={text}" for name, text in literals.items()]
    if not operands or node.dtype is several:
        listed = ", ".join(f"{name!r}: {text}" for name, text in literals.items())
        given = "".join(f"{operand}, " for operand in operands).strip()
        return f"graph.call(ops.{node.primitive.name}, ({given}), {{{listed}}})"
    return f"ops.{node.primitive.name}({', '.join(operands + parameters)})"


def _comment(node: Node) -> str:
    note = f"; {node.note}" if node.note else ""
    source = f" @ {node.source[0]}:{node.source[1]}" if node.source else ""
    kind = node.dtype.name if node.dtype is several else f"{node.dtype.name} {node.shape}"
    return f"{kind}{note}{source}"


def _literal(value: Any) -> str:
    if isinstance(value, DType):
        return value.name
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return f"float({str(value)!r})"
    if isinstance(value, tuple):
        inside = ", ".join(map(_literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(value)


def _identifier(name: str) -> str:
    found = re.sub(r"\W", "_", name)
    return found if found and not found[0].isdigit() else f"_{found}"


def _fresh(name: str, taken: set[str]) -> str:
    wanted = base = _identifier(name)
    count = 1
    while wanted in taken:
        count += 1
        wanted = f"{base}_{count}"
    taken.add(wanted)
    return wanted
