"""Operations in a row and their gradients in one graph, simplified: what do the gradients read?

Comes in: `Backward`s of operations in a row, each but the first on the result of the one before.
Goes out: a `Joined` gradient of the row, and the operation that computes what it reads besides what
is kept anyway. Guaranteed: the cotangents keep every bit, for the rules of `rewrite` do; what is
kept takes fewer bytes than before: a mask only where gradients pass (of a relu, where the pooling
after it picked), a position along a short axis in a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from avalon import ops
from avalon.compiler import simplify
from avalon.differentiation.joint import Keeping, depending
from avalon.dtype import DType
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Node
from avalon.graph.primitive import Movement
from avalon.schedule.fusion import stored_type
from avalon.shape import Shape
from avalon.tracing.backward import Backward
from avalon.tracing.operation import Operation, Step, composite_of

Kind = tuple[Shape, DType]


class Joined(NamedTuple):
    """The gradient of operations in a row.

    Attributes:
        fresh: puts out what the gradient reads, from what the last operation takes; None if it
            reads nothing new.
        reused: of what the last operation's gradient keeps, by place, what this one keeps too.
        operation: the gradient, on a cotangent, what `fresh` puts out, what is reused, the first
            operation's operands if it is the last as well, and its gradient's numbers.
        results: for each of the first operation's operands, the slot of its cotangent, or None.
    """

    fresh: Operation | None
    reused: tuple[int, ...]
    operation: Operation
    results: tuple[int | None, ...]


def join(row: Sequence[Backward], operands: Sequence[Kind]) -> Joined | None:
    """The gradient of one operation, or of two of which the second takes nothing but the result of
    the first; `operands` are the first one's, with its numbers. None if that reads no less.
    """
    return _Row(row, operands).join()


class _Row:
    """Operations and their gradients in one graph.

    Attributes:
        base: what the last operation takes.
        kept: what the last gradient keeps, by place, where it is no operand.
        cotangents: of the first operation's operands.
    """

    def __init__(self, row: Sequence[Backward], operands: Sequence[Kind]) -> None:
        first, last = row[0], row[-1]
        assert last.forward is not None
        self.name = last.forward.name
        self.alone = first is last
        graph = self.graph = Graph(self.name)
        given: list[Node] = [graph.input(shape, dtype) for shape, dtype in operands]
        count = len(first.results)  # of the operands, the rest are numbers
        base, results = given, list[Node]()
        kept: list[list[Node]] = []
        for backward in row:
            assert backward.forward is not None
            if results:
                base, count = results[:1], 1
            slots = _spell_out(graph, backward.forward, base)
            results = [slots[slot] for slot in backward.forward.outputs]
            known = [*base[:count], *results]
            kept.append([known[place] for place in backward.keep])
        self.before = sum(map(_bytes, {node for held in kept for node in held}))
        self.own = 0  # bytes of operands that have to be kept, for the operation to be done again
        if self.alone:
            self.own = sum(map(_bytes, given))
        self.seed = graph.input(results[0].shape, results[0].dtype)
        self.numbers: list[Node] = []
        found: list[Node | None] = [self.seed]
        for backward, held in zip(reversed(row), reversed(kept), strict=True):
            self.numbers = [graph.input(one.shape, one.dtype) for one in backward.numbers]
            assert found[0] is not None
            slots = [found[0], *held, *self.numbers]
            if backward.operation is not None:
                slots = _spell_out(graph, backward.operation, slots)
            found = [None if place is None else slots[place] for place in backward.results]
        graph.outputs = [*base, results[0], *[node for node in found if node is not None]]
        simplify(graph)
        self.base = [graph.current(node) for node in base]
        self.kept = {
            graph.current(node): place
            for place, node in enumerate(kept[-1])
            if self.alone and node not in given
        }
        self.cotangents = [None if node is None else graph.current(node) for node in found]

    def join(self) -> Joined | None:
        """What the row is as one; None if that reads no less."""
        after = depending(self.graph, [self.seed])
        wanted = [node for node in self.cotangents if node is not None]
        if not after.issuperset(wanted):
            return None
        read = self._read(wanted, after)
        if sum(map(_bytes, read)) + self.own >= self.before:
            return None
        reused = [node for node in read if node in self.kept]
        fresh = [node for node in read if node not in self.kept]
        if any(node.dtype.is_floating_point or node.dtype.is_complex for node in fresh):
            return None  # it has a gradient of its own
        stored = {node: stored_type(node) for node in fresh}
        given = [self.seed, *fresh, *reused, *(self.base if self.alone else ()), *self.numbers]
        made = _cut(self.name, self.base, fresh, {}, stored)
        back = _cut(f"gradient of {self.name}", given, wanted, stored, {})
        if made is None or back is None:
            return None
        operation, slots = back
        return Joined(
            made[0] if fresh else None,
            tuple([self.kept[node] for node in reused]),
            operation,
            tuple([None if node is None else slots[node] for node in self.cotangents]),
        )

    def _read(self, wanted: Sequence[Node], after: set[Node]) -> list[Node]:
        """What the gradient reads of forward, as little as it follows from."""
        free = {self.seed, *self.numbers, *(self.base if self.alone else ())}
        counters = [
            node for node in self.graph.nodes
            if isinstance(node, Call) and node.primitive is ops.iota
        ]  # fmt: skip
        keeping = Keeping([*counters, *free], sparing=False)
        found: set[Node] = set()
        seen: set[Node] = set(free)
        waiting = list(wanted)
        while waiting:
            node = waiting.pop()
            if node in seen or isinstance(node, Constant):
                continue
            seen.add(node)
            if node in after:
                assert isinstance(node, Call)
                waiting += node.operands
                continue
            least = self._unmoved(node, free)
            leaves = keeping.leaves(least)
            found |= leaves if sum(map(_bytes, leaves)) < _bytes(least) else {least}
        return sorted(found.difference(free), key=lambda node: node.order)

    def _unmoved(self, node: Node, free: set[Node]) -> Node:
        """What a value is moved from, if that is there anyway, or no larger."""
        least = node
        while (
            isinstance(node, Call) and node.primitive.kind is Movement and len(node.operands) == 1
        ):
            (node,) = node.operands
            if node in free or node in self.kept:
                return node
            least = node if _bytes(node) <= _bytes(least) else least
        return least


def _spell_out(graph: Graph, operation: Operation, operands: Sequence[Node]) -> list[Node]:
    """Append an operation's steps on nodes; the node in each of its slots."""
    slots = list(operands)
    for primitive, places, parameters, shape, dtype, value in operation.steps:
        if primitive is None:
            slots.append(graph.constant(value, shape, dtype))
        else:
            given = tuple([slots[place] for place in places])
            slots.append(graph.known_call(primitive, given, parameters, shape, dtype))
    return slots


