"""Loops and branches in a plan: their memory, the launches of their bodies, and the marks.

Comes in: a `LoopStep` and the assembler that adds it. Goes out: launches, windows and `LoopSpec`s
in the assembler's plan. Guaranteed: a body's launches are there once; a carried value has two
places, which take turns; what a loop computes anew in each round from nothing that changes (packed
weights) is computed once, in front of it. A branch is two loops of which one runs once and the
other never.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from avalon.dtype import DType
from avalon.runtime.driver_tables import DEEPEST
from avalon.runtime.memory import align
from avalon.runtime.plan import BufferSpec, LoopSpec, Plan
from avalon.schedule.steps import AnyStep, LoopStep, Part, Value
from avalon.shape import Shape, size_of


class Assembler(Protocol):
    """What adds a loop."""

    plan: Plan
    depth: int
    left: int
    numbers: dict[Value, int]

    def number(self, value: Value) -> int: ...
    def append(self, value: Value, role: str, position: int = -1) -> int: ...
    def temporary(self, nbytes: int) -> int: ...
    def add_steps(self, steps: Iterable[AnyStep]) -> None: ...


def add_loop(to: Assembler, step: LoopStep) -> None:
    """Add a call that holds graphs."""
    if to.depth >= DEEPEST:
        raise ValueError(f"[{step.call.primitive.name}] loops are nested at most {DEEPEST} deep")
    {"scan": _scan, "branch": _branch, "repeat": _repeat}[step.call.primitive.name](to, step)


def _scan(to: Assembler, step: LoopStep) -> None:
    parameters, part = step.call.parameters, step.parts["body"]
    carries, sequences = parameters["carries"], parameters["sequences"]
    operands = [to.number(value) for value in step.operands]
    walked = step.call.operands[carries : carries + sequences]
    rounds = walked[0].shape[0] if walked else parameters["length"]
    way = "backward" if parameters.get("reverse") else "forward"
    _enter_carries(to, step, part)
    inputs = part.graph.inputs[carries:]
    for given, number in zip(inputs[:sequences], operands[carries:], strict=False):
        to.numbers[given] = _window(to, number, given.shape, given.dtype, way)
    for given, number in zip(inputs[sequences:], operands[carries + sequences :], strict=True):
        to.numbers[given] = number
    stacks = [index for index in sorted(step.results) if index >= carries]
    for value, index in zip(part.outputs[carries:], stacks, strict=True):
        stack = to.number(step.results[index])
        to.numbers[value] = _window(to, stack, value.shape, value.dtype, way)
    is_innermost = not any(isinstance(inner, LoopStep) for inner in part.steps)
    with _rounds(to, rounds, left=is_innermost):
        to.add_steps(part.steps)
    _leave_carries(to, step)


def _repeat(to: Assembler, step: LoopStep) -> None:
    first, part = step.parts["first"], step.parts["body"]
    operands = [to.number(value) for value in step.operands]
    _enter_carries(to, step, part)
    limit = to.number(part.outputs[-1])
    to.numbers[first.outputs[0]] = limit
    to.numbers.update(zip(first.graph.inputs, operands, strict=True))
    to.add_steps(first.steps)
    rest = part.graph.inputs[len(step.initial) :]
    to.numbers.update(zip(rest, operands[len(operands) - len(rest) :], strict=True))
    with _rounds(to, 0, limit):
        to.add_steps(part.steps)
    _leave_carries(to, step)


def _branch(to: Assembler, step: LoopStep) -> None:
    choice = step.parts["choice"]
    predicate, *operands = [to.number(value) for value in step.operands]
    to.numbers[choice.graph.inputs[0]] = predicate
    to.add_steps(choice.steps)
    for name, limit in zip(("then", "otherwise"), choice.outputs, strict=True):
        part = step.parts[name]
        to.numbers.update(zip(part.graph.inputs, operands, strict=True))
        for value, index in zip(part.outputs, sorted(step.results), strict=True):
            to.numbers[value] = to.number(step.results[index])
        with _rounds(to, 0, to.number(limit)):
            to.add_steps(part.steps)


def _enter_carries(to: Assembler, step: LoopStep, part: Part) -> None:
    """Make the two places of each carried value and fill the first one."""
    inputs = part.graph.inputs
    for place, start in enumerate(step.initial):
        stride = align(size_of(start.shape) * start.dtype.itemsize)
        memory = to.temporary(2 * stride)
        to.numbers[start] = memory
        given, made = inputs[place], part.outputs[place]
        to.numbers[given] = _window(to, memory, given.shape, given.dtype, "now", stride)
        to.numbers[made] = _window(to, memory, given.shape, given.dtype, "next", stride)
    to.add_steps(step.before)


def _leave_carries(to: Assembler, step: LoopStep) -> None:
    """Copy the last values out: the rounds are over, so "now" is what came after the last one."""
    for start, final in zip(step.initial, step.final, strict=False):
        stride = align(size_of(start.shape) * start.dtype.itemsize)
        memory = to.numbers[start]
        to.numbers[final] = _window(to, memory, final.shape, final.dtype, "now", stride)
    to.add_steps(step.after)


def _window(
    to: Assembler, base: int, shape: Shape, dtype: DType, mode: str, stride: int = 0
) -> int:
    """A part of a buffer that moves on with the rounds of the loop that is being added."""
    nbytes = size_of(shape) * dtype.itemsize
    to.plan.buffers.append(
        BufferSpec(
            nbytes, dtype.name, shape, "window",
            base=base, mode=mode, stride=stride or nbytes, depth=to.depth,
        )
    )  # fmt: skip
    return len(to.plan.buffers) - 1


@contextmanager
def _rounds(
    to: Assembler, rounds: int, limit: int = -1, left: bool = False
) -> Iterator[None]:
    """A loop around the launches that are added meanwhile; whether those that give the same in
    each round leave it.
    """
    plan, begin, known = to.plan, len(to.plan.launches), len(to.plan.loops)
    to.depth += 1
    to.left = begin if left else -1
    yield
    to.left = -1
    to.depth -= 1
    inner = plan.loops[known:]
    del plan.loops[known:]
    loop = LoopSpec(begin, len(plan.launches), to.depth, rounds, limit)
    if left:
        begin = _move_out(plan, begin, loop.depth)
        loop = LoopSpec(begin, len(plan.launches), to.depth, rounds, limit)
    plan.loops.append(loop)
    plan.loops.extend(inner)


def _move_out(plan: Plan, begin: int, depth: int) -> int:
    """Put the launches that give the same in each round in front; where the loop now begins."""
    body = plan.launches[begin:]
    writers: dict[int, int] = {}
    for launch in body:
        for argument in launch.arguments:
            if argument.kind == "buffer" and argument.written:
                writers[plan.base(argument.value)] = writers.get(plan.base(argument.value), 0) + 1
    ahead, left = [], []
    for launch in body:
        used = [a for a in launch.arguments if a.kind == "buffer"]
        written = [a.value for a in used if a.written]
        same = (
            all(not _moves(plan, a.value, depth) for a in used)
            and all(plan.base(a.value) not in writers for a in used if not a.written)
            and all(writers[plan.base(number)] == 1 for number in written)
            and all(plan.buffers[number].role == "temporary" for number in written)
            and all(a.kind != "status" for a in launch.arguments)
        )
        if same:
            ahead.append(launch)
            for number in written:
                del writers[number]
        else:
            left.append(launch)
    plan.launches[begin:] = [*ahead, *left]
    return begin + len(ahead)


def stays(to: Assembler, buffer: int) -> bool:
    """Whether a buffer that is read now is the same in all rounds of the loop that is being added,
    so that a launch which reads nothing else will leave the loop.
    """
    if to.left < 0 or _moves(to.plan, buffer, to.depth - 1):
        return False
    base = to.plan.base(buffer)
    return not any(
        argument.written and argument.kind == "buffer" and to.plan.base(argument.value) == base
        for launch in to.plan.launches[to.left :]
        for argument in launch.arguments
    )


def _moves(plan: Plan, buffer: int, depth: int) -> bool:
    """Whether a buffer is a window that moves with the loop at `depth`."""
    spec = plan.buffers[buffer]
    while spec.role == "window":
        if spec.depth == depth:
            return True
        spec = plan.buffers[spec.base]
    return False
