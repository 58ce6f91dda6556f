"""How values that are put side by side are written: each into its window of the result.

Comes in: a concatenation. Goes out: steps that write its parts in place. Guaranteed: the values of
one copy after the other. What is itself a concatenation, or looks at one through movements, and has
no buffer (a picture that is padded on two axes) is written in boxes, cut so that inside a box every
element comes from one source: no intermediate is stored, and nothing is chosen at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, product
from typing import TYPE_CHECKING

from avalon.graph.node import Call, Node
from avalon.graph.primitive import Elementwise
from avalon.schedule.index import Affine, Axis, variable
from avalon.schedule.loops import Apply, Expression, Inside, Load
from avalon.schedule.pull import Puller, lowering_of
from avalon.schedule.steps import Step
from avalon.shape import size_of
from avalon.size import is_open
from avalon.switches import declare

if TYPE_CHECKING:
    from avalon.schedule.calls import CallScheduler

NEST_CONCATENATIONS = declare(
    "nest concatenations", "fusion", "what is only put side by side again is not stored before",
    within="fuse movements",
)  # fmt: skip

_BOXES = 48  # at most for one operand; more are chosen among at run time
_AGAIN = 1.5  # times that an element may be computed
_STILL = frozenset(("slice", "reverse", "transpose", "broadcast"))

Box = tuple[tuple[int, int], ...]  # start and extent on each axis


def add_concatenation(scheduler: CallScheduler, node: Call) -> None:
    """Append the steps that write each operand into its window."""
    axis, start = node.parameters["axis"], 0
    before = len(scheduler.schedule.steps)
    for x in node.operands:
        if 0 not in x.shape:
            for box in _boxes(scheduler, x):
                extents = tuple(extent for _, extent in box)
                target = [low for low, _ in box]
                target[axis] = target[axis] + start
                scheduler.add(node, node, extents, _value_in(x, box), _moved(target))
        start += x.shape[axis]
    for step in scheduler.schedule.steps[before:]:
        assert isinstance(step, Step)
        step.window = True


def _value_in(x: Node, box: Box) -> Callable[[Puller, tuple[Affine, ...]], Expression]:
    inside = _moved([low for low, _ in box])
    return lambda pull, at: pull.value(x, inside(at))


def _moved(by: list[int]) -> Callable[[tuple[Affine, ...]], tuple[Affine, ...]]:
    return lambda at: tuple(c.plus(low) for c, low in zip(at, by, strict=True))


def _boxes(scheduler: CallScheduler, x: Node) -> Iterable[Box]:
    """The parts of an operand within which nothing has to be chosen."""
    whole = [((0, extent),) for extent in x.shape]
    if scheduler.stored(x) or any(map(is_open, x.shape)):
        return product(*whole)
    pull = scheduler.puller()
    axes = [pull.axis(extent) for extent in x.shape]
    cuts = {axis: {0, axis.extent} for axis in axes}
    for guard in _guards(pull.value(x, tuple(variable(axis) for axis in axes))):
        for axis, places in _changes(guard):
            if axis in cuts:
                cuts[axis].update(place for place in places if 0 < place < axis.extent)
    parts = [[(a, b - a) for a, b in pairwise(sorted(cuts[axis]))] for axis in axes]
    return product(*(parts if size_of([len(part) for part in parts]) <= _BOXES else whole))


def _guards(value: Expression) -> Iterator[Inside]:
    """The guards of an expression that holds no reduction; those of reductions stay."""
    pending, seen = [value], {id(value)}
    while pending:
        expression = pending.pop()
        inner: tuple[Expression, ...] = ()
        if isinstance(expression, Inside):
            yield expression
        elif isinstance(expression, Load):
            yield from expression.guards
        elif isinstance(expression, Apply):
            inner = expression.operands
        for operand in inner:
            if id(operand) not in seen:
                seen.add(id(operand))
                pending.append(operand)


def _changes(guard: Inside) -> Iterator[tuple[Axis, tuple[int, int]]]:
    """The axis along which a guard changes, if it is one alone, and where."""
    if len(guard.form.terms) != 1:
        return
    ((axis, step),) = guard.form.terms.items()
    offset = guard.form.offset
    if isinstance(axis, Axis) and step == 1:
        yield axis, (guard.low - offset, guard.high - offset)
    elif isinstance(axis, Axis) and step == -1:
        yield axis, (offset - guard.high + 1, offset - guard.low + 1)


def nested(calls: list[Call], outputs: Iterable[Node]) -> set[Call]:
    """The concatenations that need no buffer: only others read them, at once or through movements,
    and hardly more than once.
    """
    found: set[Call] = set()
    if not NEST_CONCATENATIONS.on or sum(map(_is_concatenation, calls)) < 2:
        return found
    kept = set(outputs)
    # How many elements of a value concatenations write; of others, that more than they read it.
    written: dict[Node, float] = {}
    other: set[Node] = set()
    for node in reversed(calls):
        size = size_of(node.shape)
        joins = _is_concatenation(node)
        ends = node in kept or any(map(is_open, node.shape)) or node in other
        within = not ends and 0 < written.get(node, 0) <= _AGAIN * size
        if joins and within:
            found.add(node)
        passes = not ends and _moves(node)
        for operand in node.operands:
            if joins:
                written[operand] = written.get(operand, 0) + size_of(operand.shape)
            elif passes:
                written[operand] = written.get(operand, 0) + written.get(node, 0)
            else:
                other.add(operand)
    return found


def _is_concatenation(node: Call) -> bool:
    return node.primitive.kind is not Elementwise and lowering_of(node.primitive) == "concatenate"


def _moves(node: Call) -> bool:
    return node.primitive.kind is not Elementwise and lowering_of(node.primitive) in _STILL
