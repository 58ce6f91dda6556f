"""What recorded sequences of different sizes have in common.

Comes in: a `Recorded`. Goes out: its outline, which is equal for sequences that differ in extents
and constants only, and its column: those numbers, and messages that may mention them, in a row.
Guaranteed: outline and column together tell all that the key tells; the graph of an outline can be
built for a column whose numbers are formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avalon import ops
from avalon.graph.graph import Graph
from avalon.graph.node import Node
from avalon.size import Size
from avalon.tracing.operation import Operation
from avalon.tracing.recorded import Recorded, note_on

# Parameters that say how large something is, or where it starts, and messages, which may mention
# it. The rest (axes, permutations, strides, dilations) is structure.
_EXTENTS = frozenset(("shape", "sizes", "size", "starts", "low", "high", "message"))


# What stands in a pattern for a number: not None, by which parameters say that an operand tells it.
_NUMBER = "#"


class Pattern:
    """An operation without its numbers. Equal ones are one object, compared by identity."""

    __slots__ = ("__weakref__",)


_patterns: dict[Any, Pattern] = {}
_CAPACITY = 50_000


Described = tuple[Pattern, tuple[Any, ...], tuple[int, ...]]


def pattern_of(operation: Operation) -> Described:
    """The pattern of an operation, its numbers, and which of them are constants."""
    found = operation.pattern
    if found is None:
        found = operation.pattern = _described(operation)
    return found


def _described(operation: Operation) -> Described:
    numbers: list[Any] = []
    constants: list[int] = []

    def take(number: Any) -> str:
        numbers.append(number)
        return _NUMBER

    parts: list[Any] = [operation.name, operation.inputs, operation.outputs, operation.scalar]
    if operation.scalar is not None:
        ((shape, dtype),) = operation.results
        parts += [dtype, _replaced(shape, take)]
    for step in operation.steps:
        if step.primitive is None:
            kind = int if isinstance(step.value, Size) else type(step.value)
            before = len(numbers)
            value = _replaced_constant(step.value, take)
            constants += range(before, len(numbers))
            parts += [kind, repr(value), step.dtype, _replaced(step.shape, take)]
        else:
            parts += [step.primitive, step.places, step.dtype, len(step.shape)]
            parts += [(name, value) for name, value in _replaced_all(step.parameters, take).items()]
    key: Any = tuple(parts)
    try:
        made = _patterns.get(key)
    except TypeError:  # a parameter that has no hash
        key = repr(key)
        made = _patterns.get(key)
    if made is None:
        if len(_patterns) >= _CAPACITY:
            _patterns.clear()
        made = _patterns[key] = Pattern()
    return made, tuple(numbers), tuple(constants)


def _replaced_all(parameters: dict[str, Any], put: Callable[[Any], Any]) -> dict[str, Any]:
    """The parameters, with what `put` makes of each number that is an extent or a start."""
    if _EXTENTS.isdisjoint(parameters):
        return parameters
    return {
        name: _replaced(value, put) if name in _EXTENTS else value
        for name, value in parameters.items()
    }


def _replaced(value: Any, put: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple([_replaced(part, put) for part in value])
    if isinstance(value, int | str | Size) and not isinstance(value, bool):
        return put(value)
    return value


def _replaced_constant(value: Any, put: Callable[[Any], Any]) -> Any:
    """A constant is a number of the column, unless equal ones may differ in bits."""
    if isinstance(value, bool) or not isinstance(value, int | float | Size):
        return value
    return put(value) if value == value and value != 0 else value


def outline(recorded: Recorded) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The outline and the column."""
    parts: list[Any] = []
    column: list[Any] = []
    for item in recorded.key:
        if item.__class__ is not int:
            pattern, numbers, _ = item.pattern or pattern_of(item)
            parts.append(pattern)
            column += numbers
        else:
            parts.append(item)
    return tuple(parts), tuple(column)


def places_of(recorded: Recorded) -> tuple[set[int], set[int]]:
    """Where in the column the extents of inputs are, and the values of constants."""
    extents: set[int] = set()
    values: set[int] = set()
    start = 0
    for operation, *_ in recorded.entries():
        _, numbers, constants = pattern_of(operation)
        if operation.scalar is not None:
            extents.update(range(start, start + len(numbers)))
        values.update([start + place for place in constants])
        start += len(numbers)
    return extents, values


def build(recorded: Recorded, column: Sequence[Any]) -> tuple[Graph, list[Node], list[int]]:
    """The graph of a recorded sequence for another column; as `Recorded.build`, and the places in
    the column of constants that have become inputs, behind the others.

    Numbers of the column are integers or formulas; None stands for a constant that varies.
    """
    graph = Graph("step")
    nodes: list[Node] = []
    given = iter(enumerate(column))
    handed: list[tuple[int, Node]] = []
    latest = [0]

    def put(_: Any) -> Any:
        latest[0], number = next(given)
        return number

    for operation, positions, source, note in recorded.entries():
        graph.source, graph.note = source, note
        if operation.scalar is not None:
            ((shape, dtype),) = operation.results
            nodes.append(graph.input(_replaced(shape, put), dtype, scalar=operation.scalar))
            continue
        slots = [nodes[position] for position in positions]
        for number, step in enumerate(operation.steps):
            graph.note = note_on(note, number)
            if step.primitive is not None:
                parameters = _replaced_all(step.parameters, put)
                operands = [slots[place] for place in step.places]
                slots.append(graph.call(step.primitive, operands, parameters))
                continue
            value = _replaced_constant(step.value, put)
            if value is not None:
                slots.append(graph.constant(value, _replaced(step.shape, put), step.dtype))
                continue
            node: Node = graph.input((), step.dtype, scalar=True)
            handed.append((latest[0], node))
            shape = _replaced(step.shape, put)
            if shape:
                node = graph.call(ops.broadcast, [node], {"shape": shape})
            slots.append(node)
        nodes.extend([slots[slot] for slot in operation.outputs])
    last = [node for _, node in handed]
    graph.inputs = [node for node in graph.inputs if node not in last] + last  # type: ignore[operator]
    graph.source, graph.note = None, ""
    for node in graph.nodes:
        for extent in node.shape:
            if isinstance(extent, Size):
                extent.must_be_positive()
    return graph, nodes, [place for place, _ in handed]
