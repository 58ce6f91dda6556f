"""A nest written into the kernel of the contraction that it follows.

Comes in: an `Epilogue` of the schedule. Goes out: what a contraction calls with its finished
elements, and that writes what the nest stores. Guaranteed: the nest's own instructions on the same
values, so the same bits.
"""

from __future__ import annotations

from typing import Any

from avalon.codegen.contraction import FIRST_SLOT
from avalon.codegen.emit import Emit, Pointer, Value
from avalon.codegen.loops import NestEmitter
from avalon.codegen.target import Target
from avalon.schedule.arrange import axes_of
from avalon.schedule.epilogue import Epilogue
from avalon.schedule.index import Slot
from avalon.schedule.loops import Expression, Load, Scalar
from avalon.shape import contiguous_strides
from avalon.size import few


class FusedEmitter(NestEmitter):
    """Writes single rounds of a nest inside another kernel.

    The nest's arguments are the kernel's slots from `FIRST_SLOT` on.
    """

    def __init__(self, epilogue: Epilogue, target: Target) -> None:
        super().__init__(epilogue.step.nest, "", target)
        self.epilogue = epilogue
        self.axes = list(axes_of(self.nest))
        (self.only,) = self.nest.stages

    def turn_to(self, index: tuple[Value, ...]) -> None:
        """Set the nest's loops to the round with these coordinates."""
        for loop, group in zip(self.axes, self.epilogue.walk.groups, strict=True):
            self.places[loop.number] = self.combined(index, group)
            self.open |= loop.bits

    def combined(self, index: tuple[Value, ...], group: tuple[int, ...]) -> Value:
        """The coordinates of neighbouring axes as one number."""
        emit, extents = self.emit, self.epilogue.walk.extents
        total = emit.index(0)
        steps = contiguous_strides([extents[axis] for axis in group])
        for axis, step in zip(group, steps, strict=True):
            if not few(extents[axis], 1):
                total = emit.add(total, emit.multiply(index[axis], step))
        return total

    def buffer(self, argument: int) -> Pointer:
        return self.emit.pointer(FIRST_SLOT + argument)

    def number(self, number: Any) -> Value:
        if isinstance(number, Slot):
            return self.emit.integer(FIRST_SLOT + number.position)
        return super().number(number)

    def compute(self, expression: Expression) -> Value:
        if isinstance(expression, Scalar):
            return self.emit.scalar(FIRST_SLOT + expression.argument, expression.dtype)
        return super().compute(expression)


class EpilogueEmitter(FusedEmitter):
    """Writes one round of a nest: the lanes that a contraction hands over."""

    result: Value | None = None

    def write(
        self, emit: Emit, value: Value, index: tuple[Value, ...], axis: int, mask: Value | None
    ) -> None:
        """Compute and store what the nest stores at these elements of the contraction's result."""
        self.emit, self.result = emit, value
        self.turn_to(index)
        if self.epilogue.keeps:
            place = self.combined(index, tuple(range(len(index))))
            emit.store(self.buffer(self.epilogue.argument), place, value, mask)
        lanes = self.axes[-1]
        with self.across(lanes, self.places[lanes.number], value.lanes, mask, False):
            self.stage(self.only, len(self.only.axes), None)

    def load(self, load: Load) -> Value:
        if load.argument == self.epilogue.argument:
            assert self.result is not None
            return self.result
        return super().load(load)