def _bytes(node: Node) -> int:
    return prod(node.shape) * stored_type(node).itemsize


def _cut(
    name: str, given: Sequence[Node], wanted: Sequence[Node], taken: dict[Node, DType],
    put_out: dict[Node, DType],
) -> tuple[Operation, dict[Node, int]] | None:  # fmt: skip
    """The operation that computes `wanted` from `given`, taken and put out in other types, and the
    slots of its steps; None if something else is needed.
    """
    inputs = len(given)
    slots: dict[Node, int] = {node: slot for slot, node in enumerate(given)}
    steps: list[Step] = []

    def cast(node: Node, dtype: DType) -> int:
        steps.append(Step(ops.cast, (slots[node],), {"dtype": dtype}, node.shape, dtype))
        return inputs + len(steps) - 1

    for node in given:
        if taken.get(node, node.dtype) is not node.dtype:
            slots[node] = cast(node, node.dtype)
    for node in _needed(wanted, slots):
        if isinstance(node, Constant):
            steps.append(Step(None, (), {}, node.shape, node.dtype, node.value))
        elif isinstance(node, Call):
            places = tuple([slots[operand] for operand in node.operands])
            steps.append(Step(node.primitive, places, node.parameters, node.shape, node.dtype))
        else:
            return None
        slots[node] = inputs + len(steps) - 1
    for node, dtype in put_out.items():
        if dtype is not node.dtype:
            slots[node] = cast(node, dtype)
    kinds = [(node.shape, taken.get(node, node.dtype)) for node in given]
    outputs = [slot for slot in dict.fromkeys(slots[node] for node in wanted) if slot >= inputs]
    return composite_of(name, kinds, steps, outputs), slots


def _needed(wanted: Sequence[Node], given: dict[Node, int]) -> list[Node]:
    """What `wanted` is computed from, without what is given, in order."""
    needed: set[Node] = set()
    waiting = [node for node in wanted if node not in given]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            if isinstance(node, Call):
                waiting += [operand for operand in node.operands if operand not in given]
    return sorted(needed, key=lambda node: node.order)
