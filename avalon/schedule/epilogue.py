"""Contractions that hand their elements on: a nest that only follows one is computed inside it.

Comes in: the schedule of the hot tier. Goes out: the same schedule, in which a nest that reads a
contraction's result just where it stores its own (bias, activation, residual, ...), or in windows
that do not overlap (pooling), has become the contraction's epilogue. Guaranteed: the same values;
the result itself is still stored if something else reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from avalon.graph.node import Input, Node
from avalon.schedule.arrange import axes_of
from avalon.schedule.donation import donated_pairs
from avalon.schedule.index import Affine, Axis, Slot
from avalon.schedule.loops import Apply, Expression, Extreme, Load, Nest, Reduce
from avalon.schedule.pull import lowering_of
from avalon.schedule.steps import AnyStep, LibraryStep, LoopStep, Schedule, Step, Value
from avalon.schedule.windows import Walk, walk_of, whole
from avalon.shape import contiguous_strides
from avalon.size import few, hint, is_open, same
from avalon.switches import declare

FUSE_EPILOGUES = declare(
    "fuse epilogues", "fusion", "products and convolutions compute what follows them: bias, relu"
)

FUSE_WINDOWS = declare(
    "fuse windows", "fusion", "convolutions compute the pooling that follows them",
    within="fuse movements",
)  # fmt: skip

_LARGEST = 64  # expressions that an epilogue may have: it runs in the innermost loop of storing
_LARGEST_WINDOW = 400  # or may have for a window, where it runs less often


@dataclass(frozen=True)
class Epilogue:
    """A nest inside a contraction.

    Attributes:
        step: the nest's step.
        argument: which of its arguments is the contraction's result.
        walk: how the nest's loops walk the result.
        keeps: whether the result is stored, too.
    """

    step: Step
    argument: int
    walk: Walk
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
    if following.check is not None or nest.locals:
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
    if len(arguments) != 1 or result.dtype is not step.call.dtype:
        return None
    walk = _walk(step, following, arguments[0])
    return Epilogue(following, arguments[0], walk, keeps) if walk else None


def _walk(step: LibraryStep, following: Step, argument: int) -> Walk | None:
    """How a nest walks a contraction's result: element by element, or window by window."""
    nest = following.nest
    found = _loads(nest)
    if found is None:
        return None
    loads = [load for load in found[0] if load.argument == argument]
    shape, axes = step.call.shape, list(axes_of(nest))
    extents = [_known(following, axis.extent) for axis in axes]
    if any(map(is_open, extents[1:])) or not _has_known_places(shape):
        return None  # forms of the nest's indices have arguments in the place of strides
    groups = _grouped(shape, extents)
    home = _row_major(axes, extents)
    if groups is None or any(load.index != home for load in loads):
        groups = _in_another_order(shape, axes, extents, loads)
    if groups is not None and not any(load.guards for load in loads):
        return whole(shape, groups) if found[1] <= _LARGEST else None
    # Sums in a wider type than the result's are not rounded where windows are read.
    is_held = step.call.dtype.itemsize >= 4
    if following.numbers is not None or not FUSE_WINDOWS.on:
        return None
    if lowering_of(step.call.primitive) != "convolve" or not is_held:
        return None
    return walk_of(shape, axes, loads)


def _grouped(shape: tuple[int, ...], extents: list[int]) -> tuple[tuple[int, ...], ...] | None:
    """Which neighbouring axes of `shape` make up each extent; None if they do not."""
    groups: list[tuple[int, ...]] = []
    axis = 0
    for extent in extents:
        first, size = axis, 1
        while axis < len(shape) and hint(size) < hint(extent):
            size *= shape[axis]
            axis += 1
        if not same(size, extent) or any(map(is_open, shape[first + 1 : axis])):
            return None
        groups.append(tuple(range(first, axis)))
    # Lanes run along the result's last axis, so that one must belong to the last loop.
    if not few(prod(shape[axis:]), 1) or not groups or not groups[-1]:
        return None
    return tuple(groups)


def _in_another_order(
    shape: tuple[int, ...], axes: list[Axis], extents: list[int], loads: list[Load]
) -> tuple[tuple[int, ...], ...] | None:
    """The same for loops that meet every element once, but walk outer axes in another order: those
    of a grouped convolution, whose groups come before images in its result. The last loop walks
    the last axes.
    """
    forms = {load.index for load in loads}
    if len(forms) != 1 or any(map(is_open, (*shape, *extents))):
        return None
    (form,) = forms
    left = {step: axis for axis, step in enumerate(contiguous_strides(shape)) if shape[axis] > 1}
    groups: list[tuple[int, ...]] = []
    for loop, extent in zip(axes, extents, strict=True):
        last = left.get(form.coefficient(loop), 0) if extent > 1 else -1
        first, size = last + 1, 1
        while size < extent and first > 0:
            first -= 1
            size *= shape[first]
        group = tuple(range(first, last + 1))
        walked = {axis for axis in group if shape[axis] > 1}
        if size != extent or not walked <= set(left.values()):
            return None
        left = {step: axis for step, axis in left.items() if axis not in walked}
        groups.append(group)
    is_whole = not left and form.offset == 0 and len(form.terms) == sum(map(bool, groups))
    return tuple(groups) if is_whole and groups[-1:] and len(shape) - 1 in groups[-1] else None


def _has_known_places(shape: tuple[int, ...]) -> bool:
    """Whether an element's place in an array is a sum of known steps."""
    steps = zip(shape, contiguous_strides(shape), strict=True)
    return not any(is_open(step) for extent, step in steps if not few(extent, 1))


def _row_major(axes: list[Axis], extents: list[int]) -> Affine:
    steps = zip(axes, extents, contiguous_strides(extents), strict=True)
    return Affine({axis: step for axis, extent, step in steps if not few(extent, 1)}, 0)


def _known(step: Step, extent: Any) -> int:
    """The extent of a loop, which may be an argument behind those of the nest."""
    if isinstance(extent, Slot):
        assert step.numbers is not None
        return step.numbers[extent.position - len(step.keys)]
    found: int = extent
    return found


def _loads(nest: Nest) -> tuple[list[Load], int] | None:
    """What a nest reads, and how many expressions it has; None if one of them is a reduction, or
    they are too many.
    """
    found: list[Load] = []
    pending: list[Expression] = [store.value for store in nest.stages[0].stores]
    seen: set[int] = set()
    while pending:
        expression = pending.pop()
        if id(expression) in seen:
            continue
        seen.add(id(expression))
        if isinstance(expression, Reduce | Extreme) or len(seen) > _LARGEST_WINDOW:
            return None
        if isinstance(expression, Load):
            found.append(expression)
            pending.extend(expression.guards)
        elif isinstance(expression, Apply):
            pending.extend(expression.operands)
    return found, len(seen)
