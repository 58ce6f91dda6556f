"""Contractions that hand their elements on: a nest that only follows one is computed inside it.

Comes in: the schedule of the hot tier. Goes out: the same schedule, in which a nest that reads a
contraction's result just where it stores its own (bias, activation, residual, ...) has become the
contraction's epilogue. Guaranteed: the same values; the result itself is still stored if something
else reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod

from avalon.graph.node import Input, Node
from avalon.schedule.arrange import axes_of
from avalon.schedule.donation import donated_pairs
from avalon.schedule.index import Affine, Axis
from avalon.schedule.loops import Apply, Expression, Extreme, Load, Nest, Reduce
from avalon.schedule.pull import lowering_of
from avalon.schedule.steps import AnyStep, LibraryStep, LoopStep, Schedule, Step, Value
from avalon.shape import contiguous_strides
from avalon.switches import declare

FUSE_EPILOGUES = declare(
    "fuse epilogues", "fusion", "products and convolutions compute what follows them: bias, relu"
)

_LARGEST = 64  # expressions that an epilogue may have: it runs in the innermost loop of storing


@dataclass(frozen=True)
class Epilogue:
    """A nest inside a contraction.

    Attributes:
        step: the nest's step.
        argument: which of its arguments is the contraction's result.
        groups: for each loop of the nest, outermost first, the axes of the result that it walks.
        keeps: whether the result is stored, too.
    """

    step: Step
    argument: int
    groups: tuple[tuple[int, ...], ...]
    keeps: bool


def fuse_epilogues(schedule: Schedule, outputs: Collection[Node]) -> None:
    """Make nests the epilogues of the contractions that they follow."""
    readers: dict[Value, list[int]] = {}
    for place, step in enumerate(schedule.steps):
        for value in set(_reads(step)):
            readers.setdefault(_resolve(schedule, value), []).append(place)
    wanted = {_resolve(schedule, node) for node in outputs}
    dropped: set[int] = set()
    for place, step in enumerate(schedule.steps):
        if not isinstance(step, LibraryStep) or not _hands_on(step):
            continue
        result = _resolve(schedule, step.result.value)
        users = readers.get(result, [])
        if not users:
            continue
        following = schedule.steps[users[0]]
        if not isinstance(following, Step) or users[0] in dropped:
            continue
        keeps = len(users) > 1 or result in wanted
        fused = _fused(schedule, step, following, result, keeps)
        if fused is None:
            continue
        # The contraction moves to where its epilogue finds all that it reads.
        step.epilogue = fused
        schedule.steps[users[0]] = step
        dropped.add(place)
    schedule.steps[:] = [step for i, step in enumerate(schedule.steps) if i not in dropped]


def _hands_on(step: LibraryStep) -> bool:
    """Whether the step is a contraction whose elements come one after the other."""
    name = lowering_of(step.call.primitive)
    if step.generic or step.epilogue is not None:
        return False
    if name == "convolve":
        return all(dilation == 1 for dilation in step.call.parameters["input_dilation"])
    return name == "contract"


def _resolve(schedule: Schedule, value: Value) -> Value:
    while isinstance(value, Node) and value in schedule.aliases:
        value = schedule.aliases[value]
    return value


def _reads(step: AnyStep) -> Iterator[Value]:
    if isinstance(step, LibraryStep):
        for operand in step.operands:
            yield operand.value
        return
    if isinstance(step, LoopStep):
        yield from step.operands
        return
    for place, key in enumerate(step.keys):
        if not isinstance(key, tuple) and place not in step.written:
            yield key


def _fused(
    schedule: Schedule, step: LibraryStep, following: Step, result: Value, keeps: bool
) -> Epilogue | None:
    """The nest as an epilogue, if it can be one."""
    nest = following.nest
    if following.check is not None or following.numbers is not None or nest.locals:
        return None
    if len(nest.stages) != 1 or not nest.stages[0].lanes:
        return None
    if any(isinstance(read, Input) for _, read in donated_pairs(following)):
        return None  # an update in place is worth more
    arguments = [
        place
        for place, key in enumerate(following.keys)
        if not isinstance(key, tuple) and _resolve(schedule, key) is result
    ]
    axes = list(axes_of(nest))
    groups = _grouped(step.call.shape, [axis.extent for axis in axes])
    if len(arguments) != 1 or groups is None or result.dtype is not step.call.dtype:
        return None
    loads = _loads(nest)
    home = _row_major(axes)
    if loads is None or any(
        load.index != home or load.guards for load in loads if load.argument == arguments[0]
    ):
        return None
    return Epilogue(following, arguments[0], groups, keeps)


def _grouped(shape: tuple[int, ...], extents: list[int]) -> tuple[tuple[int, ...], ...] | None:
    """Which neighbouring axes of `shape` make up each extent; None if they do not."""
    groups: list[tuple[int, ...]] = []
    axis = 0
    for extent in extents:
        first, size = axis, 1
        while axis < len(shape) and size < extent:
            size *= shape[axis]
            axis += 1
        if size != extent:
            return None
        groups.append(tuple(range(first, axis)))
    # Lanes run along the result's last axis, so that one must belong to the last loop.
    if prod(shape[axis:]) != 1 or not groups or not groups[-1]:
        return None
    return tuple(groups)


def _row_major(axes: list[Axis]) -> Affine:
    strides = contiguous_strides([axis.extent for axis in axes])
    return Affine(
        {axis: step for axis, step in zip(axes, strides, strict=True) if axis.extent > 1}, 0
    )


def _loads(nest: Nest) -> list[Load] | None:
    """What a nest reads; None if it holds a reduction, or is too long."""
    found: list[Load] = []
    pending: list[Expression] = [store.value for store in nest.stages[0].stores]
    seen: set[int] = set()
    while pending:
        expression = pending.pop()
        if id(expression) in seen:
            continue
        seen.add(id(expression))
        if isinstance(expression, Reduce | Extreme) or len(seen) > _LARGEST:
            return None
        if isinstance(expression, Load):
            found.append(expression)
            pending.extend(expression.guards)
        elif isinstance(expression, Apply):
            pending.extend(expression.operands)
    return found
